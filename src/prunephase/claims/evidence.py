"""Evidence: what a finished study shows, as numbers of each seed that claims are about."""

# S seeds, L levels.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prunephase.analysis import Group, Phases, efficacy, phases, threshold
from prunephase.analysis.facts import Fact
from prunephase.analysis.severity import early_stop

Floats = NDArray[np.float64]
HIGH = 0.9  # the sparsity above which He et al. place the sweet phase under noise


@dataclass(frozen=True)
class Evidence:
    """One study's curve at the last epoch, and at the epoch that is best on test (an oracle: as the papers draw it)."""

    last: Group
    best: Group
    seconds: float  # of training

    @cached_property
    def phases(self) -> Phases:
        """Of the curve of all seeds."""
        return phases(self.last)

    @cached_property
    def places(self) -> tuple[int, int, int] | None:
        """Indices of the best level before the dip, the dip and the peak of the mean curve; None without a dip."""
        if self.phases.dip is None or self.phases.peak is None:
            return None
        dip, peak = (int(np.searchsorted(self.last.levels, p.level)) for p in (self.phases.dip, self.phases.peak))
        return int(np.nanargmax(np.nanmean(self.last.test[:, :dip], axis=0))), dip, peak

    @property
    def peak(self) -> int:
        """Index of the peak of the mean curve, its highest level where it has no dip."""
        return self.places[2] if self.places else int(np.nanargmax(np.nanmean(self.last.test, axis=0)))

    @cached_property
    def turns(self) -> Floats:
        """Levels of dip and peak of each seed's own curve, NaN where it has none. [S, 2].

        A curve without an interior dip that rises from its start dips at its first level of all.
        """
        found = np.full((self.last.n, 2), np.nan)
        for seed, values in enumerate(self.last.test):
            if not np.isfinite(values).all():
                continue  # where a missing level would have turned the curve is not known
            own = phases(replace(self.last, test=values[None], train=None, seeds=(self.last.seeds[seed],)))
            if own.dip is not None and own.peak is not None:
                found[seed] = own.dip.level, own.peak.level
            elif (top := int(np.argmax(values))) > 0:
                found[seed] = self.last.levels[int(np.argmin(values[: top + 1]))], self.last.levels[top]
        return found


def depth(seen: Evidence) -> Floats:
    """Depth of the mean curve's dip in each seed, below the lower of its two sides; 0 without a dip. [S]."""
    return _depth(seen.last.test, seen.places)


def depth_at_best(seen: Evidence) -> Floats:
    """Depth, at the same three levels, of the curve of best epochs. [S]."""
    return _depth(seen.best.test, seen.places)


def high_at_best(seen: Evidence) -> Floats:
    """Accuracy at the best epoch, mean over the levels above 90 % sparsity. [S]."""
    return np.asarray(seen.best.test[:, seen.best.sparsity > HIGH].mean(axis=1))


def forfeited(seen: Evidence) -> Floats:
    """Accuracy at the seed's best level less that of a stop after three levels without a new best. [S]."""
    return np.array([np.max(v) - v[early_stop(v)[1]] if np.isfinite(v).all() else np.nan for v in seen.last.test])


QUANTITIES: Mapping[str, tuple[str, Callable[[Evidence], Floats]]] = {
    "dip level": ("levels", lambda seen: seen.turns[:, 0]),
    "peak level": ("levels", lambda seen: seen.turns[:, 1]),
    "threshold": ("levels", lambda seen: _values(threshold(seen.last))),
    "efficacy": ("levels", lambda seen: _values(efficacy(seen.last, unit="level"))),
    "gain of the peak over dense": ("accuracy", lambda seen: seen.last.test[:, seen.peak] - seen.last.test[:, 0]),
    "dense accuracy": ("accuracy", lambda seen: seen.last.test[:, 0]),
    "peak accuracy": ("accuracy", lambda seen: seen.last.test[:, seen.peak]),
    "depth": ("accuracy", depth),
    "depth spared at best epoch": ("accuracy", lambda seen: depth(seen) - depth_at_best(seen)),
    "best-epoch accuracy at high sparsity": ("accuracy", high_at_best),
    "train accuracy at dip": ("accuracy", lambda seen: _train(seen, seen.places[1] if seen.places else None)),
    "train accuracy at peak": ("accuracy", lambda seen: _train(seen, seen.peak)),
    "forfeited by early stop": ("accuracy", forfeited),
}


def _depth(values: Floats, places: tuple[int, int, int] | None) -> Floats:
    if places is None:
        return np.zeros(len(values))
    before, dip, peak = places
    return np.asarray(np.minimum(values[:, before], values[:, peak]) - values[:, dip])


def _train(seen: Evidence, place: int | None) -> Floats:
    if place is None or seen.last.train is None:
        return np.full(seen.last.n, np.nan)
    return seen.last.train[:, place]


def _values(fact: Fact) -> Floats:
    return np.array([np.nan if v is None else v for v in fact.per_seed])
