"""Intervals of few seeds, and the fits the detector rests on, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import isotonic_regression

from prunephase.analysis import interval, summarise
from prunephase.analysis.detect import planted
from prunephase.analysis.severity import early_stop, severity
from prunephase.analysis.shape import flattened, humps, one_hump, rising_errors, smoothed
from prunephase.analysis.spread import correlation, draw, reweighted, spread

curves = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=(3, 9)))


def test_the_interval_is_students() -> None:
    values = np.array([0.71, 0.74, 0.78, 0.70])
    expected = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert interval(values) == pytest.approx(expected)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_holds_the_mean_of_few_seeds_95_times_in_100(n: int) -> None:
    values = np.random.default_rng(n).normal(0.8, 0.01, size=(n, 4000))
    found = summarise(values)
    assert ((found.low < 0.8) & (found.high > 0.8)).mean() == pytest.approx(0.95, abs=0.012)


def test_missing_levels_are_left_out_and_counted() -> None:
    found = summarise(np.array([[0.8, np.nan, 0.7], [0.9, np.nan, np.nan]]))
    assert found.n.tolist() == [2, 0, 1]
    assert found.mean == pytest.approx([0.85, np.nan, 0.7], nan_ok=True)
    assert np.isnan(found.sd[1:]).all()
    assert interval(np.array([0.8, np.nan])) is None


@given(curves)
def test_the_rising_fit_of_every_stretch_is_scipys(values: np.ndarray) -> None:
    weights = 1 + np.abs(values)
    errors = rising_errors(values, weights)
    for curve in range(3):
        for start in range(9):
            for end in range(start, 9):
                y, w = values[curve, start : end + 1], weights[curve, start : end + 1]
                expected = np.sum(w * (y - isotonic_regression(y, weights=w).x) ** 2)
                assert errors[curve, start, end] == pytest.approx(expected, abs=1e-9)


@given(curves)
def test_two_humps_are_two_single_ones_side_by_side(values: np.ndarray) -> None:
    weights = 1 + np.abs(values)
    found = humps(values, weights)

    def error(y: np.ndarray, w: np.ndarray) -> float:
        return float(np.sum(w * (y - one_hump(y, w)) ** 2))

    for i, (y, w) in enumerate(zip(values, weights, strict=True)):
        assert found.one[i] == pytest.approx(error(y, w), abs=1e-9)
        apart = min(error(y[:d], w[:d]) + error(y[d:], w[d:]) for d in range(1, 9))
        assert found.two[i] == pytest.approx(min(apart, error(y, w)), abs=1e-9)


@given(curves)
def test_smoothing_never_makes_a_second_hump(values: np.ndarray) -> None:
    single = np.stack([one_hump(y, np.ones(9)) for y in values])
    errors = humps(smoothed(single), np.ones((3, 9)))
    assert errors.one == pytest.approx(0, abs=1e-12)


def test_chance_slopes_are_levelled_and_real_steps_kept() -> None:
    fit = np.array([0.902, 0.902, 0.898, 0.5, 0.5])
    assert flattened(fit, np.full(5, 0.005), 3.0) == pytest.approx([0.9007, 0.9007, 0.9007, 0.5, 0.5], abs=1e-4)


def test_the_offset_of_a_seed_is_no_spread_of_shape() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.01, size=(5, 25))
    there = np.ones((5, 25), dtype=bool)
    moved = values + np.array([[0.1], [-0.1], [0.05], [-0.03], [-0.02]])
    assert spread(moved, there).variance == pytest.approx(spread(values, there).variance)
    assert spread(values, there).variance.mean() == pytest.approx(1e-4, rel=0.3)


def test_a_gap_in_a_good_seed_is_no_dip() -> None:
    values = np.full((4, 12), 0.8) + np.array([[0.09], [-0.03], [-0.03], [-0.03]])
    there = np.ones((4, 12), dtype=bool)
    there[0, 4:7] = False
    assert np.ptp(spread(values, there).mean) < 1e-4


@pytest.mark.parametrize("r", [0.0, 0.7])
def test_correlation_between_levels_is_recovered(r: float) -> None:
    apart = np.abs(np.subtract.outer(np.arange(25), np.arange(25)))
    truth = r**apart if r else np.eye(25)
    generator = np.random.default_rng(1)
    there = np.ones((5, 25), dtype=bool)
    neighbours = []
    for _ in range(60):
        values = draw(np.full(25, 0.8), np.full(25, 1e-4), truth, 5, 1, generator)[0]
        found = correlation(spread(values, there), there)
        neighbours.append(found[0, 1] / found[0, 0])
    assert np.mean(neighbours) == pytest.approx(r, abs=0.15)  # never below 0, so above it on average


def test_reweighted_means_spread_as_the_mean_of_the_seeds_does() -> None:
    generator = np.random.default_rng(2)
    there = np.ones((400, 6), dtype=bool)
    values = generator.normal(0.8, 0.01, size=(400, 6))
    means = reweighted(spread(values, there), there, 2000, generator)
    # one part in 6 of the variance goes with the seeds' offsets
    assert means.std(axis=0) == pytest.approx(np.full(6, 0.01 * np.sqrt(5 / 6 / 400)), rel=0.15)


def test_a_planted_dip_is_as_deep_below_its_lower_shoulder_as_asked() -> None:
    curve = planted(np.linspace(0.9, 0.7, 21), 10, 4, 0.02)
    assert curve[10] == pytest.approx(curve[14] - 0.02)
    assert curve[:7] == pytest.approx(np.linspace(0.9, 0.7, 21)[:7])


def test_early_stopping_takes_the_best_level_until_patience_ends() -> None:
    assert early_stop(np.array([0.8, 0.82, 0.81, 0.8, 0.79, 0.9]), patience=3) == (4, 1)
    assert early_stop(np.array([0.8, 0.82, 0.81, 0.8, 0.83, 0.9]), patience=3) == (5, 5)
    assert early_stop(np.array([0.8, 0.8, 0.8, 0.8]), patience=3) == (3, 0)


def test_severity_says_depth_width_and_what_stopping_early_forfeits() -> None:
    mean = np.array([0.8, 0.8, 0.7, 0.6, 0.7, 0.8, 0.9])
    values = np.stack([mean - 0.01, mean + 0.01])
    found = severity(values, mean, np.arange(10, 17), before=0, dip=3, peak=6)
    assert found.depth == pytest.approx(0.2)
    assert found.depth_interval == pytest.approx((0.2, 0.2))
    assert found.width == pytest.approx(2.0)
    assert (found.stop_level, found.chosen_level) == (13, 10)
    assert found.forfeited == pytest.approx(0.1)
