"""Named randomness: streams share nothing, and a seed is a seed."""

# S streams, U uniforms of each.

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prunephase import streams
from prunephase.randomness import seeded
from prunephase.streams import Purpose

PURPOSES: list[Purpose] = ["weights", "order", "augment", "noise", "split", "score", "dropout", "analysis"]
LIMIT = 6.4  # of a standard normal over 500,000 pairs: |z| > 6.4 has probability 8e-5 after Bonferroni


def uniforms(count: int, length: int) -> NDArray[np.float64]:
    """[S, U] standardised draws; neighbouring seeds stand beside each other."""
    keys = [(seed, purpose) for seed in range(count // len(PURPOSES)) for purpose in PURPOSES]
    draws = np.stack([streams.generator(seed, purpose).random(length) for seed, purpose in keys])
    return (draws - 0.5) * math.sqrt(12)


def test_a_thousand_streams_are_not_correlated() -> None:
    draws = uniforms(1_000, 10_000).astype(np.float32)
    z = (draws @ draws.T) / math.sqrt(draws.shape[1])
    upper = z[np.triu_indices(len(z), 1)]
    assert np.abs(upper).max() < LIMIT
    assert abs(float(upper.std()) - 1) < 0.02


def test_neighbouring_seeds_and_epochs_do_not_share_shifted_draws() -> None:
    length = 20_000
    for first, second in (
        (streams.generator(0, "noise"), streams.generator(1, "noise")),
        (streams.generator(7, "order", 0, 3), streams.generator(7, "order", 0, 4)),
        (streams.generator(7, "order", 1), streams.generator(8, "order", 0)),
    ):
        a, b = (np.asarray(g.random(length)) - 0.5 for g in (first, second))
        for lag in range(-64, 65):
            x, y = (a[lag:], b[: length - lag]) if lag >= 0 else (a[:lag], b[-lag:])
            assert abs((x * y).sum() * 12 / math.sqrt(len(x))) < 5.5, lag


def test_no_two_of_a_hundred_thousand_keys_collide() -> None:
    keys = [
        (seed, p, level, epoch) for seed in range(5) for p in PURPOSES for level in range(50) for epoch in range(50)
    ]
    assert len(keys) == 100_000
    assert len({streams.seed(*key) for key in keys}) == len(keys)
    assert len({streams._hash(key[0], key[1], key[2:])[:16] for key in keys}) == len(keys)


def test_keys_that_would_read_alike_without_their_commas_differ() -> None:
    alike = [(1, 23), (12, 3), (123,), ("1", 23), (1, "23"), ("1, 23",), (), (0,), ("",), ("0",)]
    assert len({streams.seed(0, "order", *where) for where in alike}) == len(alike)
    assert streams.seed(1, "order", 0) != streams.seed(0, "order", 1)


def test_seed_0_is_a_seed() -> None:
    draws = streams.generator(0, "weights").random(5)
    assert (draws == streams.generator(0, "weights").random(5)).all()
    assert not (draws == streams.generator(1, "weights").random(5)).any()
    assert 0 < streams.seed(0, "weights") < 2**63


def test_numpys_and_pythons_whole_numbers_name_the_same_stream() -> None:
    assert streams.seed(np.int64(3), "order") == streams.seed(3, "order")  # type: ignore[arg-type]


def test_the_streams_are_pinned() -> None:
    """Whoever changes these changes every result ever stored."""
    assert streams.seed(0, "weights") == 8730110008906084551
    assert streams.seed(3, "dropout", 2, 17) == 7716880243828224031
    assert streams.generator(1, "order", 4, 2).permutation(8).tolist() == [1, 2, 6, 0, 5, 4, 3, 7]


def test_torchs_global_draws_follow_the_seed_and_give_the_callers_state_back() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    with seeded(5):
        inside = torch.rand(3)
        with seeded(6):
            other = torch.rand(3)
        after = torch.rand(3)
    assert torch.equal(torch.rand(4), expected)
    with seeded(5):
        assert torch.equal(torch.rand(3), inside)
        assert torch.equal(torch.rand(3), after)
    assert not torch.equal(inside, other)


def test_the_callers_state_comes_back_after_an_error() -> None:
    state = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(5):
        raise KeyError(torch.rand(1).item())
    assert torch.equal(torch.get_rng_state(), state)
