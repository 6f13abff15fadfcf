"""This machine: one process per core, one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from prunephase.errors import Exit
from prunephase.task import Finished, Task, failure

ATTEMPTS = 3  # a trial whose worker dies is begun again, at its last sealed level, this often in all
PATIENCE = 5.0  # seconds a worker gets to end by itself before it is killed


@dataclass(frozen=True)
class Retried:
    """The worker of a task died and another one goes on with it; text: one line."""

    text: str


Group = Sequence[Task]
Work = Callable[[Group], Iterable[tuple[Task, Any]]]


def map(work: Work, groups: Sequence[Group], workers: int = 1) -> Generator[tuple[Task, Any], None, None]:
    """Run `work(group)` for every group on `workers` processes; see the package for what is yielded.

    A task that fails does not stop the others. A worker that dies (killed, out of memory) is replaced. Closing the
    iterator ends all workers; they also end by themselves when this process dies. With one worker everything happens
    in this process.
    """
    if workers <= 1:
        with _one_thread():
            for group in groups:
                yield from _events(work, group)
        return
    waiting = deque((group, 1) for group in groups)
    pool: list[_Worker] = []
    try:
        while waiting or any(w.job for w in pool):
            while len(pool) < min(workers, len(waiting) + sum(w.job is not None for w in pool)):
                free = min(set(range(workers)) - {w.place for w in pool})
                pool.append(_start(work, free))
            for worker in pool:
                if waiting and worker.job is None:
                    worker.job = waiting.popleft()
                    with suppress(OSError):  # a worker that died while idle shows below, as the end of its pipe
                        worker.pipe.send(worker.job[0])
            for ready in wait([w.pipe for w in pool if w.job]):
                worker = next(w for w in pool if w.pipe is ready)
                assert worker.job is not None
                group, attempt = worker.job
                try:
                    task, event = worker.pipe.recv()
                except (EOFError, OSError):
                    pool.remove(worker)
                    code = worker.end()
                    if attempt < ATTEMPTS:
                        waiting.append((group, attempt + 1))
                    for task in group:
                        yield task, lost(code, attempt)
                    continue
                if isinstance(event, Finished):
                    left = [other for other in group if other != task]
                    worker.job = (left, attempt) if left else None
                yield task, event
    finally:
        for worker in pool:
            worker.process.terminate()
        for worker in pool:
            worker.end()


def lost(code: int | None, attempt: int) -> Retried | Finished:
    """What becomes of a task whose worker died at its `attempt`."""
    how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    if attempt < ATTEMPTS:
        return Retried(f"its worker died ({how}); another goes on after the last finished level")
    return Finished(f"its worker died {ATTEMPTS} times ({how}; out of memory?)", Exit.PARTIAL)


def default_workers() -> int:
    """One per core this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Worker:
    place: int
    process: BaseProcess
    pipe: Connection
    job: tuple[Group, int] | None = field(default=None)  # what is left of its group, and the attempt

    def end(self) -> int | None:
        self.pipe.close()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _start(work: Work, place: int) -> _Worker:
    process, ours = spawn(_serve, place)
    with suppress(OSError):  # as in `map`
        ours.send(work)
    return _Worker(place, process, ours)


def spawn(serve: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """A child that runs serve(pipe, *arguments), and our end of the pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
    with _undisturbed():
        process.start()
    theirs.close()
    return process, ours


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


def _serve(pipe: Connection, place: int) -> None:
    """A worker's life: the work and then groups in, events out, until the parent closes the pipe or dies."""
    threading.Thread(target=die_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        work: Work = pipe.recv()  # imports torch, for seconds, in which the parent may die
        _own_gpu(place)
        with _one_thread():
            while True:
                group = pipe.recv()
                for task, event in _events(work, group):
                    pipe.send((task, event))


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


def _own_gpu(place: int) -> None:
    """Where there are several GPUs, each worker takes its own as `cuda`."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())


def die_with_parent() -> None:
    """End this process when its parent has ended; for a thread of a child."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _events(work: Work, group: Group) -> Iterator[tuple[Task, Any]]:
    """What happens in a group, ending with Finished for each of its tasks whatever is raised."""
    left = list(group)
    try:
        for task, event in work(group):
            if isinstance(event, Finished):
                left.remove(task)
            yield task, event
    except (Exception, SystemExit) as problem:  # the user's code runs in here
        yield from ((task, failure(problem)) for task in left)
