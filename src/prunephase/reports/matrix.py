"""The transition matrix of labels as a heat map."""

# K classes.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from prunephase.reports.words import percent

NUMBERED = 12  # classes, above which a matrix shows no numbers


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
