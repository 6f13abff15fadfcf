"""The native kernels are compiled once, or it is said why not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunephase.engine.native import build
from prunephase.engine.native.build import Built

HAVE = build.library() is not None
compiled = pytest.mark.skipif(not HAVE, reason="no C compiler")
ASK = "from prunephase.engine.native import build; print(build.library().identity, build.reason())"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and no memory of what was built before."""
    monkeypatch.setenv("PRUNEPHASE_CACHE", str(tmp_path / "cache"))
    build.built.cache_clear()
    yield tmp_path / "cache"
    build.built.cache_clear()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def refused(found: Built) -> str:
    assert found.library is None
    assert found.reason
    assert "\n" not in found.reason
    return found.reason


def test_without_a_compiler_there_is_a_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cache))
    monkeypatch.delenv("CC", raising=False)
    assert "install gcc or clang" in refused(build.built())


@pytest.mark.usefixtures("cache")
def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-cc -O1")
    assert "CC=no-such-cc -O1" in refused(build.built())


@pytest.mark.skipif(os.name == "nt", reason="shell scripts")
def test_what_a_failing_compiler_says_is_passed_on(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", script(tmp_path / "cc", "echo 'kernels.c:1: error: too old' >&2; exit 1"))
    assert "error: too old" in refused(build.built())
    assert not list(cache.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="shell scripts")
@pytest.mark.usefixtures("cache")
def test_a_compiler_that_writes_rubbish_gives_no_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rubbish = 'while [ "$1" != "-o" ]; do [ -z "$1" ] && exit 0; shift; done; echo rubbish > "$2"'
    monkeypatch.setenv("CC", script(tmp_path / "cc", rubbish))
    refused(build.built())


@compiled
@pytest.mark.usefixtures("cache")
def test_a_library_that_computes_wrong_numbers_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "kernels.c"
    source.write_text(build.SOURCE.read_text("utf-8").replace("sum[i] += w *", "sum[i] -= w *"), "utf-8")
    monkeypatch.setattr(build, "SOURCE", source)
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O0"))
    assert "wrong numbers" in refused(build.built())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o500)
    assert "set PRUNEPHASE_CACHE" in refused(build.built())


def test_a_folder_that_is_a_file_is_named(cache: Path) -> None:
    cache.write_text("")
    assert "set PRUNEPHASE_CACHE" in refused(build.built()) if HAVE else refused(build.built())


@pytest.mark.slow
@compiled
@pytest.mark.skipif(os.name == "nt", reason="shell scripts")
def test_two_processes_may_compile_at_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", script(tmp_path / "cc", 'exec cc "$@" -O0'))  # quick, and twice the same
    command = [sys.executable, "-c", ASK]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=300)[0].strip() for process in both}
    assert len(said) == 1
    assert len(said.pop()) == 16
    (library,) = cache.iterdir()
    before = library.stat().st_mtime_ns
    assert build.library() is not None
    assert library.stat().st_mtime_ns == before  # found, not made again


@compiled
def test_another_source_or_processor_is_another_library(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O0"))
    first = build.library()
    build.built.cache_clear()
    monkeypatch.setattr(build, "_processor", lambda: "another")
    second = build.library()
    assert first is not None
    assert second is not None
    assert first.identity != second.identity
    assert len(list(cache.iterdir())) == 2
