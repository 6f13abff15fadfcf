"""The section of single numbers per curve: interpolation threshold, pruning efficacy, generalisation gap."""

from __future__ import annotations

from collections.abc import Sequence

from prunephase.analysis.facts import Fact, efficacy, gap, threshold
from prunephase.looks import THIN, sparse
from prunephase.reports import charts, multiples
from prunephase.reports.charts import Line
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Figure, Panel, Section, Table
from prunephase.reports.series import At, Ladder, Series, count, first_of, head_of, prefix
from prunephase.reports.words import NOTHING, between, capital, mean_sd, points, seeds

BOUNDS = (-1.0, 1.0)
MEANINGS = (
    "Interpolation threshold: the first level whose train accuracy is below 99 % of the dense level's, seed by seed.",
    "Pruning efficacy: the largest sparsity up to which train accuracy stays within 0.5 points of the dense one.",
    "Generalisation gap: train accuracy, on the labels as given, less test accuracy, on clean labels; below zero where "
    "the network has not learned the wrong labels.",
)


def numbers(found: Sequence[Series], ladder: Ladder) -> Section:
    """Threshold, efficacy and gap of every curve, with n and interval; the gap against level."""
    known = [one for one in found if one.group.train is not None]
    if not known:
        text = "No train accuracy is measured yet, so there is no threshold, no efficacy and no gap."
        return Section("numbers", "Threshold, efficacy, gap", text)
    rows, said = [], []
    for one in known:
        crossed, full, apart = threshold(one.group), efficacy(one.group), gaps(one)
        widest = max(apart, key=lambda at: at.mean, default=None)
        least = min(apart, key=lambda at: at.mean, default=None)
        rows.append((*first_of(one, found), _level(crossed), _sparsity(full), *map(_gap, (apart[:1], widest, least))))
        if widest is not None and least is not None:
            said.append(
                f"{prefix(one, found)}train accuracy leaves that of the dense network at level {_short(crossed)}; the "
                f"gap goes from {points(widest.mean)} (level {widest.level}) to {points(least.mean)} (level "
                f"{least.level}), {seeds(widest.n)}."
            )
    head = (*head_of(found), "interpolation threshold", "pruning efficacy", "gap, first level", "widest", "smallest")
    table = Table("Interpolation threshold, pruning efficacy, generalisation gap", head, rows, folded=False)
    if len(said) > multiples.MANY:
        said = [_ranges(known)]
    finding = capital(" ".join(said)) or "No level has both a train and a test accuracy yet."
    figures = [_figure(known, found, ladder)] if said else []
    return Section(
        "numbers", "Threshold, efficacy, gap", finding, notes=MEANINGS, figures=figures, tables=[table] if rows else ()
    )


def _ranges(known: Sequence[Series]) -> str:
    """Many curves in one sentence."""
    crossed = [fact.mean for one in known if (fact := threshold(one.group)).n]
    apart = [100 * at.mean for one in known for at in gaps(one)]
    left = f" at levels {between(crossed)}" if crossed else ""
    return (
        f"Train accuracy leaves that of the dense network in {len(crossed)} of {len(known)} curves{left}; the gap goes "
        f"from {max(apart):.1f} to {min(apart):.1f} points ({count(known)} each)."
    )


def gaps(one: Series) -> list[At]:
    """The generalisation gap of every level that has one."""
    found = (
        zip(one.group.levels, one.group.sparsity, gap(one.group), strict=True) if one.group.train is not None else ()
    )
    return [at_fact(int(level), float(sparsity), held) for level, sparsity, held in found if held.n]


def at_fact(level: int, sparsity: float, held: Fact) -> At:
    """A fact as a point of a curve."""
    sd = None
    if held.n > 1:
        values = [value for value in held.per_seed if value is not None]
        sd = (sum((value - held.mean) ** 2 for value in values) / (held.n - 1)) ** 0.5
    return At(level, sparsity, held.mean, held.n, sd, held.interval)


def _figure(known: Sequence[Series], found: Sequence[Series], ladder: Ladder) -> Figure:
    title = "train less test accuracy"
    many = len(known) > multiples.MANY
    if many:
        panels = multiples.panels(known, ladder, gaps, title=title, bounds=BOUNDS)
    else:
        drawn = [Line(one.label, at, place=i) for i, one in enumerate(known) if (at := gaps(one))]
        text = f"Generalisation gap against pruning level: {', '.join(line.name for line in drawn)}."
        chart = charts.lines(drawn, ladder, PAGE, description=text, title=title, height=240, bounds=BOUNDS)
        panels = [Panel(charts.spec(chart, PAGE))]
    rows = [
        (*first_of(one, found), str(at.level), sparse(at.sparsity), mean_sd(at)) for one in known for at in gaps(one)
    ]
    table = Table("Generalisation gap by level", (*head_of(found), "level", "sparsity", title), rows)
    return Figure(
        panels, "Generalisation gap by level; the band is the 95 % interval over seeds.", table, wide=not many
    )


def _level(held: Fact) -> str:
    if not held.n:
        return f"not reached ({seeds(len(held.per_seed))})"
    within = "" if held.interval is None else f", 95{THIN}% interval {held.interval[0]:.1f} to {held.interval[1]:.1f}"
    return f"level {held.mean:.1f} ({seeds(held.n)}{within})"


def _short(held: Fact) -> str:
    return f"{held.mean:.1f} ({seeds(held.n)})" if held.n else f"none of the ladder ({seeds(len(held.per_seed))})"


def _sparsity(held: Fact) -> str:
    if not held.n:
        return f"beyond the ladder ({seeds(len(held.per_seed))})"
    # near 100 % the interval may pass it; a sparsity cannot
    low, high = held.interval or (held.mean, held.mean)
    within = (
        "" if held.interval is None else f", 95{THIN}% interval {sparse(max(low, 0.0))} to {sparse(min(high, 1.0))}"
    )
    return f"{sparse(held.mean)} ({seeds(held.n)}{within})"


def _gap(at: At | Sequence[At] | None) -> str:
    one = at if isinstance(at, At) or at is None else next(iter(at), None)
    if one is None:
        return NOTHING
    within = ""
    if one.interval is not None:
        within = f", 95{THIN}% interval {100 * one.interval[0]:.1f} to {100 * one.interval[1]:.1f}"
    return f"{points(one.mean)} at level {one.level} ({seeds(one.n)}{within})"
