"""Folders of images: one sub-folder per class, decoded once."""

# N images, H height, W width.

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunephase import sections
from prunephase.data.cache import decoded
from prunephase.data.files import existing, in_a_line
from prunephase.data.types import Arrays
from prunephase.errors import UserError


def folder(spec: sections.Data, _home: Path | None) -> Arrays:
    """Images as [N, 3, H, W] uint8 from root/train/<class>/* and root/test/<class>/* (or val), or from root/<class>/*.

    In the order of class and file names. `spec.size` resizes to size x size (bilinear), without regard to proportions.
    With `spec.crop` the shorter side becomes `size` (as it was, where None) and the middle crop x crop pixels stay.
    """
    root = existing(spec)
    if not root.is_dir():
        raise UserError(f"data.path = '{root}': is a file; give the folder that holds one folder per class")
    if not (root / "train").is_dir():
        return Arrays(*_read(root, spec))
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    return Arrays(*_read(root / "train", spec), *((None, None) if test is None else _read(test, spec)))


def _read(root: Path, spec: sections.Data) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    files: list[Path] = []
    labels: list[str] = []
    for name in (entry for entry in entries(root) if entry.is_dir()):
        found = entries(name)
        if not found:
            raise UserError(f"{name}: a class without images; add some or remove the folder")
        files += found
        labels += [name.name] * len(found)
    if not files:
        raise UserError(
            f"data.path = '{root}': holds no class folders with images; expected {root.name}/<class>/<image>"
        )
    return read_files(files, spec.source, spec.size, spec.crop), np.array(labels)


def entries(root: Path) -> list[Path]:
    """What a folder holds, by name; hidden files are nobody's."""
    return sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))


def read_files(files: Sequence[Path], source: str, size: int | None, crop: int | None) -> NDArray[np.uint8]:
    """Image files as [N, 3, H, W] uint8, decoded once and kept (see `decoded`).

    They count as the same files as long as their paths, sizes and times of change are. Raises UserError for a file that
    is no image of 8 bits, or has another shape than the first.
    """
    pillow = pillow_for(source)
    first = pixels(files[0], str(files[0]), pillow, size, crop)

    def images() -> Iterator[NDArray[np.uint8]]:
        for file in files:
            image = pixels(file, str(file), pillow, size, crop)
            if image.shape != first.shape:
                here, there = (" x ".join(map(str, shape[1:])) for shape in (image.shape, first.shape))
                raise UserError(
                    f"{file}: is {here} pixels, but the first image is {there}; set data.size to resize all"
                )
            yield image

    stats = ((file, file.stat()) for file in files)
    named = (f"{file.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}" for file, stat in stats)
    return decoded(key(named, pillow, size, crop), (len(files), *first.shape), images)


def pillow_for(source: str) -> ModuleType:
    """pillow's Image module; an extra that only images need."""
    try:
        from PIL import Image
    except ImportError:
        raise UserError(f"data.source = '{source}': needs pillow; pip install 'prunephase[images]'") from None
    return Image


def key(files: Iterable[str], pillow: Any, size: int | None = None, crop: int | None = None) -> str:
    """A name for what becomes of the files: their names, and what else the pixels depend on."""
    digest = hashlib.sha256(f"{pillow.__version__} {size} {crop}".encode())
    for file in files:
        digest.update(b"\0\0" + file.encode(errors="surrogateescape"))
    return digest.hexdigest()


def pixels(
    content: Path | bytes, name: str, pillow: Any, size: int | None = None, crop: int | None = None
) -> NDArray[np.uint8]:
    """One image as [3, H, W]; size and crop as in `folder`. `name` begins the error."""
    try:
        with pillow.open(BytesIO(content) if isinstance(content, bytes) else content) as image:
            if image.mode[0] in "IF":  # pillow would clip these to white without a word
                raise UserError(f"{name}: has more than 8 bits a pixel (mode {image.mode}); convert it to 8 bits")
            image = image.convert("RGB")
            if crop is not None:
                image = _middle(image, name, pillow, size, crop)
            elif size is not None:
                image = image.resize((size, size), pillow.Resampling.BILINEAR)
            return np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 0))
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as problem:
        raise UserError(f"{name}: cannot be read as an image ({in_a_line(problem)}); remove or replace it") from None


def _middle(image: Any, name: str, pillow: Any, size: int | None, crop: int) -> Any:
    """Rounded as torchvision's Resize and CenterCrop do."""
    if size is not None:
        short = min(image.size)
        image = image.resize(tuple(side * size // short for side in image.size), pillow.Resampling.BILINEAR)
    if crop > min(image.size):
        raise UserError(
            f"{name}: data.crop = {crop}, but its shorter side has {min(image.size)} pixels; raise data.size"
        )
    left, top = (round((side - crop) / 2) for side in image.size)
    return image.crop((left, top, left + crop, top + crop))
