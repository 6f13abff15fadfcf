"""Weight decay: the smallest lambda without a dip is the one that was planted, or the answer says why there is none."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy import stats

from prunephase.analysis import curve, phases
from prunephase.analysis.curve import split
from prunephase.analysis.monotone import LAMBDA, Monotone, monotone
from prunephase.reports.decay import decay, sentence
from prunephase.reports.series import complete, series

LEVELS, SEEDS = 16, 5


def table(depths: dict[float, float], noise: float = 0.003, **fixed: float) -> pl.DataFrame:
    """A curve for every lambda with a dip so deep; the dense accuracy falls by a point from one to the next."""
    rows, level = [], np.arange(LEVELS)
    for i, (value, depth) in enumerate(depths.items()):
        truth = 0.80 - 0.01 * i - depth * np.exp(-(((level - 6) / 2.5) ** 2)) - 0.3 * (level > 13)
        for seed in range(SEEDS):
            chance = np.random.default_rng([seed, i])
            shown = truth + chance.normal(0, noise, LEVELS)
            rows += [
                {"trial": f"{value} {seed} {fixed}", "seed": seed, "level": int(k), "sparsity": 1 - 0.8 ** float(k),
                 "status": "ok", "epochs": 5, LAMBDA: value, "test_accuracy": float(shown[k]),
                 "validation_accuracy": float(truth[k]) - 0.1, **fixed}
                for k in level
            ]  # fmt: skip
    return pl.DataFrame(rows)


@cache
def answered(*depths: tuple[float, float], noise: float = 0.003) -> Monotone:
    rows = table(dict(depths), noise)
    (found,) = monotone(*judged(rows))
    return found


def judged(rows: pl.DataFrame):  # type: ignore[no-untyped-def]
    groups = curve(rows).groups()
    return [(group, phases(group)) for group in groups], [part for _, part in split(rows)]


PLANTED = ((0.0, 0.08), (1e-3, 0.05), (1e-2, 0.0), (1e-1, 0.0))


def test_the_planted_lambda_is_found() -> None:
    found = answered(*PLANTED)
    assert (found.answer, found.value, found.unsure, found.again) == ("found", 1e-2, (), ())
    assert [one.verdict for one in found.curves.values()] == ["present", "present", "not shown", "not shown"]


def test_its_price_is_paired_by_seed() -> None:
    found, rows = answered(*PLANTED), table(dict(PLANTED))
    own = {value: rows.filter(pl.col(LAMBDA) == value).sort("seed", "level") for value in (0.0, 1e-2)}
    tests = {value: part["test_accuracy"].to_numpy().reshape(SEEDS, LEVELS) for value, part in own.items()}
    held = {value: part["validation_accuracy"].to_numpy().reshape(SEEDS, LEVELS) for value, part in own.items()}
    for name, at in (
        ("dense", lambda value: tests[value][:, 0]),
        ("best", lambda value: tests[value].max(axis=1)),
        ("chosen", lambda value: tests[value][range(SEEDS), LEVELS - 1 - held[value][:, ::-1].argmax(axis=1)]),
    ):
        less = at(1e-2) - at(0.0)
        price = found.prices[name].difference
        assert price.mean == pytest.approx(less.mean())
        assert price.interval == pytest.approx(stats.t.interval(0.95, SEEDS - 1, less.mean(), stats.sem(less)))
        assert price.n == SEEDS
    assert found.prices["dense"].difference.mean == pytest.approx(-0.02, abs=0.005)


def test_none_of_the_grid() -> None:
    found = answered((0.0, 0.08), (1e-3, 0.06))
    assert (found.answer, found.value, dict(found.prices)) == ("none", None, {})
    assert sentence(found).startswith("none of the 2 lambdas from 0 to 0.001 removes the dip")


def test_noise_that_could_hide_a_dip_is_underpowered() -> None:
    found = answered((0.0, 0.25), (1e-2, 0.0), noise=0.04)
    assert (found.answer, found.value, found.unsure) == ("underpowered", None, (1e-2,))
    assert "nothing can be said of 0.01" in sentence(found)


def test_a_grid_whose_smallest_lambda_has_no_dip_costs_nothing() -> None:
    found = answered((1e-2, 0.0), (1e-1, 0.08))
    assert (found.value, found.again, dict(found.prices)) == (1e-2, (1e-1,), {})
    assert "the dip is back" in sentence(found)


def test_without_validation_no_level_is_chosen() -> None:
    rows = table({0.0: 0.08, 1e-2: 0.0}).drop("validation_accuracy")
    (found,) = monotone(*judged(rows))
    assert list(found.prices) == ["dense", "best"]


def test_other_settings_keep_grids_apart_and_other_studies_have_none() -> None:
    rows = pl.concat([table({0.0: 0.08, 1e-2: 0.0}, **{"noise.rate": rate}) for rate in (0.2, 0.4)])
    found, parts = judged(rows.filter(pl.col("seed") < 2))
    assert [dict(one.fixed) for one in monotone(found, parts)] == [{"noise.rate": 0.2}, {"noise.rate": 0.4}]
    alone = [(group, said) for group, said in found if group.key[LAMBDA] == 0.0]
    assert monotone(alone, parts[:2]) == []


def test_the_report_has_a_section_for_a_grid_alone() -> None:
    rows = complete(table({0.0: 0.08, 1e-2: 0.0}))
    (shown,) = decay(series(rows), {})
    assert shown.finding.startswith("The smallest lambda that shows no dip is 0.01")
    assert [len(each.rows) for each in shown.tables] == [2, 3]
    assert decay(series(rows.filter(pl.col(LAMBDA) == 0.0)), {}) == []
