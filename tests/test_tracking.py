"""Trackers: what they are told, and that nothing they do touches a run."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaign import tree
from prunephase import cli, runs, study, tracking
from prunephase.errors import Exit, UserError
from prunephase.events import LevelDone
from prunephase.study import Study
from prunephase.task import Finished

Files = Callable[..., Path]

FAKE = """
import json, os, time

def say(*words):
    with open({log!r}, "a") as log:
        log.write(json.dumps(words) + "\\n")

class Run:
    def log(self, values, step):
        {at_log}
        say("log", step, values)

    def finish(self):
        say("finish")

def init(project, group, name, config, **more):
    {at_start}
    say("init", project, group, name, config, more)
    print("chatter of a library")
    return Run()
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], list[Any]]]:
    """`fake(at_start=, at_log=)` installs a library called wandb and gives what it was told."""

    def install(at_start: str = "pass", at_log: str = "pass", library: str = "wandb") -> Callable[[], list[Any]]:
        log = tmp_path / "told"
        log.touch()
        (tmp_path / f"{library}.py").write_text(FAKE.format(log=str(log), at_start=at_start, at_log=at_log))
        monkeypatch.syspath_prepend(tmp_path)  # a spawned process is told
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]

    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return install


def followed(chosen: Study, store: Path, *words: str) -> tuple[Any, list[str]]:
    """A tracked run: its outcome, and the lines said."""
    said: list[str] = []
    names = {trial.digest(): f"seed {trial.seed}" for trial in chosen.trials}
    with tracking.tracked(chosen, names, words, lambda _trial, _event: None, said.append) as observe:
        outcome = runs.train(chosen, store, workers=1, observe=observe)
    return outcome, said


def test_a_tracker_is_told_of_every_level_once_in_order_by_the_table(
    tiny: dict[str, Any], finished: Path, tmp_path: Path, fake: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    told, chosen = fake(), study.parse(tiny)
    outcome, said = followed(chosen, tmp_path / "runs", "wandb:mine")
    assert (outcome.code, said) == (0, [])
    (_, project, group, name, config, more), *logged, last = told()
    assert (project, group, name, more) == ("mine", "tiny", "seed 0", {"reinit": "create_new"})
    assert config["trial"] == chosen.trials[0].digest()
    assert config["noise.rate"] == 0.2
    assert [step for _, step, _ in logged] == [0, 1, 2, 3]
    assert last == ["finish"]
    table = runs.run(chosen, finished, workers=1)
    for _, step, values in logged:
        row = table.row(step, named=True)
        measured = {"sparsity", "remaining", "test_accuracy", "train_accuracy", "validation_accuracy", "test_loss"}
        assert measured <= set(values)
        assert all(values[name] == row[name] for name in values if name in row)
    assert tree(tmp_path / "runs") == tree(finished)
    out, err = capfd.readouterr()
    assert "chatter" in err
    assert "chatter" not in out


def test_a_resumed_run_tells_of_the_levels_that_were_there(
    tiny: dict[str, Any], finished: Path, tmp_path: Path, fake: Any
) -> None:
    told = fake(library="trackio")
    shutil.copytree(finished, tmp_path / "runs")
    _, said = followed(study.parse(tiny), tmp_path / "runs", "trackio")
    assert not said
    assert [line[1] for line in told() if line[0] == "log"] == [0, 1, 2, 3]
    assert told()[0][5] == {}  # its init takes no reinit


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ({"at_start": "raise ConnectionError('no network')"}, "ConnectionError: no network"),
        ({"at_log": "raise SystemExit('enough')"}, "SystemExit: enough"),
        ({"at_log": "os._exit(9)"}, "its process died"),
        ({"at_log": "time.sleep(60)"}, "did not answer for 0.2 s"),
    ],
)
def test_a_tracker_that_fails_is_switched_off_in_one_line_and_the_run_is_the_same(
    fault: dict[str, str],
    line: str,
    tiny: dict[str, Any],
    finished: Path,
    tmp_path: Path,
    fake: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake(**fault)
    if "sleep" in fault.get("at_log", ""):  # the others need the time to start
        monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    outcome, said = followed(study.parse(tiny), tmp_path / "runs", "wandb")
    assert outcome.code == 0
    assert said == [f"--track wandb: {line}; tracking by it is off, training is not touched"]
    assert tree(tmp_path / "runs") == tree(finished)


class Line(tracking._Line):
    """A line whose calls nobody takes."""

    def __init__(self, chosen: Study, most: int = 0) -> None:
        self.word, self.study, self.names, self.said = "wandb", chosen, dict[str, str](), list[str]()
        self.say, self.on, self.next, self.early = self.said.append, True, {}, {}
        self.calls = tracking.queue.Queue(most)
        self.process = type("Process", (), {"kill": lambda _: None})()  # type: ignore[assignment]

    def steps(self) -> list[Any]:
        return [call[-1] if call and call[0] == "log" else call and call[0] for call in list(self.calls.queue)]


def done(trial: Any, level: int, **values: float | None) -> LevelDone:
    return LevelDone(trial.digest(), level, 0.2 * level, 10 - level, "ok", values, False)


def test_levels_that_finish_out_of_order_and_twice_are_logged_in_order_and_once(tiny: dict[str, Any]) -> None:
    chosen = study.parse(tiny)
    trial, line = chosen.trials[0], Line(chosen)
    for level in (0, 2, 0, 3, 1, 0):
        line.see(trial, done(trial, level))
    assert line.steps() == ["start", 0, 1, 2, 3, "finish"]


def test_a_ladder_that_ends_early_is_finished_with_what_it_has(tiny: dict[str, Any]) -> None:
    chosen = study.parse(tiny)
    trial, line = chosen.trials[0], Line(chosen)
    for level in (0, 2):
        line.see(trial, done(trial, level, test_accuracy=0.5, test_loss=float("nan"), validation_loss=None, epoch=3))
    line.see(trial, Finished("out of memory"))
    assert line.steps() == ["start", 0, 2, "finish"]
    _, _, values, _ = line.calls.queue[1]
    assert values == {"level": 0, "sparsity": 0, "remaining": 10, "test_accuracy": 0.5}


def test_a_tracker_that_falls_too_far_behind_is_switched_off_once(tiny: dict[str, Any]) -> None:
    chosen = study.parse(tiny)
    trial, line = chosen.trials[0], Line(chosen, most=2)
    for level in range(4):
        line.see(trial, done(trial, level))
    assert len(line.said) == 1
    assert "calls behind" in line.said[0]


def test_what_cannot_be_tracked_is_said_before_anything_is_trained(
    study_file: Files,
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    store = tmp_path / "runs"
    for word, hint in (("wanb", "did you mean 'wandb'?"), ("mlflow", "pip install 'prunephase[mlflow]'")):
        assert cli.main(["run", str(study_file(tiny)), "--store", str(store), "--track", word]) == Exit.USER
        assert hint in capsys.readouterr().err
    assert not store.exists()


def test_a_folder_called_wandb_is_not_taken_for_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    (tmp_path / "wandb").mkdir()
    with pytest.raises(UserError, match="not installed"):
        tracking.check(["wandb"])


CONFIG = {"trial": "0123456789abcdef", "study": "a/b ..", "name": "seed 0", "noise.rate": 0.2, "data.path": None}


def ladder(word: str) -> None:
    """Two levels told to the real library."""
    name, _, place = word.partition(":")
    one = tracking.TRACKERS[name].make(place)
    one.start(CONFIG)
    for level in (0, 1):
        one.log({"sparsity": level / 5, "test_accuracy": 0.5 + level / 4}, level)
    one.finish()


def test_tensorboard_shows_the_last_run_of_a_trial(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        ladder(f"tensorboard:{tmp_path}/logs")
    (folder,) = (tmp_path / "logs").glob("*/*")
    assert str(folder.relative_to(tmp_path)) == "logs/a_b/seed 0 0123456789abcdef"
    shown = EventAccumulator(str(folder)).Reload()
    assert [(point.step, point.value) for point in shown.Scalars("test_accuracy")] == [(0, 0.5), (1, 0.75)]


def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    ladder("wandb")
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    late = time.monotonic() + 20  # its own process writes the file
    while b"test_accuracy" not in file.read_bytes():
        assert time.monotonic() < late
        time.sleep(0.1)


def test_mlflow_holds_every_level(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    ladder(f"mlflow:sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name(CONFIG["study"]).experiment_id])
    history = client.get_metric_history(run.info.run_id, "test_accuracy")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.75)]
    assert (run.info.status, run.data.params["noise.rate"]) == ("FINISHED", "0.2")
