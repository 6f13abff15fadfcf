"""Shapes: how well does a curve with one hump explain the values, and how much better does one with two?"""

# B curves, L levels.

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Floats = NDArray[np.float64]


def rising_errors(values: Floats, weights: Floats) -> Floats:
    """Weighted squared error of the best rising fit of every stretch [start, end] of every curve. [B, L] -> [B, L, L].

    Pool-adjacent-violators, carried one level further for all starts and curves at once (Stout 2008 uses the same
    recursion for one start). Entries with end < start are 0: an empty stretch fits.
    """
    curves, levels = values.shape
    rows = levels * curves  # row = start * curves + curve, so that the starts <= end are one slice
    mean, weight, error = np.empty((3, levels, rows))  # the stack of pooled blocks; error: of all blocks up to this one
    height = np.zeros(rows, dtype=np.int64)
    result = np.zeros((levels, levels, curves))
    for end in range(levels):
        active = (end + 1) * curves
        m, w = np.tile(values[:, end], end + 1), np.tile(weights[:, end], end + 1)
        e, h = np.zeros(active), height[:active]
        open_rows = np.flatnonzero(h > 0)
        while open_rows.size:
            below = h[open_rows] - 1
            violates = mean[below, open_rows] > m[open_rows]
            open_rows, below = open_rows[violates], below[violates]
            m0, w0, m1, w1 = mean[below, open_rows], weight[below, open_rows], m[open_rows], w[open_rows]
            # the block's own error is the step in the running error
            own = error[below, open_rows] - np.where(below > 0, error[below - 1, open_rows], 0.0)
            e[open_rows] += own + w0 * w1 / (w0 + w1) * (m0 - m1) ** 2
            m[open_rows] = (w0 * m0 + w1 * m1) / (w0 + w1)
            w[open_rows] = w0 + w1
            h[open_rows] = below
            open_rows = open_rows[below > 0]
        row = np.arange(active)
        mean[h, row], weight[h, row] = m, w
        error[h, row] = e + np.where(h > 0, error[h - 1, row], 0.0)
        result[: end + 1, end] = error[h, row].reshape(end + 1, curves)
        h += 1  # a view: the heights of the active rows
    return result.transpose(2, 0, 1)


def smoothed(values: Floats) -> Floats:
    """Each level averaged with its neighbours, weights 1 2 1, ends repeated. [..., L] -> [..., L].

    The kernel is totally positive, so it never adds a hump; it takes chance from single levels that a dip spread over
    several keeps.
    """
    ends = np.concatenate([values[..., :1], values, values[..., -1:]], axis=-1)
    return np.asarray((ends[..., :-2] + 2 * ends[..., 1:-1] + ends[..., 2:]) / 4)


@dataclass(frozen=True)
class Humps:
    """Errors of one hump and of two. one, two: [B]; split: [B], the last level of the first of two humps."""

    one: Floats
    two: Floats
    split: NDArray[np.int64]


def humps(values: Floats, weights: Floats) -> Humps:
    """Weighted squared error of the best fit that rises then falls, and of the best that does so twice. [B, L].

    One hump includes flat, falling and rising curves; two humps include one. A batch is worked off in pieces that stay
    in the processor's cache.
    """
    curves, levels = values.shape
    piece = max(1, 500_000 // levels**2)
    parts = [_humps(values[i : i + piece], weights[i : i + piece]) for i in range(0, curves, piece)]
    return Humps(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("one", "two", "split")))


def _humps(values: Floats, weights: Floats) -> Humps:
    curves, levels = values.shape
    both = rising_errors(np.concatenate([values, -values]), np.concatenate([weights, weights]))
    rising, falling = both[:curves], both[curves:]
    # first[:, d]: one hump on levels 0..d; last[:, d]: one hump on levels d..L-1
    first = np.stack(
        [
            np.min(rising[:, 0, : d + 1] + np.pad(falling[:, 1 : d + 1, d], ((0, 0), (0, 1))), axis=1)
            for d in range(levels)
        ],
        axis=1,
    )
    last = np.stack(
        [
            np.min(rising[:, d, d:] + np.pad(falling[:, d + 1 :, levels - 1], ((0, 0), (0, 1))), axis=1)
            for d in range(levels)
        ],
        axis=1,
    )
    one = first[:, levels - 1]
    split_errors = first[:, :-1] + last[:, 1:]
    split = np.argmin(split_errors, axis=1)
    return Humps(one, np.minimum(one, np.min(split_errors, axis=1)), split)


def one_hump(values: Floats, weights: Floats) -> Floats:
    """The best fit that rises, then falls. [L] -> [L]."""

    def fit(mode: int) -> tuple[float, Floats]:
        up = isotonic_regression(values[:mode], weights=weights[:mode]).x if mode else values[:0]
        down = isotonic_regression(values[mode:], weights=weights[mode:], increasing=False).x
        fitted: Floats = np.concatenate([up, down])
        return float(np.sum(weights * (values - fitted) ** 2)), fitted

    return min((fit(mode) for mode in range(len(values))), key=lambda pair: pair[0])[1]


def flattened(fit: Floats, errors: Floats, apart: float) -> Floats:
    """Merge neighbouring steps of `fit` that lie less than `apart` standard errors from each other. [L], [L] -> [L].

    A fit bends into chance slopes, and a slope leaves less room for chance dips than the level stretch that is there.
    """
    starts = np.flatnonzero(np.concatenate([[True], np.diff(fit) != 0]))
    steps = [
        (float(fit[a]), float(np.sum(1 / errors[a:b] ** 2)), int(b - a))
        for a, b in zip(starts, [*starts[1:], len(fit)], strict=True)
    ]
    while len(steps) > 1:
        distance = [abs(a[0] - b[0]) / np.sqrt(1 / a[1] + 1 / b[1]) for a, b in pairwise(steps)]
        i = int(np.argmin(distance))
        if distance[i] >= apart:
            break
        (m0, w0, n0), (m1, w1, n1) = steps[i : i + 2]
        steps[i : i + 2] = [((m0 * w0 + m1 * w1) / (w0 + w1), w0 + w1, n0 + n1)]
    return np.concatenate([np.full(count, value) for value, _, count in steps])
