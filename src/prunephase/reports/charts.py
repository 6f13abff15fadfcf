"""Charts: Vega-Lite specifications as plain values; every line carries colour, shape and dash."""

# L levels, K classes.

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunephase.analysis import Phases
from prunephase.reports.series import At, Ladder, Series
from prunephase.reports.words import seeds, sparse

Spec = dict[str, Any]
Theme = Mapping[str, str]

# Series in Okabe and Ito's colours, which most colour-blind readers can tell apart; lighter ones on a dark page.
LIGHT: Theme = {
    "ink": "#1f2430",
    "faint": "#5b6472",
    "grid": "#dde1e7",
    "paper": "#ffffff",
    "oracle": "#8a8f98",
    "s0": "#0072b2",
    "s1": "#c25700",
    "s2": "#00805f",
    "s3": "#a8437f",
    "s4": "#8a6d00",
    "s5": "#2a9bd1",
    "s6": "#555b66",
    "light": "#9db8d2",
    "critical": "#e3a595",
    "sweet": "#a3cfa0",
    "collapsed": "#b3adc4",
}
DARK: Theme = {
    "ink": "#e4e7ec",
    "faint": "#a2abb8",
    "grid": "#343b46",
    "paper": "#191d24",
    "oracle": "#8a8f98",
    "s0": "#62b5ec",
    "s1": "#f0a15c",
    "s2": "#4cc9a2",
    "s3": "#e69ac6",
    "s4": "#dcc25a",
    "s5": "#9bd6f5",
    "s6": "#b4bac4",
    "light": "#49657f",
    "critical": "#8a4b3c",
    "sweet": "#4a7a48",
    "collapsed": "#5d5675",
}
PAGE: Theme = {name: f"var(--{name})" for name in LIGHT}  # the page's style sheet decides between light and dark

COLOURS = tuple(f"s{i}" for i in range(7))
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 1], [1, 3], [10, 4])
TICKS = 13  # more labels of two lines would run into each other


@dataclass(frozen=True)
class Line:
    """One line: its name in the legend and its points. paint: a colour of the theme; None: the next free one."""

    name: str
    points: Sequence[At]
    band: bool = True
    paint: str | None = None


def line(name: str, one: Series, column: str, ladder: Ladder, *, band: bool = True, paint: str | None = None) -> Line:
    """A quantity of one curve against level."""
    known = [at for at in one.summary(column) if at.level in ladder.sparsity]
    return Line(name, known, band, paint)


def lines(
    drawn: Sequence[Line],
    ladder: Ladder | None,
    theme: Theme,
    *,
    description: str,
    height: int = 260,
    title: str = "accuracy",
) -> Spec:
    """Lines with intervals and points against level, or against epoch where there is no ladder."""
    x, y = _x(ladder), _y([at.mean for one in drawn for at in one.points], title)
    layers = _layers(drawn, ladder, theme, x, y, points=ladder is not None)
    return {**_frame(description, height), "layer": layers}


def curve_chart(found: Sequence[Series], ladder: Ladder, theme: Theme, *, description: str, height: int = 360) -> Spec:
    """Test accuracy against level for every curve; for a single one its train accuracy, phases, dip and peak too."""
    if len(found) == 1:
        one = found[0]
        drawn = [line("test, last epoch", one, "test_accuracy", ladder), line("train", one, "train_accuracy", ladder)]
    else:
        drawn = [line(one.label, one, "test_accuracy", ladder) for one in found]
    drawn = [one for one in drawn if one.points]
    singles: list[Spec] = [
        {"seed": f"{i}-{seed}", "x": ladder.x(level, sparsity), "mean": value, "paint": COLOURS[i % len(COLOURS)]}
        for i, one in enumerate(found)
        for seed, level, sparsity, value in one.seeds("test_accuracy")
    ]
    x, y = _x(ladder), _y([*(at.mean for d in drawn for at in d.points), *(row["mean"] for row in singles)], "accuracy")
    layers = _shading(found[0].phases, found[0], ladder, theme) if len(found) == 1 else []
    layers += _layers(drawn, ladder, theme, x, y, points=True)
    for paint in dict.fromkeys(row["paint"] for row in singles):
        layers.append(
            {
                "data": {"values": [row for row in singles if row["paint"] == paint]},
                "mark": {"type": "line", "strokeWidth": 0.8, "opacity": 0.35, "color": theme[paint], "aria": False},
                "encoding": {"x": x, "y": y, "detail": {"field": "seed"}},
            }
        )
    for one in found:
        layers += _rings(one.phases, ladder, theme)
    return {**_frame(description, height), "layer": layers}


def matrix_chart(matrix: Sequence[Sequence[float | None]], theme: Theme, *, description: str) -> Spec:
    """Shares of true classes (rows) by given label (columns). K x K; None in the row of a class without examples."""
    names = [str(i) for i in range(len(matrix))]
    cells = [
        {"true": names[i], "given": names[j], "share": share}
        for i, row in enumerate(matrix)
        for j, share in enumerate(row)
        if share is not None
    ]
    side = max(6, min(34, 420 // max(1, len(names))))
    axis = {"labelAngle": 0, "domain": False, "ticks": False, "grid": False, "labelOverlap": True}
    tips = [{"field": "true", "title": "true class"}, {"field": "given", "title": "given label"}]
    square = {
        "mark": {"type": "rect", "color": theme["s0"], "stroke": theme["grid"], "strokeWidth": 0.5},
        "encoding": {
            "fillOpacity": {
                "field": "share",
                "type": "quantitative",
                "scale": {"domain": [0, 1], "range": [0.02, 1]},
                "legend": None,
            },
            "tooltip": [*tips, {"field": "share", "format": ".2%"}],
        },
    }
    number = {
        "mark": {"type": "text", "fontSize": 10, "aria": False},
        "encoding": {
            "text": {"field": "share", "type": "quantitative", "format": ".0%"},
            "color": {"condition": {"test": "datum.share > 0.5", "value": theme["paper"]}, "value": theme["ink"]},
        },
    }
    return {
        "description": description,
        "data": {"values": cells},
        "width": {"step": side},
        "height": {"step": side},
        "encoding": {
            "x": {"field": "given", "type": "nominal", "sort": names, "title": "given label", "axis": axis},
            "y": {"field": "true", "type": "nominal", "sort": names, "title": "true class", "axis": axis},
        },
        "layer": [square, *([number] if side >= 28 else [])],
    }


def spec(chart: Spec, theme: Theme) -> Spec:
    """A chart in the colours of `theme`, complete for Vega-Embed or for a static picture."""
    words = {"labelColor": theme["ink"], "titleColor": theme["ink"]}
    lines = {"gridColor": theme["grid"], "domainColor": theme["grid"], "tickColor": theme["grid"]}
    config = {
        "font": "system-ui, sans-serif",
        "view": {"stroke": theme["grid"]},
        "axis": {**words, **lines, "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"},
        "legend": {**words, "labelFontSize": 12, "labelLimit": 420, "orient": "top", "columns": 3, "symbolOpacity": 1},
        "text": {"color": theme["ink"]},
    }
    return {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", **chart, "background": None, "config": config}


def _layers(
    drawn: Sequence[Line], ladder: Ladder | None, theme: Theme, x: Spec, y: Spec, *, points: bool
) -> list[Spec]:
    """Bands, lines and points of all lines, sharing one legend."""
    rows = [row for one in drawn for row in _rows(one, ladder)]
    names = [one.name for one in drawn]
    free = iter(COLOURS * len(drawn))
    paints = [theme[one.paint or next(free)] for one in drawn]

    def scaled(values: Sequence[Any]) -> Spec:
        chosen = [values[i % len(values)] for i in range(len(names))]
        return {"field": "name", "type": "nominal", "title": None, "scale": {"domain": names, "range": chosen}}

    place = "epoch" if ladder is None else "level"
    shown = [
        {"field": "name", "title": "curve"},
        {"field": place},
        *([] if ladder is None else [{"field": "sparsity"}]),
        {"field": "mean", "format": ".2%"},
        {"field": "spread", "title": "spread"},
        {"field": "n", "title": "n"},
    ]
    data = {"data": {"values": rows}}
    band = {"mark": {"type": "area", "opacity": 0.16, "clip": True, "aria": False}}
    band["encoding"] = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": scaled(paints)}
    stroke = {"mark": {"type": "line", "strokeWidth": 2, "clip": True, "aria": False}}
    stroke["encoding"] = {"x": x, "y": y, "color": scaled(paints), "strokeDash": scaled(DASHES)}
    dots = {"mark": {"type": "point", "filled": True, "size": 42 if points else 12, "opacity": 1}}
    dots["encoding"] = {"x": x, "y": y, "color": scaled(paints), "shape": scaled(SHAPES), "tooltip": shown}
    return [{**data, **band, "transform": [{"filter": "isValid(datum.low)"}]}, {**data, **stroke}, {**data, **dots}]


def _rows(one: Line, ladder: Ladder | None) -> list[Spec]:
    rows = []
    for at in one.points:
        row: Spec = {
            "name": one.name,
            "mean": at.mean,
            "n": seeds(at.n),
            "low": None,
            "high": None,
            "spread": "one seed",
        }
        if at.sd is not None:
            row["spread"] = f"sd {100 * at.sd:.1f} points"
        if at.interval is not None:
            row["spread"] += f", mean {100 * at.interval[0]:.1f} to {100 * at.interval[1]:.1f} % (95 %)"
            if one.band:
                row |= {"low": at.interval[0], "high": at.interval[1]}
        if ladder is None:
            row |= {"x": at.level, "epoch": at.level}
        else:
            row |= {"x": ladder.x(at.level, at.sparsity), "level": at.level, "sparsity": sparse(at.sparsity)}
        rows.append(row)
    return rows


def _x(ladder: Ladder | None) -> Spec:
    """Levels with their sparsity below: on a linear axis of sparsity the sweet phase is squeezed into the last 5 %."""
    x: Spec = {"field": "x", "type": "quantitative", "axis": {"grid": False, "tickMinStep": 1}}
    if ladder is None:
        return x | {"title": "epoch", "scale": {"zero": False, "nice": False}}
    places = {ladder.x(level, sparsity): (level, sparsity) for level, sparsity in ladder.sparsity.items()}
    every = max(1, -(-len(places) // TICKS))
    shown = [place for i, place in enumerate(places) if i % every == 0]
    if ladder.shared:
        labels = {str(int(place)): [str(level), sparse(sparsity)] for place, (level, sparsity) in places.items()}
        title, label = "pruning level, and sparsity", f"{json.dumps(labels)}[format(datum.value, 'd')]"
    else:  # groups with different ladders share only the sparsity itself
        shown = [float(decade) for decade in range(1 + int(max(places)))]
        title, label = "sparsity (logarithmic in what remains)", "format(1 - pow(10, -datum.value), '.5~%')"
    axis = {"grid": False, "values": shown, "labelExpr": label}
    domain = [min(places), max(places) if len(places) > 1 else min(places) + 1]
    return x | {"title": title, "axis": axis, "scale": {"domain": domain, "nice": False, "zero": False}}


def _y(values: Sequence[float], title: str) -> Spec:
    """Accuracy, with a little room; intervals of few seeds are cut off at the frame rather than dwarf the curve."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.08 * max(high - low, 0.02)
    domain = [max(0.0, low - room), min(1.0, high + 2 * room)]  # more above, where the names of the phases stand
    scale = {"domain": domain, "zero": False, "nice": False}
    return {"field": "mean", "type": "quantitative", "title": title, "scale": scale, "axis": {"format": "~%"}}


def _shading(answer: Phases, one: Series, ladder: Ladder, theme: Theme) -> list[Spec]:
    """The phases as named stripes that meet half-way between two levels."""
    places = [ladder.x(int(v), float(s)) for v, s in zip(one.group.levels, one.group.sparsity, strict=True)]
    index = {int(level): i for i, level in enumerate(one.group.levels)}
    rows = []
    for name, span in answer.phases.items():
        first, last = index[span.start], index[span.end]
        start = (places[first] + places[max(first - 1, 0)]) / 2
        end = (places[last] + places[min(last + 1, len(places) - 1)]) / 2
        rows.append({"phase": name, "from": start, "to": end, "middle": (start + end) / 2})
    x, x2 = {"field": "from", "type": "quantitative"}, {"field": "to"}
    stripes = [
        {
            "data": {"values": [row]},
            "mark": {"type": "rect", "opacity": 0.28, "color": theme[str(row["phase"])], "aria": False},
            "encoding": {"x": x, "x2": x2},
        }
        for row in rows
    ]
    text = {"type": "text", "baseline": "top", "y": 4, "fontSize": 12, "fontStyle": "italic", "color": theme["ink"]}
    middle = {"x": {"field": "middle", "type": "quantitative"}, "text": {"field": "phase"}}
    return [*stripes, {"data": {"values": rows}, "mark": text, "encoding": middle}]


def _rings(answer: Phases, ladder: Ladder, theme: Theme) -> list[Spec]:
    """Dip and peak, ringed and named."""
    layers: list[Spec] = []
    right = max(ladder.x(level, sparsity) for level, sparsity in ladder.sparsity.items())
    for name, point, below in (("dip", answer.dip, 22), ("peak", answer.peak, -16)):
        if point is None:
            continue
        x = ladder.x(point.level, point.sparsity)
        row = {"x": x, "mean": point.value, "label": f"{name} {100 * point.value:.1f} %"}
        place = {"x": {"field": "x", "type": "quantitative"}, "y": {"field": "mean", "type": "quantitative"}}
        align = "right" if x > 0.9 * right else "center"
        ring = {"type": "point", "size": 190, "strokeWidth": 2, "color": theme["ink"], "aria": False}
        text = {
            "type": "text",
            "dy": below,
            "align": align,
            "fontWeight": "bold",
            "fontSize": 12,
            "color": theme["ink"],
        }
        layers.append({"data": {"values": [row]}, "mark": ring, "encoding": place})
        layers.append({"data": {"values": [row]}, "mark": text, "encoding": {**place, "text": {"field": "label"}}})
    return layers


def _frame(description: str, height: int) -> Spec:
    """As wide as the page."""
    return {
        "description": description,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
