"""Decoded images, kept: bytes in a file of the cache folder, checked when read and mapped into memory."""

# N images, C channels, H height, W width.

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunephase import disk
from prunephase.errors import StorageError

Image = NDArray[np.uint8]

SMALL = 2**24  # bytes of pixels below which decoding again takes about a second, and a file is not worth its place
PIECE = 2**24  # bytes read at once
SEAL = hashlib.sha256().digest_size  # the file ends with the SHA-256 of all before


def decoded(name: str, shape: tuple[int, ...], images: Callable[[], Iterable[Image]]) -> NDArray[np.uint8]:
    """What `images` yields one by one, as uint8 of `shape` [N, C, H, W]; kept under `name`, and then not asked again.

    `name` says all that the pixels depend on. A few images are an array in memory; many are mapped from the file, which
    appears complete or not at all. Raises StorageError where it cannot be written.
    """
    size = math.prod(shape)
    if size < SMALL:
        return np.stack(list(images())).reshape(shape)
    folder = disk.cache_folder() / "images"
    path = folder / f"{name}.bin"
    if not _whole(path, size):
        try:
            with disk.refusals(path):
                disk.make_folder(folder)
            disk.sweep(folder)
            disk.write_parts(path, _sealed(images()), folder)
        except StorageError as problem:
            raise StorageError(f"{problem}; or name another folder with PRUNEPHASE_CACHE") from None
    return np.memmap(path, np.uint8, "r", shape=shape)


def _sealed(images: Iterable[Image]) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for image in images:
        part = image.tobytes()
        digest.update(part)
        yield part
    yield digest.digest()


def _whole(path: Path, size: int) -> bool:
    """Whether `path` holds `size` bytes and their seal."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while left := size - file.tell():
                if not (piece := file.read(min(left, PIECE))):
                    return False
                digest.update(piece)
            return file.read() == digest.digest()
    except OSError:  # not there, or not to be read: it is made anew
        return False
