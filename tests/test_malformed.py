"""Malformed study files and unusable data: exit code 2, short lines, nothing written, nothing run."""

# ruff: noqa: E501 (tables of hostile values)

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import toml
from prunephase import cli
from prunephase.study import parse
from prunephase.trial import Trial

LONGEST = 300  # characters of one line
WRONG: dict[str, list[Any]] = {
    "number": ["0.1", True, [0.1], {}, float("nan"), float("inf"), float("-inf"), -1.0, -1e308, "NaN", None],
    "integer": ["3", 1.5, True, [3], {}, float("nan"), -1, -(10**30), "three"],
    "word": [
        1,
        1.5,
        True,
        [],
        {},
        "",
        " ",
        "magnitud",
        "Magnitude",
        "\u202emagnitude",
        "mag\u0000",
        "x" * 400,
        "a:b:c",
        "os.system",
        "../x",
        "\x1b[2J",
    ],
    "table": [1, "table", [], [1, 2], True, [{}]],
    "words": [1, "output", [1], [["output"]], {"a": 1}, [True]],
}
KIND = {
    "data.source": "word", "data.train": "integer", "data.validation": "number", "data.test": "number", "data.normalise": "word",
    "data.seed": "integer", "noise.kind": "word", "noise.rate": "number", "noise.count": "word", "model.name": "word",
    "model.kwargs": "table", "recipe.optimizer": "word", "recipe.lr": "number", "recipe.momentum": "number",
    "recipe.weight_decay": "number", "recipe.batch_size": "integer", "recipe.epochs": "integer", "recipe.schedule": "word",
    "recipe.milestones": "words", "recipe.factor": "number", "pruning.criterion": "word", "pruning.fraction": "number",
    "pruning.levels": "integer", "pruning.scope": "word", "pruning.ladder": "word", "pruning.include": "words",
    "pruning.exclude": "words", "pruning.batches": "integer", "pruning.score_mode": "word", "restart.mode": "word",
    "restart.to": "word", "antidote.kind": "word",
}  # fmt: skip
BEYOND = {
    "data.train": [0, -5], "data.validation": [1.0, 1.5, -0.1], "data.test": [0.0, 1.0, 2.0], "noise.rate": [1.01, 20.0, -0.2],
    "recipe.lr": [0.0, -0.1], "recipe.momentum": [1.0, 9.0, -0.1], "recipe.batch_size": [0], "recipe.epochs": [0],
    "pruning.fraction": [0.0, 1.0, 80.0], "pruning.levels": [-1], "pruning.batches": [0], "restart.to": ["1", "1e", "-1it", "1.5ep", "01it"],
    "recipe.milestones": [[0], [2, 1], [100], [1, 1]],
}  # fmt: skip
NAMES = ["seed", "lr", "noize", "Data", "__class__", "extend", "grid ", "é", "x" * 300, "a\nb", "\x1b[31m"]
RAW = [
    b"", b"\0", b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b"PK\x03\x04", b"name = ", b"name = 'a'\nname = 'b'",
    b"[data]\nsource = 'digits'\n[data]\n", b"[data\n", b"]", b"= 1", b"a.b.c", b"name = \"\x01\"", b"{\"name\": 1}", b"- name: x\n  seeds: [1]",
    b"seeds = [0, 1", b"'''", b"\"\"\"", b"seeds = 0x", b"seeds = 1__0", b"x = 1979-13-45", b"[" * 5000, b"a=" + b"[" * 5000,
    b"a = " + b"{a = " * 200, b".".join([b"a"] * 5000) + b" = 1", b"name = \"" + b"x" * 1_100_000 + b"\"", b"name = 'a' # \xc3\x28", b"\xef\xbb\xbf\xef\xbb\xbfname = 'a'",
    b"seeds = [9e999]", b"seeds = [nan]", b"name = \"\\ud800\"", b"name = \"a\\nb\"", b"!!python/object:os.system",
]  # fmt: skip
EXTENDS = [
    "preset:nothing", "preset:", "preset:../demo", "preset:demo.toml", "/etc/passwd", "nothing.toml", ".", "..",
    "", "x\0y", "study.toml", "http://example.com/a.toml", "~/x", "\x1b[2J", "a" * 5000, "/proc/self/environ", 1, True, ["preset:demo"], {},
]  # fmt: skip
GRIDS = [
    1, "x", [], [1], True, {"noise.rate": 0.2}, {"noise.rate": []}, {"noise.rate": "0.2"}, {"noise": [0.2]}, {"noise.rat": [0.2]},
    {"": [1]}, {".": [1]}, {"noise.": [1]}, {".rate": [1]}, {"seed": [1, 2]}, {"name": ["a"]}, {"seeds": [[1], [2]]}, {"grid": [1]},
    {"noise.rate": [0.1, "x"]}, {"noise.rate": [0.1, 0.1]}, {"noise.rate": [[0.1]]}, {"noise.rate": [float("nan")]}, {"recipe.lr": [0.1, 2, True]},
    {"extends": ["preset:demo"]}, {"noise.rate": {"deep": {"deeper": [1]}}}, {"recipe.epochs": list(range(1, 400)), "recipe.batch_size": list(range(1, 400))},
    {"__class__": [1]}, {"noise.__class__": [1]}, {"noise.rate.x": [1]},
]  # fmt: skip
CODE = [
    "os:system",
    "subprocess:run",
    "torch.hub:load",
    "builtins:exec",
    "antigravity:x",
    "this:d",
    "__main__:x",
    "prunephase.cli:main",
]
SEEDS = [1, "0", [], [-1], [0, 0], [1.0], [True], ["0"], [[0]], {}, [None], [float("inf")], [-(2**70)]]
TITLES = ["", " ", "\t", "a\nb", "x" * 201, 1, True, [], {}, "\x1b[2Jforged", "a\x00"]


def changed(fields: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(fields)
    section, _, field = path.partition(".")
    if field:
        result.setdefault(section, {})[field] = value
    else:
        result[section] = value
    return result


def malformed(fields: dict[str, Any]) -> list[tuple[str, bytes]]:
    """(what is wrong, the bytes of a study file), from the grammar above; more than 300 in all."""

    def text(values: dict[str, Any]) -> bytes:
        return "".join(f"{json.dumps(k)} = {written(v)}\n" for k, v in values.items()).encode("utf-8", "surrogatepass")

    def written(value: Any) -> str:
        return "[[]]" if value is None else toml(value)

    cases = [("raw", raw) for raw in RAW if raw]
    for path, kind in KIND.items():
        cases += [(f"{path} = {value!r:.40}", text(changed(fields, path, value))) for value in WRONG[kind]]
    for path, values in BEYOND.items():
        base = changed(fields, "recipe.schedule", "step") if path == "recipe.milestones" else fields
        cases += [(f"{path} = {value!r}", text(changed(base, path, value))) for value in values]
    for name in NAMES:
        cases.append((f"unknown {name!r:.20}", text({**fields, name: 1})))
        cases += [
            (f"unknown {s}.{name!r:.20}", text(changed(fields, f"{s}.{name}", 1)))
            for s in ("data", "recipe")
            if (s, name) != ("data", "seed") and (s, name) != ("recipe", "lr")
        ]
    cases += [
        (f"section {s} = {v!r}", text({**fields, s: v}))
        for s in ("data", "noise", "model", "recipe")
        for v in (1, "x", [1], True)
    ]
    cases += [(f"extends {e!r:.20}", text({**fields, "extends": e})) for e in EXTENDS]
    cases += [(f"grid {g!r:.40}", text({**fields, "grid": g})) for g in GRIDS]
    cases += [(f"seeds {s!r:.20}", text({**fields, "seeds": s})) for s in SEEDS]
    cases += [(f"name {t!r:.20}", text({**fields, "name": t})) for t in TITLES]
    for path in ("model.name", "data.source", "noise.kind"):
        cases += [(f"code {path} = {c}", text(changed(fields, path, c))) for c in CODE]
    return cases


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def bad_lines(lines: list[str]) -> list[str]:
    wrong = [
        line for line in lines if not line.startswith("prunephase:") or len(line) > LONGEST or not line.isprintable()
    ]
    return wrong + (["nothing said"] if not lines else []) + [line for line in lines if "Traceback" in line]


def test_every_malformed_study_file_is_refused_in_short_lines(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, store = tmp_path / "study.toml", tmp_path / "store"
    cases = malformed(tiny)
    assert len(cases) >= 300
    wrong, loaded = [], set(sys.modules)
    for i, (what, data) in enumerate(cases):
        file.write_bytes(data)
        command = ("plan", "status", "run")[i % 3] if not what.startswith("code") else ("plan", "run")[i % 2]
        if cli.main(["status", "study.toml"]) == 0 and not what.startswith("code"):
            wrong.append((what, "status", 0, ["is a valid study"]))
            continue
        capsys.readouterr()
        code = cli.main([command, "study.toml", "--store", str(store)])
        problems = bad_lines(said(capsys))
        if code != 2 or problems or store.exists() or {p.name for p in tmp_path.iterdir()} != {"study.toml"}:
            wrong.append((what, command, code, problems[:1]))
    assert wrong == []
    assert not {"antigravity", "this"} & (set(sys.modules) - loaded)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_criterion_that_names_code_is_refused_before_anything_is_written(
    command: str, tiny: dict[str, Any], study_file: Callable[..., Path], tmp_path: Path
) -> None:
    file = study_file(changed(tiny, "pruning.criterion", "antigravity:x"))
    assert cli.main([command, str(file), "--store", str(tmp_path / "store"), "--workers", "1"]) == 2
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin"])
def test_a_study_that_extends_a_device_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(f'extends = "{path}"')
    assert cli.main(["status", str(tmp_path / "study.toml")]) == 2


def test_the_valid_file_is_accepted(tiny: dict[str, Any], study_file: Callable[..., Path], tmp_path: Path) -> None:
    assert cli.main(["status", str(study_file(tiny)), "--store", str(tmp_path / "store")]) == 0
    assert set(KIND) <= {f"{s}.{f}" for s, v in Trial().model_dump().items() if isinstance(v, dict) for f in v}
    assert len(parse(tiny).trials) == 1


def test_a_study_that_goes_on_for_ever_is_refused_by_its_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"')
    (tmp_path / "b.toml").write_text('extends = "a.toml"')
    assert cli.main(["status", str(tmp_path / "a.toml")]) == 2
    assert bad_lines(said(capsys)) == []


SETTINGS = [
    "noise.rat=1",
    "noise.rate=",
    "=",
    "noise.rate",
    "noise.rate=NaN",
    "seeds=3",
    "grid=1",
    "a" * 1000 + "=1",
    "\x1b[2J=1",
    "noise.rate=2",
    "name=\x07",
]


@pytest.mark.parametrize("change", SETTINGS)
def test_a_bad_change_on_the_command_line_is_refused(
    change: str,
    tiny: dict[str, Any],
    study_file: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["run", str(study_file(tiny)), "--set", change, "--store", str(tmp_path / "store")]) == 2
    assert bad_lines(said(capsys)) == []
    assert not (tmp_path / "store").exists()


def arrays() -> tuple[Any, Any]:
    draw = np.random.default_rng(0)
    return draw.normal(size=(60, 12)).astype(np.float32), np.arange(60) % 3


def data_sets() -> dict[str, Any]:
    """Hostile data sets: {what is wrong: arrays of the archive, or the bytes of the file}."""
    x, y = arrays()
    some = lambda values, at, value: np.array([value if i == at else v for i, v in enumerate(values)])  # noqa: E731
    holes = x.copy()
    holes[7, 3] = np.nan
    endless = x.copy()
    endless[7, 3] = np.inf
    return {
        "a negative label": {"x": x, "y": some(y, 5, -1)},
        "the label -100": {"x": x, "y": some(y, 5, -100)},
        "a fractional label": {"x": x, "y": y + 0.5},
        "a label that is NaN": {"x": x, "y": some(y.astype(float), 5, np.nan)},
        "a gap in the labels": {"x": x, "y": np.where(y == 1, 7, y)},
        "labels from one": {"x": x, "y": y + 1},
        "a huge label": {"x": x, "y": some(y, 5, 2**62)},
        "one class only": {"x": x, "y": y * 0},
        "one-hot labels": {"x": x, "y": np.eye(3)[y]},
        "complex labels": {"x": x, "y": y + 1j},
        "NaN in the inputs": {"x": holes, "y": y},
        "Inf in the inputs": {"x": endless, "y": y},
        "inputs that are words": {"x": x.astype(str), "y": y},
        "inputs that are objects": {"x": np.array([[{}]] * 60, dtype=object), "y": y},
        "labels that are objects": {"x": x, "y": np.array([{}] * 60, dtype=object)},
        "no examples": {"x": x[:0], "y": y[:0]},
        "one example": {"x": x[:1], "y": y[:1]},
        "two examples": {"x": x[:2], "y": y[:2]},
        "a label too few": {"x": x, "y": y[:-1]},
        "inputs of one dimension": {"x": x[:, 0], "y": y},
        "inputs of five dimensions": {"x": x.reshape(60, 1, 1, 3, 4), "y": y},
        "no features": {"x": x[:, :0], "y": y},
        "labels that are a number": {"x": x, "y": np.array(3)},
        "other names": {"a": x, "b": y},
        "test inputs without labels": {"x": x, "y": y, "x_test": x},
        "a test set of another shape": {"x": x, "y": y, "x_test": x[:, :5], "y_test": y},
        "a test label that training lacks": {"x": x, "y": y, "x_test": x, "y_test": y + 5},
        "an empty file": b"",
        "a text": b"x,y\n1,2\n",
        "a torn archive": b"PK\x03\x04" + bytes(range(200)),
        "a pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    }


@pytest.mark.parametrize("what", data_sets())
def test_unusable_data_are_refused_before_anything_is_written(
    what: str, tiny: dict[str, Any], study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, content = tmp_path / "data.npz", data_sets()[what]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    fields = {**tiny, "data": {"source": "npz", "path": str(path), "test": 0.2}}
    code = cli.main(["run", str(study_file(fields)), "--store", str(tmp_path / "store"), "--workers", "1"])
    lines = said(capsys)
    assert (code, len(lines), bad_lines(lines)) == (2, 1, [])
    assert not (tmp_path / "store").exists()


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "more levels than weights": {"model": {"name": "mlp", "kwargs": {"widths": [1]}}, "pruning": {"levels": 500}},
    "no prunable weights": {"pruning": {"exclude": ["*"]}},
    "a module that is not there": {"pruning": {"include": ["nothing"]}},
    "a rewind beyond the schedule": {"restart": {"to": "99ep"}},
    "more examples than there are": {"data": {"source": "digits", "train": 10**6}},
    "widths that are words": {"model": {"name": "mlp", "kwargs": {"widths": ["a"]}}},
    "widths that are nothing": {"model": {"name": "mlp", "kwargs": {"widths": [0]}}},
    "arguments of another model": {"model": {"name": "mlp", "kwargs": {"depth": 3}}},
    "a model for images": {
        "data": {"source": "digits", "path": "/nowhere"},
        "model": {"name": "small-cnn", "kwargs": {"channels": [4, 4, 4, 4, 4]}},
    },
    "data that are not there": {"data": {"source": "npz", "path": "/nowhere/data.npz"}},
    "data without a place": {"data": {"source": "npz"}},
    "a map to no class": {"noise": {"kind": "asymmetric", "rate": 0.1, "map": {"2": 99}}},
    "human labels that are not there": {"noise": {"kind": "human", "path": "/nowhere/labels.npz"}},
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_an_impossible_study_is_refused_before_anything_is_written(
    what: str, tiny: dict[str, Any], study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = study_file({**tiny, **IMPOSSIBLE[what]})
    assert cli.main(["run", str(file), "--store", str(tmp_path / "store"), "--workers", "1"]) == 2
    lines = said(capsys)
    assert (len(lines), bad_lines(lines)) == (1, [])
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_the_real_command_line_says_the_same(tiny: dict[str, Any], tmp_path: Path) -> None:
    for i, (what, data) in enumerate(random.Random(0).sample(malformed(tiny), 20)):
        (tmp_path / "study.toml").write_bytes(data)
        done = subprocess.run(
            [sys.executable, "-m", "prunephase", ("run", "plan")[i % 2], "study.toml"], cwd=tmp_path, capture_output=True, text=True,
            timeout=120, env={**os.environ, "LANG": "C", "LC_ALL": "C"}, check=False,
        )  # fmt: skip
        assert (done.returncode, bad_lines(done.stderr.splitlines()), done.stdout) == (2, [], ""), what
        assert {p.name for p in tmp_path.iterdir()} == {"study.toml"}
