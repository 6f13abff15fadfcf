"""Findings as the report reads them: from the store when a section asks, in short over the seeds of a curve."""

# S seeds.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load

from prunephase.analysis import summarise
from prunephase.diagnoses import DIAGNOSES
from prunephase.errors import DamagedError, IncompatibleError
from prunephase.reports.series import At, Series
from prunephase.store import Record, Store
from prunephase.trial import Trial

Rows = Sequence[Mapping[str, Any]]
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Findings:
    """What diagnoses say of the levels of some trials. names: the diagnoses, ours and users' own.

    rows, arrays: of (trial digest, level, diagnosis); empty where that was not asked. They are read when they are
    needed: those of a large study do not fit into memory.
    """

    names: Sequence[str]
    rows: Callable[[str, int, str], Rows]
    arrays: Callable[[str, int, str], Arrays]


NONE = Findings((), lambda *_: (), lambda *_: {})


def kept(place: Store, trials: Sequence[Trial]) -> Findings:
    """The findings in a store that were made from the levels as they are."""
    folders = [place.folder / "findings" / trial.digest() for trial in trials]
    stems = {path.stem for folder in folders for path in folder.glob("level-*/*.json")}
    # a user's own is module:function, which a file's name cannot hold
    names = sorted(stem if stem in DIAGNOSES else ":".join(stem.rsplit(".", 1)) for stem in stems)

    def finding(trial: str, level: int, name: str) -> Record | None:
        with suppress(DamagedError, IncompatibleError):
            found, record = place.finding(trial, level, name), place.record(trial, level)
            if found is not None and record is not None and found.body["parent"] == record.seal:
                return found
        return None

    @lru_cache(maxsize=256)  # a section asks for one column after another
    def rows(trial: str, level: int, name: str) -> Rows:
        found = finding(trial, level, name)
        return found.body["rows"] if found is not None else ()

    def arrays(trial: str, level: int, name: str) -> Arrays:
        found = finding(trial, level, name)
        if found is None or "arrays" not in found.body["blobs"]:
            return {}
        with suppress(DamagedError):
            return load(place.blob(found.body["blobs"]["arrays"]))
        return {}

    return Findings(names, rows, arrays)


def prefix_of(name: str) -> str:
    """What the columns of a diagnosis begin with, as the table has it."""
    return f"{name.rpartition(':')[2]}_"


def columns(one: Series, name: str) -> list[str]:
    """The headline columns of a diagnosis that hold numbers of this curve."""
    begins = prefix_of(name)
    return [column for column in one.rows.columns if column.startswith(begins) and numeric(one.rows, column)]


def numeric(rows: pl.DataFrame, column: str) -> bool:
    """Whether a column is there and holds a finite number."""
    if column not in rows.columns or not rows[column].dtype.is_numeric():
        return False
    return bool(rows[column].cast(pl.Float64).is_finite().any())


def summary(one: Series, column: str) -> list[At]:
    """A headline column at every level where some seed has a value; empty where there is no such column."""
    return one.summary(column) if numeric(one.rows, column) else []


def at(one: Series, column: str, level: int | None) -> At | None:
    """A headline column at one level."""
    return next((found for found in summary(one, column) if found.level == level), None)


def told(one: Series, name: str, most: int = 6) -> dict[str, int]:
    """The levels at which a diagnosis was made, by role or number; where they are many, those that tell the story."""
    held = [pl.col(c).is_not_null() for c in one.rows.columns if c.startswith(prefix_of(name))]
    made = sorted(set(one.rows.filter(pl.any_horizontal(held))["level"])) if held else []
    roles = {level: role for role, level in reversed({**one.roles(), "last": int(one.group.levels[-1])}.items())}
    chosen = made if len(made) <= most else [level for level in made if level in roles]
    return {roles.get(level, f"level {level}"): level for level in chosen}


def by_part(
    one: Series, findings: Findings, name: str, level: int, column: str, kind: str | None = None
) -> dict[str, At]:
    """A column of the rows of a diagnosis at one level, by part, over the seeds; "network" left out.

    kind: of the rows that say one, those of this kind alone.
    """
    values: dict[str, list[float]] = {}
    sparsity = float(one.group.sparsity[list(one.group.levels).index(level)])
    for trial in sorted(one.rows["trial"].unique()):
        for row in findings.rows(trial, level, name):
            wanted = row["part"] != "network" and row.get("kind") == kind
            if wanted and isinstance(row.get(column), int | float):
                values.setdefault(str(row["part"]), []).append(float(row[column]))
    return {part: short(level, sparsity, held) for part, held in values.items() if np.isfinite(held).any()}


def short(level: int, sparsity: float, values: Sequence[float]) -> At:
    """Values of some seeds as mean, spread and interval. [S]"""
    found = summarise(np.asarray(values, dtype=np.float64)[:, None])
    many = int(found.n[0]) > 1
    sd, interval = float(found.sd[0]), (float(found.low[0]), float(found.high[0]))
    mean, n = float(found.mean[0]), int(found.n[0])
    return At(level, sparsity, mean, n, sd if many else None, interval if many else None)
