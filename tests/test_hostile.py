"""Hostile and broken files of weights: exit code 2, one line that names the file and a remedy, nothing run, bounded.

pytest -m slow tests/test_hostile.py      the same with a real process and a real child for each file
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hostile import FITS, corpus, misfits, payloads, pickles, safetensors, torch_zip
from prunephase import checkpoint, cli, unpickle
from prunephase.data.files import read_labels, read_npz, read_table
from prunephase.errors import Exit, UserError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and limits as Linux has them")

MEMORY = 1.5e9  # bytes: torch itself takes most of it
# Files of tensors that nothing is wrong with, but that they are of no network.
SOUND = {
    "nothing.pt",
    *(f"{name}.safetensors" for name in ("same-name", "odd-names", "long-names", "many")),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file that nothing may remove, in which the commands run."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "files").mkdir()
    monkeypatch.setenv("PRUNEPHASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "files")
    return tmp_path


def judge(name: str, code: int, said: str) -> str:
    """What is wrong with how `name` was refused; empty where nothing is."""
    lines = said.splitlines()
    shown = repr(name)[1:-1][:40]
    faults = {
        f"exit code {code}": code != Exit.USER,
        f"{len(lines)} lines": len(lines) != 1,
        "longer than a line": any(len(line) > 300 for line in lines),
        "the file is not named": shown not in said,
        "no field is named": "weights" not in said,
        "no remedy": ";" not in said,
        "not printable": not all(line.isprintable() for line in lines),
    }
    return "; ".join(fault for fault, holds in faults.items() if holds)


@pytest.mark.usefixtures("forked_child")
def test_every_file_is_refused_or_is_plain_tensors(place: Path) -> None:
    canary, said, sound = place / "canary", dict[str, str](), set()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of other tests
    for name in corpus(Path(), canary):
        try:
            checkpoint.content_of(name)
            sound.add(name)
        except ValueError as problem:
            said[name] = str(problem)
    assert len(said) >= 140
    assert sound == {name for name, _ in misfits()} | SOUND
    assert [line for line in said.values() if not line.isprintable() or len(line) > 220] == []
    assert not canary.exists()
    assert (place / "victim").is_dir()
    assert {path.name for path in place.iterdir()} == {"victim", "files", "tensors"}
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, MEMORY / 1024)


@pytest.mark.usefixtures("forked_child")
def test_the_command_line_says_it_in_a_line(
    place: Path, study_file: Callable[..., Path], tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    canary = place / "canary"
    Path("code.pt").write_bytes(torch_zip(payloads(canary)["reduce-os-system"]))
    for name, data in (*misfits(), *((f"{name}.safetensors", data) for name, data in safetensors())):
        Path(name).write_bytes(data)
    for name in ("code.pt", "more.safetensors", "new\nline.pt", "odd-names.safetensors"):
        study = study_file({**tiny, "model": {**tiny["model"], "weights": name}})
        code = cli.main(["run", str(study), "--store", str(place / "runs")])
        said = capsys.readouterr()
        assert judge(name, code, said.err) == "", said.err
        assert said.out == ""
    assert not canary.exists()
    assert not (place / "runs").exists()


@pytest.mark.slow
def test_the_payloads_run_where_a_plain_unpickler_reads_them(place: Path) -> None:
    canary, ran = place / "canary", set()
    for name, data in pickles(canary):
        Path(name).write_bytes(data)
        (place / "victim").mkdir(exist_ok=True)
        if not (child := os.fork()):
            with contextlib.suppress(BaseException):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                torch.load(name, weights_only=False)
            os._exit(0)
        os.waitpid(child, 0)
        if canary.exists() or not (place / "victim").exists():
            ran.add(name)
        canary.unlink(missing_ok=True)
    assert len(ran) >= 30, sorted(ran)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_child")
def test_every_hostile_file_is_refused_by_the_command_line(
    place: Path, study_file: Callable[..., Path], tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    canary, wrong, lines = place / "canary", {}, []
    for name in corpus(Path(), canary):
        study = study_file({**tiny, "model": {**tiny["model"], "weights": name}})
        code = cli.main(["run", str(study), "--store", str(place / "runs")])
        lines.append(said := capsys.readouterr().err)
        if fault := judge(name, code, said):
            wrong[name] = f"{fault}: {said!r}"
    with capsys.disabled():
        print(*(line.strip() for line in lines), f"{len(lines) - len(wrong)} of {len(lines)} refused", sep="\n")
    assert not wrong, "\n".join(f"{name!r}: {what}" for name, what in wrong.items())
    assert not canary.exists()
    assert (place / "victim").is_dir()
    assert not (place / "runs").exists()


@pytest.mark.slow
def test_every_hostile_file_is_refused_by_a_real_child(
    place: Path, study_file: Callable[..., Path], tiny: dict[str, Any]
) -> None:
    canary = place / "canary"
    wrong, lines, slowest = {}, [], 0.0
    for name in (name for name in corpus(Path(), canary) if "\0" not in name):
        study = study_file({**tiny, "model": {**tiny["model"], "weights": name}})
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "prunephase", "run", str(study), "--store", str(place / "runs")]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        slowest = max(slowest, used.ru_utime + used.ru_stime - begun.ru_utime - begun.ru_stime)
        lines.append(ended.stderr.strip())
        if fault := judge(name, ended.returncode, ended.stderr):
            wrong[name] = f"{fault}: {ended.stderr!r}"
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    report = {"files": len(lines), "refused": len(lines) - len(wrong), "slowest, s of CPU": round(slowest, 1)}
    print(*lines, json.dumps({**report, "most memory, MB": round(memory / 1e6), "canary": canary.exists()}), sep="\n")
    assert not wrong, "\n".join(f"{name!r}: {what}" for name, what in wrong.items())
    assert not canary.exists()
    assert (place / "victim").is_dir()
    assert memory < MEMORY


@pytest.mark.usefixtures("forked_child")
def test_a_child_that_goes_on_for_ever_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any) -> None:
        while True:
            pass

    torch.save(FITS, tmp_path / "a.pt")
    monkeypatch.setattr(unpickle, "SECONDS", 0)
    monkeypatch.setattr(unpickle, "arrays", busy)
    with pytest.raises(ValueError, match="could not be read within limits of memory and time"):
        checkpoint.content_of(tmp_path / "a.pt")


@pytest.mark.usefixtures("forked_child")
def test_a_torch_whose_unpickler_is_unsafe_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(FITS, tmp_path / "a.pt")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    monkeypatch.setattr(torch, "load", lambda *_, **__: os._exit(0))
    with pytest.raises(ValueError, match=r"torch 2.9.1\+cpu can be made to run code by such a file; install"):
        checkpoint.content_of(tmp_path / "a.pt")


def test_data_and_labels_in_pipes_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.npz", "a.csv", "a.pt"):
        os.mkfifo(tmp_path / name)
    for ask in (
        lambda: read_npz(tmp_path / "a.npz", "data.path"),
        lambda: read_table(tmp_path / "a.csv", "data.path"),
        lambda: read_labels(tmp_path / "a.pt", None, "noise.path"),
    ):
        with pytest.raises(UserError, match=r"no file|no such file"):
            ask()


def test_the_child_imports_nothing_from_where_it_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torch", "numpy", "zipfile", "prunephase"):
        Path(f"{module}.py").write_text(f"open({str(place / 'canary')!r}, 'w')")
    torch.save(FITS, "fine.pt")
    assert len(checkpoint.content_of("fine.pt")) == 64
    assert not (place / "canary").exists()
    assert [path.suffix for path in (place / "cache" / "tensors").iterdir()] == [".bin"]
    monkeypatch.setattr(checkpoint, "_child", lambda *_: pytest.fail("asked again"))
    os.utime("fine.pt", (1, 1))
    assert len(checkpoint.content_of("fine.pt")) == 64
