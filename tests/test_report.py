"""The report: one page that needs nothing else, says n beside every number, and takes no text for code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import pytest

from prunephase.errors import UserError
from prunephase.reports.page import bundle, render, static
from prunephase.reports.parts import embedded

Inputs = tuple[pl.DataFrame, pl.DataFrame, dict[str, dict[str, Any]]]
PROVENANCE = {"prunephase": "0.1.0", "numerics": {"fingerprint 1": {"torch": "2.13.0", "threads": 1}}, "data": ["ab"]}
VOID = {"meta", "link", "br", "img", "input", "hr", "base", "embed", "source"}
SCRIPT = "alert(1)"
PAYLOADS = [
    f"<script>{SCRIPT}</script>",
    f"</script><script>{SCRIPT}</script>",
    f"</SCRIPT ><script>{SCRIPT}</script>",
    f"<!--<script>{SCRIPT}",
    f"--><script>{SCRIPT}</script>",
    f"]]><script>{SCRIPT}</script>",
    f"</title><script>{SCRIPT}</script>",
    f"</style><script>{SCRIPT}</script>",
    f"</textarea><script>{SCRIPT}</script>",
    f"</noscript><script>{SCRIPT}</script>",
    f"<img src=x onerror={SCRIPT}>",
    f"<img/src=x/onerror={SCRIPT}>",
    f"<svg onload={SCRIPT}>",
    f"<svg><script>{SCRIPT}</script></svg>",
    f"<svg><animate onbegin={SCRIPT} attributeName=x>",
    f"<body onload={SCRIPT}>",
    f"<iframe src=javascript:{SCRIPT}>",
    f"<iframe srcdoc='<script>{SCRIPT}</script>'>",
    f"<a href=javascript:{SCRIPT}>x</a>",
    f"<a href='data:text/html,<script>{SCRIPT}</script>'>x</a>",
    f"<math><mtext><script>{SCRIPT}</script>",
    f"<details open ontoggle={SCRIPT}>",
    f"<video><source onerror={SCRIPT}>",
    f"<audio src=x onerror={SCRIPT}>",
    f"<input autofocus onfocus={SCRIPT}>",
    f"<select autofocus onfocus={SCRIPT}>",
    f"<marquee onstart={SCRIPT}>",
    f"<object data=javascript:{SCRIPT}>",
    f"<embed src=javascript:{SCRIPT}>",
    f"<form action=javascript:{SCRIPT}><button>",
    f"<button formaction=javascript:{SCRIPT}>",
    f"<link rel=stylesheet href=https://evil.example/{SCRIPT}>",
    "<link rel=prefetch href=//evil.example>",
    f"<meta http-equiv=refresh content='0;url=javascript:{SCRIPT}'>",
    "<base href=https://evil.example/>",
    "<style>@import 'https://evil.example/x.css';</style>",
    "<style>*{background:url(https://evil.example)}</style>",
    f'" onmouseover="{SCRIPT}',
    f"' onmouseover='{SCRIPT}",
    f'"><script>{SCRIPT}</script>',
    f"'><script>{SCRIPT}</script>",
    f"` onmouseover={SCRIPT}",
    f"x onfocus={SCRIPT} autofocus",
    f"&lt;script&gt;{SCRIPT}&lt;/script&gt;",
    f"&#60;script&#62;{SCRIPT}",
    f"\\u003cscript\\u003e{SCRIPT}",
    f"\\x3cscript\\x3e{SCRIPT}",
    "{{ 7*7 }}",
    "{% for x in y %}",
    "{{ ''.__class__.__mro__ }}",
    "${7*7}",
    f"'];{SCRIPT};//",
    f'"}}];{SCRIPT};//',
    f"\u2028{SCRIPT}\u2029",
    "\x00<script>",
    "<scr\x00ipt>",
    f"\x1b[2J<script>{SCRIPT}</script>",
    f"\ufeff<script>{SCRIPT}</script>",
    "datum.x + constructor.constructor('alert(1)')()",
    "<" * 300,
    "=HYPERLINK('https://evil.example')",
    f"<xss style=animation-name:x onanimationstart={SCRIPT}>",
]


def study(
    seeds: int = 4, levels: int = 12, rates: tuple[float, ...] = (0.3,), epochs: int = 6, text: str = "uniform-relabel"
) -> Inputs:
    """A made-up study with a dip at level 4 and a peak at level 8; `text` stands wherever a user's text may."""
    rows: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    cards: dict[str, dict[str, Any]] = {}
    level = np.arange(levels)
    bend = -0.08 * np.exp(-(((level - 4) / 1.5) ** 2)) + 0.08 * np.exp(-(((level - 8) / 1.5) ** 2))
    test = 0.78 + bend - 0.25 * (level >= 11)
    train = 1 - 0.3 / (1 + np.exp(-(level - 5.0)))
    for which, rate in enumerate(rates):
        for seed in range(seeds):
            chance = np.random.default_rng([which, seed])
            trial = f"{which:08x}{seed:08x}"
            fixed = {"trial": trial, "seed": seed, "noise.kind": text, "noise.rate": rate, "noise.seed": None,
                     "model.name": text, "pruning.criterion": text}  # fmt: skip
            split = {"n": 900, "realised": rate, "selected": rate, "transition": [[1 - rate, rate], None]}
            said = {"kind": text, "convention": text, "count": text, "nominal": rate, "seed": seed, "classes": 2}
            cards[trial] = {**said, "train": {**split, "labels_sha256": trial}, "validation": split}
            for i in range(levels):
                here = float(test[i] + chance.normal(0, 0.004) - 0.01 * which)
                row = {**fixed, "level": i, "status": "ok", "prunable": 1000, "remaining": round(1000 * 0.8**i),
                       "sparsity": 1 - 0.8**i, "epochs": epochs, "test_accuracy": here,
                       "train_accuracy": float(train[i]), "validation_accuracy": here * 0.8,
                       "permuted_accuracy": float(train[i] * 0.9), "unpermuted_accuracy": float(train[i]),
                       "restored_accuracy": here - 0.05, "test_accuracy_at_best": here + 0.01,
                       "oracle_test_accuracy": 0.9731 if i == 2 else here + 0.02}  # fmt: skip
                rows.append(row)
                for epoch in range(1, epochs + 1):
                    steps.append({"trial": trial, "seed": seed, "level": i, "epoch": epoch,
                                  "train_accuracy": row["train_accuracy"] * epoch / epochs,
                                  "test_accuracy": here * epoch / epochs})  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None), pl.DataFrame(steps), cards


@dataclass
class Element:
    """A parsed element."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str) -> list[Element]:
        """Every element below with that tag, in order."""
        return [found for child in self.children for found in ([child] if child.tag == tag else []) + child.all(tag)]

    def words(self) -> str:
        """All text in and below."""
        return self.text + "".join(child.words() for child in self.children)


class Page(HTMLParser):
    """A page as a tree."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]
        self.started: list[tuple[str, tuple[str, ...]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.started.append((tag, tuple(name for name, _ in attrs)))
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].text += data

    def one(self, tag: str, **attributes: str) -> Element:
        """The only such element."""
        (found,) = [e for e in self.root.all(tag) if attributes.items() <= e.attributes.items()]
        return found

    @property
    def specs(self) -> list[dict[str, Any]]:
        """The charts."""
        return list(json.loads(self.one("script", id="specs").text))


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render("a study", *study(), PROVENANCE))


@pytest.fixture(scope="module")
def three() -> Page:
    return Page(render("three rates", *study(seeds=3, rates=(0.1, 0.3, 0.5)), PROVENANCE))


def test_the_sections_stand_in_their_order(page: Page) -> None:
    assert [e.attributes["id"] for e in page.root.all("section")] == [
        "verdict", "curve", "stops", "numbers", "training", "subsets", "noise", "levels", "settings",
    ]  # fmt: skip


def test_the_page_loads_nothing(page: Page) -> None:
    for element in page.root.all("link") + page.root.all("img") + page.root.all("iframe") + page.root.all("script"):
        assert "src" not in element.attributes
        assert "href" not in element.attributes
    assert all(str(a.attributes["href"]).startswith("#") for a in page.root.all("a"))
    style = page.one("style").text
    assert "url(" not in style
    assert "@import" not in style
    assert not [spec for spec in page.specs if '"url"' in json.dumps(spec)]


def test_the_policy_admits_only_the_page_s_own_script_and_style(page: Page) -> None:
    policy = str(page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    code = [e for e in page.root.all("script") if e.attributes.get("type") != "application/json"]
    for element in [*code, page.one("style")]:
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_the_charts_library_stands_in_the_page_once() -> None:
    html = render("three rates", *study(seeds=2, rates=(0.1, 0.5)), {})
    assert html.count(bundle()) == 1
    assert len(html.encode()) < len(bundle().encode()) + 600_000


@pytest.mark.parametrize("which", ["page", "three"])
def test_every_chart_has_a_description_and_a_table_of_its_numbers(which: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(which)
    places = [e for e in page.root.all("div") if "data-chart" in e.attributes]
    assert [int(str(e.attributes["data-chart"])) for e in places] == list(range(len(page.specs)))
    for place, spec in zip(places, page.specs, strict=True):
        assert place.attributes["aria-label"] == spec["description"]
        assert len(spec["description"]) > 20
    figures = page.root.all("figure")
    assert sum(len([d for d in f.all("div") if "data-chart" in d.attributes]) for f in figures) == len(places) > 6
    for figure in figures:
        (details,) = figure.all("details")
        assert len(details.all("tr")) > 2


@pytest.mark.parametrize("which", ["page", "three"])
def test_curves_differ_in_colour_shape_and_dash(which: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(which)
    encodings: dict[str, Any] = {}
    for layer in page.specs[0]["layer"]:
        encodings |= layer["encoding"]
    for channel in ("color", "shape", "strokeDash"):
        values = [str(value) for value in encodings[channel]["scale"]["range"]]
        assert len(set(values)) == len(values) == 3


def test_every_finding_names_numbers_and_their_n(page: Page) -> None:
    findings = [e.words() for e in page.root.all("p") if e.attributes.get("class") == "finding"]
    assert len(findings) == 9
    for finding in findings:
        assert re.search(r"\d", finding)
    for finding in findings[1:6]:
        assert "n\u00a0=\u00a0" in finding


def test_every_figure_and_every_mean_carries_n(page: Page) -> None:
    cards = [e for e in page.root.all("div") if e.attributes.get("class") == "card"]
    assert [card.all("div")[0].text for card in cards] == [
        "dense", "dip", "peak", "stopping early forfeits", "level chosen on validation",
    ]  # fmt: skip
    assert all("n\u00a0=\u00a04" in card.words() for card in cards)
    means = page.one("section", id="levels").all("table")[0]
    for row in means.all("tbody")[0].all("tr"):
        for cell in row.all("td")[3:]:
            assert re.fullmatch(r"[\d.]+\u202f% ± [\d.]+ \(n\u00a0=\u00a04\)", cell.text)


def test_what_the_test_set_chose_is_called_an_oracle_wherever_it_stands(page: Page) -> None:
    seen = 0
    for table in page.root.all("table"):
        heads = [cell.text for cell in table.all("thead")[0].all("th")]
        for row in table.all("tbody")[0].all("tr"):
            for head, cell in zip(heads, row.all("td"), strict=True):
                if "97.3" in cell.text:
                    seen += 1
                    assert "oracle (selected on test)" in head
    assert seen == 1 + 1 + 4
    cards = {e.all("div")[0].text: e.words() for e in page.root.all("div") if e.attributes.get("class") == "card"}
    for name in ("peak", "stopping early forfeits"):
        assert "oracle (selected on test)" in cards[name]
    assert "97.3" not in page.one("section", id="verdict").words()


def test_the_axis_goes_by_level_and_names_the_sparsity(page: Page) -> None:
    axes = [layer["encoding"]["x"].get("axis") for layer in page.specs[0]["layer"] if "x" in layer["encoding"]]
    (label,) = {axis["labelExpr"] for axis in axes if axis}
    assert label.startswith("[datum.value, ['0\u202f%', '20\u202f%', '36\u202f%', '48.8\u202f%'")


def test_curves_of_unlike_ladders_share_an_axis_of_sparsity() -> None:
    table, epochs, cards = study(seeds=2, levels=6, rates=(0.1, 0.5))
    coarse = pl.when(pl.col("noise.rate") == 0.5).then(1 - 0.5 ** pl.col("level")).otherwise(pl.col("sparsity"))
    page = Page(render("unlike", table.with_columns(sparsity=coarse), epochs, cards, {}))
    axes = [layer["encoding"]["x"].get("axis") for layer in page.specs[0]["layer"] if "x" in layer["encoding"]]
    assert "pow(10, -datum.value)" in next(axis["labelExpr"] for axis in axes if axis)


def test_several_curves_get_a_verdict_each(three: Page) -> None:
    verdict = three.one("section", id="verdict")
    assert [item.all("strong")[0].text.split(":")[0] for item in verdict.all("li")] == [
        "rate 0.1",
        "rate 0.3",
        "rate 0.5",
    ]
    assert "Of 3 curves" in verdict.all("p")[0].text


def test_the_settings_say_what_varies_and_what_does_not() -> None:
    table, epochs, cards = study()
    words = Page(render("a study", table, epochs, cards, {})).one("section", id="settings").words()
    assert "the noise pattern" in words
    fixed = table.with_columns(pl.lit(7).alias("noise.seed"))
    words = Page(render("a study", fixed, epochs, cards, {})).one("section", id="settings").words()
    assert "nothing about other patterns of noise" in words


def test_diverged_and_missing_are_counted_and_named() -> None:
    table, epochs, cards = study(seeds=3)
    lost = (pl.col("seed") == 1) & (pl.col("level") == 5)
    table = table.with_columns(status=pl.when(lost).then(pl.lit("diverged")).otherwise(pl.col("status")))
    table = table.filter(~((pl.col("seed") == 2) & (pl.col("level") > 6)))
    page = Page(render("half done", table, epochs, cards, {}, ["seed 2: 7 of 12 levels"]))
    settings = page.one("section", id="settings").words()
    assert "1 levels diverged and 1 trials are unfinished" in settings
    assert "trial 0000000000000001, seed 1, level 5: diverged" in settings
    assert "seed 2: 7 of 12 levels" in settings
    fifth = page.one("section", id="levels").all("table")[0].all("tbody")[0].all("tr")[5]
    assert "n\u00a0=\u00a02" in fifth.words()


def _lacking(*columns: str) -> Inputs:
    table, epochs, cards = study(seeds=2)
    return table.drop(columns), epochs, cards


def _null(*columns: str) -> Inputs:
    table, epochs, cards = study(seeds=2)
    return table.with_columns(pl.lit(None).alias(column) for column in columns), epochs, cards


HALF: dict[str, Inputs] = {
    "nothing": (pl.DataFrame(), pl.DataFrame(), {}),
    "no rows": (study(1)[0].clear(), study(1)[1].clear(), {}),
    "one seed": study(seeds=1),
    "one level": study(levels=1),
    "two levels": study(levels=2),
    "no cards": (*study(seeds=2)[:2], {}),
    "no epochs": (study(seeds=2)[0], pl.DataFrame(), study(seeds=2)[2]),
    "no validation": _null("validation_accuracy", "test_accuracy_at_best"),
    "no subsets": _lacking("permuted_accuracy", "unpermuted_accuracy", "restored_accuracy"),
    "no train accuracy": _null("train_accuracy"),
    "no test accuracy": _null("test_accuracy", "oracle_test_accuracy"),
    "all diverged": (study(2)[0].with_columns(status=pl.lit("diverged")), *study(2)[1:]),
    "NaN": (study(2)[0].with_columns(test_accuracy=pl.lit(float("nan"))), *study(2)[1:]),
    "human noise": (
        study(2)[0],
        study(2)[1],
        {k: {**v, "nominal": None, "seed": None} for k, v in study(2)[2].items()},
    ),
}


@pytest.mark.parametrize("case", HALF)
def test_a_half_done_study_renders(case: str) -> None:
    page = Page(render(case, *HALF[case], PROVENANCE))
    named = [section.attributes["id"] for section in page.root.all("section")]
    assert [name for name in named if name != "stops"] == [  # there are stops where a rule can be asked
        "verdict", "curve", "numbers", "training", "subsets", "noise", "levels", "settings",
    ]  # fmt: skip
    assert "NaN" not in page.one("script", id="specs").text
    assert "nan" not in page.one("main").words().replace("NaN", "").split()


def test_text_from_outside_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunephase.reports.page.bundle", lambda: "0")  # 0.9 MB that 60 pages need not parse

    def shape(text: str) -> Page:
        inputs = study(seeds=1, levels=3, rates=(0.1, 0.2), epochs=2, text=text)
        table = inputs[0].with_columns(pl.Series("data.source", [f"{text}{i // 3}" for i in range(6)]))
        table = table.with_columns(
            status=pl.when(pl.col("level") == 2).then(pl.lit("diverged")).otherwise(pl.col("status"))
        )
        rename = {name: f"{name}{text}" for name in inputs[2]}
        table, epochs = (f.with_columns(trial=pl.col("trial").replace(rename)) for f in (table, inputs[1]))
        cards = {rename[name]: card for name, card in inputs[2].items()}
        return Page(render(text, table, epochs, cards, {text: text, f"{text}1": {text: [text]}}, [text]))

    plain = shape("harmless")
    assert len(PAYLOADS) >= 60
    for payload in (" ".join(PAYLOADS[i : i + 4]) for i in range(0, len(PAYLOADS), 4)):  # a page takes half a second
        page = shape(payload)
        # td.text marks long cells: the only attribute that depends on a text
        mask = [(tag, () if tag == "td" else names) for tag, names in page.started]
        assert mask == [(tag, () if tag == "td" else names) for tag, names in plain.started]
        assert {names for tag, names in page.started if tag == "td"} <= {(), ("class",)}
        assert all(str(a.attributes["href"]).startswith("#") for a in page.root.all("a"))
        assert not set("<>&\u2028\u2029") & set(page.one("script", id="specs").text)
        assert len(page.specs) == len(plain.specs)
        if payload.isprintable() and len(payload) < 100:
            assert page.one("h1").text == payload


def test_embedded_json_cannot_leave_its_element() -> None:
    text = embedded({payload: payload for payload in PAYLOADS})
    assert not set("<>&\u2028\u2029") & set(text)
    assert set(json.loads(text)) == set(PAYLOADS)


@pytest.mark.parametrize("which", ["page", "three"])
def test_every_chart_is_valid_vega_lite(which: str, request: pytest.FixtureRequest) -> None:
    for spec in request.getfixturevalue(which).specs:
        alt.Chart.from_dict(spec)  # raises where the schema is not met


def test_no_chart_takes_text_from_outside_for_an_expression() -> None:
    table, epochs, cards = study(seeds=1, levels=3, text="constructor.constructor('x')()")
    table = table.with_columns(pl.Series("data.source", ["x'] + evil(", "b", "c"]))
    page = Page(render("x", table, epochs, cards, {}))

    def expressions(value: Any) -> list[str]:
        if isinstance(value, dict):
            found = [
                str(v) for k, v in value.items() if k in ("expr", "labelExpr", "filter", "calculate", "test", "signal")
            ]
            return found + [e for k, v in value.items() if k != "values" for e in expressions(v)]
        return [e for v in value for e in expressions(v)] if isinstance(value, list) else []

    found = [e for spec in page.specs for e in expressions(spec)]
    assert found
    assert not [e for e in found if "evil" in e or "constructor" in e]


def test_the_static_picture_is_the_curve_with_its_phases() -> None:
    svg = static(study()[0])
    root = ElementTree.fromstring(svg)
    words = " ".join(text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "II critical" in words
    assert "peak" in words
    assert b"var(--" not in svg
    png = static(study()[0], "png")
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 1800


def test_the_static_picture_takes_no_text_for_markup() -> None:
    table = study(seeds=1, levels=4, rates=(0.1, 0.2))[0]
    table = table.with_columns(pl.Series("noise.kind", [f"</text><script>{SCRIPT}</script>{i // 4}" for i in range(8)]))
    root = ElementTree.fromstring(static(table))
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    assert not list(root.iter("script"))
    assert SCRIPT in "".join(root.itertext())


def test_there_is_no_picture_of_nothing() -> None:
    with pytest.raises(UserError, match="no level is finished"):
        static(pl.DataFrame())
    with pytest.raises(UserError, match="expected 'svg' or 'png'"):
        static(study()[0], "pdf")  # type: ignore[arg-type]


def test_the_page_is_the_same_every_time() -> None:
    assert render("a", *study(seeds=2), PROVENANCE) == render("a", *study(seeds=2), PROVENANCE)
