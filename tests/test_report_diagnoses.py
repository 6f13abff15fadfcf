"""The report's diagnoses: every number drawn or written is the mean over seeds of what was found, with its n."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from prunephase import table
from prunephase.analysis.relations import relations
from prunephase.diagnoses import DIAGNOSES
from prunephase.errors import UserError
from prunephase.reports.diagnoses import SHOWN, diagnoses
from prunephase.reports.diagnosis_charts import across
from prunephase.reports.findings import Arrays, Findings, Rows, kept
from prunephase.reports.page import render
from prunephase.reports.parts import Section
from prunephase.reports.series import Series, complete, ladder, series
from prunephase.store import Store
from prunephase.study import Study
from prunephase.trial import Trial
from test_report import Page, study

LEVELS, ROLES = 12, (0, 4, 8, 11)
FORGOTTEN = np.array([0.0, 1 - 0.8, 1 - 0.8**2, np.inf, 1 - 0.8, 1 - 0.8**2, 1 - 0.8**2, np.inf, np.inf])
PLANE = np.array([[1.0, 2.0, 3.0], [4.0, 0.5, 6.0], [7.0, 8.0, np.inf]])
Made = dict[tuple[str, int, str], tuple[list[dict[str, Any]], dict[str, Any]]]


def found_in(seed: int, level: int, layer: str) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
    """What made-up diagnoses say of one level: smooth in level, a little different by seed."""
    x = level / LEVELS + 0.01 * seed
    bend = float(np.exp(-(((level - 4) / 2) ** 2)))
    subsets = {f"{name}_accuracy": 1 - x for name in ("train", "permuted", "unpermuted", "restored", "test")}
    losses = {f"{name}_loss": 0.1 + x for name in ("train", "right_labels", "wrong_labels", "test")}
    made: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
        "memorisation": ([{**subsets, **losses, "wrong_labels_loss_share": 0.6 + 0.1 * x}], {}),
        "distance": (
            [{"total": 10 + 3 * bend + seed, "surviving": 9 + bend, "pruned": 3 * x, "rewind_total": 1.0}],
            {},
        ),
        "changes": (
            [{"changed": 90 + level + seed, "share": 0.1 * x}, {"part": "permuted", "share": 0.2 * x}],
            {},
        ),
        "entropy": (
            [{"mean": 0.8 - x / 2, "weighted": 0.7, "zero_layers": 0},
             {"part": layer, "mean": 0.5 + 0.1 * seed - x / 4}],
            {},
        ),
        "calibration": (
            [{"ece": 0.1 + x, "nll": 1 + x, "brier": 0.3 + x, "overconfidence": 0.1 - x}]
            + [{"part": "cat", "kind": "class", "examples": 99, "accuracy": 0.5, "confidence": 0.5}]
            + [{"part": f"bin {b}", "kind": "bin", "examples": 9 * b, "accuracy": b / 15 - 0.01, "confidence": b / 15}
               for b in (5, 9)],
            {},
        ),
        "harm": ([{"lost": 0.1 * x, "won": 0.1 * bend, "changed": 0.3, "worst_change": -x},
                  {"part": "cat", "change": -x}],
                 {}),
        "structure": (
            [{"density": 0.8**level, "effective_density": 0.7**level, "sparsity": 1 - 0.8**level, "exact": True,
              "effective_sparsity": 1 - 0.7**level, "dead": 2 * level, "unfed": level, "unread": level, "collapses": 0},
             {"part": layer, "density": 0.8**level}],
            {},
        ),
        "histograms": (
            [{"mean_abs": 0.1 + bend, "sd": 0.2 + bend}],
            {"network": np.array([0, 10 + seed, 80, 10, 0]), "edges": np.array([-np.inf, -2, -1, 1, 2, np.inf])},
        ),
    }  # fmt: skip
    if level == 0:
        parts = [{"part": name, "never_fitted": 0.0, "fitted_to_the_end": 0.25, "forgotten": 0.5 + 0.1 * seed}
                 for name in ("permuted", "unpermuted")]  # fmt: skip
        made["forgetting"] = ([{"forgotten": 0.6}, *parts], {"forgotten": FORGOTTEN})
        made["memorisation"][1]["permuted"] = np.packbits(np.array([1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool))
    if level in ROLES:
        events = [{"part": name, "forgetting_events": 2.0 + seed} for name in ("permuted", "unpermuted")]
        made["ledger"] = ([{"forgetting_events": 1.0 + seed, "repeated": True}, *events], {})
        epochs = [{"part": f"epoch {e}", "epoch": e, **subsets, "train_accuracy": 0.5 + 0.1 * e} for e in range(4)]
        path = [
            {"part": f"alpha {a:.1f}", "alpha": a, "train_loss": 1 - a, "test_loss": 1 + a} for a in (0.0, 0.5, 1.0)
        ]
        line = [
            {"part": f"{kind} {x:+g}", "x": x, "train_loss": x**2 + seed}
            for kind in ("sparse subspace", "sparse ambient", "redense ambient")
            for x in (-1.0, 0.0, 1.0)
        ]
        made |= {
            "sharpness": (
                [{"top_eigenvalue": 5 + level + seed, "trace": 50.0, "converged": seed > 0, "residual": 0.01}],
                {},
            ),
            "landscape": ([{"sparse_subspace_curvature": 2.0 + seed}, *line], {}),
            "redense": ([{"test_accuracy_gain": 0.1}, *epochs], {}),
            "surface": ([{"minimum_loss": 0.5}], {"x": np.array([-1.0, 0.0, 1.0]), "train_loss": PLANE + seed}),
            "interpolation": ([{"monotone": level < 5, "barrier": 0.0 if level < 5 else 0.2}, *path], {}),
        }
    made["mine:norm"] = ([{"norm": 3.0 + level + seed, "says": "text"}], {})
    for rows, _ in made.values():
        rows[0]["part"] = "network"
    return made


def inputs(seeds: int = 4, layer: str = "0", text: str = "uniform-relabel") -> tuple[Any, Any, Any, Findings]:
    rows, epochs, cards = study(seeds=seeds, text=text)
    every: Made = {}
    cells = []
    for row in rows.iter_rows(named=True):
        made = found_in(row["seed"], row["level"], layer)
        every |= {(row["trial"], row["level"], name): said for name, said in made.items()}
        heads = [(name.rpartition(":")[2], said[0][0]) for name, said in made.items()]
        cells.append({**row, **{f"{name}_{k}": v for name, head in heads for k, v in head.items() if k != "part"}})

    def rows_of(*key: Any) -> Rows:
        return every.get(key, ([], {}))[0]

    def arrays_of(*key: Any) -> Arrays:
        return every.get(key, ([], {}))[1]

    names = sorted({name for _, _, name in every})
    return pl.DataFrame(cells, infer_schema_length=None), epochs, cards, Findings(names, rows_of, arrays_of)


def sections(seeds: int = 4, axis: str = "level", layer: str = "0") -> tuple[dict[str, Section], Series]:
    rows, _, _, findings = inputs(seeds, layer)
    found = series(complete(rows))
    return {s.id: s for s in diagnoses(found, ladder(found), findings, axis)}, found[0]


@pytest.fixture(scope="module")
def made() -> tuple[dict[str, Section], Series]:
    return sections()


def dots(section: Section, words: str) -> list[dict[str, Any]]:
    """The dots of one line, wherever it is drawn first."""
    panels = [panel for figure in section.figures for panel in figure.panels]
    every = [[row for row in panel.spec["data"]["values"] if row["series"] == words] for panel in panels]
    return next(rows for rows in every if rows)


def drawn(section: Section, words: str) -> dict[float, dict[str, Any]]:
    """The same by x."""
    return {row["x"]: row for row in dots(section, words)}


def test_every_diagnosis_has_its_section_with_a_finding_a_chart_and_its_source(made: Any) -> None:
    found, _ = made
    assert set(SHOWN) == set(DIAGNOSES)
    assert list(found) == ["turns", *(f"diagnosis-{name}" for name in (*SHOWN, "mine:norm"))]
    for name, known in DIAGNOSES.items():
        section = found[f"diagnosis-{name}"]
        assert section.title == known.title
        assert f"{known.definition} Source: {known.source}." in section.notes
        assert re.search(r"\d", section.finding)
        assert "n\u00a0=\u00a04" in section.finding or "of 4 seeds" in section.finding
        assert section.figures[0].panels
        assert all("n\u00a0=\u00a04" in panel.description for panel in section.figures[0].panels)
        assert len(section.figures[0].table.rows) >= 2


@pytest.mark.parametrize(
    ("name", "column", "words"),
    [
        ("memorisation", "permuted_accuracy", "permuted"),
        ("memorisation", "wrong_labels_loss", "wrong labels"),
        ("distance", "total", "total"),
        ("entropy", "mean", "mean of layers"),
        ("calibration", "ece", "ECE"),
        ("structure", "effective_density", "effective"),
        ("histograms", "mean_abs", "mean size"),
        ("sharpness", "top_eigenvalue", "top eigenvalue"),
        ("mine:norm", "norm", "norm"),
    ],
)
def test_a_line_is_the_mean_over_seeds_with_students_interval(made: Any, name: str, column: str, words: str) -> None:
    found, one = made
    at = drawn(found[f"diagnosis-{name}"], words)
    held = one.rows.drop_nulls(f"{name.rpartition(':')[2]}_{column}")
    assert sorted(at) == sorted(set(held["level"]))
    for level, row in at.items():
        values = held.filter(pl.col("level") == level)[f"{name.rpartition(':')[2]}_{column}"].to_numpy()
        assert row["mean"] == pytest.approx(values.mean(), rel=1e-5)
        assert "n\u00a0=\u00a04" in row["spread"]


def test_a_line_of_a_layer_comes_from_its_row(made: Any) -> None:
    at = drawn(made[0]["diagnosis-entropy"], "0")
    expected = np.mean([0.5 + 0.1 * seed - (6 / LEVELS + 0.01 * seed) / 4 for seed in range(4)])
    assert at[6]["mean"] == pytest.approx(expected, rel=1e-5)


def test_single_levels_are_not_joined(made: Any) -> None:
    assert not any(row["joined"] for row in drawn(made[0]["diagnosis-sharpness"], "top eigenvalue").values())
    assert all(row["joined"] for row in drawn(made[0]["diagnosis-distance"], "total").values())


def test_paths_slices_epochs_and_bins_are_drawn_as_found(made: Any) -> None:
    found, _ = made
    path = drawn(found["diagnosis-interpolation"], "train")
    assert {x: row["mean"] for x, row in path.items()} == {0.0: 1.0, 0.5: 0.5, 1.0: 0.0}
    line = drawn(found["diagnosis-landscape"], "dip (level 4)")
    assert {x: row["mean"] for x, row in line.items()} == {-1.0: 2.5, 0.0: 1.5, 1.0: 2.5}
    epoch = drawn(found["diagnosis-redense"], "train")
    assert {x: row["mean"] for x, row in epoch.items()} == pytest.approx({e: 0.5 + 0.1 * e for e in range(4)})
    bins = drawn(found["diagnosis-calibration"], "peak (level 8)")
    assert [row["mean"] for row in bins.values()] == pytest.approx([5 / 15 - 0.01, 9 / 15 - 0.01], rel=1e-5)
    counts = drawn(found["diagnosis-histograms"], "dense (level 0)")
    shares = np.mean([np.array([10 + s, 80, 10]) / (100 + s) for s in range(4)], axis=0)
    assert {x: row["mean"] for x, row in counts.items()} == pytest.approx(
        dict(zip((-1.5, 0, 1.5), shares, strict=True)), rel=1e-5
    )


def test_a_plane_is_drawn_as_found_without_what_is_not_finite(made: Any) -> None:
    panels = made[0]["diagnosis-surface"].figures[0].panels
    assert [panel.title.split()[0] for panel in panels] == ["dense", "dip", "peak", "collapsed"]
    cells = (
        panels[0].spec["data"]["values"] if "data" in panels[0].spec else panels[0].spec["layer"][0]["data"]["values"]
    )
    at = {((cell["x"] + cell["x2"]) / 2, (cell["y"] + cell["y2"]) / 2): cell["mean"] for cell in cells}
    assert at == {(x - 1.0, y - 1.0): PLANE[y, x] + 1.5 for y in range(3) for x in range(3) if (x, y) != (2, 2)}


def test_examples_outlast_levels_as_their_forgetting_sparsity_says(made: Any) -> None:
    section = made[0]["diagnosis-forgetting"]
    permuted, unpermuted = (drawn(section, name) for name in ("permuted", "unpermuted"))
    assert [permuted[level]["mean"] for level in (0, 1, 2, 11)] == [0.75, 0.5, 0.25, 0.25]
    assert [unpermuted[level]["mean"] for level in (0, 1, 2, 11)] == [1.0, 0.8, 0.4, 0.4]
    assert "half are forgotten by 65" in section.finding


def test_findings_say_what_was_found(made: Any) -> None:
    found, _ = made
    assert "in 4 of 4 seeds at the dip (level 4)" in found["diagnosis-interpolation"].finding
    assert "in 0 of 4 seeds at the peak (level 8)" in found["diagnosis-interpolation"].finding
    assert "converged in 12 of 16 networks" in found["diagnosis-sharpness"].finding
    assert "Highest (total): 14.5 ± 1.3 at level 4" in found["diagnosis-distance"].finding


def test_the_table_of_turns_is_that_of_the_relations(made: Any) -> None:
    found, one = made
    (oracle,) = [r for r in relations(one.rows, ["distance_total"]) if r.turn == "highest"]
    assert (oracle.near, oracle.level.mean) == ("dip", 4.0)
    section = found["turns"]
    assert "at the dip (level 4" in section.finding.lower()
    assert "distance total (highest, level 4.0)" in section.finding
    (row,) = [row for row in section.tables[0].rows if row[:2] == ("distance total", "highest")]
    assert row[2:5] == ("at the dip", "4", "4.0 (4.0 to 4.0)")
    assert row[5:7] == ("+0.0", "-4.0")
    # What only rises has no turn, and a course that was already told is not told again.
    signals = {row[0] for table in section.tables for row in table.rows}
    assert "mine norm" not in signals
    assert "sharpness top eigenvalue" not in signals


def test_one_seed_is_never_enough_for_a_turn() -> None:
    found, _ = sections(seeds=1)
    assert {row[2] for row in found["turns"].tables[0].rows} == {"underpowered"}
    assert "turn none of the signals" in found["turns"].finding
    assert "n\u00a0=\u00a01" in found["diagnosis-distance"].finding


def test_nothing_asked_nothing_shown() -> None:
    rows, _, _ = study()
    found = series(complete(rows))
    assert diagnoses(found, ladder(found), Findings((), lambda *_: (), lambda *_: {})) == []
    assert diagnoses([], ladder([]), Findings((), lambda *_: (), lambda *_: {})) == []


@pytest.mark.parametrize("axis", ["sparsity", "remaining", "distance_total", "test_accuracy"])
def test_curves_are_drawn_against_any_axis(axis: str) -> None:
    found, one = sections(axis=axis)
    at = dots(found["diagnosis-entropy"], "mean of layers")
    by = one.rows.group_by("level").agg(pl.col(axis, "entropy_mean").mean()).sort("level")
    assert [(row["x"], row["mean"]) for row in at] == [
        (pytest.approx(x), pytest.approx(y, rel=1e-5)) for x, y in by.select(axis, "entropy_mean").iter_rows()
    ]
    assert [row["order"] for row in at] == list(range(LEVELS))
    shown = dots(found["axis"], "test, last epoch")
    assert [row["x"] for row in shown] == pytest.approx(by[axis].to_list())
    assert {row["role"] for row in shown} == {"", "dip", "peak"}


def test_an_axis_must_be_a_column_of_numbers() -> None:
    rows, _, _, _ = inputs()
    found = series(complete(rows))
    for name in ("distance_totl", "noise.kind", "mine_says"):
        with pytest.raises(UserError, match=f"--axis {re.escape(name)}: not a column of numbers"):
            across(name, found, ladder(found))
    with pytest.raises(UserError, match="did you mean 'distance_total'"):
        across("distance_totl", found, ladder(found))


@pytest.mark.parametrize(
    "payload", ["</script><script>alert(1)</script>", "x' onfocus=alert(1) autofocus \"<img src=x>"]
)
def test_names_of_layers_are_never_code(payload: str) -> None:
    shown = []
    for layer in (payload, "0"):
        rows, epochs, cards, findings = inputs(seeds=2, layer=layer)
        shown.append(render("a study", rows, epochs, cards, {}, findings=findings))
    assert Page(shown[0]).started == Page(shown[1]).started
    assert payload not in shown[0]


def test_findings_come_from_the_store_and_only_from_levels_as_they_are(tmp_path: Path) -> None:
    place, trial = Store(tmp_path), Trial()
    name = trial.digest()

    def put(level: int, parent: str, diagnosis: str, rows: list[Mapping[str, Any]]) -> None:
        place.put_finding(name, level, diagnosis, {"parent": parent, "rows": rows, "blobs": {}})

    seal = place.put_record(name, 0, {"status": "ok", "parent": "", "blobs": {}}).seal
    put(0, seal, "distance", [{"part": "network", "total": 1.0}])
    put(0, seal, "my.own:norm", [{"part": "network", "norm": 2.0}])
    place.put_record(name, 1, {"status": "ok", "parent": seal, "blobs": {}})
    put(1, "of another level", "distance", [{"part": "network", "total": 9.0}])
    found = kept(place, [trial])
    assert found.names == ["distance", "my.own:norm"]
    assert found.rows(name, 0, "distance")[0]["total"] == 1.0
    assert found.rows(name, 0, "my.own:norm")[0]["norm"] == 2.0
    assert found.rows(name, 1, "distance") == ()
    assert found.arrays(name, 0, "distance") == {}
    assert table.levels(place, Study("none", ()).trials).is_empty()
