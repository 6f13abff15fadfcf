"""The front: who is on it follows from its definition, and costs and accuracies are those of the rules' own stops."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import polars as pl
import pytest
from scipy import stats

from prunephase.analysis.curve import split
from prunephase.analysis.front import Front, fronts, pareto
from prunephase.reports.front import front as section
from prunephase.reports.series import complete, series

LEVELS = 12
STOP = {0: 5, 1: 6, 2: 7}  # the last level that patience of 3 trains, by seed
PLAIN, TEACHER, LESSON = 10.0, 200.0, 1.0  # operations of a level, of a seed's teacher, of its passes a level


def accuracies(seed: int, distilled: bool) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Best at level STOP - 3, then three worse ones, a dip, and without a teacher the best of all at level 10."""
    level = np.arange(LEVELS)
    top = STOP[seed] - 3
    told = 0.80 - 0.01 * np.abs(level - top) + 0.002 * seed
    told[10] = 0.70 if distilled else 0.90
    return told + 0.1 * distilled


def table(**missing: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Three seeds without an antidote and three that are distilled, and what they cost."""
    rows, paid = [], []
    for kind in ("none", "distill"):
        for seed in STOP:
            trial, told = f"{kind}{seed}", accuracies(seed, kind == "distill")
            taught = kind == "distill"
            for i in range(LEVELS):
                place = {"trial": trial, "level": i, "sparsity": 1 - 0.8**i}
                test = {"test_accuracy": told[i], "validation_accuracy": told[i] - 0.1, "train_accuracy": 1 - 0.01 * i}
                fixed = {"antidote.kind": kind, "antidote.teacher": "sparse" if taught else None, "noise.rate": 0.2}
                rows.append({**place, "seed": seed, "status": "ok", "epochs": 5, **fixed, **test, **missing})
                whole = PLAIN + LESSON * taught
                own = {"papers": PLAIN, "with_teacher_forward": whole, "seconds": 2.0, "device": "cpu"}
                paid.append({**place, "role": "student", "training": f"{trial} {i}", **own})
            if taught:
                held = {"papers": 0.0, "with_teacher_forward": TEACHER, "seconds": 3.0, "device": "cpu"}
                paid.append({**place, "role": "teacher", "training": f"t{seed}", **held})
    return pl.DataFrame(rows, infer_schema_length=None), pl.DataFrame(paid)


def only(found: list[Front], kind: str, rule: str) -> Any:
    (one,) = [each for each in found[0].policies if (each.key["antidote.kind"], each.rule) == (kind, rule)]
    return one


def test_the_front_is_what_nobody_beats() -> None:
    chance = np.random.default_rng(0)
    for _ in range(50):
        costs, gains = chance.integers(0, 6, (2, 9)).tolist()  # with ties
        kept = pareto(costs, gains)
        beaten = [
            any((c <= cost and g > gain) or (c < cost and g >= gain) for c, g in zip(costs, gains, strict=True))
            for cost, gain in zip(costs, gains, strict=True)
        ]
        assert sorted(kept) == [i for i in range(9) if not beaten[i]]
        assert [costs[i] for i in kept] == sorted(costs[i] for i in kept)


def test_dsd2s_printed_policies_leave_two_on_the_front() -> None:
    # figure 1: early stop, entropy and early stop, no early stop, distilled; PFLOPs and test accuracy
    assert pareto([19.54, 40.70, 48.84, 22.79], [45.0, 47.65, 47.7, 64.2]) == [0, 3]


def test_a_policy_costs_the_levels_that_its_rule_trains() -> None:
    rows, paid = table()
    found = fronts(split(rows), paid)
    assert [dict(one.fixed) for one in found] == [{}]
    ends = np.array([last + 1 for last in STOP.values()])
    plain, taught = only(found, "none", "patience"), only(found, "distill", "patience")
    assert plain.costs["papers"].per_seed == plain.costs["with_teacher_forward"].per_seed == tuple(PLAIN * ends)
    assert taught.costs["papers"].per_seed == tuple(PLAIN * ends)
    assert taught.costs["with_teacher_forward"].per_seed == tuple((PLAIN + LESSON) * ends + TEACHER)
    assert plain.trainings.per_seed == tuple(ends)
    whole = only(found, "distill", "whole-ladder")
    assert whole.costs["papers"].mean == PLAIN * LEVELS
    assert whole.costs["with_teacher_forward"].mean == (PLAIN + LESSON) * LEVELS + TEACHER
    low, high = stats.t.interval(0.95, 2, loc=PLAIN * ends.mean(), scale=stats.sem(PLAIN * ends))
    assert plain.costs["papers"].interval == pytest.approx((low, high))


def test_the_accuracy_is_that_at_the_level_taken() -> None:
    rows, paid = table()
    found = fronts(split(rows), paid)
    assert only(found, "none", "patience").accuracy.per_seed == pytest.approx((0.800, 0.802, 0.804))
    assert only(found, "none", "whole-ladder").accuracy.per_seed == pytest.approx((0.9, 0.9, 0.9))
    assert only(found, "distill", "whole-ladder").accuracy.per_seed == pytest.approx((0.900, 0.902, 0.904))


def test_the_planted_front_is_found_by_either_convention() -> None:
    rows, paid = table()
    (found,) = fronts(split(rows), paid)
    best = {measure: [(one.key["antidote.kind"], one.rule) for one in found.best(measure)] for measure in
            ("papers", "with_teacher_forward")}  # fmt: skip
    assert best["papers"] == [("distill", "patience")]
    # counted with its teacher it costs more than the whole ladder without one, and is a little better
    assert best["with_teacher_forward"] == [("none", "patience"), ("none", "whole-ladder"), ("distill", "patience")]
    assert found.taught
    said = found.as_json()
    assert [said["policies"][i]["rule"] for i in said["front"]["papers"]] == ["patience"]
    assert said["policies"][0]["papers"]["n"] == 3


def test_curves_of_other_noise_are_no_rivals() -> None:
    rows, paid = table()
    dark = rows.with_columns(trial="dark " + pl.col("trial"), **{"noise.rate": pl.lit(0.4)})
    costs = pl.concat([paid, paid.with_columns(trial="dark " + pl.col("trial"))])
    found = fronts(split(pl.concat([rows, dark])), costs)
    assert [dict(one.fixed) for one in found] == [{"noise.rate": 0.2}, {"noise.rate": 0.4}]
    assert [len(one.policies) for one in found] == [4, 4]


def test_a_rule_that_cannot_be_asked_is_named() -> None:
    rows, paid = table()
    (found,) = fronts(split(rows), paid)
    assert "no activation entropy" in found.silent["entropy"]
    entropy = rows.with_columns(entropy_mean=0.5 - 0.01 * pl.col("level"))
    (asked,) = fronts(split(entropy), paid)
    assert not asked.silent
    assert len(asked.policies) == 6
    nothing, _ = table(validation_accuracy=None)
    assert fronts(split(nothing), paid) == []


def test_an_unfinished_ladder_does_not_count() -> None:
    rows, paid = table()
    cut = rows.filter((pl.col("trial") != "none2") | (pl.col("level") < 4))
    found = fronts(split(cut), paid)
    assert only(found, "none", "patience").accuracy.n == 2
    assert only(found, "distill", "patience").accuracy.n == 3


def test_a_rule_that_outlasts_a_ladder_that_was_ended_is_not_asked() -> None:
    rows, paid = table()
    last = 8  # of seed 0 without an antidote, beyond where patience ends it
    cut = rows.filter((pl.col("trial") != "none0") | (pl.col("level") <= last)).with_columns(
        ended=(pl.col("trial") == "none0") & (pl.col("level") == last)
    )
    (found,) = fronts(split(cut), paid)
    asked = {(one.key["antidote.kind"], one.rule): one.accuracy.n for one in found.policies}
    assert asked == {("none", "patience"): 3, ("distill", "patience"): 3, ("distill", "whole-ladder"): 3}
    assert "would have gone on" in found.silent["whole-ladder"]


def test_arms_are_antidotes() -> None:
    rows, paid = table()
    named = rows.with_columns(arm=pl.col("antidote.kind"))
    (found,) = fronts(split(named), paid)
    assert {found.antidote(one) for one in found.policies} == {"none", "distill"}


def test_the_section_shows_both_conventions_and_the_energy() -> None:
    rows, paid = table()
    found = series(complete(rows))
    runs = [{"kwh": 0.5, "grams_co2e": 190.0, "country": "DEU", "trained": {"none0": 12}, "started": "then", "by": "c"}]
    (shown,) = section(found, {}, paid, runs)
    assert "Most accurate is distill: early stop" in shown.finding
    assert len(shown.figures) == 2
    for figure in shown.figures:
        (panel,) = figure.panels
        alt.Chart.from_dict(panel.spec)  # raises where the schema is not met
        assert len(figure.table.rows) == 4
    energy = dict(shown.facts[0][1])
    assert "190" in energy["by codecarbon, run of then"]
    assert all("estimate" in title for title, _ in shown.facts)


@pytest.mark.parametrize("paid", [None, pl.DataFrame()])
def test_without_a_ledger_there_is_no_section(paid: pl.DataFrame | None) -> None:
    assert section(series(complete(table()[0])), {}, paid) == []
