"""The report's pairs and single numbers: ticket against twin, threshold, efficacy and gap, as analysis has them."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from prunephase.analysis import curve
from prunephase.analysis.compare import paired
from prunephase.looks import sparse
from prunephase.reports.page import render
from test_report import Inputs, Page, study


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without the library of charts: 0.9 MB that need not be parsed."""
    monkeypatch.setattr("prunephase.reports.page.bundle", lambda: "0")


def twins(seeds: int = 4, gain: float = 0.05, **other: Any) -> Inputs:
    """A ticket and its twin: re-init, `gain` better from level 6 on, unless other settings tell them apart."""
    changed = other or {"restart.mode": "re-init"}
    plain = {"restart.mode": "rewind", "restart.start_at": "start", "pruning.remask": "none"}
    table, epochs, cards = study(seeds=seeds)
    tables, steps = [], []
    for i, fields in enumerate((plain, {**plain, **changed})):
        named = {name: f"{i}{name}" for name in cards}
        # a little of each seed's own, for a paired test needs differences that vary
        better = i * (gain * (pl.col("level") >= 6) + 0.001 * (pl.col("seed") - 1.5) * (1 + pl.col("level") % 3))
        rows = table.with_columns(pl.lit(held).alias(name) for name, held in fields.items())
        tables.append(rows.with_columns(pl.col("trial").replace(named), test_accuracy=pl.col("test_accuracy") + better))
        steps.append(epochs.with_columns(pl.col("trial").replace(named)))
    return pl.concat(tables), pl.concat(steps), {}


def section(page: Page, name: str) -> Any:
    return next((e for e in page.root.all("section") if e.attributes["id"] == name), None)


def test_the_ticket_is_compared_with_its_twin_as_analysis_does() -> None:
    inputs = twins()
    page = Page(render("twins", *inputs, {}))
    found = section(page, "pairs")
    assert "Re-init wins at level 6 to 11 after Holm" in found.words().replace("levels", "level")
    assert "n\u00a0=\u00a04 pairs" in found.words()
    rows = found.all("table")[0].all("tbody")[0].all("tr")
    groups = {group.key["restart.mode"]: group for group in curve(inputs[0], by=["restart.mode"]).groups()}
    oracle = paired(groups["rewind"], groups["re-init"])
    assert len(rows) == len(oracle.levels) == 12
    for row, level in zip(rows, oracle.levels, strict=True):
        cells = [cell.text for cell in row.all("td")]
        assert cells[2].startswith(f"{100 * level.difference:.1f} points")
        assert cells[5] == f"{level.adjusted:.4f}"
        assert cells[6] == {"a": "rewind", "b": "re-init", None: "not shown"}[level.winner]
    spec = next(spec for spec in page.specs if spec["description"].startswith("Test accuracy of rewind less"))
    drawn = [row["mean"] for row in spec["data"]["values"]]
    assert drawn == [pytest.approx(level.difference, abs=1e-6) for level in oracle.levels]
    assert min(drawn) < 0


def test_where_nothing_is_shown_neither_wins() -> None:
    found = section(Page(render("twins", *twins(gain=0.0), {})), "pairs")
    assert "either rewind nor re-init wins at any of 12 levels" in found.words()


def test_a_later_start_of_the_twin_is_still_a_pair() -> None:
    page = Page(render("twins", *twins(**{"restart.mode": "re-init", "restart.start_at": "rewind"}), {}))
    assert section(page, "pairs").all("h2")[0].text == "Ticket versus re-init"


def test_shuffled_masks_are_a_control_of_the_ticket() -> None:
    found = section(Page(render("twins", *twins(**{"pruning.remask": "layer"}), {})), "pairs")
    assert found.all("h2")[0].text == "Ticket versus its controls"
    assert "masks: layer wins" in found.words().lower()


@pytest.mark.parametrize("other", [{"noise.rate": 0.5}, {"restart.mode": "re-init", "noise.rate": 0.5}])
def test_curves_that_differ_otherwise_are_no_pair(other: dict[str, Any]) -> None:
    assert section(Page(render("no twins", *twins(**other), {})), "pairs") is None


def test_one_seed_each_renders_without_a_winner() -> None:
    found = section(Page(render("twins", *twins(seeds=1), {})), "pairs")
    assert {row.all("td")[6].text for row in found.all("table")[0].all("tbody")[0].all("tr")} == {"not shown"}


def test_threshold_efficacy_and_gap_stand_with_n_and_interval() -> None:
    table, epochs, cards = study(seeds=3)
    found = section(Page(render("a study", table, epochs, cards, {})), "numbers")
    (cells,) = [row.all("td") for row in found.all("table")[-1].all("tbody")[0].all("tr")]
    train = table.filter(pl.col("seed") == 0).sort("level")["train_accuracy"].to_list()
    first = next(i for i, share in enumerate(train) if share < 0.99 * train[0])
    full = next(i for i, share in enumerate(train) if share < train[0] - 0.005) - 1
    assert cells[0].text.startswith(f"level {first:.1f} (n\u00a0=\u00a03, 95")
    assert cells[1].text.startswith(f"{sparse(1 - 0.8**full)} (n\u00a0=\u00a03, 95")
    dense = table.filter(pl.col("level") == 0)
    gap = (dense["train_accuracy"] - dense["test_accuracy"]).mean()
    assert isinstance(gap, float)
    assert cells[2].text.startswith(f"{100 * gap:.1f} points at level 0 (n\u00a0=\u00a03, 95")


def test_a_ladder_too_short_for_a_threshold_says_so() -> None:
    table, epochs, cards = study(seeds=2)
    whole = table.with_columns(train_accuracy=pl.lit(1.0))
    words = section(Page(render("a study", whole, epochs, cards, {})), "numbers").words()
    assert "not reached (n\u00a0=\u00a02)" in words
    assert "beyond the ladder (n\u00a0=\u00a02)" in words
