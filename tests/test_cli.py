"""The command line: exit codes, one-line errors, --json, and a disk that refuses."""

# ruff: noqa: E501

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaign import FaultyOs, tree
from prunephase import cli

StudyFile = Callable[..., Path]
REFUSALS = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT)


def refuse(point: int, number: int, *, lasting: bool) -> FaultyOs:
    """Refuses operation `point`, and all later ones if `lasting`; removing files goes on working."""

    def strike(count: int, name: str, _arguments: Any) -> None:
        if (count == point or (lasting and count > point)) and name != "unlink":
            raise OSError(number, os.strerror(number))

    return FaultyOs(strike)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_refuses_any_operation_costs_nothing_that_was_done(
    every: int,
    tiny: dict[str, Any],
    finished: Path,
    tmp_path: Path,
    train: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prunephase import data
    from prunephase.errors import StorageError

    load, known = data.load, dict[str, Any]()
    monkeypatch.setattr(data, "load", lambda s, *r: known.get(repr(s)) or known.setdefault(repr(s), load(s, *r)))

    def attempt(store: Path, system: FaultyOs) -> tuple[int, set[tuple[str, int]], str]:
        done: set[tuple[str, int]] = set()

        def observe(_trial: Any, event: Any) -> None:
            if hasattr(event, "cached"):
                done.add((event.trial, event.level))

        with monkeypatch.context() as patch:
            patch.setattr("prunephase.disk.os", system)
            try:
                outcome = train(tiny, store, observe=observe)
            except StorageError as problem:
                return problem.code, done, str(problem)
        return outcome.code, done, "; ".join(outcome.failed.values())

    counter = FaultyOs()
    assert attempt(tmp_path / "count", counter)[0] == 0
    wrong, whole = [], tree(finished)
    for point, name in enumerate(counter.log, start=1):
        if name == "unlink" or point % every:
            continue
        store = tmp_path / f"runs{point}"
        code, done, said = attempt(
            store, refuse(point, REFUSALS[point % len(REFUSALS)], lasting=point // every % 2 == 0)
        )
        before = {(p.parent.name, int(p.stem[6:])) for p in store.glob("trials/*/level-*.json")}
        again, found, _ = attempt(store, FaultyOs())
        if (
            code != 5
            or not done <= before
            or again != 0
            or not done <= found
            or "\n" in said
            or not said
            or tree(store) != whole
        ):
            wrong.append((point, name, code, again, said))
    assert wrong == []
    assert counter.count > 150


def test_a_full_disk_is_said_in_one_line(
    tiny: dict[str, Any],
    study_file: StudyFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("prunephase.disk.os", refuse(30, errno.ENOSPC, lasting=True))
    assert cli.main(["run", str(study_file(tiny)), "--store", str(tmp_path / "runs"), "--workers", "1", "--quiet"]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "No space left on device; free some space and run the same command again" in lines[0]


def test_a_store_that_is_a_file_is_refused(
    tiny: dict[str, Any], study_file: StudyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("mine")
    assert cli.main(["run", str(study_file(tiny)), "--store", str(tmp_path / "runs"), "--workers", "1"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "runs").read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    [["status", "STUDY"], ["plan", "STUDY"], ["verify", "STORE"], ["presets"], ["schema"]],
    ids=lambda words: words[0],
)
def test_json_is_one_object(
    words: list[str], tiny: dict[str, Any], study_file: StudyFile, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(study_file(tiny))
    command = [{"STUDY": file, "STORE": str(finished)}.get(word, word) for word in words] + ["--json"]
    if words[0] in ("status", "plan"):
        command += ["--store", str(finished)]
    assert cli.main(command) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


@pytest.mark.parametrize(
    "words",
    [["nothing"], ["run"], ["run", "a", "b"], ["status", "x.toml", "--workers"], ["run", "x.toml", "--workers", "many"],
     ["verify", "nowhere"], ["init", "nothing"], ["run", "preset:demo", "--budget", "soon"], ["run", "preset:demo", "--workers", "0"],
     ["run", "preset:demo", "--device", "tpu"]],
)  # fmt: skip
def test_a_wrong_command_leaves_code_2_and_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("prunephase: ")
    assert len(lines[0]) <= 300
    assert list(tmp_path.iterdir()) == []


COMMANDS = (
    *(
        "run",
        "plan",
        "demo",
        "status",
        "verify",
        "merge",
        "table",
        "phases",
        "report",
        "export",
        "compare",
        "check",
        "init",
        "presets",
        "schema",
    ),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_names_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert f"prunephase {command}" in capsys.readouterr().out.partition("Examples")[2]


def test_help_is_quick_and_knows_no_torch() -> None:
    code = (
        "import os, sys; from prunephase import cli; cli.main(['run', '--help']); t = os.times();"
        "print('torch' in sys.modules, t.user + t.system, file=sys.stderr)"
    )
    done = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    answers = [run.stderr.split() for run in done]
    assert {known for known, _ in answers} == {"False"}
    assert min(float(seconds) for _, seconds in answers) < 0.6  # 0.3 s on a quiet core; this one may be shared


def test_a_diverging_trial_leaves_the_others_alone(
    tiny: dict[str, Any], tmp_path: Path, train: Callable[..., Any]
) -> None:
    fields = {**tiny, "grid": {"recipe.lr": [1e30, 0.1]}}
    outcome = train(fields, tmp_path / "runs")
    assert outcome.code == 3
    assert len(outcome.diverged) == 1
    record = json.loads((tmp_path / "runs" / "trials" / next(iter(outcome.diverged)) / "level-000.json").read_bytes())[
        "record"
    ]
    assert record["status"] == "diverged"
    assert record["diverged"]["step"] >= 1
    assert sum(len(list(p.glob("level-*.json"))) for p in (tmp_path / "runs" / "trials").iterdir()) == 1 + 4


MODEL = """
from torch import nn
class Fragile(nn.Linear):
    def forward(self, x):
        if self.training:
            raise RuntimeError("my own fault")
        return super().forward(x.flatten(1))
def fragile(shape, classes):
    return Fragile(64, classes)
"""


def test_a_users_model_that_raises_leaves_the_others_alone_and_a_traceback_in_the_logs(
    tiny: dict[str, Any], tmp_path: Path, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fragile_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    models = [{"name": "fragile_model:fragile", "kwargs": {}}, {"name": "mlp", "kwargs": {"widths": [16]}}]
    del tiny["model"]
    outcome = train({**tiny, "grid": {"model": models}}, tmp_path / "runs", plugins=["fragile_model"])
    assert outcome.code == 3
    (problem,) = outcome.failed.values()
    assert "RuntimeError: my own fault" in problem
    assert "\n" not in problem
    (log,) = (tmp_path / "runs" / "logs").iterdir()
    assert "Traceback" in log.read_text()
    assert len(list((tmp_path / "runs").glob("trials/*/level-*.json"))) == 4
