"""The report: it says what was found, needs nothing else, and survives hostile text and half-done studies."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import polars as pl
import pytest

from prunephase.errors import UserError
from prunephase.reports.page import render, static

LEVELS = 25
# The shape of a published curve, made up: it falls, rises above the dense accuracy, and collapses.
SHAPE = np.interp(np.arange(LEVELS), [0, 6, 10, 14, 19, 22, 24], [0.83, 0.81, 0.76, 0.88, 0.95, 0.93, 0.86])
TRAIN = np.interp(np.arange(LEVELS), [0, 8, 10, 14, 24], [1.0, 0.998, 0.95, 0.82, 0.71])
SUBSETS = ("permuted_accuracy", "unpermuted_accuracy", "restored_accuracy")
PAYLOADS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "--><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "</title><base href=//evil>",
    "</style><link rel=stylesheet href=//evil>",
    "&lt;script&gt;",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "\u2028alert(1)//",
    "</table></details><h1>forged</h1>",
    "<meta http-equiv=refresh content=0;url=//evil>",
]


def table(seeds: int = 4, **more: Any) -> pl.DataFrame:
    draw = np.random.default_rng(1)
    rows = []
    for seed in range(seeds):
        offset = draw.normal(0, 0.004)
        for level in range(LEVELS):
            test = float(SHAPE[level] + offset + draw.normal(0, 0.004))
            rows.append(
                {
                    "trial": f"{seed:016x}",
                    "noise.kind": "uniform-relabel",
                    "noise.rate": 0.2,
                    "noise.seed": None,
                    "recipe.epochs": 3,
                    **more,
                    "seed": seed,
                    "level": level,
                    "status": "ok",
                    "prunable": 1000,
                    "remaining": round(1000 * 0.8**level),
                    "sparsity": 1 - 0.8**level,
                    "density": 0.8**level,
                    "epochs": 3,
                    "train_loss": 0.5,
                    "train_accuracy": float(TRAIN[level]),
                    "validation_loss": 0.5,
                    "validation_accuracy": test - 0.1,
                    "test_loss": 0.5,
                    "test_accuracy": test,
                    "permuted_accuracy": float(TRAIN[level] - 0.1),
                    "unpermuted_accuracy": 0.99,
                    "restored_accuracy": 1 - float(TRAIN[level]),
                    "best_epoch": 2,
                    "best_validation_accuracy": test - 0.09,
                    "test_accuracy_at_best": test + 0.005,
                    "oracle_epoch": 1,
                    "oracle_test_accuracy": test + 0.01,
                }
            )
    return pl.DataFrame(rows)


def epochs(levels: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([levels.drop("epochs").with_columns(epoch=pl.lit(e), lr=pl.lit(0.1)) for e in (1, 2, 3)])


def card(kind: str = "uniform-relabel", convention: str = "A convention.") -> dict[str, Any]:
    split = {
        "n": 1000,
        "realised": 0.18,
        "selected": 0.2,
        "transition": [[0.82, 0.18], [0.18, 0.82]],
        "labels_sha256": "0" * 64,
    }
    return {
        "kind": kind,
        "convention": convention,
        "count": "exact",
        "nominal": 0.2,
        "seed": 0,
        "classes": 2,
        "train": split,
        "validation": {**split, "n": 100},
    }


def page(levels: pl.DataFrame | None = None, name: str = "a study", **more: Any) -> str:
    levels = table() if levels is None else levels
    cards = {trial: card() for trial in levels["trial"].unique().to_list()} if levels.columns else {}
    return render(name, levels, epochs(levels) if levels.columns else levels, cards, {"made by": "a test"}, **more)


class Reader(HTMLParser):
    """Elements, attributes and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.inside):
            self.words.append(data)

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]


def specs(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', text, re.S)
    assert found is not None
    return list(json.loads(found[1]))


def test_the_page_says_verdict_dip_and_peak_with_n() -> None:
    words = " ".join(" ".join(Reader(page()).words).split())
    assert "Sparse double descent is present" in words
    assert "4 seeds" in words
    assert re.search(r"level (9|10|11)\b", words)
    assert re.search(r"level (18|19|20)\b", words)


def test_the_page_needs_nothing_from_anywhere() -> None:
    text = page()
    reader = Reader(text)
    for tag, attributes in reader.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form")
        assert not {"src", "srcset", "onload", "onclick", "onerror"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(a["content"] for t, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert 400_000 < len(text) < 2_000_000


def test_every_chart_has_a_description_and_a_table() -> None:
    text = page()
    reader = Reader(text)
    drawings = [a for _, a in reader.elements if "data-chart" in a]
    assert len(drawings) == len(specs(text)) >= 5
    for place, spec in zip(drawings, specs(text), strict=True):
        assert len(place["aria-label"] or "") > 20
        assert place["aria-label"] == spec["description"]
    assert reader.tags().count("figure") <= reader.tags().count("table")


def test_the_main_chart_goes_by_level_and_names_sparsities() -> None:
    main = specs(page())[0]
    assert "pruning level, and sparsity" in json.dumps(main)
    assert "89.3" in json.dumps(main)
    marks = json.dumps(main)
    for phase in ("light", "critical", "sweet", "collapsed"):
        assert f'"phase": "{phase}"' in marks


def test_lines_differ_in_colour_shape_and_dash() -> None:
    main = specs(page())[0]
    text = json.dumps(main)
    assert '"strokeDash"' in text
    assert '"shape"' in text


def test_what_the_test_set_chose_is_called_oracle() -> None:
    words = " ".join(Reader(page()).words)
    assert "oracle (selected on test)" in words
    heads = re.findall(r"<th[^>]*>([^<]*best test epoch[^<]*)</th>", page())
    assert heads
    assert all("oracle" in head for head in heads)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_stays_text(payload: str) -> None:
    plain = Reader(page(table(2, **{"model.name": "x", "noise.kind": "y"}), name="n", missing=["m"]))
    levels = table(2, **{"model.name": payload, "noise.kind": payload})
    cards = {trial: card(payload, payload) for trial in levels["trial"].unique().to_list()}
    text = render(payload, levels, epochs(levels), cards, {payload: payload, "a": {payload: [payload]}}, [payload])
    reader = Reader(text)
    assert sorted(set(reader.tags())) == sorted(set(plain.tags()))
    assert reader.tags().count("script") == plain.tags().count("script")
    assert not [a for _, attributes in reader.elements for a in attributes if a.startswith("on")]
    assert text.count("</script") == plain.tags().count("script")
    assert specs(text)


def test_hostile_curve_names_stay_text() -> None:
    levels = pl.concat(
        [table(2, **{"model.name": p}).with_columns(trial=pl.lit(p) + pl.col("trial")) for p in PAYLOADS[:3]]
    )
    text = render("n", levels, epochs(levels), {}, {})
    assert Reader(text).tags().count("script") == 3
    assert text.count("</script") == 3


def test_a_half_done_study_is_reported() -> None:
    levels = table()
    some = levels.filter((pl.col("seed") == 0) | (pl.col("level") < 5))
    words = " ".join(Reader(page(some, missing=["seed 1, trial 1: 5 of 25 levels"])).words)
    assert "1 trials are unfinished" in words
    assert "5 of 25 levels" in words


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_study_of_few_levels_is_reported(count: int) -> None:
    assert "<html" in page(table().filter(pl.col("level") < count))


def test_an_empty_study_is_reported() -> None:
    assert "No level is finished yet" in page(pl.DataFrame())


def test_missing_measures_and_diverged_levels_are_reported() -> None:
    levels = table().with_columns(
        *(pl.lit(None, dtype=pl.Float64).alias(c) for c in (*SUBSETS, "validation_accuracy", "test_accuracy_at_best")),
        status=pl.when((pl.col("seed") == 1) & (pl.col("level") == 24))
        .then(pl.lit("diverged"))
        .otherwise(pl.lit("ok")),
    )
    assert "diverged" in " ".join(Reader(page(levels)).words)


def test_several_curves_share_a_page() -> None:
    other = table().with_columns(pl.lit(0.4).alias("noise.rate"), trial=pl.lit("x") + pl.col("trial"))
    words = " ".join(Reader(page(pl.concat([table(), other]))).words)
    assert "0.2" in words
    assert "0.4" in words


def test_the_static_picture_is_a_picture() -> None:
    svg = static(table()).decode()
    assert svg.startswith("<svg")
    assert "sweet" in svg
    assert static(table(), "png").startswith(b"\x89PNG")


def test_a_picture_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="no level is finished"):
        static(table().clear())
