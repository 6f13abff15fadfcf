"""Antidotes: objectives that change what a level is trained for, to remove the dip.

An antidote is a function `(Given) -> Objective`, and an objective a pure function of a batch: the engine may try it on
a few steps before it trusts a faster way. One that keeps state of its own says so with `remembers = True`, and is only
ever called by the plain loop, once a step.
"""

from __future__ import annotations

from prunephase.antidotes.distill import Asked, Distilled, Remembered, distillation
from prunephase.antidotes.elr import EarlyLearning
from prunephase.antidotes.family import FAMILY, Given, check, objective
from prunephase.antidotes.losses import GeneralisedCrossEntropy, Smoothed, SymmetricCrossEntropy
from prunephase.antidotes.tether import Tethered

__all__ = [
    "FAMILY",
    "Asked",
    "Distilled",
    "EarlyLearning",
    "GeneralisedCrossEntropy",
    "Given",
    "Remembered",
    "Smoothed",
    "SymmetricCrossEntropy",
    "Tethered",
    "check",
    "distillation",
    "objective",
]
