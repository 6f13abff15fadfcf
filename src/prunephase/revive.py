"""Finished levels brought back from the store, as criteria, metrics and diagnoses see them."""

from __future__ import annotations

import torch
from torch import Tensor

from prunephase import tensors
from prunephase.bench import Bench
from prunephase.errors import UserError
from prunephase.snapshot import Snapshot
from prunephase.store import Record, Store
from prunephase.trial import Trial


def finished(store: Store, trial: Trial, level: int) -> Record:
    """The record of a level that others build on. Raises UserError where there is none or it diverged."""
    found = store.record(trial.digest(), level)
    if found is None or found.body["status"] != "ok":
        raise UserError(f"trial {trial.digest()}: level {level}, which another trial builds on, was not finished")
    return found


def trained_state(store: Store, record: Record) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Masks and trained weights (a full state_dict, zero where pruned) of a finished level. Raises DamagedError."""
    masks = tensors.unpack_masks(store.blob(record.body["blobs"]["masks"]))
    return masks, tensors.unpack_weights(store.blob(record.body["blobs"]["weights"]), masks)


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
    return Snapshot(trial, level, network, there, starts["initial"], data, starts["rewound"])
