"""Suspects: planted wrong labels stand first, the judgement is scikit-learn's, and the list names the examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from prunephase import cli, data, study
from prunephase import diagnose as diagnosing
from prunephase.analysis.suspects import AT_WRONG, AUC, auc, precision, suspects
from prunephase.bench import Bench, Site
from prunephase.diagnoses import chosen
from prunephase.reports.findings import Findings
from prunephase.reports.series import complete, series
from prunephase.reports.suspects import suspects as section

N, CLASSES = 200, 5
TEST = [0.80, 0.79, 0.78, 0.70, 0.66, 0.72, 0.84, 0.88, 0.87, 0.60]  # light 0-2, sweet 6-8, collapsed 9
WRONG = np.arange(N) % 4 == 1


def rows(seeds: int = 3, validation: bool = True) -> pl.DataFrame:
    return pl.DataFrame(
        {"trial": f"t{s}", "seed": s, "level": i, "sparsity": 1 - 0.8**i, "status": "ok", "test_accuracy": v + s / 999,
         "validation_accuracy": v / 2 + s / 999 if validation else None}
        for s in range(seeds) for i, v in enumerate(TEST)
    )  # fmt: skip


def cards(*labels: str, kind: str = "symmetric-flip") -> dict[str, Any]:
    return {f"t{s}": {"kind": kind, "train": {"labels_sha256": text}} for s, text in enumerate(labels)}


def ledger(trial: str, level: int) -> Mapping[str, Any]:
    """Light levels fit every label; later ones give the wrong ones up, and the collapsed one gives up the others."""
    chance = np.where(WRONG, 0.1, 0.9) if level < 9 else np.where(WRONG, 1.0, 0.0)
    noise = np.random.default_rng(level + 10 * int(trial[1:])).normal(0, 0.01, N)
    fitted = np.ones(N, bool) if level < 3 else ~WRONG
    return {
        "train_given": np.packbits(fitted),
        "wrong": np.packbits(WRONG),
        "chance": (chance + noise).astype(np.float16),
        "guess": np.where(WRONG, 3, 1).astype(np.uint8),
    }


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60))
@settings(max_examples=30, deadline=None)
def test_auc_is_that_of_scikit_learn_ties_included(pairs: list[tuple[int, bool]]) -> None:
    score, wrong = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    if wrong.all() or not wrong.any():
        assert np.isnan(auc(score, wrong))
    else:
        assert auc(score, wrong) == pytest.approx(roc_auc_score(wrong, score), abs=1e-12)


def test_precision_counts_the_first_places_and_equal_scores_keep_their_order() -> None:
    score, wrong = np.array([0.5, 0.9, 0.5, 0.1]), np.array([False, True, True, False])
    assert [precision(score, wrong, k) for k in (1, 2, 3, 4)] == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])


def test_labels_that_only_light_levels_fit_stand_first_and_the_collapse_is_left_out() -> None:
    found = suspects({}, rows(), cards("a", "b", "c"), ledger)
    assert (found.light, found.sweet, found.oracle) == ((0, 1, 2), (6, 7, 8), False)
    assert [one.seeds for one in found.rankings] == [(0,), (1,), (2,)]
    for one in found.rankings:
        assert WRONG[one.order[: WRONG.sum()]].all()
        assert (one.suggestion == np.where(WRONG, 3, 1)).all()
        assert one.score[WRONG].mean() == pytest.approx(0.9, abs=0.01)
    facts = found.judged()
    assert (facts[AUC].mean, facts[AUC].n, facts[AT_WRONG].mean) == (1.0, 3, 1.0)


def test_seeds_with_the_same_labels_share_a_ranking() -> None:
    found = suspects({}, rows(), cards("a", "b", "a"), ledger)
    assert [one.seeds for one in found.rankings] == [(0, 2), (1,)]
    alone = suspects({}, rows(), cards("a", "b", "c"), ledger)
    shared = (alone.rankings[0].score + alone.rankings[2].score) / 2
    np.testing.assert_allclose(found.rankings[0].score, shared, atol=1e-12)


def test_without_validation_the_test_curve_chooses_and_that_is_an_oracle() -> None:
    assert suspects({}, rows(validation=False), cards("a", "b", "c"), ledger).oracle


def test_labels_taken_as_true_are_ranked_and_not_judged() -> None:
    found = suspects({}, rows(), cards("a", "b", "c", kind="none"), ledger)
    assert found.rankings
    assert not found.known
    assert found.judged() == {}


def test_without_a_sweet_phase_or_without_findings_it_says_so() -> None:
    falling = rows().with_columns(validation_accuracy=0.9 - 0.05 * pl.col("level"))
    assert "no sweet phase" in suspects({}, falling, cards("a", "b", "c"), ledger).why_not
    old = suspects({}, rows(), cards("a", "b", "c"), lambda *_: {"train_given": np.zeros(1, np.uint8)})
    assert "diagnose --only memorisation" in old.why_not


def test_the_report_says_how_good_the_suspects_are() -> None:
    table = complete(rows())
    findings = Findings(("memorisation",), lambda *_: (), lambda trial, level, _: ledger(trial, level))
    (one,) = section(series(table), cards("a", "b", "c"), findings)
    assert "AUC 100.0" in one.finding.replace("\u202f", " ")
    (row,) = one.tables[0].rows
    assert row[:4] == ("level 0 to 2", "level 6 to 8", "validation curve", "3")
    assert section(series(table), cards("a", "b", "c"), Findings((), lambda *_: (), lambda *_: {})) == []


def test_the_list_names_the_examples_of_the_source(
    tiny: dict[str, Any],
    study_file: Callable[..., Path],
    tmp_path: Path,
    train: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fields = {**tiny, "noise": {"kind": "symmetric-flip", "rate": 0.2}}
    store, path = tmp_path / "runs", study_file(fields)
    assert train(fields, store).code == 0
    # four levels of one epoch have no dip: the phases are given
    monkeypatch.setattr("prunephase.analysis.suspects._phases", lambda _: (_Found(), False))
    words = ["suspects", str(path), "--store", str(store)]
    assert cli.main(words) == 2
    assert "diagnose --only memorisation" in capsys.readouterr().err
    kinds, whole = chosen(["memorisation"]), study.parse(fields)
    diagnosing.diagnose(diagnosing.wanted(whole, store, kinds), store, kinds, workers=1)
    assert cli.main([*words, "-o", str(tmp_path / "s.csv")]) == 0
    frame = pl.read_csv(tmp_path / "s.csv")
    assert frame.columns == ["seeds", "rank", "index", "given", "suggested", "score", "true", "wrong"]
    (trial,) = whole.trials
    split = Bench(trial, Site(store)).noisy[0].train
    source = data.load(trial.data).train
    assert sorted(frame["index"]) == split.index.tolist()
    for index, label, truth, wrong in frame.select("index", "given", "true", "wrong").head(20).iter_rows():
        place = int((split.index == index).nonzero())
        assert (label, truth) == (int(split.labels[place]), int(source.labels[place]))
        assert wrong == (label != truth)
    assert frame["score"].is_sorted(descending=True)
    capsys.readouterr()
    assert cli.main([*words, "--json", "--top", "3"]) == 0
    (curve,) = json.loads(capsys.readouterr().out)["curves"]
    (ranking,) = curve["rankings"]
    assert (len(ranking["top"]), ranking["wrong"], curve["oracle"]) == (3, int(frame["wrong"].sum()), False)
    assert curve["judged"]["suspects"][AUC]["n"] == 1


class _Span:
    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end


class _Found:
    verdict = "underpowered"
    phases = {"light": _Span(0, 1), "sweet": _Span(2, 3)}  # noqa: RUF012


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--top", "0"], "--top 0: expected at least 1"),
        (["-o", "suspects.xls"], "expected a name that ends in .csv"),
        ([], "holds no finished level"),
    ],
)
def test_errors_are_one_line(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["suspects", "preset:demo", "--store", str(tmp_path), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
