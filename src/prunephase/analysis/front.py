"""The front of cost and accuracy: what each policy of antidote and stopping takes to train, and what it gets."""

# P policies, S seeds.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from prunephase.analysis.facts import Fact, fact
from prunephase.analysis.map import apart
from prunephase.analysis.replay import Cards, Ladder, finished
from prunephase.analysis.stops import RULES, Decision, descend, lacking

Measure = Literal["papers", "with_teacher_forward"]
MEASURES: tuple[Measure, ...] = ("papers", "with_teacher_forward")
# DSD2 (Quetu and Tartaglione 2024), figure 1: classic early stopping, the same armed by entropy, and none at all.
POLICIES: Mapping[str, str] = {
    "patience": "early stop",
    "entropy": "entropy + early stop",
    "whole-ladder": "no early stop",
}
ANTIDOTES = ("antidote.", "arm", "recipe.weight_decay", "recipe.decay_by")  # how the fields of an antidote begin
CUT = "it would have gone on where the study's own stop rule ended a ladder"
KINDS = ("arm", "antidote.kind")  # the fields that say which antidote it is


@dataclass(frozen=True)
class Policy:
    """A stop rule on one curve. curve: its place among those given; key: its antidote, where there are several.

    costs: operations that a seed takes down to where the rule ends its ladder, in the papers' convention, and with all
    that the teacher took; accuracy: on the test set, at the level that the rule takes; trainings: levels.
    """

    curve: int
    key: Mapping[str, Any]
    rule: str
    costs: Mapping[Measure, Fact]
    accuracy: Fact
    trainings: Fact

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        facts: dict[str, Fact] = {"test": self.accuracy, "trainings": self.trainings}
        facts |= {measure: self.costs[measure] for measure in MEASURES}
        numbers = {
            name: {"mean": one.mean, "interval": list(one.interval) if one.interval else None, "n": one.n}
            for name, one in facts.items()
        }
        return {"key": dict(self.key), "rule": self.rule, "policy": POLICIES[self.rule], **numbers}


@dataclass(frozen=True)
class Front:
    """Policies that can be compared: on curves that differ in the antidote alone. [P].

    fixed: what sets these curves apart from those of the other fronts; silent: rules that could not be asked, and why.
    """

    fixed: Mapping[str, Any]
    policies: tuple[Policy, ...]
    silent: Mapping[str, str]

    @property
    def taught(self) -> bool:
        """Whether a teacher costs something."""
        return any(one.costs[MEASURES[0]].mean < one.costs[MEASURES[1]].mean for one in self.policies)

    def antidote(self, one: Policy) -> str:
        """The antidote of a policy in short: its kind, and what tells it from others of that kind; "" if it has none.

        >>> keys = [("none", None), ("distill", "dense"), ("distill", "sparse")]
        >>> made = [{"antidote.kind": kind, "antidote.teacher": teacher} for kind, teacher in keys]
        >>> none = Fact(0.0, None, 0, (), "")
        >>> policies = tuple(Policy(i, key, "patience", {}, none, none) for i, key in enumerate(made))
        >>> [Front({}, policies, {}).antidote(policy) for policy in policies]
        ['none', 'distill, teacher dense', 'distill, teacher sparse']
        """
        alike = [other.key for other in self.policies if all(other.key.get(k) == one.key.get(k) for k in KINDS)]
        names = [name for name in one.key if len({repr(key.get(name)) for key in alike}) > 1 and name not in KINDS]
        told = [str(one.key[kind]) for kind in KINDS if kind in one.key]
        return ", ".join([*told, *(f"{name.rpartition('.')[2]} {one.key[name]}" for name in names)])

    def best(self, measure: Measure) -> list[Policy]:
        """The policies that no other beats, cheapest first, by the means: neighbours may differ by chance."""
        costs = [one.costs[measure].mean for one in self.policies]
        return [self.policies[i] for i in pareto(costs, [one.accuracy.mean for one in self.policies])]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; `front`: by convention, the places in `policies` of those that no other beats."""
        places = {
            measure: [next(i for i, own in enumerate(self.policies) if own is one) for one in self.best(measure)]
            for measure in MEASURES
        }
        return {
            "group": dict(self.fixed),
            "policies": [one.as_json() for one in self.policies],
            "front": places,
            "not_asked": dict(self.silent),
        }


def fronts(
    curves: Sequence[tuple[Mapping[str, Any], pl.DataFrame]], paid: pl.DataFrame, cards: Cards | None = None
) -> list[Front]:
    """Replay the policies on the finished ladders of `curves`, as `curve.split` gives them, and add up what they took.

    paid: the ledger, as `spent.spent` makes it; a trial that it lacks counts for nothing. cards: noise cards by trial.
    A teacher is counted in full for each seed, wherever the student's ladder ends; a dense level that several trials
    share, once for each of them. Curves of which no ladder is finished, or no rule can be asked, are left out.
    """
    ledger = {str(trial): rows for (trial,), rows in paid.partition_by("trial", as_dict=True).items()}
    together: dict[str, tuple[dict[str, Any], list[Policy], dict[str, str]]] = {}
    for place, (key, (_, rows)) in enumerate(zip(apart([key for key, _ in curves]), curves, strict=True)):
        own = {name: held for name, held in key.items() if name.startswith(ANTIDOTES)}
        fixed = {name: held for name, held in key.items() if name not in own}
        ladders = [one for one in finished(rows, cards or {})[0] if one.trial in ledger]
        _, policies, silent = together.setdefault(repr(fixed), (fixed, [], {}))
        cut = set(rows.filter(pl.col("ended"))["trial"]) if "ended" in rows.columns else set()
        for name in POLICIES if ladders else ():
            if why := next(filter(None, (lacking(RULES[name], one.rows) for one in ladders)), None):
                silent[name] = why
                continue
            ends = [descend(RULES[name], one.rows) for one in ladders]
            if any(one.trial in cut and not said.stop for one, (_, said) in zip(ladders, ends, strict=True)):
                silent[name] = CUT
            else:
                policies.append(_policy(place, own, name, ladders, ends, ledger))
    return [Front(fixed, tuple(policies), silent) for fixed, policies, silent in together.values() if policies]


def pareto(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
    """Places of the points that no other beats, cheapest first: none gains as much for less, or more for as much. [P].

    >>> pareto([3.0, 1.0, 2.0, 3.0, 4.0], [0.9, 0.5, 0.4, 0.9, 0.9])
    [1, 0, 3]
    """
    points = list(zip(costs, gains, strict=True))
    kept = [
        i
        for i, (cost, gain) in enumerate(points)
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
    ]
    return sorted(kept, key=lambda i: points[i])


def _policy(
    place: int,
    key: Mapping[str, Any],
    name: str,
    ladders: Sequence[Ladder],
    ends: Sequence[tuple[int, Decision]],
    ledger: Mapping[str, pl.DataFrame],
) -> Policy:
    bills = [_bill(ledger[one.trial], int(one.levels[last])) for one, (last, _) in zip(ladders, ends, strict=True)]
    tests = [one.rows.test[said.chosen] for one, (_, said) in zip(ladders, ends, strict=True)]
    return Policy(
        curve=place,
        key=key,
        rule=name,
        costs={measure: fact(np.array([bill[measure] for bill in bills]), "operations") for measure in MEASURES},
        accuracy=fact(np.array(tests), "accuracy"),
        trainings=fact(np.array([last + 1.0 for last, _ in ends]), "trainings"),
    )


def _bill(rows: pl.DataFrame, last: int) -> dict[Measure, float]:
    """What a trial has cost down to level `last`, and all that its teacher took."""
    counted = rows.filter((pl.col("role") == "teacher") | (pl.col("level") <= last))
    return {measure: float(counted[measure].sum()) for measure in MEASURES}
