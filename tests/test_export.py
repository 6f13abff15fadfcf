"""Exported folders: complete or absent, true to the network, readable without this program, compared side by side."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from campaign import STUDY
from prunephase import cli, disk, study
from prunephase.errors import PrunephaseError, UserError
from prunephase.exports import bundle, forms, page
from prunephase.exports.bundle import export
from prunephase.exports.compare import card_of, summary

StudyFile = Callable[..., Path]
OLD = '{"files": {}}'  # the least that a card of an exported folder holds


def refused(*_: Any) -> Any:
    raise forms.NotWritten("left out")


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The last level of the small study, exported without programs, which take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "program", refused)
        patch.setattr(forms, "onnx", refused)
        yield export(study.parse(STUDY), tmp_path_factory.mktemp("out") / "model", finished, 3, force=True).folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without programs, and without what is measured."""
    monkeypatch.setattr(forms, "program", refused)
    monkeypatch.setattr(forms, "onnx", refused)
    monkeypatch.setattr(bundle, "static", lambda _: b"<svg/>")


def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text("utf-8"))  # type: ignore[no-any-return]


def test_the_card_names_every_file_by_its_content(folder: Path) -> None:
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    assert set(card(folder)["files"]) == set(files) - {"card.json"}
    for name, digest in card(folder)["files"].items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest
    for form in card(folder)["forms"]:
        assert form["bytes"] == files[form["path"]].stat().st_size


def test_the_exported_weights_are_those_of_the_store(folder: Path, finished: Path, tiny: dict[str, Any]) -> None:
    from prunephase.levels import trained_state
    from prunephase.store import Store

    (trial,) = study.parse(tiny).trials
    record = Store(finished).record(trial.digest(), 3)
    assert record is not None
    _, weights = trained_state(Store(finished), record)
    exported = load_file(folder / "dense" / "model.safetensors")
    assert all(torch.equal(exported[name], weights[name]) for name in weights)
    assert card(folder)["seal"] == record.seal
    assert card(folder)["surviving"] == record.body["remaining"] == card(folder)["weights"]["surviving"]


def test_the_readme_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (folder / "README.md").read_text("utf-8")
    load, read = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    space: dict[str, Any] = {}
    monkeypatch.chdir(folder / "dense")
    monkeypatch.syspath_prepend(str(folder / "dense"))
    exec(load, space)
    exec(read, space)
    packed = space["read"](str(folder / "sparse" / "model.safetensors"))
    assert all(torch.equal(value, packed[name]) for name, value in space["network"].state_dict().items())
    ramp = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    assert space["network"](ramp)[0].tolist() == card(folder)["probe"]["logits"]


def test_the_readme_tells_split_spread_n_normalisation_and_noise(folder: Path) -> None:
    text = (folder / "README.md").read_text("utf-8")
    for said in (
        "Level 3 was taken by: named",
        "none: one seed",
        "symmetric-flip, rate 20.0 %",
        "float32 of shape [N, 1, 8, 8]",
        "not known here",  # what was looked at to name the level
        "sparse double descent is underpowered",
        "bit for bit",
        "n = ",
    ):
        assert said in text
    assert "{{" not in text
    told = card(folder)["input"]
    assert f"subtract {told['subtract'][0]:.6g}, then divide by {told['divide'][0]:.6g}" in text
    assert card(folder)["sentence"] in text
    assert card(folder)["sentence"].count(". ") == 0


def test_the_input_normalised_as_told_is_what_the_network_was_tested_on(folder: Path, tiny: dict[str, Any]) -> None:
    from sklearn.datasets import load_digits

    from prunephase.data import load

    (trial,) = study.parse(tiny).trials
    data, told = load(trial.data), card(folder)["input"]
    raw = torch.from_numpy(load_digits().images[data.test.index.numpy()] / 16)[:, None]
    ours = (raw - told["subtract"][0]) / told["divide"][0]
    assert torch.allclose(ours.float(), data.test.inputs, atol=1e-6)


def test_the_measured_accuracy_is_that_of_the_record(folder: Path) -> None:
    found = card(folder)
    assert found["measured"]["here"]["accuracy"] == found["accuracy"]["test"]["this_seed"]
    assert found["measured"]["dense"]["accuracy"] == found["accuracy"]["dense_test"]["this_seed"]
    right = sum(
        row["accuracy"] * row["examples"] for row in found["measured"]["classes"] if row["accuracy"] is not None
    )
    assert right / found["measured"]["examples"] == pytest.approx(found["measured"]["here"]["accuracy"])


def test_operations_are_counted_by_density(folder: Path) -> None:
    found = card(folder)["weights"]
    hidden, output = 64 * 16, 16 * 10  # one multiply-accumulate a weight; `output` is pruned as well in this study
    assert found["macs"]["dense"] == hidden + output == found["prunable"]
    assert found["macs"]["sparse"] == found["surviving"]
    assert found["macs"]["compact"] <= found["macs"]["dense"]


@pytest.mark.usefixtures("quick")
def test_a_folder_that_stands_is_replaced_only_if_it_is_ours_and_forced(
    tiny: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    fields, output = study.parse(tiny), tmp_path / "model"
    one = export(fields, output, finished, 2, force=True, latency=False)
    assert one.card["latency"] is None
    kinds = [f"dense/model.{kind} was not written: left out." for kind in ("pt2", "onnx")]
    assert one.card["missing"][:2] == kinds
    with pytest.raises(UserError, match="exists; choose another name, or replace it with --force"):
        export(fields, output, finished, 1, latency=False)
    export(fields, output, finished, 1, force=True, latency=False)
    assert card(output)["choice"]["level"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    (output / "dense" / "__pycache__").mkdir()
    (output / "dense" / "__pycache__" / "model.pyc").write_text("")
    export(fields, output, finished, 2, force=True, latency=False)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes.txt, which was not exported; move it away"):
        export(fields, output, finished, 1, force=True, latency=False)
    assert (output / "notes.txt").read_text() == "mine"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for name in ("mine", "mine/thesis.txt"):
        with pytest.raises(UserError, match="no exported folder"):
            export(fields, tmp_path / name, finished, 1, force=True, latency=False)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("problem", [KeyboardInterrupt, PrunephaseError("no")])
@pytest.mark.parametrize("at", ["weights", "readme", "rename"])
def test_an_export_that_is_broken_off_leaves_what_was_there(
    problem: Any, at: str, tiny: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise problem

    rename, calls = os.rename, list[Any]()

    def second(one: Path, other: Path) -> None:
        calls.append(one)
        if len(calls) == 2:
            raise problem
        rename(one, other)

    old = tmp_path / "old"
    (old / "dense").mkdir(parents=True)
    (old / "card.json").write_text(OLD)
    place, name, value = {
        "weights": (forms, "weights", broken),
        "readme": (page, "readme", broken),
        "rename": (bundle.os, "rename", second),
    }[at]
    monkeypatch.setattr(place, name, value)
    with pytest.raises(BaseException, match=r"no|^$"):
        export(study.parse(tiny), old, finished, 1, force=True, latency=False)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (old / "card.json").read_text() == OLD


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tiny: dict[str, Any],
    study_file: StudyFile,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "put", full)
    words = ["export", str(study_file(tiny)), "--store", str(finished), "-o", str(tmp_path / "model"), "--level", "1"]
    assert cli.main([*words, "--force", "--no-latency"]) == 5
    assert "No space left on device; free some space" in capsys.readouterr().err
    assert not [p for p in tmp_path.iterdir() if "model" in p.name]


@pytest.mark.usefixtures("quick")
def test_a_users_network_and_hostile_names_are_text_in_the_readme(
    tiny: dict[str, Any], tmp_path: Path, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "export_own.py").write_text(
        "from torch import nn\ndef net(shape, classes, width):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(2, width), nn.ReLU(), nn.Linear(width, classes))\n"
    )
    names = ["a|b", "<img src=x>", "# [c](javascript:1)`"]
    rows = "".join(f"{i % 5},{i * i % 11},{names[i % 3]}\n" for i in range(120))
    (tmp_path / "own.csv").write_text(f"one,two,label\n{rows}")
    monkeypatch.syspath_prepend(str(tmp_path))
    fields = copy.deepcopy(tiny) | {
        "name": "a study | with <b>marks</b>",
        "data": {"source": "table", "path": str(tmp_path / "own.csv"), "validation": 0.2},
        "model": {"name": "export_own:net", "kwargs": {"width": 8}},
        "noise": {"kind": "none"},
    }
    assert train(fields, tmp_path / "runs", plugins=["export_own"]).code == 0
    more: dict[str, Any] = {"force": True, "latency": False, "plugins": ["export_own"]}
    done = export(study.parse(fields), tmp_path / "m", tmp_path / "runs", **more)
    text = (done.folder / "README.md").read_text("utf-8")
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<|(?<!\\)\]\(javascript|a\|b", outside)
    assert r"a study \| with \<b\>marks\</b\>" in text
    assert not (done.folder / "dense" / "model.py").exists()
    assert len(done.card["input"]["subtract"]) == 2
    (load, _) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    space: dict[str, Any] = {}
    monkeypatch.chdir(done.folder)
    exec(load, space)
    assert space["network"](torch.linspace(-1, 1, 2)[None])[0].tolist() == done.card["probe"]["logits"]


def test_compare_lays_folders_and_levels_side_by_side(
    folder: Path, finished: Path, tiny: dict[str, Any], study_file: StudyFile, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(folder), f"{study_file(tiny)}:3", f"{study_file(tiny)}:sparsity=0.2"]
    assert cli.main([*words, "--store", str(finished), "--json"]) == 0
    exported, same, other = json.loads(capsys.readouterr().out)["levels"]
    assert (same["level"], other["level"]) == (3, 1)
    for name in ("test", "sparsity", "surviving", "noise", "phase", "verdict"):
        assert exported[name] == same[name]
    assert exported["bytes"]["sparse"] == (folder / "sparse" / "model.safetensors").stat().st_size
    assert same["bytes"] == same["milliseconds"] == {}
    assert cli.main([*words, "--store", str(finished)]) == 0
    assert "test accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 9}', '{"format": 1, "noise": 3}', "nonsense"]
)
def test_a_card_that_is_none_is_said_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(UserError, match=r"format 9|holds no card.json"):
        card_of(str(tmp_path), Path("runs"), study.load)


def test_a_card_of_another_shape_is_refused_not_crashed_on(folder: Path, tmp_path: Path) -> None:
    whole = card(folder)
    for key in ("choice", "noise", "phase", "model", "data", "sparsity", "accuracy", "study"):
        broken = {k: v for k, v in whole.items() if k != key}
        (tmp_path / "card.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match=r"holds no card.json"):
            card_of(str(tmp_path), Path("runs"), study.load)
    assert summary("x", whole)["level"] == 3


@pytest.mark.parametrize(
    "words", [["compare"], ["compare", "nowhere"], ["compare", "preset:demo"], ["export", "nothing.toml"]]
)
def test_a_wrong_word_leaves_code_2_and_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_sentence_calls_smaller_and_faster_only_what_is() -> None:
    def timing(form: str, low: float, high: float) -> dict[str, Any]:
        return {"form": form, "batch": 1, "n": 9, "median": (low + high) / 2, "low": low, "high": high}

    sizes = {"dense": 1000, "sparse": 990, "compact": 400}
    written = [{"path": f"{kind}/model.safetensors", "bytes": size, "gzip": 70} for kind, size in sizes.items()]
    times = [timing("dense", 3, 5), timing("compact", 1, 3), timing("quick", 1, 2), timing("slow", 6, 7)]
    said = page.sentence({"forms": written, "latency": times})
    assert said == (
        "Smaller than the 1 KB of an unpruned network: the compacted network (400 B); not smaller: the dense file "
        f"with its zeros (70 B gzipped) and the bit-packed file (990 B); {page.FASTER}: quick (2.7 times); no faster: "
        "compact; slower: slow."
    )
    assert "faster" not in page.sentence({"forms": written, "latency": None})


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    def meanwhile() -> None:
        with bundle.appearing(tmp_path / "model", force=False) as part:
            (part / "file").write_text("new")
            (tmp_path / "model").mkdir()
            (tmp_path / "model" / "card.json").write_text("{}")

    with pytest.raises(UserError, match="exists"):
        meanwhile()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["card.json"]


@pytest.mark.slow
def test_every_form_through_the_command_line(
    tiny: dict[str, Any], study_file: StudyFile, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(study_file(tiny)), "--store", str(finished), "-o", str(tmp_path / "m"), "--level", "3"]
    assert cli.main([*words, "--force", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["card"]
    assert {"dense/model.pt2", "compact/model.pt2"} <= {form["path"] for form in found["forms"]}
    exact = {form["difference"] for form in found["forms"] if form["path"].endswith("safetensors")}
    assert exact == {0.0}
    assert all(form["difference"] < 1e-5 for form in found["forms"])  # programs may add in another order


@pytest.mark.usefixtures("quick")
def test_what_a_killed_export_left_is_removed_by_the_next(tiny: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / ".model.part" / f"{disk.machine()}-{dead.pid}-new" / "dense"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")
    export(study.parse(tiny), tmp_path / "model", finished, 1, force=True, latency=False)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
