"""The plain training loop: one ordinary network, its masks, data in memory. Every faster way is tested against it."""

# N examples, B batch.

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from prunephase import streams
from prunephase.data import Split
from prunephase.engine.augment import Augmentation
from prunephase.engine.forward import autocast, guesses, laid_out, memory_format
from prunephase.engine.job import Batch, Diverged, Guesses, Job, Moment, Objective, cross_entropy
from prunephase.engine.optimise import optimiser, rates
from prunephase.randomness import seeded
from prunephase.sections import Recipe
from prunephase.trial import steps_per_epoch


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
    black: Tensor | None = None,
) -> Iterator[Moment]:
    """Train `network` in place from step `begin` to the end of the schedule, yielding after every epoch.

    Pruned weights must be zero on entry and stay zero: their gradients are masked before each step, so neither
    momentum, weight decay nor AdamW's moments ever hold anything for them. The order of an epoch comes from the stream
    (seed, "order", level, epoch), counted from 0, and torch's global draws in a step from (seed, "dropout", level,
    step), likewise; those of the images' augmentation see Augmentation, with `black` [C] what a black pixel is. `lr`
    overrides the schedule with a constant; at step `pause_at` there is one yield more. To measure, checkpoint or stop,
    leave the loop: nothing is trained until the next moment is asked for.

    Raises Diverged at the end of an epoch in which a loss was not finite.
    """
    count, steps = len(train), steps_per_epoch(len(train), recipe.batch_size)
    schedule: Sequence[float] = rates(recipe) if lr is None else [lr] * recipe.epochs
    step_of = optimiser(network, recipe)
    layout, where = memory_format(network), train.labels.device
    augment = Augmentation(recipe.augment, black)
    masked = [(network.get_parameter(name), mask.to(torch.get_default_dtype())) for name, mask in masks.items()]
    for epoch in range(begin // steps, recipe.epochs):
        for group in step_of.param_groups:
            group["lr"] = schedule[epoch]
        order = torch.from_numpy(streams.generator(seed, "order", level, epoch).permutation(count)).to(where)
        drawn = augment.draws(train.inputs.shape[1:], count, seed, level, epoch).to(where)
        network.train()
        losses = []
        for step in range(max(begin, epoch * steps), (epoch + 1) * steps):
            chosen = order[step % steps * recipe.batch_size :][: recipe.batch_size]
            with seeded(streams.seed(seed, "dropout", level, step)):
                step_of.zero_grad(set_to_none=True)
                # index_select, not [chosen]: the same bytes, three times as fast
                images = augment(train.inputs.index_select(0, chosen), drawn.index_select(0, chosen))
                inputs = laid_out(images, layout)
                with autocast(recipe.precision, inputs.device.type):
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


class Plain:
    """A team of one that takes the plain loop; convolutions with their channels last in memory, where they are fast."""

    def __init__(self, job: Job) -> None:
        self.job, self.strategy = job, "plain"
        if any(isinstance(module, nn.Conv2d) for module in job.network.modules()):
            job.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.strategy += ", channels last"

    def moments(self) -> Iterator[Sequence[Moment | Diverged]]:
        """See Team."""
        job = self.job
        try:
            for moment in fit(
                *(job.network, job.data.train, job.recipe),
                seed=job.seed,
                level=job.level,
                masks=job.masks,
                objective=job.objective,
                begin=job.begin,
                pause_at=job.pause_at,
                lr=job.lr,
                black=job.data.black,
            ):
                yield [moment]
        except Diverged as problem:
            yield [problem]

    def guesses(self) -> Sequence[Guesses]:
        """See Team."""
        return [guesses(self.job.network, self.job.data, self.job.recipe.precision)]
