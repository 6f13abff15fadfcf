"""Detection: is the dip in a mean curve more than chance, and would a relevant one have been found?"""

# B draws, S seeds, L levels.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunephase.analysis.shape import flattened, humps, one_hump, smoothed
from prunephase.analysis.spread import ROUNDING, Spread, correlation, draw, spread

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ALPHA = 0.05
DRAWS = 999  # curves without a dip that the observed one is compared with
APART = 3.0  # standard errors; see `flattened`
RELEVANT = 0.02  # depth of a dip, in accuracy, that a study should not miss
POWER = 0.9  # chance of finding it that we ask for
POWER_DRAWS = 199
NEEDED_DRAWS = 99  # per number of seeds tried
HALF_WIDTH = 4  # levels from the centre of the planted dip to its shoulders
COUNTS = (3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100)  # numbers of seeds tried for `needed`


@dataclass(frozen=True)
class Evidence:
    """How much the seeds say for a dip. statistic: error removed by a second hump, in squared standard errors.

    null: [L], the curve without a dip that `p_value` compares with; critical: statistic exceeded by 5 % of its draws.
    """

    statistic: float
    p_value: float
    critical: float
    observed: Spread
    correlated: Floats
    null: Floats


def statistic(summary: Spread, there: Bools) -> Floats:
    """Weighted squared error of the smoothed mean that a second hump removes; 0 if one hump fits. [..., L] -> [B]."""
    weights = np.atleast_2d(there.sum(axis=0) / summary.variance)
    errors = humps(np.atleast_2d(smoothed(summary.mean)), weights)
    return errors.one - errors.two


def evidence(values: Floats, there: Bools, generator: np.random.Generator, draws: int = DRAWS) -> Evidence | None:
    """Compare the statistic with that of curves of one hump whose seeds scatter alike. [S, L], [S, L].

    The null is the best fit of one hump to the mean, its insignificant steps levelled; seeds are drawn about it as
    Gaussian curves with the measured variance by level and correlation between levels, and each draw is treated as the
    data were, variances included. None where the seeds show no spread to compare with.
    """
    observed = spread(values, there)
    if observed.variance.max() < ROUNDING**2:
        return None
    count = there.sum(axis=0)
    null = flattened(one_hump(observed.mean, count / observed.variance), np.sqrt(observed.variance / count), APART)
    correlated = correlation(observed, there)
    found = float(statistic(observed, there)[0])
    by_chance = statistic(
        spread(draw(null, observed.variance, correlated, len(values), draws, generator), there), there
    )
    at_least = int(np.sum(by_chance >= found - 1e-9 * abs(found)))
    critical = float(np.quantile(by_chance, 1 - ALPHA, method="higher"))
    return Evidence(found, (1 + at_least) / (1 + draws), critical, observed, correlated, null)


def power(
    seen: Evidence, seeds: int, generator: np.random.Generator, depth: float = RELEVANT, draws: int = POWER_DRAWS
) -> float:
    """Chance that a dip of `depth` would be found with so many complete seeds that scatter as those seen.

    The dip, a raised cosine `HALF_WIDTH` levels to each shoulder, is planted into the null at all places in the middle
    half of the ladder in turn; its depth counts from the lower shoulder.
    """
    levels = len(seen.null)
    half = min(HALF_WIDTH, (levels - 1) // 2)
    first, last = max(half, levels // 4), min(levels - 1 - half, 3 * levels // 4)
    there = np.ones((seeds, levels), dtype=bool)

    def statistics(truth: Floats) -> Floats:
        curves = draw(truth, seen.observed.variance, seen.correlated, seeds, draws, generator)
        return statistic(spread(curves, there), there)

    critical = np.quantile(statistics(seen.null), 1 - ALPHA, method="higher")
    dips = np.stack([planted(seen.null, centre, half, depth) for centre in range(first, max(first, last) + 1)])
    return float(np.mean(statistics(np.resize(dips, (draws, 1, levels))) > critical))


def planted(curve: Floats, centre: int, half: int, depth: float) -> Floats:
    """`curve` with a dip at `centre`, `depth` below the lower of its shoulders `half` levels away. [L] -> [L]."""
    away = np.clip(np.abs(np.arange(len(curve)) - centre) / half, 0, 1)
    share = (1 + np.cos(np.pi * away)) / 2
    bottom = min(curve[max(centre - half, 0)], curve[min(centre + half, len(curve) - 1)]) - depth
    return np.asarray((1 - share) * curve + share * bottom)


def needed(seen: Evidence, generator: np.random.Generator) -> int | None:
    """The fewest seeds with which a relevant dip would be found; None where 100 would not do."""
    low, high = 0, len(COUNTS)
    while low < high:
        middle = (low + high) // 2
        if power(seen, COUNTS[middle], generator, draws=NEEDED_DRAWS) >= POWER:
            high = middle
        else:
            low = middle + 1
    return COUNTS[low] if low < len(COUNTS) else None
