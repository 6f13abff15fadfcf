"""Curves: accuracy against the ladder, one value per seed and level."""

# S seeds, L levels.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """One curve: what sets it apart from the others (`key`), and its values.

    levels: [L] int, rising; sparsity: [L], share of prunable weights removed; test: [S, L], accuracies in [0, 1], NaN
    where a level is missing; train: [S, L] on the labels trained on, or None; seeds: [S].
    """

    key: Mapping[str, Any]
    levels: NDArray[np.int64]
    sparsity: Floats
    test: Floats
    train: Floats | None
    seeds: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.seeds)
