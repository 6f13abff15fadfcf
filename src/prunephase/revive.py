"""Finished levels brought back from the store, as criteria, metrics and diagnoses see them."""

from __future__ import annotations

from functools import partial

import torch

from prunephase import prune, teacher, tensors
from prunephase.bench import Bench
from prunephase.engine import Job, rates
from prunephase.errors import UserError
from prunephase.levels import finished, trained_state
from prunephase.restart import Start, begin
from prunephase.snapshot import Snapshot
from prunephase.store import Store
from prunephase.training import Weights, weights_of
from prunephase.trial import Trial


def start_of(trial: Trial, level: int, bench: Bench, store: Store, final: Weights) -> Start:
    """Where a sparse level begins, by the trial's restart; final: trained weights of the level it builds on."""
    scratch = trial.restart.mode == "scratch"
    return begin(
        trial.restart,
        trial.restart.iteration(bench.steps),
        rates(trial.recipe)[-1],
        tensors.unpack_weights(store.blob(finished(store, trial, 0).body["blobs"]["rewound"]), {}),
        final,
        lambda: weights_of(bench.network("level", level) if scratch else bench.network("re-init")),
    )


def again(store: Store, trial: Trial, level: int, bench: Bench) -> Job:
    """The job that trained a finished level, ready to train it once more."""
    record = finished(store, trial, level)
    masks, _ = trained_state(store, record)
    there = {name: mask.to(bench.device) for name, mask in masks.items()}
    network, start = bench.network(), None
    above = trial.builds_on(level)
    if above is not None:
        start = start_of(trial, level, bench, store, trained_state(store, finished(store, trial, above))[1])
        network.load_state_dict(dict(start.weights))
        prune.zero_pruned(network, there)
    taught_by = teacher.find(store, trial)
    teacher.same(record, taught_by)
    place = (network, bench.data, trial.recipe, trial.seed, level, there)
    objective = teacher.objective(store, bench, network, taught_by)
    return Job(*place, objective, begin=start.step, lr=start.lr) if start else Job(*place, objective)


def snapshot(store: Store, trial: Trial, level: int, bench: Bench) -> Snapshot:
    """The trained network of a finished level in evaluation mode, with its masks, starts and data.

    Raises UserError where the level is not finished, or the data are not those it was trained on; DamagedError.
    """
    record, dense, head = finished(store, trial, level), finished(store, trial, 0), store.record(trial.digest())
    data = bench.data
    if head is None or head.body["data"]["fingerprint"] != data.fingerprint:
        raise UserError(f"trial {trial.digest()}: the data have changed since it was trained; restore them")
    masks, weights = trained_state(store, record)
    starts = {
        name: tensors.unpack_weights(store.blob(dense.body["blobs"][name]), {}) for name in ("initial", "rewound")
    }
    network = bench.network().eval()
    with torch.no_grad():
        network.load_state_dict(weights)
    there = {name: mask.to(bench.device) for name, mask in masks.items()}
    above = store.record(trial.digest(), level - 1) if level else None
    trained = above is not None and above.body["status"] == "ok"
    return Snapshot(
        *(trial, level, network, there, starts["initial"], data, starts["rewound"]),
        again=partial(again, store, trial, level, bench),
        before=partial(snapshot, store, trial, level - 1, bench) if trained else None,
    )
