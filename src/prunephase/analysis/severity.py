"""Severity: how deep and wide is the dip, and what would stopping at the first sign of trouble have cost?"""

# S seeds, L levels.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunephase.analysis.statistics import interval

Floats = NDArray[np.float64]

PATIENCE = 3


@dataclass(frozen=True)
class Severity:
    """How bad the dip is. Shares in [0, 1]; `width` in levels; intervals are Student-t over seeds, None with one seed.

    depth: best mean accuracy before the dip minus the dip; width: how long the curve stays below half way between the
    dip and the lower of the accuracies on its two sides, interpolated between levels.
    stop_level: where early stopping with `patience` levels in a row without a new best would have ended the ladder
    (the last level if it never would); chosen_level: the best level until then; forfeited: accuracy at the peak minus
    accuracy there.
    """

    depth: float
    depth_interval: tuple[float, float] | None
    width: float
    patience: int
    stop_level: int
    chosen_level: int
    forfeited: float
    forfeited_interval: tuple[float, float] | None


def severity(
    values: Floats, mean: Floats, levels: NDArray[np.int64], before: int, dip: int, peak: int, patience: int = PATIENCE
) -> Severity:
    """Severity of a dip between two humps. values: [S, L]; mean: [L]; before, dip, peak: indices into levels.

    The intervals take the levels as given, so they leave out the uncertainty of where the dip lies.
    """
    stop, chosen = early_stop(mean, patience)
    return Severity(
        depth=float(mean[before] - mean[dip]),
        depth_interval=interval(values[:, before] - values[:, dip]),
        width=_width(mean, before, dip, peak),
        patience=patience,
        stop_level=int(levels[stop]),
        chosen_level=int(levels[chosen]),
        forfeited=float(mean[peak] - mean[chosen]),
        forfeited_interval=interval(values[:, peak] - values[:, chosen]) if chosen != peak else None,
    )


def early_stop(mean: Floats, patience: int = PATIENCE) -> tuple[int, int]:
    """Index at which early stopping ends, and index of the best level until then; the earlier of equals.

    >>> early_stop(np.array([0.8, 0.82, 0.81, 0.8, 0.79, 0.9]), patience=3)
    (4, 1)
    """
    best = 0
    for i in range(1, len(mean)):
        if mean[i] > mean[best]:
            best = i
        elif i - best >= patience:
            return i, best
    return len(mean) - 1, best


def _width(mean: Floats, before: int, dip: int, peak: int) -> float:
    height = (mean[dip] + min(mean[before], mean[peak])) / 2

    def crossing(step: int) -> float:
        i = dip
        while mean[i + step] < height:
            i += step
        return i + step * float((height - mean[i]) / (mean[i + step] - mean[i]))

    return crossing(1) - crossing(-1)
