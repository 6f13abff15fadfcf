"""Loading: from a source to three splits of normalised tensors."""

# N examples, F features, C channels, H height, W width.

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from prunephase import sections, streams
from prunephase.data.check import Checked, check
from prunephase.data.cifar import cifar10, cifar100
from prunephase.data.custom import custom
from prunephase.data.files import data_folder, npz, table
from prunephase.data.images import folder
from prunephase.data.lazy import Images, large, mapped
from prunephase.data.mnist import mnist
from prunephase.data.normalise import black, chunks, constants, scaled
from prunephase.data.tiny import tiny_imagenet
from prunephase.data.types import Arrays, Codes, Dataset, Split
from prunephase.errors import UserError


def digits(_spec: sections.Data, _home: Path | None) -> Arrays:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, grey levels 0..16 scaled to [0, 1]."""
    from sklearn.datasets import load_digits  # costs most of a second, and only this source needs it

    found = load_digits()
    return Arrays(inputs=(found.images / 16).astype(np.float32), labels=found.target)


SOURCES: dict[str, Callable[[sections.Data, Path | None], Arrays]] = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "tiny-imagenet": tiny_imagenet,
    "npz": npz,
    "table": table,
    "folder": folder,
}


def load(spec: sections.Data, plugins: Collection[str] = (), home: Path | None = None) -> Dataset:
    """Fetch, check, split and normalise the examples that `spec` names.

    >>> data = load(sections.Data(source="digits", train=1000))
    >>> len(data.train), len(data.validation), len(data.test), data.input_shape
    (1000, 144, 359, (1, 8, 8))

    A source without a test set gives up round(test * N) examples for one; of the M that remain, round(validation * M)
    are held out; `train` is the exact number of the rest that are used (None: all). The draws are plain random
    permutations that depend on `spec.seed` alone, so the test and validation examples stay the same when `train`
    changes, and a smaller training set lies within a larger one. Images of uint8 become [0, 1], and [N, H, W] becomes
    [N, 1, H, W]. normalise = "train" subtracts the mean and divides by the deviation of the training split: one pair
    for [N, H, W], one per channel for [N, C, H, W], one per feature for [N, F]; "cifar" and "imagenet" are constants
    for three channels; "keep" leaves inputs of any shape and kind of number alone. Images of bytes that a file holds
    stay there where they are many (see Images).
    `plugins` holds the modules a source `module:function` may come from; `home` is the folder searched for known data
    sets (default: PRUNEPHASE_DATA). Raises UserError for data that cannot be used.
    """
    home = home or data_folder()
    arrays = SOURCES[spec.source](spec, home) if spec.source in SOURCES else custom(spec, plugins)
    checked = check(arrays, spec.source)
    training, validation, held_out = _places(spec, len(checked.labels), checked.test_labels is not None)
    _all_classes(checked, training)

    keep = spec.normalise == "keep"
    shift, scale = constants(spec, arrays, checked.inputs, training)
    truth = checked.truth if checked.truth is not None else checked.labels
    lazy = large(checked.inputs, checked.test_inputs)

    def split(
        inputs: NDArray[np.generic], labels: NDArray[np.int64], truth: NDArray[np.int64], at: NDArray[np.int64]
    ) -> Split:
        given, true, wrong, index = (torch.from_numpy(f) for f in (labels[at], truth[at], labels[at] != truth[at], at))
        if keep:
            return Split(_kept(inputs, at), given, true, wrong, index)
        if lazy and mapped(inputs):
            images = Images(inputs, at, torch.from_numpy(shift), torch.from_numpy(scale))
            return Split(cast("torch.Tensor", images), given, true, wrong, index)
        codes = _codes(inputs, at, shift, scale) if inputs.dtype == np.uint8 else None
        return Split(_tensor(inputs, at, shift, scale), given, true, wrong, index, codes)

    if checked.test_inputs is not None and checked.test_labels is not None:
        labels = checked.test_labels
        test = split(checked.test_inputs, labels, labels, np.arange(len(labels)))
    else:
        test = split(checked.inputs, truth, truth, held_out)
    return Dataset(
        train=split(checked.inputs, checked.labels, truth, training),
        validation=split(checked.inputs, checked.labels, truth, validation) if len(validation) else None,
        test=test,
        classes=checked.classes,
        fingerprint=_fingerprint(checked),
        examples=len(checked.labels),
        black=None if keep else black(checked.inputs, shift, scale),
        shift=torch.from_numpy(shift),
        scale=torch.from_numpy(scale),
    )


def _places(
    spec: sections.Data, examples: int, has_test: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Places of the training, validation and test examples in the source's training set, each rising."""
    pool = np.arange(examples)
    tested = 0 if has_test else round(spec.test * examples)
    if not has_test:
        pool = streams.generator(spec.seed, "split", "test").permutation(pool)
    test, pool = pool[:tested], np.sort(pool[tested:])
    pool = streams.generator(spec.seed, "split", "validation").permutation(pool)
    held = round(spec.validation * len(pool))
    validation, rest = pool[:held], pool[held:]
    if spec.train is not None and spec.train > len(rest):
        raise UserError(
            f"data.train = {spec.train}: only {len(rest)} of {examples} examples are left for training "
            f"({tested} go to test, {held} to validation); lower train or validation"
        )
    training = rest[: spec.train]
    sizes = {"training": len(training), "validation": held, "test": len(test)}
    needed = {"training": True, "validation": spec.validation > 0, "test": not has_test}
    for name, size in sizes.items():
        if needed[name] and size < 2:
            raise UserError(
                f"data: the {name} split has {size} example(s) of {examples}; expected at least 2; give more data or "
                f"other shares (train = {spec.train}, validation = {spec.validation}, test = {spec.test})"
            )
    return np.sort(training), np.sort(validation), np.sort(test)


def _all_classes(checked: Checked, training: NDArray[np.int64]) -> None:
    counts = np.bincount(checked.labels[training], minlength=len(checked.classes))
    if not counts.all():
        name, listing = checked.classes[int(counts.argmin())], ", ".join(str(c) for c in counts[:50])
        raise UserError(
            f"data: class '{name}' has no example in the training split (counts by class: {listing}); raise train or "
            f"change data.seed"
        )


def _tensor(
    inputs: NDArray[np.generic], places: NDArray[np.int64], shift: NDArray[np.float64], scale: NDArray[np.float64]
) -> torch.Tensor:
    shape = inputs.shape[1:] if inputs.ndim != 3 else (1, *inputs.shape[1:])
    result = np.empty((len(places), *inputs.shape[1:]), np.float32)
    start = 0
    for chunk in chunks(places, result[0].size):
        with np.errstate(over="ignore"):  # found below
            result[start : start + len(chunk)] = scaled(inputs[chunk], shift, scale)
        start += len(chunk)
    if inputs.dtype.kind == "f" and not np.isfinite(result).all():
        raise UserError("data: inputs are too large for float32 after normalisation; rescale them")
    return torch.from_numpy(result).reshape(len(places), *shape)


def _kept(inputs: NDArray[np.generic], places: NDArray[np.int64]) -> torch.Tensor:
    """The chosen examples as they came; unsigned numbers beyond bytes as int64, which torch can compute with."""
    kind, chosen = inputs.dtype, np.ascontiguousarray(inputs[places])
    if kind.kind == "u" and kind.itemsize > 1:
        if kind.itemsize == 8 and int(chosen.max()) > np.iinfo(np.int64).max:
            raise UserError("data: inputs are whole numbers beyond int64, which torch does not hold; recode them")
        return torch.from_numpy(chosen.astype(np.int64))
    wanted = np.dtype(np.float64) if kind.itemsize > 8 else kind.newbyteorder("=")
    return torch.from_numpy(chosen.astype(wanted, copy=False))


def _codes(
    inputs: NDArray[np.generic], places: NDArray[np.int64], shift: NDArray[np.float64], scale: NDArray[np.float64]
) -> Codes:
    """The chosen examples as they came, and what makes the float inputs of them."""
    shape = (1, *inputs.shape[1:])
    full = [np.broadcast_to(c.reshape((1,) * (len(shape) - c.ndim) + c.shape), shape) for c in (scale, shift)]
    factor, offset = (c.astype(np.float32).ravel() for c in (1 / full[0], -full[1] / full[0]))
    flat = inputs[places].reshape(len(places), -1)
    return Codes(torch.from_numpy(flat), torch.from_numpy(factor), torch.from_numpy(offset))


def _fingerprint(checked: Checked) -> str:
    """SHA-256 over dtype, shape and bytes of every array, in a fixed order."""
    digest = hashlib.sha256()
    for name in ("inputs", "labels", "truth", "test_inputs", "test_labels"):
        array = getattr(checked, name)
        if array is not None:
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
