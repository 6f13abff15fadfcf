"""What a source gives, and what everything else works with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Arrays:
    """What a source gives, as it lies on disk: not split, not normalised.

    inputs: [N, ...] any real dtype (images as [N, H, W] or [N, C, H, W]); labels: [N] integers 0..K-1.
    truth: the true labels of the training examples, where they are known to differ from `labels`.
    test_*: None where the source has no test set of its own (one is then split off).
    mean, deviation: the constants for normalise = "default"; None: take the training split's.
    """

    inputs: NDArray[np.generic]
    labels: NDArray[np.int64]
    test_inputs: NDArray[np.generic] | None = None
    test_labels: NDArray[np.int64] | None = None
    truth: NDArray[np.int64] | None = None
    classes: tuple[str, ...] | None = None
    mean: float | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class Split:
    """Examples of one split.

    inputs: [N, ...] float32; labels: [N] int64, as trained on; truth: [N] int64, the true ones (equal where unknown);
    permuted: [N] bool, examples whose label was drawn anew (a draw may hit the true class); index: [N] int64, place in
    the source's training (or test) set.
    """

    inputs: Tensor
    labels: Tensor
    truth: Tensor
    permuted: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """The same examples on `device`."""
        return Split(*(getattr(self, f).to(device) for f in ("inputs", "labels", "truth", "permuted", "index")))


@dataclass(frozen=True)
class Dataset:
    """Training, validation (None where validation = 0) and test examples; test labels are always clean.

    fingerprint: SHA-256 of the content of the source, before splitting.
    """

    train: Split
    validation: Split | None
    test: Split
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device) -> Dataset:
        """The same data on `device`."""
        validation = self.validation.to(device) if self.validation is not None else None
        return Dataset(self.train.to(device), validation, self.test.to(device), self.classes, self.fingerprint)
