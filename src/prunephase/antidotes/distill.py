"""Distillation: labels mixed with what a teacher says, softened by a temperature."""

# N examples, B batch, K classes.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunephase.antidotes.losses import wide
from prunephase.engine import Batch, Terms

Teacher = Callable[[Batch], Tensor]  # its logits [B, K], without a gradient


def distillation(logits: Tensor, taught: Tensor, labels: Tensor, alpha: float, temperature: float) -> Tensor:
    """(1 - alpha) CE(labels, student) + alpha T^2 KL(teacher^T || student^T), means over the batch.

    DSD2 (Quetu and Tartaglione, AAAI 2024), as in its code; after Hinton et al., 2015. logits, taught: [B, K];
    labels: [B].
    """
    logits = wide(logits)
    soft, target = (logits / temperature).log_softmax(1), (wide(taught) / temperature).log_softmax(1)
    apart = functional.kl_div(soft, target, reduction="batchmean", log_target=True)
    return (1 - alpha) * functional.cross_entropy(logits, labels) + alpha * temperature**2 * apart


@dataclass(frozen=True, eq=False)
class Distilled:
    """See `distillation`."""

    teacher: Teacher
    alpha: float
    temperature: float

    def __call__(self, batch: Batch) -> Tensor:
        logits = batch.network(batch.inputs)
        return distillation(logits, self.teacher(batch), batch.labels, self.alpha, self.temperature)

    @property
    def terms(self) -> Terms | None:
        """The same in the engine's terms; None where the teacher must be asked."""
        taught = self.teacher.logits if isinstance(self.teacher, Remembered) else None
        if taught is None:
            return None
        return Terms(weight=1 - self.alpha, alpha=self.alpha, temperature=self.temperature, taught=taught)


@dataclass(frozen=True, eq=False)
class Remembered:
    """What a teacher once said of every training example, [N, K]: enough where no image is augmented."""

    logits: Tensor

    def __call__(self, batch: Batch) -> Tensor:
        return self.logits.index_select(0, batch.index)


@dataclass(frozen=True, eq=False)
class Asked:
    """A teacher, in evaluation mode, that sees the very images that the student sees."""

    network: nn.Module

    def __call__(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.network(batch.inputs)
        return logits
