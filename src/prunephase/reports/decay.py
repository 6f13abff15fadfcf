"""The section of weight decay: the smallest lambda without a dip, and what it costs in accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunephase.analysis.facts import Fact
from prunephase.analysis.map import named
from prunephase.analysis.monotone import PRICES, Monotone, monotone
from prunephase.reports.parts import Section, Table
from prunephase.reports.series import Series
from prunephase.reports.words import NOTHING, capital, interval, listed, percent, points, seeds

NOTE = (
    "The smallest lambda (recipe.weight_decay) of the grid whose curve is monotone within noise: the detector shows no "
    "dip although it would have found one of 2 points with at least 90 % power. Where a dip may have been missed, a "
    "curve is underpowered, and nothing is said of its lambda. Differences are paired by seed, over finished ladders."
)


def decay(found: Sequence[Series], cards: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """What each grid over weight decay says; nothing where there is none."""
    made = monotone([(one.group, one.phases) for one in found], [one.rows for one in found], cards)
    if not made:
        return []
    said = " ".join(f"{_of(one)}{sentence(one)}" for one in made)
    priced = [one for one in made if one.prices]
    tables = [_curves(made), *([_prices(priced)] if priced else [])]
    return [Section("decay", "Weight decay", capital(said), notes=[NOTE], tables=tables)]


def sentence(one: Monotone) -> str:
    """The answer and its price."""
    n = sorted({phases.n for phases in one.curves.values()})
    many = f"({seeds(n[0])}{f' to {n[-1]}' if len(n) > 1 else ''} each)"
    low, high = min(one.curves), max(one.curves)
    unsure = f"; nothing can be said of {_values(one.unsure)} (underpowered)" if one.unsure else ""
    if one.answer == "none":
        return f"none of the {len(one.curves)} lambdas from {low:g} to {high:g} removes the dip {many}."
    if one.answer == "underpowered":
        return f"no lambda from {low:g} to {high:g} is shown to remove the dip{unsure} {many}."
    again = f"; with {_values(one.again)} the dip is back" if one.again else ""
    price = [f"{PRICES[name]} {_points(held.difference)}" for name, held in one.prices.items()]
    cost = f" Its price against lambda {low:g}: {listed(price)}." if price else ""
    return f"the smallest lambda that shows no dip is {one.value:g}{unsure}{again} {many}.{cost}"


def _curves(made: Sequence[Monotone]) -> Table:
    rows = [
        (
            *_first(one, made),
            f"{value:g}",
            str(phases.n),
            phases.verdict,
            NOTHING if phases.p_value is None else f"{phases.p_value:.3f}",
            NOTHING if phases.power is None else percent(phases.power, 0),
            NOTHING if phases.dip is None or phases.severity is None else points(phases.severity.depth),
        )
        for one in made
        for value, phases in one.curves.items()
    ]
    head = (*_head(made), "lambda", "n", "dip", "p", "power for a dip of 2 points", "depth of the lowest valley")
    return Table("The dip at every weight decay", head, rows, folded=False)


def _prices(made: Sequence[Monotone]) -> Table:
    rows = [
        (
            *_first(one, made),
            PRICES[name],
            *(f"{percent(held.mean)}{_within(held)}" for held in (price.found, price.smallest)),
            _points(price.difference),
            str(price.difference.n),
        )
        for one in made
        for name, price in one.prices.items()
    ]
    head = ("test accuracy", "lambda found", "smallest lambda", "difference, paired by seed", "n")
    return Table("The price of weight decay", (*_head(made), *head), rows, folded=False)


def _of(one: Monotone) -> str:
    return f"{named(one.fixed, one.fixed)}: " if one.fixed else ""


def _head(made: Sequence[Monotone]) -> tuple[str, ...]:
    return ("curves",) if len(made) > 1 else ()


def _first(one: Monotone, made: Sequence[Monotone]) -> tuple[str, ...]:
    return (named(one.fixed, one.fixed),) if len(made) > 1 else ()


def _values(lambdas: Sequence[float]) -> str:
    return listed([f"{value:g}" for value in lambdas])


def _points(held: Fact) -> str:
    return f"{100 * held.mean:+.1f} points{_within(held)}"


def _within(held: Fact) -> str:
    return "" if held.interval is None else f" ({interval(*held.interval)})"
