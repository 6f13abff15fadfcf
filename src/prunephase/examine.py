"""A finished level examined: what a diagnosis finds of it, and where that is kept.

A finding is kept beside the level it was made from, with that level's seal: a level that is made again, or a diagnosis
whose meaning changed, is diagnosed again; nothing else ever is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from prunephase.bench import Bench
from prunephase.diagnoses import DIAGNOSES, Diagnosis
from prunephase.errors import DamagedError
from prunephase.measure.finding import Finding, finding
from prunephase.plugins import resolve
from prunephase.snapshot import Snapshot
from prunephase.store import Record, Store
from prunephase.tensors import pack_arrays, unpack_arrays
from prunephase.trial import Trial


def ask(store: Store, record: Record, diagnosis: Diagnosis, seen: Snapshot, bench: Bench) -> Record:
    """Ask `diagnosis` of the level of `record`, which `seen` shows, and seal what it finds."""
    trial = seen.trial
    if "redense" in diagnosis.takes:
        seen = replace(seen, redense=_redense(store, trial, record))
    said = resolve(diagnosis.function, bench.site.plugins | {"prunephase"}, "--only")(seen)
    return put(store, trial, record, diagnosis, _taken(store, trial, record, diagnosis), said, bench.numerics)


def current(store: Store, trial: Trial, record: Record, diagnosis: Diagnosis) -> Record | None:
    """The finding of `diagnosis` that was made from this very record, with all its blobs; None where there is none."""
    return kept(store, trial, record, diagnosis, _taken(store, trial, record, diagnosis))


def kept(store: Store, trial: Trial, record: Record, diagnosis: Diagnosis, takes: Mapping[str, str]) -> Record | None:
    """The finding that was made from this very record and from those of the seals `takes`; None where there is none."""
    try:
        found = store.finding(trial.digest(), record.body["level"], diagnosis.name)
        wanted = {"version": diagnosis.version, "parent": record.seal, "takes": dict(takes)}
        if found is None or any(found.body.get(key) != value for key, value in wanted.items()):
            return None
        for blob in found.body["blobs"].values():
            store.blob(blob)
    except DamagedError:  # made again
        return None
    return found


def _taken(store: Store, trial: Trial, record: Record, diagnosis: Diagnosis) -> dict[str, str]:
    """Seals of the findings that `diagnosis` is given at this level."""
    below = {name: current(store, trial, record, DIAGNOSES[name]) for name in diagnosis.takes}
    return {name: found.seal for name, found in below.items() if found is not None}


def put(
    store: Store,
    trial: Trial,
    record: Record,
    diagnosis: Diagnosis,
    takes: Mapping[str, str],
    said: Any,
    numerics: Mapping[str, Any],
) -> Record:
    """Seal and keep what `diagnosis` said of the level of `record`."""
    found = finding(said, diagnosis.name)
    return store.put_finding(
        trial.digest(),
        record.body["level"],
        diagnosis.name,
        {
            "parent": record.seal,
            "version": diagnosis.version,
            "takes": dict(takes),
            "numerics": dict(numerics),
            "rows": [dict(row) for row in found.rows],
            "blobs": {"arrays": store.put_blob(pack_arrays(found.arrays))} if found.arrays else {},
        },
    )


def given(store: Store, found: Record) -> Finding:
    """A stored finding as it was given."""
    blobs = found.body["blobs"]
    return Finding(found.body["rows"], unpack_arrays(store.blob(blobs["arrays"])) if blobs else {})


def _redense(store: Store, trial: Trial, record: Record) -> Any:
    """The weights after re-dense training, where that was done."""
    found = current(store, trial, record, DIAGNOSES["redense"])
    if found is None or "arrays" not in found.body["blobs"]:
        return None
    arrays = unpack_arrays(store.blob(found.body["blobs"]["arrays"]))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
