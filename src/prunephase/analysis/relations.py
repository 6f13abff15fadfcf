"""Relations: which signal of a network turns where its test accuracy turns, at the dip or at the peak."""

# S seeds, L levels.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from prunephase.analysis.curve import Group, curve
from prunephase.analysis.facts import Fact, fact, threshold
from prunephase.analysis.phases import phases

Floats = NDArray[np.float64]
Turn = Literal["highest", "lowest"]
Near = Literal["dip", "peak", "both", "neither", "mixed", "underpowered"]
NEAR = 2.0  # levels within which a turn is called that of the dip or of the peak
FEWEST_LEVELS, FEWEST_SEEDS = 8, 3


@dataclass(frozen=True)
class Relation:
    """How one signal moves with a curve.

    turn: an interior extreme of the signal; level: where; from_dip, from_peak: how many levels after the dip and the
    peak of the curve it lies; correlation: Spearman's, with test accuracy from the interpolation threshold on; seeds:
    how many have the signal, of which `level.n` have the turn.
    near: "dip" or "peak" (or "both") where the 95 % interval of the offset lies within two levels; "neither" where both
    intervals lie beyond; "mixed" where some seeds turn and others do not; "underpowered" where an interval allows more
    than one of these, or fewer than three seeds have the signal.
    """

    signal: str
    turn: Turn
    level: Fact
    from_dip: Fact
    from_peak: Fact
    correlation: Fact
    seeds: int
    near: Near


def relations(rows: pl.DataFrame, signals: Sequence[str]) -> list[Relation]:
    """The turns of `signals`, columns of a level table of one curve; empty where the curve has no dip.

    A signal turns where it is highest (and where it is lowest) between its ends, at the middle of the levels that tie;
    a seed whose extreme is also reached at its first or last level has no such turn, and one that knows the signal at
    fewer than eight levels does not count. The dip and the peak are those of the mean curve, so the offsets carry the
    spread of the signal's turn alone.
    """
    (group,) = curve(rows, by=()).groups()
    said = phases(group)
    if said.dip is None or said.peak is None:
        return []
    found = []
    for signal in signals:
        (other,) = curve(rows, signal, by=()).groups()
        seeds = int((np.isfinite(other.test).sum(axis=1) >= FEWEST_LEVELS).sum())
        correlation = _correlation(group, other)
        turns: tuple[tuple[Turn, float], ...] = (("highest", 1.0), ("lowest", -1.0))
        for turn, sign in turns:
            at = _turns(other, sign)
            if np.isfinite(at).any():
                dip, peak = (fact(at - place, "level") for place in (said.dip.level, said.peak.level))
                near = _near(dip, peak, seeds)
                found.append(Relation(signal, turn, fact(at, "level"), dip, peak, correlation, seeds, near))
    return found


def _turns(group: Group, sign: float) -> Floats:
    """Level at which each seed's signal is most extreme, NaN where it is so at an end or hardly known. [S]."""
    found = np.full(len(group.test), np.nan)
    for seed, row in enumerate(sign * group.test):
        there = np.isfinite(row)
        values, levels = row[there], group.levels[there]
        if len(values) < FEWEST_LEVELS:
            continue
        extreme = values == values.max()
        if not extreme[0] and not extreme[-1]:
            found[seed] = levels[extreme].mean()
    return found


def _near(dip: Fact, peak: Fact, seeds: int) -> Near:
    """Which of dip and peak a turn belongs to, by the intervals of its offsets."""
    if seeds < FEWEST_SEEDS:
        return "underpowered"
    if dip.n < seeds or dip.interval is None or peak.interval is None:
        return "mixed"
    at_dip, at_peak = (-NEAR <= low <= high <= NEAR for low, high in (dip.interval, peak.interval))
    if at_dip or at_peak:
        return "both" if at_dip and at_peak else "dip" if at_dip else "peak"
    beyond = all(high < -NEAR or low > NEAR for low, high in (dip.interval, peak.interval))
    return "neither" if beyond else "underpowered"


def _correlation(group: Group, other: Group) -> Fact:
    """Spearman's correlation of each seed's signal with its test accuracy, from the interpolation threshold on."""
    starts = threshold(group).per_seed if group.train is not None else [None] * len(group.seeds)
    found = np.full(len(group.seeds), np.nan)
    for seed, start in enumerate(starts):
        known = np.isfinite(group.test[seed]) & np.isfinite(other.test[seed])
        if start is not None:
            known &= group.levels >= start
            mine, signal = group.test[seed][known], other.test[seed][known]
            if len(mine) > 2 and np.ptp(mine) > 0 and np.ptp(signal) > 0:
                found[seed] = stats.spearmanr(mine, signal).statistic
    return fact(found, "correlation")


def crossing(sparsities: Sequence[float], sparse: Sequence[float], redense: Sequence[float]) -> float | None:
    """The sparsity from which on the sparse weights lie closer to the initialisation than the re-dense ones.

    He et al. (ICLR 2022 submission, section 5): at low sparsity the sparse ones are farther, at high sparsity closer.
    Between the last level at which they are farther and the next it is interpolated, on a straight line in the
    difference. All [L], sparsities rising; None where the sign does not change from farther to closer for good.
    """
    gap = np.asarray(sparse, dtype=np.float64) - np.asarray(redense, dtype=np.float64)
    (farther,) = np.nonzero(gap > 0)
    if not len(farther) or farther[-1] == len(gap) - 1:
        return None
    i = int(farther[-1])
    share = gap[i] / (gap[i] - gap[i + 1])
    return float(sparsities[i] + share * (sparsities[i + 1] - sparsities[i]))
