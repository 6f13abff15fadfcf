"""Memorisation: which examples a level fits, and from which sparsity on it has forgotten them."""

# N examples, L levels.

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from prunephase.measure.finding import Finding
from prunephase.measure.passes import examples, mean, number
from prunephase.snapshot import Snapshot

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def memorisation(snapshot: Snapshot) -> Finding:
    """Accuracy, mean loss and share of the training loss of each subset, and a ledger of the examples that are fitted.

    Subsets (He et al., ICLR 2022 submission, section 3.1): train, against the labels trained on; permuted, those whose
    label was drawn anew, against that label; unpermuted, those never selected; restored, the permuted ones against
    their true labels; test. The loss (nats) is also split into right_labels and wrong_labels, which a draw that hits
    the true class makes differ from unpermuted and permuted; `loss_share` is each part's of the summed training loss.
    Arrays, bits of [N] packed into bytes, in the order of the splits: train_given and train_true, whether a training
    example is said to have the label that was given or the true one; test; and the subsets permuted and wrong. Arrays,
    [N]: guess, the class a training example is said to have; chance, float16, the probability of the label given.
    """
    train, test = snapshot.data.train, snapshot.data.test
    said, of_test = examples(snapshot, train), examples(snapshot, test)
    labels, truth = train.labels.cpu().numpy(), train.truth.cpu().numpy()
    permuted, wrong = train.permuted.cpu().numpy(), labels != truth
    given, true = said.guess == labels, said.guess == truth
    right = of_test.guess == test.labels.cpu().numpy()
    total, every = float(said.loss.sum()), np.ones(len(train), dtype=bool)
    rows = [
        _row(name, given[of], said.loss[of], total)
        for name, of in (
            *(("train", every), ("permuted", permuted), ("unpermuted", ~permuted)),
            *(("right_labels", ~wrong), ("wrong_labels", wrong)),
        )
    ]
    rows.append(_row("restored", true[permuted], said.true_loss[permuted], None))
    rows.append(_row("test", right, of_test.loss, None))
    network: dict[str, str | int | float | None] = {"part": "network"}
    for row in rows:
        network |= {f"{row['part']}_{column}": row[column] for column in ("accuracy", "loss")}
    network |= {f"{row['part']}_loss_share": row["loss_share"] for row in rows if "_labels" in str(row["part"])}
    ledger = {"train_given": given, "train_true": true, "test": right, "permuted": permuted, "wrong": wrong}
    arrays = {name: np.packbits(bits) for name, bits in ledger.items()}
    guess = said.guess.astype(np.min_scalar_type(len(snapshot.data.classes) - 1))
    return Finding([network, *rows], {**arrays, "guess": guess, "chance": np.exp(-said.loss).astype(np.float16)})


def _row(part: str, hits: Bools, losses: Floats, total: float | None) -> dict[str, str | int | float | None]:
    """total: the summed training loss that this part belongs to, if it does."""
    share = number(float(losses.sum()) / total) if total else None
    return {"part": part, "examples": len(hits), "accuracy": mean(hits), "loss": mean(losses), "loss_share": share}


def forgetting(ledgers: Mapping[float, Finding]) -> Finding:
    """When each training example is forgotten, from the memorisation of one ladder's levels, {sparsity: finding}.

    A level fits an example where it gives it the label trained on. Arrays, [N] float64: `first_forgotten`, the lowest
    sparsity at which an example is not fitted though the level before fitted it (inf: never); `forgotten`, its
    forgetting sparsity, the lowest from which on no level fits it (inf: the last level does; the lowest sparsity of
    all: no level ever did). Rows, by subset as in `memorisation`: shares never fitted and fitted to the end, and the
    medians over the examples (None: inf, more than half outlast the ladder).
    """
    sparsities = np.array(sorted(ledgers))
    levels = [ledgers[sparsity] for sparsity in sparsities]
    count = next(int(row["examples"] or 0) for row in levels[0].rows if row["part"] == "train")

    def bits(finding: Finding, name: str) -> Bools:
        return np.unpackbits(finding.arrays[name].astype(np.uint8), count=count).astype(bool)

    first, forgotten = forgotten_at(np.stack([bits(level, "train_given") for level in levels]), sparsities)
    permuted, wrong = bits(levels[0], "permuted"), bits(levels[0], "wrong")
    parts = {"network": np.ones(count, dtype=bool), "permuted": permuted, "unpermuted": ~permuted}
    rows = [
        {
            "part": name,
            "examples": int(of.sum()),
            "never_fitted": mean(forgotten[of] == sparsities[0]),
            "fitted_to_the_end": mean(np.isinf(forgotten[of])),
            "first_forgotten": number(float(np.median(first[of]))) if of.any() else None,
            "forgotten": number(float(np.median(forgotten[of]))) if of.any() else None,
        }
        for name, of in (parts | {"right_labels": ~wrong, "wrong_labels": wrong}).items()
    ]
    return Finding(rows, {"first_forgotten": first, "forgotten": forgotten})


def forgotten_at(fitted: Bools, sparsities: Floats) -> tuple[Floats, Floats]:
    """First forgotten, and forgotten for good, as `forgetting` defines them. fitted: [L, N]; sparsities: [L], rising.

    >>> fitted = np.array([[1, 1, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0]], dtype=bool)
    >>> first, forgotten = forgotten_at(fitted, np.array([0.0, 0.2, 0.36]))
    >>> first.tolist(), forgotten.tolist()
    ([0.2, 0.36, inf, inf], [inf, 0.36, inf, 0.0])
    """
    never = np.full((1, fitted.shape[1]), True)  # a level beyond the last, at which whatever is left comes to pass
    beyond = np.append(sparsities, np.inf)
    lost = np.concatenate([~never, fitted[:-1] & ~fitted[1:], never])
    gone = len(fitted) - np.argmax(np.concatenate([fitted[::-1], never]), axis=0)  # the level after the last that fits
    return beyond[np.argmax(lost, axis=0)], beyond[gone]
