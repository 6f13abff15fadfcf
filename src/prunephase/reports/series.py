"""What a report shows: the table sorted into curves, with mean, spread and n of every quantity."""

# S seeds, L levels.

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl

from prunephase.analysis import Group, Phases, Summary, curve, phases, summarise
from prunephase.analysis.curve import split
from prunephase.analysis.map import apart, named
from prunephase.reports.words import clipped, seeds

# Every column a chart or a table may ask for; a half-done study lacks some of them.
SHARES = (
    "train_accuracy",
    "validation_accuracy",
    "test_accuracy",
    "permuted_accuracy",
    "unpermuted_accuracy",
    "restored_accuracy",
    "best_validation_accuracy",
    "test_accuracy_at_best",
    "oracle_test_accuracy",
)
NEEDED: Mapping[str, Any] = {
    "trial": pl.String,
    "seed": pl.Int64,
    "level": pl.Int64,
    "status": pl.String,
    "sparsity": pl.Float64,
    "remaining": pl.Int64,
    "prunable": pl.Int64,
    "epochs": pl.Int64,
    **dict.fromkeys(SHARES, pl.Float64),
}


@dataclass(frozen=True)
class At:
    """One quantity at one level: mean over n seeds, sd of one seed, Student-t interval of the mean; None for n < 2."""

    level: int
    sparsity: float
    mean: float
    n: int
    sd: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Series:
    """One curve of the study: what sets it apart (`label`, `key`), its rows, and what the detector says of it."""

    label: str
    key: Mapping[str, Any]
    rows: pl.DataFrame
    group: Group
    phases: Phases
    # every section asks for the same few summaries, 20 ms each
    known: dict[str, list[At]] = field(default_factory=dict, repr=False, compare=False)

    def summary(self, column: str) -> list[At]:
        """`column` at every level where some seed has a value; diverged levels left out."""
        if column not in self.known:
            self.known[column] = self._summary(column)
        return self.known[column]

    def _summary(self, column: str) -> list[At]:
        if not self.rows[column].is_finite().any():
            return []
        found = curve(self.rows, column, by=())
        return _listed(found.groups()[0], summarise(found.groups()[0].test))

    def at(self, column: str, level: int | None) -> At | None:
        """`column` at one level; None where nothing was measured."""
        return next((at for at in self.summary(column) if at.level == level), None)

    def seeds(self, column: str) -> list[tuple[int, int, float, float]]:
        """(seed, level, sparsity, value) of every finished level."""
        kept = self.rows.filter((pl.col("status") != "diverged") & pl.col(column).is_finite())
        return list(kept.sort("seed", "level").select("seed", "level", "sparsity", column).iter_rows())

    def roles(self) -> dict[str, int]:
        """Levels that tell the story: dense, dip, peak, collapsed (its last); first, middle and last without a dip."""
        levels = [int(level) for level in self.group.levels]
        found = {"dense": levels[0]}
        if self.phases.dip and self.phases.peak:
            found |= {"dip": self.phases.dip.level, "peak": self.phases.peak.level}
            if "collapsed" in self.phases.phases:
                found["collapsed"] = self.phases.phases["collapsed"].end
        elif len(levels) > 2:
            found |= {"middle": levels[len(levels) // 2], "last": levels[-1]}
        return found


class Detected(Protocol):
    """What has gone through the detector."""

    @property
    def phases(self) -> Phases: ...


@dataclass(frozen=True)
class Ladder:
    """Where a level stands on the x-axis: at its number, or, where groups disagree, at -log10(density)."""

    sparsity: Mapping[int, float]
    shared: bool

    def x(self, level: int, sparsity: float) -> float:
        """Place of a level."""
        return float(level) if self.shared else -math.log10(max(1.0 - sparsity, 1e-9))


def series(table: pl.DataFrame) -> list[Series]:
    """The curves of a level table, one for each combination of trial fields that vary. Empty for an empty table."""
    if table.is_empty():
        return []
    found = curve(table)
    keys = apart([group.key for group in found.groups()])
    result: list[Series] = []
    for group, key, (_, rows) in zip(found.groups(), keys, split(table), strict=True):
        label = clipped(named(key, key), 60) or "this study"
        result.append(Series(_unused(label, result), key, rows, group, phases(group)))
    return result


def complete(table: pl.DataFrame, needed: Mapping[str, Any] = NEEDED) -> pl.DataFrame:
    """The table with every needed column, null where it is absent, of the type that charts and sums expect."""
    if not table.columns:
        return pl.DataFrame(schema=dict(needed))
    absent = [pl.lit(None, dtype=kind).alias(name) for name, kind in needed.items() if name not in table.columns]
    present = [pl.col(name).cast(kind) for name, kind in needed.items() if name in table.columns]
    status = pl.col("status").fill_null("ok")
    return table.with_columns(*absent, *present).with_columns(status)


def ladder(found: Sequence[Series]) -> Ladder:
    """The x-axis that all curves share."""
    places: dict[int, set[float]] = {}
    for one in found:
        for level, sparsity in zip(one.group.levels, one.group.sparsity, strict=True):
            places.setdefault(int(level), set()).add(float(sparsity))
    return Ladder(
        {level: min(values) for level, values in sorted(places.items())},
        all(max(values) - min(values) <= 0.005 for values in places.values()),
    )


def constant(table: pl.DataFrame) -> dict[str, Any]:
    """The trial fields that have one value in all rows."""
    dotted = [name for name in table.columns if "." in name]
    return {name: table[name][0] for name in dotted if table[name].len() and len(set(map(repr, table[name]))) == 1}


def dynamics(epochs: pl.DataFrame, one: Series, level: int, column: str) -> list[At]:
    """`column` against epoch at one level, as `At` with the epoch in the place of the level."""
    kept = epochs.filter(
        pl.col("trial").is_in(one.rows["trial"].unique().to_list()) & (pl.col("level") == level)
    ).with_columns(pl.lit("ok").alias("status"))
    if not kept[column].is_finite().any():
        return []
    swapped = kept.with_columns(level=pl.col("epoch"), sparsity=pl.lit(0.0))
    group = curve(swapped, column, by=()).groups()[0]
    return _listed(group, summarise(group.test))


def _listed(group: Group, found: Summary) -> list[At]:
    columns: Iterable[Any] = zip(
        group.levels, group.sparsity, found.mean, found.n, found.sd, found.low, found.high, strict=True
    )
    return [
        At(
            level=int(level),
            sparsity=float(sparsity),
            mean=float(mean),
            n=int(n),
            sd=float(sd) if n > 1 else None,
            interval=(float(low), float(high)) if n > 1 else None,
        )
        for level, sparsity, mean, n, sd, low, high in columns
        if np.isfinite(mean)
    ]


def _unused(label: str, taken: Sequence[Series]) -> str:
    """Two long keys may look alike once clipped; a legend must tell them apart."""
    names = {one.label for one in taken}
    return label if label not in names else f"{label} ({len(names) + 1})"


def prefix(one: Series, found: Sequence[Series]) -> str:
    """Whom a sentence is about, where there is more than one curve."""
    return f"{one.label}: " if len(found) > 1 else ""


def count(found: Sequence[Detected]) -> str:
    """How many seeds stand behind each of these curves."""
    n = sorted({one.phases.n for one in found})
    return seeds(n[0]) if len(n) == 1 else f"{seeds(n[0])} to {n[-1]}"


def head_of(found: Sequence[Series]) -> tuple[str, ...]:
    """The head of the column that names the curve, where there is more than one."""
    return ("curve",) if len(found) > 1 else ()


def first_of(one: Series, found: Sequence[Series]) -> tuple[str, ...]:
    """The cell below it."""
    return (one.label,) if len(found) > 1 else ()
