"""Which level and which seed are taken: the rule of `select`, named levels, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

from prunephase.analysis.select import select
from prunephase.errors import UserError
from prunephase.exports.choose import choose

# Falls, rises above the start, collapses; so does the validation curve, but its best level lies before the dip.
TEST = np.array([0.80, 0.80, 0.74, 0.70, 0.69, 0.74, 0.82, 0.86, 0.87, 0.86, 0.60, 0.30, 0.20])
VALIDATION = np.array([0.70, 0.69, 0.62, 0.55, 0.54, 0.58, 0.64, 0.67, 0.68, 0.66, 0.40, 0.25, 0.18])


def rows(
    seeds: Sequence[int] = (0, 1, 2),
    validation: Any = VALIDATION,
    diverged: Sequence[tuple[int, int]] = (),
    **more: Any,
) -> pl.DataFrame:
    """A level table; the higher the seed, the better it is on test, and the worse on validation."""
    found = []
    for seed in seeds:
        for level in range(len(TEST)):
            bad = (seed, level) in diverged
            found.append(
                {
                    "trial": f"trial{seed}{''.join(map(str, more.values()))}",
                    "seed": seed,
                    "level": level,
                    "sparsity": 1 - 0.8**level,
                    "status": "diverged" if bad else "ok",
                    "test_accuracy": None if bad else TEST[level] + 0.004 * seed,
                    "validation_accuracy": None if validation is None or bad else validation[level] - 0.003 * seed,
                    **more,
                }
            )
    return pl.DataFrame(found, infer_schema_length=None).with_columns(pl.col("validation_accuracy").cast(pl.Float64))


def test_best_is_the_level_and_the_seed_that_select_takes() -> None:
    (wanted,) = select(rows(), "best")
    found = choose(rows(), "best", None, {})
    assert (found.level, found.seed, found.trial) == (wanted.level, wanted.seed, wanted.trial) == (0, 0, "trial0")
    assert (found.split, found.phase) == ("validation", "light")


def test_sweet_is_the_best_on_validation_after_the_dip() -> None:
    found = choose(rows(), "sweet", None, {})
    assert (found.level, found.seed, found.phase) == (8, 0, "sweet")
    assert "sweet phase of the validation curve" in found.level_by


def test_the_test_set_chooses_nothing() -> None:
    mixed = rows().with_columns(pl.Series("test_accuracy", np.random.default_rng(0).random(3 * len(TEST))))
    for asked in ("best", "sweet", "sparsity=0.5"):
        one, other = (choose(table, asked, None, {}, force=True) for table in (rows(), mixed))
        assert (one.level, one.seed) == (other.level, other.seed)


@pytest.mark.parametrize(("asked", "level"), [("5", 5), ("sparsity=0.5", 3), ("sparsity=0.98", 9), ("sparsity=0", 0)])
def test_a_level_is_named_by_number_or_by_the_nearest_sparsity(asked: str, level: int) -> None:
    table = rows().filter(pl.col("level") < 10)
    found = choose(table, asked, None, {})
    assert (found.level, found.split, found.seed) == (level, "named", 0)


def test_a_named_seed_is_taken_whatever_validation_says() -> None:
    found = choose(rows(), "best", 2, {})
    assert (found.level, found.seed, found.seed_by, found.trial) == (0, 2, "named", "trial2")


def test_a_seed_that_diverged_is_neither_taken_nor_counted() -> None:
    table = rows(diverged=[(0, level) for level in range(5, len(TEST))])
    found = choose(table, "6", None, {})
    assert found.seed == 1
    assert found.here["seed"].to_list() == [1, 2]
    with pytest.raises(UserError, match=r"--seed 0: its training diverged.*seeds that have it: 1, 2"):
        choose(table, "6", 0, {}, force=True)


def test_a_level_where_all_diverged_is_refused_even_if_forced() -> None:
    table = rows(diverged=[(seed, 12) for seed in range(3)])
    with pytest.raises(UserError, match="level 12: the training of every seed diverged"):
        choose(table, "12", None, {}, force=True)


def test_a_collapsed_level_is_refused_unless_forced() -> None:
    with pytest.raises(UserError, match=r"level 12: lies in the collapsed phase \(levels 10 to 12.*--force"):
        choose(rows(), "12", None, {})
    assert choose(rows(), "12", None, {}, force=True).phase == "collapsed"


def test_several_curves_are_refused_with_their_names() -> None:
    table = pl.concat([rows(**{"noise.rate": rate}) for rate in (0.2, 0.4)])
    with pytest.raises(UserError, match=r"2 curves; name one, such as --set noise.rate=0.2 \(noise.rate: 0.2, 0.4\)"):
        choose(table, "best", None, {})


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("swet", "expected best, sweet"),
        ("-1", "expected best, sweet"),
        ("sparsity=98", "a share from 0"),
        ("sparsity=", "expected"),
        ("13", "not finished; the study holds levels 0 to 12"),
    ],
)
def test_what_is_no_level_is_refused(asked: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        choose(rows(), asked, None, {})


def test_without_validation_a_level_and_a_seed_must_be_named() -> None:
    table = rows(validation=None)
    for asked in ("best", "sweet"):
        with pytest.raises(UserError, match="validation"):
            choose(table, asked, None, {})
    with pytest.raises(UserError, match="name --seed: 0, 1, 2"):
        choose(table, "3", None, {})
    assert choose(table, "3", 1, {}).seed == 1
    assert choose(rows((4,), None), "3", None, {}).seed_by == "the only one"


def test_a_curve_that_only_falls_has_no_sweet_phase() -> None:
    with pytest.raises(UserError, match="no sweet phase; take --level best"):
        choose(rows(validation=np.linspace(0.8, 0.2, len(TEST))), "sweet", None, {})
