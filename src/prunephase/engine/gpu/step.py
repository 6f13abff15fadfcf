"""One training step, and one evaluation, between tensors that stay where they are: what a CUDA graph can capture."""

# J networks, N examples, B batch, K classes, S steps of an epoch, D numbers drawn for an image.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prunephase import streams
from prunephase.engine.augment import Augmentation
from prunephase.engine.forward import autocast, laid_out
from prunephase.engine.gpu.nets import Nets
from prunephase.engine.job import Guesses, Job
from prunephase.engine.optimise import groups
from prunephase.sections import Recipe
from prunephase.trial import steps_per_epoch

CHUNK = 2500  # examples evaluated at once


class Draws(NamedTuple):
    """What is drawn for an epoch, on the CPU. orders: [J, N]; changes: [J, N, D], of the images, see Augmentation."""

    orders: Tensor
    changes: Tensor


class Step:
    """The step of one or several networks. The host only says "again": it neither gives nor takes a number.

    The draws of an epoch lie on the device, `place` counts its steps there, and the losses stay there until the epoch
    is over.
    """

    def __init__(self, jobs: Sequence[Job], nets: Nets) -> None:
        self.jobs, self.nets, self.recipe = jobs, nets, jobs[0].recipe
        data, batch = jobs[0].data, self.recipe.batch_size
        count = len(data.train)
        self.device = data.train.labels.device
        self.inputs, self.labels = data.train.inputs, torch.stack([job.data.train.labels for job in jobs])
        self.steps, self.whole = steps_per_epoch(count, batch), count // batch
        self.augment = Augmentation(self.recipe.augment, data.black)
        self.order, self.changes = (torch.zeros_like(drawn, device=self.device) for drawn in self.draws(0))
        self.place = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.rate = torch.tensor(self.recipe.lr, dtype=torch.float32, device=self.device)
        self.trace = torch.zeros(len(jobs), self.steps, device=self.device)
        self.unit = torch.ones(len(jobs), device=self.device)
        self.optimiser = _optimiser(nets.trained, self.recipe, self.rate)
        # What evaluation reads and writes, by split.
        self.shown = {name: split.inputs for name, split in data.splits.items()}
        self.asked = {name: torch.stack([job.data.splits[name].labels for job in jobs]) for name in self.shown}
        self.guess = {name: torch.zeros_like(labels) for name, labels in self.asked.items()}
        self.loss = torch.zeros(len(jobs), len(self.shown), dtype=torch.float64, device=self.device)

    def load(self, draws: Draws, rate: float, first: int) -> None:
        """Begin an epoch: its draws, its learning rate, and the first of its steps to be trained."""
        self.nets.mode(training=True)
        self.order.copy_(draws.orders)
        self.changes.copy_(draws.changes)
        self.rate.fill_(rate)
        self.place.fill_(first)

    def draws(self, epoch: int) -> Draws:
        """Those of an epoch, counted from 0."""
        count, shape = len(self.jobs[0].data.train), tuple(self.inputs.shape[1:])
        orders = [streams.generator(job.seed, "order", job.level, epoch).permutation(count) for job in self.jobs]
        changes = [self.augment.draws(shape, count, job.seed, job.level, epoch) for job in self.jobs]
        return Draws(torch.stack([torch.from_numpy(order) for order in orders]), torch.stack(changes))

    def full(self) -> None:
        """Train on the batch at `place`, and move on."""
        batch = self.recipe.batch_size
        orders = self.order[:, : self.whole * batch].view(-1, self.whole, batch)
        self._train(orders.index_select(1, self.place).squeeze(1))

    def short(self) -> None:
        """Train on what is left at the end of an epoch, and move on."""
        self._train(self.order[:, self.whole * self.recipe.batch_size :])

    def _train(self, chosen: Tensor) -> None:
        """chosen: [J, B] places of examples."""
        self.optimiser.zero_grad(set_to_none=True)
        changes = self.changes.take_along_dim(chosen.unsqueeze(2), 1).flatten(0, 1)
        drawn = self.augment(self.inputs.index_select(0, chosen.flatten()), changes)
        drawn = laid_out(drawn, self.nets.layout)
        inputs, labels = drawn.view(*chosen.shape, *drawn.shape[1:]), self.labels.gather(1, chosen)
        with autocast(self.recipe.precision, self.device.type):
            losses = self.nets.losses(inputs, labels, chosen)
        # Each network's loss has the gradient 1, so what becomes of one does not reach another.
        losses.backward(self.unit)  # type: ignore[no-untyped-call]
        held = [(weight.grad, mask) for weight, mask in self.nets.masks if weight.grad is not None]
        if held:
            torch._foreach_mul_([grad for grad, _ in held], [mask for _, mask in held])
        self.optimiser.step()
        self.trace.index_copy_(1, self.place, losses.detach().to(self.trace.dtype).unsqueeze(1))
        self.place.add_(1)

    @torch.no_grad()
    def measure(self) -> None:
        """Loss and predicted classes of every split, in evaluation mode."""
        self.nets.mode(training=False)
        for column, (name, inputs) in enumerate(self.shown.items()):
            labels, guess = self.asked[name], self.guess[name]
            total = torch.zeros_like(self.loss[:, column])
            for start in range(0, len(inputs), CHUNK):
                part = slice(start, start + CHUNK)
                images = laid_out(inputs[part], self.nets.layout)
                with autocast(self.recipe.precision, self.device.type):
                    logits = self.nets.logits(images).float()
                found = cross_entropy(logits.flatten(0, 1), labels[:, part].flatten(), reduction="none")
                total += found.double().view(len(labels), -1).sum(1)
                guess[:, part] = logits.argmax(2)
            self.loss[:, column] = total / len(inputs)
        self.nets.mode(training=True)

    def guesses(self) -> list[Guesses]:
        """What the last `measure` found, for each job."""
        losses = [[value if math.isfinite(value) else None for value in row] for row in self.loss.tolist()]
        return [
            {name: (row[column], self.guess[name][place].clone()) for column, name in enumerate(self.guess)}
            for place, row in enumerate(losses)
        ]

    @torch.no_grad()
    def forget(self) -> None:
        """Drop all that came of earlier steps but the weights; what they found becomes NaN."""
        self.optimiser.zero_grad(set_to_none=True)
        for state in self.optimiser.state.values():
            for kept in state.values():
                if isinstance(kept, Tensor):
                    kept.zero_()  # momentum and moments, all zero before the first step
        self.trace.fill_(math.nan)
        self.loss.fill_(math.nan)


def _optimiser(trained: Mapping[str, Tensor], recipe: Recipe, rate: Tensor) -> torch.optim.Optimizer:
    """That of `optimise.optimiser`, in one kernel, with its learning rate on the device."""
    parameters = groups(trained, recipe)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, fused=True, capturable=True)
    return torch.optim.SGD(parameters, lr=rate, momentum=recipe.momentum, fused=True)
