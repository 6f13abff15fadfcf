"""Executors: who trains the trials.

One signature, so that a cluster can take the place of this machine: `map(work, trials, ...)` yields (trial, event) as
`work(trial)` yields events, and (trial, Finished) once for each trial; the order between trials is free.
"""

from __future__ import annotations

from prunephase.execute.local import Finished, Retried, default_workers, map

__all__ = ["Finished", "Retried", "default_workers", "map"]
