"""Published curves: points read off the figures of papers, the settings they belong to, and how far ours lies off."""

# L levels.

from __future__ import annotations

import csv
import functools
import io
import math
import tomllib
from ast import literal_eval
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from prunephase.analysis.curve import TEST, TRAIN, Group
from prunephase.analysis.phases import Phases, Point, phases

KWARGS = "model.kwargs."


@dataclass(frozen=True)
class Published:
    """A curve of a paper. `where`: trial fields under which it may be compared; `settings`: further ones.

    error: of reading a point off the figure, in accuracy; seeds: of the paper, None where it does not say; whole: every
    level was read off, not only dense, dip, peak and the last; wrong: share of the training labels that are; group: its
    values as one seed, [1, L].
    """

    name: str
    paper: str
    figure: str
    error: float
    seeds: int | None
    whole: bool
    wrong: float
    where: Mapping[str, Any]
    settings: Mapping[str, Any]
    group: Group

    @property
    def label(self) -> str:
        """Where it comes from, for a legend."""
        return f"{self.paper}, {self.figure} (digitised)"


@dataclass(frozen=True)
class Difference:
    """A setting of ours that is not the paper's."""

    name: str
    ours: Any
    theirs: Any


@dataclass(frozen=True)
class Offset:
    """How far our dip or peak lies from the published one: ours less theirs, in levels and in accuracy."""

    ours: Point
    theirs: Point
    levels: int
    accuracy: float


@functools.cache  # package data, which does not change
def curves() -> tuple[Published, ...]:
    """Every published curve that comes with the program."""
    folder = resources.files("prunephase") / "published"
    values: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for row in csv.DictReader(io.StringIO((folder / "points.csv").read_text("utf-8"))):
        points = values.setdefault(row["curve"], {}).setdefault(row["quantity"], [])
        points.append((int(row["level"]), float(row["sparsity"]), float(row["accuracy"])))
    about = tomllib.loads((folder / "curves.toml").read_text("utf-8"))
    assert about.keys() == values.keys()
    return tuple(
        Published(name=name, group=_group(values[name]), **{"seeds": None, **facts}) for name, facts in about.items()
    )


def matching(fields: Mapping[str, Any]) -> Published | None:
    """The published curve that may be drawn below one of ours, by our trial fields under dotted names; None: no such.

    >>> fields = {"data.source": "mnist", "model.name": "lenet-300-100", "noise.kind": "uniform-relabel",
    ...           "noise.rate": 0.2, "pruning.criterion": "magnitude", "pruning.fraction": 0.2,
    ...           "pruning.ladder": "iterative", "pruning.scope": "global", "pruning.remask": "none",
    ...           "restart.mode": "rewind", "antidote.kind": "none"}
    >>> matching(fields).label, matching({**fields, "noise.rate": 0.4})
    ('He et al. 2022, Fig. 1 (digitised)', None)
    """
    known = opened(fields)

    def holds(name: str, value: Any) -> bool:
        return (name.startswith(KWARGS) and name not in known) or (name in known and same(known[name], value))

    return next((one for one in curves() if all(holds(*condition) for condition in one.where.items())), None)


def differences(published: Published, fields: Mapping[str, Any], seeds: int) -> list[Difference]:
    """Settings of ours that are not the paper's, by dotted name; a setting that `fields` lacks is not compared."""
    known = opened(fields)
    if "data.train" in known and known["data.train"] is None:
        known["data.train"] = "all"
    found = [
        Difference(name, known[name], theirs)
        for name, theirs in published.settings.items()
        if name in known and not same(known[name], theirs)
    ]
    if published.seeds is not None and seeds != published.seeds:
        found.append(Difference("seeds", seeds, published.seeds))
    return found


def offsets(ours: Phases, published: Published) -> dict[str, Offset]:
    """How far "dip" and "peak" lie from the published ones, both found by the same detector; without those we lack.

    A published dip no deeper than the error of digitising is none.
    """
    theirs = landmarks(published.name)
    flat = theirs.severity is None or theirs.severity.depth <= published.error
    found = {}
    for name in ("peak",) if flat else ("dip", "peak"):
        here, there = getattr(ours, name), getattr(theirs, name)
        if here is not None and there is not None:
            found[name] = Offset(here, there, here.level - there.level, here.value - there.value)
    return found


@functools.cache  # a tenth of a second each
def landmarks(name: str) -> Phases:
    """What our detector finds on a published curve."""
    return phases(next(one for one in curves() if one.name == name).group)


def opened(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with the tables among them opened, which a row holds as text: model.kwargs becomes model.kwargs.gamma, ...

    >>> opened({"noise.rate": 0.2, "model.kwargs": "{'gamma': 3}"})
    {'noise.rate': 0.2, 'model.kwargs.gamma': 3}
    """
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        table = value
        if isinstance(value, str) and value.startswith("{"):
            try:
                table = literal_eval(value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                table = value
        flat |= {f"{name}.{key}": held for key, held in table.items()} if isinstance(table, dict) else {name: value}
    return flat


def same(ours: Any, theirs: Any) -> bool:
    """Whether two settings mean the same; a row holds lists as text."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (ours, theirs))
    return math.isclose(ours, theirs, rel_tol=1e-9) if numbers else str(ours) == str(theirs)


def _group(values: Mapping[str, list[tuple[int, float, float]]]) -> Group:
    test = values[TEST]
    train = {level: accuracy for level, _, accuracy in values.get(TRAIN, [])}
    return Group(
        key={},
        levels=np.array([level for level, _, _ in test]),
        sparsity=np.array([sparsity for _, sparsity, _ in test]),
        test=np.array([[accuracy for _, _, accuracy in test]]),
        train=np.array([[train.get(level, math.nan) for level, _, _ in test]]) if train else None,
        seeds=(0,),
    )
