"""The ledger of a level: which examples it fits after every epoch, from its training repeated."""

# N examples, E epochs.

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from prunephase import streams
from prunephase.analysis.stops import first_minimum
from prunephase.engine import Diverged, team
from prunephase.measure.finding import Finding, Row
from prunephase.measure.passes import mean
from prunephase.randomness import seeded
from prunephase.snapshot import Snapshot

Bools = NDArray[np.bool_]


def ledger(snapshot: Snapshot) -> Finding:
    """Correctness of every example after every epoch, bit by bit; the level is trained once more to see it.

    Arrays, bits packed along the examples, [E, ceil(N / 8)]: train_given, whether a training example is given the label
    it is trained on; train_true, its true one; test. changed [E]: training examples whose predicted class is not that
    of the epoch before, all of them at first. Rows, by subset of the training examples: forgetting events (how
    often an example that was fitted after an epoch is not after the next, per example; Toneva et al. 2019) and the
    epoch from which an example is fitted to the end, its mean over those that are. `repeated` says whether the repeated
    training ended with the very weights of the level, as it does under the numerics it was trained with.
    `label_wave_epoch`: the first local minimum of `changed`, averaged over two epochs (Yuan, Feng and Liu 2024), the
    last epoch where it never rises; the test accuracy there, and at the last epoch.
    """
    assert snapshot.again is not None
    job = snapshot.again()
    train, test = job.data.train, job.data.test
    given, true, right, changed = [], [], [], []
    before = None
    with seeded(streams.seed(snapshot.trial.seed, "analysis", "ledger", snapshot.level)):
        trained = team([job])
        for (moment,) in trained.moments():
            if isinstance(moment, Diverged):
                break
            said = trained.guesses()[0]
            guess = said["train"][1]
            changed.append(len(train) if before is None else int((guess != before).sum()))
            before = guess.clone()
            given.append((guess == train.labels).cpu().numpy())
            true.append((guess == train.truth).cpu().numpy())
            right.append((said["test"][1] == test.labels).cpu().numpy())
    ended, was = job.network.state_dict(), snapshot.network.state_dict()
    repeated = all(torch.equal(ended[name], was[name]) for name in was)
    fitted = np.stack(given)
    permuted = train.permuted.cpu().numpy()
    parts = {"network": np.ones(len(train), dtype=bool), "permuted": permuted, "unpermuted": ~permuted}
    rows = [_row(name, fitted[:, of]) for name, of in parts.items()]
    arrays = {"train_given": fitted, "train_true": np.stack(true), "test": np.stack(right)}
    packed: dict[str, NDArray[np.generic]] = {name: np.packbits(bits, axis=1) for name, bits in arrays.items()}
    return Finding(
        [{**rows[0], "repeated": repeated, **_wave(changed, arrays["test"])}, *rows[1:]],
        {**packed, "changed": np.array(changed, dtype=np.int64)},
    )


def _wave(changed: list[int], right: Bools) -> Row:
    """Where Label Wave would have ended the training. right: [E, test examples]."""
    at = first_minimum(np.array(changed, dtype=np.float64))
    accuracy = [mean(hits) for hits in right]
    stop = len(changed) - 1 if at is None else at
    return {
        "label_wave_epoch": stop + 1,
        "label_wave_test_accuracy": accuracy[stop],
        "test_accuracy": accuracy[-1],
    }


def _row(part: str, fitted: Bools) -> Row:
    """fitted: [E, n]."""
    epochs = len(fitted)
    events = (fitted[:-1] & ~fitted[1:]).sum(axis=0)
    last_miss = epochs - np.argmax(np.concatenate([~fitted[::-1], np.full((1, fitted.shape[1]), True)]), axis=0)
    kept = fitted[-1]
    return {
        "part": part,
        "examples": fitted.shape[1],
        "epochs": epochs,
        "forgetting_events": mean(events),
        "fitted_at_the_end": mean(kept),
        "fitted_from_epoch": mean(last_miss[kept] + 1),
    }
