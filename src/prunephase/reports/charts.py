"""The charts of the report, as Vega-Lite through Altair: tables in, pictures out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from prunephase.reports.marks import extrema, shading
from prunephase.reports.series import At, Ladder, Series
from prunephase.reports.words import percent, seeds, sparse, spread

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 2], [12, 3], [2, 4], [6, 2, 2, 2, 2, 2])
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
NUMBERED = 12  # classes, above which a matrix shows no numbers


@dataclass(frozen=True)
class Line:
    """One line of a chart; `raw`: single seeds as (seed, x, value); `paint`: a colour by name, else by its place."""

    name: str
    points: Sequence[At]
    raw: Sequence[tuple[int, float, float]] = ()
    band: bool = True
    paint: str | None = None


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
) -> alt.LayerChart:
    """Means as lines with points, Student-t intervals as bands, single seeds faint; by level, or by epoch.

    Each line has its own colour, shape and dash. `ladder` None: the x-axis is the epoch.
    """
    names = [each.name for each in drawn]
    rows = [_row(each, at, ladder) for each in drawn for at in each.points]
    colour, dash, shape = _keys(drawn, names, paint, pointed=ladder is not None)
    scale = _range(rows) if domain is None else alt.Scale(domain=list(domain), nice=False)
    x = alt.X("x:Q", axis=_axis(ladder), scale=alt.Scale(nice=False, zero=False, padding=8))
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
    layers.append(base.mark_line(strokeWidth=2, aria=False).encode(x=x, y=y, color=colour, strokeDash=dash))
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
    found: Sequence[Series], ladder: Ladder, paint: Mapping[str, str], *, description: str, height: int = 380
) -> alt.LayerChart:
    """The main curve: accuracy against level, with dip and peak ringed.

    One curve: test accuracy of the last epoch, of the epoch chosen on validation, and train accuracy, with the phases
    shaded. Several: the test accuracy of each.
    """
    if len(found) > 1:
        rings = [ring for i, one in enumerate(found) for ring in extrema(one, ladder, paint, f"s{i % 8}", named=False)]
        drawn = [line(one.label, one, "test_accuracy", ladder) for one in found]
        return lines(
            drawn, ladder, paint, description=description, title="test accuracy, last epoch", height=height, above=rings
        )
    one = found[0]
    drawn = [
        line("test, last epoch", one, "test_accuracy", ladder, raw=True),
        line("train, labels as given", one, "train_accuracy", ladder),
        line("test, epoch chosen on validation", one, "test_accuracy_at_best", ladder, band=False),
    ]
    return lines(
        [each for each in drawn if each.points],
        ladder,
        paint,
        description=description,
        height=height,
        top=38,
        below=shading(one, ladder, paint),
        above=extrema(one, ladder, paint, "ink", named=True),
    )


def matrix_chart(
    matrix: Sequence[Sequence[float | None]], paint: Mapping[str, str], *, description: str
) -> alt.LayerChart:
    """Transition matrix [K, K] as a heat map: row true class, column given label. Opacity is the share."""
    rows = [
        {
            "true": i,
            "given": j,
            "share": share,
            "text": percent(share),
            "says": f"true {i}, given {j}: {percent(share)}",
        }
        for i, row in enumerate(matrix)
        for j, share in enumerate(row)
        if share is not None
    ]
    numbered = len(matrix) <= NUMBERED
    top = alt.Axis(orient="top", labelAngle=0, grid=False, labelOverlap=True)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("given:O", title="label given", axis=top),
        y=alt.Y("true:O", title="true class", axis=alt.Axis(grid=False, labelOverlap=True)),
    )
    # the square root lifts the few per cent off the diagonal, which are the noise
    opacity = alt.Opacity("share:Q", scale=alt.Scale(type="sqrt", domain=[0, 1], range=[0.02, 0.75]), legend=None)
    cells = base.mark_rect(fill=paint["s0"], stroke=paint["paper"], aria=numbered).encode(
        opacity=opacity,
        description="says:N",
        tooltip=[
            alt.Tooltip("true:N", title="true class"),
            alt.Tooltip("given:N"),
            alt.Tooltip("text:N", title="share"),
        ],
    )
    layers = [cells]
    if numbered:
        text = base.transform_filter("datum.share > 0").mark_text(fontSize=11, color=paint["ink"], aria=False)
        layers.append(text.encode(text=alt.Text("share:Q", format=".2f")))
    side = max(160, min(30 * len(matrix), 420))
    return alt.layer(*layers).properties(width="container", height=side, description=description)


def spec(chart: alt.LayerChart, paint: Mapping[str, str]) -> dict[str, Any]:
    """The chart as a Vega-Lite specification in one set of colours."""
    axis = {
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
        axis=axis,
        legend={"labelColor": paint["ink"], "labelFontSize": 12},
        autosize={"type": "fit-x", "contains": "padding"},
    ).to_dict(validate=False)  # the tests do: it would double the time of a page
    return made


def _keys(
    drawn: Sequence[Line], names: Sequence[str], paint: Mapping[str, str], pointed: bool
) -> tuple[alt.Color, alt.StrokeDash, alt.Shape]:
    def scale(values: Sequence[Any]) -> alt.Scale:
        return alt.Scale(domain=list(names), range=[values[i % len(values)] for i in range(len(names))])

    each = max(map(len, names), default=0) * 7 + 40
    columns = min(len(names), 4) or 1
    legend = alt.Legend(
        title=None,
        orient="bottom",
        direction="horizontal",
        columns=alt.ExprRef(f"width < {each * columns} ? (width < {2 * each} ? 1 : 2) : {columns}"),
        labelLimit=0,
        symbolType="circle" if pointed else "stroke",
        symbolSize=70 if pointed else 260,
        symbolStrokeWidth=0 if pointed else 2,
        symbolOpacity=1,
    )
    colours = [paint[each.paint or f"s{i % len(SHAPES)}"] for i, each in enumerate(drawn)]
    return (
        alt.Color("series:N", scale=alt.Scale(domain=list(names), range=colours), legend=legend),
        alt.StrokeDash("series:N", scale=scale(DASHES), legend=legend),
        alt.Shape("series:N", scale=scale(SHAPES), legend=legend),
    )


def _range(rows: Sequence[Mapping[str, Any]]) -> alt.Scale:
    """Room for the means and, as far as it is no more than a tenth, for their intervals: those of two seeds would
    flatten every curve."""
    if not rows:
        return alt.Scale(domain=[0, 1])
    means = [row["mean"] for row in rows]
    low, high = min(means), max(means)
    slack = max(0.02, 0.1 * (high - low))
    lows = [row["low"] for row in rows if row["low"] is not None]
    highs = [row["high"] for row in rows if row["high"] is not None]
    bottom = max(min([low, *lows]), low - slack) - 0.01
    return alt.Scale(domain=[max(0.0, bottom), min(1.0, min(max([high, *highs]), high + slack) + 0.01)], nice=False)


def _row(drawn: Line, at: At, ladder: Ladder | None) -> dict[str, Any]:
    where = f"level {at.level}, {sparse(at.sparsity)} sparse" if ladder else f"epoch {at.level}"
    low, high = (at.interval if drawn.band else None) or (None, None)
    row = {
        "series": drawn.name,
        "x": ladder.x(at.level, at.sparsity) if ladder else at.level,
        "mean": round(at.mean, 6),
        "low": low if low is None else round(max(low, 0.0), 6),
        "high": high if high is None else round(min(high, 1.0), 6),
        "where": where,
        "text": percent(at.mean),
        "spread": spread(at),
    }
    return {**row, "says": f"{drawn.name}, {where}: {percent(at.mean)}, {seeds(at.n)}"} if ladder else row


def _tips(ladder: Ladder | None) -> list[tuple[str, str]]:
    return [("series", "curve"), ("where", "at" if ladder else "in"), ("text", "mean"), ("spread", "spread")]


def _axis(ladder: Ladder | None) -> alt.Axis:
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
