"""From a level table, or anybody's file, to curves with one value per seed and level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prunephase.analysis import curve, read_curve
from prunephase.errors import UserError


def table(seeds: int = 2, rates: tuple[float, ...] = (0.2, 0.4)) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "trial": f"{rate}-{seed}",
            "noise.rate": rate,
            "model.kwargs": [300, 100],
            "pruning.levels": 3,
            "seed": seed,
            "level": level,
            "sparsity": 1 - 0.8**level,
            "status": "ok",
            "test_accuracy": 0.9 - rate - 0.01 * level + 0.001 * seed,
            "train_accuracy": 1 - 0.1 * level,
        }
        for rate in rates
        for seed in range(seeds)
        for level in range(4)
    )


def test_curves_are_told_apart_by_the_fields_that_vary() -> None:
    found = curve(table())
    assert found.by == ("noise.rate",)
    assert [dict(group.key) for group in found.groups()] == [{"noise.rate": 0.2}, {"noise.rate": 0.4}]
    first = found.groups()[0]
    assert (first.seeds, first.n, first.levels.tolist()) == ((0, 1), 2, [0, 1, 2, 3])
    assert first.test[1] == pytest.approx([0.701, 0.691, 0.681, 0.671])
    assert first.sparsity == pytest.approx([0, 0.2, 0.36, 0.488])


def test_the_order_of_rows_does_not_matter() -> None:
    shuffled = curve(table().sample(fraction=1, shuffle=True, seed=3)).groups()
    for one, other in zip(curve(table()).groups(), shuffled, strict=True):
        assert one.key == other.key
        np.testing.assert_array_equal(one.test, other.test)


def test_lists_tell_curves_apart_too() -> None:
    wide = table(rates=(0.2,))
    narrow = wide.with_columns(pl.Series("model.kwargs", [[30, 10]] * wide.height))
    keys = [list(group.key["model.kwargs"]) for group in curve(pl.concat([wide, narrow])).groups()]
    assert sorted(keys) == [[30, 10], [300, 100]]


def test_diverged_and_missing_levels_are_nan_and_counted() -> None:
    rows = table(rates=(0.2,)).with_columns(
        status=pl.when((pl.col("seed") == 1) & (pl.col("level") == 2)).then(pl.lit("diverged")).otherwise("status")
    )
    group = curve(rows.filter(~((pl.col("seed") == 1) & (pl.col("level") == 3)))).groups()[0]
    assert np.isnan(group.test).tolist() == [[False] * 4, [False, False, True, True]]
    assert (group.missing, group.diverged) == (2, 1)


def test_two_rows_for_one_level_of_one_seed_are_an_error_that_says_which() -> None:
    with pytest.raises(
        UserError, match=r"seed 0 has level 0 more than once; tell the curves apart with by = \['noise.rate'\]"
    ):
        curve(table(), by=[])
    with pytest.raises(UserError, match="more than once; remove one of them"):
        curve(pl.concat([table(), table()]))


def test_a_misspelt_column_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'test_accuracy'"):
        curve(table(), y="test_acuracy")
    with pytest.raises(UserError, match=r"did you mean 'noise\.rate'"):
        curve(table(), by=["noise.rat"])
    with pytest.raises(UserError, match="needs numbers"):
        curve(table(), y="status")


def write(folder: Path, text: str, name: str = "curve.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "sparsity,test_accuracy\n0,0.8\n0.2,0.7\n0.36,0.9\n"


def test_a_file_with_two_columns_is_one_seed_with_levels_by_rank(tmp_path: Path) -> None:
    (group,) = read_curve(write(tmp_path, GOOD)).groups()
    assert (group.seeds, group.levels.tolist(), group.train) == ((0,), [0, 1, 2], None)
    assert group.test[0].tolist() == [0.8, 0.7, 0.9]


@pytest.mark.parametrize("sparsity", [["0", "0.2", "0.36"], ["0", "20", "36"]])
@pytest.mark.parametrize("accuracy", [["0.8", "0.7", "0.9"], ["80", "70", "90"]])
def test_shares_and_percent_are_told_apart(tmp_path: Path, sparsity: list[str], accuracy: list[str]) -> None:
    rows = "\n".join(",".join(pair) for pair in zip(sparsity, accuracy, strict=True))
    (group,) = read_curve(write(tmp_path, f"sparsity,test_accuracy\n{rows}\n")).groups()
    assert group.sparsity == pytest.approx([0, 0.2, 0.36])
    assert group.test[0] == pytest.approx([0.8, 0.7, 0.9])


def test_seeds_levels_and_train_accuracy_are_read_in_any_order(tmp_path: Path) -> None:
    text = "seed, level,sparsity,train_accuracy,test_accuracy,note\n"
    text += "".join(f"{s},{i},{i * 20},{100 - i},{80 + s - i},x\n" for i in (4, 2, 0) for s in (7, 3))
    (group,) = read_curve(write(tmp_path, text)).groups()
    assert (group.seeds, group.levels.tolist()) == ((3, 7), [0, 2, 4])
    assert group.test[0] == pytest.approx([0.83, 0.81, 0.79])
    assert group.train is not None
    assert group.train[1] == pytest.approx([1, 0.98, 0.96])


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    pl.read_csv(write(tmp_path, GOOD)).write_parquet(tmp_path / "curve.parquet")
    (group,) = read_curve(tmp_path / "curve.parquet").groups()
    assert group.test[0].tolist() == [0.8, 0.7, 0.9]


HEAD = "sparsity,test_accuracy\n"
BAD = {
    "misspelt column": ("sparsity,test_acc\n0,1\n", "did you mean 'test_acc'"),
    "no such column": ("a,b\n0,1\n", "column 'sparsity' is missing"),
    "empty": ("", "empty"),
    "header only": (HEAD, "no rows"),
    "word": (HEAD + "0,0.8\n0.2,high\n0.3,0.7\n", "row 2: test_accuracy = 'high'"),
    "NaN": (HEAD + "0,0.8\n0.2,nan\n0.3,0.7\n", "row 2: test_accuracy = 'nan'"),
    "infinite": (HEAD + "0,0.8\n0.2,inf\n0.3,0.7\n", "row 2"),
    "hole": (HEAD + "0,0.8\n0.2,\n0.3,0.7\n", "row 2"),
    "negative": (HEAD + "0,0.8\n0.2,-0.1\n0.3,0.7\n", r"expected shares in \[0, 1\] or percent"),
    "above 100": (HEAD + "0,80\n20,101\n30,70\n", r"expected shares in \[0, 1\] or percent"),
    "shares or percent": (HEAD + "0,0.8\n0.2,1.2\n0.3,0.7\n", "shares or percent"),
    "two levels": (HEAD + "0,0.8\n0.2,0.7\n", "at least 3"),
    "level twice": (HEAD + "0,0.8\n0.2,0.7\n0.2,0.6\n0.3,0.7\n", "level 1 more than once"),
    "level not whole": ("sparsity,test_accuracy,level\n0,0.8,0\n0.2,0.7,0.5\n0.3,0.7,2\n", "whole number"),
    "seed negative": ("sparsity,test_accuracy,seed\n0,0.8,-1\n0.2,0.7,0\n0.3,0.7,0\n", "whole number"),
    "sparsity falls": ("sparsity,test_accuracy,level\n0.3,0.8,0\n0.2,0.7,1\n0.1,0.7,2\n", "does not rise"),
    "two sparsities": (
        "sparsity,test_accuracy,level,seed\n0,0.8,0,0\n0.1,0.8,0,1\n0.2,0.7,1,0\n0.3,0.7,2,0\n",
        "more than one sparsity",
    ),
    "column twice": ("sparsity,test_accuracy, sparsity\n0,0.8,0\n", "not a csv"),
    "line break in a name": ('sparsity,"test\naccuracy"\n0,0.8\n', "column 'test_accuracy' is missing"),
    "ragged": (HEAD + "0,0.8\n0.2,0.7,5,6\n0.3,0.7\n", "not a csv"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_file_gets_one_line(tmp_path: Path, name: str) -> None:
    text, expected = BAD[name]
    with pytest.raises(UserError, match=expected) as caught:
        read_curve(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "curve.csv" in str(caught.value)


def test_a_file_that_is_not_what_it_claims_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "curve.csv").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "curve.parquet").write_text("sparsity,test_accuracy\n0,1\n", encoding="utf-8")
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "curve.xlsx").write_bytes(b"PK")
    for name in ("curve.csv", "curve.parquet", "empty.parquet", "curve.xlsx", "gone.csv", "."):
        with pytest.raises(UserError) as caught:
            read_curve(tmp_path / name)
        assert "\n" not in str(caught.value)
