"""Tiny ImageNet: 200 classes of 64 x 64 pixels, from the folder of its archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prunephase import sections
from prunephase.data.images import read_files
from prunephase.data.types import Arrays
from prunephase.errors import UserError

NAME = "tiny-imagenet-200"
SIZE = 32  # pixels; He et al. 2022, appendix B
ANNOTATIONS = "val/val_annotations.txt"


def tiny_imagenet(spec: sections.Data, home: Path | None) -> Arrays:
    """The 100,000 and 10,000 images [N, 3, size, size] of Tiny ImageNet, from `spec.path`, else `home`.

    The classes are WordNet's numbers, rising. Its test set has no labels, so its validation set is ours. `spec.size` is
    32 where None (He et al. 2022, appendix B).
    """
    given = Path(spec.path) if spec.path is not None else home
    wanted = [root for root in (given / NAME, given) if (root / ANNOTATIONS).is_file()] if given is not None else []
    if not wanted:
        where = f"data.path = '{given}'" if spec.path is not None else f"PRUNEPHASE_DATA = '{home or ''}'"
        raise UserError(
            f"data.source = 'tiny-imagenet': {where} holds no {NAME}/{ANNOTATIONS}; unpack "
            f"http://cs231n.stanford.edu/{NAME}.zip there"
        )
    root = wanted[0]
    training = [(file, file.parent.parent.name) for file in sorted((root / "train").glob("*/images/[!.]*"))]
    test = [(root / "val" / "images" / name, wnid) for name, wnid in _annotations(root / ANNOTATIONS)]
    if not training:
        raise UserError(f"{root / 'train'}: holds no <class>/images/<image>; unpack the archive again")
    classes = sorted({wnid for _, wnid in training})
    for file, wnid in test:
        if not file.is_file() or wnid not in classes:
            problem = f"its class {wnid} is not in train" if file.is_file() else "no such file"
            raise UserError(f"{file}: {problem}; unpack the archive again")
    size = spec.size or SIZE
    (inputs, labels), (test_inputs, test_labels) = (
        (
            read_files([file for file, _ in part], spec.source, size, spec.crop),
            np.array([classes.index(wnid) for _, wnid in part]),
        )
        for part in (training, test)
    )
    return Arrays(inputs, labels, test_inputs, test_labels, classes=tuple(classes))


def _annotations(path: Path) -> list[tuple[str, str]]:
    """File name and class of each image of the validation set, by file name."""
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not rows or any(len(row) < 2 for row in rows):
        raise UserError(f"{path}: expected lines of a file name and a class, parted by tabs; unpack the archive again")
    return sorted((row[0], row[1]) for row in rows)
