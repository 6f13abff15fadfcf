"""The section of phase maps: a number of the setting against the ladder, accuracy as colour, phases as contours."""

# R rows of a map, one curve each; L levels.

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from prunephase.analysis.map import BOUNDARIES, PhaseMap, Row, boundaries, named, phase_maps, powers_of_ten
from prunephase.looks import PHASES, sparse
from prunephase.reports import charts
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Figure, Panel, Section, Table
from prunephase.reports.series import Ladder, Series, count
from prunephase.reports.words import listed, mean_sd, percent, seeds

PAINTS = {"critical": "s1", "sweet": "s2", "collapsed": "s3", "dip": "ink", "peak": "ink"}
WEIGHTS, WEIGHTS_NAME = "s4", "weights per training example"
DASH = {"critical": [1, 0], "sweet": [7, 3], "collapsed": [2, 2], "dip": [1, 0], "peak": [7, 3]}
SHAPE = {"dip": "triangle-down", "peak": "triangle-up"}


def maps(found: Sequence[Series], ladder: Ladder, cards: Mapping[str, Mapping[str, Any]]) -> Section | None:
    """A map for every number that takes at least three values; None where there is none."""
    made = [one for one in phase_maps([(series.group, series.phases) for series in found]) if _filled(one, found)]
    if not made:
        return None
    shares = [at.mean for one in made for row in one.rows for at in found[row.index].summary("test_accuracy")]
    domain = min(shares) - 0.005, max(shares) + 0.005
    figures = []
    for one in made:
        said = f"{named(one.fixed, one.fixed)}: {_moved(one)}" if one.fixed else _moved(one)
        chart = _chart(one, found, ladder, _ratios(one, found, cards), domain, said)
        caption = f"{said} A line stands where a phase begins; accuracy is the mean over seeds."
        figures.append(Figure([Panel(charts.spec(chart, PAGE))], caption, _table(one, found)))
    finding = f"{len(made)} map{'s' if len(made) > 1 else ''}. {_moved(made[0])}"
    notes = [
        "Each row of a map is one curve, each column a level; the darker (on a dark page: the brighter) a cell, the "
        "higher its test accuracy. A boundary is broken where a curve has no such phase; unless a curve's verdict is "
        "“present”, its phases are candidates."
    ]
    return Section("maps", "Phase maps", finding, notes=notes, figures=figures)


def _filled(one: PhaseMap, found: Sequence[Series]) -> bool:
    return all(found[row.index].summary("test_accuracy") for row in one.rows)


def _moved(one: PhaseMap) -> str:
    """How dip and peak move from the first to the last row."""
    first, last = one.rows[0], one.rows[-1]
    said = []
    for name, levels in boundaries(one).items():
        if name in ("dip", "peak"):
            at = [
                f"{level if level is not None else 'none'} ({row.value:g})"
                for level, row in zip(levels, one.rows, strict=True)
            ]
            said.append(f"{name} at level {listed(at)}")
    n = count(one.rows)
    sure = sum(row.phases.verdict == "present" for row in one.rows)
    where = "; ".join(said) or "no curve has a dip"
    return (
        f"As {one.axis} goes from {first.value:g} to {last.value:g}: {where} ({n} each; sparse double descent is "
        f"present in {sure} of {len(one.rows)} curves)."
    )


def _ratios(
    one: PhaseMap, found: Sequence[Series], cards: Mapping[str, Mapping[str, Any]]
) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """Remaining weights per training example, by row and level; empty where it is the same in all rows, or unknown."""
    ratios = []
    for row in one.rows:
        rows = found[row.index].rows
        card = next((cards[trial] for trial in rows["trial"].unique(maintain_order=True) if trial in cards), None)
        left = rows.group_by("level").agg(pl.col("remaining").mean()).sort("level")["remaining"]
        if card is None or left.null_count() or not card["train"]["n"]:
            return []
        ratios.append(left.to_numpy() / card["train"]["n"])
    first = [float(ratio[0]) for ratio in ratios]
    return ratios if min(first) > 0 and max(first) > 1.001 * min(first) else []


def _chart(
    one: PhaseMap,
    found: Sequence[Series],
    ladder: Ladder,
    ratios: Sequence[Any],
    domain: tuple[float, float],
    description: str,
) -> alt.LayerChart:
    cells = [cell for y, row in enumerate(one.rows) for cell in _cells(y, one, found[row.index], ladder, row)]
    low, high = min(cell["x"] for cell in cells), max(cell["x2"] for cell in cells)
    labels = ", ".join(f"'{row.value:g}'" for row in one.rows)
    x_scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    x = alt.X("x:Q", axis=charts.axis(ladder), scale=x_scale)
    y_axis = alt.Axis(
        title=one.axis,
        values=list(range(len(one.rows))),
        labelExpr=f"[{labels}][datum.value]",
        grid=False,
    )
    y_scale = alt.Scale(domain=[-0.5, len(one.rows) - 0.5], nice=False, zero=False)
    y = alt.Y("y:Q", axis=y_axis, scale=y_scale)
    legend = alt.Legend(
        title="test accuracy",
        format=".0%",
        orient="top",
        direction="horizontal",
        symbolType="square",
        symbolFillColor=PAGE["s0"],
        symbolStrokeWidth=0,
        symbolSize=220,
        tickCount=5,
    )
    opacity = alt.Opacity(
        "mean:Q", scale=alt.Scale(domain=list(domain), range=[0.04, 0.85], nice=False, zero=False), legend=legend
    )
    tips = [alt.Tooltip(f"{key}:N", title=text) for key, text in (("at", "at"), ("text", "test"), ("phase", "phase"))]
    heat = alt.Chart(alt.Data(values=cells)).mark_rect(fill=PAGE["s0"])
    layers = [heat.encode(x=x, x2="x2:Q", y=y, y2="y2:Q", opacity=opacity, tooltip=tips, description="says:N")]
    layers += _overlaid(one, ladder, ratios, x, y)
    return alt.layer(*layers).properties(
        width="container",
        height=max(120, min(46 * len(one.rows), 420)),
        description=f"Map of test accuracy by level and {one.axis}. {description}",
    )


def _overlaid(one: PhaseMap, ladder: Ladder, ratios: Sequence[Any], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Contours, dip and peak, and lines of equal weights per example, over the cells."""
    lines, names = _contours(one, ladder), {name: _name(name) for name in boundaries(one)}
    weights = _weights(one, ladder, ratios)
    paints = [PAGE[PAINTS[name]] for name in names] + [PAGE[WEIGHTS]] * bool(weights)
    dashes = [DASH[name] for name in names] + [[9, 3, 2, 3]] * bool(weights)
    kinds = [*names.values(), *([WEIGHTS_NAME] * bool(weights))]
    key = alt.Legend(
        title=None, orient="bottom", symbolType="stroke", symbolSize=400, symbolStrokeWidth=2.5, columns=3, labelLimit=0
    )
    colour = alt.Color("name:N", scale=alt.Scale(domain=kinds, range=paints), legend=key)
    dash = alt.StrokeDash("name:N", scale=alt.Scale(domain=kinds, range=dashes), legend=key)
    base = alt.Chart(alt.Data(values=[*lines, *weights]))
    # a halo in the colour of the paper, because a line crosses cells of every shade
    halo = base.mark_line(stroke=PAGE["paper"], strokeWidth=5, opacity=0.75, aria=False, clip=True)
    drawn = base.mark_line(strokeWidth=2.5, aria=False, clip=True)
    order, detail = alt.Order("y:Q"), alt.Detail("line:N")
    layers = [halo.encode(x=x, y=y, order=order, detail=detail)]
    layers.append(drawn.encode(x=x, y=y, order=order, detail=detail, color=colour, strokeDash=dash))
    points = base.transform_filter("datum.shape").mark_point(filled=True, size=80, opacity=1, color=PAGE["ink"])
    shape = alt.Shape("shape:N", scale=None, legend=None)
    layers.append(points.encode(x=x, y=y, shape=shape, description="says:N", tooltip=alt.Tooltip("says:N", title=" ")))
    if weights:
        text = {"dy": -8, "fontSize": 11, "fontWeight": "bold", "align": "center", "aria": False}
        top = base.transform_filter("datum.label")
        under = top.mark_text(**text, stroke=PAGE["paper"], strokeWidth=4, strokeJoin="round", color=PAGE["paper"])
        for marks in (under, top.mark_text(**text, color=PAGE["ink"])):
            layers.append(marks.encode(x=x, y=y, text="label:N"))
    return layers


def _cells(y: int, one: PhaseMap, series: Series, ladder: Ladder, row: Row) -> list[dict[str, Any]]:
    at = series.summary("test_accuracy")
    middle = [ladder.x(each.level, each.sparsity) for each in at]
    edges = _edges(middle)
    made = []
    for i, each in enumerate(at):
        where = f"{one.axis} {row.value:g}, level {each.level}, {sparse(each.sparsity)} sparse"
        phase = _phase(row, each.level)
        made.append(
            {
                "x": edges[i],
                "x2": edges[i + 1],
                "y": y - 0.5,
                "y2": y + 0.5,
                "mean": round(each.mean, 5),
                "at": where,
                "text": mean_sd(each),
                "phase": phase,
                "says": f"{where}: {percent(each.mean)}, {seeds(each.n)}, {phase}",
            }
        )
    return made


def _edges(middle: Sequence[float]) -> list[float]:
    """Cells meet half way between levels. [L] -> [L + 1]."""
    if len(middle) == 1:
        return [middle[0] - 0.5, middle[0] + 0.5]
    between = [(a + b) / 2 for a, b in itertools.pairwise(middle)]
    return [2 * middle[0] - between[0], *between, 2 * middle[-1] - between[-1]]


def _phase(row: Row, level: int) -> str:
    return next((name for name in PHASES if name in row.phases.phases and level <= row.phases.phases[name].end), "none")


def _contours(one: PhaseMap, ladder: Ladder) -> list[dict[str, Any]]:
    """Boundaries along the edges of the cells, from the lower to the upper edge of each row; dip and peak amid them."""
    rows = []
    for name, levels in boundaries(one).items():
        for y, (row, level) in enumerate(zip(one.rows, levels, strict=True)):
            x = None if level is None else _place(row, level, ladder, begins=name in BOUNDARIES)
            mark = {"name": _name(name), "line": name, "x": x, "y": y, "shape": "", "label": ""}
            if name in BOUNDARIES:
                rows += [{**mark, "y": y - 0.5}, {**mark, "y": y + 0.5}]
                continue
            if level is not None:
                says = f"{name} at level {level}, {one.axis} {row.value:g}, {seeds(row.phases.n)}"
                mark |= {"shape": SHAPE[name], "says": says}
            rows.append(mark)
    return rows


def _place(row: Row, level: int, ladder: Ladder, begins: bool) -> float:
    """Where a level stands, or where it begins."""
    levels = [int(each) for each in row.group.levels]
    i = levels.index(level)
    x = [ladder.x(levels[j], float(row.group.sparsity[j])) for j in range(max(0, i - 1), i + 1)]
    return sum(x) / len(x) if begins else x[-1]


def _weights(one: PhaseMap, ladder: Ladder, ratios: Sequence[Any]) -> list[dict[str, Any]]:
    """Lines along which a power of ten of weights remains for each training example."""
    rows: list[dict[str, Any]] = []
    for y, (row, ratio) in enumerate(zip(one.rows, ratios, strict=False)):
        pairs = zip(row.group.levels, row.group.sparsity, strict=True)
        places = np.array([ladder.x(int(level), float(sparsity)) for level, sparsity in pairs])
        for power, x in powers_of_ten(ratio, places).items():
            text = f"{10.0**power:g}"
            rows.append({"name": WEIGHTS_NAME, "line": f"10^{power}", "x": x, "y": y, "label": text})
    last = {row["line"]: row["y"] for row in rows}
    return [{**row, "shape": "", "label": row["label"] if last[row["line"]] == row["y"] else ""} for row in rows]


def _name(boundary: str) -> str:
    return boundary if boundary not in BOUNDARIES else f"{PHASES[PHASES.index(boundary) - 1]} | {boundary}"


def _table(one: PhaseMap, found: Sequence[Series]) -> Table:
    rows = []
    for row in one.rows:
        series = found[row.index]
        train = {at.level: at for at in series.summary("train_accuracy")}
        for at in series.summary("test_accuracy"):
            cells = (_phase(row, at.level), mean_sd(at), mean_sd(train.get(at.level)))
            rows.append((f"{row.value:g}", str(at.level), sparse(at.sparsity), *cells))
    return Table(f"Map of {one.axis}", (one.axis, "level", "sparsity", "phase", "test", "train"), rows)
