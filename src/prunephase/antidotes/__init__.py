"""Antidotes: objectives that change what a level is trained for, to remove the dip.

An antidote is a function `(Given) -> Objective`, and an objective a pure function of a batch: the engine may try it on
a few steps before it trusts a faster way, so it must keep no state of its own (ELR's moving targets would be one).
"""

from __future__ import annotations

from prunephase.antidotes.distill import Asked, Distilled, Remembered, distillation
from prunephase.antidotes.family import FAMILY, Given, objective
from prunephase.antidotes.losses import GeneralisedCrossEntropy, Smoothed, SymmetricCrossEntropy
from prunephase.antidotes.tether import Tethered

__all__ = [
    "FAMILY",
    "Asked",
    "Distilled",
    "GeneralisedCrossEntropy",
    "Given",
    "Remembered",
    "Smoothed",
    "SymmetricCrossEntropy",
    "Tethered",
    "distillation",
    "objective",
]
