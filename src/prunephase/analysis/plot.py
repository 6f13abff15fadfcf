"""Plots for papers: curves with their spread, phases, dip and peak on an axis of matplotlib."""

# L levels.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunephase.analysis.curve import Group
from prunephase.analysis.map import apart, named
from prunephase.analysis.phases import Phases, phases
from prunephase.analysis.statistics import summarise
from prunephase.errors import UserError
from prunephase.looks import ON_LIGHT, SHADES, sparse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "P", "v", ">", "<")
DASHES: Sequence[Any] = (
    "-", (0, (7, 3)), (0, (2, 2)), (0, (9, 3, 2, 3)), (0, (4, 2)), (0, (12, 3)), (0, (2, 4)), (0, (6, 2, 2, 2, 2, 2))
)  # fmt: skip
TICK = 0.55  # inches that the sparsity of a level takes on the axis


def draw(groups: Sequence[Group], ax: Axes | None, shade: bool | None, quantity: str) -> Axes:
    """What `Curve.plot` draws; shade None: where there is one curve."""
    if ax is None:
        ax = _pyplot().gca()
    from matplotlib.ticker import PercentFormatter

    if shade and len(groups) > 1:
        raise UserError(f"phases=True: one curve's can be shaded, not those of {len(groups)}; plot a group by itself")
    aligned = _aligned(groups)
    for place, (group, key) in enumerate(zip(groups, apart([one.key for one in groups]), strict=True)):
        found, colour = phases(group), ON_LIGHT[place % len(ON_LIGHT)]
        if len(groups) == 1 and shade is not False and aligned:
            _shade(ax, group, found)
        label = ", ".join(filter(None, [named(key, key), f"n = {group.n}"]))
        _line(ax, group, group.levels if aligned else 1 - group.sparsity, colour, place, label)
        _mark(ax, found, aligned, colour, worded=len(groups) == 1)
    _across(ax, groups, aligned)
    ax.set_ylabel(quantity)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.margins(y=0.15)  # for the words at dip and peak
    ax.legend(frameon=False)
    return ax


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise UserError("matplotlib is not installed; pip install 'prunephase[plot]'") from None
    return plt


def _aligned(groups: Sequence[Group]) -> bool:
    """Whether a level is the same sparsity in all groups, so that they can share an axis of levels."""
    places: dict[int, list[float]] = {}
    for group in groups:
        for level, sparsity in zip(group.levels.tolist(), group.sparsity.tolist(), strict=True):
            places.setdefault(level, []).append(sparsity)
    return all(max(found) - min(found) <= 0.005 for found in places.values())


def _line(ax: Axes, group: Group, x: NDArray[Any], colour: str, place: int, label: str) -> None:
    found = summarise(group.test)
    there = np.isfinite(found.mean)
    look = {"linestyle": DASHES[place % len(DASHES)], "marker": MARKERS[place % len(MARKERS)], "color": colour}
    ax.plot(x[there], found.mean[there], label=label, markersize=4, linewidth=1.5, zorder=3, **look)
    spread = found.n > 1
    ax.fill_between(x[spread], found.low[spread], found.high[spread], color=colour, alpha=0.16, linewidth=0)


def _mark(ax: Axes, found: Phases, aligned: bool, colour: str, *, worded: bool) -> None:
    """Dip and peak, ringed; faint where the verdict is not "present", so that they are candidates only."""
    sure = found.verdict == "present"
    for name, point, below in (("dip", found.dip, -14), ("peak", found.peak, 8)):
        if point is None:
            continue
        at = (point.level if aligned else 1 - point.sparsity, point.value)
        look: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none"}
        ax.plot(*at, linestyle="none", color=colour, zorder=4, alpha=1.0 if sure else 0.45, **look)
        if worded:
            text = f"{name} {100 * point.value:.1f} %" + ("" if sure else " (candidate)")
            ax.annotate(text, at, xytext=(0, below), textcoords="offset points", ha="center", fontsize="small")


def _shade(ax: Axes, group: Group, found: Phases) -> None:
    """The phases as bands that meet half way between levels; neighbours' names stand on two lines."""
    levels = group.levels
    edges = np.concatenate([levels[:1], (levels[1:] + levels[:-1]) / 2, levels[-1:]])
    for place, (name, span) in enumerate(found.phases.items()):
        start = float(edges[np.searchsorted(levels, span.start)])
        end = float(edges[np.searchsorted(levels, span.end) + 1])
        ax.axvspan(start, end, color=SHADES[name], alpha=0.3, linewidth=0)
        at = ((start + end) / 2, 1.01 + 0.06 * (place % 2))
        ax.text(*at, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize="small")


def _across(ax: Axes, groups: Sequence[Group], aligned: bool) -> None:
    """The axis: levels that are called by their sparsity, or the logarithm of what is kept."""
    if not aligned:
        ax.set_xscale("log")
        ax.set_xlim(1.1, ax.get_xlim()[0])
        ax.set_xlabel("share of prunable weights kept")
        return
    sparsity = {
        int(level): float(share) for group in groups for level, share in zip(group.levels, group.sparsity, strict=True)
    }
    width = ax.get_window_extent().width / ax.figure.dpi
    levels = sorted(sparsity)
    shown = levels[:: max(1, -int(-len(levels) * TICK // width))]
    ax.set_xticks(shown, [sparse(sparsity[level]) for level in shown])
    ax.set_xlabel("share of prunable weights removed, by level")
