"""Coarse to fine: large steps land on the whole ladder's counts, branches share, validation alone decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign import tree
from prunephase import cli, prune, refine, runs, study
from prunephase.analysis.curve import Group
from prunephase.errors import UserError
from prunephase.sections import Pruning
from prunephase.store import Store
from prunephase.trial import Trial


@pytest.fixture(scope="session")
def fields() -> dict[str, Any]:
    return {
        "name": "refined",
        "seeds": [0, 1],
        "data": {"source": "digits", "train": 150, "validation": 0.3, "test": 0.2},
        "noise": {"kind": "symmetric-flip", "rate": 0.3},
        "model": {"name": "mlp", "kwargs": {"widths": [16]}},
        "recipe": {"epochs": 1, "batch_size": 32, "momentum": 0.9},
        "pruning": {"levels": 11, "fraction": 0.3},
    }


@pytest.fixture(scope="session")
def coarse(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("refined") / "runs"
    whole = study.parse(fields)
    assert runs.train(refine.coarse(whole, 3), store, workers=1).code == 0
    assert runs.train(refine.branches(whole, Store(store), 3), store, workers=1).code == 0
    return store


def group(values: list[list[float]]) -> Group:
    test = np.array(values)
    count = test.shape[1]
    return Group({}, np.arange(count), 1 - 0.5 ** np.arange(count), test, None, tuple(range(len(values))))


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("steps", [(), (3, 3, 3), (3, 1, 1), (1, 2)])
def test_large_steps_land_on_the_counts_of_the_whole_ladder(scope: Any, steps: tuple[int, ...]) -> None:
    sizes = {"a": 700, "b": 300}
    every = prune.budgets(sizes, Pruning(levels=12, scope=scope))
    some = Pruning(levels=4, scope=scope, steps=steps)
    rounds = np.cumsum([0, *(list(steps) + [1] * 4)[:4]])
    assert prune.budgets(sizes, some) == [every[count] for count in rounds]


def test_steps_that_ask_for_more_weights_than_there_are_are_refused() -> None:
    with pytest.raises(UserError, match=r"at level 2 .* at most 2"):
        prune.budgets({"a": 10}, Pruning(levels=4, fraction=0.5, steps=(1, 1, 5)))


def test_steps_are_part_of_a_trial_and_their_absence_is_not() -> None:
    plain = Trial()
    stepped = refine._steps(plain, (3, 3), 4)
    assert "steps" not in plain.canonical()["pruning"]
    assert stepped.digest() != plain.digest()
    assert refine._bare(stepped) == refine._bare(plain)


def test_the_closer_look_spans_the_coarse_levels_around_dip_and_peak() -> None:
    dip_and_peak = [0.80, 0.80, 0.74, 0.70, 0.76, 0.80, 0.84, 0.88, 0.80, 0.60]
    rough = group([[value + shift for value in dip_and_peak] for shift in (0.0, 0.001, 0.002)])
    assert refine.spans(rough, 3, 28) == [(2, 11), (6, 23)]
    assert refine.spans(rough, 3, 22) == [(2, 11), (6, 22)]


def test_turning_points_that_are_close_share_one_branch() -> None:
    close = [0.80, 0.80, 0.70, 0.86, 0.80, 0.70, 0.60]
    rough = group([[value + shift for value in close] for shift in (0.0, 0.001, 0.002)])
    assert refine.spans(rough, 2, 12) == [(1, 7)]


def test_without_a_dip_it_looks_around_the_best_level() -> None:
    falls = [0.80, 0.82, 0.80, 0.75, 0.70, 0.60, 0.50]
    rough = group([[value + shift for value in falls] for shift in (0.0, 0.001, 0.002)])
    assert refine.spans(rough, 3, 18) == [(0, 5)]


def test_a_branch_trains_only_what_the_coarse_ladder_did_not(fields: dict[str, Any], coarse: Path) -> None:
    store, whole = Store(coarse), study.parse(fields)
    fine = refine.branches(whole, store, 3).trials
    assert fine
    for trial in fine:
        start = len(trial.pruning.steps)
        shared = [store.facts(trial.digest(), level)["shared"] for level in range(trial.pruning.levels + 1)]
        assert shared == [True] * (start + 1) + [False] * (trial.pruning.levels - start)
    (one,) = refine.refined(whole, store, 3)
    seeds = len(whole.trials)
    rough = refine.coarse(whole, 3).trials
    every = [store.record(t.digest(), level) for t in (*rough, *fine) for level in range(t.pruning.levels + 1)]
    trained = {record.body["training"] for record in every if record is not None}
    assert one.answer.trainings * seeds == len(trained)
    assert one.saved == 12 - one.answer.trainings
    assert one.whole is None


def test_the_test_set_decides_nothing(fields: dict[str, Any], coarse: Path) -> None:
    import polars as pl

    from prunephase import table

    rows = table.levels(Store(coarse), refine.coarse(study.parse(fields), 3).trials)
    turned = rows.with_columns(test_accuracy=1 - pl.col("test_accuracy"))
    first, second = refine._answer(rows, 5), refine._answer(turned, 5)
    assert (first.dip, first.peak, first.chosen) == (second.dip, second.peak, second.chosen)
    assert first.validation == max(
        rows.group_by("level").agg(pl.col("validation_accuracy").mean())["validation_accuracy"].to_list()
    )


def test_the_command_prints_the_answer_and_trains_nothing_twice(
    fields: dict[str, Any], coarse: Path, study_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file, before = str(study_file(fields)), tree(coarse)
    assert cli.main(["refine", file, "--store", str(coarse), "--workers", "1"]) == 0
    assert tree(coarse) == before
    words = capsys.readouterr().out
    (one,) = refine.refined(study.parse(fields), Store(coarse), 3)
    assert f"{one.answer.trainings} of 12 trainings per seed, {one.saved} epochs saved each (n = 2)" in words
    assert "the test set chose nothing" in words
    assert cli.main(["refine", file, "--store", str(coarse), "--workers", "1", "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)["groups"]
    assert said["refined"]["chosen"] == one.answer.chosen
    assert said["whole"] is None


@pytest.mark.parametrize(
    ("changes", "step", "says"),
    [
        ({}, 1, "expected at least 2"),
        ({"pruning": {"levels": 5}}, 3, "too few for steps of 3"),
        ({"pruning": {"levels": 11, "steps": [2]}}, 3, "pruning.steps: decides the levels"),
        ({"data": {"source": "digits", "validation": 0}}, 3, "data.validation = 0"),
        ({"antidote": {"kind": "distill"}}, 3, "antidote.teacher = 'sparse': decides"),
        ({"stop": {"rule": "entropy"}}, 3, "leave .stop. out"),
    ],
)
def test_what_cannot_be_refined_is_refused_in_one_line(
    fields: dict[str, Any], changes: dict[str, Any], step: int, says: str
) -> None:
    with pytest.raises(UserError, match=says) as refused:
        refine.coarse(study.parse({**fields, **changes}), step)
    assert len(str(refused.value).splitlines()) == 1


def test_branches_need_their_coarse_ladder(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lacks a coarse ladder"):
        refine.branches(study.parse(fields), Store(tmp_path), 3)
