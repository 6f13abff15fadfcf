"""The training loop: one ordinary network, its masks, data in memory."""

# N examples, B batch.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunephase import streams
from prunephase.data import Split
from prunephase.engine.optimise import optimiser, rates
from prunephase.randomness import seeded
from prunephase.trial import Recipe, steps_per_epoch


@dataclass(frozen=True)
class Batch:
    """What an objective sees: the network, inputs [B, ...], labels [B] as trained on, places [B] in the split."""

    network: nn.Module
    inputs: Tensor
    labels: Tensor
    index: Tensor


Objective = Callable[[Batch], Tensor]


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


class Diverged(Exception):
    """The training loss was not finite at `step` (counted from the start of the schedule) of `epoch`."""

    def __init__(self, epoch: int, step: int, loss: float) -> None:
        super().__init__(f"loss = {loss} at epoch {epoch}, step {step}")
        self.epoch, self.step, self.loss = epoch, step, loss


def cross_entropy(batch: Batch) -> Tensor:
    """Mean cross-entropy of the network's logits."""
    return functional.cross_entropy(batch.network(batch.inputs), batch.labels)


def fit(
    network: nn.Module,
    train: Split,
    recipe: Recipe,
    *,
    seed: int,
    level: int,
    masks: Mapping[str, Tensor],
    objective: Objective = cross_entropy,
    begin: int = 0,
    pause_at: int | None = None,
    lr: float | None = None,
) -> Iterator[Moment]:
    """Train `network` in place from step `begin` to the end of the schedule, yielding after every epoch.

    Pruned weights must be zero on entry and stay zero: their gradients are masked before each step, so neither
    momentum, weight decay nor AdamW's moments ever hold anything for them. The order of an epoch comes from the stream
    (seed, "order", level, epoch), counted from 0, and torch's global draws in a step from (seed, "dropout", level,
    step), likewise. `lr` overrides the schedule with a constant; at step `pause_at` there is one yield more. To
    measure, checkpoint or stop, leave the loop: nothing is trained until the next moment is asked for.

    Raises Diverged at the end of an epoch in which a loss was not finite.
    """
    count, steps = len(train), steps_per_epoch(len(train), recipe.batch_size)
    schedule: Sequence[float] = rates(recipe) if lr is None else [lr] * recipe.epochs
    step_of = optimiser(network, recipe)
    masked = [(network.get_parameter(name), mask.to(torch.get_default_dtype())) for name, mask in masks.items()]
    for epoch in range(begin // steps, recipe.epochs):
        for group in step_of.param_groups:
            group["lr"] = schedule[epoch]
        order = torch.from_numpy(streams.generator(seed, "order", level, epoch).permutation(count)).to(
            train.labels.device
        )
        network.train()
        losses = []
        for step in range(max(begin, epoch * steps), (epoch + 1) * steps):
            chosen = order[step % steps * recipe.batch_size :][: recipe.batch_size]
            with seeded(streams.seed(seed, "dropout", level, step)):
                step_of.zero_grad(set_to_none=True)
                # index_select, not [chosen]: the same bytes, three times as fast
                inputs = train.inputs.index_select(0, chosen)
                loss = objective(Batch(network, inputs, train.labels[chosen], chosen))
                loss.backward()  # type: ignore[no-untyped-call]
                for weight, mask in masked:
                    if weight.grad is not None:
                        weight.grad.mul_(mask)
                step_of.step()
            losses.append(loss.detach())
            if step + 1 == pause_at:
                yield Moment(step + 1, epoch + 1, schedule[epoch], None)
        trace = torch.stack(losses).tolist()
        for i, value in enumerate(trace):
            if not math.isfinite(value):
                raise Diverged(epoch + 1, max(begin, epoch * steps) + i + 1, value)
        yield Moment((epoch + 1) * steps, epoch + 1, schedule[epoch], math.fsum(trace) / len(trace))
