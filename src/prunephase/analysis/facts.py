"""Facts: single numbers of a curve, one per seed: interpolation threshold, pruning efficacy, generalisation gap."""

# S seeds, L levels.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prunephase.analysis.curve import Group
from prunephase.analysis.statistics import summarise

Floats = NDArray[np.float64]
Axis = Literal["level", "sparsity"]


@dataclass(frozen=True)
class Fact:
    """A number of each seed in short. n: seeds that have it; mean: NaN if none has; interval: Student-t 95 %, or None.

    per_seed: in the order of the group's seeds, None where a seed has none; unit: "level", "sparsity" or "accuracy".
    """

    mean: float
    interval: tuple[float, float] | None
    n: int
    per_seed: tuple[float | None, ...]
    unit: str


def fact(values: Floats, unit: str) -> Fact:
    """A fact from one value per seed, NaN where a seed has none. [S]."""
    short = summarise(values[:, None])
    n = int(short.n[0])
    interval = (float(short.low[0]), float(short.high[0])) if n > 1 else None
    each = tuple(float(v) if np.isfinite(v) else None for v in values)
    return Fact(float(short.mean[0]), interval, n, each, unit)


def threshold(group: Group, share: float = 0.99, unit: Axis = "level") -> Fact:
    """Interpolation threshold: the first level whose train accuracy is below `share` of the seed's own dense one.

    A seed has none where its train accuracy never falls so low, or a level before is missing: then n is less than the
    number of seeds, and the mean is that of those that crossed.

    >>> train = np.array([[1.0, 1.0, 0.97], [1.0, 0.98, 0.9]])
    >>> group = Group({}, np.arange(3), np.array([0.0, 0.2, 0.36]), train, train, (0, 1))
    >>> threshold(group).per_seed, threshold(group, unit="sparsity").mean
    ((2.0, 1.0), 0.28)
    """
    return _of_crossing(group, unit, lambda dense: share * dense, before=0)


def efficacy(group: Group, tolerance: float = 0.005, unit: Axis = "sparsity") -> Fact:
    """Pruning efficacy: the largest sparsity up to which train accuracy stays within `tolerance` of the dense one.

    After observation 3 of "Can network pruning benefit deep learning under label noise?" (ICLR 2022 submission), which
    asks for "full" train accuracy. A seed has none where its train accuracy never falls, or a level before is missing.
    """
    return _of_crossing(group, unit, lambda dense: dense - tolerance, before=1)


def gap(group: Group) -> tuple[Fact, ...]:
    """Generalisation gap of every level: test error minus train error, in accuracy (He et al. 2022, figure 32). [L].

    The train error is that on the labels trained on, noise included. Empty without train accuracies.
    """
    if group.train is None:
        return ()
    return tuple(fact(values, "accuracy") for values in (group.train - group.test).T)


def _of_crossing(group: Group, unit: Axis, bar: Callable[[float], float], before: int) -> Fact:
    """Where the train accuracy of each seed is first below `bar` of its dense one, less `before` levels."""
    axis = group.sparsity if unit == "sparsity" else group.levels.astype(np.float64)
    train = group.train if group.train is not None else np.full(group.test.shape, np.nan)
    found = np.full(len(train), np.nan)
    for seed, values in enumerate(train):
        gone = values[: int(np.argmin(np.isfinite(values)))] if not np.isfinite(values).all() else values
        below = np.flatnonzero(gone < bar(float(gone[0]))) if len(gone) else np.empty(0, int)
        if len(below):
            found[seed] = axis[below[0] - before]
    return fact(found, unit)
