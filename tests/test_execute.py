"""Real processes: interrupted, killed, locked out, and the bytes they leave behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaign import tree
from prunephase import execute
from prunephase.execute import Retried
from prunephase.task import Finished, Task
from prunephase.trial import Trial

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
StudyFile = Callable[..., Path]


def start(file: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    """`prunephase run` with two workers, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "prunephase", "run", str(file), "--store", str(store), "--workers", "2", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=file.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # whoever runs the tests may ignore Ctrl-C, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def children(pid: int) -> list[int]:
    """Living processes that `pid` started, with theirs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found += [int(entry.name), *children(int(entry.name))]
    return found


def alive(pids: list[int]) -> list[int]:
    living = []
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                living.append(pid)
        except OSError:
            pass
    return living


def until(happens: Callable[[], Any], seconds: float = 90.0) -> Any:
    limit = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.02)
    return found


@pytest.fixture
def long(tiny: dict[str, Any]) -> dict[str, Any]:
    """A study that takes seconds: two trials, and epochs enough to be interrupted in."""
    return {**tiny, "seeds": [0, 1], "recipe": {**tiny["recipe"], "epochs": 150}}


def resumed(fields: dict[str, Any], store: Path, tmp_path: Path, train: Callable[..., Any]) -> bool:
    """Whether the next run finishes the study with the bytes of a whole one."""
    assert train(fields, store).code == 0
    assert train(fields, tmp_path / "whole").code == 0
    return tree(store) == tree(tmp_path / "whole") and not list(store.glob("tmp/*"))


def levels(store: Path) -> int:
    return len(list(store.glob("trials/*/level-*.json")))


def test_two_workers_give_the_bytes_of_one(tiny: dict[str, Any], tmp_path: Path, train: Callable[..., Any]) -> None:
    fields = {**tiny, "seeds": [0, 1, 2]}
    assert train(fields, tmp_path / "one").code == 0
    assert train(fields, tmp_path / "two", workers=2).code == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_ends_soon_and_quietly_and_goes_on(
    number: signal.Signals,
    code: int,
    long: dict[str, Any],
    study_file: StudyFile,
    tmp_path: Path,
    train: Callable[..., Any],
) -> None:
    store = tmp_path / "runs"
    process = start(study_file(long), store, "--quiet")
    until(lambda: levels(store) >= 1)
    workers, asked = children(process.pid), time.monotonic()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    lines = process.communicate(timeout=30)[1].splitlines()
    assert process.returncode == code
    assert time.monotonic() - asked < 10
    assert len(lines) == 1
    assert lines[0].startswith("prunephase: ")
    until(lambda: not alive(workers), seconds=5)  # the tracker of multiprocessing leaves a moment after its parent
    assert resumed(long, store, tmp_path, train)


@pytest.mark.slow
def test_interrupts_at_random_moments(
    long: dict[str, Any], study_file: StudyFile, tmp_path: Path, train: Callable[..., Any]
) -> None:
    draw, wrong = random.Random(0), []
    for i in range(20):
        store, number = tmp_path / f"runs{i}", draw.choice([signal.SIGINT, signal.SIGTERM])
        process = start(study_file(long), store, "--quiet")
        until(lambda store=store: (store / "locks").exists())
        time.sleep(draw.uniform(0, 8))
        workers = children(process.pid)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        lines = process.communicate(timeout=30)[1].splitlines()
        limit = time.monotonic() + 5  # the tracker of multiprocessing leaves a moment after its parent
        while alive(workers) and time.monotonic() < limit:
            time.sleep(0.02)
        if process.returncode not in (0, 128 + number) or len(lines) > 1 or alive(workers):
            wrong.append((i, number, process.returncode, lines, alive(workers)))
    assert wrong == []
    assert resumed(long, store, tmp_path, train)


def test_a_killed_worker_is_replaced(
    long: dict[str, Any], study_file: StudyFile, tmp_path: Path, train: Callable[..., Any]
) -> None:
    store = tmp_path / "runs"
    process = start(study_file(long), store)
    holder = until(
        lambda: [p for p in store.glob("locks/*.holder") if not p.name.startswith("study") and levels(store) >= 1]
    )[0]
    os.kill(int(holder.read_text().split()[1]), signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert "its worker died (killed by signal 9)" in said
    assert resumed(long, store, tmp_path, train)


def test_workers_end_with_a_killed_parent_and_another_run_takes_over(
    long: dict[str, Any], study_file: StudyFile, tmp_path: Path, train: Callable[..., Any]
) -> None:
    store, file = tmp_path / "runs", study_file(long)
    first = start(file, store, "--quiet")
    until(lambda: levels(store) >= 1)
    second = start(file, store, "--quiet")
    said = second.communicate(timeout=120)[1].splitlines()
    if first.poll() is None:  # on a slow machine the first may have ended meanwhile
        assert second.returncode == 4
        assert len(said) == 1
        assert f"pid {first.pid} on {os.uname().nodename}" in said[0]
    workers = children(first.pid)
    first.kill()
    until(lambda: not alive(workers), seconds=5)
    first.communicate()
    third = start(file, store, "--quiet")
    said = third.communicate(timeout=120)[1].splitlines()
    assert (third.returncode, said) == (0, [])
    assert resumed(long, store, tmp_path, train)


# -- the executor alone


def dies_once(group: list[Task]) -> Any:
    mark = Path(os.environ["PRUNEPHASE_TEST_MARK"])
    for task in group:
        yield task, "begun"
        if task.trial.seed == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield task, "ended"
        yield task, Finished()


def dies(group: list[Task]) -> Any:
    for task in group:
        yield task, "begun"
        if task.trial.seed == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        yield task, Finished()


def raises(group: list[Task]) -> Any:
    for task in group:
        yield task, task.trial.seed
        if task.trial.seed == 0:
            raise SystemExit("leaving\nnow " + "x" * 1000)
        yield task, Finished()


GROUPS = [[Task(Trial(seed=s))] for s in range(3)]


def ends(events: Any) -> dict[int, Finished]:
    """How each task ended, by the seed of its trial; once each."""
    found = [(task.trial.seed, event) for task, event in events if isinstance(event, Finished)]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize("groups", [GROUPS, [[*GROUPS[1], *GROUPS[0]], GROUPS[2]]])
def test_a_group_whose_worker_dies_is_begun_again_with_what_is_left_of_it(
    groups: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEPHASE_TEST_MARK", str(tmp_path / "mark"))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    events = list(execute.map(dies_once, groups, 2))
    assert [ends(events)[seed].problem for seed in range(3)] == [None] * 3
    assert [task.trial.seed for task, event in events if isinstance(event, Retried)] == [0]


def test_a_trial_whose_worker_always_dies_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    ended = {seed: end.problem for seed, end in ends(execute.map(dies, GROUPS, 2)).items()}
    assert "killed by signal 9" in (ended.pop(0) or "")
    assert ended == {1: None, 2: None}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_users_code_raises_ends_its_trial_in_one_line(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    ended = ends(execute.map(raises, GROUPS, workers))
    assert {s: e.problem for s, e in ended.items() if s} == {1: None, 2: None}
    assert ended[0].problem is not None
    assert ended[0].problem.startswith("SystemExit: leaving now xxx")
    assert len(ended[0].problem) <= 160
    assert "Traceback" in ended[0].trace


@pytest.mark.slow
def test_workers_beyond_the_trials_share_levels_that_stand_side_by_side(
    tiny: dict[str, Any], tmp_path: Path, train: Callable[..., Any]
) -> None:
    fields = {**tiny, "pruning": {**tiny["pruning"], "criterion": "random"}}
    assert train(fields, tmp_path / "one").code == 0
    assert train(fields, tmp_path / "two", workers=2).code == 0
    assert len(list((tmp_path / "two/locks").glob("*-*.lock"))) > 2
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
