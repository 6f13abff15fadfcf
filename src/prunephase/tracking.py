"""Tracking: levels told to an experiment tracker as they finish, which can neither stop nor delay a run.

A tracker's library runs in a process of its own: its exceptions, its crash and its dead network stay there.
"""

from __future__ import annotations

import importlib.util
import math
import os
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from prunephase.errors import UserError, nearest
from prunephase.events import LevelDone
from prunephase.execute.local import die_with_parent, spawn
from prunephase.runs import Observer
from prunephase.study import Study
from prunephase.task import Finished, failure
from prunephase.trial import Trial

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

MOST = 100_000  # levels that may wait for a slow tracker; 1 KB each
PATIENCE = 60.0  # seconds without any progress, once the run is over, until a tracker is left behind
HASTE = 5.0  # the same after an interrupt
NO_MEASURES = ("epoch", "lr")  # columns of a level's epochs that say how it was trained, not what came out


class Tracker(Protocol):
    """One run of an experiment tracker: one trial's ladder. A step is a level."""

    def start(self, config: Mapping[str, Any]) -> None:
        """Begin with the trial's fields, flat, and `trial` (its digest), `study` and `name`."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log one level; levels come in rising order, each once."""

    def finish(self) -> None:
        """Nothing more will come."""


@dataclass
class Wandb:
    """Weights & Biases, or a library with the same calls. place: the project; more: further arguments of `init`."""

    place: str
    library: str = "wandb"
    more: Mapping[str, Any] = field(default_factory=lambda: {"reinit": "create_new"})  # several trials are open at once

    def start(self, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_QUIET", "true")  # else 30 lines at the end of every trial
        project = self.place or os.environ.get("WANDB_PROJECT") or "prunephase"
        self.run = import_module(self.library).init(
            project=project, group=config["study"], name=config["name"], config=dict(config), **self.more
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def finish(self) -> None:
        self.run.finish()


@dataclass
class Mlflow:
    """MLflow. place: the tracking URI, by default MLflow's own choice. An experiment is a study."""

    place: str

    def start(self, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient(self.place or None)
        experiment = self.client.get_experiment_by_name(config["study"])
        number = experiment.experiment_id if experiment else self.client.create_experiment(config["study"])
        self.run = self.client.create_run(number, run_name=config["name"]).info.run_id
        self.client.log_batch(self.run, params=[Param(name, str(value)) for name, value in config.items()])

    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def finish(self) -> None:
        self.client.set_terminated(self.run)


@dataclass
class TensorBoard:
    """TensorBoard event files. place: the folder, by default `tensorboard`; in it one per study, in that one per trial.

    A later run of the same trial writes beside the earlier one's file and takes its place in what TensorBoard shows.
    """

    place: str
    writer: SummaryWriter | None = None

    def start(self, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folders = (_folder(config["study"]), _folder(f"{config['name']} {config['trial']}"))
        self.writer = SummaryWriter("/".join((self.place or "tensorboard", *folders)), purge_step=0)
        self.writer.add_text("trial", "\n".join(f"    {name} = {value}" for name, value in config.items()))

    def log(self, values: Mapping[str, float], step: int) -> None:
        assert self.writer is not None
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self) -> None:
        assert self.writer is not None
        self.writer.close()


def _folder(text: str) -> str:
    """A name of a folder; dots at its ends would lead elsewhere."""
    return "".join(c if c.isalnum() or c in "._=- " else "_" for c in text)[-120:].strip(". ") or "study"


@dataclass(frozen=True)
class Kind:
    """A tracker: how one is made for a place, the library it needs, and the words that install it."""

    make: Callable[[str], Tracker]
    library: str
    install: str


TRACKERS: Mapping[str, Kind] = {
    "wandb": Kind(Wandb, "wandb", "prunephase[wandb]"),
    "trackio": Kind(lambda place: Wandb(place, "trackio", {}), "trackio", "trackio"),
    "mlflow": Kind(Mlflow, "mlflow", "prunephase[mlflow]"),
    "tensorboard": Kind(TensorBoard, "tensorboard", "prunephase[tensorboard]"),
}


def check(words: Sequence[str]) -> None:
    """Raise UserError where a word is not NAME or NAME:PLACE of a tracker whose library is installed."""
    for word in words:
        name = word.partition(":")[0]
        if name not in TRACKERS:
            raise UserError(f"--track {word}: {nearest(name, TRACKERS)}")
        found = importlib.util.find_spec(TRACKERS[name].library)
        if found is None or found.origin is None:  # a folder of that name, such as W&B's own `wandb`, is no library
            raise UserError(f"--track {word}: {name} is not installed; pip install '{TRACKERS[name].install}'")


@contextmanager
def tracked(
    study: Study, names: Mapping[str, str], words: Sequence[str], observe: Observer, say: Callable[[str], Any]
) -> Iterator[Observer]:
    """An observer that tells `observe` of everything, and the trackers named by `words` of the levels.

    names: what people call the trials, by digest; say: is given one line when a tracker is switched off. Levels that
    were there before are told too, so that a tracker has whole ladders.
    """
    lines = [_Line(word, study, names, say) for word in dict.fromkeys(words)]

    def both(trial: Trial, event: Any) -> None:
        observe(trial, event)
        for line in lines:
            line.see(trial, event)

    patience = HASTE
    try:
        yield both
        patience = PATIENCE
    finally:
        for line in lines:
            line.end(patience)


class _Line:
    """The line to one tracker: calls wait in a queue, from which a thread hands them to the tracker's process."""

    def __init__(self, word: str, study: Study, names: Mapping[str, str], say: Callable[[str], Any]) -> None:
        self.word, self.study, self.names, self.say = word, study, names, say
        self.on = True
        self.calls: queue.Queue[tuple[Any, ...] | None] = queue.Queue(MOST)
        self.next: dict[str, int] = {}  # by trial: the level to be logged next
        self.early: dict[str, dict[int, dict[str, float]]] = {}  # levels that finished before a lower one; open trials
        self.process, self.pipe = spawn(_serve, *word.partition(":")[::2])
        self.thread = Thread(target=self._hand_over, daemon=True)
        self.thread.start()

    def see(self, trial: Trial, event: Any) -> None:
        """Tell the tracker of a level, and of the end of a ladder."""
        if isinstance(event, LevelDone):
            self._level(trial, event)
        elif isinstance(event, Finished) and not trial.side_by_side:  # else other parts may go on
            self._finish(trial.digest())

    def end(self, patience: float) -> None:
        """Wait for the tracker as long as it gets on."""
        for trial in list(self.early):
            self._finish(trial)
        self._put(None)
        while self.on and self.thread.is_alive():
            left = self.calls.qsize()
            self.thread.join(patience)
            if self.thread.is_alive() and self.calls.qsize() == left:
                self._switch_off(f"did not answer for {patience:g} s")
        self.process.join(HASTE)  # libraries have things to do when their process ends
        self.process.kill()

    def _level(self, trial: Trial, event: LevelDone) -> None:
        name = event.trial
        if name not in self.next:
            self.next[name], self.early[name] = 0, {}
            who = {"trial": name, "study": self.study.name, "name": self.names.get(name, name)}
            self._put(("start", name, {**who, **trial.flat()}))
        waiting = self.early.get(name, {})
        if event.level >= self.next[name]:
            waiting[event.level] = _values(event)
        while self.next[name] in waiting:
            self._put(("log", name, waiting.pop(self.next[name]), self.next[name]))
            self.next[name] += 1
        if self.next[name] > trial.pruning.levels:
            self._finish(name)

    def _finish(self, trial: str) -> None:
        if trial in self.early:
            for level, values in sorted(self.early.pop(trial).items()):
                self._put(("log", trial, values, level))
            self._put(("finish", trial))

    def _put(self, call: tuple[Any, ...] | None) -> None:
        if self.on:
            try:
                self.calls.put_nowait(call)
            except queue.Full:
                self._switch_off(f"is {MOST:,} calls behind")

    def _hand_over(self) -> None:
        for call in iter(self.calls.get, None):
            try:
                self.pipe.send(call)
                problem = self.pipe.recv()
            except (EOFError, OSError):
                problem = "its process died"
            if problem is not None:
                self._switch_off(problem)
                return
        self.pipe.close()

    def _switch_off(self, problem: str) -> None:
        if self.on:
            self.on = False
            self.say(f"--track {self.word}: {problem}; tracking by it is off, training is not touched")
            self.process.kill()


def _values(event: LevelDone) -> dict[str, float]:
    """A level's numbers: only finite ones, since trackers refuse or mangle the others."""
    given = {"level": event.level, "sparsity": event.sparsity, "remaining": event.remaining, **event.values}
    numbers = {name: float(value) for name, value in given.items() if value is not None and name not in NO_MEASURES}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _serve(pipe: Connection, name: str, place: str) -> None:
    """The tracker's process: calls in, None or what went wrong out, until the parent closes the pipe or dies."""
    Thread(target=die_with_parent, daemon=True).start()
    os.dup2(2, 1)  # what a library prints is no result
    runs: dict[str, Tracker] = {}
    with suppress(EOFError, OSError):
        while True:
            call, trial, *given = pipe.recv()
            try:
                if call == "start":
                    runs[trial] = TRACKERS[name].make(place)
                getattr(runs[trial], call)(*given)
                if call == "finish":
                    del runs[trial]
            except (Exception, SystemExit) as problem:
                pipe.send(failure(problem).problem)
                return
            pipe.send(None)
