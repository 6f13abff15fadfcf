"""What a curve is marked with: its phases as shaded bands, its dip and its peak as rings."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt

from prunephase.looks import PHASES, sparse
from prunephase.reports.series import Ladder, Series
from prunephase.reports.words import percent, seeds

SHORT = ("I", "II", "III", "IV")


def shading(one: Series, ladder: Ladder, paint: Mapping[str, str]) -> list[alt.Chart]:
    """The phases as bands that meet half way between levels, with their names above."""
    sparsity = {int(k): float(v) for k, v in zip(one.group.levels, one.group.sparsity, strict=True)}
    spans = [(name, one.phases.phases[name]) for name in PHASES if name in one.phases.phases]
    if not spans:
        return []
    first, last = spans[0][1].start, spans[-1][1].end

    def edge(level: int, step: int) -> float:
        here, neighbour = ladder.x(level, sparsity[level]), level + step
        if not first <= neighbour <= last or neighbour not in sparsity:
            return here
        return (here + ladder.x(neighbour, sparsity[neighbour])) / 2

    rows = []
    for name, span in spans:
        start, end, place = edge(span.start, -1), edge(span.end, 1), PHASES.index(name)
        rows.append(
            {
                "x": start,
                "x2": end,
                "middle": (start + end) / 2,
                "phase": name,
                "short": SHORT[place],
                "full": f"{SHORT[place]} {name}",
                "row": place % 2,
                "levels": f"{span.start} to {span.end}",
            }
        )
    data = alt.Chart(alt.Data(values=rows))
    fill = alt.Scale(domain=list(PHASES), range=[paint[name] for name in PHASES])
    bands = data.mark_rect(opacity=0.3, aria=False).encode(
        x="x:Q",
        x2="x2:Q",
        fill=alt.Fill("phase:N", scale=fill, legend=None),
        tooltip=[alt.Tooltip("phase:N"), alt.Tooltip("levels:N")],
    )
    # neighbours stand on two lines, so that narrow phases keep their names
    names = data.mark_text(
        text=alt.ExprRef("width < 460 ? datum.short : datum.full"),
        y=alt.ExprRef("datum.row ? -8 : -24"),
        fontSize=12,
        fontWeight="bold",
        color=paint["faint"],
        clip=False,
        aria=False,
    ).encode(x="middle:Q")
    return [bands, names]


def extrema(one: Series, ladder: Ladder, paint: Mapping[str, str], colour: str, *, named: bool) -> list[alt.Chart]:
    """Dip and peak, ringed in a colour by name; `named`: with their values."""
    made: list[alt.Chart] = []
    for name, point, below in (("dip", one.phases.dip, True), ("peak", one.phases.peak, False)):
        if point is None:
            continue
        where = f"{one.label}: {name} at level {point.level}, {sparse(point.sparsity)} sparse"
        row = {
            "x": ladder.x(point.level, point.sparsity),
            "mean": point.value,
            "text": f"{name} {percent(point.value)}",
            "says": f"{where}: {percent(point.value)}, {seeds(one.phases.n)}",
        }
        data = alt.Chart(alt.Data(values=[row]))
        ring = data.mark_point(size=170, strokeWidth=2, filled=False, color=paint[colour])
        tooltip = [alt.Tooltip("says:N", title=name)]
        made.append(ring.encode(x="x:Q", y="mean:Q", description="says:N", tooltip=tooltip))
        if named:
            # a halo in the colour of the paper, because the label may lie on a line
            text = {"dy": 22 if below else -20, "fontSize": 12, "fontWeight": "bold", "aria": False}
            for label in (
                data.mark_text(**text, stroke=paint["paper"], strokeWidth=4, strokeJoin="round", color=paint["paper"]),
                data.mark_text(**text, color=paint["ink"]),
            ):
                made.append(label.encode(x="x:Q", y="mean:Q", text="text:N"))
    return made
