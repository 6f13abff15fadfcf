"""The command that says what finished levels have cost: operations, seconds, energy, and what accuracy they bought."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from prunephase.cli.words import HERE, Json, StudyFile, Where, aligned, app, examples, print_json
from prunephase.errors import Exit, UserError

if TYPE_CHECKING:
    from prunephase.analysis.cost import Footprint
    from prunephase.analysis.facts import Fact
    from prunephase.analysis.front import Front


@app.command(
    help_epilogue=examples(
        "prunephase cost study.toml",
        "prunephase cost study.toml --watts 6.5 --grams-per-kwh 381",
        "prunephase cost study.toml --json",
    )
)
def cost(
    study: StudyFile,
    *,
    where: Where = HERE,
    watts: Annotated[float | None, Parameter(help="Of a busy core, for energy; default: 12.")] = None,
    grams_per_kwh: Annotated[float | None, Parameter(help="CO2e of your grid; default: 475.")] = None,
    json: Json = False,
) -> int:
    """Say what the finished levels have cost, and what test accuracy each policy of stopping got for its cost.

    Operations in four conventions, a multiply-accumulate being one: papers: 3 x MAC x examples x epochs, dense at every
    level, no teacher; then with the teacher's training, with its forward passes, and all of it at the density of every
    layer. Seconds by the clock. Energy and carbon are estimates (docs/stops.md).
    """
    import polars as pl

    from prunephase import table as tables
    from prunephase.analysis.cost import CONVENTIONS, GRAMS_PER_KWH, WATTS, footprint, once, unit
    from prunephase.analysis.curve import split
    from prunephase.analysis.front import fronts
    from prunephase.carbon import estimates
    from prunephase.spent import spent
    from prunephase.terminal import clean, percent

    watts, grams_per_kwh = WATTS if watts is None else watts, GRAMS_PER_KWH if grams_per_kwh is None else grams_per_kwh
    for flag, value in (("--watts", watts), ("--grams-per-kwh", grams_per_kwh)):
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"{flag} {value:g}: expected a number that is not negative")
    whole = where.load(study)
    place = where.view(whole)
    curves = split(where.levels(whole))
    paid = spent(place, whole.trials, where.plugins)
    measures = [*CONVENTIONS, "seconds"]
    groups: list[dict[str, Any]] = []
    for key, rows in curves:
        mine = paid.filter(pl.col("trial").is_in(rows["trial"].unique().to_list()))
        levels = (
            mine.filter(role="student")
            .group_by("level")
            .agg(pl.len().alias("trainings"), pl.col("sparsity").mean(), *(pl.col(name).mean() for name in measures))
        )
        # of a teacher whom several students share, the trainings count once
        totals = mine.unique(["role", "training"], keep="first", maintain_order=True)
        sums = totals.select(pl.len().alias("trainings"), *(pl.col(name).sum() for name in measures)).row(0, named=True)
        groups.append({"group": key, "levels": levels.sort("level").to_dicts(), "total": sums})
    everything = (
        once(paid).select(pl.len().alias("trainings"), *(pl.col(name).sum() for name in measures)).row(0, named=True)
    )
    energy, runs = footprint(paid, watts, grams_per_kwh), estimates(place, whole.trials)
    bought = fronts(curves, paid, tables.cards(place, whole.trials))
    if json:
        answer = {"groups": groups, "total": everything, "energy": energy.as_json(), "codecarbon": runs}
        fronts_said = [one.as_json() for one in bought]
        print_json({"study": whole.name, "store": str(where.store), **answer, "fronts": fronts_said})
        return Exit.OK
    size, name_of = unit(max(everything[name] for name in CONVENTIONS))
    head = ("level", "sparsity", "n", *(name.replace("_", " ") for name in CONVENTIONS), "seconds")
    for group in groups:
        print(clean(_words(group["group"])) or "All levels")
        cells = [
            (f"{row['level']}", percent(row["sparsity"], 2), str(row["trainings"]), *_priced(row, measures, size))
            for row in group["levels"]
        ]
        total = ("sum", "", str(group["total"]["trainings"]), *_priced(group["total"], measures, size))
        print(f"{aligned(head, [*cells, total])}\n")
    if len(groups) > 1:
        print(aligned(head, [("study", "", str(everything["trainings"]), *_priced(everything, measures, size))]))
    print(
        f"{name_of}: multiply-accumulates, each one operation; a level is the mean of n trainings, a sum counts every "
        "training once. sparsity aware: arithmetic, not time. seconds: by the clock, shared trainings where they ran."
    )
    print(clean("\n".join(_energy(energy, runs))))
    for front in bought:
        print(f"\n{clean(_policies(front))}")
    return Exit.OK


def _energy(energy: Footprint, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The estimates, a line each."""
    from prunephase.analysis.cost import watt_hours

    hours = energy.seconds / 3600
    left = f"; not in it: {energy.left_out:,} trainings on other devices or without a time" if energy.left_out else ""
    lines = [
        f"Energy, an estimate: {watt_hours(energy.kwh)}, {energy.grams:.3g} g CO2e: {hours:.3g} core-hours "
        f"x {energy.watts:g} W x {energy.grams_per_kwh:g} g/kWh (--watts, --grams-per-kwh){left}."
    ]
    for run in runs:
        lines.append(
            f"Energy, codecarbon's estimate of a run: {watt_hours(run['kwh'])}, {run['grams_co2e']:.3g} g CO2e "
            f"({run['country']}), {sum(run['trained'].values()):,} trainings, begun {run['started']} ({run['by']})."
        )
    return lines


def _policies(front: Front) -> str:
    """What each policy got for its cost, as a table."""
    from prunephase.analysis.cost import unit
    from prunephase.analysis.front import MEASURES, POLICIES

    size, name = unit(max(one.costs[measure].mean for one in front.policies for measure in MEASURES))
    best = {measure: front.best(measure) for measure in MEASURES}
    rows = []
    for one in front.policies:
        marks = ["*" if any(one is other for other in best[measure]) else " " for measure in MEASURES]
        rows.append(
            (
                ": ".join(filter(None, [front.antidote(one), POLICIES[one.rule]])),
                str(one.accuracy.n),
                f"{one.trainings.mean:.1f}",
                *(f"{_within(one.costs[m], size)}{mark}" for m, mark in zip(MEASURES, marks, strict=True)),
                _within(one.accuracy, 0.01, ".1f"),
            )
        )
    head = ("policy", "n", "trainings", f"papers, {name}", f"with teacher, {name}", "test accuracy, %")
    silent = [f"Not asked: {POLICIES[rule]}: {why}." for rule, why in front.silent.items()]
    note = "Means over n seeds with 95 % Student-t intervals; *: no other policy is as good for less, by the means."
    return "\n".join(filter(None, [_words(front.fixed), aligned(head, rows), *silent, note]))


def _words(key: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in key.items())


def _within(held: Fact, size: float, digits: str = ".4g") -> str:
    """A mean in some unit, with its interval."""
    low, high = held.interval or (held.mean, held.mean)
    return f"{held.mean / size:{digits}}" + (f" [{low / size:{digits}}, {high / size:{digits}}]" if high > low else "")


def _priced(row: Mapping[str, Any], measures: Sequence[str], size: float) -> list[str]:
    return [f"{row[name]:,.1f}" if name == "seconds" else f"{row[name] / size:,.4g}" for name in measures]
