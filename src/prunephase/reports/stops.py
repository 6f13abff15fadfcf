"""The section of stop rules: where each would have ended the ladders of every curve, and what that forfeits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunephase.analysis.facts import Fact
from prunephase.analysis.replay import Replay, Replayed, of_curve
from prunephase.analysis.stops import RULES
from prunephase.reports.parts import Section, Table
from prunephase.reports.series import Series, first_of, head_of, prefix
from prunephase.reports.words import NOTHING, ORACLE, capital, interval, percent, points, seeds

NOTES = (
    "Each rule goes down the finished ladders level by level and sees what was known so far: validation accuracy on "
    "labels as noisy as the training's, train accuracy, activation entropy. The test set only judges. Regret: the "
    "seed's best test accuracy of the whole ladder less that at the level taken.",
    "A stop is false where the ladder was ended before the sweet phase of the mean curve, or before its peak with more "
    "than 1 point lost to it.",
)
HEAD = (
    *("rule", "n", "last level trained", "level taken", "test accuracy there", "regret", "trainings saved"),
    *("epochs saved", "false stops"),
)


def stops(found: Sequence[Series], cards: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """Stop rules on every curve with a finished ladder; nothing where no rule could be asked."""
    asked = [(one, of_curve(one.key, one.rows, one.phases, RULES, cards)) for one in found]
    asked = [(one, held) for one, held in asked if any(rule.outcomes for rule in held.rules if not rule.oracle)]
    if not asked:
        return []
    rows = [(*first_of(one, found), *_cells(rule, held)) for one, held in asked for rule in held.rules if rule.outcomes]
    silent = {rule.rule: rule.why_not for _, held in asked for rule in held.rules if rule.why_not}
    meanings = [f"{capital(name)}: {rule.says}." for name, rule in RULES.items()]
    notes = [*NOTES, " ".join(meanings), *(f"Not asked: {name}, {why}." for name, why in silent.items())]
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
