"""What the diagnosis of the loss surface shows: one plane of shades for each level."""

# P points along one side of a plane.

from __future__ import annotations

import altair as alt
import numpy as np
from numpy.typing import NDArray

from prunephase.reports import charts
from prunephase.reports.diagnosis_charts import Quantity, plain, short_number
from prunephase.reports.diagnosis_roles import named
from prunephase.reports.diagnosis_views import Shown, View, joined, story
from prunephase.reports.findings import told
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Panel, Table
from prunephase.reports.words import seeds

Floats = NDArray[np.float64]
LOSS = Quantity("training loss, nats")


def surface(view: View) -> Shown:
    """Loss over a plane, one panel for each level, all of one shade scale."""
    planes, rows = {}, []
    for role, level in told(view.one, view.name).items():
        found = [view.findings.arrays(trial, level, view.name) for trial in sorted(view.one.rows["trial"].unique())]
        losses = [np.asarray(each["train_loss"], dtype=np.float64) for each in found if "train_loss" in each]
        if losses:
            x = next(np.asarray(each["x"], dtype=np.float64) for each in found if "x" in each)
            planes[named(role, level)] = (x, np.mean(losses, axis=0), len(losses))
    finite = [plane[np.isfinite(plane) & (plane > 0)] for _, plane, _ in planes.values()]
    every = np.concatenate(finite) if finite else np.empty(0)
    if not len(every):
        return Shown("", (), Table("", (), ()))
    panels = []
    for name, (x, plane, n) in planes.items():
        text = f"Training loss over a plane, {view.one.label}, {name}, {seeds(n)}."
        domain = float(every.min()), float(every.max())
        panels.append(_heat(x, plane, description=text, title=name, domain=domain))
        i = range(0, len(x), max(1, len(x) // 4))
        rows += [(name, plain(x[a]), plain(x[b]), f"{plain(plane[b, a])} ({seeds(n)})") for b in i for a in i]
    said = [
        story(view, "minimum_loss", "The loss at the minimum is", LOSS),
        story(view, "highest_loss", "The highest loss of the plane is", LOSS),
    ]
    table = Table("Loss over the plane, some points", ("level", "x", "y", LOSS.title), rows)
    caption = "Mean over seeds, each with its own two directions; all panels have the same logarithmic shades."
    return Shown(joined(said), panels, table, caption)


def _heat(x: Floats, plane: Floats, *, description: str, title: str, domain: tuple[float, float]) -> Panel:
    """A plane of losses in logarithmic shades, rows along y; what is not finite stays empty. [P], [P, P]"""
    half = (x[1] - x[0]) / 2
    cells = [
        {
            "x": short_number(x[a] - half),
            "x2": short_number(x[a] + half),
            "y": short_number(x[b] - half),
            "y2": short_number(x[b] + half),
            "mean": short_number(plane[b, a]),
            "text": f"{LOSS.text(plane[b, a])} at {x[a]:.2g}, {x[b]:.2g}",
        }
        for b, a in np.argwhere(np.isfinite(plane) & (plane > 0)).tolist()
    ]
    side = alt.Axis(title=None, grid=False, tickCount=5)
    ends = alt.Scale(domain=[short_number(x[0] - half), short_number(x[-1] + half)], nice=False)
    scale = alt.Scale(type="log", domain=list(domain), range=[0.03, 0.95], nice=False)
    legend = alt.Legend(
        title=LOSS.title,
        format=".2~g",
        orient="bottom",
        values=[short_number(step) for step in np.geomspace(*domain, 4).tolist()],
        symbolType="square",
        symbolFillColor=PAGE["s0"],
        symbolStrokeWidth=0,
        symbolSize=220,
    )
    chart = alt.Chart(alt.Data(values=cells)).mark_rect(fill=PAGE["s0"], aria=False)
    shaded = chart.encode(
        x=alt.X("x:Q", axis=side, scale=ends),
        y=alt.Y("y:Q", axis=side, scale=ends),
        x2="x2:Q",
        y2="y2:Q",
        opacity=alt.Opacity("mean:Q", scale=scale, legend=legend),
        tooltip=[alt.Tooltip("text:N", title=LOSS.title)],
    )
    drawn = alt.layer(shaded).properties(width="container", height=240, description=description)
    return Panel(charts.spec(drawn, PAGE), title)
