"""Label noise: which training labels are wrong, and a card that says so exactly."""

from __future__ import annotations

from prunephase.noise.apply import corrupt
from prunephase.noise.card import Card, Realised
from prunephase.noise.kinds import NOISES

__all__ = ["NOISES", "Card", "Realised", "corrupt"]
