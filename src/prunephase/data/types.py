"""What a source gives, and what everything else works with."""

# N examples, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, device, dtype

Constant = float | tuple[float, ...]


@dataclass(frozen=True)
class Arrays:
    """What a source gives, as it lies on disk: not checked, not split, not normalised.

    inputs: [N, ...] any real dtype (images as [N, H, W] or [N, C, H, W]); labels: [N] integers 0..K-1, or names.
    truth: the true labels of the training examples, where they are known.
    test_*: None where the source has no test set of its own (one is then split off).
    classes: names of the classes 0..K-1. mean, deviation: the constants for normalise = "default", one for all or one
    per channel, on the scale [0, 1] for uint8 images; None: take the training split's.
    Images of uint8 in a memory-mapped file (np.memmap) stay there where they are many.
    """

    inputs: NDArray[np.generic]
    labels: NDArray[np.generic]
    test_inputs: NDArray[np.generic] | None = None
    test_labels: NDArray[np.generic] | None = None
    truth: NDArray[np.generic] | None = None
    classes: tuple[str, ...] | None = None
    mean: Constant | None = None
    deviation: Constant | None = None


@dataclass(frozen=True)
class Codes:
    """Inputs as the bytes they came from, a quarter of the memory: `values * scale + shift` is `inputs.flatten(1)`.

    values: [N, F] uint8; scale, shift: [F] float32. Equal to `inputs` up to float32 rounding.
    """

    values: Tensor
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Split:
    """Examples of one split.

    inputs: [N, ...] float32, or what the source has with normalise = "keep"; labels: [N] int64, as trained on; truth:
    [N] int64, the true ones (equal where unknown); permuted: [N] bool, examples whose label was drawn anew (a draw may
    hit the true class); index: [N] int64, place in the source's training (or test) set. codes: the inputs as bytes,
    where they were bytes. Inputs that are large are an object that answers as the tensor would (prunephase.data.lazy),
    and then there are no codes.
    """

    inputs: Tensor
    labels: Tensor
    truth: Tensor
    permuted: Tensor
    index: Tensor
    codes: Codes | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, where: device, inputs: Tensor | None = None) -> Split:
        """The same examples on another device, but for the codes; `inputs`: those that are there already."""
        rest = (getattr(self, f.name).to(where) for f in fields(self) if f.name not in ("inputs", "codes"))
        return Split(self.inputs.to(where) if inputs is None else inputs, *rest)


@dataclass(frozen=True)
class Dataset:
    """Training, validation (None where validation = 0) and test examples; test labels are always clean.

    fingerprint: SHA-256 of the content of the source, before splitting; examples: size of the source's training set,
    into which `Split.index` points (None: not known, as for a data set made by hand). black: [C] float32, what a byte
    of zero is after normalisation, in each channel; None where the inputs are not images of bytes. shift, scale: what
    was subtracted from the source's numbers (bytes as 0..255) and what they were then divided by: float64, broadcast
    against [N, ...] as the source has it; None for a data set made by hand.
    """

    train: Split
    validation: Split | None
    test: Split
    classes: tuple[str, ...]
    fingerprint: str
    examples: int | None = None
    black: Tensor | None = None
    shift: Tensor | None = None
    scale: Tensor | None = None

    @property
    def noisy(self) -> tuple[Split, ...]:
        """The splits whose labels may be wrong: training and, where there is one, validation."""
        return (self.train,) if self.validation is None else (self.train, self.validation)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name: train, validation (where there is one), test."""
        held = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **held, "test": self.test}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def dtype(self) -> dtype:
        """Kind of number of the inputs."""
        return self.train.inputs.dtype

    def to(self, where: device, inputs: Mapping[str, Tensor] | None = None) -> Dataset:
        """The same data on another device; `inputs`: those of the splits that are there already."""
        there = {name: split.to(where, inputs[name] if inputs else None) for name, split in self.splits.items()}
        black = None if self.black is None else self.black.to(where)
        return replace(self, train=there["train"], validation=there.get("validation"), test=there["test"], black=black)
