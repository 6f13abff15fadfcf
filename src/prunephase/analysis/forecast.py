"""Forecast: what a share of wrong labels has meant for a sweep, on the curves that come with the program."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Literal

from prunephase.analysis.published import curves, landmarks

COSTLY = 0.01  # accuracy that stopping at the first drop must forfeit to be worth a sweep
Needed = Literal["yes", "no", "perhaps", "unknown"]


@dataclass(frozen=True)
class Sweep:
    """A sweep that is known. wrong: share of the training labels; dip, peak: sparsities, None where no dip was shown.

    before, at_dip, at_peak: test accuracies, the first that of the best level ahead of the dip.
    """

    name: str
    source: str
    wrong: float
    dip: float | None
    peak: float | None
    before: float
    at_dip: float | None
    at_peak: float | None

    @property
    def forfeited(self) -> float:
        """Accuracy of the peak less that of the best level ahead of the dip: what stopping at the first drop costs."""
        return 0.0 if self.at_peak is None else self.at_peak - self.before


@dataclass(frozen=True)
class Forecast:
    """What to expect, by the known sweeps of data with about as many wrong labels.

    like: those of the same source, and where there is none (not `alike`) of all; needed: whether stopping at the first
    drop forfeits more than a point in all of them (yes), none (no) or some (perhaps), unknown where there is none.
    """

    alike: bool
    like: tuple[Sweep, ...]
    needed: Needed

    @property
    def dips(self) -> tuple[float, float] | None:
        """Lowest and highest sparsity at which to expect the dip; None where nothing is predicted."""
        return _edges([one.dip for one in self.like] if self.alike else [])

    @property
    def peaks(self) -> tuple[float, float] | None:
        """Likewise of the peak."""
        return _edges([one.peak for one in self.like] if self.alike else [])

    @property
    def sentences(self) -> tuple[str, str]:
        """What it predicts for the sweep, and whether the tool is needed."""
        return _predicted(self), _needed(self)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        predicted, needed = self.sentences
        return {
            "alike": self.alike,
            "dip": list(self.dips) if self.dips else None,
            "peak": list(self.peaks) if self.peaks else None,
            "prediction": predicted,
            "needed": self.needed,
            "why": needed,
            "sweeps": [asdict(one) for one in self.like],
        }


def forecast(wrong: float | None, source: str) -> Forecast:
    """What the sweeps that come with the program say of data of a source with a share of wrong labels; None: unknown.

    >>> forecast(0.2, "mnist").needed, forecast(0.005, "mnist").needed, forecast(0.2, "table").alike
    ('yes', 'no', False)
    """
    if wrong is None:
        return Forecast(False, (), "unknown")
    about = min(0.1, max(0.02, wrong / 2)) + 1e-9  # alike: a point matters at 1 %, not at 40 %
    near = [one for one in sweeps() if abs(one.wrong - wrong) <= about]
    same = tuple(one for one in near if one.source == source)
    like = same or tuple(near)
    costly = sum(one.forfeited > COSTLY for one in like)
    needed: Needed = "unknown" if not like else "yes" if costly == len(like) else "perhaps" if costly else "no"
    return Forecast(bool(same), like, needed)


@functools.cache  # package data, which does not change
def sweeps() -> tuple[Sweep, ...]:
    """The published curves without an antidote, and those that this project measured, which name their results."""
    found = []
    for one in (curve for curve in curves() if curve.where["antidote.kind"] == "none"):
        said = landmarks(one.name)
        assert said.dip is not None
        assert said.peak is not None
        assert said.severity is not None
        before = said.dip.value + said.severity.depth
        place = one.where["data.source"], one.wrong, said.dip.sparsity, said.peak.sparsity
        found.append(Sweep(f"{one.paper}, {one.figure}: {one.name}", *place, before, said.dip.value, said.peak.value))
    text = (resources.files("prunephase") / "published" / "measured.csv").read_text("utf-8")
    for row in csv.DictReader(io.StringIO(text)):
        dip, peak, at_dip, at_peak = (
            float(row[name]) if row[name] else None for name in ("dip", "peak", "dip_accuracy", "peak_accuracy")
        )
        name = f"{row['data']}, {row['model']}, {row['where']}"
        before = float(row["before_accuracy"])
        found.append(Sweep(name, row["source"], float(row["wrong"]), dip, peak, before, at_dip, at_peak))
    return tuple(found)


def level(sparsity: float, fraction: float) -> int:
    """The level of an iterative ladder that comes nearest to a sparsity, where each prunes a fraction of what is left.

    >>> level(0.893, 0.2)
    10
    """
    return round(math.log1p(-sparsity) / math.log1p(-fraction))


def _predicted(said: Forecast) -> str:
    if not said.alike:
        others = _edges([one.dip for one in said.like])
        seen = f"; other data with about as many wrong labels had theirs at {_span(others)} sparsity" if others else ""
        return f"Nothing is predicted for the dip: no known sweep is of such data{seen}."
    of = f"{len(said.like)} known sweep{'s' if len(said.like) > 1 else ''} of this source with about as many"
    if said.dips is None or said.peaks is None:
        return f"No dip is to be expected: {of} wrong labels, none with a dip."
    many = sum(one.dip is not None for one in said.like)
    return (
        f"A dip is to be expected at {_span(said.dips)} sparsity and the peak at {_span(said.peaks)}: {of} wrong "
        f"labels, {many} with a dip, of other models, sizes or recipes."
    )


def _needed(said: Forecast) -> str:
    if said.needed == "unknown":
        return "Whether a sweep is worth it is not known: no known sweep has about as many wrong labels."
    costly = [one.forfeited for one in said.like if one.forfeited > COSTLY]
    other = "" if said.alike else " of other data"
    words = {"yes": "is worth it", "no": "is hardly needed", "perhaps": "may be worth it"}
    low, high = (f"{100 * edge:.1f}" for edge in (min(costly, default=0), max(costly, default=0)))
    points = f", {low if low == high else f'{low} to {high}'} points of accuracy" if costly else ""
    return (
        f"A sweep {words[said.needed]}: in {len(costly)} of {len(said.like)} known{other} with about as many wrong "
        f"labels stopping at the first drop costs more than a point{points}."
    )


def _edges(values: Sequence[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def _span(edges: tuple[float, float]) -> str:
    low, high = (f"{100 * edge:.1f}" for edge in edges)
    return f"{low} %" if low == high else f"{low} to {high} %"
