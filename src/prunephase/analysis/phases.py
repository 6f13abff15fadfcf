"""Phases: light, critical, sweet, collapsed; is there a sparse double descent, and how sure are we?"""

# B draws, S seeds, L levels.

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prunephase.analysis.curve import FEWEST, Group
from prunephase.analysis.detect import ALPHA, POWER, RELEVANT, Evidence, evidence, needed, power
from prunephase.analysis.sentence import sentence
from prunephase.analysis.severity import Severity, severity
from prunephase.analysis.shape import humps, smoothed
from prunephase.analysis.spread import ROUNDING, reweighted, spread
from prunephase.streams import generator

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Verdict = Literal["present", "not shown", "underpowered"]

NAMES = ("light", "critical", "sweet", "collapsed")
FEWEST_SEEDS = 3  # below, the verdict is always "underpowered"
THRESHOLD = 0.99  # of the dense train accuracy
RESAMPLES = 399


@dataclass(frozen=True)
class Point:
    """A level on the curve. `value`: mean accuracy in [0, 1]; `levels`: 95 % interval, None with one seed."""

    level: int
    sparsity: float
    value: float
    levels: tuple[int, int] | None


@dataclass(frozen=True)
class Span:
    """A phase, from its first to its last level (both included). `start_levels`: 95 % interval of where it begins."""

    start: int
    end: int
    start_levels: tuple[int, int] | None


@dataclass(frozen=True)
class Phases:
    """What the detector says of one curve; `docs/phases.md` defines every word.

    `p_value`: None with one seed or no spread; `n`: seeds with any value; `power`: chance that a dip of 2 points would
    have been found, `n_needed`: seeds that would find it, both None where they were not needed or cannot be known.
    dip, peak: None where the mean curve has no interior dip; threshold: None without train accuracy, or if not reached.
    Unless the verdict is "present", dip, peak and phases are candidates only.
    """

    verdict: Verdict
    p_value: float | None
    n: int
    n_needed: int | None
    power: float | None
    missing: int
    diverged: int
    dip: Point | None
    peak: Point | None
    threshold: Point | None
    phases: dict[str, Span]
    severity: Severity | None
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, for `--json`: phases as [first, last] level, null where a phase is not reached."""
        values = asdict(self)
        values["phases"] = {
            name: [self.phases[name].start, self.phases[name].end] if name in self.phases else None for name in NAMES
        }
        values["boundaries"] = {
            name: _listed(span.start_levels) for name, span in self.phases.items() if name != "light"
        }
        for name in ("dip", "peak", "threshold"):
            if values[name] is not None:
                values[name]["levels"] = _listed(values[name]["levels"])
        if values["severity"] is not None:
            for name in ("depth_interval", "forfeited_interval"):
                values["severity"][name] = _listed(values["severity"][name])
        return values


@dataclass(frozen=True)
class Places:
    """Indices into the levels; -1: there is none. before: the best level ahead of the dip."""

    before: int
    dip: int
    peak: int
    critical: int
    sweet: int
    collapsed: int


def phases(curve: Group, *, seed: int = 0) -> Phases:
    """Find dip, peak and phases of `curve` and test for a sparse double descent. Same curve and seed, same answer.

    >>> from prunephase.analysis.curve import Group
    >>> test = np.array([[0.80, 0.79, 0.74, 0.72, 0.78, 0.85, 0.86, 0.70]])
    >>> found = phases(Group({}, np.arange(8), 1 - 0.8 ** np.arange(8), test, None, (0,)))
    >>> found.verdict, found.dip.level, found.peak.level
    ('underpowered', 3, 6)

    With fewer than 3 levels that have a value there is nothing to find, and the verdict is "underpowered".
    """
    levels = np.isfinite(curve.test).any(axis=0)
    rows = np.isfinite(curve.test).any(axis=1)
    if levels.sum() < FEWEST:
        return _too_short(curve, int(rows.sum()), np.flatnonzero(levels))
    values = _ordered(curve.test[np.ix_(rows, levels)])
    there = np.isfinite(values)
    summary = spread(values, there)
    mean, n = summary.mean, len(values)

    seen = evidence(values, there, generator(seed, "analysis", "null"))
    weights = there.sum(axis=0) / seen.observed.variance if seen else np.ones(len(mean))
    places = locate(mean[None], weights)[0]
    draws = (
        [places]
        if n == 1
        else locate(reweighted(summary, there, RESAMPLES, generator(seed, "analysis", "resample")), weights)
    )

    numbers, sparsity = curve.levels[levels], curve.sparsity[levels]

    def levels_of(name: str) -> tuple[int, int] | None:
        found = np.array([getattr(place, name) for place in draws if getattr(place, name) >= 0])
        if n == 1 or not found.size:
            return None
        low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
        return int(numbers[low]), int(numbers[high])

    def point(name: str) -> Point | None:
        at = getattr(places, name)
        return Point(int(numbers[at]), float(sparsity[at]), float(mean[at]), levels_of(name)) if at >= 0 else None

    begun = [(name, 0 if name == "light" else getattr(places, name)) for name in NAMES]
    begun = [(name, start) for name, start in begun if start >= 0]
    ends = [start - 1 for _, start in begun[1:]] + [len(mean) - 1]
    spans = {
        name: Span(int(numbers[start]), int(numbers[end]), levels_of(name) if name != "light" else None)
        for (name, start), end in zip(begun, ends, strict=True)
    }
    verdict, chance, count = _verdict(seen, n, seed)
    dip, peak = point("dip"), point("peak")
    p_value = seen.p_value if seen else None
    return Phases(
        verdict=verdict,
        p_value=p_value,
        n=n,
        n_needed=count,
        power=chance,
        missing=curve.missing,
        diverged=curve.diverged,
        dip=dip,
        peak=peak,
        threshold=_threshold(curve, seed),
        phases=spans,
        severity=severity(values, mean, numbers, places.before, places.dip, places.peak) if dip else None,
        sentence=sentence(verdict, p_value, n, chance, count, float(mean[places.before]), dip, peak),
    )


def _too_short(curve: Group, n: int, at: NDArray[np.int64]) -> Phases:
    """What can be said of fewer than 3 levels, such as those of a study that has only begun."""
    return Phases(
        verdict="underpowered",
        p_value=None,
        n=n,
        n_needed=None,
        power=None,
        missing=curve.missing,
        diverged=curve.diverged,
        dip=None,
        peak=None,
        threshold=None,
        phases={"light": Span(int(curve.levels[at[0]]), int(curve.levels[at[-1]]), None)} if at.size else {},
        severity=None,
        sentence=f"Underpowered: only {at.size} of the levels have an accuracy; phases take at least 3.",
    )


def _ordered(values: Floats) -> Floats:
    """Seeds in the order of their values, so that the random weights they get do not depend on their numbers."""
    return values[np.lexsort(np.nan_to_num(values, nan=-np.inf).T[::-1])]


def _verdict(seen: Evidence | None, n: int, seed: int) -> tuple[Verdict, float | None, int | None]:
    """Verdict, power for a relevant dip, seeds needed."""
    if seen is None:
        return "underpowered", None, None
    if n >= FEWEST_SEEDS and seen.p_value < ALPHA:
        return "present", None, None
    chance = power(seen, n, generator(seed, "analysis", "power"))
    if n >= FEWEST_SEEDS and chance >= POWER:
        return "not shown", chance, None
    return "underpowered", chance, needed(seen, generator(seed, "analysis", "needed"))


def locate(means: Floats, weights: Floats) -> list[Places]:
    """Dip, peak and where the phases begin, for every mean curve. [B, L], [L].

    Two humps fitted to the smoothed curve say which valley is meant (to the curve itself where smoothing levels it);
    within it dip and peak are the lowest and highest values of the mean itself, the earlier of equals.
    """
    splits = np.full(len(means), -1)
    for curves in (smoothed(means), means):
        left = np.flatnonzero(splits < 0)
        if not left.size:
            break
        errors = humps(curves[left], np.broadcast_to(weights, curves[left].shape))
        two = errors.one - errors.two > 1e-9 * errors.one + ROUNDING**2 * weights.sum()
        splits[left[two]] = errors.split[two]
    return [_places(mean, int(split)) for mean, split in zip(means, splits, strict=True)]


def _places(mean: Floats, split: int) -> Places:
    if split >= 0:
        before = int(np.argmax(mean[: split + 1]))
        after = split + 1 + int(np.argmax(mean[split + 1 :]))
        dip = before + int(np.argmin(mean[before : after + 1]))
        peak = dip + int(np.argmax(mean[dip:]))
        if before < dip < peak:
            fall, rise = mean[before] - mean[dip], mean[peak] - mean[dip]
            return Places(
                before,
                dip,
                peak,
                critical=before + _settled(mean[before : dip + 1] < mean[dip] + fall / 2),
                sweet=dip + _settled(mean[dip : peak + 1] >= mean[dip] + rise / 2),
                collapsed=_collapse(mean, peak, min(fall, rise) / 2),
            )
    top = int(np.argmax(mean))
    fall = mean[top] - mean[-1]
    return Places(-1, -1, -1, -1, -1, _collapse(mean, top, fall / 2) if fall > RELEVANT else -1)


def _settled(true: Bools) -> int:
    """From which index on all are true; one past the end if the last is not."""
    return len(true) - int(np.argmin(true[::-1])) if not true.all() else 0


def _collapse(mean: Floats, top: int, loss: float) -> int:
    """The level from which the curve stays below that at `top` by more than `loss`; -1 if it does not end there."""
    start = top + _settled(mean[top:] < mean[top] - loss)
    return start if start < len(mean) else -1


def _threshold(curve: Group, seed: int) -> Point | None:
    """Interpolation threshold: the first level whose mean train accuracy is below 99 % of that of the first level."""
    if curve.train is None or not np.isfinite(curve.train[:, 0]).any():
        return None
    levels = np.isfinite(curve.train).any(axis=0)
    values = _ordered(curve.train[np.ix_(np.isfinite(curve.train).any(axis=1), levels)])
    numbers, sparsity, there = curve.levels[levels], curve.sparsity[levels], np.isfinite(values)
    summary = spread(values, there)
    at = _below(summary.mean)
    if at < 0:
        return None
    interval = None
    if len(values) > 1:
        means = reweighted(summary, there, RESAMPLES, generator(seed, "analysis", "threshold"))
        found = [first for mean in means if (first := _below(mean)) >= 0] or [at]
        low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
        interval = int(numbers[low]), int(numbers[high])
    return Point(int(numbers[at]), float(sparsity[at]), float(summary.mean[at]), interval)


def _below(train: Floats) -> int:
    below = train < THRESHOLD * train[0]
    return int(np.argmax(below)) if below.any() else -1


def _listed(pair: tuple[Any, Any] | None) -> list[Any] | None:
    return None if pair is None else list(pair)
