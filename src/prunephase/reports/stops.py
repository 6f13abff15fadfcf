"""The sections of stop rules: where the study's own ended its ladders; what each would have saved and forfeited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from prunephase.analysis.facts import Fact
from prunephase.analysis.replay import Replay, Replayed, of_curve
from prunephase.analysis.stops import RULES
from prunephase.reports.parts import Section, Table
from prunephase.reports.series import Series, first_of, head_of, prefix
from prunephase.reports.words import NOTHING, ORACLE, capital, interval, percent, points, seeds
from prunephase.stopping import Ending

NOTES = (
    "Each rule goes down the finished ladders level by level and sees what was known so far: validation accuracy on "
    "labels as noisy as the training's, train accuracy, activation entropy, prediction changes. The test set only "
    "judges. Regret: the seed's best test accuracy of the whole ladder less that at the level taken.",
    "A stop is false where the ladder was ended before the sweet phase of the mean curve, or before its peak with more "
    "than 1 point lost to it.",
)
CUT = (
    "Ladders that the study's own stop rule ended count as far as they go: what lies deeper is known to nobody, so "
    "regret and savings are those within the levels trained."
)
HEAD = (
    *("rule", "n", "last level trained", "level taken", "test accuracy there", "regret", "trainings saved"),
    *("epochs saved", "false stops"),
)


def ended(found: Sequence[Series], told: str, endings: Sequence[Ending]) -> list[Section]:
    """Where the stop rule of the study ended its ladders. told: that in a sentence; nothing where it has none."""
    if not told:
        return []
    where = {trial: one for one in found for trial in one.rows["trial"].unique()}
    known = [(ending, where[ending.trial]) for ending in endings if ending.trial in where]
    rows = [
        (
            *first_of(one, found),
            str(ending.seed),
            f"{ending.level} of {ending.last}",
            str(ending.chosen),
            percent(_at(one, ending)),
            str(ending.trainings_saved),
            f"{ending.trainings_saved * ending.epochs:,}",
        )
        for ending, one in known
    ]
    head = ("seed", "last level trained", "level taken", "test accuracy there", "trainings saved", "epochs saved")
    table = Table("Ladders that the stop rule ended", (*head_of(found), *head), rows, folded=False)
    return [Section("ended", "Where the ladders ended", told, tables=[table] if rows else ())]


def _at(one: Series, ending: Ending) -> float | None:
    """Test accuracy at the level that the rule takes."""
    there = one.rows.filter((pl.col("trial") == ending.trial) & (pl.col("level") == ending.chosen))
    return next(iter(there["test_accuracy"].to_list()), None)


def stops(found: Sequence[Series], cards: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """Stop rules on every curve with a finished ladder; nothing where no rule could be asked."""
    asked = [(one, of_curve(one.key, one.rows, one.phases, RULES, cards)) for one in found]
    asked = [(one, held) for one, held in asked if any(rule.outcomes for rule in held.rules if not rule.oracle)]
    if not asked:
        return []
    rows = [(*first_of(one, found), *_cells(rule, held)) for one, held in asked for rule in held.rules if rule.outcomes]
    silent = {rule.rule: rule.why_not for _, held in asked for rule in held.rules if rule.why_not}
    meanings = [f"{capital(name)}: {rule.says}." for name, rule in RULES.items()]
    cut = any("ended" in one.rows.columns and one.rows["ended"].any() for one, _ in asked)
    notes = [
        *NOTES,
        *([CUT] if cut else []),
        " ".join(meanings),
        *(f"Not asked: {name}, {why}." for name, why in silent.items()),
    ]
    said = " ".join(f"{prefix(one, found)}{_finding(held)}" for one, held in asked)
    table = Table("Stop rules replayed on finished ladders", (*head_of(found), *HEAD), rows, folded=False)
    return [Section("stops", "When to stop", capital(said), notes=notes, tables=[table])]


def _finding(held: Replay) -> str:
    """What classic patience does, which other rule forfeits least, and what choosing alone forfeits."""
    known = {rule.rule: rule for rule in held.rules if rule.outcomes and not rule.oracle}
    others = [name for name in known if name not in ("patience", "whole-ladder")]
    least = sorted(others, key=lambda name: known[name].fact("regret").mean)[:1]
    said = []
    for name in filter(known.__contains__, ("patience", *least, "whole-ladder")):
        rule, regret = known[name], known[name].fact("regret")
        false = f", stops falsely in {rule.false_stops} of {len(rule.outcomes)}" if rule.false_stops is not None else ""
        said.append(
            f"{name} forfeits {points(regret.mean)} after {rule.fact('trainings').mean:.1f} of {held.levels} trainings"
            f"{'' if name == 'whole-ladder' else false} ({seeds(regret.n)})"
        )
    return f"{'; '.join(said)}."


def _cells(rule: Replayed, held: Replay) -> tuple[str, ...]:
    taken = rule.fact("test")
    return (
        ORACLE if rule.oracle else rule.rule,
        str(taken.n),
        _levels([one.stop_level for one in rule.outcomes]),
        _levels([one.chosen_level for one in rule.outcomes]),
        f"{percent(taken.mean)}{_within(taken)}",
        f"{points(rule.fact('regret').mean)}{_within(rule.fact('regret'))}",
        f"{rule.fact('trainings_saved').mean:.1f} of {held.levels}",
        f"{rule.fact('epochs_saved').mean:,.0f}",
        NOTHING if rule.false_stops is None else f"{rule.false_stops} of {len(rule.outcomes)}",
    )


def _levels(levels: Sequence[int]) -> str:
    low, high = min(levels), max(levels)
    return str(low) if low == high else f"{low} to {high}"


def _within(held: Fact) -> str:
    return "" if held.interval is None else f" ({interval(*held.interval)})"
