"""Statistics: mean, spread and interval of a few seeds."""

# S seeds, L levels.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


def interval(values: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """Student-t interval of the mean of independent values, NaN left out; None with fewer than two. [S] -> (low, high).

    Honest from n = 3 on where a percentile bootstrap is far too narrow.

    >>> low, high = interval(np.array([0.80, 0.82, 0.84]))
    >>> f"{low:.3f} {high:.3f}"
    '0.770 0.870'
    """
    found = summarise(values[:, None], level)
    return (float(found.low[0]), float(found.high[0])) if found.n[0] > 1 else None


@dataclass(frozen=True)
class Summary:
    """Seeds in short, level by level. All [L]; NaN where n = 0 (mean) or n < 2 (sd, low, high).

    n: seeds that have the level; sd: of one seed; low, high: Student-t interval of the mean.
    """

    mean: Floats
    sd: Floats
    n: NDArray[np.int64]
    low: Floats
    high: Floats


def summarise(values: Floats, level: float = 0.95) -> Summary:
    """Mean, spread and interval of every level, NaN left out. [S, L].

    >>> summarise(np.array([[0.80, 0.7], [0.82, np.nan], [0.84, np.nan]])).n
    array([3, 1])
    """
    there = np.isfinite(values)
    n = there.sum(axis=0)
    mean = np.where(n > 0, np.where(there, values, 0.0).sum(axis=0) / np.maximum(n, 1), np.nan)
    squares = (np.where(there, values - mean, 0.0) ** 2).sum(axis=0)
    sd = np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)
    half = stats.t.ppf((1 + level) / 2, np.maximum(n - 1, 1)) * sd / np.sqrt(np.maximum(n, 1))
    return Summary(mean, sd, n, mean - half, mean + half)
