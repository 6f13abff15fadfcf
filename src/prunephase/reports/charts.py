"""The charts of the report, as Vega-Lite through Altair: tables in, pictures out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt

from prunephase.looks import sparse
from prunephase.reports.marks import extrema, shading
from prunephase.reports.series import At, Ladder, Series
from prunephase.reports.words import percent, seeds, spread

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 2], [12, 3], [2, 4], [6, 2, 2, 2, 2, 2])
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


@dataclass(frozen=True)
class Line:
    """One line of a chart; `raw`: single seeds as (seed, x, value); `paint`: a colour by name, else that of its place.

    place: among colours, shapes and dashes, else that among the lines; note: said in the place of the spread; joined:
    the points are neighbours, so that a line between them is no invention.
    """

    name: str
    points: Sequence[At]
    raw: Sequence[tuple[int, float, float]] = ()
    band: bool = True
    paint: str | None = None
    place: int | None = None
    note: str | None = None
    joined: bool = True


def line(
    name: str,
    one: Series,
    column: str,
    ladder: Ladder,
    *,
    raw: bool = False,
    band: bool = True,
    paint: str | None = None,
) -> Line:
    """One column of one curve as a line."""
    single = [(seed, ladder.x(level, s), value) for seed, level, s, value in one.seeds(column)] if raw else []
    many = len({seed for seed, _, _ in single}) > 1
    return Line(name, one.summary(column), single if many else [], band, paint)


def lines(
    drawn: Sequence[Line],
    ladder: Ladder | None,
    paint: Mapping[str, str],
    *,
    description: str,
    title: str = "accuracy",
    height: int = 220,
    below: Sequence[alt.Chart] = (),
    above: Sequence[alt.Chart] = (),
    top: int = 8,
    domain: tuple[float, float] | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    span: tuple[float, float] | None = None,
) -> alt.LayerChart:
    """Means as lines with points, Student-t intervals as bands, single seeds faint; by level, or by epoch.

    Each line has its own colour, shape and dash. `ladder` None: the x-axis is the epoch. bounds: what a value can be;
    domain, span: what the axes of values and of levels show, else what there is.
    """
    names = [each.name for each in drawn]
    rows = [_row(each, at, ladder, bounds) for each in drawn for at in each.points]
    colour, dash, shape = keys(drawn, names, paint, pointed=ladder is not None)
    low, high = domain or limits(drawn, bounds)
    scale = alt.Scale(domain=[low, high], nice=False)
    across = alt.Undefined if span is None else list(span)
    x = alt.X("x:Q", axis=axis(ladder), scale=alt.Scale(nice=False, zero=False, padding=8, domain=across))
    y = alt.Y("mean:Q", title=title, axis=alt.Axis(format=".0%"), scale=scale)
    base = alt.Chart()  # the rows stand once, above all layers
    layers: list[alt.Chart] = list(below)
    if any(row["low"] is not None for row in rows):
        area = base.transform_filter("isValid(datum.low)").mark_area(opacity=0.16, clip=True, aria=False)
        layers.append(area.encode(x=x, y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q", color=colour))
    single = [
        {"x": at, "mean": value, "series": each.name, "seed": seed} for each in drawn for seed, at, value in each.raw
    ]
    if single:
        faint = alt.Chart(alt.Data(values=single)).mark_line(opacity=0.28, strokeWidth=1, aria=False)
        layers.append(faint.encode(x=x, y=y, color=colour, detail="seed:N"))
    joined = base if all(each.joined for each in drawn) else base.transform_filter("datum.joined !== false")
    layers.append(joined.mark_line(strokeWidth=2, aria=False).encode(x=x, y=y, color=colour, strokeDash=dash))
    tooltip = [alt.Tooltip(f"{key}:N", title=text) for key, text in _tips(ladder)]
    if ladder:
        points = base.mark_point(size=46, filled=True, opacity=1)
        layers.append(points.encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip, description="says:N"))
    # a target large enough for a finger
    reach = base.mark_point(size=420, filled=True, opacity=0, aria=False)
    layers += [*above, reach.encode(x=x, y=y, tooltip=tooltip)]
    return alt.layer(*layers, data=alt.Data(values=rows)).properties(
        width="container",
        height=height,
        description=description,
        padding={"top": top, "left": 4, "right": 12, "bottom": 4},
    )


def curve_chart(
    found: Sequence[Series],
    ladder: Ladder,
    paint: Mapping[str, str],
    *,
    description: str,
    height: int = 380,
    beneath: Sequence[Line] = (),
) -> alt.LayerChart:
    """The main curve: accuracy against level, with dip and peak ringed. `beneath`: lines drawn before ours.

    One curve: test accuracy of the last epoch, of the epoch chosen on validation, and train accuracy, with the phases
    shaded. Several: the test accuracy of each.
    """
    if len(found) > 1:
        rings = [ring for i, one in enumerate(found) for ring in extrema(one, ladder, paint, f"s{i % 8}", named=False)]
        ours = [replace(line(one.label, one, "test_accuracy", ladder), place=i) for i, one in enumerate(found)]
        return lines(
            *([*beneath, *ours], ladder, paint),
            description=description,
            title="test accuracy, last epoch",
            height=height,
            above=rings,
        )
    one = found[0]
    drawn = [
        line("test, last epoch", one, "test_accuracy", ladder, raw=True),
        line("train, labels as given", one, "train_accuracy", ladder),
        line("test, epoch chosen on validation", one, "test_accuracy_at_best", ladder, band=False),
    ]
    return lines(
        [*beneath, *(replace(each, place=i) for i, each in enumerate(drawn) if each.points)],
        ladder,
        paint,
        description=description,
        height=height,
        top=38,
        below=shading(one, ladder, paint),
        above=extrema(one, ladder, paint, "ink", named=True),
    )


def rule(at: float, paint: Mapping[str, str]) -> alt.Chart:
    """A level line across a chart."""
    return alt.Chart(alt.Data(values=[{"mean": at}])).mark_rule(color=paint["faint"], aria=False).encode(y="mean:Q")


def spec(chart: alt.LayerChart, paint: Mapping[str, str]) -> dict[str, Any]:
    """The chart as a Vega-Lite specification in one set of colours."""
    looks = {
        "labelColor": paint["faint"],
        "titleColor": paint["faint"],
        "gridColor": paint["grid"],
        "domainColor": paint["faint"],
        "tickColor": paint["faint"],
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 12,
    }
    made: dict[str, Any] = chart.configure(
        font=FONT,
        background=paint["paper"],
        view={"stroke": None},
        axis=looks,
        legend={
            "labelColor": paint["ink"],
            "labelFontSize": 12,
            "titleColor": paint["ink"],
            "titleFontWeight": "normal",
        },
        autosize={"type": "fit-x", "contains": "padding"},
    ).to_dict(validate=False)  # the tests do: it would double the time of a page
    return made


def keys(
    drawn: Sequence[Line], names: Sequence[str], paint: Mapping[str, str], pointed: bool
) -> tuple[alt.Color, alt.StrokeDash, alt.Shape]:
    places = [i if each.place is None else each.place for i, each in enumerate(drawn)]

    def scale(values: Sequence[Any]) -> alt.Scale:
        return alt.Scale(domain=list(names), range=[values[place % len(values)] for place in places])

    each = max(map(len, names), default=0) * 7 + 40
    columns = min(len(names), 4) or 1
    legend = alt.Legend(
        title=None,
        orient="bottom",
        direction="horizontal",
        columns=alt.ExprRef(f"width < {each * columns} ? (width < {2 * each} ? 1 : 2) : {columns}"),
        labelLimit=0,
        columnPadding=30,  # labels are laid out in another font than some viewers have
        symbolType="circle" if pointed else "stroke",
        symbolSize=70 if pointed else 260,
        symbolStrokeWidth=0 if pointed else 2,
        symbolOpacity=1,
    )
    colours = [paint[each.paint or f"s{place % len(SHAPES)}"] for place, each in zip(places, drawn, strict=True)]
    return (
        alt.Color("series:N", scale=alt.Scale(domain=list(names), range=colours), legend=legend),
        alt.StrokeDash("series:N", scale=scale(DASHES), legend=legend),
        alt.Shape("series:N", scale=scale(SHAPES), legend=legend),
    )


def limits(drawn: Sequence[Line], bounds: tuple[float, float] = (0.0, 1.0)) -> tuple[float, float]:
    """Room for the means and, as far as it is no more than a tenth, for their intervals: those of two seeds would
    flatten every curve."""
    means = [at.mean for each in drawn for at in each.points]
    if not means:
        return bounds
    low, high = min(means), max(means)
    slack = max(0.02, 0.1 * (high - low))
    wide = [at.interval for each in drawn if each.band for at in each.points if at.interval is not None]
    lows, highs = [interval[0] for interval in wide], [interval[1] for interval in wide]
    bottom = max(min([low, *lows]), low - slack) - 0.01
    return max(bounds[0], bottom), min(bounds[1], min(max([high, *highs]), high + slack) + 0.01)


def _row(drawn: Line, at: At, ladder: Ladder | None, bounds: tuple[float, float]) -> dict[str, Any]:
    where = f"level {at.level}, {sparse(at.sparsity)} sparse" if ladder else f"epoch {at.level}"
    low, high = (at.interval if drawn.band else None) or (None, None)
    row = {
        "series": drawn.name,
        "x": ladder.x(at.level, at.sparsity) if ladder else at.level,
        "mean": round(at.mean, 6),
        "low": low if low is None else round(max(low, bounds[0]), 6),
        "high": high if high is None else round(min(high, bounds[1]), 6),
        "where": where,
        "text": percent(at.mean),
        "spread": drawn.note or spread(at),
        **({} if drawn.joined else {"joined": False}),
    }
    said = f"{drawn.name}, {where}: {percent(at.mean)}, {drawn.note or seeds(at.n)}"
    return {**row, "says": said} if ladder else row


def _tips(ladder: Ladder | None) -> list[tuple[str, str]]:
    return [("series", "curve"), ("where", "at" if ladder else "in"), ("text", "mean"), ("spread", "spread")]


def axis(ladder: Ladder | None) -> alt.Axis:
    """The x-axis: levels with the sparsity of each, or epochs for None."""
    plain = {"grid": False, "labelOverlap": True, "labelFlush": False}
    if ladder is None:
        return alt.Axis(title="epoch", tickMinStep=1, format="d", **plain)
    if not ladder.shared:
        label = "format((1 - pow(10, -datum.value)) * 100, '.4~r') + ' %'"
        return alt.Axis(title="sparsity, by the logarithm of the weights kept", labelExpr=label, tickCount=8, **plain)
    top = max(ladder.sparsity, default=0)
    quoted = ", ".join(f"'{sparse(ladder.sparsity[i])}'" if i in ladder.sparsity else "''" for i in range(top + 1))
    return alt.Axis(
        title="level, and share of prunable weights removed",
        values=list(range(0, top + 1, max(1, math.ceil((top + 1) / 14)))),
        labelExpr=f"[datum.value, [{quoted}][datum.value]]",
        labelSeparation=6,
        **plain,
    )
