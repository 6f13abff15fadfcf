"""Restarts: which weights, and which point of the schedule, the next level begins from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from prunephase.sections import Restart

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Start:
    """Where a level begins: weights (before masking), the step of the schedule, and a constant rate, if any."""

    weights: Weights
    step: int
    lr: float | None
    words: str


def begin(
    spec: Restart,
    step: int,
    last_lr: float,
    rewound: Weights,
    final: Weights,
    fresh: Callable[[], Weights],
) -> Start:
    """The start of a sparse level (He et al. 2022, appendix A.2).

    step: the rewind point in optimiser steps; last_lr: the last rate of the schedule; rewound: weights at the rewind
    point of the dense level; final: trained weights of the level before; fresh: a new random initialisation.
    """
    if spec.mode == "rewind":
        return Start(rewound, step, None, f"dense weights and schedule of step {step}")
    if spec.mode == "finetune":
        lr = last_lr if spec.lr is None else spec.lr
        return Start(final, 0, lr, f"final weights, constant rate {lr:g}")
    if spec.mode == "lr-rewind":
        return Start(final, step, None, f"final weights, schedule of step {step}")
    if spec.mode == "scratch":
        return Start(fresh(), 0, None, "a new initialisation for this level")
    at = step if spec.start_at == "rewind" else 0
    return Start(fresh(), at, None, f"one new initialisation for all levels, schedule of step {at}")
