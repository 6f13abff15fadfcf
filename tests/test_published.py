"""Published curves: the points as the papers' figures have them, drawn below ours under their own settings alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from prunephase.analysis import phases
from prunephase.analysis.published import curves, differences, landmarks, matching, offsets, opened
from prunephase.reports.page import render
from prunephase.trial import Trial
from test_report import Page, study

# What a reader sees in the figures: dense, dip, peak, last level, each as (level, accuracy).
SEEN = {
    "he2022-mnist-20": ((0, 0.834), (10, 0.766), (19, 0.953), (24, 0.866)),
    "he2022-cifar10-20": ((0, 0.833), (18, 0.780), (23, 0.876), (27, 0.861)),
    "he2022-cifar100-20": ((0, 0.605), (16, 0.540), (21, 0.598), (25, 0.548)),
    "dsd2-vgg-like-50": ((0, 0.462), (17, 0.414), (24, 0.482), (28, 0.433)),
    "dsd2-vgg-like-50-kd": ((0, 0.653), (5, 0.656), (9, 0.658), (28, 0.441)),
    "vit-cifar10-10": ((0, 0.709), (14, 0.681), (22, 0.745), (30, 0.636)),
    "vit-cifar10-20": ((0, 0.641), (13, 0.589), (22, 0.712), (30, 0.624)),
    "vit-cifar10-50": ((0, 0.427), (14, 0.337), (25, 0.612), (30, 0.364)),
    "vit-cifar100-10": ((0, 0.451), (13, 0.432), (20, 0.473), (30, 0.275)),
    "vit-cifar100-20": ((0, 0.392), (12, 0.360), (21, 0.441), (30, 0.268)),
    "vit-cifar100-50": ((0, 0.235), (13, 0.197), (22, 0.316), (30, 0.157)),
    "vit-cifar100n": ((0, 0.365), (13, 0.338), (21, 0.404), (30, 0.223)),
}
MNIST = Trial.model_validate(
    {
        "data": {"source": "mnist", "validation": 0.0},
        "noise": {"kind": "uniform-relabel", "rate": 0.2},
        "model": {"name": "lenet-300-100"},
        "recipe": {"lr": 0.1, "batch_size": 128, "epochs": 200},
        "pruning": {"exclude": ["output"], "count_ignored": True},
    }
).flat()


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without the library of charts: 0.9 MB that need not be parsed."""
    monkeypatch.setattr("prunephase.reports.page.bundle", lambda: "0")


def cells(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as a table holds them: lists and tables as text."""
    return {k: v if v is None or isinstance(v, bool | int | float | str) else str(v) for k, v in fields.items()}


def test_every_curve_has_the_landmarks_that_a_reader_sees() -> None:
    assert {one.name for one in curves()} == set(SEEN)
    for one in curves():
        dense, dip, peak, last = SEEN[one.name]
        test = dict(zip(one.group.levels.tolist(), one.group.test[0].tolist(), strict=True))
        found = landmarks(one.name)
        assert found.dip is not None
        assert found.peak is not None
        assert (0, test[0]) == dense
        assert (max(test), test[max(test)]) == last
        assert (found.dip.level, found.dip.value) == dip
        assert (found.peak.level, found.peak.value) == peak


def test_a_published_dip_no_deeper_than_the_error_of_digitising_is_none() -> None:
    named = {one.name: one for one in curves()}
    ours = landmarks("dsd2-vgg-like-50")
    assert offsets(ours, named["dsd2-vgg-like-50"]).keys() == {"dip", "peak"}
    assert offsets(ours, named["dsd2-vgg-like-50-kd"]).keys() == {"peak"}


def test_points_stand_at_the_sparsities_of_a_fifth_per_level() -> None:
    for one in curves():
        np.testing.assert_allclose(one.group.sparsity, 1 - 0.8**one.group.levels, atol=1e-6)
        assert ((one.group.test > 0) & (one.group.test < 1)).all()
        assert one.whole == (len(one.group.levels) == one.group.levels[-1] + 1)


def test_every_condition_and_setting_names_a_field_of_a_trial() -> None:
    known = MNIST.keys()
    for one in curves():
        for name in (*one.where, *one.settings):
            assert name in known or name.startswith("model.kwargs."), name
        assert not one.where.keys() & one.settings.keys()


def test_no_two_curves_can_be_drawn_under_the_same_settings() -> None:
    for one in curves():
        fields = {**MNIST, **{k: v for k, v in one.where.items() if not k.startswith("model.kwargs.")}}
        found = matching(fields)
        assert found is not None
        assert found.name == one.name


def test_the_papers_own_settings_match_and_differ_in_nothing() -> None:
    for fields in (MNIST, cells(MNIST)):
        found = matching(fields)
        assert found is not None
        assert found.label == "He et al. 2022, Fig. 1 (digitised)"
        assert differences(found, fields, 5) == []


@pytest.mark.parametrize(
    "change",
    [
        {"data.source": "digits"},
        {"model.name": "mlp"},
        {"noise.kind": "symmetric-flip"},
        {"noise.rate": 0.4},
        {"pruning.criterion": "random"},
        {"pruning.fraction": 0.1},
        {"pruning.ladder": "one-shot"},
        {"pruning.scope": "layer"},
        {"pruning.remask": "layer"},
        {"restart.mode": "finetune"},
        {"antidote.kind": "l2"},
    ],
)
def test_another_experiment_has_no_published_curve(change: dict[str, Any]) -> None:
    assert matching({**MNIST, **change}) is None


def test_a_field_that_is_not_there_is_no_match() -> None:
    for name in ("noise.rate", "pruning.remask"):
        assert matching({k: v for k, v in MNIST.items() if k != name}) is None
    assert matching({}) is None


def test_another_width_is_another_network_and_no_width_is_the_papers() -> None:
    where = next(one for one in curves() if one.name == "dsd2-vgg-like-50").where
    fields = {**MNIST, **{k: v for k, v in where.items() if not k.startswith("model.")}, "model.name": "vgg-like"}
    for kwargs, matches in (({}, True), ({"gamma": 5}, True), ({"gamma": 4}, False), ({"gamma": 5, "delta": 4}, False)):
        assert (matching({**fields, "model.kwargs": kwargs}) is not None) == matches
        assert (matching(cells({**fields, "model.kwargs": kwargs})) is not None) == matches


def test_what_differs_is_named_with_both_values() -> None:
    fields = cells({**MNIST, "recipe.epochs": 20, "data.train": 5000, "pruning.exclude": []})
    found = matching(fields)
    assert found is not None
    assert [(one.name, one.ours, one.theirs) for one in differences(found, fields, 3)] == [
        ("recipe.epochs", 20, 200),
        ("data.train", 5000, "all"),
        ("pruning.exclude", "[]", ["output"]),
        ("seeds", 3, 5),
    ]


def test_offsets_count_levels_and_points_from_the_published_ones() -> None:
    one = next(one for one in curves() if one.name == "he2022-mnist-20")
    moved = one.group.test - 0.02
    # every value two levels later, and two points lower
    group = type(one.group)(
        {},
        one.group.levels,
        one.group.sparsity,
        np.concatenate([moved[:, :1], moved[:, :1], moved[:, :-2]], 1),
        None,
        (0,),
    )
    found = offsets(phases(group), one)
    assert [(name, found[name].levels, round(found[name].accuracy, 6)) for name in found] == [
        ("dip", 2, -0.02),
        ("peak", 2, -0.02),
    ]
    flat = phases(type(one.group)({}, one.group.levels, one.group.sparsity, 0 * moved + 0.5, None, (0,)))
    assert offsets(flat, one) == {}


def test_text_that_only_looks_like_a_table_stays_text() -> None:
    odd = {"a": "{", "b": "{1, 2}", "c": "{'x': __import__('os')}", "d": "{" * 5000}
    assert opened(odd) == odd


def _published(page: Page) -> list[str]:
    return [note for e in page.root.all("p") if "He et al. 2022" in (note := e.words())]


def _with(fields: dict[str, Any], seeds: int = 3) -> Page:
    table, epochs, cards = study(seeds=seeds, levels=12)
    whole = table.with_columns(pl.lit(v).alias(k) for k, v in cells({**MNIST, **fields}).items() if k != "seed")
    return Page(render("a study", whole, epochs, cards, {}))


def test_the_report_draws_the_published_curve_below_ours_and_says_how_far_ours_lies_off() -> None:
    page = _with({"recipe.epochs": 6})
    (note,) = _published(page)
    assert "dip at level 4" in note
    assert "in the paper 10: -6 levels" in note
    assert "read off the figure to ±0.4 points" in note
    assert "n\u00a0=\u00a03" in note
    assert "recipe.epochs 6 (paper: 200) and seeds 3 (paper: 5)." in note
    rows = page.specs[0]["data"]["values"]
    drawn = [row for row in rows if row["series"] == "He et al. 2022, Fig. 1 (digitised)"]
    assert [row["mean"] for row in drawn][:11] == [
        *(0.834, 0.835, 0.829, 0.823, 0.822, 0.818, 0.816, 0.809, 0.80, 0.786, 0.766)
    ]
    assert rows[0] == drawn[0]  # first, so that ours lie above
    assert max(row["x"] for row in drawn) == 11  # no further than our ladder
    (colour,) = {str(s["encoding"]["color"]["scale"]) for s in page.specs[0]["layer"] if "color" in s["encoding"]}
    assert "var(--faint)" in colour


def test_the_report_says_nothing_of_papers_where_no_curve_belongs() -> None:
    page = _with({"noise.rate": 0.4})
    assert _published(page) == []
    assert "digitised" not in str(page.specs)


def test_points_that_are_no_neighbours_are_not_joined() -> None:
    where = next(one for one in curves() if one.name == "vit-cifar10-20").where
    page = _with({k: v for k, v in where.items() if not k.startswith("model.kwargs")})
    rows = [row for row in page.specs[0]["data"]["values"] if "ViT" in row["series"]]
    assert rows
    assert not any(row["joined"] for row in rows)
    lines = [layer for layer in page.specs[0]["layer"] if layer["mark"]["type"] == "line" and "data" not in layer]
    assert [layer["transform"] for layer in lines] == [[{"filter": "datum.joined !== false"}]]
