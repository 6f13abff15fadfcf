"""Data from a function of the user's: arrays or torch data sets."""

# N examples.

from __future__ import annotations

import hashlib
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prunephase import disk, sections
from prunephase import plugins as plugin
from prunephase.data.files import from_names, in_a_line
from prunephase.data.types import Arrays
from prunephase.errors import UserError, nearest

NAMES = ("x", "y", "x_train", "y_train", "x_test", "y_test", "y_clean")
EXPECTED = "expected Arrays, arrays as a dict (x_train, y_train, ...) or a tuple, or torch data sets (train, test)"


def custom(spec: sections.Data, plugins: Collection[str]) -> Arrays:
    """What `module:function` gives when called with `spec.kwargs`.

    Arrays; a dict of arrays named as in npz; a tuple (x, y) or (x, y, x_test, y_test); a map-style torch Dataset of
    pairs (x, y); or a pair (train, test) of them. Every item is read once, so random transforms would be frozen.
    """
    say = f"data.source = '{spec.source}'"
    function = plugin.resolve(spec.source, plugins, "data.source")
    try:
        found = function(**spec.kwargs)
        return _arrays(found, say)
    except UserError:
        raise
    except Exception as problem:  # the user's code: any failure is theirs to see, in one line
        raise UserError(f"{say}: failed with {in_a_line(problem)}; mend the function") from problem


def save_arrays(folder: str | Path, **arrays: Any) -> sections.Data:
    """Keep arrays (or tensors) in `folder`, as one npz file named by its content, and give the data section of a trial.

    arrays: x and y, or x_train, y_train and, where there are some, x_test, y_test, y_clean (true training labels); what
    they may be, see `npz`. Equal arrays are one file; other ones are another trial, as is another folder. Raises
    UserError for other names or values.
    """
    say, held, content = "save_arrays", dict[str, NDArray[np.generic]](), hashlib.sha256()
    for name, values in sorted(arrays.items()):
        if name not in NAMES:
            raise UserError(f"{say}: '{name}': unknown name; {nearest(name, NAMES)}")
        try:
            held[name] = array = _array(values)
        except ValueError:  # lists of unlike lengths
            array = np.array(None)
        if array.dtype == object:
            raise UserError(f"{say}: {name}: is no array of numbers or of texts; expected examples of one shape")
        content.update(f"{name} {array.dtype.str} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    from_names(held, say)
    path, packed = Path(folder) / f"{content.hexdigest()[:32]}.npz", BytesIO()
    np.savez(packed, **held)  # type: ignore[arg-type]
    disk.write(path, packed.getvalue(), path.parent)
    return sections.Data(source="npz", path=path.as_posix())


def _arrays(found: Any, say: str) -> Arrays:
    if isinstance(found, Arrays):
        return found
    if isinstance(found, dict):
        return from_names({name: _array(value) for name, value in found.items() if value is not None}, say)
    parts = tuple(found) if isinstance(found, tuple | list) else (found,)
    if parts and all(_is_dataset(part) for part in parts) and len(parts) <= 2:
        return _in_order([array for part in parts for array in _stack(part, say)])
    if len(parts) in (2, 4) and all(isinstance(part, np.ndarray | torch.Tensor) for part in parts):
        return _in_order([_array(part) for part in parts])
    kinds = ", ".join(type(part).__name__ for part in parts)
    raise UserError(f"{say}: returned {kinds}; {EXPECTED}")


def _in_order(arrays: list[NDArray[np.generic]]) -> Arrays:
    test_inputs, test_labels = arrays[2:] if len(arrays) == 4 else (None, None)
    return Arrays(arrays[0], arrays[1], test_inputs, test_labels)


def _is_dataset(part: Any) -> bool:
    return not isinstance(part, np.ndarray | torch.Tensor) and hasattr(part, "__getitem__") and hasattr(part, "__len__")


def _stack(dataset: Any, say: str) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    inputs: list[NDArray[np.generic]] = []
    labels: list[NDArray[np.generic]] = []
    for index in range(len(dataset)):
        item = dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UserError(f"{say}: item {index} is {type(item).__name__}; expected a pair (input, label)")
        inputs.append(_array(item[0]))
        labels.append(_array(item[1]))
        if inputs[-1].shape != inputs[0].shape:
            shapes = f"{list(inputs[-1].shape)}, the first {list(inputs[0].shape)}"
            raise UserError(f"{say}: input {index} has shape {shapes}; make them alike")
    if not inputs:
        raise UserError(f"{say}: the torch Dataset is empty; expected at least 2 examples")
    return np.stack(inputs), np.stack(labels)


def _array(value: Any) -> NDArray[np.generic]:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    array = np.asarray(value)
    is_image = hasattr(value, "getbands")  # pillow's, without importing it
    return np.moveaxis(array, -1, 0) if is_image and array.ndim == 3 else array
