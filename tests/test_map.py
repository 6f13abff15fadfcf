"""Phase maps: one row per curve, contours where the detector puts the phases, and a page that shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from prunephase.analysis import Group, phases
from prunephase.analysis.map import apart, boundaries, phase_maps, powers_of_ten
from prunephase.reports.page import render
from test_report import Inputs, Page, study


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without the library of charts: 0.9 MB that need not be parsed."""
    monkeypatch.setattr("prunephase.reports.page.bundle", lambda: "0")


def curve(key: dict[str, Any], dip: int = 5, levels: int = 20) -> Group:
    """One seed with a dip, and a peak seven levels later."""
    at = np.arange(levels)
    test = 0.8 - 0.1 * np.exp(-(((at - dip) / 2) ** 2)) + 0.1 * np.exp(-(((at - dip - 7) / 2) ** 2))
    return Group(key, at, 1 - 0.8**at, test[None], None, (0,))


def mapped(keys: list[dict[str, Any]]) -> list[Any]:
    return phase_maps([(group, phases(group)) for group in (curve(key, 4 + i) for i, key in enumerate(keys))])


def test_a_number_with_three_values_makes_a_map_with_rising_rows() -> None:
    (one,) = mapped([{"noise.rate": r} for r in (0.4, 0.2, 0.8)])
    assert (one.axis, dict(one.fixed)) == ("noise.rate", {})
    assert [(row.value, row.index) for row in one.rows] == [(0.2, 1), (0.4, 0), (0.8, 2)]
    found = boundaries(one)
    assert found["dip"] == [5, 4, 6]
    assert found["peak"] == [12, 11, 13]
    for row, start in zip(one.rows, found["sweet"], strict=True):
        assert row.phases.phases["sweet"].start == start


def test_a_phase_that_a_curve_lacks_leaves_a_gap() -> None:
    groups = [curve({"noise.rate": r}) for r in (0.2, 0.4)]
    falling = Group(
        {"noise.rate": 0.6}, np.arange(20), 1 - 0.8 ** np.arange(20), np.linspace(0.8, 0.79, 20)[None], None, (0,)
    )
    (one,) = phase_maps([(group, phases(group)) for group in (*groups, falling)])
    assert boundaries(one)["dip"] == [5, 5, None]


@pytest.mark.parametrize(
    "keys",
    [
        [{"noise.rate": 0.2}, {"noise.rate": 0.4}],
        [{"pruning.criterion": c} for c in ("magnitude", "gradient", "random")],
        [{"data.seed": s} for s in (0, 1, 2)],
        [{"pruning.count_ignored": held} for held in (True, False, None)],
        [{"data.train": v} for v in (None, 100, 200)],
    ],
)
def test_two_values_words_and_seeds_make_no_map(keys: list[dict[str, Any]]) -> None:
    assert mapped(keys) == []


def test_every_combination_of_the_other_axes_has_a_map_of_its_own() -> None:
    found = mapped(
        [{"noise.rate": r, "pruning.criterion": c} for c in ("magnitude", "random") for r in (0.2, 0.4, 0.8)]
    )
    assert [dict(one.fixed) for one in found] == [{"pruning.criterion": "magnitude"}, {"pruning.criterion": "random"}]
    assert [[row.index for row in one.rows] for one in found] == [[0, 1, 2], [3, 4, 5]]


def test_an_argument_of_the_model_is_an_axis() -> None:
    (one,) = mapped([{"model.kwargs": str({"delta": 5, "gamma": g})} for g in (3, 4, 5)])
    assert (one.axis, [row.value for row in one.rows]) == ("model.kwargs.gamma", [3.0, 4.0, 5.0])


def test_what_sets_curves_apart_leaves_out_what_they_share() -> None:
    keys = [{"a.b": 1, "model.kwargs": "{'delta': 5}"}, {"a.b": 1, "model.kwargs": "{'delta': 5, 'gamma': 2}"}]
    assert apart(keys) == [{}, {"model.kwargs.gamma": 2}]


def test_powers_of_ten_lie_where_the_ladder_passes_them() -> None:
    places = np.arange(40.0)
    found = powers_of_ten(30.0 * 0.8**places, places)
    assert sorted(found, reverse=True) == [1, 0, -1, -2]
    for power, place in found.items():
        assert 30.0 * 0.8**place == pytest.approx(10.0**power, rel=1e-3)
    assert powers_of_ten(np.array([10.0, 1.0]), np.array([0.0, 1.0])) == {1: 0.0, 0: 1.0}
    assert powers_of_ten(np.array([5.0, 2.0]), np.array([0.0, 1.0])) == {}


RATES = (0.1, 0.3, 0.5)


def examples(inputs: Inputs, counts: tuple[int, ...]) -> Inputs:
    """The same study, each curve with another number of training examples."""
    table, epochs, cards = inputs
    n = {f"{which:08x}": count for which, count in enumerate(counts)}
    return table, epochs, {name: {**c, "train": {**c["train"], "n": n[name[:8]]}} for name, c in cards.items()}


def maps(page: Page) -> list[dict[str, Any]]:
    return [spec for spec in page.specs if spec["description"].startswith("Map of test accuracy")]


def test_a_grid_over_a_number_gets_a_map_with_words_and_a_table() -> None:
    page = Page(render("three", *study(seeds=2, rates=RATES), {}))
    section = page.one("section", id="maps")
    (spec,) = maps(page)
    assert "dip at level 4 (0.1), 4 (0.3) and 4 (0.5); peak at level 8 (0.1), 8 (0.3) and 8 (0.5)" in section.words()
    assert "n\u00a0=\u00a02 each" in section.words()
    heat = spec["layer"][0]["data"]["values"]
    assert len(heat) == 3 * 12
    assert len(section.all("table")[0].all("tbody")[0].all("tr")) == 3 * 12
    edges = sorted({(cell["x"], cell["x2"]) for cell in heat})
    assert edges == [(i - 0.5, i + 0.5) for i in range(12)]
    marks = spec["layer"][1]["data"]["values"] if "data" in spec["layer"][1] else []
    begun = {(mark["line"], mark["x"], mark["y"]) for mark in marks}
    dips = {(mark["x"], mark["y"]) for mark in marks if mark["line"] == "dip"}
    assert dips == {(4.0, 0), (4.0, 1), (4.0, 2)}
    # a boundary runs along the left edges of the cells where the phase begins
    for phase in ("critical", "sweet", "collapsed"):
        first = {cell["y"]: cell["x"] for cell in reversed(heat) if cell["phase"] == phase}
        assert len(first) == 3
        assert {(x, y) for line, x, y in begun if line == phase} == {
            (x, y + up) for y, x in first.items() for up in (0, 1)
        }


def test_two_values_get_no_map() -> None:
    page = Page(render("two", *study(seeds=2, rates=(0.1, 0.3)), {}))
    assert maps(page) == []
    assert [e for e in page.root.all("section") if e.attributes["id"] == "maps"] == []


def test_weights_per_example_are_drawn_where_the_axis_changes_them() -> None:
    inputs = study(seeds=2, rates=RATES)
    (same,) = maps(Page(render("three", *inputs, {})))
    assert "weights per training example" not in str(same)
    (spec,) = maps(Page(render("three", *examples(inputs, (200, 500, 1000)), {})))
    marks = [m for layer in spec["layer"] for m in layer.get("data", {}).get("values", []) if m.get("line") == "10^0"]
    # 1000 weights, a fifth of which goes with every level
    for mark, n in zip(marks[:3], (200, 500, 1000), strict=True):
        assert 1000 * 0.8 ** mark["x"] == pytest.approx(n, rel=0.01)
    assert [mark["label"] for mark in marks[:3]] == ["", "", "1"]


def test_many_curves_stand_in_panels_that_share_scales_and_colours() -> None:
    parts = []
    for i, criterion in enumerate(("magnitude", "gradient", "random")):
        table, epochs, cards = study(seeds=2, levels=12, rates=RATES, text=criterion)
        renamed = {name: f"{i}{name}" for name in cards}
        fixed = {"noise.kind": "pairflip", "model.name": "mlp"}
        rows = table.with_columns(pl.lit(held).alias(name) for name, held in fixed.items())
        rows, steps = (frame.with_columns(pl.col("trial").replace(renamed)) for frame in (rows, epochs))
        parts.append((rows, steps, {renamed[name]: card for name, card in cards.items()}))
    table, epochs = (pl.concat([part[i] for part in parts]) for i in (0, 1))
    page = Page(render("nine", table, epochs, {k: v for part in parts for k, v in part[2].items()}, {}))
    panels = [spec for spec in page.specs if spec["description"].startswith("test, last epoch against pruning level")]
    assert len(panels) == 3
    scales = {
        str(layer["encoding"]["y"]["scale"])
        for spec in panels
        for layer in spec["layer"]
        if "y2" not in layer["encoding"] and "scale" in layer["encoding"]["y"]
    }
    assert len(scales) == 1
    colours = []
    for spec in panels:
        (scale,) = {str(layer["encoding"]["color"]["scale"]) for layer in spec["layer"] if "color" in layer["encoding"]}
        colours.append(scale)
        assert {row["series"] for row in spec["data"]["values"]} == {
            "criterion gradient", "criterion magnitude", "criterion random"
        }  # fmt: skip
    assert len(set(colours)) == 1
    verdict = page.one("section", id="verdict")
    assert len(verdict.all("table")[0].all("tbody")[0].all("tr")) == 9
    assert "oracle (selected on test)" in verdict.all("table")[0].all("thead")[0].words()
    for name in ("curve", "numbers", "training", "subsets"):
        finding = page.one("section", id=name).all("p")[0].words()
        assert len(finding) < 300
        assert "n\u00a0=\u00a02 each" in finding
