"""Phases: light, critical, sweet, collapsed; is there a sparse double descent, and how sure are we?"""

# S seeds, L levels.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from prunephase.analysis.curve import Group

Verdict = Literal["present", "not shown", "underpowered"]


@dataclass(frozen=True)
class Point:
    """A level on the curve. `value`: mean accuracy in [0, 1]; `levels`: interval of the level from resampled seeds, None with one seed."""

    level: int
    sparsity: float
    value: float
    levels: tuple[int, int] | None


@dataclass(frozen=True)
class Span:
    """A phase, from its first to its last level (both included). `start_levels`: interval of where it begins."""

    start: int
    end: int
    start_levels: tuple[int, int] | None


@dataclass(frozen=True)
class Severity:
    """How bad the dip is. Shares in [0, 1]; `width` in levels.

    depth: best mean accuracy before the dip minus the dip; width: levels from half depth to half depth.
    stop_level: where early stopping with `patience` worse levels in a row would have ended the ladder and which level it would take;
    forfeited: accuracy at the peak minus accuracy there.
    """

    depth: float
    depth_interval: tuple[float, float] | None
    width: float
    patience: int
    stop_level: int
    chosen_level: int
    forfeited: float


@dataclass(frozen=True)
class Phases:
    """What the detector says of one curve."""

    verdict: Verdict
    p_value: float | None
    n: int
    n_needed: int | None
    dip: Point | None
    peak: Point | None
    threshold: Point | None
    phases: dict[str, Span]
    severity: Severity | None
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, for `--json`."""
        raise NotImplementedError


def phases(curve: Group, *, seed: int = 0) -> Phases:
    """Find dip, peak and phases of `curve` and test for a sparse double descent."""
    raise NotImplementedError
