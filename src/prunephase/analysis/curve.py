"""Curves: accuracy against the ladder, one value per seed and level."""

# S seeds, L levels.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prunephase.errors import UserError, nearest

Floats = NDArray[np.float64]

TRAIN = "train_accuracy"
NEEDED = ("seed", "level", "sparsity")


@dataclass(frozen=True)
class Group:
    """One curve: what sets it apart from the others (`key`), and its values.

    levels: [L] int, rising; sparsity: [L], share of prunable weights removed; test: [S, L], accuracies in [0, 1], NaN
    where a level is missing; train: [S, L] on the labels trained on, or None; seeds: [S]. `missing` counts the NaN of
    `test`, `diverged` those among them whose training ended in NaN or Inf.
    """

    key: Mapping[str, Any]
    levels: NDArray[np.int64]
    sparsity: Floats
    test: Floats
    train: Floats | None
    seeds: tuple[int, ...]
    diverged: int = 0

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    @property
    def missing(self) -> int:
        """Cells without a value: never reached, or diverged."""
        return int(np.isnan(self.test).sum())


@dataclass(frozen=True)
class Curve:
    """Curves of one quantity `y`, told apart by the columns `by`."""

    y: str
    by: tuple[str, ...]
    members: tuple[Group, ...]

    def groups(self) -> list[Group]:
        """The single curves, ordered by key."""
        return list(self.members)


def curve(table: pl.DataFrame, y: str = "test_accuracy", by: Sequence[str] | None = None) -> Curve:
    """Gather a level table, one row per trial and level, into curves with one value per seed and level.

    `by`: columns that tell the curves apart; default: every dotted trial field (`noise.rate`, ...) that varies.
    `Group.test` holds the column `y`, NaN where a level is missing or `status` is "diverged".

    >>> rows = [{"noise.rate": r, "seed": 0, "level": i, "sparsity": i / 4, "test_accuracy": 1 - r} for r in (0.2, 0.4)
    ...         for i in range(3)]
    >>> [dict(group.key) for group in curve(pl.DataFrame(rows)).groups()]
    [{'noise.rate': 0.2}, {'noise.rate': 0.4}]

    Raises UserError where a column is missing, two rows claim one level of one seed, or a level has two sparsities.
    """
    for name in (*NEEDED, y, *(by or ())):
        if name not in table.columns:
            raise UserError(f"column {name!r} is not in the table; {nearest(name, table.columns)}")
    if table.is_empty():
        raise UserError("the table has no rows; run a study first")
    if not table[y].dtype.is_numeric():
        raise UserError(f"column {y!r} holds {table[y].dtype}; a curve needs numbers")
    names = _varying(table) if by is None else tuple(by)
    keyed = table.with_columns(pl.col(name).map_elements(repr, pl.String).alias(_sort(name)) for name in _nested(table, names))
    order = [_sort(name) if _sort(name) in keyed.columns else name for name in names]
    if not names:
        return Curve(y, names, (_gather({}, table, y),))
    parts = keyed.partition_by(order, maintain_order=True)
    members = [_gather({name: part[name][0] for name in names}, part, y) for part in parts]
    return Curve(y, names, tuple(sorted(members, key=lambda group: [_rank(v) for v in group.key.values()])))


def _varying(table: pl.DataFrame) -> tuple[str, ...]:
    dotted = [name for name in table.columns if "." in name]
    return tuple(name for name in dotted if len({repr(value) for value in table[name].to_list()}) > 1)


def _nested(table: pl.DataFrame, names: Sequence[str]) -> list[str]:
    """Columns polars cannot group by as they are: lists, structs, objects."""
    return [name for name in names if table[name].dtype.is_nested() or table[name].dtype == pl.Object]


def _sort(name: str) -> str:
    return f"\0{name}"


def _rank(value: Any) -> tuple[int, Any]:
    """Numbers by size, then everything else by its text; None first."""
    if value is None:
        return (0, 0)
    return (1, float(value)) if isinstance(value, int | float) else (2, str(value))


def _gather(key: Mapping[str, Any], rows: pl.DataFrame, y: str) -> Group:
    name = ", ".join(f"{k} = {v}" for k, v in key.items()) or "the table"
    cells = rows.select("seed", "level")
    if cells.is_duplicated().any():
        seed, level = cells.filter(cells.is_duplicated()).row(0)
        varying = [v for v in _varying(rows) if v not in key]
        hint = f"; tell the curves apart with by = {[*key, *varying]}" if varying else "; remove one of them"
        raise UserError(f"{name}: seed {seed} has level {level} more than once{hint}")
    spread = rows.group_by("level").agg(low=pl.col("sparsity").min(), high=pl.col("sparsity").max()).sort("level")
    apart = spread.filter(pl.col("high") - pl.col("low") > 1e-6)
    if not apart.is_empty():
        raise UserError(f"{name}: level {apart['level'][0]} has more than one sparsity; tell the curves apart with by = [...]")
    levels = spread["level"].to_numpy().astype(np.int64)
    seeds = sorted(set(rows["seed"].to_list()))
    at = (np.searchsorted(seeds, rows["seed"].to_numpy()), np.searchsorted(levels, rows["level"].to_numpy()))
    diverged = (
        np.array(rows["status"].to_list()) == "diverged" if "status" in rows.columns else np.zeros(rows.height, dtype=bool)
    )

    def matrix(column: str) -> Floats:
        values = np.full((len(seeds), len(levels)), np.nan)
        given = rows[column].cast(pl.Float64).to_numpy().copy()
        given[diverged | ~np.isfinite(given)] = np.nan
        values[at] = given
        return values

    train = matrix(TRAIN) if TRAIN in rows.columns and rows[TRAIN].dtype.is_numeric() else None
    return Group(
        key=dict(key),
        levels=levels,
        sparsity=spread["low"].to_numpy().astype(np.float64),
        test=matrix(y),
        train=train if train is not None and np.isfinite(train).any() else None,
        seeds=tuple(int(seed) for seed in seeds),
        diverged=int(diverged.sum()),
    )
