"""Prediction changes: training examples that a level and the one before it say different classes of."""

# N examples.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunephase.measure.finding import Finding, Row
from prunephase.measure.passes import examples, mean
from prunephase.snapshot import Snapshot


def changes(snapshot: Snapshot) -> Finding:
    """How many training examples are given another class than by the level before, in evaluation mode.

    Yuan, Feng and Liu 2024 (Label Wave) count it from epoch to epoch. Rows, by subset of the training examples: how
    many they are, how many changed, and that share. At the dense level all have changed, as nothing was said before;
    None where the level before was not trained.
    """
    train = snapshot.data.train
    permuted = train.permuted.cpu().numpy()
    parts = {"network": np.ones(len(train), dtype=bool), "permuted": permuted, "unpermuted": ~permuted}
    moved = None
    if snapshot.level == 0:
        moved = parts["network"]
    elif snapshot.before is not None:
        moved = examples(snapshot, train).guess != examples(snapshot.before(), train).guess
    return Finding([_row(name, of, moved) for name, of in parts.items()])


def _row(part: str, of: NDArray[np.bool_], moved: NDArray[np.bool_] | None) -> Row:
    count, share = (None, None) if moved is None else (int(moved[of].sum()), mean(moved[of]))
    return {"part": part, "examples": int(of.sum()), "changed": count, "share": share}
