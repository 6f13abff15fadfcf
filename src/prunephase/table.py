"""The table: everything the store knows about some trials, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import polars as pl

from prunephase import __version__
from prunephase.analysis.curve import ARM
from prunephase.store import Record, Store
from prunephase.study import Study
from prunephase.trial import Trial, canonical_json

ROWS = 2_000  # made into a frame at once: as Python objects a row takes 9 KB


def levels(store: Store, trials: Sequence[Trial], arms: Sequence[str] = ()) -> pl.DataFrame:
    """One row per finished (trial, level): the trial's fields under dotted names, counts, the last epoch's measures.

    arms: the name of each trial's arm, as `Study.arms` has it: a column more. Headline measures are those of the last
    epoch. `best_*` names the epoch that the validation split chose; `oracle_*` the one that the test split would have
    chosen: for comparison with papers only. Findings of diagnoses add their headline numbers. `ended`, where a stop
    rule ended ladders (`stopping.view`): whether it did so at this level.
    """
    rows = _rows(store, trials, arms)
    frames = [pl.DataFrame(part, infer_schema_length=None) for part in iter(lambda: list(islice(rows, ROWS)), [])]
    frame = pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()
    # A column may hold nothing at all, as where every trial diverged; it keeps its type.
    measured = [name for name in frame.columns if name.endswith(("_accuracy", "_loss", "_at_best", "_epoch"))]
    return frame.with_columns(pl.col(name).cast(_type(name)) for name in measured)


def epochs(store: Store, trials: Sequence[Trial]) -> pl.DataFrame:
    """One row per (trial, level, epoch)."""
    frames = []
    for trial in trials:
        if bodies := [record.body for record in store.levels(trial)]:
            lengths = [len(body["epochs"]["epoch"]) for body in bodies]
            place = [
                pl.Series(key, [body[key] for body, n in zip(bodies, lengths, strict=True) for _ in range(n)], dtype)
                for key, dtype in (("level", pl.Int32), ("status", pl.String), ("sparsity", pl.Float64))
            ]
            columns = [
                pl.Series(key, [value for body in bodies for value in body["epochs"][key]], _type(key))
                for key in bodies[0]["epochs"]
            ]
            fixed = [pl.lit(v).alias(k) for k, v in {"trial": trial.digest(), **_flat(trial)}.items()]
            frames.append(pl.DataFrame([*place, *columns]).select(*fixed, pl.all()))
    return pl.concat(frames, how="vertical_relaxed") if frames else pl.DataFrame()


def cards(store: Store, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """The noise card of each trial that has begun."""
    found: dict[str, Record | None] = {t.digest(): store.record(t.digest()) for t in trials}
    return {name: record.body["noise"] for name, record in found.items() if record is not None}


def provenance(store: Store, study: Study) -> dict[str, Any]:
    """Where the numbers come from: versions, numerics fingerprints, data, seals, seconds."""
    chains = {t.digest(): store.levels(t) for t in study.trials}
    heads = [head for t in study.trials if (head := store.record(t.digest())) is not None]
    prints = {
        canonical_json(r.body["numerics"]).decode(): r.body["numerics"] for chain in chains.values() for r in chain
    }
    seconds = sum(store.facts(d, r.body["level"]).get("seconds", 0.0) for d, chain in chains.items() for r in chain)
    return {
        "prunephase": __version__,
        "study digest": study.digest(),
        "trials": {d: (chain[-1].seal[:16] if chain else "nothing finished") for d, chain in chains.items()},
        "numerics": {f"fingerprint {i}": value for i, value in enumerate(prints.values(), start=1)},
        "data": sorted({head.body["data"]["fingerprint"] for head in heads}),
        "training seconds": round(seconds, 3),
    }


def _rows(store: Store, trials: Sequence[Trial], arms: Sequence[str]) -> Iterator[dict[str, Any]]:
    named = [{ARM: arm} for arm in arms] or [{}] * len(trials)
    for trial, arm in zip(trials, named, strict=True):
        fixed = {"trial": trial.digest(), **arm, **_flat(trial)}
        chain, end = store.ladder(trial)
        for record in chain:
            ended = {} if end is None else {"ended": record.body["level"] == end}
            yield {**fixed, **_cells(record.body), **ended, **headlines(store.findings(record))}


def headlines(findings: Mapping[str, Record]) -> dict[str, Any]:
    """The numbers that diagnoses say of the whole network, as columns: distance_total, entropy_mean, ..."""
    cells: dict[str, Any] = {}
    for name, finding in findings.items():
        for row in finding.body["rows"]:
            if row.get("part") == "network":
                prefix = name.rpartition(":")[2]
                cells |= {f"{prefix}_{column}": value for column, value in row.items() if column != "part"}
                break
    return cells


def _cells(body: dict[str, Any]) -> dict[str, Any]:
    """What a level's record adds to the fields of its trial."""
    epochs = body["epochs"]
    last = {k: (v[-1] if v else None) for k, v in epochs.items() if k not in ("epoch", "lr", "running_loss")}
    return {
        "level": body["level"],
        "status": body["status"],
        "prunable": body["prunable"],
        "remaining": body["remaining"],
        "sparsity": body["sparsity"],
        "density": 1.0 - body["sparsity"],
        "epochs": len(epochs["epoch"]),
        **last,
        **_chosen(epochs, "validation_accuracy", "best_epoch", "best_validation_accuracy", "test_accuracy_at_best"),
        **_chosen(epochs, "test_accuracy", "oracle_epoch", None, "oracle_test_accuracy"),
    }


def _chosen(epochs: dict[str, list[Any]], by: str, epoch: str, value: str | None, test: str) -> dict[str, Any]:
    """The first epoch at which `by` is highest, and what it gives."""
    scores = [s if s is not None else float("-inf") for s in epochs[by]]
    known = any(s is not None for s in epochs[by])
    best = max(range(len(scores)), key=scores.__getitem__) if known else None
    result: dict[str, Any] = {epoch: None if best is None else epochs["epoch"][best]}
    if value:
        result[value] = None if best is None else epochs[by][best]
    return {**result, test: None if best is None else epochs["test_accuracy"][best]}


def _flat(trial: Trial) -> dict[str, Any]:
    """The trial's fields as cells: what is not a number or text becomes text."""
    return {k: (v if v is None or isinstance(v, (bool, int, float, str)) else str(v)) for k, v in trial.flat().items()}


def _type(name: str) -> type[pl.DataType]:
    return pl.Int64 if name.endswith("epoch") else pl.Float64
