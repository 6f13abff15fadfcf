"""Runs: what is trained, what is not, and how it ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign import tree
from prunephase import cli, runs, study
from prunephase.errors import Exit
from prunephase.store import Record, Store
from prunephase.tensors import unpack_masks
from prunephase.trial import Trial

Files = Callable[..., Path]


def trained(fields: dict[str, Any], store: Path) -> int:
    """Run a study; how many levels were trained."""
    new: list[Any] = []
    observe = lambda _trial, event: new.append(event) if getattr(event, "cached", True) is False else None  # noqa: E731
    assert runs.train(study.parse(fields), store, workers=1, observe=observe).code == 0
    return len(new)


def deeper(fields: dict[str, Any], levels: int) -> dict[str, Any]:
    return {**fields, "pruning": {**fields["pruning"], "levels": levels}}


def test_going_deeper_trains_only_what_is_new(tiny: dict[str, Any], tmp_path: Path) -> None:
    assert trained(deeper(tiny, 2), tmp_path / "runs") == 3
    assert trained(deeper(tiny, 4), tmp_path / "runs") == 2
    assert trained(deeper(tiny, 4), tmp_path / "at once") == 5
    assert tree(tmp_path / "runs") == tree(tmp_path / "at once")


def test_a_shallower_study_sees_its_own_levels_only(tiny: dict[str, Any], tmp_path: Path) -> None:
    trained(deeper(tiny, 4), tmp_path / "runs")
    assert trained(deeper(tiny, 2), tmp_path / "runs") == 0
    assert len(runs.run(study.parse(deeper(tiny, 2)), tmp_path / "runs", workers=1)) == 3


def test_a_finished_study_on_changed_data_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(200, 5)), np.arange(200) % 3
    path = tmp_path / "data.npz"
    fields = {**tiny, "data": {"source": "npz", "path": str(path)}}
    np.savez(path, x=x, y=y)
    assert trained(fields, tmp_path / "runs") > 0
    np.savez(path, x=x + 0.5, y=y)
    for seeds in ([0], [0, 1]):
        outcome = runs.train(study.parse({**fields, "seeds": seeds}), tmp_path / "runs", workers=1)
        assert outcome.code == Exit.INCOMPATIBLE
        assert "the data have changed" in next(iter(outcome.failed.values()))


def test_a_budget_does_not_end_what_is_finished(tiny: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "runs")
    outcome = runs.train(study.parse(tiny), tmp_path / "runs", workers=1, seconds=1e-9)
    assert (outcome.code, outcome.out_of_time) == (0, False)


def test_a_spent_budget_keeps_what_was_finished(tiny: dict[str, Any], tmp_path: Path) -> None:
    outcome = runs.train(study.parse(tiny), tmp_path / "runs", workers=1, seconds=1e-9)
    assert (outcome.code, outcome.out_of_time) == (Exit.PARTIAL, True)
    assert trained(tiny, tmp_path / "runs") > 0


def test_with_a_spent_budget_a_finished_study_is_looked_through_once(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = study.parse({**tiny, "seeds": [0, 1, 2]})
    assert runs.train(chosen, tmp_path / "runs", workers=1).code == 0
    looks: list[str] = []
    ladder = Store.ladder

    def counted(self: Store, trial: Trial) -> tuple[list[Record], int | None]:
        looks.append(trial.digest())
        return ladder(self, trial)

    monkeypatch.setattr(Store, "ladder", counted)
    outcome = runs.train(chosen, tmp_path / "runs", workers=1, seconds=1e-9)
    assert (outcome.code, outcome.out_of_time) == (0, False)
    assert {looks.count(trial.digest()) for trial in chosen.trials} == {2}  # for the order, and for the budget


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_spent_budget_ends_a_study_whichever_trial_lacks_a_level(
    place: int, tiny: dict[str, Any], tmp_path: Path
) -> None:
    chosen = study.parse({**tiny, "seeds": [0, 1, 2]})
    assert runs.train(chosen, tmp_path / "runs", workers=1).code == 0
    store, trial = Store(tmp_path / "runs"), chosen.trials[place]
    store.set_aside(trial.digest(), 3)
    assert runs.train(chosen, tmp_path / "runs", workers=1, seconds=1e-9).out_of_time
    assert store.missing(trial) == 1


def test_a_spent_budget_makes_nothing_anew_that_was_found_damaged(tiny: dict[str, Any], tmp_path: Path) -> None:
    chosen = study.parse({**tiny, "seeds": [0, 1]})
    assert runs.train(chosen, tmp_path / "runs", workers=1).code == 0
    store, events = Store(tmp_path / "runs"), list[Any]()
    last = max(chosen.trials, key=runs.order(chosen.trials, store))
    store._blob_path(store.levels(last)[3].body["blobs"]["weights"]).write_bytes(b"")
    observe = lambda _trial, event: events.append(event)  # noqa: E731
    assert runs.train(chosen, tmp_path / "runs", workers=1, seconds=1e-9, observe=observe).out_of_time
    assert not [event for event in events if getattr(event, "cached", True) is False]


def test_what_builds_on_a_failed_ladder_fails_with_it(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "breaks.py").write_text("def scores(snapshot):\n    raise RuntimeError('no scores today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    pruning = {**tiny["pruning"], "criterion": "breaks:scores"}
    chosen = study.parse({**tiny, "pruning": pruning, "restart": {"mode": "re-init"}})
    heir = chosen.trials[0]
    outcome = runs.train(chosen, tmp_path / "runs", workers=1, plugins=["breaks"])
    assert outcome.code == Exit.PARTIAL
    assert "was not finished" in outcome.failed[heir.digest()]
    with pytest.warns(UserWarning, match="no scores today"):
        runs.run(chosen, tmp_path / "runs", workers=1, plugins=["breaks"])


def test_status_says_why_a_trial_failed_until_it_does_not(
    tiny: dict[str, Any],
    study_file: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = tmp_path / "sometimes.py"
    module.write_text("def scores(snapshot):\n    raise RuntimeError('no scores today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    fields = {**tiny, "pruning": {**tiny["pruning"], "criterion": "sometimes:scores"}}
    file, store = str(study_file(fields)), str(tmp_path / "runs")
    runs.train(study.parse(fields), store, workers=1, plugins=["sometimes"])
    assert cli.main(["status", file, "--store", store]) == 0
    said = capsys.readouterr().out
    assert "failed" in said
    assert "no scores today" in said
    monkeypatch.setattr("sometimes.scores", lambda s: {k: s.network.get_parameter(k).abs() for k in s.masks})
    assert runs.train(study.parse(fields), store, workers=1, plugins=["sometimes"]).code == 0
    assert cli.main(["status", file, "--store", store]) == 0
    assert "done" in capsys.readouterr().out


def test_a_study_that_diverges_altogether_still_ends_with_its_answer(
    tiny: dict[str, Any], study_file: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(study_file({**tiny, "recipe": {**tiny["recipe"], "lr": 1e30}}))
    assert cli.main(["run", file, "--store", str(tmp_path / "runs"), "--workers", "1", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["exit"] == 3
    assert "diverged" in err


@pytest.mark.parametrize("criterion", ["random", "gradient", "magnitude"])
def test_on_a_one_shot_ladder_a_pruned_weight_never_returns(
    criterion: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    fields = {**tiny, "pruning": {**tiny["pruning"], "criterion": criterion, "ladder": "one-shot", "levels": 4}}
    trained(fields, tmp_path)
    store = Store(tmp_path)
    masks = [unpack_masks(store.blob(r.body["blobs"]["masks"])) for r in store.levels(study.parse(fields).trials[0])]
    for before, after in pairwise(masks):
        assert all((~before[name] & after[name]).sum() == 0 for name in before)


def test_a_record_of_a_re_initialised_ladder_names_where_its_masks_come_from(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    fields = {**tiny, "restart": {"mode": "re-init"}}
    trained(fields, tmp_path)
    trial, store = study.parse(fields).trials[0], Store(tmp_path)
    source = trial.source_trial()
    assert source is not None
    for mine, theirs in list(zip(store.levels(trial), store.levels(source), strict=True))[1:]:
        assert mine.body["masks_from"] == theirs.seal


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "."], "no store"),
        (["phases", "curve.csv", "--set", "noise.rate=0.2"], "belong to a study"),
        (["plan", "preset:demo", "--workers", "0"], "at least 1"),
        (["report", "preset:demo", "-o", "report.pdf"], ".html"),
        (["run", "preset:demo", "-o", "report.pdf"], ".html"),
        (["run", "preset:demo", "--budget", "soon"], "30min"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
