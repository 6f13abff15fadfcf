"""Several jobs on one GPU: the fastest way that works, tried on the spot."""

# J jobs.

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from prunephase.engine.gpu.capture import Capture, Graphs, uncaptured
from prunephase.engine.gpu.group import Group, Unfit
from prunephase.engine.gpu.nets import One, Stack, stackable
from prunephase.engine.gpu.step import Step
from prunephase.engine.job import Diverged, Guesses, Job, Moment, Team
from prunephase.engine.optimise import rates
from prunephase.engine.plain import Plain
from prunephase.trial import steps_per_epoch

Answer = Moment | Diverged


def team(jobs: Sequence[Job], capture: Capture | None = None) -> Team:
    """The fastest way to train `jobs` at once on the device that holds their data.

    Stacked networks of one architecture; else networks on parallel streams, all in one CUDA graph; else one graph for
    each, one after the other; else the plain loop. What fails, for want of memory or because a network does what
    cannot be captured, makes way for the next; `reasons` of the team says why. `capture`: what records an action;
    a CUDA graph where the device is a GPU.
    """
    device, count = jobs[0].data.train.labels.device, len(jobs)
    if not isinstance(jobs[0].data.train.inputs, Tensor):
        return InTurn(jobs, ["inputs are read from the disk as they are needed"])
    if capture is None:
        capture = Graphs(device) if device.type == "cuda" else uncaptured
    how = "" if capture is uncaptured else ", captured"
    ways: list[tuple[str, Callable[[], Sequence[Sequence[Step]]]]] = [
        (f"stacked x{count}{how}", lambda: [[_stacked(jobs)]]),
        (f"streams x{count}{how}", lambda: [[Step([job], One(job)) for job in jobs]]),
        (f"in turn x{count}{how}", lambda: [[Step([job], One(job))] for job in jobs]),
    ]
    reasons: list[str] = []
    for strategy, steps in ways if count > 1 else [(f"single{how}", ways[-1][1])]:
        try:
            return Together(jobs, steps(), capture, strategy, reasons)
        except Exception as problem:  # whatever CUDA, the network or the objective raise: the plain loop will say it
            reasons.append(f"{strategy}: {' '.join(str(problem).split())}")
    return InTurn(jobs, reasons)


def _stacked(jobs: Sequence[Job]) -> Step:
    if not stackable(jobs):
        raise Unfit("networks of different kinds, or of layers that do not stack")
    return Step(jobs, Stack(jobs))


class Together:
    """Jobs trained by static steps, group by group; see Team."""

    def __init__(
        self,
        jobs: Sequence[Job],
        steps: Sequence[Sequence[Step]],
        capture: Capture,
        strategy: str,
        reasons: Sequence[str],
    ) -> None:
        self.strategy, self.reasons = strategy, reasons
        self.jobs, self.job = len(jobs), jobs[0]
        job = self.job
        self.steps = steps_per_epoch(len(job.data.train), job.recipe.batch_size)
        self.rates: Sequence[float] = rates(job.recipe) if job.lr is None else [job.lr] * job.recipe.epochs
        epoch = min(job.begin // self.steps, job.recipe.epochs - 1)
        self.groups = [Group(members, capture, epoch, self.rates[epoch]) for members in steps]
        self.members = [member for members in steps for member in members]

    def moments(self) -> Iterator[Sequence[Answer]]:
        """See Team."""
        job, diverged = self.job, dict[int, Diverged]()
        epochs = range(job.begin // self.steps, job.recipe.epochs)
        drawn = [member.draws(epochs.start) for member in self.members]
        for epoch in epochs:
            start, rate = epoch * self.steps, self.rates[epoch]
            first = max(job.begin - start, 0)
            for member, draws in zip(self.members, drawn, strict=True):
                member.load(draws, rate, first)
            pause = first if job.pause_at is None else job.pause_at - start
            if first < pause <= self.steps:
                self._train(start, range(first, pause))
                self._publish()
                moment = Moment(start + pause, epoch + 1, rate, None)
                yield [diverged.get(place, moment) for place in range(self.jobs)]
            else:
                pause = first
            self._train(start, range(pause, self.steps))
            self._publish()
            drawn = [member.draws(epoch + 1) for member in self.members]  # while the device works
            losses = torch.cat([member.trace[:, first:] for member in self.members]).tolist()
            answers: list[Answer] = []
            for place, trace in enumerate(losses):
                bad = next((i for i, loss in enumerate(trace) if not math.isfinite(loss)), None)
                if bad is not None and place not in diverged:
                    diverged[place] = Diverged(epoch + 1, start + first + bad + 1, trace[bad])
                mean = math.fsum(trace) / len(trace) if bad is None else None
                answers.append(diverged.get(place, Moment(start + self.steps, epoch + 1, rate, mean)))
            yield answers
            if len(diverged) == self.jobs:
                return

    def guesses(self) -> Sequence[Guesses]:
        """See Team."""
        for group in self.groups:
            group.measure()
        return [said for member in self.members for said in member.guesses()]

    def seconds_per_step(self) -> float:
        """What a step of all jobs takes, from a short measurement. The networks are trained by it: give it copies."""
        steps = range(min(self.steps, 50))
        for member in self.members:
            member.load(member.draws(0), self.rates[0], 0)
        self._train(0, steps[:1])
        self._wait()
        begun = time.perf_counter()
        self._train(0, steps[1:])
        self._wait()
        return (time.perf_counter() - begun) / max(1, len(steps) - 1)

    def _wait(self) -> None:
        for member in self.members:
            member.place.item()

    def _train(self, start: int, steps: range) -> None:
        """`steps` of the epoch that begins at step `start` of the schedule."""
        for group in self.groups:
            group.train(start, steps)

    def _publish(self) -> None:
        for member in self.members:
            member.nets.publish()


class InTurn:
    """Jobs trained one after the other by the plain loop, from moment to moment; see Team."""

    def __init__(self, jobs: Sequence[Job], reasons: Sequence[str]) -> None:
        self.teams, self.reasons = [Plain(job) for job in jobs], reasons
        self.strategy = self.teams[0].strategy

    def moments(self) -> Iterator[Sequence[Answer]]:
        """See Team."""
        running = {place: team.moments() for place, team in enumerate(self.teams)}
        answers: dict[int, Answer] = {}
        while running:
            found = {place: next(moments, None) for place, moments in running.items()}
            if not any(found.values()):
                return
            answers |= {place: said[0] for place, said in found.items() if said}
            yield [answers[place] for place in range(len(self.teams))]
            running = {p: moments for p, moments in running.items() if not isinstance(answers[p], Diverged)}

    def guesses(self) -> Sequence[Guesses]:
        """See Team."""
        return [said for team in self.teams for said in team.guesses()]
