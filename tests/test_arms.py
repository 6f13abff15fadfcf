"""Arms: paired differences against the arm "none", what becomes of the dip, costs, the front, and the one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import stats

from prunephase import cli
from prunephase.analysis.advice import sentence
from prunephase.analysis.arms import Bench, benches
from prunephase.analysis.curve import curve
from prunephase.analysis.select import select
from prunephase.reports.arms import arms as section_of
from prunephase.reports.series import Series, complete, ladder, series

Floats = NDArray[np.float64]
LEVELS, DIP, PEAK, SEEDS = 20, 8, 15, 5
LEVEL = np.arange(LEVELS)
DIPPED = np.interp(LEVEL, [0, 2, DIP, PEAK, 17, 19], [0.80, 0.81, 0.70, 0.86, 0.80, 0.40])
CURED = np.interp(LEVEL, [0, PEAK, 17, 19], [0.82, 0.90, 0.80, 0.40])
PLANTED = {"none": DIPPED, "cured": CURED, "costly": DIPPED - 0.05, "idle": DIPPED}


def table(planted: Mapping[str, Floats] = PLANTED, seeds: int = SEEDS, **fixed: Any) -> pl.DataFrame:
    """A level table of arms with known mean curves; what a seed adds to all its levels is the same in every arm."""
    rng = np.random.default_rng(7)
    luck, rows = rng.normal(0, 0.02, seeds), []
    for arm, mean in planted.items():
        for seed in range(seeds):
            test = mean + luck[seed] + rng.normal(0, 0.003, LEVELS)
            for i in LEVEL:
                rows.append(
                    {
                        "trial": f"{arm}{seed}{fixed}",
                        "arm": arm,
                        "antidote.kind": "none" if arm == "none" else "gce",
                        "recipe.weight_decay": 0.1 if arm == "costly" else 0.0,
                        **fixed,
                        "seed": seed,
                        "level": int(i),
                        "status": "ok",
                        "sparsity": 1 - 0.75**i,
                        "epochs": 5,
                        "test_accuracy": float(test[i]),
                        "validation_accuracy": float(0.7 * mean[i] + 0.05),
                    }
                )
    return pl.DataFrame(rows)


def paid(frame: pl.DataFrame) -> pl.DataFrame:
    """10 operations a level; "cured" has a teacher of 12 more, listed under two of its levels, and asks it for 3."""
    rows = []
    for (trial,), part in frame.group_by("trial"):
        for level in part["level"]:
            row = {"trial": trial, "role": "student", "level": level, "sparsity": 0.0, "training": f"{trial}{level}"}
            asked = 3.0 if part["arm"][0] == "cured" else 0.0
            costs = {"papers": 10.0, "with_teacher_training": 10.0, "with_teacher_forward": 10.0 + asked}
            rows.append({**row, **costs, "sparsity_aware": 5.0, "seconds": 2.0})
        for _ in range(2 if part["arm"][0] == "cured" else 0):
            row = {"trial": trial, "role": "teacher", "level": 0, "sparsity": 0.0, "training": f"teacher of {trial}"}
            costs = {"papers": 0.0, "with_teacher_training": 12.0, "with_teacher_forward": 12.0}
            rows.append({**row, **costs, "sparsity_aware": 12.0, "seconds": 4.0})
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return table()


@pytest.fixture(scope="module")
def found(frame: pl.DataFrame) -> list[Series]:
    return series(complete(frame))


@pytest.fixture(scope="module")
def bench(frame: pl.DataFrame, found: list[Series]) -> Bench:
    (only,) = benches(frame, paid(frame), [one.phases for one in found])
    return only


def test_curves_are_told_apart_by_arm_and_by_what_varies_within_one(frame: pl.DataFrame, bench: Bench) -> None:
    assert [dict(group.key) for group in curve(frame).groups()] == [{"arm": arm} for arm in sorted(PLANTED)]
    rates = pl.concat([table({"none": DIPPED, "cured": CURED}, 1, **{"noise.rate": rate}) for rate in (0.2, 0.4)])
    keys = [(group.key["arm"], group.key["noise.rate"]) for group in curve(rates).groups()]
    assert keys == [("cured", 0.2), ("cured", 0.4), ("none", 0.2), ("none", 0.4)]
    seen = [bench.arms[1].phases] * 2 + [bench.arms[0].phases] * 2
    assert [dict(one.key) for one in benches(rates, found=seen)] == [{"noise.rate": 0.2}, {"noise.rate": 0.4}]


def test_planted_effects_are_found_and_no_others(bench: Bench) -> None:
    assert [arm.name for arm in bench.arms] == ["none", "cured", "costly", "idle"]
    assert bench.plain == "present"
    outcomes = {
        arm.name: {what: held.outcome for what, held in arm.against.items()} | {"dip": arm.dip(bench.plain)}
        for arm in bench.arms[1:]
    }
    dense = {"cured": "higher", "costly": "lower", "idle": "not shown"}
    for name, outcome in dense.items():
        assert [outcomes[name][what] for what in ("dense", "chosen", "at the dip", "worst")] == [outcome] * 4, name
    assert {name: held["depth"] for name, held in outcomes.items()} == {
        "cured": "lower",
        "costly": "not shown",
        "idle": "not shown",
    }
    assert {name: held["dip"] for name, held in outcomes.items()} == {
        "cured": "removed",
        "costly": "left",
        "idle": "left",
    }
    cured = bench.arms[1].against
    assert cured["at the dip"].mean == pytest.approx(CURED[DIP] - DIPPED[DIP], abs=0.005)
    assert cured["depth"].mean == pytest.approx(-0.11, abs=0.01)
    assert {held.n for held in cured.values()} == {SEEDS}


def test_differences_are_paired_and_adjusted_after_holm_by_hand(frame: pl.DataFrame, bench: Bench) -> None:
    dense = {
        arm: frame.filter(pl.col("arm") == arm, pl.col("level") == 0).sort("seed")["test_accuracy"].to_numpy()
        for arm in PLANTED
    }
    tested = {arm: stats.ttest_rel(dense[arm], dense["none"]) for arm in ("cured", "costly", "idle")}
    chances = {arm: float(found.pvalue) for arm, found in tested.items()}
    first, second, third = sorted(chances, key=lambda arm: chances[arm])
    by_hand = {first: min(1.0, 3 * chances[first])}
    by_hand[second] = min(1.0, max(by_hand[first], 2 * chances[second]))
    by_hand[third] = max(by_hand[second], chances[third])
    for arm in bench.arms[1:]:
        held = arm.against["dense"]
        assert held.p == pytest.approx(chances[arm.name])
        assert held.adjusted == pytest.approx(by_hand[arm.name])
        assert held.interval == pytest.approx(tuple(tested[arm.name].confidence_interval()))
        assert held.mean == pytest.approx(float((dense[arm.name] - dense["none"]).mean()))


def test_an_arm_takes_the_level_that_select_takes(frame: pl.DataFrame, bench: Bench) -> None:
    taken = {selection.key["arm"]: selection.level for selection in select(frame, "best")}
    assert {arm.name: arm.chosen.level for arm in bench.arms if arm.chosen} == taken
    assert bench.taken == "cured"


def test_costs_count_the_teacher_once_and_are_relative_to_none(bench: Bench) -> None:
    costs = {arm.name: arm.costs for arm in bench.arms}
    whole = 10.0 * LEVELS
    assert costs["cured"] == pytest.approx(
        {
            "papers": 1.0,
            "with_teacher_training": (whole + 12) / whole,
            "with_teacher_forward": (whole + 3 * LEVELS + 12) / whole,
            "sparsity_aware": (5 * LEVELS + 12) / (5 * LEVELS),
            "seconds": (2 * LEVELS + 4) / (2 * LEVELS),
        }
    )
    assert set(costs["idle"].values()) == {1.0}


def test_costs_are_those_of_seeds_that_both_have_finished(bench: Bench) -> None:
    two = {"none": DIPPED, "cured": CURED}
    seen = [bench.arms[1].phases, bench.arms[0].phases]
    whole = table(two, 3)
    cut = whole.filter(~((pl.col("arm") == "cured") & (pl.col("seed") == 1) & (pl.col("level") > 4)))
    (partly,), (full,) = benches(cut, paid(cut), seen), benches(whole, paid(whole), seen)
    assert partly.arms[1].costs == pytest.approx(full.arms[1].costs)
    assert partly.arms[1].against["dense"].n == 3
    assert partly.arms[1].against["at the dip"].n == 2
    begun = cut.filter((pl.col("arm") == "none") | (pl.col("level") < 5))
    assert benches(begun, paid(begun), seen)[0].arms[1].costs == {}


def test_the_front_names_the_best_arm_and_who_is_not_shown_below_it(bench: Bench) -> None:
    rungs = {rung.level: rung for rung in bench.front}
    assert {rungs[level].arm for level in range(3, PEAK + 1)} == {"cured"}
    assert rungs[DIP].among == ("cured",)
    assert "costly" not in rungs[LEVELS - 1].among
    assert {"none", "idle"} < set(rungs[LEVELS - 1].among)
    assert rungs[PEAK].front  # nothing sparser is as accurate
    assert not rungs[DIP].front
    assert bench.front[-1].front


def told(bench: Bench, **changes: Any) -> str:
    return sentence(replace(bench, **changes))


def changed(bench: Bench, name: str, **changes: Any) -> Bench:
    """The bench with other outcomes of one arm."""
    arm = bench.arm(name)
    assert arm is not None
    held = {what: replace(arm.against[what], outcome=outcome) for what, outcome in changes.items()}
    other = replace(arm, against={**arm.against, **held})
    return replace(bench, arms=tuple(other if one is arm else one for one in bench.arms))


def test_the_sentence_of_every_verdict(bench: Bench) -> None:
    said = sentence(bench)
    assert said.startswith("Use cured: ")
    assert "at 98.7 % sparsity against" in said
    assert f"n = {SEEDS}, p = 0.000 after Holm over 3 arms" in said
    assert "1.4 times the operations, teachers counted" in said
    assert said.endswith("; the dip is removed by cured.")
    idle = told(bench, taken="idle")
    assert idle.startswith("No antidote is shown better than none: validation would take idle")
    assert "is less than 2 points either way" in idle
    assert "; better than none on test are also cured; the dip" in idle
    assert "is a loss" in told(bench, taken="costly")
    assert "may be chance" in sentence(replace(changed(bench, "idle", chosen="underpowered"), taken="idle"))
    assert told(bench, taken="none").startswith("Use no antidote: by validation none of 3 is better")
    assert told(bench, taken=None).startswith("No antidote can be named")
    for one in (said, idle):
        assert one.count(". ") == 0
        assert "\n" not in one


def test_the_sentence_says_what_becomes_of_the_dip(bench: Bench) -> None:
    kept = changed(bench, "cured", depth="underpowered")
    assert sentence(kept).endswith("; the dip is not shown to be removed or reduced by any.")
    assert {arm.name: arm.dip(kept.plain) for arm in kept.arms[1:]} == {
        "cured": "underpowered",
        "costly": "left",
        "idle": "left",
    }
    lower = changed(bench, "costly", depth="lower")
    assert sentence(lower).endswith("; the dip is removed by cured and reduced by costly.")
    flat = replace(bench.arms[0], phases=bench.arms[1].phases)
    never = replace(bench, arms=(flat, *bench.arms[1:]))
    assert sentence(never).endswith("; a dip without antidote is not shown, so none can be removed.")
    assert {arm.dip(never.plain) for arm in never.arms} == {"not judged"}


def test_few_seeds_are_underpowered_whatever_they_show(bench: Bench) -> None:
    two, seen = {"none": DIPPED, "cured": CURED}, [bench.arms[1].phases, bench.arms[0].phases]
    (few,) = benches(table(two, seeds=2), found=seen)
    assert {held.outcome for held in few.arms[1].against.values()} == {"underpowered"}
    assert "may be chance" in sentence(few)
    (single,) = benches(table(two, seeds=1), found=seen)
    assert {(held.p, held.interval) for held in single.arms[1].against.values()} == {(None, None)}


def test_where_there_is_nothing_to_compare_there_is_no_bench(frame: pl.DataFrame, bench: Bench) -> None:
    assert benches(frame.drop("arm")) == []
    assert benches(frame.filter(pl.col("arm") == "none")) == []
    assert benches(frame.filter(pl.col("arm") != "none")) == []
    two = frame.filter(pl.col("arm").is_in(["none", "cured"])).drop("validation_accuracy")
    bare = benches(two, found=[bench.arms[1].phases, bench.arms[0].phases])
    assert bare[0].taken is None
    assert bare[0].arms[0].costs == {}


def test_the_report_shows_every_arm_over_none(frame: pl.DataFrame, found: list[Series], bench: Bench) -> None:
    rows = complete(frame)
    (section,) = section_of(found, rows, ladder(found), paid(frame))
    assert section.finding == sentence(bench)
    panels, front = section.figures
    assert [panel.title for panel in panels.panels] == ["cured: dip removed", "costly: dip left", "idle: dip left"]
    for panel in (*panels.panels, *front.panels):
        alt.Chart.from_dict(panel.spec)
    assert "the best mean is that of" in front.caption
    assert [row[2] for row in front.table.rows[3 : PEAK + 1]] == ["cured"] * (PEAK - 2)
    summary, differences = section.tables
    assert [row[0] for row in summary.rows] == ["none", "cured", "costly", "idle"]
    assert summary.head[-4:-1] == ("cost: with teacher training", "cost: with teacher forward", "cost: sparsity aware")
    assert summary.rows[1][2] == "removed"
    assert summary.rows[1][-3] == "1.36"
    assert differences.rows[0][0] == "cured"
    assert "higher" in differences.rows[0][1]
    assert section_of(found[:1], rows.drop("arm"), ladder(found), None) == []


def test_the_command_compares_the_arms_of_a_finished_study(
    tiny: dict[str, Any],
    study_file: Callable[..., Path],
    train: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[Any, ...]] = []
    monkeypatch.setattr("prunephase.reports.render", lambda *given: drawn.append(given) or "a page")
    taught = {"antidote": {"kind": "distill", "teacher": "dense"}}
    fields = {**tiny, "arms": {"none": {}, "taught": taught, "l2": {"recipe.weight_decay": 0.01}}}
    study, store, page = str(study_file(fields)), str(tmp_path / "runs"), tmp_path / "page.html"
    assert train(fields, tmp_path / "runs").code == 0
    assert cli.main(["run", study, "--store", store, "--workers", "1", "--quiet", "-o", str(page)]) == 0
    ran = capsys.readouterr().out
    assert set(next(g for g in drawn[0] if isinstance(g, pl.DataFrame) and "role" in g.columns)["role"]) == {
        "student",
        "teacher",
    }  # the page is told what was paid
    assert cli.main(["arms", study, "--store", store, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["benches"][0]
    assert said["sentence"] in ran
    assert [arm["arm"] for arm in said["arms"]] == ["none", "taught", "l2"]
    costs = said["arms"][1]["costs"]
    assert costs["papers"] == 1.0
    assert costs["with_teacher_training"] > 1.0
    assert cli.main(["arms", study, "--store", store]) == 0
    assert said["sentence"] in capsys.readouterr().out
    assert cli.main(["arms", str(study_file(tiny, "plain")), "--store", store]) == 2
    assert "no arms to compare" in capsys.readouterr().err


def test_one_arm_is_named_on_the_command_line(
    tiny: dict[str, Any], study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(study_file({**tiny, "arms": {"none": {}, "l2": {"recipe.weight_decay": 0.01}}}))
    words = ["status", study, "--store", str(tmp_path / "runs"), "--json"]
    assert cli.main(words) == 0
    whole = [row["trial"] for row in json.loads(capsys.readouterr().out)["trials"]]
    assert cli.main([*words, "--arm", "l2"]) == 0
    assert [row["trial"] for row in json.loads(capsys.readouterr().out)["trials"]] == whole[1:]
    assert cli.main([*words, "--arm", "l3"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
