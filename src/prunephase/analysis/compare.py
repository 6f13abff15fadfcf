"""Comparison of two curves, level by level, paired by seed: which is better where, and is it more than chance?"""

# S seeds that both curves have, L levels that both have.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prunephase.analysis.curve import Group
from prunephase.analysis.spread import ROUNDING
from prunephase.analysis.statistics import interval
from prunephase.errors import UserError

Floats = NDArray[np.float64]
ALPHA = 0.05
ALIKE = 1e-3  # sparsities closer than this are the same rung: counts of weights are rounded


@dataclass(frozen=True)
class Paired:
    """One level. difference: mean over seeds of the accuracy of a less that of b; interval: Student-t 95 %, or None.

    p: of the paired t-test, None with fewer than two seeds or where their differences do not vary; adjusted: p after
    Holm over the levels; winner: the better one where `adjusted` < 0.05, None where it may be chance.
    """

    level: int
    sparsity: float
    difference: float
    interval: tuple[float, float] | None
    n: int
    p: float | None
    adjusted: float | None
    winner: Literal["a", "b"] | None


@dataclass(frozen=True)
class Comparison:
    """Two curves compared at every level that both have."""

    levels: tuple[Paired, ...]


def paired(a: Group, b: Group) -> Comparison:
    """Compare two curves at the levels that both have, over the seeds that both have.

    >>> levels, sparsity = np.arange(2), np.array([0.0, 0.2])
    >>> a = Group({}, levels, sparsity, np.array([[0.8, 0.90], [0.8, 0.91], [0.8, 0.92]]), None, (0, 1, 2))
    >>> b = Group({}, levels, sparsity, np.array([[0.8, 0.70], [0.8, 0.72], [0.8, 0.71]]), None, (0, 1, 2))
    >>> [(p.level, round(p.difference, 2), p.winner) for p in paired(a, b).levels]
    [(0, 0.0, None), (1, 0.2, 'a')]

    Raises UserError where they share no seed or no level, or a level has two sparsities.
    """
    seeds = [s for s in a.seeds if s in b.seeds]
    shared = [int(level) for level in a.levels if level in b.levels]
    if not seeds or not shared:
        raise UserError("the two curves share no seed or no level; compare curves of the same seeds and levels")
    at_a, at_b = (np.searchsorted(group.levels, np.array(shared)) for group in (a, b))
    if (np.abs(a.sparsity[at_a] - b.sparsity[at_b]) > ALIKE).any():
        raise UserError("the two curves have different sparsities at the same level; compare ladders of one fraction")
    of_a, of_b = (group.test[[group.seeds.index(s) for s in seeds]][:, at] for group, at in ((a, at_a), (b, at_b)))
    differences = of_a - of_b
    chances = [t_test(column) for column in differences.T]
    adjusted = holm(chances)
    found = []
    for i, level in enumerate(shared):
        values = differences[:, i][np.isfinite(differences[:, i])]
        mean = float(values.mean()) if len(values) else float("nan")
        certain = adjusted[i] is not None and adjusted[i] < ALPHA  # type: ignore[operator]
        found.append(
            Paired(
                level=level,
                sparsity=float(a.sparsity[at_a[i]]),
                difference=mean,
                interval=interval(values),
                n=len(values),
                p=chances[i],
                adjusted=adjusted[i],
                winner=("a" if mean > 0 else "b") if certain else None,
            )
        )
    return Comparison(tuple(found))


def t_test(differences: Floats, alternative: Literal["two-sided", "greater"] = "two-sided") -> float | None:
    """p of the paired t-test that `differences` have mean 0, NaN left out. [S].

    None with fewer than two, or where they do not vary: then there is no spread to judge by.
    """
    values = differences[np.isfinite(differences)]
    if len(values) < 2 or np.ptp(values) < ROUNDING:
        return None
    return float(stats.ttest_1samp(values, 0.0, alternative=alternative).pvalue)


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Holm's adjustment for asking several questions at once; None stays and does not count.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    known = sorted((p, i) for i, p in enumerate(chances) if p is not None)
    adjusted: list[float | None] = [None] * len(chances)
    least = 0.0
    for rank, (p, i) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        adjusted[i] = least
    return adjusted
