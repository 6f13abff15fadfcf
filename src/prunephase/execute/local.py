"""This machine: one process per core, one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from prunephase.errors import Exit, PrunephaseError
from prunephase.trial import Trial

ATTEMPTS = 3  # a trial whose worker dies is begun again, at its last sealed level, this often in all
LONGEST = 160  # characters of somebody else's error that are shown; its log holds the rest
PATIENCE = 5.0  # seconds a worker gets to end by itself before it is killed


@dataclass(frozen=True)
class Finished:
    """The end of one trial. problem: None, or one line; code: the exit code it asks for; trace: of the unforeseen."""

    problem: str | None = None
    code: int = Exit.OK
    trace: str = ""


@dataclass(frozen=True)
class Retried:
    """The worker of a trial died and another one goes on with it; text: one line."""

    text: str


Work = Callable[[Trial], Iterable[Any]]


def map(work: Work, trials: Sequence[Trial], workers: int = 1) -> Generator[tuple[Trial, Any], None, None]:
    """Run `work(trial)` for every trial on `workers` processes; see the package for what is yielded.

    A trial that raises does not stop the others. A worker that dies (killed, out of memory) is replaced. Closing the
    iterator ends all workers; they also end by themselves when this process dies. With one worker everything happens
    in this process.
    """
    if workers <= 1:
        with _one_thread():
            for trial in trials:
                for event in _events(work, trial):
                    yield trial, event
        return
    waiting = deque((trial, 1) for trial in trials)
    pool: list[_Worker] = []
    try:
        while waiting or any(w.job for w in pool):
            while waiting and len(pool) < workers and len([w for w in pool if not w.job]) == 0:
                pool.append(_start(work))
            for worker in pool:
                if waiting and worker.job is None:
                    worker.job = waiting.popleft()
                    with suppress(OSError):  # a worker that died while idle shows below, as the end of its pipe
                        worker.pipe.send(worker.job[0])
            for ready in wait([w.pipe for w in pool if w.job]):
                worker = next(w for w in pool if w.pipe is ready)
                assert worker.job is not None
                trial, attempt = worker.job
                try:
                    event = worker.pipe.recv()
                except (EOFError, OSError):
                    pool.remove(worker)
                    code = worker.end()
                    if attempt < ATTEMPTS:
                        waiting.append((trial, attempt + 1))
                        yield (
                            trial,
                            Retried(f"its worker died ({_how(code)}); another goes on after the last finished level"),
                        )
                    else:
                        problem = f"its worker died {ATTEMPTS} times ({_how(code)}; out of memory?)"
                        yield trial, Finished(problem, Exit.PARTIAL)
                    continue
                if isinstance(event, Finished):
                    worker.job = None
                yield trial, event
    finally:
        for worker in pool:
            worker.process.terminate()
        for worker in pool:
            worker.end()


def default_workers() -> int:
    """One per core this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: tuple[Trial, int] | None = field(default=None)

    def end(self) -> int | None:
        self.pipe.close()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _how(code: int | None) -> str:
    return f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _start(work: Work) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    with _undisturbed():
        process.start()
    theirs.close()
    with suppress(OSError):  # as in `map`
        ours.send(work)
    return _Worker(process, ours)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Start a child that knows nothing of Ctrl-C and of the caller's script; signals to us wait until it stands.

    Ctrl-C reaches the whole process group; the parent answers it, children must not even at import time: they inherit
    the blocked signal. An interrupt half-way would leave a child that nobody knows. And a spawned child would import
    the main module again: without its `if __name__ == "__main__"` a plain script would run itself.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
    handlers = {n: signal.signal(n, lambda number, _frame: arrived.append(number)) for n in numbers}
    blocks = in_main_thread and hasattr(signal, "pthread_sigmask")
    if blocks:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        if blocks:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
    for signum in arrived[:1]:
        signal.raise_signal(signum)


def _serve(pipe: Connection) -> None:
    """A worker's life: the work and then trials in, events out, until the parent closes the pipe or dies."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        work: Work = pipe.recv()  # imports torch, for seconds, in which the parent may die
        with _one_thread():
            while True:
                trial = pipe.recv()
                for event in _events(work, trial):
                    pipe.send(event)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: more would fight over the core, and change the last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _events(work: Work, trial: Trial) -> Iterator[Any]:
    try:
        yield from work(trial)
    except PrunephaseError as problem:
        yield Finished(str(problem), problem.code)
    except (Exception, SystemExit) as problem:  # the user's code runs in here
        text = " ".join(f"{type(problem).__name__}: {problem}".split())
        yield Finished(text if len(text) <= LONGEST else text[: LONGEST - 3] + "...", Exit.BUG, traceback.format_exc())
    else:
        yield Finished()
