"""The ladder of sparsities: how many weights remain at each level."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from prunephase.trial import remaining_weights, steps_per_epoch


@given(st.integers(1, 10**7), st.floats(0.001, 0.999), st.integers(0, 40))
def test_every_level_removes_the_rounded_fraction_of_what_remains(size: int, fraction: float, levels: int) -> None:
    counts = remaining_weights(size, fraction, levels)
    assert counts[0] == size
    assert 1 <= len(counts) <= levels + 1
    assert counts[-1] >= 1
    for before, after in pairwise(counts):
        assert before - after == round(fraction * before) >= 1
    if len(counts) <= levels:  # it ends early only where another round would remove nothing or everything
        assert not 1 <= round(fraction * counts[-1]) < counts[-1]


def test_the_counts_stay_beside_the_nominal_sparsity() -> None:
    counts = remaining_weights(11_164_352, 0.2, 34)
    assert len(counts) == 35
    assert all(abs(n - 11_164_352 * 0.8**i) < 3 for i, n in enumerate(counts))


def test_small_cases_by_hand() -> None:
    assert remaining_weights(10, 0.2, 0) == [10]
    assert remaining_weights(10, 0.2, 9) == [10, 8, 6, 5, 4, 3, 2]
    assert remaining_weights(4, 0.5, 9) == [4, 2, 1]
    assert remaining_weights(1, 0.5, 9) == [1]
    assert remaining_weights(2, 0.9, 9) == [2]
    # round half to even, as Python and torch.nn.utils.prune do: 2.5 -> 2, 1.5 -> 2.
    assert remaining_weights(5, 0.5, 1) == [5, 3]
    assert remaining_weights(3, 0.5, 1) == [3, 1]


@given(st.integers(1, 10**5), st.integers(1, 10**5), st.integers(1, 40))
def test_with_ignored_weights_the_fraction_is_of_all_rounded_up_and_one_more(
    size: int, ignored: int, levels: int
) -> None:
    counts = remaining_weights(size, 0.25, levels, ignored)
    for before, after in pairwise(counts):
        assert before - after == -(-(before + ignored) // 4) + 1
    assert counts[-1] >= 1


def test_the_last_batch_of_an_epoch_may_be_short() -> None:
    assert [steps_per_epoch(n, 16) for n in (1, 15, 16, 17, 32, 33)] == [1, 1, 1, 2, 2, 3]
