"""What happens while trials are trained, as it is told to whoever looks on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochDone:
    """An epoch is trained and measured (not yet safe: levels are what is committed)."""

    trial: str
    level: int
    epoch: int
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class LevelDone:
    """A level is sealed in the store; nothing takes it away.

    sparsity: share of prunable weights removed; remaining: how many are left; values: what the last epoch measured;
    cached: it was there before; shared: another trial's training served, as far as they agree.
    """

    trial: str
    level: int
    sparsity: float
    remaining: int
    status: str
    values: Mapping[str, float | None]
    cached: bool
    shared: bool = False


@dataclass(frozen=True)
class Diagnosed:
    """What a diagnosis found at a level is sealed in the store; cached: it was there before."""

    trial: str
    level: int
    name: str
    seconds: float
    cached: bool


@dataclass(frozen=True)
class Note:
    """Something a person should read, in one line; trial: "" where it is about all of them."""

    trial: str
    text: str


Event = EpochDone | LevelDone | Diagnosed | Note
