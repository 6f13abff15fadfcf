"""Named randomness: every draw comes from a stream whose seed is a hash of its name.

A resumed, reordered or parallel run therefore draws the same numbers, neighbouring seeds share nothing,
and seed 0 is a seed like any other.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

Purpose = Literal["weights", "order", "augment", "noise", "split", "score", "dropout", "analysis"]


def _hash(seed: int, purpose: Purpose, where: tuple[int | str, ...]) -> bytes:
    return hashlib.sha256(repr((int(seed), purpose, *where)).encode()).digest()


def seed(seed: int, purpose: Purpose, *where: int | str) -> int:
    """A 63-bit seed for a generator that is not ours (torch's global one, which on the CPU takes the low 32 bits).

    >>> seed(0, "weights") == seed(0, "weights") != seed(1, "weights")
    True
    """
    return int.from_bytes(_hash(seed, purpose, where)[:8], "little") >> 1


def generator(seed: int, purpose: Purpose, *where: int | str) -> np.random.Generator:
    """The stream of one purpose at one place (level, epoch, name ...): Philox, keyed with 128 bits of SHA-256.

    >>> a, b = generator(0, "order", 3, 1), generator(0, "order", 3, 1)
    >>> bool((a.permutation(5) == b.permutation(5)).all())
    True
    """
    key = np.frombuffer(_hash(seed, purpose, where)[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
