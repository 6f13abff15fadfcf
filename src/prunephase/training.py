"""The training of one level: done now, or taken over from a trial that began the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunephase import prune, tensors
from prunephase.bench import Bench
from prunephase.engine import Diverged, Guesses, Job, Moment, cross_entropy
from prunephase.errors import DamagedError, IncompatibleError
from prunephase.events import EpochDone, Event
from prunephase.measure import METRICS, accuracy
from prunephase.store import Store
from prunephase.trial import Trial, canonical_json

Weights = Mapping[str, Tensor]


class Next:
    """What a ladder asks for while it is trained: the next moment."""


class Busy:
    """What a ladder asks for while another one trains the very level it needs: to be asked again later."""


@dataclass(frozen=True)
class Heard:
    """What a ladder hears of a moment of its training. guesses: what the network now says, None at a pause."""

    moment: Moment | Diverged
    guesses: Guesses | None
    strategy: str


Wish = Job | Next | Busy
Answer = Heard | None  # None: the training is over


@dataclass(frozen=True)
class Trained:
    """What a training gave. columns: per epoch; rewound: the weights at the pause that was asked for."""

    numerics: Mapping[str, Any]
    columns: Mapping[str, list[Any]]
    diverged: Mapping[str, Any] | None
    weights: Weights | None
    rewound: Weights | None


def fit(trial: Trial, job: Job, bench: Bench, initial: Weights) -> Generator[Event | Wish, Answer, Trained]:
    """Have `job` trained, listening to every moment of it."""
    rewound = initial if job.pause_at == 0 else None
    columns: dict[str, list[Any]] = {key: [] for key in ("epoch", "lr", "running_loss", *METRICS)}
    diverged: Diverged | None = None
    strategy = ""
    heard = yield job
    while heard is not None and diverged is None:
        moment, strategy = heard.moment, heard.strategy
        if isinstance(moment, Diverged):
            diverged = moment
        elif heard.guesses is None or moment.running_loss is None:
            rewound = weights_of(job.network)
        else:
            values = accuracy(heard.guesses, job.data)
            if values["train_loss"] is None:
                diverged = Diverged(moment.epoch, moment.step, float("nan"))
                continue
            row = {"epoch": moment.epoch, "lr": moment.lr, "running_loss": moment.running_loss, **values}
            for key, column in columns.items():
                column.append(row[key])
            yield EpochDone(trial.digest(), job.level, moment.epoch, values)
        if diverged is None:
            heard = yield Next()
    if job.objective is not cross_entropy:
        name = getattr(job.objective, "__name__", type(job.objective).__name__)
        strategy = f"{strategy}, objective {name}"
    assert diverged is not None or prune.leaked(job.network, job.masks) == 0, "a pruned weight came back"
    return Trained(
        {**bench.numerics, "strategy": strategy},
        columns,
        {"epoch": diverged.epoch, "step": diverged.step, "loss": str(diverged.loss)} if diverged else None,
        None if diverged else weights_of(job.network),
        rewound,
    )


def key_of(
    trial: Trial,
    job: Job,
    began: str,
    masks: Mapping[str, Tensor],
    bench: Bench,
    taught_by: Sequence[Any] | None = None,
) -> str:
    """SHA-256 over all that decides what a training gives: trials that agree in it share one training.

    taught_by: the content of the teacher; what else the objective is made from stands in the trial and at its start.
    """
    place = {"level": job.level, "begin": job.begin, "pause_at": job.pause_at, "lr": job.lr}
    start = {"weights": began, "masks": hashlib.sha256(tensors.pack_masks(masks)).hexdigest()}
    given = {"fingerprint": bench.noisy[0].fingerprint, "labels": bench.noisy[1].as_json()}
    parts = [trial.dense(), place, start, given, bench.numerics]  # apart: names of one must not hide another's
    return hashlib.sha256(canonical_json(parts if taught_by is None else [*parts, taught_by])).hexdigest()


def taken_over(store: Store, key: str, masks: Mapping[str, Tensor]) -> Trained | None:
    """What the training named `key` gave to another trial, where that is known and intact."""
    try:
        record = store.hinted(key)
        if record is None:
            return None
        blobs = {
            name: tensors.unpack_weights(store.blob(digest), masks if name == "weights" else {})
            for name, digest in record.body["blobs"].items()
            if name in ("weights", "rewound")
        }
    except (DamagedError, IncompatibleError):  # found and said when that trial is run again
        return None
    body = record.body
    return Trained(body["numerics"], body["epochs"], body["diverged"], blobs.get("weights"), blobs.get("rewound"))


def weights_of(network: nn.Module) -> Weights:
    """A copy of the state_dict, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
