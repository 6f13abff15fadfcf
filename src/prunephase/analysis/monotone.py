"""How much weight decay takes the dip away: the smallest lambda with a monotone curve, within noise, and its price."""

# S seeds that both curves have.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from prunephase.analysis.curve import Group
from prunephase.analysis.facts import Fact, fact
from prunephase.analysis.map import PhaseMap, phase_maps
from prunephase.analysis.phases import Phases
from prunephase.analysis.replay import Cards, Ladder, finished
from prunephase.analysis.stops import best

LAMBDA = "recipe.weight_decay"
PRICES = {
    "dense": "dense accuracy",
    "chosen": "accuracy at the level chosen on validation",
    "best": "best accuracy of the ladder (oracle)",
}


@dataclass(frozen=True)
class Price:
    """One test accuracy with the lambda found, with the smallest of the grid, and their difference paired by seed."""

    found: Fact
    smallest: Fact
    difference: Fact


@dataclass(frozen=True)
class Monotone:
    """What a grid over lambda says. fixed: what sets it apart from the others; curves: by lambda, rising.

    answer: "found" (`value`: the smallest lambda where the detector shows no dip although it would have found one of 2
    points), "none" (each has a dip), or "underpowered" (no such lambda, but some where a dip may have been missed).
    unsure: lambdas below `value` (all, without one) of which nothing can be said; again: lambdas above it with a dip.
    prices: by the names of `PRICES`, against the smallest lambda, where that is another and both have finished ladders;
    "chosen" takes a validation split.
    """

    fixed: Mapping[str, Any]
    curves: Mapping[float, Phases]
    answer: Literal["found", "none", "underpowered"]
    value: float | None
    unsure: tuple[float, ...]
    again: tuple[float, ...]
    prices: Mapping[str, Price]


def monotone(
    curves: Sequence[tuple[Group, Phases]], rows: Sequence[pl.DataFrame], cards: Cards | None = None
) -> list[Monotone]:
    """The answer of every grid over `recipe.weight_decay` among `curves`, two lambdas or more. rows: of each curve."""
    found = [one for one in phase_maps(curves, fewest=2) if one.axis == LAMBDA]
    return [_answer(one, rows, cards or {}) for one in found]


def _answer(grid: PhaseMap, rows: Sequence[pl.DataFrame], cards: Cards) -> Monotone:
    said = {row.value: row.phases.verdict for row in grid.rows}
    free = [value for value, verdict in said.items() if verdict == "not shown"]
    unsure = [value for value, verdict in said.items() if verdict == "underpowered"]
    value = min(free, default=None)
    ladders = {row.value: finished(rows[row.index], cards)[0] for row in grid.rows}
    smallest = grid.rows[0].value
    return Monotone(
        fixed=grid.fixed,
        curves={row.value: row.phases for row in grid.rows},
        answer="found" if free else "underpowered" if unsure else "none",
        value=value,
        unsure=tuple(one for one in unsure if value is None or one < value),
        again=tuple(one for one in said if value is not None and one > value and said[one] == "present"),
        prices=_prices(ladders[value], ladders[smallest]) if value is not None and value > smallest else {},
    )


def _prices(found: Sequence[Ladder], smallest: Sequence[Ladder]) -> dict[str, Price]:
    """Over the seeds that finished both ladders."""
    pairs = [(one, other) for one in found for other in smallest if one.seed == other.seed]
    values = np.array([[_accuracies(one) for one in pair] for pair in pairs])
    if not pairs:
        return {}
    prices = {
        name: Price(*(fact(each, "accuracy") for each in (with_it, without, with_it - without)))
        for name, (with_it, without) in zip(PRICES, values.transpose(2, 1, 0), strict=True)
    }
    return {name: price for name, price in prices.items() if price.difference.n}


def _accuracies(ladder: Ladder) -> list[float]:
    """Test accuracies in the order of `PRICES`; NaN where nothing was held out to choose a level by."""
    test, held = ladder.rows.test, ladder.rows.validation
    chosen = float(test[best(held)]) if np.isfinite(held).all() else float("nan")
    return [float(test[0]), chosen, float(test.max())]
