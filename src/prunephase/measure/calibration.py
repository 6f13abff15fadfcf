"""Calibration: whether a network is as sure as it is right; and harm: whom pruning takes the accuracy from."""

# N examples of the test set, K classes, bins of confidence.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunephase.measure.finding import Finding, Row
from prunephase.measure.passes import examples, mean
from prunephase.snapshot import Snapshot

BINS = 15


def calibration(snapshot: Snapshot) -> Finding:
    """On the test set: ece, nll, brier, mean confidence and overconfidence, by class and by bin of confidence.

    ece: expected calibration error (Guo et al. 2017, equation 3), sum over 15 bins of equal width ((b-1)/15, b/15] of
    their share of the examples times |accuracy - mean confidence|. nll: mean negative log-likelihood, nats. brier: mean
    squared distance of the probabilities from the label's, summed over the classes, in [0, 2]. overconfidence: mean
    confidence - accuracy. Rows of classes are called by their names, those of bins "bin 1" ... "bin 15" (low, high:
    the bin's ends); `kind` tells them apart. Arrays: `guess`, the predicted classes [N]; `right`, bits of [N] packed
    into bytes; `index`, the examples' places in the source's test set.
    """
    test = snapshot.data.test
    said, labels = examples(snapshot, test), test.labels.cpu().numpy()
    right = said.guess == labels
    bins = bin_of(said.confidence)
    rows: list[Row] = []
    gap = 0.0
    for b in range(BINS):
        of = bins == b
        accuracy, confidence = mean(right[of]), mean(said.confidence[of])
        row: dict[str, str | int | float | None] = {"part": f"bin {b + 1}", "kind": "bin", "examples": int(of.sum())}
        row |= {"accuracy": accuracy, "confidence": confidence, "low": b / BINS, "high": (b + 1) / BINS}
        rows.append(row)
        if accuracy is not None and confidence is not None:
            gap += of.sum() / len(labels) * abs(accuracy - confidence)
    for k, name in enumerate(snapshot.data.classes):
        of = labels == k
        values = {"accuracy": mean(right[of]), "confidence": mean(said.confidence[of]), "nll": mean(said.loss[of])}
        rows.append({"part": name, "kind": "class", "examples": int(of.sum()), **values})
    accuracy, confidence = mean(right), mean(said.confidence)
    network: Row = {
        "part": "network",
        "kind": "network",
        "examples": len(labels),
        "accuracy": accuracy,
        "confidence": confidence,
        "ece": float(gap) if confidence is not None else None,
        "nll": mean(said.loss),
        "brier": mean(said.brier),
        "overconfidence": confidence - accuracy if confidence is not None and accuracy is not None else None,
    }
    smallest = np.min_scalar_type(max(len(snapshot.data.classes) - 1, 0))
    arrays = {"guess": said.guess.astype(smallest), "right": np.packbits(right), "index": test.index.cpu().numpy()}
    return Finding([network, *rows], arrays)


def bin_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each confidence, 0 ... 14, an upper end belonging to its bin. [N] -> [N]

    >>> bin_of(np.array([0.0, 1 / 15, 0.07, 0.5, 1.0])).tolist()
    [0, 0, 1, 7, 14]
    """
    return np.digitize(confidence, np.arange(1, BINS) / BINS, right=True).astype(np.int64)


def harm(dense: Finding, level: Finding) -> Finding:
    """What changes from the dense network to a level, from the calibration of both: class by class, and who flips.

    Rows: `change`, the change of accuracy of the network and of each class. Of the network also the shares of the test
    set that turn wrong (`lost`), turn right (`won`) and get another prediction (`changed`: pruning identified exemplars
    of one network; Hooker et al. 2019 ask it of the majority of many), and the class that loses most. Arrays: lost,
    won, changed, places of these examples in the source's test set, rising.
    """
    before, after = dense.arrays, level.arrays
    assert np.array_equal(before["index"], after["index"]), "two test sets"
    count = len(after["index"])
    was, now = (np.unpackbits(a["right"].astype(np.uint8), count=count).astype(bool) for a in (before, after))
    sets = {"lost": was & ~now, "won": ~was & now, "changed": before["guess"] != after["guess"]}
    accuracy = {row["part"]: row["accuracy"] for row in dense.rows if row["kind"] == "class"}
    rows: list[Row] = []
    for row in level.rows:
        if row["kind"] == "class":
            held, here = accuracy[row["part"]], row["accuracy"]
            change = float(here) - float(held) if here is not None and held is not None else None
            rows.append({"part": row["part"], "examples": row["examples"], "change": change})
    known = [row for row in rows if row["change"] is not None]
    worst = min(known, key=lambda row: float(row["change"] or 0.0), default=None)
    network: Row = {
        "part": "network",
        "examples": count,
        "change": mean(now.astype(np.int64) - was),
        **{name: mean(of) for name, of in sets.items()},
        "worst_class": worst["part"] if worst else None,
        "worst_change": worst["change"] if worst else None,
    }
    return Finding([network, *rows], {name: np.sort(after["index"][of]) for name, of in sets.items()})
