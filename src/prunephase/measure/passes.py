"""Passes over the data: what a network says of each example of a split, without a trace left in it."""

# N examples, B batch, K classes.

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunephase import streams
from prunephase.data import Split
from prunephase.engine.forward import BATCH, autocast, laid_out, memory_format
from prunephase.randomness import seeded
from prunephase.snapshot import Snapshot


@contextmanager
def resting(network: nn.Module) -> Iterator[nn.Module]:
    """A copy in evaluation mode, without gradients, drawing from a named stream: the network keeps every byte."""
    twin = copy.deepcopy(network).eval()
    with seeded(streams.seed(0, "dropout", "evaluate")), torch.no_grad():
        yield twin


def forward(network: nn.Module, inputs: Tensor, precision: str) -> Tensor:
    """What the network says of `inputs`, [B, K], in the precision of a recipe."""
    with autocast(precision, inputs.device.type):
        logits: Tensor = network(laid_out(inputs, memory_format(network)))
    return logits


@dataclass(frozen=True)
class Said:
    """What a network says of each example, [N] each, in the order of the split.

    guess: predicted class, int64. confidence: probability of that class. loss, true_loss: cross-entropy in nats against
    the labels as given and against the true ones. brier: squared distance of the probabilities from the given label.
    """

    guess: NDArray[np.int64]
    confidence: NDArray[np.float64]
    loss: NDArray[np.float64]
    true_loss: NDArray[np.float64]
    brier: NDArray[np.float64]


def examples(snapshot: Snapshot, split: Split) -> Said:
    """One pass of the level's network over a split, in evaluation mode; probabilities and losses in float64."""
    found: list[tuple[Tensor, ...]] = []
    parts = (split.inputs.split(BATCH), split.labels.split(BATCH), split.truth.split(BATCH))  # type: ignore[no-untyped-call]
    with resting(snapshot.network) as network:
        for inputs, labels, truth in zip(*parts, strict=True):
            logits = forward(network, inputs, snapshot.trial.recipe.precision)
            logs = logits.double().log_softmax(1)
            chances = logs.exp()
            given = logs.gather(1, labels[:, None]).squeeze(1)
            true = logs.gather(1, truth[:, None]).squeeze(1)
            brier = chances.square().sum(1) - 2 * given.exp() + 1
            found.append((logits.argmax(1), chances.amax(1), -given, -true, brier))
    return Said(*(torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)))


def mean(values: NDArray[np.bool_] | NDArray[np.number[Any]]) -> float | None:
    """Mean in float64; None where there is no value, or it is not finite."""
    return number(float(np.mean(values, dtype=np.float64))) if len(values) else None


def number(value: float) -> float | None:
    """`value`, or None where it is not finite."""
    return value if math.isfinite(value) else None
