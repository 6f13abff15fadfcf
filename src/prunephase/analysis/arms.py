"""Arms: what each arm of a study does against the arm "none", seed by seed: dip, accuracy, cost, front."""

# S seeds, L levels.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prunephase.analysis.compare import ALIKE, ALPHA, holm, t_test
from prunephase.analysis.cost import CONVENTIONS
from prunephase.analysis.curve import ARM, VALIDATION, Group, curve, split
from prunephase.analysis.detect import RELEVANT
from prunephase.analysis.facts import Fact, fact
from prunephase.analysis.phases import FEWEST_SEEDS, Phases, Verdict, phases
from prunephase.analysis.statistics import interval
from prunephase.analysis.stops import best

Floats = NDArray[np.float64]
Outcome = Literal["higher", "lower", "not shown", "underpowered"]
Dip = Literal["removed", "reduced", "left", "underpowered", "not judged"]

BASELINE = "none"
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)  # compared at the level of the baseline that is nearest
MEASURES = (*CONVENTIONS, "seconds")


@dataclass(frozen=True)
class Difference:
    """An arm less the baseline, in accuracy: mean of the seeds that both have, and its Student-t 95 % interval.

    p: of the paired t-test; adjusted: p after Holm over the arms; outcome: "higher" or "lower" where adjusted < 0.05,
    "not shown" where the interval lies within 2 points of zero, else "underpowered", as with fewer than 3 seeds.
    """

    mean: float
    interval: tuple[float, float] | None
    n: int
    p: float | None
    adjusted: float | None
    outcome: Outcome


@dataclass(frozen=True)
class Level:
    """A level of an arm; validation: its mean accuracy there."""

    level: int
    sparsity: float
    validation: float


@dataclass(frozen=True)
class Arm:
    """One arm. chosen: the level that the mean validation accuracy takes; None without a validation split.

    values: what is compared, by name, each with n and interval; against: the same less the baseline's, empty for the
    baseline itself; costs: relative to the baseline, by convention, and seconds; empty where unknown.
    """

    name: str
    phases: Phases
    chosen: Level | None
    values: Mapping[str, Fact]
    against: Mapping[str, Difference]
    costs: Mapping[str, float]

    def dip(self, plain: Verdict) -> Dip:
        """What the arm does to the dip of the baseline, whose verdict is `plain`."""
        if plain != "present":
            return "not judged"
        shallower = "depth" in self.against and self.against["depth"].outcome == "lower"
        if self.phases.verdict == "not shown" and shallower:
            return "removed"
        return "reduced" if shallower else "left" if self.phases.verdict == "present" else "underpowered"


@dataclass(frozen=True)
class Rung:
    """One level: the arm with the best mean test accuracy, and the arms that are not shown to be below it.

    front: no arm is as accurate at a higher sparsity. All of it is known on test alone: an oracle.
    """

    level: int
    sparsity: float
    arm: str
    accuracy: Fact
    among: tuple[str, ...]
    front: bool


@dataclass(frozen=True)
class Bench:
    """All arms under one setting. arms: the baseline first; taken: the arm that validation takes, None if unknown."""

    key: Mapping[str, Any]
    arms: tuple[Arm, ...]
    front: tuple[Rung, ...]
    taken: str | None

    @property
    def plain(self) -> Verdict:
        """Of the baseline: is there a dip to remove?"""
        return self.arms[0].phases.verdict

    def arm(self, name: str | None) -> Arm | None:
        """An arm by its name."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "group": dict(self.key),
            "taken": self.taken,
            "arms": [{**_json(arm), "dip": arm.dip(self.plain)} for arm in self.arms],
            "front": [{**asdict(rung), "accuracy": _fact(rung.accuracy)} for rung in self.front],
        }


def benches(
    table: pl.DataFrame, paid: pl.DataFrame | None = None, found: Sequence[Phases] | None = None
) -> list[Bench]:
    """Compare the arms of a level table, one bench for each combination of the other fields that vary.

    paid: what the trainings cost, as `spent.spent` has it; found: the phases of `curve(table).groups()`, in order.
    Empty where the table names no arms, or none of them is called "none".
    """
    if ARM not in table.columns or table[ARM].n_unique() < 2:
        return []
    groups = curve(table).groups()
    known = found or [phases(group) for group in groups]
    settings: dict[str, dict[str, _Member]] = {}
    for group, seen, (key, rows) in zip(groups, known, split(table), strict=True):
        rest = repr({name: value for name, value in key.items() if name != ARM})
        settings.setdefault(rest, {})[key[ARM]] = _Member(group, seen, rows)
    names = dict.fromkeys([BASELINE, *table[ARM].unique(maintain_order=True)])
    return [
        _bench({name: members[name] for name in names if name in members}, paid)
        for members in settings.values()
        if BASELINE in members and len(members) > 1
    ]


@dataclass(frozen=True)
class _Member:
    group: Group
    phases: Phases
    rows: pl.DataFrame

    def chosen(self) -> Level | None:
        """By the mean of all seeds, among the levels that all have; the sparsest of equals."""
        if VALIDATION not in self.rows.columns:
            return None
        accuracies = curve(self.rows, VALIDATION, by=()).groups()[0].test
        whole = np.flatnonzero(np.isfinite(accuracies).all(axis=0))
        if not whole.size:
            return None
        means = accuracies[:, whole].mean(axis=0)
        at = whole[best(means)]
        return Level(int(self.group.levels[at]), float(self.group.sparsity[at]), float(means.max()))

    def at(self, sparsity: float | None, seeds: Sequence[int]) -> Floats:
        """Test accuracies at a sparsity, NaN where a seed or the sparsity is missing. [S]."""
        values: dict[int, float] = {}
        if sparsity is not None and len(places := np.flatnonzero(np.abs(self.group.sparsity - sparsity) <= ALIKE)):
            values = dict(zip(self.group.seeds, self.group.test[:, places[0]], strict=True))
        return np.array([values.get(seed, math.nan) for seed in seeds])


def _bench(members: Mapping[str, _Member], paid: pl.DataFrame | None) -> Bench:
    """members: the baseline first."""
    plain = members[BASELINE]
    seeds = plain.group.seeds
    chosen = {name: member.chosen() for name, member in members.items()}
    values = {name: _values(member, plain, chosen[name], chosen[BASELINE]) for name, member in members.items()}
    against = _against(values)
    arms = tuple(
        Arm(
            name,
            member.phases,
            chosen[name],
            {what: fact(held, "accuracy") for what, held in values[name].items()},
            against[name],
            _costs(member, plain, paid),
        )
        for name, member in members.items()
    )
    ranked = [(level.validation, name) for name, level in chosen.items() if level is not None]
    taken = max(ranked, key=lambda pair: pair[0])[1] if len(ranked) == len(chosen) else None
    key = {name: value for name, value in plain.group.key.items() if name != ARM}
    return Bench(key, arms, _front(members, seeds), taken)


def _values(member: _Member, plain: _Member, chosen: Level | None, plain_chosen: Level | None) -> dict[str, Floats]:
    """What is compared, by name, in the order of the baseline's seeds. {name: [S]}."""
    seeds, ladder = plain.group.seeds, plain.group.sparsity
    dip, peak = plain.phases.dip, plain.phases.peak
    last = peak.sparsity if peak else plain_chosen.sparsity if plain_chosen else None
    found = {
        "dense": member.at(float(ladder[0]), seeds),
        "chosen": member.at(chosen.sparsity if chosen else None, seeds),
        "at the dip": member.at(dip.sparsity if dip else None, seeds),
        "worst": member.at(_lowest(member.group, last), seeds),
        "depth": _depth(member, seeds),
    }
    for share in SPARSITIES:
        at = float(ladder[np.argmin(np.abs(np.log(np.maximum(1 - ladder, 1e-9) / (1 - share))))])
        found[f"sparsity {at:.4g}"] = member.at(at, seeds)
    return found


def _lowest(group: Group, last: float | None) -> float | None:
    """The sparsity of the lowest mean among the levels down to that of sparsity `last`."""
    if last is None:
        return None
    down = np.flatnonzero((group.sparsity <= last + ALIKE) & np.isfinite(group.test).any(axis=0))
    return float(group.sparsity[down[np.argmin(np.nanmean(group.test[:, down], axis=0))]]) if down.size else None


def _depth(member: _Member, seeds: Sequence[int]) -> Floats:
    """How far the dip of the arm's own mean curve lies below the lower of its sides, in each seed; 0 without a dip."""
    group, dip, peak = member.group, member.phases.dip, member.phases.peak
    if dip is None or peak is None:
        return 0.0 * member.at(float(group.sparsity[0]), seeds)
    ahead = np.flatnonzero((group.levels < dip.level) & np.isfinite(group.test).any(axis=0))
    before = float(group.sparsity[ahead[np.argmax(np.nanmean(group.test[:, ahead], axis=0))]])
    sides = np.minimum(member.at(before, seeds), member.at(peak.sparsity, seeds))
    return np.asarray(sides - member.at(dip.sparsity, seeds))


def _against(values: Mapping[str, Mapping[str, Floats]]) -> dict[str, dict[str, Difference]]:
    """Every arm less the baseline, by arm and quantity; p-values adjusted over the arms, quantity by quantity."""
    others = [name for name in values if name != BASELINE]
    found: dict[str, dict[str, Difference]] = {name: {} for name in values}
    for what, plain in values[BASELINE].items():
        gaps = [values[name][what] - plain for name in others]
        chances = [t_test(gap) for gap in gaps]
        for name, gap, p, adjusted in zip(others, gaps, chances, holm(chances), strict=True):
            if np.isfinite(gap).any():
                found[name][what] = _difference(gap[np.isfinite(gap)], p, adjusted)
    return found


def _difference(gap: Floats, p: float | None, adjusted: float | None) -> Difference:
    mean, within, n = float(gap.mean()), interval(gap), len(gap)
    outcome: Outcome = "underpowered"
    if n >= FEWEST_SEEDS and within is not None:
        if adjusted is not None and adjusted < ALPHA:
            outcome = "higher" if mean > 0 else "lower"
        elif max(map(abs, within)) < RELEVANT:
            outcome = "not shown"
    return Difference(mean, within, n, p, adjusted, outcome)


def _costs(member: _Member, plain: _Member, paid: pl.DataFrame | None) -> dict[str, float]:
    """What the arm cost relative to the baseline, over the seeds of which both ladders are finished."""
    if paid is None or paid.is_empty():
        return {}
    deep = plain.group.sparsity[-1] - ALIKE
    ended = [one.rows.filter(pl.col("sparsity") >= deep)["seed"].unique().to_list() for one in (member, plain)]
    both = sorted(set(ended[0]) & set(ended[1]))
    sums = []
    for one in (member, plain):
        trials = one.rows.filter(pl.col("seed").is_in(both))["trial"].unique().to_list()
        # of a teacher whom several students share, the trainings count once
        mine = paid.filter(pl.col("trial").is_in(trials)).unique(["role", "training"])
        sums.append(mine.select(pl.col(name).sum() for name in MEASURES).row(0))
    return {name: a / b for name, a, b in zip(MEASURES, *sums, strict=True) if b} if both else {}


def _front(members: Mapping[str, _Member], seeds: Sequence[int]) -> tuple[Rung, ...]:
    """The best arm of every level of the baseline, and whether anything sparser is as accurate."""
    group = members[BASELINE].group
    rungs: list[Rung] = []
    highest = -math.inf
    for i in reversed(range(len(group.levels))):
        at = {name: member.at(float(group.sparsity[i]), seeds) for name, member in members.items()}
        known = {name: held for name, held in at.items() if np.isfinite(held).any()}
        if not known:
            continue
        top = max(known, key=lambda name: float(np.nanmean(known[name])))
        others = [name for name in known if name != top]
        chances = holm([t_test(known[top] - known[name]) for name in others])
        among = [name for name, p in zip(others, chances, strict=True) if p is None or p >= ALPHA]
        accuracy = fact(known[top], "accuracy")
        rungs.append(
            Rung(
                level=int(group.levels[i]),
                sparsity=float(group.sparsity[i]),
                arm=top,
                accuracy=accuracy,
                among=tuple(name for name in known if name == top or name in among),
                front=accuracy.mean > highest,
            )
        )
        highest = max(highest, accuracy.mean)
    return tuple(reversed(rungs))


def _json(arm: Arm) -> dict[str, Any]:
    return {
        "arm": arm.name,
        "verdict": arm.phases.verdict,
        "chosen": asdict(arm.chosen) if arm.chosen else None,
        "values": {what: _fact(held) for what, held in arm.values.items()},
        "against": {what: asdict(held) for what, held in arm.against.items()},
        "costs": dict(arm.costs),
    }


def _fact(held: Fact) -> dict[str, Any]:
    return {"mean": held.mean if held.n else None, "interval": held.interval, "n": held.n}
