"""The engine: trains one level, or several at once."""

from __future__ import annotations

from prunephase.engine.device import note, numerics, pick
from prunephase.engine.forward import guesses
from prunephase.engine.job import Batch, Diverged, Guesses, Job, Moment, Objective, Team, Terms, cross_entropy, terms
from prunephase.engine.optimise import optimiser, rates
from prunephase.engine.plain import fit
from prunephase.engine.team import grouped, team, width

__all__ = [
    "Batch",
    "Diverged",
    "Guesses",
    "Job",
    "Moment",
    "Objective",
    "Team",
    "Terms",
    "cross_entropy",
    "fit",
    "grouped",
    "guesses",
    "note",
    "numerics",
    "optimiser",
    "pick",
    "rates",
    "team",
    "terms",
    "width",
]
