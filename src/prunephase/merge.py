"""Merge: the results of several stores in one, by their content."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from prunephase.errors import DamagedError, IncompatibleError, UserError
from prunephase.store import Record, Store


@dataclass
class Merged:
    """What a merge did, in records; bytes: of the blobs that came with them. damages: a line for each left-out file."""

    stores: int = 0
    trials: int = 0
    new: int = 0
    known: int = 0
    repaired: int = 0
    bytes: int = 0
    damages: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The counts as a sentence."""
        repaired = f", {self.repaired:,} in place of damaged ones" if self.repaired else ""
        left = f"; {len(self.damages):,} damaged files left out" if self.damages else ""
        return (
            f"{self.trials:,} trials of {self.stores:,} stores: {self.new:,} records are new ({self.bytes / 1e6:,.1f} "
            f"MB with them{repaired}), {self.known:,} were there{left}"
        )


def merge(into: str | Path, sources: Sequence[str | Path]) -> Merged:
    """Bring every record of `sources`, with its blobs, into the store `into`.

    A record or blob is checked before it is copied; blobs come first, then the records that name them, in order. So it
    can be killed anywhere and repeated. What is damaged is left out, with the levels that follow from it; a damaged
    record of `into` gives way to a sound one. What is known beside the records (findings of diagnoses, times, why a
    trial failed, what a run took) comes along where `into` has none.

    Raises UserError for a source that is no store, IncompatibleError where two stores disagree on a level (nothing is
    copied then), LockedError where a trial of `into` is being trained, StorageError.
    """
    target, stores = Store(into), [Store(source) for source in sources]
    if not stores:
        raise UserError("nothing to merge: name the folder that receives, then those that it receives")
    for store in stores:
        if store.folder.resolve() == target.folder.resolve():
            raise UserError(f"{store.folder}: cannot be merged into itself")
        if not (store.folder / "trials").is_dir():
            raise UserError(f"{store.folder}: no store; expected the folder that `prunephase run` filled")
    if target.folder.exists() and not target.folder.is_dir():
        raise UserError(f"{target.folder}: is a file; expected a folder, or a name for a new one")
    trials = sorted({trial for store in stores for trial in store.trials()})
    for trial in trials:
        _agree(trial, [target, *stores])
    done = Merged(len(stores), len(trials))
    for trial in trials:
        for store in stores:
            if (store.folder / "trials" / trial).is_dir():
                _bring(trial, store, target, done)
    for store in stores:
        for name, facts in store.runs().items():
            if name not in target.runs():
                target.put_run(name, facts)
    return done


def _agree(trial: str, stores: Sequence[Store]) -> None:
    """Raise IncompatibleError where two intact records of the same level differ."""
    first: dict[int | None, tuple[str, Path]] = {}
    for store in stores:
        for level in _rungs(trial, store):
            record = _sound(trial, level, store)
            if record is not None:
                seal, folder = first.setdefault(level, (record.seal, store.folder))
                if seal != record.seal:
                    what = "what it is" if level is None else f"level {level}"
                    raise IncompatibleError(
                        f"trial {trial}: {what} differs between {folder} and {store.folder} (other data or numerics); "
                        "nothing was merged; leave one of them out"
                    )


def _bring(trial: str, source: Store, target: Store, done: Merged) -> None:
    """Copy what `target` lacks of a trial of `source`."""
    levels, there = _rungs(trial, source), _rungs(trial, target)
    sound = {level: record for level in there if (record := _sound(trial, level, target)) is not None}
    seals = {record.seal for record in sound.values()}
    lacking = [level for level in levels if level not in sound]
    done.known += len(levels) - len(lacking)
    with target.lock(trial) if lacking else nullcontext():
        for level in lacking:
            try:
                record, blobs = _checked(trial, level, source, seals)
            except DamagedError as damage:
                done.damages.append(str(damage))
                continue
            for blob in blobs:
                target.put_blob(blob)
            if level is not None:
                target.put_hint(record.body["training"], trial, level)
                if not target.facts(trial, level):
                    target.put_facts(trial, level, source.facts(trial, level))
            if level in there and target.set_aside(trial, level).exists():
                done.repaired += 1
            target.put_record(trial, level, record.body)  # last: whoever finds it, finds all the rest
            seals.add(record.seal)
            done.new += 1
            done.bytes += sum(map(len, blobs))
        for level in levels:
            if level is not None:
                _bring_findings(trial, level, source, target)
    if (problem := source.failure(trial)) and not target.failure(trial):
        target.put_failure(trial, problem)


def _bring_findings(trial: str, level: int, source: Store, target: Store) -> None:
    """Copy what was found of a level in `source` and not in `target`; damaged ones can be made again."""
    record = _sound(trial, level, target)
    if record is None:
        return
    known = target.findings(record)
    for name, found in source.findings(record).items():
        if name not in known:
            with suppress(DamagedError):
                for blob in [source.blob(digest) for digest in found.body["blobs"].values()]:
                    target.put_blob(blob)
                target.put_finding(trial, level, name, found.body)


def _checked(trial: str, level: int | None, source: Store, seals: Collection[str]) -> tuple[Record, list[bytes]]:
    """A record with its blobs. Raises DamagedError where one does not match its seal, or its parent is not there."""
    record = source.record(trial, level)
    where = f"{source.folder}: trial {trial}"
    if record is None:
        raise DamagedError(f"{where}: no record of what it is")
    if level is not None and record.body["parent"] not in seals:
        raise DamagedError(f"{where}: level {level} follows from a level that is damaged or missing")
    return record, [source.blob(digest) for digest in record.body["blobs"].values()]


def _sound(trial: str, level: int | None, store: Store) -> Record | None:
    with suppress(DamagedError):
        return store.record(trial, level)
    return None


def _rungs(trial: str, *stores: Store) -> list[int | None]:
    """The levels that have a file, in order; the trial's own record, which is level None, first."""
    names = (path.stem for store in stores for path in (store.folder / "trials" / trial).glob("level-*.json"))
    return [None, *sorted({int(name[6:]) for name in names if name[6:].isdecimal()})]
