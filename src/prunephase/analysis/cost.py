"""Cost: operations of trainings in four conventions side by side, one multiply-accumulate being one; energy, carbon."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import polars as pl

PASSES = 3.0  # forward passes that a training step takes: one forward, two backward
# Green Algorithms (Lannelongue, Grealey and Inouye 2021): a core of "any" CPU, and the world's grid in 2019 (IEA).
WATTS, GRAMS_PER_KWH = 12.0, 475.0


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


@dataclass(frozen=True)
class Footprint:
    """Energy and carbon of trainings on CPU cores: always an estimate, seconds x watts of a core x grams of CO2e.

    seconds: by the clock, one core each; left_out: trainings elsewhere (a GPU), or without a time.

    >>> made = Footprint(seconds=36_000.0, watts=12.0, grams_per_kwh=475.0)
    >>> made.kwh, made.grams
    (0.12, 57.0)
    """

    seconds: float
    watts: float = WATTS
    grams_per_kwh: float = GRAMS_PER_KWH
    left_out: int = 0

    @property
    def kwh(self) -> float:
        """Energy, in kilowatt hours."""
        return self.seconds * self.watts / 3.6e6

    @property
    def grams(self) -> float:
        """CO2 equivalents."""
        return self.kwh * self.grams_per_kwh

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"label": "estimate", "kwh": self.kwh, "grams_co2e": self.grams, **asdict(self)}


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


def once(paid: pl.DataFrame) -> pl.DataFrame:
    """The ledger of `spent.spent` with each training once: a student's where it is one, its seconds where it ran."""
    longest = pl.col("seconds").max().over("training")  # to take a training over takes next to none
    return paid.with_columns(longest).sort("role").unique("training", keep="first", maintain_order=True)


def footprint(paid: pl.DataFrame, watts: float = WATTS, grams_per_kwh: float = GRAMS_PER_KWH) -> Footprint:
    """Energy and carbon of the trainings of a ledger, each counted once: an estimate from their seconds.

    Only where a level is trained on the CPU is its time that of one core; others are counted as left out.
    """
    trainings = once(paid)
    timed = trainings.filter((pl.col("device") == "cpu") & (pl.col("seconds") > 0))
    return Footprint(float(timed["seconds"].sum()), watts, grams_per_kwh, trainings.height - timed.height)


def watt_hours(kwh: float) -> str:
    """An energy as text.

    >>> watt_hours(0.00272), watt_hours(1.5)
    ('2.72 Wh', '1.5 kWh')
    """
    return f"{kwh:.3g} kWh" if kwh >= 0.1 else f"{1000 * kwh:.3g} Wh"


def unit(largest: float) -> tuple[float, str]:
    """The unit in which the largest number of operations stays below a thousand, or the largest unit.

    >>> unit(2.5e12)
    (1000000000000.0, 'TFLOPs')
    """
    for size, name in ((1e6, "MFLOPs"), (1e9, "GFLOPs"), (1e12, "TFLOPs")):
        if largest < 1000 * size:
            return size, name
    return 1e15, "PFLOPs"


def _operations(training: Training) -> tuple[float, float]:
    samples = PASSES * training.examples * training.epochs
    return training.network.dense * samples, training.network.sparse * samples
