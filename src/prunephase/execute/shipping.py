"""Shipping: what a trial has in one store, on its way to another that shares no folder with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from prunephase.errors import DamagedError, UserError
from prunephase.events import Diagnosed, LevelDone, Note
from prunephase.store import Record, Store
from prunephase.study import family
from prunephase.task import Task
from prunephase.teacher import find
from prunephase.trial import Trial


@dataclass(frozen=True)
class Parcel:
    """Records in order, findings, blobs that they name, and what is known of (trial, level) beside its record."""

    records: Sequence[Record] = ()
    findings: Sequence[Record] = ()
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    facts: Mapping[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)

    def unpack(self, store: Store) -> None:
        """Put everything where it belongs, blobs first. Raises StorageError, IncompatibleError."""
        for digest, data in self.blobs.items():
            assert store.put_blob(data) == digest, "a blob changed on its way"
        for record in self.records:
            trial, level = record.body["trial"], record.body["level"]
            assert store.put_record(trial, level, record.body).seal == record.seal, "a record changed on its way"
            if level is not None:
                store.put_hint(record.body["training"], trial, level)
        for found in self.findings:
            body = found.body
            kept = store.put_finding(body["trial"], body["level"], body["diagnosis"], body)
            assert kept.seal == found.seal, "a finding changed on its way"
        for (trial, level), facts in self.facts.items():
            store.put_facts(trial, level, facts)

    def names(self) -> set[str]:
        """Seals and digests: what whoever unpacks this has then."""
        return {*self.blobs, *(record.seal for record in (*self.records, *self.findings))}


def relatives(trials: Iterable[Trial]) -> dict[bytes, list[Trial]]:
    """Trials by what their dense level depends on."""
    found: dict[bytes, list[Trial]] = defaultdict(list)
    for trial in trials:
        found[family(trial)].append(trial)
    return found


def everything(
    store: Store, tasks: Sequence[Task], kin: Mapping[bytes, Sequence[Trial]]
) -> tuple[Parcel, list[tuple[Task, Note]]]:
    """All that a worker needs to go on with `tasks`; what is found damaged is set aside and said.

    kin: trials by family; where one of them has trained the dense level already, it goes along.
    """
    packer, notes = _Packer(store, set()), list[tuple[Task, Note]]()
    for task in tasks:
        trial, source = task.trial, task.trial.source_trial()
        packer.teacher(trial)
        for level in (None, *(task.levels or range(trial.pruning.levels + 1))):
            found, lines = store.sound(trial.digest(), level)
            notes += [(task, Note(trial.digest(), line)) for line in lines]
            if found is not None:
                packer.add(found)
            if found is not None and level is not None and task.stop is not None:
                packer.findings_of(found)  # its rule goes by them
            if source is not None and level is not None:
                packer.add(_read(store, source, level), "masks")
        if _read(store, trial, 0) is None:
            same = (t for t in kin.get(family(trial), ()) if t.restart.to == trial.restart.to)
            packer.add(next(filter(None, (_read(store, t, 0) for t in same)), None), "weights", "rewound")
    return packer.parcel(), notes


def news(store: Store, done: LevelDone | Diagnosed, known: set[str]) -> Parcel:
    """What came into the store with a level or finding that was just sealed.

    `known` names what the other side has, and grows.
    """
    packer = _Packer(store, known)
    for level in (None, done.level):
        packer.add(record := store.record(done.trial, level))
    if isinstance(done, Diagnosed) and record is not None:
        packer.findings_of(record)
    known |= packer.parcel().names()
    facts = {(done.trial, done.level): store.facts(done.trial, done.level)} if isinstance(done, LevelDone) else {}
    return replace(packer.parcel(), facts=facts)


class _Packer:
    def __init__(self, store: Store, known: set[str]) -> None:
        self.store, self.known = store, known
        self.records: list[Record] = []
        self.findings: list[Record] = []
        self.blobs: dict[str, bytes] = {}

    def add(self, record: Record | None, *only: str) -> None:
        """Put in a record with its blobs (`only` these), unless the other side knows them."""
        if record is not None:
            self._add(record, self.records, {d for name, d in record.body["blobs"].items() if not only or name in only})

    def findings_of(self, record: Record) -> None:
        """Put in what diagnoses found of a level."""
        for found in self.store.findings(record).values():
            self._add(found, self.findings, set(found.body["blobs"].values()))

    def _add(self, record: Record, to: list[Record], named: set[str]) -> None:
        with suppress(DamagedError):  # of another trial, as our own are sound: its own run will say so
            self.blobs |= {d: self.store.blob(d) for d in sorted(named - self.known - self.blobs.keys())}
            if record.seal not in self.known and record not in to:
                to.append(record)

    def teacher(self, trial: Trial) -> None:
        """Put in what `trial` finds its teacher by, and the teacher."""
        with suppress(DamagedError, UserError):  # where none is found, the trial's own run will say so
            if (found := find(self.store, trial)) is not None:
                source = trial.teacher_trial()
                for record in (found.head, *(self.store.levels(source) if source is not None else ())):
                    self.add(record, "nothing")
                self.add(found.record, "weights", "masks")

    def parcel(self) -> Parcel:
        return Parcel(self.records, self.findings, self.blobs)


def _read(store: Store, trial: Trial, level: int) -> Record | None:
    with suppress(DamagedError):
        return store.record(trial.digest(), level)
    return None
