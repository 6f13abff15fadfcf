"""Stopping: which ladders of a study a stop rule drives, and where it ended them, from the sealed records alone.

That a rule ended a ladder is written nowhere: whoever asks has it decided again, on the same rows, and gets the same
answer. So a ladder that is killed, resumed, or trained to its end for another study stops where it would have stopped.
"""

# L levels so far, from the dense one on.

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunephase.analysis.stops import RULES, Decision, Rows, Rule, descend, lacking, patient
from prunephase.errors import DamagedError, UserError
from prunephase.stop import Stop
from prunephase.store import Record, Store
from prunephase.study import Study
from prunephase.trial import Trial

# What rules read that no level record holds: the diagnosis that measures it, and the column of the network's row.
MEASURED = {"entropy": ("entropy", "mean"), "changes": ("changes", "changed")}


@dataclass(frozen=True)
class Ending:
    """Where a rule ended a ladder. level: the last one, of `last` that it could have had; chosen: the level to take.

    epochs: the length of a level's schedule.
    """

    trial: str
    seed: int
    rule: str
    level: int
    last: int
    chosen: int
    epochs: int

    @property
    def trainings_saved(self) -> int:
        """Levels that were not to be trained."""
        return self.last - self.level

    @property
    def sentence(self) -> str:
        """Where, by what, with which level, and what it saved."""
        saved = self.trainings_saved
        return (
            f"ended by {self.rule} at level {self.level} of {self.last}, takes level {self.chosen}; "
            f"{saved} training{'s' if saved > 1 else ''}, {saved * self.epochs:,} epochs saved"
        )


def driven(study: Study) -> dict[str, Stop]:
    """The ladders that the rule of `study` may end, by trial digest.

    Not those that others take masks from, which need them whole, nor those whose depth is part of what they are.
    """
    whole = {need.digest() for trial in study.trials for need in trial.needs().values() if need.pruning.levels}
    names = {trial.digest() for trial in study.trials if not trial.antidote.chooses}
    return dict.fromkeys(names - whole, study.stop) if study.stop.drives else {}


def check(stop: Stop, trial: Trial, card: Mapping[str, Any]) -> None:
    """Raise UserError where `stop` cannot drive the ladder of `trial`, before anything is spent. card: noise card."""
    if not stop.drives:
        return
    if trial.antidote.chooses:
        raise UserError(
            f"stop.rule = '{stop.rule}': antidote.teacher = '{trial.antidote.teacher}' is chosen among all levels of a "
            "ladder, so none may end early; name the teacher as DIGEST:LEVEL, or leave [stop] out"
        )
    needs = rule_of(stop).needs
    if "validation" in needs and card["validation"] is None:
        raise UserError(
            f"stop.rule = '{stop.rule}': goes by held-out examples, but data.validation = {trial.data.validation:g} "
            "leaves none; raise it"
        )
    if "wrong" in needs and not card["train"]["realised"]:
        raise UserError(
            f"stop.rule = '{stop.rule}': goes by the share of wrong training labels, which is unknown or zero here; "
            "take another rule"
        )


def rule_of(stop: Stop) -> Rule:
    """The rule that [stop] names."""
    return RULES[stop.rule] if stop.patience is None else patient(RULES[stop.rule], stop.patience)


def measured(stop: Stop) -> list[str]:
    """The diagnoses that a ladder must be asked, level by level, for its rule to be asked."""
    return [MEASURED[need][0] for need in rule_of(stop).needs if need in MEASURED]


def decide(store: Store, stop: Stop, head: Record, levels: Sequence[Record]) -> tuple[int, Decision]:
    """Go down `levels`, 0 to k of one ladder, under `stop`: the index of the last one it lets train, and what it says.

    Raises UserError where the rule cannot be asked.
    """
    rule = rule_of(stop)
    rows = _rows(store, head, levels, rule.needs)
    if why := lacking(rule, rows):
        raise UserError(f"stop.rule = '{stop.rule}': trial {head.body['trial']}: {why}; or take another rule")
    return descend(rule, rows)


def ending(store: Store, trial: Trial, stop: Stop, chain: Sequence[Record]) -> Ending | None:
    """Where `stop` ended the ladder of `trial`, as far as the records of `chain` go; None where it did not.

    A ladder that reaches its last level, or a diverged one, before the rule speaks ended without it.
    """
    name = trial.digest()
    head = store.record(name) if chain else None  # sound, as the chain begins with it
    if head is None:
        return None
    asked: list[Record] = []
    extras = [need for need in rule_of(stop).needs if need in MEASURED]
    for level, record in enumerate(chain):
        known = all(_headline(store, record, need) is not None for need in extras)
        if record.body["level"] != level or record.body["status"] != "ok" or not known:
            break
        asked.append(record)
    if not asked:
        return None
    try:
        at, said = decide(store, stop, head, asked)
    except UserError:  # said when the study is run
        return None
    if not said.stop or at == trial.pruning.levels:
        return None
    return Ending(name, trial.seed, stop.rule, at, trial.pruning.levels, said.chosen, trial.recipe.epochs)


def view(folder: str | Path, study: Study) -> Store:
    """The store as `study` sees it: a ladder that its rule ended goes no deeper, and lacks nothing."""
    stops = driven(study)

    def ends(store: Store, trial: Trial, chain: Sequence[Record]) -> int | None:
        stop = stops.get(trial.digest())
        found = None if stop is None else ending(store, trial, stop, chain)
        return None if found is None else found.level

    return Store(folder, ends if stops else None)


def endings(folder: str | Path, study: Study) -> list[Ending]:
    """Where the rule of `study` ended its ladders, in the order of its trials."""
    store, stops = Store(folder), driven(study)
    found = (
        ending(store, trial, stops[trial.digest()], store.levels(trial))
        for trial in study.trials
        if trial.digest() in stops
    )
    return [one for one in found if one is not None]


def told(study: Study, found: Sequence[Ending]) -> str:
    """What the rule of `study` did, in a sentence. found: its `endings`."""
    names, rule = driven(study), study.stop.rule
    if not found:
        return f"The stop rule of the study, {rule}, ended none of {len(names)} ladders."
    low, high = min(one.level for one in found), max(one.level for one in found)
    whole = sum(trial.pruning.levels + 1 for trial in study.trials if trial.digest() in names)
    saved = sum(one.trainings_saved for one in found)
    epochs = sum(one.trainings_saved * one.epochs for one in found)
    return (
        f"The stop rule of the study, {rule}, ended {len(found)} of {len(names)} ladders, at level"
        f"{f' {low}' if low == high else f's {low} to {high}'}, and saved {saved:,} of {whole:,} trainings "
        f"({epochs:,} epochs)."
    )


def _rows(store: Store, head: Record, levels: Sequence[Record], needs: Collection[str]) -> Rows:
    """What a rule that needs `needs` may see of a ladder: never the test accuracies."""

    def last(column: str) -> Any:
        ends = [record.body["epochs"][column][-1] for record in levels]
        return np.array([math.nan if value is None else value for value in ends], dtype=np.float64)

    def found(need: str) -> Any:
        values = [_headline(store, record, need) if need in needs else None for record in levels]
        return np.array([math.nan if value is None else value for value in values], dtype=np.float64)

    card = head.body["noise"]
    return Rows(
        validation=last("validation_accuracy"),
        train=last("train_accuracy"),
        test=np.full(len(levels), np.nan),
        examples=(card.get("validation") or {}).get("n"),
        wrong=card["train"]["realised"],
        **{need: found(need) for need in MEASURED},
    )


def _headline(store: Store, record: Record, need: str) -> float | None:
    """What the finding that measures `need` says of the whole network; None where it was not made from this record."""
    name, column = MEASURED[need]
    with suppress(DamagedError):
        found = store.finding(record.body["trial"], record.body["level"], name)
        if found is not None and found.body["parent"] == record.seal:
            return next((row[column] for row in found.body["rows"] if row["part"] == "network"), None)
    return None
