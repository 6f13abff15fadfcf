"""What is measured of a network when it leaves: weights, operations, accuracy class by class, calibration."""

# K classes.

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Collection
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import nn

from prunephase.data import Dataset
from prunephase.errors import PrunephaseError
from prunephase.exports.forms import logits
from prunephase.measure.calibration import calibration, harm
from prunephase.measure.structure import macs, structure
from prunephase.snapshot import Snapshot
from prunephase.spent import spent
from prunephase.store import Store
from prunephase.trial import Trial

GZIP = 6  # its level


def weights(snapshot: Snapshot, small: nn.Module) -> dict[str, Any]:
    """Weights and operations of the network as it is, counting its zeros or not, and compacted.

    total: all parameters, and compact those of the compacted network; prunable, surviving: weights that pruning looks
    at and leaves; effective: share of them that lies on no path from input to output, `exact` as in `structure`. macs:
    multiply-accumulates of one example: of the dense form, of the surviving weights alone, and compacted.
    """
    network, masks = snapshot.network, snapshot.masks
    whole = structure(snapshot).rows[0]
    without = replace(snapshot, masks={})
    return {
        "total": _parameters(network),
        "prunable": sum(mask.numel() for mask in masks.values()),
        "surviving": sum(int(mask.sum()) for mask in masks.values()),
        "sparsity": whole["sparsity"],
        "effective_sparsity": whole["effective_sparsity"],
        "exact": whole["exact"],
        "compact": _parameters(small),
        "macs": {
            "dense": macs(without),
            "sparse": macs(snapshot),
            "compact": macs(replace(without, network=small)),
        },
    }


def classes(level: Snapshot, dense: Snapshot) -> dict[str, Any]:
    """Calibration on the test set, and accuracy of every class beside that of the dense network of the same seed."""
    before, after = calibration(dense), calibration(level)
    changes = {row["part"]: row["change"] for row in harm(before, after).rows[1:]}
    kept = ("accuracy", "confidence", "ece", "nll", "brier")
    sides = {name: {key: found.rows[0][key] for key in kept} for name, found in (("here", after), ("dense", before))}
    rows = [
        {"class": row["part"], "examples": row["examples"], "accuracy": row["accuracy"], "change": changes[row["part"]]}
        for row in after.rows
        if row["kind"] == "class"
    ]
    return {**sides, "examples": after.rows[0]["examples"], "classes": rows}


def inputs(data: Dataset) -> dict[str, Any]:
    """What an example must go through before the network sees it: (x - subtract) / divide, element by element.

    subtract, divide: one number for all, or one for every channel or feature; None where the data set does not tell.
    """
    unit = "bytes, 0 to 255" if data.black is not None else "numbers as the source has them"
    told = {
        name: None if values is None else values.flatten().tolist()
        for name, values in (("subtract", data.shift), ("divide", data.scale))
    }
    return {"shape": list(data.input_shape), "dtype": "float32", "unit": unit, **told}


def probe(network: nn.Module, shape: Collection[int]) -> dict[str, Any]:
    """Logits of one input that anybody can make again, to see that a copy still says the same."""
    ramp = torch.linspace(-1, 1, prod(shape)).reshape(1, *shape)
    return {"input": "torch.linspace(-1, 1, numel).reshape(1, *shape)", "logits": logits(network, ramp)[0].tolist()}


def cost(store: Store, trial: Trial, level: int, plugins: Collection[str]) -> dict[str, Any]:
    """What the trainings that lead to a level have cost, its teacher's among them; as in `prunephase cost`.

    trainings: how many; operations: with the teacher's, dense; seconds: by the clock. Both None where torch cannot
    count the operations of a user's network.
    """
    steps = {level}
    while (above := trial.builds_on(min(steps))) is not None:
        steps.add(above)
    try:
        rows = spent(store, [trial], plugins)
    except PrunephaseError:
        raise
    except Exception:  # what a user's network does where there are no numbers
        return {"trainings": len(steps), "operations": None, "seconds": None}
    mine = rows.filter((pl.col("role") == "teacher") | pl.col("level").is_in(sorted(steps)))
    sums = {"operations": "with_teacher_forward", "seconds": "seconds"}
    return {"trainings": mine.height, **{name: float(mine[column].sum()) for name, column in sums.items()}}


def file(path: Path) -> dict[str, Any]:
    """Bytes of a file, as they are and compressed, and their SHA-256."""
    data = path.read_bytes()
    return {"bytes": len(data), "gzip": len(gzip.compress(data, GZIP)), "sha256": hashlib.sha256(data).hexdigest()}


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
