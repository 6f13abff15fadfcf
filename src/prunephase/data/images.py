"""Folders of images: one sub-folder per class."""

# N images, H height, W width.

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunephase import trial
from prunephase.data.files import existing, in_a_line
from prunephase.data.types import Arrays
from prunephase.errors import UserError


def folder(spec: trial.Data, _home: Path | None) -> Arrays:
    """Images as [N, 3, H, W] uint8 from root/train/<class>/* and root/test/<class>/*, or from root/<class>/*.

    In the order of class and file names. `spec.size` resizes to size x size (bilinear), without regard to proportions.
    """
    try:
        from PIL import Image  # an extra: only this source needs it
    except ImportError:
        raise UserError("data.source = 'folder': needs pillow; pip install 'prunephase[images]'") from None
    root = existing(spec)
    if not root.is_dir():
        raise UserError(f"data.path = '{root}': is a file; give the folder that holds one folder per class")
    if not (root / "train").is_dir():
        return Arrays(*_read(root, spec.size, Image))
    test = _read(root / "test", spec.size, Image) if (root / "test").is_dir() else (None, None)
    return Arrays(*_read(root / "train", spec.size, Image), *test)


def _read(root: Path, size: int | None, pillow: Any) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    images: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    for name in (entry for entry in _entries(root) if entry.is_dir()):
        files = _entries(name)
        if not files:
            raise UserError(f"{name}: a class without images; add some or remove the folder")
        for file in files:
            image = _pixels(file, size, pillow)
            if images and image.shape != images[0].shape:
                here, first = (" x ".join(map(str, shape[1:])) for shape in (image.shape, images[0].shape))
                raise UserError(
                    f"{file}: is {here} pixels, but the first image is {first}; set data.size to resize all"
                )
            images.append(image)
            labels.append(name.name)
    if not images:
        raise UserError(
            f"data.path = '{root}': holds no class folders with images; expected {root.name}/<class>/<image>"
        )
    return np.stack(images), np.array(labels)


def _entries(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))


def _pixels(file: Path, size: int | None, pillow: Any) -> NDArray[np.uint8]:
    try:
        with pillow.open(file) as image:
            if image.mode[0] in "IF":  # pillow would clip these to white without a word
                raise UserError(f"{file}: has more than 8 bits a pixel (mode {image.mode}); convert it to 8 bits")
            image = image.convert("RGB")
            if size is not None:
                image = image.resize((size, size), pillow.Resampling.BILINEAR)
            return np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 0))
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as problem:
        raise UserError(f"{file}: cannot be read as an image ({in_a_line(problem)}); remove or replace it") from None
