"""The card: where a level comes from, what chose it and how good it is; plain JSON values."""

# S seeds, L levels.

from __future__ import annotations

from typing import Any

import polars as pl

from prunephase.analysis.statistics import summarise
from prunephase.exports.choose import Choice
from prunephase.store import Store
from prunephase.study import Study
from prunephase.trial import Trial

FORMAT = 1  # of card.json


def origin(study: Study, store: Store, trial: Trial, choice: Choice) -> dict[str, Any]:
    """What the store knows of the level that was chosen: everything but what is measured when it is exported."""
    head, record = store.record(choice.trial), store.record(choice.trial, choice.level)
    assert head is not None
    assert record is not None
    found, dense = choice.phases, choice.rows.filter((pl.col("level") == 0) & (pl.col("status") == "ok"))
    fields = trial.canonical()
    return {
        "format": FORMAT,
        "study": study.name,
        "trial": choice.trial,
        "seal": record.seal,
        "choice": {
            "asked": choice.asked,
            "split": choice.split,
            "level": choice.level,
            "level_by": choice.level_by,
            "seed": choice.seed,
            "seed_by": choice.seed_by,
        },
        "sparsity": record.body["sparsity"],
        "surviving": record.body["remaining"],
        "prunable": record.body["prunable"],
        "accuracy": {
            "test": _spread(choice.here, "test_accuracy", choice.seed),
            "validation": _spread(choice.here, "validation_accuracy", choice.seed),
            "dense_test": _spread(dense, "test_accuracy", choice.seed),
        },
        "phase": {
            "phase": choice.phase,
            "verdict": found.verdict,
            "sentence": found.sentence,
            "dip": found.dip.level if found.dip else None,
            "peak": found.peak.level if found.peak else None,
        },
        "model": {"name": trial.model.name, "kwargs": dict(trial.model.kwargs)},
        "data": {"source": trial.data.source, **head.body["data"]},
        "noise": head.body["noise"],
        "fields": fields,
    }


def _spread(rows: pl.DataFrame, column: str, seed: int) -> dict[str, Any] | None:
    """A column over the seeds, with that of one seed: shares in [0, 1]; None where nothing was measured."""
    known = rows.filter(pl.col(column).is_finite())
    if known.is_empty():
        return None
    short = summarise(known[column].to_numpy()[:, None])
    many = known.height > 1
    own = known.filter(pl.col("seed") == seed)[column]
    return {
        "mean": float(short.mean[0]),
        "sd": float(short.sd[0]) if many else None,
        "interval": [float(short.low[0]), float(short.high[0])] if many else None,
        "n": known.height,
        "this_seed": float(own[0]) if len(own) else None,
    }
