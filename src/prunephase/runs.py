"""Runs: which trials are missing, and everything that happens while they are trained."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunephase import execute, table
from prunephase.errors import Exit, IncompatibleError, LockedError, StorageError, UserError
from prunephase.store import Store
from prunephase.study import Study
from prunephase.trial import Trial

if TYPE_CHECKING:
    import polars as pl

    from prunephase.ladder import Event


@dataclass
class Outcome:
    """What became of a run. failed: {trial digest: one line}; diverged: digests; out_of_time: before all was done."""

    failed: dict[str, str] = field(default_factory=dict)
    codes: set[int] = field(default_factory=set)
    diverged: set[str] = field(default_factory=set)
    out_of_time: bool = False

    @property
    def code(self) -> int:
        """The exit code: the gravest reason first."""
        for grave in (Exit.STORAGE, Exit.INCOMPATIBLE, Exit.LOCKED):
            if grave in self.codes:
                return grave
        return Exit.PARTIAL if self.failed or self.diverged or self.out_of_time else Exit.OK


Observer = Callable[[Trial, "Event | execute.Retried | execute.Finished"], None]


def run(
    trials: Iterable[Trial] | Study,
    store: str | Path = "runs",
    *,
    workers: int | None = None,
    device: str = "cpu",
    plugins: Collection[str] = (),
) -> pl.DataFrame:
    """Train what is missing of `trials` and give the level table: one row per trial and level.

    workers: processes, one per core by default. plugins: top-level modules that trials may name as module:function.
    Finished levels are never trained again; interrupted ones resume. Trials that fail or diverge leave the others alone
    and keep the levels they finished: a warning names the failed ones, the table's `status` the diverged.

    Raises UserError before anything is written where a trial cannot be trained; LockedError, StorageError and
    IncompatibleError where the run cannot go on.
    """
    study = trials if isinstance(trials, Study) else Study("study", tuple(trials))
    outcome = train(study, store, workers=workers, device=device, plugins=plugins)
    problems = "; ".join(dict.fromkeys(outcome.failed.values()))
    grave = {Exit.STORAGE: StorageError, Exit.INCOMPATIBLE: IncompatibleError, Exit.LOCKED: LockedError}
    if outcome.code in grave:
        raise grave[Exit(outcome.code)](problems)
    if outcome.failed:
        warnings.warn(f"{len(outcome.failed)} of {len(study.trials)} trials failed: {problems}", stacklevel=2)
    return table.levels(Store(store), study.trials)


def train(
    study: Study,
    store: str | Path = "runs",
    *,
    workers: int | None = None,
    device: str = "cpu",
    plugins: Collection[str] = (),
    allow_numerics_change: bool = False,
    seconds: float | None = None,
    observe: Observer | None = None,
) -> Outcome:
    """Train what is missing, telling `observe` of every event; stops cleanly once `seconds` have passed."""
    from prunephase.bench import Site
    from prunephase.ladder import descend  # imports torch

    site = Site(Path(store), device, frozenset(plugins), allow_numerics_change)
    if site.store.exists() and not site.store.is_dir():
        raise UserError(f"--store {store}: is a file; expected a folder, or a name for a new one")
    check(study, site)
    place, outcome = Store(store), Outcome()
    deadline = None if seconds is None else time.monotonic() + seconds
    count = workers if workers is not None else execute.default_workers()
    with place.lock(f"study-{study.digest()}"):
        place.sweep()
        for wave in waves(study.trials):
            todo = []
            for trial in wave:
                source = trial.source_trial()
                if source is not None and (place.missing(source) or source.digest() in outcome.diverged):
                    problem = f"the ladder whose masks it takes, trial {source.digest()}, was not finished"
                    _note_failure(place, trial, execute.Finished(problem, Exit.PARTIAL), outcome)
                else:
                    todo.append(trial)
            with closing(execute.map(partial(descend, site=site), todo, min(count, len(todo)))) as events:
                for trial, event in events:
                    if isinstance(event, execute.Finished):
                        _note_failure(place, trial, event, outcome)
                    if getattr(event, "status", "ok") == "diverged":
                        outcome.diverged.add(trial.digest())
                    if observe is not None:
                        observe(trial, event)
                    if Exit.STORAGE in outcome.codes:
                        return outcome
                    if deadline is not None and time.monotonic() > deadline and any(map(place.missing, study.trials)):
                        outcome.out_of_time = True
                        return outcome
    return outcome


def check(study: Study, site: Any) -> None:
    """Raise UserError where a trial of `study` cannot be trained; nothing is written.

    Seeds share one check: what they change cannot make a trial impossible, except the draw of a tiny data set.
    """
    from prunephase.bench import Bench

    checked: set[tuple[str, int]] = set()
    for trial in study.trials:
        kind = trial.model_copy(update={"seed": 0}).digest(), trial.pruning.levels
        if kind not in checked:
            checked.add(kind)
            Bench(trial, site).check()


def waves(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials in the order in which they can run: those that others build on first, as deep as those need them."""
    first: dict[str, Trial] = {}
    for trial in (t.source_trial() or t for t in trials):
        known = first.get(trial.digest())
        if known is None or known.pruning.levels < trial.pruning.levels:
            first[trial.digest()] = trial
    second = [t for t in trials if t.source_trial() is not None]
    return [list(first.values()), second] if second else [list(first.values())]


def _note_failure(store: Store, trial: Trial, event: execute.Finished, outcome: Outcome) -> None:
    """Remember why a trial failed, here and for `status`; or that it did not."""
    if event.problem is None:
        store.put_failure(trial.digest(), None)
        return
    text = event.problem
    if event.trace:
        log = store.put_log(f"crash-{trial.digest()}-{os.getpid()}.txt", event.trace)
        text += f" (traceback in {log})"
    outcome.failed[trial.digest()] = text
    outcome.codes.add(event.code)
    if event.code not in (Exit.STORAGE, Exit.LOCKED):  # a full disk takes no note, and another run may well succeed
        store.put_failure(trial.digest(), text)
