"""Kinds of noise: from labels to labels, and which examples were selected."""

# N examples, K classes.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """What a built-in kind of noise goes by; `map` is for asymmetric noise, `given` [N] the labels of a human file."""

    rate: float
    count: str
    map: Mapping[int, int]
    given: Labels | None = None


@dataclass(frozen=True)
class Pattern:
    """Labels [N] after the noise, and which examples were selected for it: [N] bool (a draw may hit the true class)."""

    labels: Labels
    selected: NDArray[np.bool_]


def none(labels: Labels, _classes: int, _generator: np.random.Generator, _terms: Terms) -> Pattern:
    """The labels as they are."""
    return Pattern(labels, np.zeros(len(labels), bool))


def uniform_relabel(labels: Labels, classes: int, generator: np.random.Generator, terms: Terms) -> Pattern:
    """Selected examples get a label uniform over all K classes, the true one included (He et al. 2022, symmetric)."""
    selected = _select(np.ones(len(labels), bool), generator, terms)
    return Pattern(np.where(selected, generator.integers(classes, size=len(labels)), labels), selected)


def symmetric_flip(labels: Labels, classes: int, generator: np.random.Generator, terms: Terms) -> Pattern:
    """Selected examples get a label uniform over the K - 1 wrong classes (DSD2)."""
    selected = _select(np.ones(len(labels), bool), generator, terms)
    step = generator.integers(1, classes, size=len(labels))
    return Pattern(np.where(selected, (labels + step) % classes, labels), selected)


def asymmetric(labels: Labels, classes: int, generator: np.random.Generator, terms: Terms) -> Pattern:
    """Selected examples of the mapped classes get the label that the map gives their class (He et al. 2022, A.3)."""
    to = np.array([terms.map.get(c, c) for c in range(classes)], dtype=np.int64)
    selected = _select(to[labels] != labels, generator, terms)
    return Pattern(np.where(selected, to[labels], labels), selected)


def pairflip(labels: Labels, classes: int, generator: np.random.Generator, terms: Terms) -> Pattern:
    """Selected examples of class c get label c + 1 mod K (He et al. 2022, A.3)."""
    selected = _select(np.ones(len(labels), bool), generator, terms)
    return Pattern(np.where(selected, (labels + 1) % classes, labels), selected)


def human(labels: Labels, _classes: int, _generator: np.random.Generator, terms: Terms) -> Pattern:
    """The labels that people gave, from a file."""
    assert terms.given is not None
    return Pattern(terms.given, terms.given != labels)


NOISES: dict[str, Callable[[Labels, int, np.random.Generator, Terms], Pattern]] = {
    "none": none,
    "uniform-relabel": uniform_relabel,
    "symmetric-flip": symmetric_flip,
    "asymmetric": asymmetric,
    "pairflip": pairflip,
    "human": human,
}

CONVENTIONS: Mapping[str, str] = {
    "none": "The labels are those of the source, taken as true.",
    "given": "The labels are those of the source, which also brings the true ones.",
    "uniform-relabel": "A selected example gets a label uniform over all K classes, so 1 in K keeps its true label.",
    "symmetric-flip": "A selected example gets a label uniform over the K - 1 wrong classes, so all become wrong.",
    "asymmetric": "A selected example of a mapped class gets the label in the map; the rate is of those classes.",
    "pairflip": "A selected example of class c gets label c + 1, and the last class gets 0.",
    "human": "The labels are those that people gave, read from a file.",
}


def _select(eligible: NDArray[np.bool_], generator: np.random.Generator, terms: Terms) -> NDArray[np.bool_]:
    """[N] bool. No way's draws depend on the rate, so that patterns nest across rates."""
    if terms.count == "per-sample":
        return eligible & (generator.random(len(eligible)) < terms.rate)
    order = np.flatnonzero(eligible)
    if terms.count == "exact":
        order = generator.permutation(order)
    selected = np.zeros(len(eligible), bool)
    selected[order[: round(terms.rate * len(order))]] = True
    return selected
