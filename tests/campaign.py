"""Kill campaigns: a small study killed at every operation of its store, resumed, and compared byte by byte.

    python tests/campaign.py                       every point of the study, then 200 double kills
    python tests/campaign.py --faults              the same on planted faults: each must be caught
    python tests/campaign.py --kills 0 --double 500 --seeds 2

torch is imported once; every run is a forked child. Prints one JSON object; exit code 1 where something was lost.
"""

# ruff: noqa: ARG001, ARG005 (stand-ins take what the real ones take)

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OPERATIONS = ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir")

STUDY: dict[str, Any] = {
    "name": "tiny",
    "seeds": [0],
    "data": {"source": "digits", "train": 120, "validation": 0.02, "test": 0.02},
    "noise": {"kind": "symmetric-flip", "rate": 0.2},
    "model": {"name": "mlp", "kwargs": {"widths": [16]}},
    "recipe": {"epochs": 1, "batch_size": 32, "momentum": 0.9},
    "pruning": {"levels": 3},
    "restart": {"to": "2it"},
}


class FaultyOs:
    """`os` as the store sees it, counting its operations; `strike(n, name, arguments)` is called before the n-th.

    Where it returns a number, that is the result of the operation, which then does not take place.
    """

    def __init__(self, strike: Callable[[int, str, tuple[Any, ...]], Any] = lambda *_: None) -> None:
        self.count, self.log, self.strike = 0, list[str](), strike

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in OPERATIONS:
            return real

        def counted(*arguments: Any, **more: Any) -> Any:
            self.count += 1
            self.log.append(name)
            answer = self.strike(self.count, name, arguments)
            return real(*arguments, **more) if answer is None else answer

        return counted


def kill_at(point: int, *, torn: bool = False) -> FaultyOs:
    """Kills this process before operation `point`; `torn`: after half the bytes of that write."""

    def strike(count: int, name: str, arguments: tuple[Any, ...]) -> None:
        if count == point:
            if torn and name == "write":
                os.write(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    return FaultyOs(strike)


def tree(store: Path) -> dict[str, bytes]:
    """Everything in a store that equal runs must have equal: records and blobs."""
    places = (p for folder in ("trials", "objects", "findings") for p in sorted((store / folder).rglob("*")))
    return {str(p.relative_to(store)): p.read_bytes() for p in places if p.is_file()}


@dataclass
class Run:
    """What a forked run did: levels it reported as newly done and as found, notes, exit code (None: killed)."""

    done: set[tuple[str, int]] = field(default_factory=set)
    found: set[tuple[str, int]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    code: int | None = None
    operations: list[str] = field(default_factory=list)


def forked(store: Path, fields: dict[str, Any], system: FaultyOs) -> Run:
    """Run the study in a child, in which the store's `os` is `system`. Events arrive as they happen, through a pipe."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 99
        try:
            code = _child(store, fields, system, writer)
        except BaseException as problem:
            _tell(writer, "note", f"{type(problem).__name__}: {problem}")
        finally:
            _tell(writer, "operations", system.log)
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        lines = [json.loads(line) for line in pipe]
    status = os.waitpid(child, 0)[1]
    run = Run(code=None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
    for kind, what in lines:
        if kind == "note":
            run.notes.append(what)
        elif kind == "operations":
            run.operations = what
        else:
            getattr(run, kind).add(tuple(what))
    return run


def _tell(pipe: int, kind: str, what: Any) -> None:
    os.write(pipe, (json.dumps([kind, what]) + "\n").encode())


def _child(store: Path, fields: dict[str, Any], system: FaultyOs, pipe: int) -> int:
    import prunephase.disk
    from prunephase import runs, study

    def observe(_trial: Any, event: Any) -> None:
        if hasattr(event, "cached"):
            _tell(pipe, "found" if event.cached else "done", [event.trial, event.level])
        elif hasattr(event, "text"):
            _tell(pipe, "note", event.text)
        elif getattr(event, "problem", None):
            _tell(pipe, "note", event.problem)

    prunephase.disk.os = system  # type: ignore[attr-defined]
    return runs.train(study.parse(fields), store, workers=1, observe=observe).code


class Campaign:
    """Kills one study at chosen points and collects what went wrong."""

    def __init__(self, folder: Path, fields: dict[str, Any]) -> None:
        self.folder, self.fields, self.kills = folder, fields, 0
        self.problems: list[str] = []
        whole = forked(folder / "whole", fields, FaultyOs())
        assert whole.code == 0, whole.notes
        assert not whole.notes, whole.notes
        self.operations, self.bytes = whole.operations, tree(folder / "whole")

    def points(self) -> Iterator[tuple[int, bool]]:
        """Before every operation, and within every write."""
        for point, name in enumerate(self.operations, start=1):
            yield point, False
            if name == "write":
                yield point, True

    def try_at(self, *points: tuple[int, bool]) -> bool:
        """Kill at each point in turn, then run to the end; whether all was as it should be."""
        from prunephase.store import Store

        store = self.folder / "killed"
        shutil.rmtree(store, ignore_errors=True)
        safe: set[tuple[str, int]] = set()
        before = len(self.problems)
        say = f"killed at {', '.join(f'{n}{chr(189) if torn else str()}' for n, torn in points)}"
        for n, torn in points:
            run = forked(store, self.fields, kill_at(n, torn=torn))
            self.kills += run.code is None
            self._judge(say, run, safe)
            if damages := Store(store).damages():
                self.problems.append(f"{say}: left behind {damages[0]}")
        last = forked(store, self.fields, FaultyOs())
        self._judge(say, last, safe)
        if last.code != 0:
            self.problems.append(f"{say}: the next run ends with code {last.code}")
        if tree(store) != self.bytes:
            self.problems.append(f"{say}: records or blobs differ from those of a whole run")
        if left := [str(p) for p in (*store.glob("tmp/*"), *store.glob("quarantine/*"))]:
            self.problems.append(f"{say}: left behind {left[0]}")
        return len(self.problems) == before

    def _judge(self, say: str, run: Run, safe: set[tuple[str, int]]) -> None:
        if lost := safe & run.done:
            self.problems.append(f"{say}: finished levels were trained again: {sorted(lost)}")
        if run.code == 0 and not safe <= run.found:
            self.problems.append(f"{say}: finished levels were lost: {sorted(safe - run.found)}")
        self.problems += [f"{say}: {note}" for note in run.notes]
        safe |= run.done


# -- planted faults: what a careless store would do


def _in_place(self: Any, path: Path, data: bytes) -> None:
    """No temporary file."""
    import prunephase.disk as module

    module.make_folder(path.parent)
    handle = module.os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666)
    module.os.write(handle, data)
    os.close(handle)


def _existing(self: Any, trial: str, level: int | None = None) -> Any:
    """Done because the file exists: no seal, no look at what it holds."""
    import prunephase.store as module

    path = self._record_path(trial, level)
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        body = {
            "trial": trial,
            "level": level,
            "parent": "",
            "blobs": {},
            "status": "ok",
            "sparsity": 0.0,
            "epochs": {},
        }
        return module.Record(body, "")
    return module.Record(found["record"], found["seal"])


@contextmanager
def planted(fault: str) -> Iterator[None]:
    """The library with one fault in it."""
    import numpy as np

    from prunephase import ladder, streams
    from prunephase.events import LevelDone
    from prunephase.store import Store

    saved = {(owner, name): getattr(owner, name) for owner, name in _PLACES}
    if fault == "writes in place":
        Store._write = _in_place  # type: ignore[method-assign]
    elif fault == "writes in place, done because the file exists":
        Store._write, Store.record = _in_place, _existing  # type: ignore[method-assign]
    elif fault == "record before blobs":
        late: list[tuple[Any, bytes]] = []
        put_blob, put_record = Store.put_blob, Store.put_record

        def later(self: Store, data: bytes) -> str:
            import hashlib

            late.append((self, data))
            return hashlib.sha256(data).hexdigest()

        def first(self: Store, *arguments: Any) -> Any:
            record = put_record(self, *arguments)
            while late:
                put_blob(*late.pop(0))
            return record

        Store.put_blob, Store.put_record = later, first  # type: ignore[method-assign]
    elif fault == "says done before it is":
        level_ = ladder._level

        def early(trial: Any, level: int, *rest: Any) -> Any:
            yield LevelDone(trial.digest(), level, 0.0, 1, "ok", {}, False)
            return (yield from level_(trial, level, *rest))

        ladder._level = early  # type: ignore[assignment]
    elif fault == "trains finished levels again":
        sound = Store.sound
        again = lambda self, name, level: sound(self, name, None) if level is None else (None, [])  # noqa: E731
        Store.sound = again  # type: ignore[assignment,method-assign]
    elif fault == "leaves temporary files":
        Store.sweep = lambda self: None  # type: ignore[method-assign]
    elif fault == "one stream for everything":
        stream = np.random.default_rng(0)
        streams.generator = lambda *_: stream
    elif fault == "the time in the record":
        put = Store.put_record

        def timed(self: Store, trial: str, level: int | None, body: Any) -> Any:
            return put(self, trial, level, {**body, "when": time.time()})

        Store.put_record = timed  # type: ignore[method-assign]
    else:
        raise ValueError(fault)
    try:
        yield
    finally:
        for (owner, name), value in saved.items():
            setattr(owner, name, value)


FAULTS = (
    "writes in place",
    "writes in place, done because the file exists",
    "record before blobs",
    "says done before it is",
    "trains finished levels again",
    "leaves temporary files",
    "one stream for everything",
    "the time in the record",
)
_PLACES: list[tuple[Any, str]] = []


def _places() -> list[tuple[Any, str]]:
    from prunephase import ladder, streams
    from prunephase.store import Store

    methods = ("_write", "record", "put_blob", "put_record", "sound", "sweep")
    return [*((Store, name) for name in methods), (ladder, "_level"), (streams, "generator")]


# -- the command


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=-1, help="single kills, spread evenly; -1: every point")
    parser.add_argument("--double", type=int, default=200, help="double kills, at random points of both runs")
    parser.add_argument("--seeds", type=int, default=1, help="trials of the study")
    parser.add_argument("--faults", action="store_true", help="plant faults; each must be caught")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    from prunephase import data, runs, study

    _PLACES[:] = _places()
    fields = {**STUDY, "seeds": list(range(options.seeds))}
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # kill -9 does not need a disk
    with tempfile.TemporaryDirectory(prefix="prunephase-campaign-", dir=fast) as name:
        folder = Path(name)
        runs.train(study.parse(fields), folder / "warm", workers=1)  # what torch imports late, before any fork
        loaded = {repr(t.data): data.load(t.data) for t in study.parse(fields).trials}
        data.load = lambda spec, *_: loaded[repr(spec)]  # type: ignore[assignment]
        start = time.monotonic()
        answer = _plant(folder, fields) if options.faults else _kill(folder, fields, options.kills, options.double)
    answer["seconds"] = round(time.monotonic() - start, 1)
    print(json.dumps(answer))
    return 0 if answer["passed"] else 1


def _kill(folder: Path, fields: dict[str, Any], kills: int, double: int) -> dict[str, Any]:
    campaign = Campaign(folder, fields)
    points = list(campaign.points())
    if kills >= 0:
        points = points[:: max(1, -(-len(points) // kills))] if kills else []
    good = sum(campaign.try_at(point) for point in points)
    draw = random.Random(0)
    pairs = []
    for _ in range(double):
        first = draw.choice(list(campaign.points()))
        # A resumed run is shorter; a point beyond its end is no kill, so keep to its first half most of the time.
        rest = max(2, len(campaign.operations) - first[0])
        pairs.append((first, (draw.randint(1, rest), draw.random() < 0.3)))
    good_pairs = sum(campaign.try_at(*pair) for pair in pairs)
    return {
        "operations": len(campaign.operations),
        "single": {"points": len(points), "good": good},
        "kills": campaign.kills,
        "double": {"points": len(pairs), "good": good_pairs},
        "problems": campaign.problems[:10],
        "passed": not campaign.problems,
    }


def _plant(folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Each fault, until the campaign catches it: {fault: the first problem seen}."""
    caught: dict[str, str | None] = {}
    for fault in FAULTS:
        with planted(fault):
            shutil.rmtree(folder / "whole", ignore_errors=True)
            campaign = Campaign(folder, fields)
            points = list(campaign.points())
            random.Random(0).shuffle(points)
            caught[fault] = None if all(campaign.try_at(point) for point in points) else campaign.problems[0]
    return {"caught": caught, "passed": all(caught.values())}


if __name__ == "__main__":
    sys.exit(main())
