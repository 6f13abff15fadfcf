"""Runs: which trials are missing, and everything that happens while they are trained."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from prunephase import disk, execute, table
from prunephase.errors import Exit, IncompatibleError, LockedError, StorageError, UserError
from prunephase.events import EpochDone, Event, Note
from prunephase.plugins import names
from prunephase.sections import Data
from prunephase.stop import Stop
from prunephase.stopping import check as check_stop
from prunephase.stopping import driven, view
from prunephase.store import Store
from prunephase.study import Study, family
from prunephase.task import Finished, Task
from prunephase.trial import Trial

if TYPE_CHECKING:
    import polars as pl

    from prunephase.bench import Site
    from prunephase.data import Dataset

TOGETHER = 64  # ladders that one worker has in hand at once where several can train together


@dataclass
class Outcome:
    """What became of a run. failed: {trial digest: one line}; diverged: digests; out_of_time: before all was done.

    note: what would make it faster, in one line.
    """

    failed: dict[str, str] = field(default_factory=dict)
    codes: set[int] = field(default_factory=set)
    diverged: set[str] = field(default_factory=set)
    out_of_time: bool = False
    note: str = ""

    @property
    def code(self) -> int:
        """The exit code: the gravest reason first."""
        for grave in (Exit.STORAGE, Exit.INCOMPATIBLE, Exit.LOCKED):
            if grave in self.codes:
                return grave
        return Exit.PARTIAL if self.failed or self.diverged or self.out_of_time else Exit.OK


Observer = Callable[[Trial, Event | execute.Retried | Finished], None]
Executor = Callable[[execute.Work, Sequence[execute.Group], int], Generator[tuple[Task, Any], None, None]]


def run(
    trials: Iterable[Trial] | Study,
    store: str | Path = "runs",
    *,
    workers: int | None = None,
    device: str = "cpu",
    plugins: Collection[str | ModuleType | Callable[..., Any]] = (),
) -> pl.DataFrame:
    """Train what is missing of `trials` and give the level table: one row per trial and level.

    workers: processes, one per core by default. plugins: modules of yours that trials may name as module:function, by
    their names or as they are, or functions in them.
    Finished levels are never trained again; interrupted ones resume. Trials that fail or diverge leave the others alone
    and keep the levels they finished: a warning names the failed ones, the table's `status` the diverged.

    Raises UserError before anything is written where a trial cannot be trained; LockedError, StorageError and
    IncompatibleError where the run cannot go on.
    """
    study = trials if isinstance(trials, Study) else Study("study", tuple(trials))
    outcome = train(study, store, workers=workers, device=device, plugins=names(plugins))
    problems = "; ".join(dict.fromkeys(outcome.failed.values()))
    grave = {Exit.STORAGE: StorageError, Exit.INCOMPATIBLE: IncompatibleError, Exit.LOCKED: LockedError}
    if outcome.code in grave:
        raise grave[Exit(outcome.code)](problems)
    if outcome.note:
        warnings.warn(outcome.note, stacklevel=2)
    if outcome.failed:
        warnings.warn(f"{len(outcome.failed)} of {len(study.trials)} trials failed: {problems}", stacklevel=2)
    return table.levels(view(store, study), study.trials, study.arms)


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
    executor: Executor = execute.map,
) -> Outcome:
    """Train what is missing, telling `observe` of every event; stops cleanly once `seconds` have passed."""
    from prunephase import data
    from prunephase.bench import Site
    from prunephase.cohort import descend  # imports torch
    from prunephase.engine import note, pick

    place, outcome, stops = view(store, study), Outcome(), driven(study)
    folder = place.scratch("data")
    site = Site(place.folder, device, frozenset(plugins), allow_numerics_change, folder)
    if site.store.exists() and not site.store.is_dir():
        raise UserError(f"--store {store}: is a file; expected a folder, or a name for a new one")
    deadline = None if seconds is None else time.monotonic() + seconds
    loaded = check(study, site)
    outcome.note = note(pick(device))
    if outcome.note and observe is not None:
        observe(study.trials[0], Note("", outcome.note))
    with place.lock(f"study-{study.digest()}"), place.scratching(folder):
        place.sweep()
        while loaded:
            with disk.refusals(folder):
                data.publish(*loaded.pop(), folder)
        unseen = list(study.trials)
        for wave in waves(study.trials):
            todo = []
            for trial in wave:
                lacking = (
                    f"the ladder that it takes its {what} from, trial {need.digest()}, was not finished"
                    for what, need in trial.needs().items()
                    if place.missing(need) or need.digest() in outcome.diverged
                )
                if problem := next(lacking, None):
                    _note_end(place, trial, Finished(problem, Exit.PARTIAL), outcome)
                else:
                    todo.append(trial)
            todo.sort(key=order(todo, place))
            count = workers if workers is not None else default_workers(device)
            groups = tasks(todo, count, together=device.startswith("cuda"), stops=stops)
            with closing(executor(partial(descend, site=site), groups, min(count, len(groups)))) as events:
                for task, event in events:
                    if isinstance(event, Finished):
                        _note_end(place, task.trial, event, outcome)
                    if getattr(event, "status", "ok") == "diverged":
                        outcome.diverged.add(task.trial.digest())
                    if observe is not None:
                        observe(task.trial, event)
                    if Exit.STORAGE in outcome.codes:
                        return outcome
                    late = deadline is not None and time.monotonic() > deadline
                    if late and (isinstance(event, EpochDone) or _unfinished(unseen, place)):
                        outcome.out_of_time = True
                        return outcome
    return outcome


def check(study: Study, site: Site) -> list[tuple[Data, Dataset]]:
    """Raise UserError where a trial of `study` cannot be trained; nothing is written. Gives the data it had to load.

    Seeds share one check: what they change cannot make a trial impossible, except the draw of a tiny data set; or of
    the noise, which must be that of a teacher that is named.
    """
    from prunephase import teacher
    from prunephase.bench import Bench

    loaded: list[tuple[Data, Dataset]] = []
    checked: set[tuple[str, int]] = set()
    for trial in study.trials:
        alike = trial if trial.antidote.stored else trial.model_copy(update={"seed": 0})
        kind = alike.digest(), trial.pruning.levels
        if kind not in checked:
            checked.add(kind)
            known = next((clean for spec, clean in loaded if spec == trial.data), None)
            bench = Bench(trial, site, known)
            bench.check()
            teacher.check(Store(site.store), bench)
            check_stop(study.stop, trial, bench.noisy[1].as_json())
            if known is None:
                loaded.append((trial.data, bench.clean))
    return loaded


def default_workers(device: str) -> int:
    """Processes that fill this machine: one per core, or one per GPU."""
    import torch

    return torch.cuda.device_count() if device == "cuda" else execute.default_workers()


def families(trials: Sequence[Trial]) -> dict[str, int]:
    """By digest: how many trials before this one train the very same dense level, which is then trained once."""
    ranks: dict[str, int] = {}
    seen: dict[tuple[bytes, str], int] = {}
    for trial in trials:
        dense = family(trial), trial.restart.to  # the same start, kept at the same step to rewind to
        ranks[trial.digest()] = seen.get(dense, 0)
        seen[dense] = ranks[trial.digest()] + 1
    return ranks


def order(trials: Sequence[Trial], store: Store) -> Callable[[Trial], tuple[float, int]]:
    """A key that sorts the longest ladders first, and among equals those that share no dense level.

    So the last worker does not wait long for one late ladder, and no two begin with the same training.
    """
    ranks = families(trials)

    def key(trial: Trial) -> tuple[float, int]:
        return -store.missing(trial) * trial.recipe.epochs, ranks[trial.digest()]

    return key


def tasks(
    trials: Sequence[Trial], workers: int, *, together: bool, stops: Mapping[str, Stop] | None = None
) -> list[list[Task]]:
    """The trials as groups, one after the other for each worker.

    A ladder is one task, unless its levels stand side by side and workers would be idle. together: levels of a group
    train at once (on a GPU), so that each worker gets one long list. stops: what may end ladders, by trial digest; such
    a ladder goes down level by level.
    """
    slots = TOGETHER * workers if together else workers
    parts = max(1, slots // max(1, len(trials)))
    found: list[Task] = []
    for trial in trials:
        count, stop = min(parts, trial.pruning.levels), (stops or {}).get(trial.digest())
        if count > 1 and trial.side_by_side and stop is None:
            # Each part begins with the dense level: one of them trains it, the others take it over.
            rungs = range(1, trial.pruning.levels + 1)
            found += [Task(trial, (0, *rungs[start::count])) for start in range(count)]
        else:
            found.append(Task(trial, stop=stop))
    size = min(TOGETHER, math.ceil(len(found) / workers)) if together else 1
    return [found[start : start + size] for start in range(0, len(found), size)]


def waves(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials in the order in which they can run: those that others build on first, as deep as those need them."""
    deepest: dict[str, Trial] = {}
    rank: dict[str, int] = {}

    def place(trial: Trial) -> int:
        name = trial.digest()
        if name not in deepest or deepest[name].pruning.levels < trial.pruning.levels:
            deepest[name] = trial
        rank[name] = max((place(need) + 1 for need in trial.needs().values()), default=0)
        return rank[name]

    count = 1 + max(map(place, trials), default=0)
    return [[trial for name, trial in deepest.items() if rank[name] == wave] for wave in range(count)]


def _unfinished(unseen: list[Trial], store: Store) -> bool:
    """Whether a trial of `unseen` still lacks a level. Finished ones are taken off it: nobody looks at them twice."""
    while unseen and not store.missing(unseen[-1]):
        unseen.pop()
    return bool(unseen)


def _note_end(store: Store, trial: Trial, event: Finished, outcome: Outcome) -> None:
    """Remember why a trial failed, here and for `status`; or that it did not."""
    if event.problem is None:
        if trial.digest() not in outcome.failed:  # another part of it may have
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
