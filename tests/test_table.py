"""The table: one row per trial and level, and who chose which epoch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from prunephase import runs, study, table
from prunephase.store import Store


def test_a_row_is_the_trial_its_counts_and_its_last_epoch(tiny: dict[str, Any], finished: Path) -> None:
    trials, store = study.parse(tiny).trials, Store(finished)
    rows = table.levels(store, trials)
    assert rows["level"].to_list() == list(range(trials[0].pruning.levels + 1))
    assert rows["seed"].unique().to_list() == [trials[0].seed]
    assert rows["pruning.criterion"].unique().to_list() == ["magnitude"]
    assert (rows["sparsity"] + rows["density"] == 1).all()
    for level, record in enumerate(store.levels(trials[0])):
        row = rows.row(level, named=True)
        assert row["remaining"] == record.body["remaining"] == sum(n for n, _ in record.body["layers"].values())
        assert row["test_accuracy"] == record.body["epochs"]["test_accuracy"][-1]


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 100])
def test_a_table_made_in_parts_is_the_table_made_at_once(
    rows: int, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns that hold nothing, whole numbers or words in some parts alone keep the type that they have in all."""
    held = study.parse({**tiny, "seeds": [0, 1]}).trials
    whole = study.parse({**tiny, "data": {**tiny["data"], "validation": 0.0, "train": None}}).trials
    fixed = study.parse({**tiny, "noise": {**tiny["noise"], "seed": 5}}).trials
    store, trials = Store(tmp_path), (*whole, *held, *fixed)
    runs.run(study.Study("parts", trials), tmp_path, workers=1)
    monkeypatch.setattr(table, "ROWS", 10_000)
    once = table.levels(store, trials)
    assert once["data.train"].null_count() == once["best_epoch"].null_count() == 4
    monkeypatch.setattr(table, "ROWS", rows)
    parts = table.levels(store, trials)
    assert parts.schema == once.schema
    assert parts.equals(once)


def test_the_best_epoch_is_chosen_on_validation_and_the_oracle_on_test() -> None:
    epochs = {"epoch": [1, 2, 3, 4], "validation_accuracy": [0.5, 0.7, 0.7, 0.6], "test_accuracy": [0.9, 0.6, 0.8, 0.7]}
    best = table._chosen(epochs, "validation_accuracy", "epoch", "best", "test")
    assert best == {"epoch": 2, "best": 0.7, "test": 0.6}  # the earlier of equals
    assert table._chosen(epochs, "test_accuracy", "epoch", None, "test") == {"epoch": 1, "test": 0.9}


def test_without_validation_no_epoch_is_chosen_but_the_oracles() -> None:
    epochs = {"epoch": [1], "validation_accuracy": [None], "test_accuracy": [0.9]}
    assert table._chosen(epochs, "validation_accuracy", "e", "v", "t") == {"e": None, "v": None, "t": None}


def test_every_epoch_has_a_row(tiny: dict[str, Any], finished: Path) -> None:
    trials = study.parse(tiny).trials
    rows = table.epochs(Store(finished), trials)
    levels, each = trials[0].pruning.levels + 1, trials[0].recipe.epochs
    assert len(rows) == levels * each
    assert rows.group_by("level").len()["len"].unique().to_list() == [each]
    for record in Store(finished).levels(trials[0]):
        part = rows.filter(level=record.body["level"])
        assert {k: part[k].to_list() for k in record.body["epochs"]} == record.body["epochs"]
        assert part["sparsity"].unique().to_list() == [record.body["sparsity"]]


def test_an_unfinished_trial_has_the_rows_it_has(tiny: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "runs")
    trial = study.parse(tiny).trials[0]
    (tmp_path / "runs" / "trials" / trial.digest() / "level-002.json").unlink()
    rows = table.levels(Store(tmp_path / "runs"), [trial])
    assert rows["level"].to_list() == [0, 1]  # level 3 stands, but follows from nothing


def test_a_store_of_nothing_gives_an_empty_table(tmp_path: Path, tiny: dict[str, Any]) -> None:
    trials = study.parse(tiny).trials
    assert table.levels(Store(tmp_path), trials).is_empty()
    assert table.epochs(Store(tmp_path), trials).is_empty()
    assert table.cards(Store(tmp_path), trials) == {}


def test_provenance_names_versions_data_seals_and_seconds(tiny: dict[str, Any], finished: Path) -> None:
    chosen = study.parse(tiny)
    found = table.provenance(Store(finished), chosen)
    assert found["study digest"] == chosen.digest()
    assert list(found["trials"]) == [t.digest() for t in chosen.trials]
    assert len(found["data"]) == len(found["numerics"]) == 1
    assert found["training seconds"] > 0


def test_the_library_runs_a_grid_and_gives_its_table(tiny: dict[str, Any], tmp_path: Path) -> None:
    base = study.parse(tiny).trials[0]
    trials = study.grid(base, pruning__criterion=["magnitude", "random"], seed=range(2))
    rows = runs.run(trials, tmp_path / "runs", workers=1)
    assert isinstance(rows, pl.DataFrame)
    assert rows["trial"].n_unique() == 4
    assert set(rows["pruning.criterion"]) == {"magnitude", "random"}
