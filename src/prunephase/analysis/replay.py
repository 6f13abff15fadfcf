"""Stop rules replayed on finished ladders: where each would have ended, what that saves and what it forfeits."""

# S seeds, L levels.

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prunephase.analysis.curve import TEST, TRAIN, curve, split
from prunephase.analysis.facts import Fact, fact
from prunephase.analysis.phases import Phases, phases
from prunephase.analysis.stops import ORACLE, RULES, Rows, Rule, best, descend, lacking

Floats = NDArray[np.float64]
Cards = Mapping[str, Mapping[str, Any]]

# The columns that `Rows` are made of.
COLUMNS = {
    "validation": "validation_accuracy",
    "train": TRAIN,
    "entropy": "entropy_mean",
    "changes": "changes_changed",
    "test": TEST,
}
COSTLY = 0.01  # of test accuracy, below the peak


@dataclass(frozen=True)
class Ladder:
    """A finished ladder of one seed. levels, sparsity, epochs: [L], the last the epochs trained at each level."""

    seed: int
    trial: str
    levels: NDArray[np.int64]
    sparsity: Floats
    epochs: NDArray[np.int64]
    rows: Rows


@dataclass(frozen=True)
class Outcome:
    """What a rule does to one seed.

    stop_level: the last level trained; early: whether the rule ended the ladder there; test: accuracy at chosen_level;
    regret: the best test accuracy of the whole ladder less `test`; inside: whether it ended the ladder before the sweet
    phase of the mean curve, where the dip is over; costly: whether it ended it before the peak of the mean curve and
    `test` is more than 1 point below the seed's own accuracy there; both None where the mean curve has no dip.
    """

    seed: int
    stop_level: int
    chosen_level: int
    early: bool
    test: float
    regret: float
    trainings: int
    trainings_saved: int
    epochs_saved: int
    inside: bool | None
    costly: bool | None

    @property
    def false_stop(self) -> bool | None:
        """Whether the ladder was ended where it should have gone on."""
        return None if self.inside is None or self.costly is None else self.inside or self.costly


@dataclass(frozen=True)
class Replayed:
    """One rule on one curve. why_not: why it could not be asked, then there are no outcomes."""

    rule: str
    says: str
    oracle: bool
    outcomes: tuple[Outcome, ...] = ()
    why_not: str = ""

    def fact(self, name: str) -> Fact:
        """A number of the outcomes (test, regret, trainings, epochs_saved, ...) with n and interval."""
        return fact(np.array([float(getattr(one, name)) for one in self.outcomes]), name)

    @property
    def false_stops(self) -> int | None:
        """Seeds whose ladder was falsely ended, of `len(outcomes)`; None where the curve has no dip."""
        known = [one.false_stop for one in self.outcomes if one.false_stop is not None]
        return sum(known) if known else None


@dataclass(frozen=True)
class Replay:
    """All rules on one curve. seeds: with a finished ladder; unfinished: those without; found: the phases of the curve.

    `found` is that of the mean *test* curve: it judges the rules and is known to none of them.
    """

    key: Mapping[str, Any]
    found: Phases
    levels: int
    seeds: tuple[int, ...]
    unfinished: tuple[int, ...]
    rules: tuple[Replayed, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; intervals as [low, high], null where n < 2."""
        said = self.found
        return {
            "group": dict(self.key),
            "verdict": said.verdict,
            "dip": said.dip.level if said.dip else None,
            "sweet": said.phases["sweet"].start if "sweet" in said.phases else None,
            "peak": said.peak.level if said.peak else None,
            "levels": self.levels,
            "seeds": list(self.seeds),
            "unfinished": list(self.unfinished),
            "rules": [_json(rule) for rule in self.rules],
        }


def replay(table: pl.DataFrame, rules: Mapping[str, Rule] = RULES, cards: Cards | None = None) -> list[Replay]:
    """Replay `rules` on every curve of a level table. cards: noise cards by trial digest, as `table.cards` gives them.

    A seed counts where it has all the levels that any seed of its curve has, or its ladder ended by diverging or by a
    stop rule (column `ended`). A rule sees the levels one by one and never the test accuracies, but for the oracle.
    """
    groups = zip(curve(table).groups(), split(table), strict=True)
    return [of_curve(key, rows, phases(group), rules, cards) for group, (key, rows) in groups]


def of_curve(
    key: Mapping[str, Any],
    rows: pl.DataFrame,
    found: Phases,
    rules: Mapping[str, Rule] = RULES,
    cards: Cards | None = None,
) -> Replay:
    """Replay `rules` on the rows of one curve, whose phases are known."""
    ladders, unfinished = finished(rows, cards or {})
    made = tuple(_replayed(name, rule, ladders, found) for name, rule in rules.items()) if ladders else ()
    return Replay(key, found, rows["level"].n_unique(), tuple(one.seed for one in ladders), unfinished, made)


def finished(rows: pl.DataFrame, cards: Cards) -> tuple[list[Ladder], tuple[int, ...]]:
    """The finished ladders of one curve, by seed, and the seeds whose ladders are not."""
    levels = sorted(rows["level"].unique())
    ladders, unfinished = [], []
    for seed in sorted(rows["seed"].unique()):
        mine = rows.filter(pl.col("seed") == seed).sort("level")
        diverged = (
            (mine["status"] == "diverged").to_numpy() if "status" in mine.columns else np.zeros(mine.height, bool)
        )
        ended = diverged.any() or ("ended" in mine.columns and mine["ended"].any())
        kept = mine.head(int(np.argmax(diverged)) if diverged.any() else mine.height)
        there = kept["level"].to_list() == levels[: kept.height] and np.isfinite(_column(kept, TEST)).all()
        if not kept.height or not there or (kept.height < len(levels) and not ended):
            unfinished.append(int(seed))
            continue
        trial = str(kept["trial"][0]) if "trial" in kept.columns else ""
        card = cards.get(trial, {})
        held, training = card.get("validation") or {}, card.get("train") or {}
        measures: dict[str, Any] = {name: _column(kept, column) for name, column in COLUMNS.items()}
        so_far = Rows(**measures, examples=held.get("n"), wrong=training.get("realised"))
        epochs = kept["epochs"].to_numpy() if "epochs" in kept.columns else np.zeros(kept.height, dtype=np.int64)
        place = kept["level"].to_numpy(), kept["sparsity"].to_numpy()
        ladders.append(Ladder(int(seed), trial, *place, epochs, so_far))
    return ladders, tuple(unfinished)


def _column(rows: pl.DataFrame, name: str) -> Floats:
    if name not in rows.columns:
        return np.full(rows.height, np.nan)
    return rows[name].cast(pl.Float64).fill_null(math.nan).to_numpy()


def _replayed(name: str, rule: Rule, ladders: list[Ladder], said: Phases) -> Replayed:
    for one in ladders:
        if why := lacking(rule, one.rows):
            return Replayed(name, rule.says, name == ORACLE, why_not=why)
    return Replayed(name, rule.says, name == ORACLE, tuple(_outcome(rule, one, said) for one in ladders))


def _outcome(rule: Rule, ladder: Ladder, said: Phases) -> Outcome:
    test = ladder.rows.test
    last, decision = descend(rule, ladder.rows)
    taken = float(test[decision.chosen])
    inside = costly = None
    if said.dip is not None and said.peak is not None:
        stop, at_peak = int(ladder.levels[last]), test[ladder.levels == said.peak.level]
        inside = decision.stop and stop < said.phases["sweet"].start
        costly = decision.stop and stop < said.peak.level and bool((at_peak - taken > COSTLY).any())
    return Outcome(
        seed=ladder.seed,
        stop_level=int(ladder.levels[last]),
        chosen_level=int(ladder.levels[decision.chosen]),
        early=decision.stop,
        test=taken,
        regret=float(test[best(test)]) - taken,
        trainings=last + 1,
        trainings_saved=len(test) - last - 1,
        epochs_saved=int(ladder.epochs[last + 1 :].sum()),
        inside=inside,
        costly=costly,
    )


def _json(rule: Replayed) -> dict[str, Any]:
    facts = {}
    for name in ("test", "regret", "trainings", "trainings_saved", "epochs_saved") if rule.outcomes else ():
        held = rule.fact(name)
        facts[name] = {"mean": held.mean, "interval": list(held.interval) if held.interval else None, "n": held.n}
    seeds = [{**asdict(one), "false_stop": one.false_stop} for one in rule.outcomes]
    return {
        "rule": rule.rule,
        "says": rule.says,
        "oracle": rule.oracle,
        "why_not": rule.why_not or None,
        **facts,
        "false_stops": rule.false_stops,
        "seeds": seeds,
    }
