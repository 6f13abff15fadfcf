"""The store: sealed records and content-addressed blobs; the only module that writes results (through `disk`).

    STORE/objects/ab/cdef...           blobs, named by the SHA-256 of their bytes
    STORE/trials/DIGEST/trial.json     sealed: what the trial is, its data and its noise
    STORE/trials/DIGEST/level-007.json sealed: what level 7 gave, and the seal of level 6
    STORE/findings/DIGEST/level-007/distance.json   sealed: a diagnosis, and the seal of the level it was made from
    STORE/facts/DIGEST/level-007.json  not sealed: when, where and how long
    STORE/facts/runs/NAME.json         not sealed: what a whole run took
    STORE/hints/ab/cdef...             not sealed: which record holds a training, by the content of what it began from
    STORE/quarantine/                  damaged files, set aside
    STORE/locks/, STORE/tmp/, STORE/logs/

A file appears under its name complete or not at all: written to tmp/, synced, renamed, its folder synced. Blobs
first, then the record that names them. A level is done when a valid sealed record says so, never because a file exists.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prunephase import disk
from prunephase.errors import DamagedError, IncompatibleError, LockedError
from prunephase.trial import Trial, canonical_json

FORMAT = 1
LOCK_PATIENCE = 1.0  # seconds: an orphaned worker needs a moment to die, a `status` to look

_DIGEST = re.compile("[0-9a-f]{64}")
_HINT = re.compile(r"([0-9a-f]{16}) (\d{1,7})")
_LEVEL = re.compile(r"level-(\d{3,7})\.json")


@dataclass(frozen=True)
class Record:
    """A sealed record: its fields, and the SHA-256 that seals them and by which the next record names it."""

    body: dict[str, Any]
    seal: str


Ends = Callable[["Store", Trial, Sequence[Record]], int | None]


class Store:
    """A folder of results. Reading never writes; everything written is synced before the call returns.

    ends: the level at which a stop rule ended the ladder of a trial, from its level records; None where none did.
    Raises StorageError where the disk refuses: full, read-only, failing.
    """

    def __init__(self, folder: str | Path, ends: Ends | None = None) -> None:
        self.folder, self.ends = Path(folder), ends

    # -- reading

    def record(self, trial: str, level: int | None = None) -> Record | None:
        """The record of a level (or of the trial itself), None where there is none. Raises DamagedError."""
        path = self._record_path(trial, level)
        data = disk.read(path)
        return None if data is None else _unseal(data, path, {"trial": trial, "level": level})

    def finding(self, trial: str, level: int, name: str) -> Record | None:
        """What the diagnosis `name` found at a level, None where it was not made. Raises DamagedError."""
        path = self._finding_path(trial, level, name)
        data = disk.read(path)
        return None if data is None else _unseal(data, path, {"trial": trial, "level": level, "diagnosis": name})

    def findings(self, record: Record) -> dict[str, Record]:
        """The intact findings that were made from this very level record, by diagnosis."""
        folder = self._finding_path(record.body["trial"], record.body["level"], "any").parent
        found: dict[str, Record] = {}
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            with suppress(DamagedError, IncompatibleError):
                one = _unseal(disk.read(path) or b"", path, {key: record.body[key] for key in ("trial", "level")})
                if one.body["parent"] == record.seal:
                    found[one.body["diagnosis"]] = one
        return found

    def blob(self, digest: str) -> bytes:
        """The bytes named `digest`. Raises DamagedError where they are missing or altered."""
        path = self._blob_path(digest)
        data = disk.read(path) if _DIGEST.fullmatch(digest) else None
        if data is None:
            raise DamagedError(f"{path}: missing")
        if hashlib.sha256(data).hexdigest() != digest:
            raise DamagedError(f"{path}: content does not match its name")
        return data

    def levels(self, trial: Trial) -> list[Record]:
        """The level records in order, as far as each follows from the one it builds on.

        That is the unbroken chain to the trial's last level or to one missing, damaged or foreign; where levels stand
        side by side, all that follow from the dense one. None is deeper than where a stop rule ended the ladder.
        """
        return self.ladder(trial)[0]

    def ladder(self, trial: Trial) -> tuple[list[Record], int | None]:
        """The level records, as `levels` gives them, and the level at which a stop rule ended the ladder."""
        name = trial.digest()
        found: dict[int | None, Record] = {}
        for level in (None, *range(trial.pruning.levels + 1)):
            with suppress(DamagedError):
                record = self.record(name, level)
                above = found.get(trial.builds_on(level)) if level is not None else None
                if record is not None and (level is None or (above and record.body["parent"] == above.seal)):
                    found[level] = record
            if level not in found and not (level and trial.side_by_side):
                break
        found.pop(None, None)
        chain = list(found.values())
        end = None if self.ends is None else self.ends(self, trial, chain)
        return (chain if end is None else [record for record in chain if record.body["level"] <= end]), end

    def missing(self, trial: Trial) -> int:
        """How many levels are still to be trained; a ladder that ended by diverging or by a stop rule has none."""
        chain, end = self.ladder(trial)
        if end is not None:
            return 0
        last = 0 if trial.side_by_side else -1
        return 0 if chain and chain[last].body["status"] != "ok" else trial.pruning.levels + 1 - len(chain)

    def hinted(self, key: str) -> Record | None:
        """The level record that the training named `key` gave, None where none is known. Raises DamagedError."""
        hint = _HINT.fullmatch((disk.read(self._hint_path(key)) or b"").decode(errors="replace"))
        if hint is None:
            return None
        found = self.record(hint[1], int(hint[2]))
        return found if found is not None and found.body.get("training") == key else None

    def facts(self, trial: str, level: int) -> dict[str, Any]:
        """When, where and how long a level ran; empty where unknown."""
        try:
            found = json.loads(disk.read(self.folder / "facts" / trial / _level_name(level)) or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def runs(self) -> dict[str, dict[str, Any]]:
        """What is known of whole runs, by name; what cannot be read is left out."""
        found = {}
        for path in sorted((self.folder / "facts" / "runs").glob("*.json")):
            with suppress(ValueError):
                facts = json.loads(disk.read(path) or b"null")
                if isinstance(facts, dict):
                    found[path.stem] = facts
        return found

    def trials(self) -> list[str]:
        """Digests of all trials that have begun."""
        folder = self.folder / "trials"
        return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []

    def damages(self) -> list[str]:
        """Every seal and every blob re-checked: one line per damaged, missing or foreign file."""
        lines: list[str] = []
        named: dict[str, None] = {}
        for trial in self.trials():
            seals: set[str] = set()
            for path, level in self._records(trial, lines):
                try:
                    found = self.record(trial, level)
                except (DamagedError, IncompatibleError) as damage:
                    lines.append(str(damage))
                    continue
                if found is None:  # taken away by a running study
                    continue
                if level is not None and found.body["parent"] not in seals:
                    lines.append(f"{path}: does not follow from a record before it")
                seals.add(found.seal)
                named |= dict.fromkeys(found.body["blobs"].values())
        for path in sorted((self.folder / "findings").glob("*/*/*")):
            try:
                body = _unseal(disk.read(path) or b"", path, {}).body
                if path != self._finding_path(body["trial"], body["level"], str(body.get("diagnosis"))):
                    lines.append(f"{path}: the finding of another level or diagnosis")
                named |= dict.fromkeys(body["blobs"].values())
            except (DamagedError, IncompatibleError) as damage:
                lines.append(str(damage))
        named |= {p.parent.name + p.name: None for p in sorted((self.folder / "objects").glob("*/*"))}
        for digest in named:
            try:
                self.blob(digest)
            except DamagedError as damage:
                lines.append(str(damage))
        return lines

    # -- writing

    def put_blob(self, data: bytes) -> str:
        """Keep `data` under its SHA-256, which is returned."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._blob_path(digest)
        self._keep(path, data, replace=True)
        return digest

    def put_record(self, trial: str, level: int | None, body: Mapping[str, Any]) -> Record:
        """Seal and keep a record. Writing the same record again changes nothing.

        Raises IncompatibleError where an intact but different record of the same level stands: the run is not
        reproducible here, and neither version is thrown away.
        """
        sealed, data = _seal({**body, "trial": trial, "level": level})
        path = self._record_path(trial, level)
        if not self._keep(path, data, replace=False):
            rival = self._aside(f"{trial}-{path.name}-rival")
            self._write(rival, data)
            raise IncompatibleError(
                f"{path}: a repeated run gave another result, kept as {rival}; not reproducible on this machine"
            )
        return sealed

    def put_finding(self, trial: str, level: int, name: str, body: Mapping[str, Any]) -> Record:
        """Seal and keep what a diagnosis found, in place of what it found before: it can always be made again."""
        sealed, data = _seal({**body, "trial": trial, "level": level, "diagnosis": name})
        self._keep(self._finding_path(trial, level, name), data, replace=True)
        return sealed

    def put_hint(self, key: str, trial: str, level: int) -> None:
        """Note which record holds the training named `key`. A hint that is lost or wrong costs a training, no more."""
        path = self._hint_path(key)
        if disk.read(path) is None:
            disk.write(path, f"{trial} {level}".encode(), self.folder / "tmp", durable=False)

    def put_facts(self, trial: str, level: int, facts: Mapping[str, Any]) -> None:
        """Keep what varies between equal runs, beside the record."""
        path = self.folder / "facts" / trial / _level_name(level)
        disk.write(path, canonical_json(facts), self.folder / "tmp", durable=False)

    def put_run(self, name: str, facts: Mapping[str, Any]) -> None:
        """Keep what a whole run took, beside the facts of its levels."""
        path = self.folder / "facts" / "runs" / f"{name}.json"
        disk.write(path, canonical_json(facts), self.folder / "tmp", durable=False)

    def put_failure(self, trial: str, text: str | None) -> None:
        """Keep why a trial last failed, for a person to read; None: it did not."""
        path = self.folder / "facts" / trial / "failure.txt"
        if text is not None or path.exists():
            self._write(path, (text or "").encode())

    def failure(self, trial: str) -> str:
        """Why a trial last failed, in one line; empty where it did not."""
        return (disk.read(self.folder / "facts" / trial / "failure.txt") or b"").decode(errors="replace")

    def put_log(self, name: str, text: str) -> Path:
        """Keep a text for a person to read, such as the traceback of a crash."""
        path = self.folder / "logs" / name
        self._write(path, text.encode())
        return path

    def sound(self, trial: str, level: int | None) -> tuple[Record | None, list[str]]:
        """The record, if it and all its blobs are intact; what is damaged is set aside, and said in one line each."""
        what = "trial record" if level is None else f"level {level}"
        try:
            found = self.record(trial, level)
        except DamagedError as damage:
            place = self.set_aside(trial, level)
            return None, [f"{what} damaged ({damage}): moved to {place}, made again"]
        for digest in found.body["blobs"].values() if found else ():
            try:
                self.blob(digest)
            except DamagedError as damage:
                place = self.set_aside(trial, blob=digest)
                # The record itself stays: when the level is made again it must come out the same.
                return None, [f"{what}: {damage}: moved to {place}, made again"]
        return found, []

    def set_aside(self, trial: str, level: int | None = None, blob: str | None = None) -> Path:
        """Move a damaged record (or blob) to quarantine, where it can be looked at. Returns its new place."""
        path = self._blob_path(blob) if blob else self._record_path(trial, level)
        target = self._aside(f"{trial}-{path.name}")
        disk.move(path, target)
        return target

    def holder(self, name: str) -> str | None:
        """Who holds `name` now, in words; None where nobody does."""
        path = self.folder / "locks" / f"{name}.lock"
        if not path.exists():
            return None
        probe = FileLock(path)
        try:
            probe.acquire(timeout=0)
        except Timeout:
            return _holder(path)
        except OSError:  # a folder that we may only read: nobody can be seen to hold anything
            return None
        probe.release()
        return None

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold `name` (a study or a trial) while the block runs; the system releases it when the process dies.

        Raises LockedError, with the holder, where another living process holds it.
        """
        path = self.folder / "locks" / f"{name}.lock"
        holder = path.with_suffix(".holder")
        with disk.refusals(path):
            disk.make_folder(path.parent)
            held = FileLock(path)
            try:
                held.acquire(timeout=LOCK_PATIENCE, poll_interval=0.05)
            except Timeout:
                problem = f"{self.folder}: being run by {_holder(path)}; wait, or use another --store"
                raise LockedError(problem) from None
        try:
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            self._write(holder, f"pid {os.getpid()} on {socket.gethostname()} since {since}".encode())
            yield
        finally:
            held.release()

    @contextmanager
    def claim(self, key: str | None) -> Iterator[bool]:
        """Whether the training named `key` is ours while the block runs: no other process claims it (None: nobody)."""
        if key is None:
            yield True
            return
        path = self.folder / "locks" / f"training-{key[:32]}.lock"
        with disk.refusals(path):
            disk.make_folder(path.parent)
            held = FileLock(path)
            with suppress(Timeout):
                held.acquire(timeout=0)
        try:
            yield held.is_locked
        finally:
            held.release()

    def scratch(self, name: str) -> Path:
        """Where this process may keep files that nobody needs after it."""
        return disk.scratch_name(self.folder / "tmp", name)

    @contextmanager
    def scratching(self, folder: Path) -> Iterator[Path]:
        """A scratch folder, removed at the end; refusals of the disk are storage errors."""
        try:
            with disk.refusals(folder):
                disk.make_folder(folder)
            yield folder
        finally:
            disk.remove(folder)

    def sweep(self) -> None:
        """Remove what killed writers left behind. Call it while holding the study."""
        disk.sweep(self.folder / "tmp")

    def _keep(self, path: Path, data: bytes, *, replace: bool) -> bool:
        """See to it that `path` holds `data`; False where it holds something else that may not be replaced."""
        standing = disk.read(path)
        if standing == data:
            with disk.refusals(path):
                disk.sync_folder(path.parent)  # whoever wrote it may have been killed before doing so
        elif standing is None or replace:
            self._write(path, data)
        else:
            return False
        return True

    def _records(self, trial: str, lines: list[str]) -> list[tuple[Path, int | None]]:
        """Paths and levels of a trial's records in order; what is no record becomes one of `lines`."""
        found: list[tuple[Path, int | None]] = []
        for path in (self.folder / "trials" / trial).iterdir():
            match = _LEVEL.fullmatch(path.name)
            level = int(match[1]) if match else None
            if path == self._record_path(trial, level) and path.is_file():
                found.append((path, level))
            else:
                lines.append(f"{path}: not a record")
        return sorted(found, key=lambda record: -1 if record[1] is None else record[1])

    def _write(self, path: Path, data: bytes) -> None:
        disk.write(path, data, self.folder / "tmp")

    def _record_path(self, trial: str, level: int | None) -> Path:
        return self.folder / "trials" / trial / ("trial.json" if level is None else _level_name(level))

    def _finding_path(self, trial: str, level: int, name: str) -> Path:
        folder = self.folder / "findings" / trial / _level_name(level).removesuffix(".json")
        return folder / f"{name.replace(':', '.')}.json"

    def _blob_path(self, digest: str) -> Path:
        return self.folder / "objects" / digest[:2] / digest[2:]

    def _hint_path(self, key: str) -> Path:
        return self.folder / "hints" / key[:2] / key[2:]

    def _aside(self, name: str) -> Path:
        folder = self.folder / "quarantine"
        return next(p for i in range(10**6) if not (p := folder / f"{name}.{i}").exists())


def _level_name(level: int) -> str:
    return f"level-{level:03d}.json"


def _seal(body: Mapping[str, Any]) -> tuple[Record, bytes]:
    """A record and the file that holds it."""
    fields = {**body, "format": FORMAT}
    seal = hashlib.sha256(canonical_json(fields)).hexdigest()
    return Record(fields, seal), canonical_json({"record": fields, "seal": seal}) + b"\n"


def _unseal(data: bytes, path: Path, expected: Mapping[str, Any]) -> Record:
    """The record in `data`. Every byte counts: spelling, seal, and that the record belongs where it lies."""
    try:
        found = json.loads(data)
        body, seal = found["record"], found["seal"]
        intact = data == canonical_json(found) + b"\n" and seal == hashlib.sha256(canonical_json(body)).hexdigest()
        # A blob's name becomes a path: what is not a digest could lead out of the store.
        intact = intact and all(_DIGEST.fullmatch(digest) for digest in body["blobs"].values())
        intact = intact and (body["level"] is None or isinstance(body["parent"], str))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise DamagedError(f"{path}: does not match its seal")
    if body.get("format") != FORMAT:
        raise IncompatibleError(f"{path}: format {body.get('format')}; this version reads format {FORMAT}")
    if any(body.get(key) != value for key, value in expected.items()):
        raise DamagedError(f"{path}: the record of another level or trial")
    return Record(body, seal)


def _holder(lock: Path) -> str:
    return (disk.read(lock.with_suffix(".holder")) or b"another process").decode(errors="replace")
