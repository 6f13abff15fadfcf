"""Cost: operations of trainings in four conventions side by side. Arithmetic alone; one multiply-accumulate is one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

PASSES = 3.0  # forward passes that a training step takes: one forward, two backward


@dataclass(frozen=True)
class Network:
    """macs: multiply-accumulates of one example's forward pass, by module; density: share of weights left, by module.

    A module that `density` does not name is dense.
    """

    macs: Mapping[str, float]
    density: Mapping[str, float] = field(default_factory=dict)

    @property
    def dense(self) -> float:
        """Multiply-accumulates as if nothing were pruned."""
        return sum(self.macs.values())

    @property
    def sparse(self) -> float:
        """Multiply-accumulates with weights that are left, module by module."""
        return sum(count * self.density.get(name, 1.0) for name, count in self.macs.items())


@dataclass(frozen=True)
class Training:
    """One level trained. seconds: by the clock; heard: forward passes of `teacher`, one example each."""

    network: Network
    examples: int
    epochs: int
    seconds: float = 0.0
    teacher: Network | None = None
    heard: float = 0.0


@dataclass(frozen=True)
class Cost:
    """Operations in four conventions, and seconds by the clock.

    papers: that of DSD2 and of `prunephase presets`, 3 x MAC x examples x epochs, dense at every level, no teacher;
    with_teacher_training: the same with the trainings that the teacher took; with_teacher_forward: the teacher's
    forward passes too; sparsity_aware: all of that with the MACs of every module x its density, which is arithmetic,
    not time: few machines are the faster for it.
    """

    papers: float = 0.0
    with_teacher_training: float = 0.0
    with_teacher_forward: float = 0.0
    sparsity_aware: float = 0.0
    seconds: float = 0.0


CONVENTIONS = ("papers", "with_teacher_training", "with_teacher_forward", "sparsity_aware")


def student(training: Training) -> Cost:
    """What a level of the ladder costs, the teacher's forward passes included where the convention has them.

    >>> cost = student(Training(Network({"a": 100.0, "b": 10.0}, {"a": 0.5}), examples=10, epochs=2))
    >>> cost.papers, cost.sparsity_aware
    (6600.0, 3600.0)
    """
    dense, sparse = _operations(training)
    asked, asked_sparse = 0.0, 0.0
    if training.teacher is not None:
        asked, asked_sparse = training.teacher.dense * training.heard, training.teacher.sparse * training.heard
    return Cost(dense, dense, dense + asked, sparse + asked_sparse, training.seconds)


def teacher(training: Training) -> Cost:
    """What a level of the teacher's ladder adds to the cost of the student."""
    dense, sparse = _operations(training)
    return Cost(0.0, dense, dense, sparse, training.seconds)


def total(costs: Iterable[Cost]) -> Cost:
    """Of several trainings."""
    held = list(costs)
    return Cost(*(float(sum(getattr(one, f.name) for one in held)) for f in fields(Cost)))


def _operations(training: Training) -> tuple[float, float]:
    samples = PASSES * training.examples * training.epochs
    return training.network.dense * samples, training.network.sparse * samples
