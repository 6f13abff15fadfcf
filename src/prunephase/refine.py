"""Coarse to fine: a ladder in large steps, then one by one around its turning points, for fewer trainings.

The coarse ladder removes `step` times the fraction per level. Dip and peak of its mean *validation* curve say where to
look closer: branches leave the coarse ladder one level before a turning point and go down by single rounds until the
coarse level after it. What a branch shares with the coarse ladder is not trained again. The test set decides nothing.
"""

# S seeds, L levels of the coarse ladder, R rounds: how many times the fraction was removed.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from prunephase import table
from prunephase.analysis.curve import TEST, VALIDATION, Group, curve
from prunephase.analysis.facts import Fact, fact
from prunephase.analysis.phases import Phases, phases
from prunephase.analysis.stops import best
from prunephase.errors import UserError
from prunephase.store import Store
from prunephase.study import Study
from prunephase.trial import Trial, canonical_json


@dataclass(frozen=True)
class Answer:
    """What a curve says: dip and peak of its mean validation curve, and the best round by it; None: no dip.

    test: of the networks of the chosen round, known afterwards; trainings: of one seed.
    """

    dip: int | None
    peak: int | None
    chosen: int
    sparsity: float
    validation: float
    test: Fact
    trainings: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        test = {"mean": self.test.mean, "interval": self.test.interval, "n": self.test.n}
        return {**asdict(self), "test": test}


@dataclass(frozen=True)
class Refined:
    """One curve, coarse to fine: `key`, what sets it apart from the others of the study.

    levels: of the whole ladder; epochs: of one training; whole: the answer of all levels, where they are there.
    """

    key: Mapping[str, Any]
    answer: Answer
    levels: int
    epochs: int
    whole: Answer | None

    @property
    def saved(self) -> int:
        """Trainings of one seed that the whole ladder would have taken beyond these."""
        return self.levels - self.answer.trainings

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        answers = {"refined": self.answer.as_json(), "whole": self.whole.as_json() if self.whole else None}
        return {"group": dict(self.key), "levels": self.levels, "epochs_saved": self.saved * self.epochs, **answers}


def coarse(study: Study, step: int) -> Study:
    """The ladders of `study` in steps of `step` rounds. Raises UserError for a study that cannot be refined."""
    if step < 2:
        raise UserError(f"--step {step}: expected at least 2; 1 is the whole ladder")
    if study.stop.drives:
        raise UserError(f"stop.rule = '{study.stop.rule}': refine ends its ladders itself; leave [stop] out")
    for trial in study.trials:
        if trial.data.validation == 0:
            raise UserError("data.validation = 0: refine goes by held-out examples; set it")
        if trial.antidote.chooses or trial.pruning.steps:
            what = "pruning.steps" if trial.pruning.steps else f"antidote.teacher = '{trial.antidote.teacher}'"
            raise UserError(f"{what}: decides the levels of the ladder itself, so it cannot be refined")
        if trial.pruning.levels < 3 * step:
            raise UserError(f"pruning.levels = {trial.pruning.levels}: too few for steps of {step}; run them all")
    return Study(f"{study.name}, in steps of {step}", tuple(_coarse(trial, step) for trial in study.trials))


def branches(study: Study, store: Store, step: int) -> Study:
    """The ladders that look closer, where the finished coarse ladders say so. Raises UserError where one is missing."""
    found: list[Trial] = []
    for trials in _alike(study):
        rough = [_coarse(trial, step) for trial in trials]
        if any(store.missing(trial) for trial in rough):
            raise UserError(f"{store.folder}: lacks a coarse ladder of '{study.name}'; refine it again")
        for start, last in spans(_curve(table.levels(store, rough)), step, trials[0].pruning.levels):
            found += [_steps(trial, (step,) * start, start + last - start * step) for trial in trials]
    return Study(f"{study.name}, closer", tuple(found))


def spans(rough: Group, step: int, rounds: int) -> list[tuple[int, int]]:
    """Where to look closer, rising: the coarse level at which a branch leaves, and its last round. rounds: at most.

    From the coarse level before a turning point to the round before the coarse level after it.
    """
    said, mean = phases(rough), np.nanmean(rough.test, axis=0)
    turns = [said.dip.level, said.peak.level] if said.dip and said.peak else [int(rough.levels[best(mean)])]
    found: list[tuple[int, int]] = []
    for turn in sorted(turns):
        start, last = max(turn - 1, 0), min((turn + 1) * step - 1, rounds)
        if found and start * step <= found[-1][1]:
            found[-1] = found[-1][0], last
        else:
            found.append((start, last))
    return found


def refined(study: Study, store: Store, step: int) -> list[Refined]:
    """What the coarse ladders of `study` and their branches say, curve by curve."""
    closer = {canonical_json(_bare(trial)): list[Trial]() for trial in study.trials}
    for trial in branches(study, store, step).trials:
        closer[canonical_json(_bare(trial))].append(trial)
    found = []
    for trials in _alike(study):
        rough = [_coarse(trial, step) for trial in trials]
        fine = [branch for trial in trials for branch in closer[canonical_json(_bare(trial))]]
        parts = [_by_round(store, one) for one in (*fine, *rough)]
        # where both were trained, the branch is the finer way to it
        rows = pl.concat([part for part in parts if not part.is_empty()], how="diagonal_relaxed").unique(
            ["seed", "level"], keep="first", maintain_order=True
        )
        new = sum(one.pruning.levels - len(one.pruning.steps) for one in fine) // len(trials)
        answer = _answer(rows, rough[0].pruning.levels + 1 + new)
        levels = trials[0].pruning.levels + 1
        whole = None
        if not any(store.missing(trial) for trial in trials):
            whole = _answer(table.levels(store, trials), levels)
        found.append(Refined(_key(trials[0], study), answer, levels, trials[0].recipe.epochs, whole))
    return found


def _answer(rows: pl.DataFrame, trainings: int) -> Answer:
    group = _curve(rows)
    said: Phases = phases(group)
    mean = group.test.mean(axis=0)
    at = best(np.nan_to_num(mean, nan=-1.0))
    level = int(group.levels[at])
    tests = rows.filter(pl.col("level") == level).sort("seed")[TEST].to_numpy()
    return Answer(
        dip=said.dip.level if said.dip else None,
        peak=said.peak.level if said.peak else None,
        chosen=level,
        sparsity=float(group.sparsity[at]),
        validation=float(mean[at]),
        test=fact(tests, "test"),
        trainings=trainings,
    )


def _curve(rows: pl.DataFrame) -> Group:
    """The validation accuracies of one curve."""
    return curve(rows, VALIDATION, by=()).groups()[0]


def _by_round(store: Store, trial: Trial) -> pl.DataFrame:
    """The levels of a ladder that are its own, with the round for the level."""
    rows = table.levels(store, [trial])
    rounds = [trial.pruning.rounds(level) for level in range(trial.pruning.levels + 1)]
    return rows.with_columns(level=pl.col("level").replace_strict(dict(enumerate(rounds)), return_dtype=pl.Int64))


def _coarse(trial: Trial, step: int) -> Trial:
    whole, rest = divmod(trial.pruning.levels, step)
    steps = (step,) * whole + ((rest,) if rest else ())
    return _steps(trial, steps, len(steps))


def _steps(trial: Trial, steps: tuple[int, ...], levels: int) -> Trial:
    return trial.model_copy(update={"pruning": trial.pruning.model_copy(update={"steps": steps, "levels": levels})})


def _bare(trial: Trial) -> Mapping[str, Any]:
    """What a trial is, whatever its steps."""
    return _steps(trial, (), 0).canonical()


def _key(trial: Trial, study: Study) -> dict[str, Any]:
    """The fields of a trial that vary in its study."""
    flats = [other.flat() for other in study.trials]
    mine = trial.flat()
    return {name: held for name, held in mine.items() if name != "seed" and any(f.get(name) != held for f in flats)}


def _alike(study: Study) -> Iterator[Sequence[Trial]]:
    """The trials of each curve: all that differ in the seed alone."""
    found: dict[bytes, list[Trial]] = {}
    for trial in study.trials:
        found.setdefault(canonical_json(trial.model_copy(update={"seed": 0}).canonical()), []).append(trial)
    yield from found.values()
