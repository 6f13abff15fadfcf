"""Finished levels in the store, as others build on them."""

from __future__ import annotations

from torch import Tensor

from prunephase import tensors
from prunephase.errors import UserError
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
