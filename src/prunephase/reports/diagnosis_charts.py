"""The charts of diagnoses: any quantity against level, sparsity, another quantity, an epoch or a point of a path."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt

from prunephase.errors import UserError, nearest
from prunephase.looks import sparse
from prunephase.reports import charts
from prunephase.reports.charts import Line
from prunephase.reports.findings import numeric, summary
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Panel
from prunephase.reports.series import At, Ladder, Series
from prunephase.reports.words import percent, seeds

BANDS = 5  # at most on one chart
AXES = ("level", "sparsity", "remaining")


@dataclass(frozen=True)
class Quantity:
    """What a y-axis shows. share: a fraction, written as percent; log: on a logarithmic axis, without zeros."""

    title: str
    share: bool = False
    log: bool = False

    def text(self, value: float) -> str:
        """A value as text."""
        return percent(value) if self.share else plain(value)

    def held(self, at: At | None) -> str:
        """Mean, standard deviation of one seed and n."""
        return "–" if at is None else f"{self.brief(at)} ({seeds(at.n)})"

    def brief(self, at: At) -> str:
        """The same without n, for a sentence that says it once."""
        if at.sd is None:
            return self.text(at.mean)
        return f"{self.text(at.mean)} ± {100 * at.sd:.1f}" if self.share else f"{plain(at.mean)} ± {plain(at.sd, 2)}"


@dataclass(frozen=True)
class Dot:
    """A point of a chart. where: in words; role: dip or peak, marked; none else."""

    x: float
    at: At
    where: str
    role: str = ""


@dataclass(frozen=True)
class Trace:
    """One line of a chart, in the order of its dots. place: among colours, shapes and dashes.

    joined: its dots are neighbours, so that a line between them is no invention.
    """

    name: str
    dots: Sequence[Dot]
    place: int | None = None
    joined: bool = True


@dataclass(frozen=True)
class Across:
    """An x-axis: where a level of a curve stands. rising: with the level, so that bands and upright marks can be."""

    name: str
    x: alt.X
    place: Callable[[Series, At], float | None]
    rising: bool = True

    def trace(self, name: str, one: Series, points: Sequence[At], place: int | None = None) -> Trace:
        """Points of a curve on this axis."""
        roles = {point.level: role for role, point in (("dip", one.phases.dip), ("peak", one.phases.peak)) if point}
        at = [(self.place(one, point), point) for point in points]
        said = [f"level {point.level}, {sparse(point.sparsity)} sparse" for point in points]
        dots = [Dot(x, p, w, roles.get(p.level, "")) for (x, p), w in zip(at, said, strict=True) if x is not None]
        levels = [int(level) for level in one.group.levels]
        steps = {levels.index(b.level) - levels.index(a.level) for a, b in pairwise(points)}
        return Trace(name, dots, place, joined=len(points) > 1 and max(steps) <= 2)


def across(name: str, found: Sequence[Series], ladder: Ladder) -> Across:
    """The x-axis called `name`: level, sparsity, remaining (weights), or a column of numbers of the level table.

    Raises UserError for a column that no curve has.
    """
    scale, plain_axis = alt.Scale(nice=False, zero=False, padding=8), {"grid": False, "labelOverlap": True}
    if name == "level":
        x = alt.X("x:Q", axis=charts.axis(ladder), scale=scale)
        return Across(name, x, lambda _, at: ladder.x(at.level, at.sparsity))
    if name == "sparsity":
        axis = alt.Axis(title="share of prunable weights removed", format=".0%", **plain_axis)
        return Across(name, alt.X("x:Q", axis=axis, scale=scale), lambda _, at: at.sparsity)
    columns = sorted({column for one in found for column in one.rows.columns if numeric(one.rows, column)})
    if name not in columns:
        raise UserError(f"--axis {name}: not a column of numbers; {nearest(name, [*AXES, *columns])}")
    remaining = name == "remaining"
    if remaining:
        scale = alt.Scale(type="log", reverse=True, nice=False, padding=8)
    title = "weights that remain" if remaining else name.replace("_", " ")
    axis = alt.Axis(title=title, format="~s" if remaining else "", **plain_axis)
    means = {one.label: {at.level: at.mean for at in summary(one, name)} for one in found}

    def place(one: Series, at: At) -> float | None:
        x = means[one.label].get(at.level)
        return x if x is None or not remaining or x > 0 else None

    return Across(name, alt.X("x:Q", axis=axis, scale=scale), place, rising=remaining)


def along(title: str, tick: str = "") -> alt.X:
    """An x-axis of plain numbers: epochs, a path, weights."""
    scale = alt.Scale(nice=False, zero=False, padding=8)
    return alt.X("x:Q", axis=alt.Axis(title=title, format=tick, grid=False, labelOverlap=True), scale=scale)


def panel(
    traces: Sequence[Trace],
    x: alt.X,
    quantity: Quantity,
    *,
    description: str,
    title: str = "",
    height: int = 220,
    rising: bool = True,
    pointed: bool = True,
    domain: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> Panel:
    """Means as lines with points, Student-t intervals as bands; dip and peak upright across, or named where they lie.

    rising: x grows along each line; pointed: every dot is drawn and told to a screen reader; diagonal: with y = x.
    """
    drawn = [Line(each.name, (), place=each.place) for each in traces]
    rows = [_row(each, i, quantity) for each in traces for i in range(len(each.dots))]
    rows = [row for row in rows if not quantity.log or row["mean"] > 0]
    low, high = domain or limits([dot.at for each in traces for dot in each.dots], quantity)
    for row in rows:
        for end in ("low", "high"):
            row[end] = None if row[end] is None else min(max(row[end], low), high)
    colour, dash, shape = charts.keys(drawn, [each.name for each in drawn], PAGE, pointed)
    scale = alt.Scale(domain=[low, high], nice=False, type="log" if quantity.log else "linear")
    ticks = alt.Axis(format=".3~%" if quantity.log else ".0%") if quantity.share else alt.Axis()
    y = alt.Y("mean:Q", title=quantity.title, scale=scale, axis=ticks)
    base, order = alt.Chart(), alt.Order("order:Q")
    layers: list[alt.Chart] = _marks(traces, x) if rising else []
    if diagonal:
        ends = [{"x": end, "mean": end, "order": end} for end in (max(low, 0.0), min(high, 1.0))]
        dashed = alt.Chart(alt.Data(values=ends)).mark_line(color=PAGE["faint"], strokeDash=[4, 4], aria=False)
        layers.append(dashed.encode(x=x, y=y))
    interval = alt.Y("low:Q", title=quantity.title, scale=scale)
    # the bands of many lines would hide them all
    if rising and len(traces) <= BANDS and any(row["low"] is not None and row["joined"] for row in rows):
        area = base.transform_filter("isValid(datum.low) && datum.joined").mark_area(
            opacity=0.16, clip=True, aria=False
        )
        layers.append(area.encode(x=x, y=interval, y2="high:Q", color=colour))
    if any(row["low"] is not None and not row["joined"] for row in rows):
        bar = base.transform_filter("isValid(datum.low) && !datum.joined").mark_rule(opacity=0.5, strokeWidth=2)
        layers.append(bar.encode(x=x, y=interval, y2="high:Q", color=colour))
    line = base.transform_filter("datum.joined").mark_line(strokeWidth=2, aria=False, clip=True)
    layers.append(line.encode(x=x, y=y, color=colour, strokeDash=dash, order=order))
    words = {"series": "curve", "where": "at", "text": "mean", "spread": "spread"}
    tooltip = [alt.Tooltip(f"{key}:N", title=text) for key, text in words.items()]
    if pointed:
        points = base.mark_point(size=46, filled=True, opacity=1)
        layers.append(points.encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip, description="says:N"))
    if not rising:
        named = base.transform_filter("datum.role !== ''")
        halo = named.mark_text(dy=-14, fontWeight="bold", stroke=PAGE["paper"], strokeWidth=4, aria=False)
        text = named.mark_text(dy=-14, fontWeight="bold", color=PAGE["ink"], aria=False)
        layers += [each.encode(x=x, y=y, text="role:N") for each in (halo, text)]
    # a target large enough for a finger
    reach = base.mark_point(size=420, filled=True, opacity=0, aria=False, clip=True)
    chart = alt.layer(*layers, reach.encode(x=x, y=y, tooltip=tooltip), data=alt.Data(values=rows)).properties(
        width="container",
        height=height,
        description=description,
        padding={"top": 20, "left": 4, "right": 12, "bottom": 4},
    )
    return Panel(charts.spec(chart, PAGE), title)


def limits(points: Sequence[At], quantity: Quantity) -> tuple[float, float]:
    """Room for the means and, as far as it is no more than a tenth of their span, for their intervals."""
    means = [at.mean for at in points if not quantity.log or at.mean > 0]
    if not means:
        return (0.1, 1.0) if quantity.log else (0.0, 1.0)
    low, high = min(means), max(means)
    if quantity.log:
        return low / 1.2, high * 1.2
    slack = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
    wide = [at.interval for at in points if at.interval is not None]
    bottom = max(min([low, *(w[0] for w in wide)]), low - slack) - slack / 5
    top = min(max([high, *(w[1] for w in wide)]), high + slack) + slack / 5
    # nothing below zero is invented for what has none
    return (max(bottom, 0.0) if low >= 0 else bottom), (min(top, 1.0) if quantity.share and high <= 1 else top)


def plain(value: float, digits: int = 3) -> str:
    """A number with a few digits.

    >>> plain(0.012345), plain(123456.0), plain(0.0)
    ('0.0123', '123,000', '0')
    """
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{float(f'{value:.{digits}g}'):,.0f}"
    return f"{value:.{digits}g}"


def _row(trace: Trace, order: int, quantity: Quantity) -> dict[str, Any]:
    dot = trace.dots[order]
    at, text = dot.at, quantity.text(dot.at.mean)
    low, high = at.interval or (None, None)
    spread = f"{seeds(at.n)}, so no spread"
    if at.sd is not None and low is not None and high is not None:
        sd = f"{100 * at.sd:.1f} points" if quantity.share else plain(at.sd, 2)
        spread = f"sd {sd}, 95 % interval {quantity.text(low)} to {quantity.text(high)}, {seeds(at.n)}"
    row = {
        "series": trace.name,
        "x": dot.x,
        "mean": short_number(at.mean),
        "order": order,
        "role": dot.role,
        "joined": trace.joined,
    }
    row |= {"low": None if low is None else short_number(low), "high": None if high is None else short_number(high)}
    return row | {
        "where": dot.where,
        "text": text,
        "spread": spread,
        "says": f"{trace.name}, {dot.where}: {text}, {seeds(at.n)}",
    }


def short_number(value: float) -> float:
    """Six digits: a page holds thousands of them."""
    return float(f"{value:.6g}")


def _marks(traces: Sequence[Trace], x: alt.X) -> list[alt.Chart]:
    """Dip and peak as upright lines with their names above, where all traces agree on them."""
    places = {(dot.role, dot.x) for each in traces for dot in each.dots if dot.role}
    if not places or len(places) > len({role for role, _ in places}):
        return []
    data = alt.Chart(alt.Data(values=[{"x": at, "role": role} for role, at in sorted(places)]))
    rule = data.mark_rule(color=PAGE["faint"], strokeDash=[2, 3], aria=False).encode(x=x)
    text = data.mark_text(y=-8, color=PAGE["faint"], fontSize=12, fontWeight="bold", clip=False, aria=False)
    return [rule, text.encode(x=x, text="role:N")]
