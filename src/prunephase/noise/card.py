"""The noise card: what the noise did, exactly."""

# N examples, K classes.

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunephase.data import Split


@dataclass(frozen=True)
class Realised:
    """What the noise did to one split.

    realised: share of labels that differ from the true ones; selected: share of examples drawn for the noise;
    transition: [K, K] shares, row: true class, column: given label, None for a class without examples;
    flipped, chosen: places in the source's training set of wrong labels and of selected examples.
    """

    n: int
    realised: float
    selected: float
    transition: tuple[tuple[float, ...] | None, ...]
    labels_sha256: str
    flipped: tuple[int, ...]
    chosen: tuple[int, ...]


@dataclass(frozen=True)
class Card:
    """The noise card of a trial: convention, rates and transition matrix, for training and validation labels.

    nominal: the rate asked for; None where the labels come from elsewhere (human, given, a user's function), as are
    `count` and `seed` where nothing was drawn.
    """

    kind: str
    convention: str
    count: str | None
    nominal: float | None
    seed: int | None
    classes: int
    train: Realised
    validation: Realised | None

    @property
    def flipped(self) -> list[int]:
        """Places in the source's training set of all wrong labels, training and validation together, rising."""
        return sorted(self.train.flipped + (self.validation.flipped if self.validation else ()))

    def as_json(self) -> dict[str, Any]:
        """The card as JSON values, without the lists of examples."""
        fields = dataclasses.asdict(self)
        for split in filter(None, (fields["train"], fields["validation"])):
            del split["flipped"], split["chosen"]
            split["transition"] = [row if row is None else list(row) for row in split["transition"]]
        return fields


def realised(split: Split, classes: int) -> Realised:
    """What became of the labels of `split`."""
    given, truth = split.labels.numpy(), split.truth.numpy()
    counts = np.bincount(truth * classes + given, minlength=classes**2).reshape(classes, classes)
    index, flipped, chosen = split.index.numpy(), given != truth, split.permuted.numpy()
    return Realised(
        n=len(split),
        realised=float(flipped.mean()),
        selected=float(chosen.mean()),
        transition=tuple(tuple((row / row.sum()).tolist()) if row.any() else None for row in counts),
        labels_sha256=hashlib.sha256(given.astype("<i8").tobytes()).hexdigest(),
        flipped=tuple(index[flipped].tolist()),
        chosen=tuple(index[chosen].tolist()),
    )
