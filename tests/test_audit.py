"""Audits: planted noise is found again, the forecast is that of known sweeps, and selection takes the estimate."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunephase import audit, cli
from prunephase.analysis.forecast import forecast, level, sweeps
from prunephase.analysis.published import landmarks
from prunephase.errors import UserError
from prunephase.labels import transitions

N, CLASSES = 600, 3


def planted(
    rate: float, kind: str = "symmetric"
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Three clouds of points, and labels of which a share is wrong: features, labels, truth."""
    chance = np.random.default_rng(0)
    truth = np.arange(N) % CLASSES
    features = np.eye(CLASSES)[truth] * 4 + chance.normal(size=(N, CLASSES))
    steps = 1 if kind == "pairflip" else chance.integers(1, CLASSES, N)
    return features, np.where(chance.random(N) < rate, (truth + steps) % CLASSES, truth), truth


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two quick classifiers; needs cleanlab."""
    pytest.importorskip("cleanlab", reason="the extra labels is not installed")
    kept = {name: audit.CLASSIFIERS[name] for name in ("neighbours", "logistic")}
    monkeypatch.setattr(audit, "CLASSIFIERS", kept)


@pytest.mark.parametrize(("rate", "kind"), [(0.0, "symmetric"), (0.2, "symmetric"), (0.3, "pairflip")])
@pytest.mark.usefixtures("few")
def test_planted_noise_is_found_again_and_its_classes_too(rate: float, kind: str) -> None:
    features, labels, truth = planted(rate, kind)
    found = audit.estimate(labels, audit.crossed(features, labels, "abc")[0], draws=40)
    real = float((labels != truth).mean())
    assert found.rate == pytest.approx(real, abs=0.03)
    assert found.low <= found.rate <= found.high
    counts = np.array([np.bincount(labels[truth == c], minlength=CLASSES) for c in range(CLASSES)])
    np.testing.assert_allclose(found.transition, counts / counts.sum(axis=1, keepdims=True), atol=0.07)
    assert found.accuracy == pytest.approx(0.98, abs=0.04)
    assert not found.weak


@pytest.mark.usefixtures("few")
def test_on_digits_with_a_fifth_of_the_labels_wrong_the_rate_is_within_four_points() -> None:
    from prunephase import noise, sections
    from prunephase.data import load

    clean = load(sections.Data(source="digits", train=1000))
    data, card = noise.corrupt(clean, sections.Noise(kind="symmetric-flip", rate=0.2), source="digits", seed=0)
    labels = data.train.labels.numpy()
    crossed = audit.crossed(data.train.inputs.flatten(1).numpy(), labels, data.classes)
    assert audit.estimate(labels, crossed[0], draws=20).rate == pytest.approx(card.train.realised, abs=0.04)
    suspect = audit.suspicion(labels, crossed[0].chances)
    assert (data.train.truth.numpy() != labels)[np.argsort(-suspect)[:150]].mean() > 0.9


@pytest.mark.usefixtures("few")
def test_features_without_information_are_called_weak() -> None:
    _, labels, _ = planted(0.2)
    noise = np.random.default_rng(1).normal(size=(N, CLASSES))
    assert audit.estimate(labels, audit.crossed(noise, labels, "abc")[0], draws=10).weak


@pytest.mark.usefixtures("few")
def test_a_class_with_one_label_is_refused() -> None:
    features, labels, _ = planted(0.0)
    labels[labels == 2] = 1
    labels[0] = 2
    with pytest.raises(UserError, match="class 'c' has 1 of the 600 labels"):
        audit.crossed(features, labels, "abc")


def test_without_cleanlab_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    assert cli.main(["audit-labels", "preset:demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'prunephase[labels]'" in line


@pytest.mark.usefixtures("few")
def test_a_table_is_audited_and_its_truth_judges_the_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    features, labels, truth = planted(0.2)
    lines = [f"{a},{b},{c},{x},{t}" for (a, b, c), x, t in zip(features, labels, truth, strict=True)]
    Path("cells.csv").write_text("\n".join(["a,b,c,kind,clean", *lines]), "utf-8")
    words = ["audit-labels", "cells.csv", "--set", "data.label=kind", "--set", "data.truth=clean"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "Known: " in said
    assert "Nothing is predicted for the dip" in said
    assert cli.main([*words, "--json", "--most", "300"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["examples"], found["labels"], len(found["transition"])) == (300, 480, CLASSES)
    assert found["rate"] == pytest.approx(found["known_rate"], abs=0.05)
    assert found["forecast"]["dip"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing.xls"], "expected a study file"),
        (["nothing.npz"], "no such file or folder"),
        (["preset:demo", "--most", "1"], "--most 1: expected at least 2"),
        (["preset:demoo"], "demoo"),
    ],
)
def test_errors_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cleanlab", reason="the extra labels is not installed")
    assert cli.main(["audit-labels", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_forecast_is_the_span_of_the_known_sweeps_of_the_source() -> None:
    found = forecast(0.2, "mnist")
    dip = landmarks("he2022-mnist-20").dip
    assert dip is not None
    assert found.alike
    assert found.needed == "yes"
    assert found.dips is not None
    assert found.dips[0] == dip.sparsity
    assert all(one.source == "mnist" and abs(one.wrong - 0.2) <= 0.1 for one in found.like)
    assert forecast(0.0, "mnist").needed == "no"
    other = forecast(0.2, "table")
    assert (other.alike, other.dips) == (False, None)
    assert {one.source for one in other.like} > {"mnist", "cifar10"}
    assert forecast(None, "mnist").needed == forecast(0.95, "mnist").needed == "unknown"
    assert level(dip.sparsity, 0.2) == dip.level


def test_every_measured_sweep_names_the_result_it_comes_from() -> None:
    docs = Path(__file__).parent.parent
    for one in sweeps():
        assert 0 <= one.wrong < 1
        if "docs/" in one.name:
            assert (docs / one.name.split(", ")[-1]).is_file(), one.name


CARDS = {"t0": {"classes": 2, "train": {}}}


@pytest.mark.parametrize("name", ["m.csv", "m.json"])
def test_a_transition_matrix_is_read_from_a_file(name: str, tmp_path: Path) -> None:
    matrix = [[0.8, 0.2], [0.1, 0.9]]
    text = json.dumps({"transition": matrix}) if name == "m.json" else "0.8,0.2\n0.1,0.9\n"
    (tmp_path / name).write_text(text, "utf-8")
    assert transitions(str(tmp_path / name), [], CARDS, None) == {"t0": matrix}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.8,0.2", r"shape \[1, 2\]; expected \[2, 2\]"),
        ("0.8,0.1\n0.1,0.9", "not shares that add up to 1"),
        ("a,b", "holds no transition matrix"),
    ],
)
def test_a_matrix_that_cannot_be_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(text, "utf-8")
    with pytest.raises(UserError, match=said):
        transitions(str(tmp_path / "m.csv"), [], CARDS, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="No such file"):
        transitions(str(tmp_path / "none.csv"), [], CARDS, None)  # type: ignore[arg-type]


@pytest.mark.usefixtures("few")
def test_selection_with_the_estimated_matrix_comes_near_that_of_the_card(
    tiny: dict[str, Any],
    study_file: Callable[..., Path],
    tmp_path: Path,
    train: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fields = {**tiny, "noise": {"kind": "symmetric-flip", "rate": 0.2}}
    store, path = tmp_path / "runs", study_file(fields)
    assert train(fields, store).code == 0
    words = ["select", str(path), "--store", str(store), "--json"]
    assert cli.main([*words, "--transition", "estimated"]) == 2
    assert "belongs to --clean" in capsys.readouterr().err
    expected = []
    for more in ([], ["--transition", "estimated"]):
        assert cli.main([*words, "--clean", *more]) == 0
        said = json.loads(capsys.readouterr().out)
        expected.append(said["selections"][0]["expected"]["value"])
        assert said["transition"] == (more[1] if more else "card")
    assert expected[0] == pytest.approx(expected[1], abs=0.08)
    assert cli.main(["select", str(path), "--store", str(store), "--clean", "--transition", "estimated"]) == 0
    assert "transition matrix estimated by cleanlab" in capsys.readouterr().out
