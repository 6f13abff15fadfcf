"""Phase maps: how the phases move as one number of the setting grows: a second axis beside the ladder."""

# R rows of a map, one curve each; L levels.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunephase.analysis.curve import ARM, Group
from prunephase.analysis.phases import Phases
from prunephase.analysis.published import opened

Floats = NDArray[np.float64]

FEWEST_ROWS = 3
BOUNDARIES = ("critical", "sweet", "collapsed")


@dataclass(frozen=True)
class Row:
    """One curve of a map. value: of the axis; index: of the curve among those given; `phases` are those of its mean."""

    value: float
    index: int
    group: Group
    phases: Phases


@dataclass(frozen=True)
class PhaseMap:
    """Curves that differ in one number. axis: its dotted name; fixed: what sets the map apart; rows: rising. [R]."""

    axis: str
    fixed: Mapping[str, Any]
    rows: tuple[Row, ...]


def phase_maps(curves: Sequence[tuple[Group, Phases]], fewest: int = FEWEST_ROWS) -> list[PhaseMap]:
    """A map for every numeric field of `fewest` values or more, and each combination of the others, but for seeds."""
    keys = apart([group.key for group, _ in curves])
    names = [name for name in dict.fromkeys(name for key in keys for name in key) if not name.endswith(".seed")]
    found = []
    for axis in names:
        if not all(axis in key and is_number(key[axis]) for key in keys):
            continue
        together: dict[str, list[int]] = {}
        for i, key in enumerate(keys):
            together.setdefault(repr([(name, key[name]) for name in key if name != axis]), []).append(i)
        for members in together.values():
            if len({keys[i][axis] for i in members}) < max(fewest, len(members)):
                continue
            rows = sorted((Row(float(keys[i][axis]), i, *curves[i]) for i in members), key=lambda row: row.value)
            fixed = {name: value for name, value in keys[members[0]].items() if name != axis}
            found.append(PhaseMap(axis, fixed, tuple(rows)))
    return found


def apart(keys: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What sets each curve apart from the others, arguments of a model one by one.

    >>> apart([{"model.kwargs": "{'delta': 5, 'gamma': 3}"}, {"model.kwargs": "{'delta': 5, 'gamma': 4}"}])
    [{'model.kwargs.gamma': 3}, {'model.kwargs.gamma': 4}]
    """
    wide = [opened(key) for key in keys]
    names = dict.fromkeys(name for key in wide for name in key)
    varying = [name for name in names if len({repr(key.get(name, "default")) for key in wide}) > 1]
    return [{name: key[name] for name in varying if name in key} for key in wide]


def named(key: Mapping[str, Any], names: Iterable[str]) -> str:
    """Settings in short: the last words of their names, where these tell them apart; an arm by its name alone.

    >>> named({"arm": "l2", "noise.rate": 0.2, "pruning.criterion": "random"}, ["arm", "noise.rate"])
    'l2, rate 0.2'
    """
    single = len({name.rpartition(".")[2] for name in key}) == len(key)
    words = {name: "" if name == ARM else f"{name.rpartition('.')[2] if single else name} " for name in key}
    return ", ".join(f"{words[name]}{key[name]}" for name in names if name in key)


def is_number(value: Any) -> bool:
    """Whether a setting is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def boundaries(one: PhaseMap) -> dict[str, list[int | None]]:
    """The level at which a phase begins, and those of dip and peak, for every row; None where there is none. [R]."""
    starts = {
        name: [row.phases.phases[name].start if name in row.phases.phases else None for row in one.rows]
        for name in BOUNDARIES
    }
    points = {
        name: [None if (point := getattr(row.phases, name)) is None else int(point.level) for row in one.rows]
        for name in ("dip", "peak")
    }
    return {name: levels for name, levels in (starts | points).items() if any(level is not None for level in levels)}


def powers_of_ten(ratio: Floats, places: Floats) -> dict[int, float]:
    """Where a falling positive quantity passes 1, 10, 1/10, ...: place by exponent, by logarithm between levels. [L].

    >>> powers_of_ten(np.array([20.0, 5.0, 0.5]), np.array([0.0, 1.0, 2.0]))
    {1: 0.5, 0: 1.699}
    """
    logs = np.log10(ratio)
    found: dict[int, float] = {}
    for i in range(len(logs) - 1):
        for power in range(int(np.floor(logs[i])), int(np.ceil(logs[i + 1])) - 1, -1):
            share = (logs[i] - power) / (logs[i] - logs[i + 1]) if logs[i] > logs[i + 1] else 0.0
            found.setdefault(power, round(float(places[i] + share * (places[i + 1] - places[i])), 3))
    return found
