"""The border of the data: what is wrong with a source's arrays is said here, in one line, and nowhere later."""

# N examples, K classes, F features, C channels, H height, W width.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunephase.data.types import Arrays
from prunephase.errors import UserError


@dataclass(frozen=True)
class Checked:
    """Arrays that can be trained on: finite inputs [N, F], [N, H, W] or [N, C, H, W], labels 0..K-1 without gaps."""

    inputs: NDArray[np.generic]
    labels: NDArray[np.int64]
    truth: NDArray[np.int64] | None
    test_inputs: NDArray[np.generic] | None
    test_labels: NDArray[np.int64] | None
    classes: tuple[str, ...]


def check(arrays: Arrays, source: str) -> Checked:
    """Arrays of any source, checked; labels that are names become the places of the sorted names.

    Raises UserError, in one line with the first offending index: inputs that are not finite numbers, labels that are
    negative, fractional, one-hot or with gaps, one class only, unequal counts, unlike shapes.
    """
    say = f"data.source = '{source}'"
    if (arrays.test_inputs is None) != (arrays.test_labels is None):
        raise UserError(f"{say}: test inputs and test labels belong together; give both or neither")
    inputs = _inputs(arrays.inputs, f"{say}: training inputs")
    test_inputs = None if arrays.test_inputs is None else _inputs(arrays.test_inputs, f"{say}: test inputs")
    if test_inputs is not None and test_inputs.shape[1:] != inputs.shape[1:]:
        shapes = f"{list(inputs.shape[1:])} in training, {list(test_inputs.shape[1:])} in test"
        raise UserError(f"{say}: examples differ in shape ({shapes}); make them alike")

    found = {"training labels": arrays.labels, "true labels": arrays.truth, "test labels": arrays.test_labels}
    raw = {what: _one_dimensional(values, f"{say}: {what}") for what, values in found.items() if values is not None}
    for what, values in raw.items():
        examples = inputs if what != "test labels" or test_inputs is None else test_inputs
        if len(values) != len(examples):
            raise UserError(f"{say}: {len(values)} {what} for {len(examples)} inputs; give one label per example")
    names = arrays.classes
    if any(values.dtype.kind in "USb" for values in raw.values()):
        raw, names = _from_names(raw, say)
    labels = {what: integer_labels(values, f"{say}: {what}") for what, values in raw.items()}
    classes = _classes(labels, names, say)
    return Checked(
        inputs, labels["training labels"], labels.get("true labels"), test_inputs, labels.get("test labels"), classes
    )


def integer_labels(values: NDArray[np.generic], what: str) -> NDArray[np.int64]:
    """Labels as int64, where they are whole numbers from 0; `what` begins the error. [N] -> [N]."""
    values = _one_dimensional(values, what)
    if values.dtype.kind not in "iuf":
        raise UserError(f"{what}: are {values.dtype}; expected whole numbers 0..K-1")
    numbers = values.astype(np.float64)
    wrong = ~np.isfinite(numbers) | (numbers < 0) | (numbers != np.floor(numbers)) | (numbers >= 2**53)
    if wrong.any():
        first = int(wrong.argmax())
        raise UserError(f"{what}: label {values[first]} at index {first}; expected whole numbers 0..K-1, so recode it")
    return values.astype(np.int64)


def _one_dimensional(values: Any, what: str) -> NDArray[np.generic]:
    array = np.asarray(values)
    if array.dtype == object:
        array = np.array(array.tolist())
    if array.ndim != 1:
        hint = "; one-hot? take argmax(axis=1)" if array.ndim == 2 else ""
        raise UserError(f"{what}: have shape {list(array.shape)}; expected one label per example{hint}")
    return array


def _inputs(values: Any, what: str) -> NDArray[np.generic]:
    array = values if isinstance(values, np.memmap) else np.asarray(values)  # asarray forgets the file
    if array.dtype.kind not in "biuf":
        raise UserError(f"{what}: are {array.dtype}; expected real numbers")
    if array.ndim < 2 or 0 in array.shape[1:]:
        raise UserError(f"{what}: have shape {list(array.shape)}; expected [N, F], [N, H, W] or [N, C, H, W]")
    if len(array) < 2:
        raise UserError(f"{what}: {len(array)} example(s); expected at least 2")
    if array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] > 4:
        raise UserError(f"{what}: {list(array.shape)} has its channels last; transpose to [N, C, H, W]")
    if array.dtype.kind == "f":
        # A sum is finite only where every term is; it costs no array of flags for the usual, clean case.
        with np.errstate(over="ignore", invalid="ignore"):
            clean = bool(np.isfinite(array.sum(dtype=np.float64)))
        if not clean and not (finite := np.isfinite(array)).all():
            first = int((~finite).reshape(len(array), -1).any(axis=1).argmax())
            raise UserError(f"{what}: NaN or Inf in the example at index {first}; drop or repair it")
    return array


def _from_names(
    raw: dict[str, NDArray[np.generic]], say: str
) -> tuple[dict[str, NDArray[np.generic]], tuple[str, ...]]:
    for what, values in raw.items():
        if values.dtype.kind not in "USb":
            raise UserError(f"{say}: {what} are numbers but others are names; use one or the other")
    named = {what: values.astype(str) for what, values in raw.items()}
    trained = [named[what] for what in ("training labels", "true labels") if what in named]
    names = np.unique(np.concatenate(trained))
    for what, values in named.items():
        unknown = ~np.isin(values, names)
        if unknown.any():
            first = int(unknown.argmax())
            raise UserError(f"{say}: {what}: '{values[first]}' at index {first} is no class of the training set")
    return {what: np.searchsorted(names, values) for what, values in named.items()}, tuple(names.tolist())


def _classes(labels: dict[str, NDArray[np.int64]], names: tuple[str, ...] | None, say: str) -> tuple[str, ...]:
    trained = [labels[what] for what in ("training labels", "true labels") if what in labels]
    present = np.unique(np.concatenate(trained))
    if len(present) < 2:
        raise UserError(f"{say}: one class only (label {present[0]}); expected at least two")
    count = len(names) if names is not None else int(present[-1]) + 1
    missing = next((c for c in range(min(count, len(present) + 1)) if c not in set(present.tolist())), None)
    if missing is not None:
        raise UserError(f"{say}: class {missing} has no training example; labels are 0..K-1 without gaps, so renumber")
    for what, values in labels.items():
        if (beyond := values >= count).any():
            first = int(beyond.argmax())
            raise UserError(f"{say}: {what}: label {values[first]} at index {first}, but there are {count} classes")
    return names if names is not None else tuple(str(c) for c in range(count))
