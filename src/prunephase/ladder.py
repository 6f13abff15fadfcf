"""One trial down the ladder: the only place where the steps of a level stand in order.

For each level: masks and start weights, fit, measure, commit. A level that a valid sealed record already vouches for is
not trained again; whatever is damaged or missing is made anew from the level before it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunephase import prune, tensors
from prunephase.bench import Bench, Site
from prunephase.engine import Diverged, cross_entropy, fit, numerics, rates
from prunephase.errors import DamagedError, IncompatibleError, UserError
from prunephase.measure import METRICS, evaluate
from prunephase.restart import Start, begin
from prunephase.snapshot import Snapshot
from prunephase.store import Record, Store
from prunephase.trial import Trial

# Raised by hand whenever a change of ours alters the numbers that an unchanged trial gives.
NUMERICS_EPOCH = 1

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class EpochDone:
    """An epoch is trained and measured (not yet safe: levels are what is committed)."""

    trial: str
    level: int
    epoch: int
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class LevelDone:
    """A level is sealed in the store; nothing takes it away. `cached`: it was there before."""

    trial: str
    level: int
    sparsity: float
    status: str
    values: Mapping[str, float | None]
    cached: bool


@dataclass(frozen=True)
class Note:
    """Something a person should read, in one line."""

    trial: str
    text: str


Event = EpochDone | LevelDone | Note


@dataclass(frozen=True)
class _State:
    """A trained level in memory. weights: full state_dict with zeros where pruned."""

    masks: Mapping[str, Tensor]
    weights: Weights


def descend(trial: Trial, site: Site) -> Iterator[Event]:
    """Take `trial` from level 0 to its last, committing one sealed record per level; yields what happens.

    Holds the trial's lock while it trains. A level that diverges is recorded as such and ends the ladder.
    Raises UserError, LockedError, StorageError, IncompatibleError.
    """
    store, name = Store(site.store), trial.digest()
    with store.lock(name):
        yield from _descend(trial, Bench(trial, site), store)


def _descend(trial: Trial, bench: Bench, store: Store) -> Iterator[Event]:
    name = trial.digest()
    head, notes = _sound(store, name, None)
    yield from (Note(name, text) for text in notes)
    if head is None:
        head = _begin(trial, bench, store)
    _same_data(head, bench)
    parent: Record = head
    state: _State | None = None
    for level in range(trial.pruning.levels + 1):
        found, notes = _sound(store, name, level)
        yield from (Note(name, text) for text in notes)
        if found is not None and found.body["parent"] == parent.seal:
            yield _level_done(found, cached=True)
            parent, state = found, None
        else:
            if found is not None:
                store.set_aside(name, level)
                yield Note(name, f"level {level} does not follow from the record before it: set aside, made again")
            _same_numerics(parent, bench)
            if level > 0 and state is None:
                state = _load(store, parent)
            parent, state = yield from _level(trial, level, bench, store, parent, state)
        if parent.body["status"] != "ok":
            return


def _sound(store: Store, name: str, level: int | None) -> tuple[Record | None, list[str]]:
    """The record, if it and all its blobs are intact; what is damaged is set aside and said."""
    what = "trial record" if level is None else f"level {level}"
    try:
        found = store.record(name, level)
    except DamagedError as damage:
        place = store.set_aside(name, level)
        return None, [f"{what} damaged ({damage}): moved to {place}, made again"]
    for digest in found.body["blobs"].values() if found else ():
        try:
            store.blob(digest)
        except DamagedError as damage:
            place = store.set_aside(name, blob=digest)
            # The record itself stays: when the level is made again it must come out the same.
            return None, [f"{what}: {damage}: moved to {place}, made again"]
    return found, []


def _begin(trial: Trial, bench: Bench, store: Store) -> Record:
    """Commit what the trial is: its fields, data and noise card."""
    clean, card = bench.noisy
    labels = {"train": clean.train.labels, "train_truth": clean.train.truth, "train_permuted": clean.train.permuted}
    labels["train_index"] = clean.train.index
    if clean.validation is not None:
        labels |= {"validation": clean.validation.labels, "validation_truth": clean.validation.truth}
        labels["validation_index"] = clean.validation.index
    return store.put_record(
        trial.digest(),
        None,
        {
            "fields": trial.canonical(),
            "data": {
                "fingerprint": clean.fingerprint,
                "classes": list(clean.classes),
                "shape": list(clean.input_shape),
                "train": len(clean.train),
                "validation": len(clean.validation) if clean.validation is not None else 0,
                "test": len(clean.test),
            },
            "noise": card.as_json(),
            "blobs": {"labels": store.put_blob(tensors.pack_weights(labels, {}))},
        },
    )


def _same_data(head: Record, bench: Bench) -> None:
    """Refuse results of other data, finished ones too: they would stand in one curve with those of these."""
    was, now = head.body["data"]["fingerprint"], bench.noisy[0].fingerprint
    if was != now:
        raise IncompatibleError(
            f"trial {head.body['trial']}: the data have changed since it began ({was[:8]} -> {now[:8]}); "
            "restore them, or use another --store"
        )


def _same_numerics(parent: Record, bench: Bench) -> None:
    """Refuse to go on from a level that was made under other numerics."""
    made, here = parent.body.get("numerics"), _numerics(bench)
    if made is not None and made != here and not bench.site.allow_numerics_change:
        changed = ", ".join(f"{k}: {made.get(k)} -> {here.get(k)}" for k in here if made.get(k) != here.get(k))
        raise IncompatibleError(
            f"trial {parent.body['trial']}: finished levels were made under other numerics ({changed}); "
            "go on with --allow-numerics-change (recorded), or use another --store"
        )


def _numerics(bench: Bench) -> dict[str, Any]:
    return {**numerics(bench.device), "epoch": NUMERICS_EPOCH}


def _load(store: Store, record: Record) -> _State:
    """The trained network of a committed level."""
    masks = tensors.unpack_masks(store.blob(record.body["blobs"]["masks"]))
    return _State(masks, tensors.unpack_weights(store.blob(record.body["blobs"]["weights"]), masks))


def _level(
    trial: Trial, level: int, bench: Bench, store: Store, parent: Record, state: _State | None
) -> Generator[Event, None, tuple[Record, _State | None]]:
    """Train one level from the state before it, measuring every epoch, and commit it."""
    clock = time.monotonic()
    network = bench.network()
    initial = _weights(network)
    masks = {name: torch.ones_like(network.get_parameter(name), dtype=torch.bool) for name in bench.prunable[0]}
    start = Start(initial, 0, None, "the initialisation")
    pause_at = None if level else trial.restart.iteration(bench.steps)
    if level:
        assert state is not None
        origin = state if trial.pruning.ladder == "iterative" or level == 1 else _load(store, _record(store, trial, 0))
        masks = _next_masks(trial, level, bench, store, network, initial, origin)
        start = _start(trial, level, bench, store, origin)
        network.load_state_dict(dict(start.weights))
        prune.zero_pruned(network, masks)
    began = tensors.digest(network.state_dict())
    rewound = initial if pause_at == 0 else None

    columns: dict[str, list[Any]] = {key: [] for key in ("epoch", "lr", "running_loss", *METRICS)}
    diverged: dict[str, Any] | None = None
    moments = fit(
        *(network, bench.data.train, trial.recipe),
        seed=trial.seed,
        level=level,
        masks=masks,
        objective=cross_entropy,
        begin=start.step,
        pause_at=pause_at,
        lr=start.lr,
    )
    try:
        for moment in moments:
            if moment.running_loss is None:
                rewound = _weights(network)
                continue
            values = evaluate(network, bench.data)
            if values["train_loss"] is None:
                raise Diverged(moment.epoch, moment.step, float("nan"))
            row = {"epoch": moment.epoch, "lr": moment.lr, "running_loss": moment.running_loss, **values}
            for key, column in columns.items():
                column.append(row[key])
            yield EpochDone(trial.digest(), level, moment.epoch, values)
    except Diverged as problem:
        diverged = {"epoch": problem.epoch, "step": problem.step, "loss": str(problem.loss)}

    masks = _cpu(masks)
    weights = _weights(network) if diverged is None else None
    remaining = {name: int(mask.sum()) for name, mask in masks.items()}
    assert sum(remaining.values()) == sum(bench.budgets[level].values()), (
        "a mask has not the agreed number of survivors"
    )
    assert weights is None or prune.leaked(network, masks) == 0, "a pruned weight came back"
    record = store.put_record(
        trial.digest(),
        level,
        {
            "parent": parent.seal,
            "status": "ok" if diverged is None else "diverged",
            "diverged": diverged,
            "numerics": _numerics(bench),
            "start": {"from": start.words, "step": start.step, "weights": began},
            "masks_from": _record(store, source, level).seal if (source := trial.source_trial()) and level else None,
            "prunable": sum(bench.prunable[0].values()),
            "remaining": sum(remaining.values()),
            "sparsity": bench.sparsity(sum(remaining.values())),
            "layers": {name: [count, bench.prunable[0][name]] for name, count in remaining.items()},
            "epochs": columns,
            "blobs": _blobs(store, masks, weights, {} if level else {"initial": initial, "rewound": rewound}),
        },
    )
    store.put_facts(trial.digest(), level, _facts(time.monotonic() - clock))
    yield _level_done(record, cached=False)
    return record, (_State(masks, weights) if weights is not None else None)


def _start(trial: Trial, level: int, bench: Bench, store: Store, origin: _State) -> Start:
    """Where a sparse level begins, by the trial's restart."""
    scratch = trial.restart.mode == "scratch"
    return begin(
        trial.restart,
        trial.restart.iteration(bench.steps),
        rates(trial.recipe)[-1],
        tensors.unpack_weights(store.blob(_record(store, trial, 0).body["blobs"]["rewound"]), {}),
        origin.weights,
        lambda: _weights(bench.network("level", level) if scratch else bench.network("re-init")),
    )


def _blobs(
    store: Store, masks: Mapping[str, Tensor], weights: Weights | None, dense: Mapping[str, Weights | None]
) -> dict[str, str]:
    """Keep masks, trained weights, and the dense level's starting points; {name: digest}."""
    blobs = {"masks": store.put_blob(tensors.pack_masks(masks))}
    if weights is not None:
        blobs["weights"] = store.put_blob(tensors.pack_weights(weights, masks))
    return blobs | {k: store.put_blob(tensors.pack_weights(w, {})) for k, w in dense.items() if w is not None}


def _facts(seconds: float) -> dict[str, Any]:
    """What differs between equal runs."""
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"seconds": round(seconds, 3), "finished": finished, "host": platform.node(), "pid": os.getpid()}


def _next_masks(
    trial: Trial, level: int, bench: Bench, store: Store, network: nn.Module, initial: Weights, origin: _State
) -> dict[str, Tensor]:
    """Masks of `level`, from the scores of the network of `origin`, or for re-init from the finished rewind ladder."""
    ladder = trial.source_trial()
    if ladder is not None:
        chosen = tensors.unpack_masks(store.blob(_record(store, ladder, level).body["blobs"]["masks"]))
        return {name: mask.to(bench.device) for name, mask in chosen.items()}
    network.load_state_dict(dict(origin.weights))
    masks = {name: mask.to(bench.device) for name, mask in origin.masks.items()}
    # The level that is scored names the streams: a one-shot ladder draws its scores once.
    scored = level - 1 if trial.pruning.ladder == "iterative" else 0
    snapshot = Snapshot(trial, scored, network, masks, initial, bench.data)
    found = prune.scores(snapshot, bench.site.plugins)
    # On the CPU, so that ties and order are decided the same way everywhere.
    chosen = prune.select(_cpu(found), _cpu(masks), bench.budgets[level])
    return {name: mask.to(bench.device) for name, mask in chosen.items()}


def _record(store: Store, trial: Trial, level: int) -> Record:
    found = store.record(trial.digest(), level)
    if found is None or found.body["status"] != "ok":
        raise UserError(f"trial {trial.digest()}: level {level}, which another trial builds on, was not finished")
    return found


def _level_done(record: Record, *, cached: bool) -> LevelDone:
    body = record.body
    last = {key: (column[-1] if column else None) for key, column in body["epochs"].items()}
    return LevelDone(body["trial"], body["level"], body["sparsity"], body["status"], last, cached)


def _weights(network: nn.Module) -> Weights:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _cpu(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in values.items()}
