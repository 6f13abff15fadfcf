"""Statistics: mean, spread and interval of a few seeds."""

# S seeds, L levels.

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from prunephase.analysis.curve import Group

Floats = NDArray[np.float64]


def interval(values: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """Student-t interval of the mean of independent values, NaN left out; None with fewer than two. [S] -> (low, high).

    Honest from n = 3 on where a percentile bootstrap is far too narrow.

    >>> low, high = interval(np.array([0.80, 0.82, 0.84]))
    >>> f"{low:.3f} {high:.3f}"
    '0.770 0.870'
    """
    there = values[np.isfinite(values)]
    if there.size < 2:
        return None
    half = float(stats.t.ppf((1 + level) / 2, there.size - 1) * there.std(ddof=1) / np.sqrt(there.size))
    mean = float(there.mean())
    return mean - half, mean + half


def summary(group: Group, level: float = 0.95) -> pl.DataFrame:
    """One row per level: level, sparsity, n, mean, sd, low, high, missing (and train_mean), low..high the t interval.

    `n` counts the seeds that have the level; sd, low and high are null where n < 2, mean where n = 0.
    """
    rows = []
    for i, number in enumerate(group.levels):
        values = group.test[:, i][np.isfinite(group.test[:, i])]
        bounds = interval(values, level)
        row: dict[str, float | int | None] = {
            "level": int(number),
            "sparsity": float(group.sparsity[i]),
            "n": values.size,
            "mean": float(values.mean()) if values.size else None,
            "sd": float(values.std(ddof=1)) if values.size > 1 else None,
            "low": bounds[0] if bounds else None,
            "high": bounds[1] if bounds else None,
            "missing": group.n - values.size,
        }
        if group.train is not None:
            train = group.train[:, i][np.isfinite(group.train[:, i])]
            row["train_mean"] = float(train.mean()) if train.size else None
        rows.append(row)
    types = {"level": pl.Int64, "n": pl.Int64, "missing": pl.Int64}
    names = ["level", "sparsity", "n", "mean", "sd", "low", "high", "missing"]
    names += ["train_mean"] if group.train is not None else []
    return pl.DataFrame(rows, schema={name: types.get(name, pl.Float64) for name in names})
