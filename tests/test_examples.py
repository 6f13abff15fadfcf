"""The examples do what their README says: every block of commands, in a fresh copy of the folder."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from prunephase import cli
from prunephase.store import Store

FOLDER = Path(__file__).parents[1] / "examples"
BLOCKS = re.findall(r"```sh\n(.*?)```", (FOLDER / "README.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split("\n")[-2] for block in BLOCKS])
def test_an_example_runs_as_its_readme_says(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "images" in block:
        pytest.importorskip("PIL")
    here = shutil.copytree(FOLDER, tmp_path / "examples", ignore=shutil.ignore_patterns("runs", "__pycache__"))
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(here), *sys.path])
    monkeypatch.setattr("prunephase.execute.default_workers", lambda: 1)  # in this process: nothing to start and import
    before = set(sys.modules)
    try:
        for command in block.splitlines():
            program, *words = shlex.split(command)
            if program == "python":
                runpy.run_path(words[0], run_name="__main__")
            else:
                assert program == "prunephase"
                assert cli.main(words) == 0, command
    finally:
        for name in {path.stem for path in FOLDER.glob("*.py")} & (set(sys.modules) - before):
            del sys.modules[name]
    said = capsys.readouterr().out
    assert "present" in said or "not shown" in said or "Underpowered" in said or "findings made" in said
    if "prunephase run" in block:
        assert list((here / "runs").glob("*.html"))
    records = list((here / "runs" / "trials").glob("*/level-*.json"))
    assert len(records) >= 4
    for path in records:
        record = Store(here / "runs").record(path.parent.name, int(path.stem.rpartition("-")[2]))
        assert record is not None
        assert record.body["status"] == "ok"


def test_every_example_stands_in_the_readme() -> None:
    for path in FOLDER.iterdir():
        if path.suffix in (".py", ".toml"):
            assert path.name in (FOLDER / "README.md").read_text("utf-8")
