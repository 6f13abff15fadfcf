"""Facts of a curve: threshold, efficacy and gap, against curves whose answers are known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from prunephase.analysis.curve import Group
from prunephase.analysis.facts import Fact, efficacy, gap, threshold

LEVELS = np.arange(5)
SPARSITY = 1 - 0.8**LEVELS


def group(train: list[list[float]] | None, test: list[list[float]] | None = None) -> Group:
    values = np.array(train if test is None else test, float)
    return Group(
        {}, LEVELS, SPARSITY, values, None if train is None else np.array(train, float), tuple(range(len(values)))
    )


FALLING = [[1.0, 1.0, 0.996, 0.98, 0.5], [1.0, 0.999, 0.98, 0.97, 0.5], [0.9, 0.9, 0.9, 0.893, 0.5]]


def test_the_threshold_is_the_first_level_below_the_share_of_each_seeds_own_dense_accuracy() -> None:
    found = threshold(group(FALLING))
    assert found.per_seed == (3.0, 2.0, 4.0)  # 0.893 is above 99 % of 0.9
    assert (found.mean, found.n, found.unit) == (3.0, 3, "level")
    assert threshold(group(FALLING), share=0.995).per_seed == (3.0, 2.0, 3.0)
    assert threshold(group(FALLING), unit="sparsity").per_seed == tuple(SPARSITY[[3, 2, 4]])


def test_efficacy_is_the_largest_sparsity_before_train_accuracy_falls() -> None:
    found = efficacy(group(FALLING))
    assert found.per_seed == tuple(SPARSITY[[2, 1, 2]])
    assert efficacy(group(FALLING), tolerance=0.01).per_seed == tuple(SPARSITY[[2, 1, 3]])
    assert efficacy(group(FALLING), unit="level").per_seed == (2.0, 1.0, 2.0)


def test_a_train_accuracy_that_rises_first_does_not_end_efficacy() -> None:
    assert efficacy(group([[0.85, 0.91, 0.92, 0.8, 0.9]]), unit="level").per_seed == (2.0,)


def test_the_interval_is_students() -> None:
    found = threshold(group(FALLING))
    low, high = stats.t.interval(0.95, 2, loc=3, scale=stats.sem([3, 2, 4]))
    assert found.interval == pytest.approx((low, high))


def test_a_seed_without_the_fact_is_left_out_and_counted() -> None:
    never = [1.0] * 5
    gapped = [1.0, float("nan"), 0.5, 0.5, 0.5]  # what the missing level would have shown is not known
    empty = [float("nan")] * 5
    for make in (threshold, efficacy):
        found = make(group([FALLING[0], never, gapped, empty]))
        assert found.n == 1
        assert found.per_seed[1:] == (None, None, None)
        assert found.interval is None


def test_without_train_accuracies_there_is_no_fact() -> None:
    bare = group(None, [[0.9] * 5])
    assert threshold(bare).n == efficacy(bare).n == 0
    assert np.isnan(threshold(bare).mean)
    assert gap(bare) == ()


def test_the_gap_is_test_error_minus_train_error() -> None:
    found = gap(group([[1.0] * 5, [0.9] * 5], [[0.8] * 5, [0.8] * 5]))
    assert len(found) == 5
    assert found[0].per_seed == pytest.approx((0.2, 0.1))
    assert found[4].mean == pytest.approx(0.15)
    assert isinstance(found[0], Fact)
    assert found[0].unit == "accuracy"
