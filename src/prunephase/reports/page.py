"""The report: one self-contained HTML page about a study, and one static picture of its curve."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Literal

import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup

from prunephase.errors import UserError
from prunephase.reports import (
    arms,
    charts,
    decay,
    diagnoses,
    front,
    learning,
    maps,
    numbers,
    overlay,
    pairs,
    records,
    sections,
    stops,
    suspects,
)
from prunephase.reports.findings import NONE, Findings
from prunephase.reports.palette import DARK, LIGHT
from prunephase.reports.parts import embedded
from prunephase.reports.series import NEEDED, complete, ladder, series
from prunephase.reports.words import ORACLE, clipped
from prunephase.stopping import Ending

EPOCHS = {
    **{name: NEEDED[name] for name in ("trial", "seed", "level", "status", "train_accuracy", "test_accuracy")},
    "epoch": pl.Int64,
}


def render(
    name: str,
    table: pl.DataFrame,
    epochs: pl.DataFrame,
    cards: Mapping[str, Mapping[str, Any]],
    provenance: Mapping[str, Any],
    missing: Sequence[str] = (),
    findings: Findings = NONE,
    across: str = "level",
    paid: pl.DataFrame | None = None,
    told: str = "",
    ended: Sequence[Ending] = (),
    runs: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page as text. It needs no network and runs no script but its own, whatever the inputs hold.

    table: one row per trial and level; epochs: one row per trial, level and epoch; both may be half done or empty.
    cards: noise card, as JSON values, by trial digest. provenance: facts, nested at will. missing: what is unfinished,
    a line each. findings: what diagnoses found; across: what they are drawn against, as `diagnoses.diagnoses` has it.
    paid: what the trainings cost, as `spent.spent` has it; told: what the stop rule of the study did, in a sentence;
    ended: the ladders that it ended; runs: what codecarbon said of them, as `carbon.estimates` has it.
    Raises UserError where two rows claim one level of one trial.
    """
    rows, steps = complete(table), complete(epochs, EPOCHS)
    found = series(rows)
    axis = ladder(found)
    parts = [
        sections.verdict(found),
        *arms.arms(found, rows, axis, paid),
        sections.curves(found, axis),
        maps.maps(found, axis, cards),
        *decay.decay(found, cards),
        pairs.pairs(found, axis),
        *stops.ended(found, told, ended),
        *stops.stops(found, cards),
        *front.front(found, cards, paid, runs),
        numbers.numbers(found, axis),
        learning.training(found, steps),
        learning.subsets(found, axis),
        *diagnoses.diagnoses(found, axis, findings, across),
        *suspects.suspects(found, cards, findings),
        records.noise(found, cards),
        records.levels(found, rows),
        records.settings(found, rows, provenance, missing),
    ]
    shown = [part for part in parts if part is not None]
    panels = [panel for part in shown for figure in part.figures for panel in figure.panels]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # script and style are ours alone, and the page's policy lets nothing run or apply but these exact bytes
    script, draw = bundle(), _text("draw.js")
    style = environment.from_string(_text("style.css")).render(light=LIGHT, dark=DARK)
    return environment.from_string(_text("template.html")).render(
        name=clipped(name),
        oracle=ORACLE,
        sections=shown,
        specs=Markup(embedded([panel.spec for panel in panels])),
        script=Markup(script),
        draw=Markup(draw),
        style=Markup(style),
        script_hashes=[_hash(script), _hash(draw)],
        style_hash=_hash(style),
    )


def static(table: pl.DataFrame, format: Literal["svg", "png"] = "svg") -> bytes:
    """The main curve, over the published one where there is one, as a picture on white.

    900 pixels wide, the PNG at twice the density.

    Raises UserError where no level is finished, or for another format.
    """
    if format not in ("svg", "png"):
        raise UserError(f"format = {format!r}: expected 'svg' or 'png'")
    found = series(complete(table))
    if not any(one.summary("test_accuracy") for one in found):
        raise UserError("no level is finished, so there is no curve to draw; run the study first")
    said = " ".join(one.phases.sentence for one in found)
    axis = ladder(found)
    below = overlay.beneath(found, axis)
    chart = charts.curve_chart(found, axis, LIGHT, description=said, height=400, beneath=below)
    spec = charts.spec(chart.properties(width=900), LIGHT)
    if format == "svg":
        return str(vl_convert.vegalite_to_svg(spec)).encode()
    return bytes(vl_convert.vegalite_to_png(spec, scale=2))


@functools.cache
def bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script, inlined once per page; made once per process (1.3 s)."""
    script = str(vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;"))
    assert "</script" not in script.lower()
    assert "<!--" not in script
    return script


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8").replace("\r\n", "\n")


def _hash(text: str) -> str:
    """A source expression of a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
