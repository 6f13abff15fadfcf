"""Spread: how seeds scatter about their mean, and curves drawn that scatter alike."""

# B draws, S seeds, L levels.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PRIOR = 4.0  # degrees of freedom lent by the neighbouring levels to a level's own variance
REACH = 2  # neighbours on each side that lend them
ROUNDING = 1e-9  # accuracies closer than this are equal


@dataclass(frozen=True)
class Spread:
    """Seeds in short. mean, variance (of a seed less its offset): [..., L]; residuals: [..., S, L], 0 if missing."""

    mean: Floats
    variance: Floats
    residuals: Floats


def spread(values: Floats, there: Bools) -> Spread:
    """Mean and variance by level, after removing what a seed adds to all its levels alike. [..., S, L], [S, L].

    A seed's offset moves its whole curve and so says nothing of its shape. Missing cells (`there` is False) are left
    out; offsets are estimated from the cells that are there, so that a gap in a good seed does not look like a dip.
    A level's variance is pulled towards that of its neighbours (`PRIOR`, `REACH`), as in Smyth (2004).
    """
    levels = there.shape[1]
    filled = np.where(there, values, 0.0)
    count = there.sum(axis=0)
    cells = there.sum(axis=1)
    mean = filled.sum(axis=-2) / count
    offset = np.zeros((*values.shape[:-1], 1))
    for _ in range(1 if there.all() else 20):
        offset = (np.where(there, filled - mean[..., None, :], 0.0).sum(axis=-1) / cells)[..., None]
        mean = np.where(there, filled - offset, 0.0).sum(axis=-2) / count
    residuals = np.where(there, filled - mean[..., None, :] - offset, 0.0)
    # the offsets take one degree of freedom per seed, spread evenly over its levels
    freedom = (count - 1) * (1 - 1 / levels)
    if not freedom.any():
        return Spread(mean, np.zeros_like(mean), residuals)
    squares = (residuals**2).sum(axis=-2)
    near = np.abs(np.subtract.outer(np.arange(levels), np.arange(levels))) <= REACH
    overall = squares.sum(axis=-1, keepdims=True) / freedom.sum()
    lent = near @ freedom
    local = np.where(lent > 0, (squares @ near) / np.maximum(lent, 1e-12), overall)
    variance = (squares + PRIOR * local) / (freedom + PRIOR)
    return Spread(mean, np.maximum(variance, 1e-4 * overall), residuals)


def correlation(summary: Spread, there: Bools) -> Floats:
    """Correlation between levels of one seed's scatter, up to an offset. [L, L].

    From the variogram of standardised residuals, which a seed's offset cannot bend: half the mean squared difference of
    cells h levels apart, fitted by a nugget and an exponential, a + b (1 - r^h).
    """
    seeds, levels = there.shape
    deviation = np.sqrt(summary.variance * (seeds - 1) / seeds)
    scaled = summary.residuals / deviation
    lags = np.arange(1, max(2, min(levels - 1, levels // 2) + 1))
    gamma, pairs = np.zeros(len(lags)), np.zeros(len(lags))
    for i, lag in enumerate(lags):
        both = there[:, lag:] & there[:, :-lag]
        pairs[i] = both.sum()
        if pairs[i]:
            gamma[i] = np.sum(np.where(both, scaled[:, lag:] - scaled[:, :-lag], 0.0) ** 2) / 2 / pairs[i]
    best = (np.inf, 1.0, 0.0, 0.5)
    for r in np.arange(0.2, 0.99, 0.03):
        rise = 1 - r**lags
        for nugget, sill in _two_nonnegative(np.ones(len(lags)), rise, gamma, pairs):
            error = float(np.sum(pairs * (gamma - nugget - sill * rise) ** 2))
            if error < best[0] - 1e-12:
                best = (error, nugget, sill, float(r))
    _, nugget, sill, r = best
    apart = np.abs(np.subtract.outer(np.arange(levels), np.arange(levels)))
    matrix: Floats = sill * r**apart + nugget * np.eye(levels)
    return matrix if nugget + sill > 0 else np.eye(levels)


def _two_nonnegative(x: Floats, z: Floats, y: Floats, weights: Floats) -> list[tuple[float, float]]:
    """Candidates for the least-squares a, b >= 0 of y = a x + b z: the interior solution and both edges."""
    xx, xz, zz = np.sum(weights * x * x), np.sum(weights * x * z), np.sum(weights * z * z)
    xy, zy = np.sum(weights * x * y), np.sum(weights * z * y)
    candidates = [(max(0.0, xy / xx), 0.0), (0.0, max(0.0, zy / zz))]
    determinant = xx * zz - xz * xz
    if determinant > 1e-12 * xx * zz:
        a, b = (zz * xy - xz * zy) / determinant, (xx * zy - xz * xy) / determinant
        if a >= 0 and b >= 0:
            candidates.append((a, b))
    return [(float(a), float(b)) for a, b in candidates]


def draw(
    truth: Floats, variance: Floats, correlated: Floats, seeds: int, draws: int, generator: np.random.Generator
) -> Floats:
    """Gaussian curves about `truth`, one for all draws or one each, with this spread. [L] or [B, 1, L] -> [B, S, L]."""
    root = np.linalg.cholesky(correlated + 1e-9 * np.eye(len(variance))) * np.sqrt(variance)[:, None]
    return truth + generator.standard_normal((draws, seeds, len(variance))) @ root.T


def reweighted(summary: Spread, there: Bools, draws: int, generator: np.random.Generator) -> Floats:
    """Means had the seeds been others: whole seeds' residuals under Gaussian weights. [B, L].

    The weights spread as the mean of S seeds does; with few seeds, drawing them with replacement is too narrow.
    """
    count = there.sum(axis=0)
    scale = np.sqrt(count * np.maximum(count - 1, 1))
    weights = generator.standard_normal((draws, len(there)))
    means: Floats = summary.mean + weights @ (summary.residuals / scale)
    return means
