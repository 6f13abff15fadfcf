"""Sweeps of others: what OpenLTH and He et al.'s code leave behind, through phases and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunephase import cli
from prunephase.analysis import read_curve
from prunephase.errors import UserError

ACCURACY = (0.86, 0.85, 0.78, 0.80, 0.91, 0.70)


def sweep(folder: Path, replicates: int = 3, name: str = "lottery_0123") -> Path:
    """As OpenLTH writes it: test accuracy at the start and after every epoch, and what is pruned."""
    for replicate in range(1, replicates + 1):
        for level, last in enumerate(ACCURACY):
            place = folder / name / f"replicate_{replicate}" / f"level_{level}" / "main"
            place.mkdir(parents=True)
            lines = [f"test_loss,{step},2.3\ntest_accuracy,{step},{0.1 if step == 0 else 0.5}" for step in (0, 469)]
            lines += [
                f"test_accuracy,938,{last + 0.001 * replicate}",
                "train_accuracy,938,0.99",
                "test_examples,938,10000.0",
            ]
            (place / "logger").write_text("\n".join(lines))
            (place / "sparsity_report.json").write_text(
                json.dumps({"total": 1000.0, "unpruned": round(1000 * 0.8**level)})
            )
    pretrain = folder / name / "replicate_1" / "level_pretrain" / "main"
    pretrain.mkdir(parents=True)
    (pretrain / "logger").write_text("test_accuracy,0,0.1")
    return folder / name


def test_a_sweep_of_openlth_is_a_curve(tmp_path: Path) -> None:
    (group,) = read_curve(sweep(tmp_path)).groups()
    assert group.seeds == (1, 2, 3)
    assert group.levels.tolist() == list(range(6))
    assert group.sparsity.tolist() == pytest.approx([1 - round(1000 * 0.8**level) / 1000 for level in range(6)])
    assert group.test.mean(0).tolist() == pytest.approx([value + 0.002 for value in ACCURACY])
    assert group.train is not None
    assert (group.train == 0.99).all()


def test_phases_and_report_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep(tmp_path)
    assert cli.main(["phases", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["dip"]["level"], found["peak"]["level"]) == (3, 2, 4)
    page = tmp_path / "page.html"
    assert cli.main(["report", str(folder), "-o", str(page)]) == 0
    assert "lottery_0123" in page.read_text()
    assert cli.main(["report", str(folder), "-o", str(tmp_path / "curve.svg")]) == 0
    assert (tmp_path / "curve.svg").read_text().startswith("<svg")


def test_what_is_no_sweep_is_refused_in_one_line(tmp_path: Path) -> None:
    def fails(folder: Path, words: str) -> None:
        with pytest.raises(UserError, match=words) as refused:
            read_curve(folder)
        assert "\n" not in str(refused.value)

    empty = tmp_path / "empty"
    empty.mkdir()
    fails(empty, "expected such a sweep, or a csv or parquet file")
    sweep(tmp_path / "two")
    sweep(tmp_path / "two", name="lottery_4567")
    fails(tmp_path / "two", "holds 2 sweeps; name one of them")
    one = sweep(tmp_path / "one")
    place = one / "replicate_1" / "level_0" / "main"
    for name, text, words in (
        ("logger", "test_loss,938,0.3", "has no test_accuracy"),
        ("logger", "test_accuracy,938", "not a logger of OpenLTH"),
        ("sparsity_report.json", "{}", "cannot be read"),
        ("sparsity_report.json", '{"total": 10, "unpruned": 11}', "expected a part of them"),
    ):
        before = (place / name).read_text()
        (place / name).write_text(text)
        fails(one, words)
        (place / name).write_text(before)
    read_curve(one)
