"""The engine: trains one level."""

from __future__ import annotations

from prunephase.engine.device import numerics, pick
from prunephase.engine.fit import Batch, Diverged, Moment, Objective, cross_entropy, fit
from prunephase.engine.optimise import optimiser, rates

__all__ = ["Batch", "Diverged", "Moment", "Objective", "cross_entropy", "fit", "numerics", "optimiser", "pick", "rates"]
