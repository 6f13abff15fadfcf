"""Two curves compared level by level: against scipy's paired t-test and Holm's method done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from prunephase.analysis.compare import holm, paired, t_test
from prunephase.analysis.curve import Group
from prunephase.errors import UserError

SEEDS = 5
SPARSITY = np.array([0.0, 0.2, 0.36])


def group(values: np.ndarray, seeds: tuple[int, ...] | None = None, sparsity: np.ndarray = SPARSITY) -> Group:
    return Group({}, np.arange(values.shape[1]), sparsity, values, None, seeds or tuple(range(len(values))))


@pytest.fixture
def two() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    base = 0.8 + 0.05 * draw.standard_normal((SEEDS, 3))
    return base, base + np.array([0.0, 0.03, -0.001]) + 0.002 * draw.standard_normal((SEEDS, 3))


def test_each_level_has_scipys_paired_t_test_and_its_interval(two: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = two
    found = paired(group(a), group(b)).levels
    for i, level in enumerate(found):
        known = stats.ttest_rel(a[:, i], b[:, i])
        assert level.p == pytest.approx(known.pvalue)
        assert level.interval == pytest.approx(tuple(known.confidence_interval(0.95)))
        assert level.difference == pytest.approx((a - b)[:, i].mean())
        assert level.n == SEEDS


def test_pairing_finds_what_is_lost_in_the_spread_between_seeds(two: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = two
    assert [level.winner for level in paired(group(a), group(b)).levels] == [None, "b", None]
    assert [level.winner for level in paired(group(b), group(a)).levels] == [None, "a", None]
    assert stats.ttest_ind(a[:, 1], b[:, 1]).pvalue > 0.05


def test_seeds_are_paired_by_their_number_and_others_left_out(two: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = two
    turned = group(b[::-1], tuple(reversed(range(SEEDS))))
    assert paired(group(a), turned) == paired(group(a), group(b))
    fewer = paired(group(a), group(b[:3], (0, 1, 7))).levels[1]
    assert fewer.n == 2
    assert fewer.difference == pytest.approx((a - b)[:2, 1].mean())


def test_a_level_where_nothing_varies_has_no_p_and_does_not_count_for_holm(two: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (values.copy() for values in two)
    b[:, 0] = a[:, 0]  # a ticket and its re-initialisation share the dense level
    first, second, third = paired(group(a), group(b)).levels
    assert (first.difference, first.p, first.adjusted, first.winner) == (0.0, None, None, None)
    assert second.adjusted == pytest.approx(min(1, 2 * second.p))
    assert third.adjusted == pytest.approx(max(third.p, second.adjusted))


def test_a_missing_level_of_a_seed_is_left_out(two: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = two
    a[2, 1] = np.nan
    assert [level.n for level in paired(group(a), group(b)).levels] == [5, 4, 5]


def test_levels_of_one_curve_alone_are_left_out(two: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = two
    assert [level.level for level in paired(group(a), group(b[:, :2], sparsity=SPARSITY[:2])).levels] == [0, 1]


def test_curves_that_cannot_be_paired_are_refused(two: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = two
    with pytest.raises(UserError, match="no seed"):
        paired(group(a), group(b, (10, 11, 12, 13, 14)))
    with pytest.raises(UserError, match="different sparsities"):
        paired(group(a), group(b, sparsity=SPARSITY * 0.9))


def test_holm_is_holm() -> None:
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([None, 0.02]) == [None, 0.02]


def test_one_sided_p_is_half_of_two_sided_where_the_sign_fits() -> None:
    values = np.array([0.01, 0.03, 0.02])
    assert t_test(values, "greater") == pytest.approx(t_test(values) / 2)
    assert t_test(-values, "greater") == pytest.approx(1 - t_test(values) / 2)
    assert t_test(values[:1]) is None
    assert t_test(np.array([0.01, 0.01, 0.01])) is None
