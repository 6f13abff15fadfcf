"""Spent: what the finished trainings of a store have cost, level by level, the teachers' beside the students'."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl
import torch

from prunephase.analysis.cost import Network, Training, student, teacher
from prunephase.errors import UserError
from prunephase.models.count import macs
from prunephase.store import Record, Store
from prunephase.trial import Trial, canonical_json


def spent(store: Store, trials: Sequence[Trial], plugins: Collection[str] = ()) -> pl.DataFrame:
    """One row per finished training: trial, role (student, teacher), level, sparsity, `training`, device, its cost.

    The trainings of a trial's teacher stand under the trial with role "teacher": its ladder down to the level that
    teaches, or all of it where that level was chosen among them. `training` names a training by content: trials that
    share one (a dense level, a teacher) name the same.
    """
    allowed = frozenset(plugins)
    rows: list[dict[str, Any]] = []
    for trial in trials:
        head = store.record(trial.digest())
        chain = store.levels(trial)
        if head is None or not chain:
            continue
        taught = chain[0].body.get("teacher")
        voice = None if taught is None else _taught(store, taught, allowed)
        for record in chain:
            body, seconds = record.body, _seconds(store, record)
            heard = 0.0
            if voice is not None:  # once where images are not changed on the way, else in every epoch
                heard = float(
                    head.body["data"]["train"] * (len(body["epochs"]["epoch"]) if trial.recipe.augment else 1)
                )
            cost = student(_training(head, record, seconds, allowed, voice, heard))
            rows.append({"trial": trial.digest(), "role": "student", **_place(record), **asdict(cost)})
        for above, record in _lessons(store, taught) if taught else ():
            cost = teacher(_training(above, record, _seconds(store, record), allowed))
            rows.append({"trial": trial.digest(), "role": "teacher", **_place(record), **asdict(cost)})
    return pl.DataFrame(rows, infer_schema_length=None)


def _training(
    head: Record,
    record: Record,
    seconds: float,
    plugins: frozenset[str],
    voice: Network | None = None,
    heard: float = 0.0,
) -> Training:
    epochs = len(record.body["epochs"]["epoch"])
    return Training(_network(head, record, plugins), head.body["data"]["train"], epochs, seconds, voice, heard)


def _network(head: Record, record: Record, plugins: frozenset[str]) -> Network:
    """The network of a level: its MACs, and the density of every module whose weight was pruned."""
    data, model = head.body["data"], head.body["fields"]["model"]
    spec = canonical_json({name: model[name] for name in ("name", "kwargs")})
    kind = getattr(torch, data.get("dtype", "float32"))
    counted = macs(spec, tuple(data["shape"]), len(data["classes"]), plugins, kind)
    layers: Mapping[str, Sequence[int]] = record.body["layers"]
    modules: dict[str, list[Sequence[int]]] = {}  # a recurrent one has several weights
    for name, counts in layers.items():
        modules.setdefault(name.rpartition(".")[0], []).append(counts)
    density = {name: sum(left for left, _ in held) / sum(size for _, size in held) for name, held in modules.items()}
    return Network(counted, density)


def _taught(store: Store, taught: Mapping[str, Any], plugins: frozenset[str]) -> Network:
    """The network that teaches."""
    head, record = store.record(taught["trial"]), store.record(taught["trial"], taught["level"])
    if head is None or record is None:
        raise UserError(
            f"{store.folder}: lacks the teacher, level {taught['level']} of trial {taught['trial']}; merge it"
        )
    return _network(head, record, plugins)


def _lessons(store: Store, taught: Mapping[str, Any]) -> list[tuple[Record, Record]]:
    """The trainings that a teacher took, each with the record of its trial."""
    head, found, level = store.record(taught["trial"]), list[tuple[Record, Record]](), 0
    chosen = taught["chosen_on"] not in ("dense", "named")
    while head is not None and (chosen or level <= taught["level"]):
        record = store.record(taught["trial"], level)
        if record is None:
            break
        found.append((head, record))
        level += 1
    return found


def _place(record: Record) -> dict[str, Any]:
    device = record.body["numerics"]["device"].partition(":")[0]
    return {name: record.body[name] for name in ("level", "sparsity", "training")} | {"device": device}


def _seconds(store: Store, record: Record) -> float:
    return float(store.facts(record.body["trial"], record.body["level"]).get("seconds", 0.0))
