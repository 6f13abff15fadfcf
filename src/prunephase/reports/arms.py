"""The section of antidotes: every arm of a study against its arm "none", and which one to use."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from prunephase.analysis.advice import sentence
from prunephase.analysis.arms import BASELINE, MEASURES, Arm, Bench, Difference, benches
from prunephase.analysis.curve import ARM
from prunephase.analysis.facts import Fact
from prunephase.analysis.map import named
from prunephase.looks import sparse
from prunephase.reports import charts
from prunephase.reports.charts import Line
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Figure, Panel, Section, Table
from prunephase.reports.sections import wide_table
from prunephase.reports.series import At, Ladder, Series
from prunephase.reports.words import NOTHING, ORACLE, capital, listed, percent, seeds

NOTES = (
    "Differences are paired by seed; p-values are those of the paired t-test, adjusted after Holm over the arms, each "
    "column by itself. Validation, as noisy as the training labels, takes each arm's level and the arm; the test set "
    "only judges. Not shown: the 95 % interval lies within 2 points of zero; underpowered: it does not.",
    "Depth: how far the dip of the arm's own mean curve lies below the lower of its two sides. Removed: there is a dip "
    "without antidote, none is shown with it although one of 2 points would have been found, and it is shallower; "
    "reduced: it is shallower. Worst: the lowest level down to the peak of the curve without antidote.",
    "Cost is relative to none, in multiply-accumulates by four conventions and in seconds: dense at every level; with "
    "the teacher's trainings; with its forward passes; and all of it at the density of every layer.",
)
HEAD = ("arm", "n", "dip", "depth of the dip", "dense", "level taken by validation", "accuracy there", "less none")
COLOURS = {"none": 0, "arm": 1}  # places among colours, shapes and dashes


def arms(found: Sequence[Series], table: pl.DataFrame, ladder: Ladder, paid: pl.DataFrame | None) -> list[Section]:
    """What every arm does to the dip and what it costs; nothing where the study has no arms to compare."""
    made = benches(table, paid, [one.phases for one in found])
    if not made:
        return []
    said = [f"{named(bench.key, bench.key)}: {sentence(bench)}" if bench.key else sentence(bench) for bench in made]
    figures, tables = [], []
    for bench in made:
        members = _members(found, bench)
        before = f"{capital(named(bench.key, bench.key))}: " if bench.key else ""
        figures += [_overlays(bench, members, ladder, before), _front(bench, members[BASELINE], ladder, before)]
        tables += [_summary(bench, before), _differences(bench, before)]
    return [Section("arms", "Antidotes", capital(" ".join(said)), notes=NOTES, figures=figures, tables=tables)]


def _members(found: Sequence[Series], bench: Bench) -> dict[str, Series]:
    """The curves of a bench by arm."""
    keys = [{name: held for name, held in one.group.key.items() if name != ARM} for one in found]
    return {one.group.key[ARM]: one for one, key in zip(found, keys, strict=True) if repr(key) == repr(bench.key)}


def _summary(bench: Bench, before: str) -> Table:
    priced = [name for name in MEASURES if any(name in arm.costs for arm in bench.arms)]
    rows = [
        (
            arm.name,
            str(arm.values["dense"].n),
            arm.phases.verdict if arm.name == BASELINE else arm.dip(bench.plain),
            *(_fact(arm.values[name]) for name in ("depth", "dense")),
            f"level {arm.chosen.level}, {sparse(arm.chosen.sparsity)}" if arm.chosen else NOTHING,
            _fact(arm.values["chosen"]),
            _difference(arm.against.get("chosen")),
            *(f"{arm.costs[name]:.2f}" if name in arm.costs else NOTHING for name in priced),
        )
        for arm in bench.arms
    ]
    costs = [f"cost: {name.replace('_', ' ')}" for name in priced]
    return Table(capital(f"{before}the arms, with 95 % intervals"), (*HEAD, *costs), rows, folded=False)


def _differences(bench: Bench, before: str) -> Table:
    names = [name for name in bench.arms[0].values if any(name in arm.against for arm in bench.arms)]
    rows = [(arm.name, *(_difference(arm.against.get(name)) for name in names)) for arm in bench.arms[1:]]
    head = [name.replace("sparsity ", "at ") for name in names]
    caption = f"{before}test accuracy less that of none, in points, paired by seed, with 95 % intervals"
    return Table(capital(caption), ("arm", *head), rows)


def _overlays(bench: Bench, members: dict[str, Series], ladder: Ladder, before: str) -> Figure:
    """A panel for each arm: its curve over that of none, all on the same scales."""
    drawn = {arm.name: _pair(members[BASELINE], members[arm.name], arm) for arm in bench.arms[1:]}
    domain = charts.limits([line for pair in drawn.values() for line in pair])
    panels = []
    for arm in bench.arms[1:]:
        text = f"Test accuracy against pruning level, none and {arm.name}: dip {arm.dip(bench.plain)}."
        chart = charts.lines(drawn[arm.name], ladder, PAGE, description=text, title="test accuracy", domain=domain)
        panels.append(Panel(charts.spec(chart, PAGE), f"{arm.name}: dip {arm.dip(bench.plain)}"))
    caption = f"{before}test accuracy by level, each arm over none; bands are 95 % intervals over seeds."
    table = wide_table("Test accuracy by level and arm", {"test, last epoch": "test_accuracy"}, *members.values())
    return Figure(panels, capital(caption), table, wide=False)


def _pair(plain: Series, other: Series, arm: Arm) -> list[Line]:
    return [
        Line(name, at, place=place)
        for name, one, place in (("none", plain, COLOURS["none"]), (arm.name, other, COLOURS["arm"]))
        if (at := one.summary("test_accuracy"))
    ]


def _front(bench: Bench, plain: Series, ladder: Ladder, before: str) -> Figure:
    """The best arm of every level over none, and who it is."""
    best = [_at(rung.level, rung.sparsity, rung.accuracy) for rung in bench.front]
    drawn = [
        Line("none", plain.summary("test_accuracy"), place=COLOURS["none"]),
        Line(f"best arm of each level: {ORACLE}", best, paint="oracle", place=2),
    ]
    runs: list[tuple[str, float, float]] = []
    for rung in bench.front:
        if runs and runs[-1][0] == rung.arm:
            runs[-1] = (rung.arm, runs[-1][1], rung.sparsity)
        else:
            runs.append((rung.arm, rung.sparsity, rung.sparsity))
    spans = [f"{name} {sparse(low)}{f' to {sparse(high)}' if high > low else ''}" for name, low, high in runs]
    text = f"{before}front of sparsity and accuracy: the best mean is that of {listed(spans)}."
    chart = charts.lines(drawn, ladder, PAGE, description=capital(text), title="test accuracy", height=280)
    rows = [
        (
            str(rung.level),
            sparse(rung.sparsity),
            rung.arm,
            _fact(rung.accuracy),
            listed([name for name in rung.among if name != rung.arm]) or NOTHING,
            "yes" if rung.front else "no",
        )
        for rung in bench.front
    ]
    head = ("level", "sparsity", f"best mean: {ORACLE}", "test accuracy", "not shown to be below it", "on the front")
    table = Table(capital(f"{before}best arm of every level"), head, rows)
    return Figure([Panel(charts.spec(chart, PAGE))], capital(text), table)


def _at(level: int, sparsity: float, held: Fact) -> At:
    return At(level, sparsity, held.mean, held.n, None, held.interval)


def _fact(held: Fact) -> str:
    return f"{percent(held.mean)}{_within(held)}" if held.n else NOTHING


def _difference(held: Difference | None) -> str:
    if held is None:
        return NOTHING
    chance = f", p = {held.adjusted:.3f}" if held.adjusted is not None else ""
    return f"{100 * held.mean:+.1f}{_within(held)}{chance}, {seeds(held.n)}: {held.outcome}"


def _within(held: Fact | Difference) -> str:
    return f" [{100 * held.interval[0]:.1f}, {100 * held.interval[1]:.1f}]" if held.interval else ""
