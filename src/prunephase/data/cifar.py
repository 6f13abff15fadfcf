"""CIFAR-10 and CIFAR-100: binary archives or parquet files from a folder, or the archives from a mirror."""

# N examples of 3 x 32 x 32 pixels.

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunephase import sections
from prunephase.data import cifar100 as fine
from prunephase.data import normalise
from prunephase.data.cache import decoded
from prunephase.data.download import fetch
from prunephase.data.files import data_folder, in_a_line, read_table
from prunephase.data.images import key, pillow_for, pixels
from prunephase.data.types import Arrays, Constant
from prunephase.errors import UserError

SHAPE = (3, 32, 32)
Read = tuple[NDArray[np.uint8], NDArray[np.generic]]


@dataclass(frozen=True)
class Binary:
    """The binary version of a data set: records of `labels` bytes, of which the last is the class, and the pixels.

    train, test: files and the number of records in each; parquet: where else its images may lie, {} is train or test;
    constants: mean and deviation of the training pixels.
    """

    archive: str
    md5: str
    mirrors: tuple[str, ...]
    folder: str
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]
    labels: int
    classes: tuple[str, ...]
    constants: tuple[Constant, Constant]
    parquet: tuple[str, ...]


TORONTO = "https://www.cs.toronto.edu/~kriz/"
BINARY = {
    "cifar10": Binary(
        archive="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        mirrors=(TORONTO, "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/"),
        folder="cifar-10-batches-bin",
        train=tuple((f"data_batch_{i}.bin", 10_000) for i in range(1, 6)),
        test=(("test_batch.bin", 10_000),),
        labels=1,
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        constants=normalise.CIFAR10,
        parquet=(
            "cifar10-{}.parquet",
            "plain_text/{}-00000-of-00001.parquet",
            "cifar10/plain_text/{}-00000-of-00001.parquet",
        ),
    ),
    "cifar100": Binary(
        archive="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        mirrors=(TORONTO,),
        folder="cifar-100-binary",
        train=(("train.bin", 50_000),),
        test=(("test.bin", 10_000),),
        labels=2,
        classes=fine.CLASSES,
        constants=normalise.CIFAR100,
        parquet=(
            "cifar100-{}.parquet",
            "cifar100/{}-00000-of-00001.parquet",
            "cifar100/cifar100/{}-00000-of-00001.parquet",
        ),
    ),
}

# The human labels of CIFAR-N (Wei et al. 2022) by data source, converted to npz or as the authors give them.
CIFAR_N = {
    "cifar10": ("cifar10n.npz", "CIFAR-10_human.pt"),
    "cifar100": ("cifar100n.npz", "CIFAR-100_human.pt"),
}


def cifar10(spec: sections.Data, home: Path | None) -> Arrays:
    """The 50,000 and 10,000 images of CIFAR-10 (Krizhevsky 2009), from `spec.path`, else `home`, else a mirror.

    A folder is searched for the binary archive, then for what it unpacks to, then for parquet files of images. The
    archive is verified by its checksum; parquet files may hold images that were compressed, so their pixels differ.
    """
    return _cifar(spec, home)


def cifar100(spec: sections.Data, home: Path | None) -> Arrays:
    """The 50,000 and 10,000 images of CIFAR-100 with their 100 fine classes; see `cifar10`."""
    return _cifar(spec, home)


def _cifar(spec: sections.Data, home: Path | None) -> Arrays:
    kind = BINARY[spec.source]
    given = None if spec.path is None else Path(spec.path)
    if given is not None and not given.exists():
        raise UserError(f"data.path = '{given}': no such file or folder; give the folder of {kind.archive}")
    reader = None if (place := given or home) is None else _reader(spec.source, kind, place)
    if reader is None and given is not None:
        raise UserError(
            f"data.path = '{given}': holds no {kind.archive}, {kind.folder} or {kind.parquet[0].format('train')}; give "
            f"the folder of one of them"
        )
    train, test = (reader or _archive(download(spec.source), kind))()
    mean, deviation = kind.constants
    return Arrays(*train, *test, classes=kind.classes, mean=mean, deviation=deviation)


def _reader(source: str, kind: Binary, place: Path) -> Callable[[], tuple[Read, Read]] | None:
    """How to read what lies in a folder (or is the archive); None where nothing does."""
    archive = place if place.is_file() else place / kind.archive
    if archive.is_file():
        return _archive(archive, kind)
    for folder in (place / kind.folder, place):
        if (folder / kind.test[0][0]).is_file():
            return _unpacked(folder, kind)
    for name in kind.parquet:
        train, test = (place / name.format(part) for part in ("train", "test"))
        if train.is_file() and test.is_file():
            return lambda: (_parquet(train, source), _parquet(test, source))
    return None


def download(source: str, cache: Path | None = None) -> Path:
    """Fetch the binary archive of "cifar10" or "cifar100" into the cache; see `fetch`."""
    kind = BINARY[source]
    return fetch(
        kind.archive,
        [mirror + kind.archive for mirror in kind.mirrors],
        f"md5:{kind.md5}",
        f"data.source = '{source}'",
        "put it into a folder and name that with PRUNEPHASE_DATA=folder or data.path",
        cache,
    )


def _archive(path: Path, kind: Binary) -> Callable[[], tuple[Read, Read]]:
    def read() -> tuple[Read, Read]:
        found: dict[str, bytes] = {}
        try:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "md5").hexdigest() != kind.md5:
                    raise UserError(f"{path}: is not {kind.archive} (its MD5 differs); fetch the file again")
                file.seek(0)
                with tarfile.open(fileobj=file, mode="r:gz") as archive:
                    for member in archive:  # in memory: no path of the archive's is ever made
                        if member.isfile() and (content := archive.extractfile(member)) is not None:
                            found[Path(member.name).name] = content.read()
        except (OSError, EOFError, zlib.error, tarfile.TarError) as problem:
            raise UserError(f"{path}: cannot be read ({in_a_line(problem)}); fetch the file again") from None
        return _records(found.get, kind, path)

    return read


def _unpacked(folder: Path, kind: Binary) -> Callable[[], tuple[Read, Read]]:
    def content(name: str) -> bytes | None:
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise UserError(f"{folder / name}: cannot be read ({in_a_line(problem)}); fetch it again") from None

    return lambda: _records(content, kind, folder)


def _records(content: Callable[[str], bytes | None], kind: Binary, where: Path) -> tuple[Read, Read]:
    """The images [N, 3, 32, 32] and classes [N] of both parts; `content` gives the bytes of a file."""

    def part(files: tuple[tuple[str, int], ...]) -> Read:
        read = []
        for name, count in files:
            size = kind.labels + int(np.prod(SHAPE))
            if (data := content(name)) is None or len(data) != count * size:
                has = "is missing" if data is None else f"has {len(data):,} bytes instead of {count * size:,}"
                raise UserError(f"{where}: {name} {has}; fetch {kind.archive} again")
            read.append(np.frombuffer(data, np.uint8).reshape(count, size))
        records = np.concatenate(read)
        return np.ascontiguousarray(records[:, kind.labels :]).reshape(-1, *SHAPE), records[:, kind.labels - 1].copy()

    return part(kind.train), part(kind.test)


def _parquet(path: Path, source: str) -> Read:
    """Columns image (or img) of {bytes, path} and label (or fine_label), as Hugging Face lays images out."""
    import polars as pl

    say, pillow = str(path), pillow_for(source)
    frame = read_table(path, say)
    image, label = (
        next((name for name in names if name in frame.columns), None)
        for names in (("image", "img"), ("label", "fine_label"))
    )
    if image is None or label is None or not isinstance(kind := frame.schema[image], pl.Struct) or frame.is_empty():
        raise UserError(f"{say}: has columns {', '.join(frame.columns)}; expected image (of bytes) and label")
    if "bytes" not in {field.name for field in kind.fields}:
        raise UserError(f"{say}: column '{image}' holds {kind}; expected bytes in it")
    contents = frame[image].struct.field("bytes")

    def images() -> Iterator[NDArray[np.uint8]]:
        for row, content in enumerate(contents):
            found = pixels(content or b"", f"{say}: row {row}", pillow)
            if found.shape != SHAPE:
                raise UserError(f"{say}: row {row} is {found.shape[1]} x {found.shape[2]} pixels; expected 32 x 32")
            yield found

    with path.open("rb") as file:
        name = key([hashlib.file_digest(file, "sha256").hexdigest()], pillow)
    return decoded(name, (len(frame), *SHAPE), images), frame[label].to_numpy()


def cifar_n(source: str, home: Path | None = None) -> Path:
    """The file of human labels for the data source "cifar10" or "cifar100", from the data folder `home` (default:
    PRUNEPHASE_DATA).

    Its arrays: `clean_label` and, for CIFAR-10, `aggre_label`, `worse_label`, `random_label1..3`; for CIFAR-100
    `noisy_label`. Raises UserError where the source has no such labels or the folder holds no such file.
    """
    if source not in CIFAR_N:
        raise UserError(
            f"noise.kind = 'human': data.source = '{source}' has no human labels of its own (cifar10 and cifar100 do); "
            f"give noise.path, a file of labels"
        )
    folder = home or data_folder()
    found = next((path for name in CIFAR_N[source] if folder and (path := folder / name).is_file()), None)
    if found is None:
        names, where = " or ".join(CIFAR_N[source]), folder or "PRUNEPHASE_DATA (not set)"
        raise UserError(
            f"noise.kind = 'human': no {names} in {where}; put the authors' file there (noisylabels.com), or give "
            f"noise.path"
        )
    return found
