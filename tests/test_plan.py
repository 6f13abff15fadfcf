"""The plan: counts are exact; time and space are of the right size."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prunephase import disk, plan, runs, study
from prunephase.bench import Site
from prunephase.errors import UserError
from prunephase.trial import Trial


def test_trainings_epochs_and_compute_are_counted(tiny: dict[str, Any], tmp_path: Path) -> None:
    chosen = study.parse({**tiny, "seeds": [0, 1, 2]})
    trial = chosen.trials[0]
    cost = plan.estimate(chosen, Site(tmp_path / "runs"), workers=2)
    rungs = trial.pruning.levels + 1
    assert (cost.trials, cost.levels, cost.trainings) == (3, 3 * rungs, 3 * rungs)
    assert cost.epochs == 3 * rungs * trial.recipe.epochs
    widths = [64, *trial.model.kwargs["widths"], 10]
    forward = sum(a * b for a, b in pairwise(widths))
    assert trial.data.train is not None
    assert cost.macs == 3 * forward * trial.data.train * cost.epochs  # the papers' convention
    assert not (tmp_path / "runs").exists()


def test_what_is_finished_costs_nothing_more(tiny: dict[str, Any], finished: Path) -> None:
    cost = plan.estimate(study.parse(tiny), Site(finished), workers=1)
    assert (cost.trainings, cost.epochs, cost.macs, cost.bytes, cost.seconds) == (0, 0, 0, 0, 0)


def test_the_last_worker_is_done_when_the_longest_ladder_is() -> None:
    assert plan._makespan([3.0, 1.0, 2.0], 1) == 6.0
    assert plan._makespan([3.0, 1.0, 2.0], 2) == 3.0
    assert plan._makespan([3.0, 1.0, 2.0], 64) == 3.0  # a ladder cannot be split
    assert plan._makespan([], 2) == 0.0


def test_a_dense_level_that_trials_share_is_counted_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    chosen = study.parse({**tiny, "grid": {"pruning.criterion": ["magnitude", "random", "gradient"]}})
    cost = plan.estimate(chosen, Site(tmp_path / "runs"), workers=1)
    assert (cost.levels, cost.trainings) == (12, 10)


def test_the_disk_estimate_is_not_below_what_is_used(tiny: dict[str, Any], tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "runs")
    used = sum(p.stat().st_size for folder in ("objects", "trials") for p in (tmp_path / "runs" / folder).rglob("*.*"))
    assert plan.estimate(study.parse(tiny), Site(tmp_path / "none"), workers=1).bytes > 0.5 * used


def test_a_study_that_cannot_be_trained_has_no_plan(tiny: dict[str, Any], tmp_path: Path) -> None:
    chosen = study.parse({**tiny, "pruning": {"levels": 500}})
    with pytest.raises(UserError, match="more levels than weights"):
        plan.estimate(chosen, Site(tmp_path / "runs"), workers=1)


def test_trials_that_cost_alike_are_probed_once_and_others_apart() -> None:
    def kinds(**fields: Any) -> int:
        base = Trial()
        other = base.model_copy(
            update={section: getattr(base, section).model_copy(update=given) for section, given in fields.items()}
        )
        return len({plan._kind(base), plan._kind(other)})

    assert kinds(recipe={"augment": ("flip",)}) == 2
    assert kinds(recipe={"decay_by": {"*.bias": 0.0}}) == 2
    assert kinds(recipe={"optimizer": "adamw"}) == 2
    assert kinds(model={"kwargs": {"widths": [3]}}) == 2
    assert kinds(recipe={"epochs": 7, "lr": 0.3, "warmup": 2, "schedule": "cosine"}, model={"init": "he-code"}) == 1
    assert kinds(pruning={"criterion": "random", "remask": "layer"}) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"recipe": {"epochs": 3, "batch_size": 32, "warmup": 2, "augment": ["flip", "resized-crop"]}},
        {"recipe": {"epochs": 2, "batch_size": 32, "decay_by": {"*.bias": 0.0}}},
        {"pruning": {"levels": 3, "remask": "layer"}},
        {"restart": {"mode": "re-init"}},
    ],
)
def test_every_kind_of_trial_has_a_plan(fields: dict[str, Any], tiny: dict[str, Any], tmp_path: Path) -> None:
    cost = plan.estimate(study.parse({**tiny, **fields}), Site(tmp_path / "runs"), workers=1)
    assert cost.core_seconds > 0
    assert not list(tmp_path.iterdir())  # whatever it tried is gone


def test_what_killed_plans_left_behind_is_removed(tiny: dict[str, Any], tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()  # its number belongs to nobody now
    left = tmp_path / ".plan" / f"{disk.machine()}-{child.pid}-probe" / "runs"
    left.mkdir(parents=True)
    living = tmp_path / ".plan" / f"{disk.machine()}-{os.getppid()}-probe"
    living.mkdir()
    plan.estimate(study.parse(tiny), Site(tmp_path / "runs"), workers=1)
    assert list(tmp_path.rglob("*")) == [tmp_path / ".plan", living]


def test_ladders_that_others_build_on_come_first() -> None:
    base = study.Trial()
    heirs = study.grid(base, restart={"mode": "re-init"}, seed=range(2))
    first, second = runs.waves([*heirs, base])
    assert second == heirs
    assert {t.digest() for t in first} == {t.digest() for t in study.grid(base, seed=range(2))}
