"""Diagnosing: which findings of a study are missing, and who makes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunephase import data, disk, execute, table
from prunephase.analysis import phases
from prunephase.analysis.curve import curve, split
from prunephase.bench import Bench, Site
from prunephase.diagnoses import DIAGNOSES, Diagnosis
from prunephase.errors import UserError
from prunephase.events import Diagnosed
from prunephase.examine import ask, current, given, kept, put
from prunephase.plugins import resolve
from prunephase.sections import Data
from prunephase.stopping import view
from prunephase.store import Store
from prunephase.study import Study
from prunephase.task import Finished, Task
from prunephase.trial import Trial, canonical_json

if TYPE_CHECKING:
    import polars as pl

    from prunephase.snapshot import Snapshot

ROLES = ("dense", "dip", "peak", "collapsed", "last")


@dataclass
class Outcome:
    """What became of a diagnosis of a study. failed: {trial digest: one line}."""

    made: int = 0
    cached: int = 0
    failed: dict[str, str] = field(default_factory=dict)


Observer = Callable[[Trial, Any], None]
Wanted = Mapping[tuple[str, ...], Sequence[Task]]  # what is asked of which levels, by the names of the diagnoses


def wanted(study: Study, store: str | Path, diagnoses: Sequence[Diagnosis], levels: Sequence[str] = ()) -> Wanted:
    """The finished levels of `study` that `diagnoses` are to be asked of.

    levels: numbers, "all", or roles in the curve of the study: dense, dip, peak, collapsed, last; default: what each
    diagnosis says. Raises UserError where nothing is finished or a level is unknown.
    """
    place = view(store, study)
    rows = table.levels(place, study.trials, study.arms)
    if rows.is_empty():
        raise UserError(f"{store}: holds no finished level of '{study.name}'; run it first, or name its store")
    stories = roles(rows)
    found: dict[tuple[str, ...], list[Task]] = {}
    for trial in study.trials:
        done = [record.body["level"] for record in place.levels(trial) if record.body["status"] == "ok"]
        asked: dict[int, list[str]] = {}
        for diagnosis in (kind for kind in diagnoses if kind.across is None):
            for level in _levels(levels or [diagnosis.levels], stories.get(trial.digest(), {}), done):
                asked.setdefault(level, []).append(diagnosis.name)
        for level, names in asked.items():
            found.setdefault(tuple(names), []).append(Task(trial, (level,)))
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))  # the longest first


def diagnose(
    wanted: Wanted,
    store: str | Path,
    diagnoses: Sequence[Diagnosis],
    *,
    workers: int | None = None,
    device: str = "cpu",
    plugins: Collection[str] = (),
    observe: Observer | None = None,
) -> Outcome:
    """Make the findings of `wanted` that are missing, in parallel over the levels."""
    outcome, place = Outcome(), Store(store)
    folder = place.scratch("data")
    site = Site(place.folder, device, frozenset(plugins), shared=folder)
    kinds = {diagnosis.name: diagnosis for diagnosis in diagnoses}
    with place.scratching(folder):
        for spec in _data_of(wanted, place, kinds):  # loaded once, mapped by all workers
            with disk.refusals(folder):
                data.publish(spec, data.obtain(spec, plugins), folder)
        for names, tasks in wanted.items():
            work = partial(examine, site=site, diagnoses=[kinds[name] for name in names])
            count = min(workers if workers is not None else execute.default_workers(), len(tasks))
            with closing(execute.map(work, [[task] for task in tasks], count)) as events:
                for task, event in events:
                    if isinstance(event, Diagnosed):
                        outcome.cached += event.cached
                        outcome.made += not event.cached
                    if isinstance(event, Finished) and event.problem is not None:
                        outcome.failed[task.trial.digest()] = event.problem
                    if observe is not None:
                        observe(task.trial, event)
    for trial in {task.trial.digest(): task.trial for tasks in wanted.values() for task in tasks}.values():
        for diagnosis in (kind for kind in diagnoses if kind.across is not None):
            for event in _across(place, trial, diagnosis):
                outcome.cached += event.cached
                outcome.made += not event.cached
                if observe is not None:
                    observe(trial, event)
    return outcome


def _data_of(wanted: Wanted, store: Store, kinds: Mapping[str, Diagnosis]) -> list[Data]:
    """The data of the trials that lack a finding."""
    found: dict[bytes, Data] = {}
    for names, tasks in wanted.items():
        for task in tasks:
            key = canonical_json(task.trial.data.model_dump(mode="json"))
            if key not in found and any(_lacks(store, task, kinds[name]) for name in names):
                found[key] = task.trial.data
    return list(found.values())


def _lacks(store: Store, task: Task, diagnosis: Diagnosis) -> bool:
    records = (store.record(task.trial.digest(), level) for level in task.levels or ())
    return any(record is not None and current(store, task.trial, record, diagnosis) is None for record in records)


def roles(rows: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Levels that tell the story of each trial's curve, by trial digest: dense, dip, peak, collapsed, last."""
    found: dict[str, dict[str, int]] = {}
    for group, (_, mine) in zip(curve(rows).groups(), split(rows), strict=True):
        said = phases(group)
        story = {"dense": int(group.levels[0]), "last": int(group.levels[-1])}
        story |= {name: point.level for name, point in (("dip", said.dip), ("peak", said.peak)) if point is not None}
        if "collapsed" in said.phases:
            story["collapsed"] = said.phases["collapsed"].end
        found |= dict.fromkeys(mine["trial"].unique(), story)
    return found


def _levels(wanted: Sequence[str], story: Mapping[str, int], done: Sequence[int]) -> list[int]:
    """The finished levels that `wanted` names, rising."""
    chosen: set[int] = set()
    for word in wanted:
        if word == "all":
            chosen.update(done)
        elif word == "roles":
            chosen.update(story.get(role, story["last"]) for role in ROLES if role in story)
        elif word in ROLES:
            chosen.update([story[word]] if word in story else [])
        elif word.isascii() and word.isdecimal():
            chosen.add(int(word))
        else:
            raise UserError(f"--levels {word}: expected numbers, all, or of {', '.join(ROLES)}")
    return sorted(chosen & set(done))


def examine(tasks: Sequence[Task], site: Site, diagnoses: Sequence[Diagnosis]) -> Iterator[tuple[Task, Any]]:
    """A worker's part: the findings of `diagnoses` at the levels of `tasks`, each sealed before it is said."""
    from prunephase.revive import snapshot

    store = Store(site.store)
    for task in tasks:
        bench: Bench | None = None
        for level in task.levels or ():
            record = store.record(task.trial.digest(), level)
            assert record is not None
            seen: Snapshot | None = None
            for diagnosis in diagnoses:
                began = time.monotonic()
                found = current(store, task.trial, record, diagnosis)
                if found is None:
                    bench = bench or Bench(task.trial, site)
                    seen = seen or snapshot(store, task.trial, level, bench)
                    ask(store, record, diagnosis, seen, bench)
                said = Diagnosed(
                    task.trial.digest(), level, diagnosis.name, time.monotonic() - began, found is not None
                )
                yield task, said
        yield task, Finished()


def _across(store: Store, trial: Trial, diagnosis: Diagnosis) -> Iterator[Diagnosed]:
    """The findings of a diagnosis that is made from those of several levels."""
    (below,) = diagnosis.needs
    records = {record.body["level"]: record for record in store.levels(trial) if record.body["status"] == "ok"}
    known = {level: current(store, trial, record, DIAGNOSES[below]) for level, record in records.items()}
    made = {level: found for level, found in known.items() if found is not None}
    if 0 not in made or len(made) < 2:
        return
    groups = {0: tuple(made)} if diagnosis.across == "ladder" else {level: (0, level) for level in made if level}
    for level, levels in groups.items():
        began, takes = time.monotonic(), {f"{below} {at}": made[at].seal for at in levels}
        found = kept(store, trial, records[level], diagnosis, takes)
        if found is None:
            compare = resolve(diagnosis.function, {"prunephase"}, "--only")
            seen = [given(store, made[at]) for at in levels]
            if diagnosis.across == "ladder":
                said = compare({records[at].body["sparsity"]: one for at, one in zip(levels, seen, strict=True)})
            else:
                said = compare(*seen)
            put(store, trial, records[level], diagnosis, takes, said, records[level].body["numerics"])
        yield Diagnosed(trial.digest(), level, diagnosis.name, time.monotonic() - began, found is not None)
