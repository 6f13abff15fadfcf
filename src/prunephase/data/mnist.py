"""MNIST: four IDX files from a folder or a mirror, verified by the checksum of their decompressed bytes."""

# N examples of 28 x 28 pixels.

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunephase import sections
from prunephase.data.download import fetch
from prunephase.data.files import in_a_line
from prunephase.data.types import Arrays
from prunephase.errors import UserError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# SHA-256 of the decompressed files; the gzip wrapping differs between mirrors.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MEAN, DEVIATION = 0.1307, 0.3081  # of the training pixels on [0, 1]


def mnist(spec: sections.Data, home: Path | None) -> Arrays:
    """The 60,000 and 10,000 digits of MNIST (LeCun et al. 1998), from `spec.path`, else `home`, else a mirror."""
    if spec.path is not None and not Path(spec.path).is_dir():
        raise UserError(f"data.path = '{spec.path}': no such folder; give the folder of the four MNIST files")
    train_images, train_labels, test_images, test_labels = (_payload(name, spec.path, home) for name in SHA256)
    return Arrays(
        inputs=train_images.reshape(-1, 28, 28),
        labels=train_labels,
        test_inputs=test_images.reshape(-1, 28, 28),
        test_labels=test_labels,
        mean=MEAN,
        deviation=DEVIATION,
    )


def _payload(name: str, given: str | None, home: Path | None) -> NDArray[np.uint8]:
    """The bytes behind the header of an IDX file: four bytes of magic, then four for each dimension."""
    folder = Path(given) if given is not None else home
    found = None if folder is None else _find(folder, name)
    if found is None and given is not None:
        raise UserError(
            f"data.path = '{given}': holds no {name}.gz (or without .gz); give the folder of the MNIST files"
        )
    content = _verified(found, name) if found is not None else download(name).read_bytes()
    header = 4 + 4 * content[3]
    return np.frombuffer(content, np.uint8, offset=header)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _verified(path: Path, name: str) -> bytes:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as problem:
        raise UserError(f"{path}: cannot be read ({in_a_line(problem)}); fetch the file again") from None
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise UserError(f"{path}: is not MNIST's {name} (its decompressed SHA-256 differs); fetch the file again")
    return content


def download(name: str, mirrors: Sequence[str] = MIRRORS, cache: Path | None = None) -> Path:
    """Fetch one file into the cache, decompressed; each mirror is tried twice and no unverified file is kept.

    Raises UserError where no mirror gives the right bytes.
    """
    return fetch(
        name,
        [f"{mirror}{name}.gz" for mirror in mirrors],
        f"sha256:{SHA256[name]}",
        "data.source = 'mnist'",
        "put the four *-ubyte.gz files into a folder and name it with PRUNEPHASE_DATA=folder or data.path",
        cache,
        plain=True,
    )
