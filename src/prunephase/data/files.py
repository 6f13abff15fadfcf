"""Files of numbers: npz archives, csv and parquet tables, and files of labels."""

# N examples, F features.

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as plain

from prunephase import checkpoint, sections
from prunephase.data.types import Arrays
from prunephase.errors import UserError, nearest

if TYPE_CHECKING:
    import polars as pl

TABLES = (".csv", ".parquet")
LABELS = (".npz", ".npy", ".txt", ".pt", *TABLES)
CLEAN = "clean_label"  # the array of the true labels, in the files of CIFAR-N


def npz(spec: sections.Data, _home: Path | None) -> Arrays:
    """Arrays x_train, y_train (or x, y) and, where there are any, x_test, y_test and y_clean (true training labels)."""
    path = existing(spec)
    return from_names(read_npz(path, f"data.path = '{path}'"), f"data.path = '{path}'")


def table(spec: sections.Data, _home: Path | None) -> Arrays:
    """One csv or parquet file, or a folder with train.csv and perhaps test.csv (or .parquet): one row per example.

    Column `spec.label` holds the label, `spec.truth` (where named) the true one, every other column is a feature.
    """
    path = existing(spec)
    test = None
    if path.is_dir():
        found = {
            name: next((p for end in TABLES if (p := path / f"{name}{end}").is_file()), None)
            for name in ("train", "test")
        }
        if found["train"] is None:
            raise UserError(f"data.path = '{path}': holds neither train.csv nor train.parquet; name a file or add one")
        path, test = found["train"], found["test"]
    inputs, labels, truth, features = _rows(path, spec, None)
    if test is None:
        return Arrays(inputs, labels, truth=truth)
    test_inputs, test_labels, test_truth, _ = _rows(test, spec, features)
    return Arrays(inputs, labels, test_inputs, test_labels if test_truth is None else test_truth, truth)


def data_folder() -> Path | None:
    """The folder of known data sets, which PRUNEPHASE_DATA names."""
    known = os.environ.get("PRUNEPHASE_DATA")
    return Path(known) if known else None


def existing(spec: sections.Data) -> Path:
    """The path that a source needs."""
    assert spec.path is not None  # sections.Data sees to it
    if not (path := Path(spec.path)).exists():
        raise UserError(f"data.path = '{spec.path}': no such file or folder; paths start where you run prunephase")
    return path


def from_names(arrays: Mapping[str, Any], say: str) -> Arrays:
    """Arrays by their customary names, as `npz` describes them; `say` begins the error."""
    names = ("x_train", "y_train") if "x_train" in arrays else ("x", "y")
    for name in names:
        if name not in arrays:
            raise UserError(f"{say}: holds {', '.join(arrays) or 'nothing'}; expected x_train and y_train (or x and y)")
    tests = (arrays.get("x_test"), arrays.get("y_test"))
    return Arrays(arrays[names[0]], arrays[names[1]], *tests, truth=arrays.get("y_clean"))


def read_npz(path: Path, say: str) -> dict[str, NDArray[np.generic]]:
    """The arrays of an npz archive; none that would need unpickling. `say` begins the error."""
    if not path.is_file():  # no pipe is waited for
        raise UserError(f"{say}: is no file; give an npz archive, saved with np.savez")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as problem:  # a damaged archive fails in as many ways as zip, zlib and numpy know
        raise UserError(
            f"{say}: is not an npz archive of plain arrays ({in_a_line(problem)}); save it with np.savez"
        ) from None


def read_table(path: Path, say: str) -> pl.DataFrame:
    """A csv or parquet file; `say` begins the error."""
    import polars as pl  # heavy, and only tables need it

    if path.suffix not in TABLES:
        raise UserError(f"{say}: '{path.suffix}' is neither .csv nor .parquet; name a table")
    if not path.is_file():  # no pipe is waited for
        raise UserError(f"{say}: is no file; give a csv or parquet table")
    try:
        return (
            pl.read_parquet(path, glob=False)
            if path.suffix == ".parquet"
            else pl.read_csv(path, infer_schema_length=None)
        )
    except (pl.exceptions.PolarsError, OSError) as problem:
        raise UserError(
            f"{say}: is not a {path.suffix[1:]} table ({in_a_line(problem)}); mend or export it again"
        ) from None


def read_labels(path: Path, key: str | None, say: str) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    """Labels [N] from npz or pt (array `key`), npy, csv or parquet (column `key`) or txt (one per line), and the array
    `clean_label` where an npz or pt holds one. `say` begins the error. Nothing in a file is executed."""
    if not path.is_file() or path.suffix not in LABELS:
        problem = f"'{path.suffix}' is no file of labels" if path.is_file() else "no such file"
        raise UserError(f"{say}: {problem}; give the labels as npz, npy, csv, parquet, txt or pt")
    if path.suffix in (".npy", ".txt"):
        try:
            return np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=1), None
        except Exception as fault:  # as for read_npz
            raise UserError(
                f"{say}: is not a {path.suffix[1:]} file of labels ({in_a_line(fault)}); write it again"
            ) from None
    if path.suffix in (".npz", ".pt"):
        found = read_npz(path, say) if path.suffix == ".npz" else _read_pt(path, say)
        return found[_key(key, [name for name in found if name != CLEAN], say)], found.get(CLEAN)
    frame = read_table(path, say)
    return _column(frame, _key(key, frame.columns, say), say), None


def _key(key: str | None, names: list[str], say: str) -> str:
    if key is None and len(names) != 1:
        raise UserError(f"{say}: holds {', '.join(names) or 'nothing'}; say which with noise.key")
    if key is not None and key not in names:
        raise UserError(f"{say}: holds no '{key}'; {nearest(key, names)}")
    return key or names[0]


def _read_pt(path: Path, say: str) -> dict[str, NDArray[np.generic]]:
    """The arrays by name that somebody saved with torch.save: numpy's, tensors or lists."""
    try:
        return plain.load(checkpoint.read(path))
    except ValueError as problem:
        raise UserError(f"{say}: {problem}; save the labels with np.savez") from None


def _rows(
    path: Path, spec: sections.Data, features: list[str] | None
) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic] | None, list[str]]:
    """Inputs [N, F], labels, true labels and the names of the features; those of the training table, where given."""
    say = f"data.path = '{path}'"
    frame = read_table(path, say)
    special = [spec.label] + (
        [spec.truth] if spec.truth is not None and (features is None or spec.truth in frame) else []
    )
    for field, column in zip(("label", "truth"), special, strict=False):
        if column not in frame.columns:
            raise UserError(
                f"data.{field} = '{column}': no such column in {path.name}; {nearest(column, frame.columns)}"
            )
    if frame.is_empty():
        raise UserError(f"{say}: has no rows; expected at least 2 examples")
    names = [column for column in frame.columns if column not in special]
    if features is not None and set(names) != set(features):
        odd = ", ".join(sorted(set(names) ^ set(features)))
        raise UserError(f"{say}: its columns differ from those of the training table ({odd}); make them alike")
    features = features or names
    if not features:
        raise UserError(f"{say}: has no column but the labels; expected numeric features")
    for column in features:
        if not (kind := frame.schema[column]).is_numeric():
            raise UserError(f"{say}: column '{column}' is {kind}, not numeric; drop it or encode it as numbers")
    inputs = frame.select(features).to_numpy().astype(np.float64)
    if not (finite := np.isfinite(inputs)).all():
        row, column_index = np.argwhere(~finite)[0]
        raise UserError(f"{say}: column '{features[column_index]}' is empty, NaN or Inf in row {row}; drop or fill it")
    labels = [_column(frame, column, say) for column in special]
    return inputs, labels[0], labels[1] if len(labels) > 1 else None, features


def _column(frame: pl.DataFrame, name: str, say: str) -> NDArray[np.generic]:
    column = frame[name]
    if column.null_count():
        raise UserError(f"{say}: column '{name}' is empty in row {column.is_null().arg_max()}; drop or label that row")
    if column.dtype.is_numeric():
        return column.to_numpy()
    import polars as pl

    if column.dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Boolean):
        raise UserError(f"{say}: column '{name}' is {column.dtype}; expected labels as whole numbers or names")
    return np.array(column.cast(pl.String).to_list(), dtype=str)


def in_a_line(problem: Exception) -> str:
    """What an error of somebody else's says, short enough to stand inside ours."""
    return f"{type(problem).__name__}: {(str(problem).strip().splitlines() or ['no more is known'])[0][:120]}"
