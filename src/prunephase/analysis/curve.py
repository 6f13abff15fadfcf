"""Curves: accuracy against the ladder, one value per seed and level, from a study's table or from a file."""

# S seeds, L levels.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prunephase.analysis.openlth import read_openlth
from prunephase.errors import UserError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

TEST, TRAIN = "test_accuracy", "train_accuracy"
VALIDATION = "validation_accuracy"
ARM = "arm"  # column that names the arms of a study, where it has some
NEEDED = ("seed", "level", "sparsity")
KNOWN = ("sparsity", TEST, TRAIN, "seed", "level")
FEWEST = 3  # levels: before, at and after a dip


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

    def plot(self, ax: Axes | None = None, *, phases: bool | None = None) -> Axes:
        """This curve alone, as `Curve.plot` draws it."""
        from prunephase.analysis.plot import draw

        return draw([self], ax, phases, "accuracy")


@dataclass(frozen=True)
class Curve:
    """Curves of one quantity `y`, told apart by the columns `by`."""

    y: str
    by: tuple[str, ...]
    members: tuple[Group, ...]

    def groups(self) -> list[Group]:
        """The single curves, ordered by key."""
        return list(self.members)

    def plot(self, ax: Axes | None = None, *, phases: bool | None = None) -> Axes:
        """Draw the curves on an axis of matplotlib (default: the current one), for a paper.

        figure, ax = plt.subplots(figsize=(5, 3))
        pp.curve(table).plot(ax)

        Each curve has its own colour, marker and dash: means over seeds, with 95 % Student-t intervals as bands from
        two seeds on; dip and peak ringed, faintly where the verdict is not "present". x: levels, called by their
        sparsity; where a level has more than one, the share kept, on a logarithmic scale. phases: shade them, as is
        done by itself where there is one curve.

        Raises UserError where matplotlib is missing (`pip install prunephase[plot]`), or phases of several are wanted.
        """
        from prunephase.analysis.plot import draw

        return draw(self.members, ax, phases, self.y.replace("_", " "))


def curve(table: pl.DataFrame, y: str = TEST, by: Sequence[str] | None = None) -> Curve:
    """Gather a level table, one row per trial and level, into curves with one value per seed and level.

    `by`: columns that tell the curves apart; default: every dotted trial field (`noise.rate`, ...) that varies, or,
    where the table names arms, the arm and the fields that vary within one.
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
    return Curve(y, names, tuple(_gather(key, part, y) for key, part in split(table, names)))


def split(table: pl.DataFrame, by: Sequence[str] | None = None) -> list[tuple[dict[str, Any], pl.DataFrame]]:
    """The rows of each curve of a level table with what sets it apart, in the order of `curve(...).groups()`."""
    names = _varying(table) if by is None else tuple(by)
    if not names:
        return [({}, table)]
    # by their text, because polars cannot group by lists and structs
    ids = pl.Series([repr(row) for row in table.select(names).iter_rows()])
    parts = [table.filter(ids == one) for one in dict.fromkeys(ids)]
    members = [({name: part[name][0] for name in names}, part) for part in parts]
    return sorted(members, key=lambda member: [_rank(v) for v in member[0].values()])


def _varying(table: pl.DataFrame) -> tuple[str, ...]:
    arms = table[ARM].to_list() if ARM in table.columns else [None] * table.height
    count = len(set(arms))
    dotted = [name for name in table.columns if "." in name]
    varying = (name for name in dotted if len({*zip(arms, map(repr, table[name].to_list()), strict=True)}) > count)
    return (*((ARM,) if count > 1 else ()), *varying)


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
        raise UserError(
            f"{name}: level {apart['level'][0]} has more than one sparsity; tell the curves apart with by = [...]"
        )
    levels = spread["level"].to_numpy().astype(np.int64)
    seeds = sorted(set(rows["seed"].to_list()))
    at = (np.searchsorted(seeds, rows["seed"].to_numpy()), np.searchsorted(levels, rows["level"].to_numpy()))
    diverged = (
        rows["status"].to_numpy() == "diverged" if "status" in rows.columns else np.zeros(rows.height, dtype=bool)
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


def read_curve(path: str | Path) -> Curve:
    """One curve from a file or a sweep of OpenLTH; see `read_rows`, whose errors it raises."""
    return curve(read_rows(path), TEST, by=())


def read_rows(path: str | Path) -> pl.DataFrame:
    """The rows of one curve, by seed and level: from a file with the columns sparsity, test_accuracy and, optionally,
    train_accuracy, seed, level; or from the folder of a sweep of OpenLTH (see `openlth`).

    Shares or percent is decided for each column by its largest value: up to 1 shares, above 1.5 percent, in between an
    error. Without `level`, levels are the ranks of the sparsities, from 0; without `seed`, there is one. Other columns
    are ignored.

    Raises UserError, in one line, for a file that is missing, empty or of another kind; columns that are missing or not
    numeric; values that are empty, NaN or out of range; a level twice; fewer than 3 levels.
    """
    path = Path(path)
    table = _load(path)
    for name in ("sparsity", TEST):
        if name not in table.columns:
            raise UserError(
                f"{path.name}: column {name!r} is missing; {nearest(name, table.columns)}; needed: sparsity, {TEST}"
            )
    if table.is_empty():
        raise UserError(f"{path.name}: no rows; expected one per seed and level")
    table = table.select(_numbers(path, table[name], name) for name in KNOWN if name in table.columns)
    accuracies = [name for name in (TEST, TRAIN) if name in table.columns]
    table = table.with_columns(_shares(path, table[name]) for name in ("sparsity", *accuracies))
    table = table.with_columns(_whole(path, table, "seed") if "seed" in table.columns else pl.lit(0).alias("seed"))
    ranks = (pl.col("sparsity").round(6).rank("dense") - 1).cast(pl.Int64).alias("level")
    table = table.with_columns(_whole(path, table, "level") if "level" in table.columns else ranks)
    if table["level"].n_unique() < FEWEST:
        raise UserError(f"{path.name}: {table['level'].n_unique()} level(s); a dip needs at least {FEWEST} sparsities")
    try:
        found = curve(table, TEST, by=())
    except UserError as error:
        raise UserError(f"{path.name}: {str(error).removeprefix('the table: ')}") from None
    sparsity = found.members[0].sparsity
    if (sparsity[1:] <= sparsity[:-1]).any():
        raise UserError(f"{path.name}: sparsity does not rise with level; remove the column 'level' to have it derived")
    return table


def _load(path: Path) -> pl.DataFrame:
    if path.is_dir():
        return read_openlth(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; expected a csv or parquet file with the columns sparsity, {TEST}")
    if path.suffix.lower() not in (".csv", ".tsv", ".txt", ".parquet", ".pq"):
        raise UserError(f"{path.name}: ends in {path.suffix or 'nothing'!r}; expected .csv, .tsv or .parquet")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pl.read_parquet(path)
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        table = pl.read_csv(path, separator=separator, infer_schema=False, encoding="utf8")
        return table.rename({name: " ".join(name.lstrip("\ufeff").split()) for name in table.columns})
    except OSError as error:
        raise UserError(f"{path.name}: cannot be read ({error.strerror or 'I/O error'})") from None
    except pl.exceptions.NoDataError:
        raise UserError(f"{path.name}: empty; expected the columns sparsity, {TEST}") from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        kind = "parquet" if path.suffix.lower() in (".parquet", ".pq") else "csv"
        raise UserError(f"{path.name}: not a {kind} file; expected the columns sparsity, {TEST}") from None


def _numbers(path: Path, column: pl.Series, name: str) -> pl.Series:
    text = column.str.strip_chars() if column.dtype == pl.String else column
    try:
        numbers = text.cast(pl.Float64, strict=False)
    except pl.exceptions.PolarsError:
        raise UserError(f"{path.name}: column {name!r} holds {column.dtype}; expected numbers") from None
    bad = (numbers.is_null() | ~numbers.is_finite().fill_null(False)).arg_true()
    if len(bad):
        came = column[bad[0]]
        raise UserError(
            f"{path.name}, row {bad[0] + 1}: {name} = {came!r} is not a finite number; correct or remove the row"
        )
    return numbers.alias(name)


def _whole(path: Path, table: pl.DataFrame, name: str) -> pl.Series:
    column = table[name]
    bad = ((column != column.round()) | (column < 0) | (column > 2**53)).arg_true()
    if len(bad):
        raise UserError(f"{path.name}, row {bad[0] + 1}: {name} = {column[bad[0]]:g}; expected a whole number from 0")
    return column.cast(pl.Int64)


def _shares(path: Path, column: pl.Series) -> pl.Series:
    low, high = float(column.to_numpy().min()), float(column.to_numpy().max())
    span = f"{path.name}: {column.name} from {low:g} to {high:g}"
    if low < 0 or high > 100:
        raise UserError(f"{span}; expected shares in [0, 1] or percent in [0, 100]")
    if 1 < high <= 1.5:
        raise UserError(f"{span}; shares or percent? write shares in [0, 1]")
    return column / 100 if high > 1 else column
