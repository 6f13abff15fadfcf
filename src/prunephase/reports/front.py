"""The section of cost and accuracy: what every policy of antidote and stopping takes to train, and what it gets."""

# P policies of a front.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from prunephase.analysis.cost import footprint, unit, watt_hours
from prunephase.analysis.facts import Fact
from prunephase.analysis.front import MEASURES, POLICIES, Front, Measure, Policy, fronts
from prunephase.analysis.map import named
from prunephase.looks import THIN
from prunephase.reports import charts
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Figure, Panel, Section, Table
from prunephase.reports.series import Series
from prunephase.reports.words import capital, clipped, interval, listed, percent, seeds

COUNTED: Mapping[Measure, str] = {
    "papers": "training cost in the papers' convention, teachers left out",
    "with_teacher_forward": "training cost with teachers: all of their trainings, and their forward passes",
}
NOTES = (
    "A stop rule goes down each finished ladder; the cost is that of the levels trained until it ends, 3 x "
    "multiply-accumulates x examples x epochs and dense at every level, the accuracy that on the test set at the level "
    "that it takes by validation: the axes of DSD2's figure 1. With teachers: those of a seed are counted in full, "
    "however early its own ladder ends.",
    "A policy is on the front where no other is as good for less, by the means over seeds. Where intervals overlap, "
    "which of two is better may be chance.",
)


def front(
    found: Sequence[Series],
    cards: Mapping[str, Mapping[str, Any]],
    paid: pl.DataFrame | None,
    runs: Sequence[Mapping[str, Any]] = (),
) -> list[Section]:
    """Policies by cost and accuracy; nothing where no stop rule could be asked.

    paid: the ledger, as `spent.spent` has it, None where it is not known; runs: what codecarbon said of them, as
    `carbon.estimates` has it.
    """
    if paid is None or paid.is_empty():
        return []
    made = fronts([(one.key, one.rows) for one in found], paid, cards)
    if not made:
        return []
    measures = [measure for measure in MEASURES if measure == MEASURES[0] or any(one.taught for one in made)]
    said = " ".join(capital(f"{_prefix(one, made)}{_finding(one, measures)}") for one in made)
    silent = {rule: why for one in made for rule, why in one.silent.items()}
    notes = [*NOTES, *(f"Not asked: {POLICIES[rule]}, {why}." for rule, why in silent.items())]
    figures = [_figure(made, measure) for measure in measures]
    energy = [("Energy and carbon: estimates", _energy(paid, runs))]
    return [Section("front", "What accuracy costs", said, notes=notes, figures=figures, facts=energy)]


def _energy(paid: pl.DataFrame, runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    made = footprint(paid)
    left = f"; {made.left_out:,} trainings on other devices or without a time are not in it" if made.left_out else ""
    estimate = (
        f"{watt_hours(made.kwh)} and {made.grams:.3g}{THIN}g CO2e, of {made.seconds / 3600:.3g} hours of a core at "
        f"{made.watts:g}{THIN}W and {made.grams_per_kwh:g}{THIN}g/kWh{left}"
    )
    told = [
        (
            f"by codecarbon, run of {run['started']}",
            f"{watt_hours(run['kwh'])} and {run['grams_co2e']:.3g}{THIN}g CO2e ({run['country']}), "
            f"{sum(run['trained'].values()):,} trainings ({clipped(str(run['by']))})",
        )
        for run in runs
    ]
    return [("from the seconds of all trainings", estimate), *told]


def _prefix(one: Front, made: Sequence[Front]) -> str:
    return f"{named(one.fixed, one.fixed)}: " if len(made) > 1 else ""


def _finding(one: Front, measures: Sequence[Measure]) -> str:
    """The most accurate policy, and who else is on the front of each convention."""
    fronts_of = {measure: one.best(measure) for measure in measures}
    top = fronts_of[measures[0]][-1]  # the cheapest of equals
    costs = [_cost(top.costs[measure]) + (" with teachers" if measure != MEASURES[0] else "") for measure in measures]
    said = [f"most accurate is {_name(one, top)} ({', '.join([percent(top.accuracy.mean), *costs])})"]
    for measure, best in fronts_of.items():
        others = [_name(one, each) for each in best if each is not top]
        by = "by the papers' convention" if measure == MEASURES[0] else "with teachers counted"
        said.append(f"{by} {f'also {listed(others)} are' if others else 'it alone is'} on the front")
    return f"{'; '.join(said)} ({seeds(top.accuracy.n)})."


def _name(one: Front, policy: Policy) -> str:
    return ": ".join(filter(None, [clipped(one.antidote(policy), 60), POLICIES[policy.rule]]))


def _cost(held: Fact) -> str:
    size, name = unit(held.mean)
    return f"{held.mean / size:.3g}{THIN}{name}"


def _figure(made: Sequence[Front], measure: Measure) -> Figure:
    accuracies = [each.accuracy for one in made for each in one.policies]
    antidotes = list(dict.fromkeys(clipped(one.antidote(each), 60) for one in made for each in one.policies))
    rules = [rule for rule in POLICIES if any(each.rule == rule for one in made for each in one.policies)]
    panels = []
    for one in made:
        chart = _chart(one, measure, antidotes, rules, _domain(accuracies))
        panels.append(Panel(charts.spec(chart, PAGE), named(one.fixed, one.fixed) if len(made) > 1 else ""))
    caption = (
        f"Test accuracy against {COUNTED[measure]}: means over seeds, bars their 95{THIN}% Student-t intervals; filled "
        "and joined by dashes: the front."
    )
    return Figure(panels, caption, _table(made, measure), wide=len(panels) == 1)


def _domain(held: Sequence[Fact]) -> tuple[float, float]:
    """Room for the means and, as far as it is no more than they need, for their intervals."""
    low, high = min(one.mean for one in held), max(one.mean for one in held)
    room = max(0.02, high - low)
    ends = [one.interval for one in held if one.interval is not None]
    bottom, top = min([low, *(end[0] for end in ends)]), max([high, *(end[1] for end in ends)])
    return max(0.0, bottom - 0.005, low - room), min(1.0, top + 0.005, high + room)


def _chart(
    one: Front, measure: Measure, antidotes: Sequence[str], rules: Sequence[str], domain: tuple[float, float]
) -> alt.LayerChart:
    size, name = unit(max(each.costs[measure].mean for each in one.policies))
    front_of = one.best(measure)
    rows = [_row(one, each, measure, size) | {"front": _among(each, front_of)} for each in one.policies]
    best = [_row(one, each, measure, size) for each in front_of]
    longest = max(row["cost_high"] for row in rows)
    x_scale = alt.Scale(domain=[0, min(longest, 2 * max(row["cost"] for row in rows)) * 1.04], nice=False)
    x = alt.X(
        "cost:Q", title=f"training cost of a seed, {name}", scale=x_scale, axis=alt.Axis(tickCount=6, labelOverlap=True)
    )
    y = alt.Y("mean:Q", title="test accuracy", axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=domain, nice=False))
    key = {
        "orient": "bottom",
        "direction": "vertical",
        "title": None,
        "labelLimit": 0,
        "symbolSize": 90,
        "symbolOpacity": 1,
    }
    paints = [PAGE[f"s{i % 8}"] for i in range(len(antidotes))]
    legend = alt.Legend(**key, symbolType="stroke", symbolStrokeWidth=3) if len(antidotes) > 1 else None
    colour = alt.Color("antidote:N", scale=alt.Scale(domain=list(antidotes), range=paints), legend=legend)
    filled = alt.Fill("antidote:N", scale=alt.Scale(domain=list(antidotes), range=paints), legend=None)
    full = alt.condition("datum.front", alt.value(0.6), alt.value(0))
    policies = [POLICIES[rule] for rule in rules]
    shapes = [charts.SHAPES[list(POLICIES).index(rule)] for rule in rules]
    marks = alt.Legend(**key, symbolStrokeColor=PAGE["ink"], symbolFillColor="transparent")
    shape = alt.Shape("policy:N", scale=alt.Scale(domain=policies, range=shapes), legend=marks)
    base, bars = alt.Chart(), {"strokeWidth": 1.5, "opacity": 0.6, "aria": False, "clip": True}
    steps = alt.Chart(alt.Data(values=best)).mark_line(
        interpolate="step-after", strokeDash=[5, 4], strokeWidth=1.5, color=PAGE["faint"], aria=False
    )
    tips = [
        alt.Tooltip(f"{field}:N", title=text) for field, text in (("name", "policy"), ("at", "cost"), ("got", "test"))
    ]
    points = base.mark_point(size=110, strokeWidth=2.5, filled=False, opacity=1)
    reach = base.mark_point(size=420, filled=True, opacity=0, aria=False)
    layers = [
        steps.encode(x=x, y=y),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(**bars)
        .encode(x=x, y=alt.Y("low:Q", title="test accuracy"), y2="high:Q", color=colour),
        base.transform_filter("datum.cost_high > datum.cost_low")
        .mark_rule(**bars)
        .encode(x=alt.X("cost_low:Q", scale=x_scale), x2="cost_high:Q", y=y, color=colour),
        points.encode(
            x=x, y=y, color=colour, shape=shape, fill=filled, fillOpacity=full, tooltip=tips, description="says:N"
        ),
        reach.encode(x=x, y=y, tooltip=tips),
    ]
    text = f"Test accuracy by {COUNTED[measure]}. {capital(_finding(one, [measure]))}"
    return alt.layer(*layers, data=alt.Data(values=rows)).properties(width="container", height=300, description=text)


def _row(one: Front, each: Policy, measure: Measure, size: float) -> dict[str, Any]:
    cost, got = each.costs[measure], each.accuracy
    low, high = got.interval or (None, None)
    ends = cost.interval or (cost.mean, cost.mean)
    at = f"{_cost(cost)}, {each.trainings.mean:.1f} trainings"
    return {
        "name": _name(one, each),
        "antidote": clipped(one.antidote(each), 60),
        "policy": POLICIES[each.rule],
        "cost": cost.mean / size,
        "cost_low": max(0.0, ends[0] / size),
        "cost_high": ends[1] / size,
        "mean": round(got.mean, 6),
        "low": low if low is None else round(max(0.0, low), 6),
        "high": high if high is None else round(min(1.0, high), 6),
        "at": at,
        "got": _share(got),
        "says": f"{_name(one, each)}: {at}, {percent(got.mean)}, {seeds(got.n)}",
    }


def _among(one: Policy, best: Sequence[Policy]) -> bool:
    return any(one is other for other in best)


def _share(held: Fact) -> str:
    within = "" if held.interval is None else f", {interval(*held.interval)}"
    return f"{percent(held.mean)} ({seeds(held.n)}{within})"


def _operations(held: Fact) -> str:
    size, name = unit(held.mean)
    low, high = held.interval or (held.mean, held.mean)
    ends = f" ({max(0.0, low) / size:.3g} to {high / size:.3g})" if high > low else ""
    return f"{held.mean / size:.3g}{THIN}{name}{ends}"


def _table(made: Sequence[Front], measure: Measure) -> Table:
    rows = []
    for one in made:
        best = one.best(measure)
        for each in one.policies:
            cells = (
                _name(one, each),
                f"{each.trainings.mean:.1f}",
                _operations(each.costs[measure]),
                _share(each.accuracy),
                "yes" if _among(each, best) else "no",
            )
            rows.append(((named(one.fixed, one.fixed),) if len(made) > 1 else ()) + cells)
    head = (*(("curves",) if len(made) > 1 else ()), "policy", "trainings", "cost", "test accuracy", "on the front")
    return Table(f"Test accuracy and {COUNTED[measure]}", head, rows)
