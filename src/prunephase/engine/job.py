"""What is asked of the engine, and what it answers: one level of one trial, or several at once."""

# N examples, B batch, K classes.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional

from prunephase.data import Dataset
from prunephase.sections import Recipe


@dataclass(frozen=True)
class Batch:
    """What an objective sees: the network, inputs [B, ...], labels [B] as trained on, places [B] in the split."""

    network: nn.Module
    inputs: Tensor
    labels: Tensor
    index: Tensor


# The loss of a batch. One with the attribute `remembers` keeps state between batches: only the plain loop calls it.
Objective = Callable[[Batch], Tensor]


def cross_entropy(batch: Batch) -> Tensor:
    """Mean cross-entropy of the network's logits."""
    return functional.cross_entropy(batch.network(batch.inputs), batch.labels)


@dataclass(frozen=True, eq=False)
class Terms:
    """An objective as a sum of known parts, so that a way that knows no autograd can train for it.

    With s the cross-entropy of an example against its label, of which the share `smoothing` is spread over all classes,
    and p = e^-s: weight * s + reverse * (1 - p) + alpha * temperature^2 * KL(taught || student), both softened by the
    temperature, with taught [N, K] the teacher's logits; instead of the first two (1 - p^power) / power where `power`
    is not 0. Over the batch that is a mean; added to it is tether / 2 * the squared distance of the parameters from
    `start`.
    """

    weight: float = 1.0
    smoothing: float = 0.0
    reverse: float = 0.0
    power: float = 0.0
    alpha: float = 0.0
    temperature: float = 1.0
    taught: Tensor | None = None
    tether: float = 0.0
    start: Mapping[str, Tensor] | None = None


def terms(objective: Objective) -> Terms | None:
    """What `objective` is made of, where it says so with an attribute `terms`; None for anybody's own."""
    found = Terms() if objective is cross_entropy else getattr(objective, "terms", None)
    return found if isinstance(found, Terms) else None


class Diverged(Exception):
    """The training loss was not finite at `step` (counted from the start of the schedule) of `epoch`."""

    def __init__(self, epoch: int, step: int, loss: float) -> None:
        super().__init__(f"loss = {loss} at epoch {epoch}, step {step}")
        self.epoch, self.step, self.loss = epoch, step, loss


@dataclass(frozen=True)
class Moment:
    """A point at which the caller has the word: the end of an epoch, or the step it asked to pause at.

    step: optimiser steps since the start of the schedule; epoch: 1 for the first; lr: the epoch's rate; running_loss:
    mean training loss of the epoch's steps, None at a pause.
    """

    step: int
    epoch: int
    lr: float
    running_loss: float | None


@dataclass(frozen=True)
class Job:
    """One level to train: the network in place, from step `begin` to the end of the recipe's schedule.

    network: holds the start weights, zero where pruned; masks: {parameter name: bool tensor}, True where the weight
    lives. `lr` overrides the schedule with a constant; at step `pause_at` there is one moment more.
    """

    network: nn.Module
    data: Dataset
    recipe: Recipe
    seed: int
    level: int
    masks: Mapping[str, Tensor]
    objective: Objective = cross_entropy
    begin: int = 0
    pause_at: int | None = None
    lr: float | None = None


# Mean cross-entropy (None where it is not finite) and predicted classes [N] of each split by name.
Guesses = Mapping[str, tuple[float | None, Tensor]]


class Team(Protocol):
    """Jobs that train at once. `strategy` names how, and goes into the numerics fingerprint of what comes out.

    The draws are those of `plain.fit`: the order of an epoch from the stream (seed, "order", level, epoch), counted
    from 0, and torch's global draws in a step from (seed, "dropout", level, step). The jobs of a team agree in
    recipe, begin, pause_at, lr and in the inputs of their data; labels, seeds, levels and masks are their own.
    """

    strategy: str

    def moments(self) -> Iterator[Sequence[Moment | Diverged]]:
        """At every moment, one answer per job; then the networks hold their weights, exactly zero where pruned.

        A job that diverged answers so at every later moment; the others are not touched by it. Nothing is trained
        until the next moment is asked for.
        """
        ...

    def guesses(self) -> Sequence[Guesses]:
        """What each job's network says now of its training, validation and test examples, in evaluation mode."""
        ...
