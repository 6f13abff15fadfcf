"""Data that several processes read: one file, mapped into the memory of each, so that no worker holds a copy.

Images that lie in a file of their own are not copied: the file is named.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import cast

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunephase import sections, trial
from prunephase.data.lazy import Images
from prunephase.data.load import load
from prunephase.data.types import Codes, Dataset, Split


def publish(spec: sections.Data, data: Dataset, folder: Path) -> None:
    """Put the examples that `spec` names where `obtain` finds them. Raises OSError."""
    whole = {name: getattr(data, name) for name in ("black", "shift", "scale")}
    tensors: dict[str, Tensor] = {name: tensor for name, tensor in whole.items() if tensor is not None}
    files = {}
    for name, split in data.splits.items():
        parts = {f.name: getattr(split, f.name) for f in fields(Split) if f.name not in ("codes", "inputs")}
        if split.codes is not None:
            parts |= {f"codes.{f.name}": getattr(split.codes, f.name) for f in fields(Codes)}
        images: Tensor | Images = split.inputs
        if isinstance(images, Images):
            files[name] = (str(images.pixels.filename), images.pixels.offset, images.pixels.shape)
        else:
            parts["inputs"] = images
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    about = {"classes": data.classes, "fingerprint": data.fingerprint, "examples": data.examples, "files": files}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        save_file(tensors, _path(spec, folder), {"about": json.dumps(about)})
    except SafetensorError as problem:  # holds what the system said, in words
        code = re.search(r"os error (\d+)", str(problem))
        raise OSError(int(code[1]) if code else errno.EIO, str(problem)) from None


def obtain(spec: sections.Data, plugins: Collection[str] = (), folder: Path | None = None) -> Dataset:
    """The examples that `spec` names: mapped from `folder` where they were published there, else loaded.

    Loaded also where this machine does not see the file that their images lie in.

    Raises UserError as `load` does.
    """
    if folder is None or not (path := _path(spec, folder)).is_file():
        return load(spec, plugins)
    tensors = load_file(path)  # a private mapping: pages are shared until somebody writes to them
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    try:
        mapped = {
            name: np.memmap(file, np.uint8, "r", offset, tuple(shape))
            for name, (file, offset, shape) in about["files"].items()
        }
    except (OSError, ValueError):  # not there, or shorter
        return load(spec, plugins)

    def split(name: str) -> Split | None:
        if f"{name}.labels" not in tensors:
            return None
        parts = {f.name: tensors[f"{name}.{f.name}"] for f in fields(Split) if f.name not in ("codes", "inputs")}
        coded = f"{name}.codes.values" in tensors
        codes = Codes(*(tensors[f"{name}.codes.{f.name}"] for f in fields(Codes))) if coded else None
        if name not in mapped:
            return Split(tensors[f"{name}.inputs"], **parts, codes=codes)
        images = Images(mapped[name], parts["index"].numpy(), tensors["shift"], tensors["scale"])
        return Split(cast("Tensor", images), **parts, codes=codes)

    train, test = split("train"), split("test")
    assert train is not None
    assert test is not None
    classes = tuple(about["classes"])
    whole = (tensors.get(name) for name in ("black", "shift", "scale"))
    return Dataset(train, split("validation"), test, classes, about["fingerprint"], about["examples"], *whole)


def _path(spec: sections.Data, folder: Path) -> Path:
    return folder / f"{hashlib.sha256(trial.canonical_json(spec.model_dump(mode='json'))).hexdigest()}.safetensors"
