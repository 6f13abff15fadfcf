"""Losses that bear wrong labels: label smoothing, generalised and symmetric cross-entropy."""

# B batch, K classes.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from prunephase.engine import Batch, Terms

LOG_ZERO = -4.0  # what the symmetric cross-entropy takes for the logarithm of a label's zeros (Wang et al.'s A)


def wide(logits: Tensor) -> Tensor:
    """`logits` in float32 at least: what a bfloat16 network says is too coarse to take logarithms of."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def generalised_cross_entropy(logits: Tensor, labels: Tensor, q: float) -> Tensor:
    """Mean of (1 - p^q) / q, with p the probability of the label: cross-entropy as q goes to 0, 1 - p at 1.

    Zhang and Sabuncu, NeurIPS 2018, equation 6. logits [B, K], labels [B].
    """
    log_p = wide(logits).log_softmax(1).gather(1, labels[:, None])
    return -torch.expm1(q * log_p).mean() / q


def symmetric_cross_entropy(logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha x cross-entropy + beta x reverse cross-entropy, which is -A (1 - p) with A = -4.

    Wang et al., ICCV 2019, equations 6 and 7. logits [B, K], labels [B].
    """
    log_p = wide(logits).log_softmax(1).gather(1, labels[:, None])
    return (-alpha * log_p + beta * LOG_ZERO * torch.expm1(log_p)).mean()


@dataclass(frozen=True)
class Smoothed:
    """Cross-entropy against labels of which `strength` is spread evenly over all classes (Szegedy et al., 2016)."""

    strength: float

    def __call__(self, batch: Batch) -> Tensor:
        return functional.cross_entropy(batch.network(batch.inputs), batch.labels, label_smoothing=self.strength)

    @property
    def terms(self) -> Terms:
        """The same in the engine's terms."""
        return Terms(smoothing=self.strength)


@dataclass(frozen=True)
class GeneralisedCrossEntropy:
    """See `generalised_cross_entropy`."""

    q: float

    def __call__(self, batch: Batch) -> Tensor:
        return generalised_cross_entropy(batch.network(batch.inputs), batch.labels, self.q)

    @property
    def terms(self) -> Terms:
        """The same in the engine's terms."""
        return Terms(power=self.q)


@dataclass(frozen=True)
class SymmetricCrossEntropy:
    """See `symmetric_cross_entropy`."""

    alpha: float
    beta: float

    def __call__(self, batch: Batch) -> Tensor:
        return symmetric_cross_entropy(batch.network(batch.inputs), batch.labels, self.alpha, self.beta)

    @property
    def terms(self) -> Terms:
        """The same in the engine's terms."""
        return Terms(weight=self.alpha, reverse=-LOG_ZERO * self.beta)
