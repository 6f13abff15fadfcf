"""Reading: anybody's curve from a csv or parquet file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from prunephase.analysis.curve import TRAIN, Curve, curve
from prunephase.errors import UserError, nearest

Y = "test_accuracy"
KNOWN = ("sparsity", Y, TRAIN, "seed", "level")
FEWEST = 3  # levels: before, at and after a dip


def read_curve(path: str | Path) -> Curve:
    """One curve from a file with the columns sparsity, test_accuracy and, optionally, train_accuracy, seed, level.

    Shares or percent is decided for each column by its largest value: up to 1 shares, above 1.5 percent, in between an
    error. Without `level`, levels are the ranks of the sparsities, from 0; without `seed`, there is one. Other columns
    are ignored.

    Raises UserError, in one line, for a file that is missing, empty or of another kind; columns that are missing or not
    numeric; values that are empty, NaN or out of range; a level twice; fewer than 3 levels.
    """
    path = Path(path)
    table = _load(path)
    for name in ("sparsity", Y):
        if name not in table.columns:
            raise UserError(
                f"{path.name}: column {name!r} is missing; {nearest(name, table.columns)}; needed: sparsity, {Y}"
            )
    if table.is_empty():
        raise UserError(f"{path.name}: no rows; expected one per seed and level")
    table = table.select(_numbers(path, table[name], name) for name in KNOWN if name in table.columns)
    accuracies = [name for name in (Y, TRAIN) if name in table.columns]
    table = table.with_columns(_shares(path, table[name]) for name in ("sparsity", *accuracies))
    table = table.with_columns(_whole(path, table, "seed") if "seed" in table.columns else pl.lit(0).alias("seed"))
    ranks = (pl.col("sparsity").round(6).rank("dense") - 1).cast(pl.Int64).alias("level")
    table = table.with_columns(_whole(path, table, "level") if "level" in table.columns else ranks)
    if table["level"].n_unique() < FEWEST:
        raise UserError(f"{path.name}: {table['level'].n_unique()} level(s); a dip needs at least {FEWEST} sparsities")
    try:
        found = curve(table, Y, by=())
    except UserError as error:
        raise UserError(f"{path.name}: {str(error).removeprefix('the table: ')}") from None
    sparsity = found.members[0].sparsity
    if (sparsity[1:] <= sparsity[:-1]).any():
        raise UserError(f"{path.name}: sparsity does not rise with level; remove the column 'level' to have it derived")
    return found


def _load(path: Path) -> pl.DataFrame:
    if path.is_dir():
        raise UserError(f"{path}: a folder; expected a csv or parquet file")
    if not path.exists():
        raise UserError(f"{path}: no such file; expected a csv or parquet file with the columns sparsity, {Y}")
    if path.suffix.lower() not in (".csv", ".tsv", ".txt", ".parquet", ".pq"):
        raise UserError(f"{path.name}: ends in {path.suffix or 'nothing'!r}; expected .csv, .tsv or .parquet")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pl.read_parquet(path)
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        table = pl.read_csv(path, separator=separator, infer_schema=False, encoding="utf8")
    except OSError as error:
        raise UserError(f"{path.name}: cannot be read ({error.strerror or 'I/O error'})") from None
    except pl.exceptions.NoDataError:
        raise UserError(f"{path.name}: empty; expected the columns sparsity, {Y}") from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        kind = "parquet" if path.suffix.lower() in (".parquet", ".pq") else "csv"
        raise UserError(f"{path.name}: not a {kind} file; expected the columns sparsity, {Y}") from None
    return table.rename({name: name.strip().lstrip("\ufeff") for name in table.columns})


def _numbers(path: Path, column: pl.Series, name: str) -> pl.Series:
    text = column.str.strip_chars() if column.dtype == pl.String else column
    try:
        numbers = text.cast(pl.Float64, strict=False)
    except pl.exceptions.PolarsError:
        raise UserError(f"{path.name}: column {name!r} holds {column.dtype}; expected numbers") from None
    bad = (numbers.is_null() | ~numbers.is_finite().fill_null(False)).arg_true()
    if len(bad):
        came = column[bad[0]]
        raise UserError(f"{path.name}, row {bad[0] + 1}: {name} = {came!r} is not a finite number; correct or remove the row")
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
