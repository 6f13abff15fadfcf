"""Judges: from what studies show to reproduced, not reproduced or underpowered."""

# S seeds, K studies.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prunephase.analysis import interval, paired
from prunephase.analysis.spread import ROUNDING
from prunephase.claims.evidence import QUANTITIES, Evidence, depth
from prunephase.claims.plan import Claim

Floats = NDArray[np.float64]
Verdict = Literal["reproduced", "not reproduced", "underpowered"]

FEWEST_SEEDS = 3
# Levels are whole numbers: a difference of two is rounded with this deviation, even where all seeds agree in it.
ROUNDED = (2 / 12) ** 0.5


@dataclass(frozen=True)
class Found:
    """What a test found. effect: positive where it is as the paper says; unit: "accuracy" or "levels"; n: seeds.

    p: two-sided, for Holm; None where there is none. settled: the verdict of tests that decide without p.
    """

    effect: float
    interval: tuple[float, float] | None
    n: int
    p: float | None
    unit: str
    detail: str
    settled: Verdict | None = None


def verdict(found: Found, adjusted: float | None, least: float, alpha: float) -> Verdict:
    """The answer, from the p that Holm adjusted and the smallest effect of interest.

    Not reproduced: the interval rules that effect out. Reproduced: it does not, and the effect is more than chance.
    """
    if found.settled is not None:
        return found.settled
    if found.n < FEWEST_SEEDS or found.interval is None:
        return "underpowered"
    if found.interval[1] < least:
        return "not reproduced"
    if adjusted is not None and adjusted < alpha and found.effect > 0:
        return "reproduced"
    return "underpowered"


def dip(seen: Sequence[Evidence], _claim: Claim) -> Found:
    """There is a sparse double descent: `phases` says so, and its dip is not too shallow. One study."""
    (one,) = seen
    values = depth(one)
    mean, spread, n, _ = _mean(values, "accuracy")
    settled: Verdict | None = "not reproduced" if one.phases.verdict == "not shown" else None
    if one.places is None and settled is None:
        settled = "underpowered"
    return Found(mean, spread, n, one.phases.p_value, "accuracy", _turns(one), settled)


def no_dip(seen: Sequence[Evidence], claim: Claim) -> Found:
    """There is none as deep as the smallest effect of interest. One study."""
    (one,) = seen
    mean, spread, n, _ = _mean(depth(one), "accuracy")
    answer: Verdict = "underpowered"
    if n >= FEWEST_SEEDS and spread is not None:
        if spread[1] < claim.least and (one.places is not None or one.phases.verdict == "not shown"):
            answer = "reproduced"
        elif spread[0] >= claim.least and one.phases.verdict == "present":
            answer = "not reproduced"
    return Found(mean, spread, n, None, "accuracy", _turns(one), answer)


def falls(seen: Sequence[Evidence], claim: Claim) -> Found:
    """A quantity falls from each study to the next, paired by seed; the least certain step speaks for all."""
    return _steps(seen, claim, sign=1.0)


def rises(seen: Sequence[Evidence], claim: Claim) -> Found:
    """A quantity rises from each study to the next, paired by seed; the least certain step speaks for all."""
    return _steps(seen, claim, sign=-1.0)


def positive(seen: Sequence[Evidence], claim: Claim) -> Found:
    """A quantity is above zero. One study."""
    (one,) = seen
    unit, values = _quantity(one, claim)
    mean, spread, n, p = _mean(values, unit)
    return Found(mean, spread, n, p, unit, _each(claim, unit, [values]))


def within(seen: Sequence[Evidence], claim: Claim) -> Found:
    """A quantity lies between `low` and `high`: so does its whole interval. One study."""
    (one,) = seen
    low, high = claim.low, claim.high
    assert low is not None, claim.id
    assert high is not None, claim.id
    unit, values = _quantity(one, claim)
    mean, spread, n, _ = _mean(values, unit)
    answer: Verdict = "underpowered"
    if n >= FEWEST_SEEDS and spread is not None:
        if low <= spread[0] and spread[1] <= high:
            answer = "reproduced"
        elif spread[1] < low or high < spread[0]:
            answer = "not reproduced"
    return Found(mean, spread, n, None, unit, f"expected {_span(unit, low, high)}", answer)


def beats(seen: Sequence[Evidence], _claim: Claim) -> Found:
    """Somewhere on the ladder the second study is better than the first, after Holm over the levels. Two studies."""
    first, second = seen
    levels = [p for p in paired(second.last, first.last).levels if p.adjusted is not None]
    if not levels:
        return Found(float("nan"), None, 0, None, "accuracy", "no level can be compared")
    better = [p for p in levels if p.difference > 0]
    most = min(better, key=lambda p: p.adjusted or 0.0, default=levels[0])
    won = sum(p.winner == "a" for p in levels)
    lost = sum(p.winner == "b" for p in levels)
    text = f"at level {most.level}; better at {won} levels, worse at {lost}, of {len(levels)}"
    return Found(most.difference, most.interval, most.n, most.adjusted if better else 1.0, "accuracy", text)


TESTS: Mapping[str, Callable[[Sequence[Evidence], Claim], Found]] = {
    "dip": dip,
    "no dip": no_dip,
    "falls": falls,
    "rises": rises,
    "positive": positive,
    "within": within,
    "beats": beats,
}


def _steps(seen: Sequence[Evidence], claim: Claim, sign: float) -> Found:
    """Intersection-union: all steps must go the right way, so the largest p is that of the whole."""
    unit = _quantity(seen[0], claim)[0]
    every = [dict(zip(one.last.seeds, _quantity(one, claim)[1].tolist(), strict=True)) for one in seen]
    seeds = [s for s in every[0] if all(s in values for values in every)]
    columns = [np.array([values[s] for s in seeds]) for values in every]
    steps = [_mean(sign * (a - b), unit) for a, b in pairwise(columns)]
    mean, spread, n, p = max(steps, key=lambda step: (step[3] is None, step[3] or 0.0, -step[0]))
    against = next((step for step in steps if step[1] is not None and step[1][1] < claim.least), None)
    if against is not None:  # one step that is surely not there is enough
        mean, spread, n, p = against
    chance = 1.0 if p is not None and mean <= 0 else p
    return Found(mean, spread, n, chance, unit, _each(claim, unit, columns))


def _quantity(seen: Evidence, claim: Claim) -> tuple[str, Floats]:
    assert claim.quantity is not None, claim.id
    unit, measure = QUANTITIES[claim.quantity]
    return unit, measure(seen)


def _mean(values: Floats, unit: str) -> tuple[float, tuple[float, float] | None, int, float | None]:
    """Mean, 95 % interval, n and the p of the t-test against zero, of one value per seed, NaN left out. [S]."""
    values = values[np.isfinite(values)]
    n = len(values)
    if n < 2:
        return float(values.mean()) if n else float("nan"), None, n, None
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if unit == "levels":
        sd = max(sd, ROUNDED)
    elif sd < ROUNDING:
        return mean, interval(values), n, None
    error = sd / n**0.5
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return mean, (mean - half, mean + half), n, float(2 * stats.t.sf(abs(mean) / error, n - 1))


def _turns(seen: Evidence) -> str:
    found = seen.phases
    if found.dip is None or found.peak is None:
        return f"{found.verdict}; no dip on the mean curve"
    return (
        f"{found.verdict}; dip at level {found.dip.level} ({100 * found.dip.value:.1f} %), "
        f"peak at level {found.peak.level} ({100 * found.peak.value:.1f} %)"
    )


def _each(claim: Claim, unit: str, columns: Sequence[Floats]) -> str:
    """The mean of each study, in the order of the claim."""
    means = [float(np.mean(v[np.isfinite(v)])) if np.isfinite(v).any() else float("nan") for v in columns]
    words = ", ".join(f"{name} {shown(unit, value)}" for name, value in zip(claim.studies, means, strict=True))
    return f"{claim.quantity}: {words}"


def _span(unit: str, low: float, high: float) -> str:
    return f"{shown(unit, low)} to {shown(unit, high)}"


def shown(unit: str, value: float) -> str:
    """A quantity for people: percent of accuracies, levels as they are."""
    if value != value:
        return "none"
    return f"{100 * value:.1f} %" if unit == "accuracy" else f"{value:.1f}"
