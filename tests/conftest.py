"""What several test files share: a study small enough to train in milliseconds, and its finished store."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from campaign import STUDY, tree

hypothesis.settings.register_profile("here", deadline=None)  # a busy machine is not a fault
hypothesis.settings.load_profile("here")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NO_COLOR"] = "1"


def toml(value: Any) -> str:
    """A value of a study file, in TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    return json.dumps(value) if isinstance(value, (str, bool)) else repr(value)


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The fields of a small study on digits: one trial of four levels, of one epoch each."""
    return copy.deepcopy(STUDY)


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., Path]:
    """`study_file(fields, name="study")` writes a study file and gives its path."""

    def write(fields: dict[str, Any], name: str = "study") -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text("".join(f"{json.dumps(k)} = {toml(v)}\n" for k, v in fields.items()), "utf-8")
        return path

    return write


@pytest.fixture
def train() -> Callable[..., Any]:
    """`train(fields, store, **more)`: prunephase.runs.train on a study of `fields`, in this process."""
    from prunephase import runs, study

    def run(fields: dict[str, Any], store: Path, **more: Any) -> Any:
        return runs.train(study.parse(fields), store, **{"workers": 1, **more})

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the small study is finished. Copy it before you change it."""
    from prunephase import runs, study

    store = tmp_path_factory.mktemp("finished") / "runs"
    assert runs.train(study.parse(copy.deepcopy(STUDY)), store, workers=1).code == 0
    assert len(tree(store)) > 10
    return store


@pytest.fixture
def forked_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles are read by a fork of this process, where a new one would import torch first; and kept in `tmp_path`."""
    from hostile import forked
    from prunephase import checkpoint

    monkeypatch.setattr(checkpoint, "_child", forked)
    monkeypatch.setattr(checkpoint, "folder", lambda: tmp_path / "tensors")
