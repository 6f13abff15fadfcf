"""One trial down the ladder: the only place where the steps of a level stand in order.

For each level: masks and start weights, fit, measure, commit. A level that a valid sealed record already vouches for is
not trained again; whatever is damaged or missing is made anew from the level that it builds on. A training that another
trial has done already, from the same start on the same data, is taken over by its content.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunephase import prune, tensors
from prunephase import teacher as teachers
from prunephase.bench import Bench, Site
from prunephase.diagnoses import DIAGNOSES
from prunephase.engine import Job
from prunephase.errors import IncompatibleError
from prunephase.events import Diagnosed, Event, LevelDone, Note
from prunephase.examine import ask, current
from prunephase.levels import finished, trained_state
from prunephase.restart import Start
from prunephase.revive import snapshot, start_of
from prunephase.snapshot import Snapshot
from prunephase.stop import Stop
from prunephase.store import Record, Store
from prunephase.training import Answer, Busy, Weights, Wish, fit, key_of, taken_over, weights_of
from prunephase.trial import Trial

Steps = Generator[Event | Wish, Answer, None]


@dataclass(frozen=True)
class _State:
    """A trained level in memory. weights: full state_dict with zeros where pruned."""

    masks: Mapping[str, Tensor]
    weights: Weights


def ladder(trial: Trial, site: Site, levels: Sequence[int] | None = None, stop: Stop | None = None) -> Steps:
    """Take `trial` from level 0 to its last, committing one sealed record per level; says what happens.

    A coroutine: where a level is to be trained it gives a Job and hears of every moment of its training, so that
    whoever drives it can train levels of several trials at once. Holds the trial's lock to its end. A level that
    diverges is recorded as such and ends the ladder, unless the later ones do not build on it. `levels`: these alone,
    of a ladder whose levels do not build on one another (`trial.side_by_side`). `stop`: what may end it sooner; it sees
    levels from the dense one on, so that with it there are no `levels`.
    Raises UserError, LockedError, StorageError, IncompatibleError.
    """
    store, name = Store(site.store), trial.digest()
    with store.lock(name if levels is None else f"{name}-{levels[-1]}"):
        yield from _descend(
            trial, Bench(trial, site), store, range(trial.pruning.levels + 1) if levels is None else levels, stop
        )


def _descend(trial: Trial, bench: Bench, store: Store, levels: Sequence[int], stop: Stop | None) -> Steps:
    name = trial.digest()
    head, notes = store.sound(name, None)
    yield from (Note(name, text) for text in notes)
    if head is None:
        head = _begin(trial, bench, store)
    _same_data(head, bench)
    made: dict[int, _State | None] = {}
    sound: list[Record] = []
    for level in levels:
        above = trial.builds_on(level)
        parent = head if above is None else finished(store, trial, above)
        found, notes = store.sound(name, level)
        yield from (Note(name, text) for text in notes)
        if found is not None and found.body["parent"] == parent.seal:
            yield _level_done(found, cached=True)
        else:
            if found is not None:
                store.set_aside(name, level)
                yield Note(name, f"level {level} does not follow from the record before it: set aside, made again")
            _same_numerics(parent, bench)
            _same_network(parent, bench)
            found, state = yield from _level(trial, level, bench, store, parent, made.get(level - 1))
            made = {level: state}
        if found.body["status"] != "ok" and (level == 0 or not trial.side_by_side):
            return
        sound.append(found)
        if stop is not None and all(record.body["status"] == "ok" for record in sound):
            from prunephase.stopping import decide  # half a second, which a worker without a rule need not wait

            yield from _measure(trial, found, bench, store, stop)
            _, said = decide(store, stop, head, sound)
            if said.stop:
                if level in made:
                    yield Note(name, f"ended by its stop rule, {stop.rule}, at level {level} of {levels[-1]}")
                return


def _measure(trial: Trial, record: Record, bench: Bench, store: Store, stop: Stop) -> Generator[Event, None, None]:
    """Make the findings of a level that `stop` goes by, as `prunephase diagnose` would."""
    from prunephase.stopping import measured

    for diagnosis in (DIAGNOSES[name] for name in measured(stop)):
        if current(store, trial, record, diagnosis) is None:
            began, level = time.monotonic(), record.body["level"]
            ask(store, record, diagnosis, snapshot(store, trial, level, bench), bench)
            yield Diagnosed(trial.digest(), level, diagnosis.name, time.monotonic() - began, cached=False)


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
                **({} if clean.dtype == torch.float32 else {"dtype": str(clean.dtype).removeprefix("torch.")}),
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
    made, here = parent.body.get("numerics"), bench.numerics
    changed = ", ".join(f"{k}: {made.get(k)} -> {here[k]}" for k in here if made.get(k) != here[k]) if made else ""
    if changed and not bench.site.allow_numerics_change:
        raise IncompatibleError(
            f"trial {parent.body['trial']}: finished levels were made under other numerics ({changed}); "
            "go on with --allow-numerics-change (recorded), or use another --store"
        )


def _same_network(parent: Record, bench: Bench) -> None:
    """Refuse to go on with another network than the finished levels had: somebody changed the code that makes it."""
    layers, now = parent.body.get("layers"), bench.prunable[0]
    was = {name: size for name, (_, size) in layers.items()} if layers else now
    if was != now:
        name = next(name for name in {**was, **now} if was.get(name) != now.get(name))
        raise IncompatibleError(
            f"trial {parent.body['trial']}: the network has changed since it began ({name}: {was.get(name, 0):,} -> "
            f"{now.get(name, 0):,} weights that may be pruned); restore its code, or use another --store"
        )


def _level(
    trial: Trial, level: int, bench: Bench, store: Store, parent: Record, before: _State | None
) -> Generator[Event | Wish, Answer, tuple[Record, _State | None]]:
    """Train one level, measuring every epoch, and commit it. before: the level before it, where it is at hand."""
    clock = time.monotonic()
    network = bench.network()
    initial = weights_of(network)
    masks = {name: mask.to(bench.device) for name, mask in bench.masks.items()}
    sha256 = trial.model.weights_sha256
    start = Start(initial, 0, None, "the initialisation" if sha256 is None else f"weights of SHA-256 {sha256}")
    if level:
        at_hand = before if trial.builds_on(level) == level - 1 else None
        origin = at_hand or _State(*trained_state(store, parent))
        masks = _next_masks(trial, level, bench, store, network, initial, origin, before)
        start = start_of(trial, level, bench, store, origin.weights)
        network.load_state_dict(dict(start.weights))
        prune.zero_pruned(network, masks)
    teacher = teachers.find(store, trial)
    if level:
        teachers.same(parent, teacher)
    job = Job(
        *(network, bench.data, trial.recipe, trial.seed, level, masks),
        objective=teachers.objective(store, bench, network, teacher),
        begin=start.step,
        pause_at=None if level else trial.restart.iteration(bench.steps),
        lr=start.lr,
    )
    masks, began = _cpu(masks), tensors.digest(network.state_dict())
    remaining = {name: int(mask.sum()) for name, mask in masks.items()}
    agreed = bench.budgets[level]
    assert ({"": sum(remaining.values())} if "" in agreed else remaining) == agreed, (
        "a mask has not the agreed number of survivors"
    )
    key = key_of(trial, job, began, masks, bench, None if teacher is None else teacher.content())
    while True:
        # Trials of a grid mostly agree in their dense level; one trains it while the others wait.
        with store.claim(key if level == 0 else None) as mine:
            trained = taken_over(store, key, masks)
            shared = trained is not None
            if trained is None and mine:
                trained = yield from fit(trial, job, bench, initial)
            if trained is not None:
                record = store.put_record(
                    trial.digest(),
                    level,
                    {
                        "parent": parent.seal,
                        "training": key,
                        "status": "ok" if trained.diverged is None else "diverged",
                        "diverged": trained.diverged,
                        "numerics": trained.numerics,
                        "start": {"from": start.words, "step": start.step, "weights": began},
                        "masks_from": _masks_from(store, trial, level),
                        **({} if teacher is None else {"teacher": teacher.as_json()}),
                        "prunable": sum(bench.prunable[0].values()),
                        "remaining": sum(remaining.values()),
                        "sparsity": bench.sparsity(sum(remaining.values())),
                        "layers": {name: [count, bench.prunable[0][name]] for name, count in remaining.items()},
                        "epochs": trained.columns,
                        "blobs": _blobs(
                            store,
                            masks,
                            trained.weights,
                            {} if level else {"initial": initial, "rewound": trained.rewound},
                        ),
                    },
                )
                store.put_hint(key, trial.digest(), level)
                break
        yield Busy()
    store.put_facts(trial.digest(), level, _facts(time.monotonic() - clock, shared))
    yield _level_done(record, cached=False, shared=shared)
    return record, (_State(masks, trained.weights) if trained.weights is not None else None)


def _masks_from(store: Store, trial: Trial, level: int) -> str | None:
    source = trial.source_trial()
    return finished(store, source, level).seal if source and level else None


def _blobs(
    store: Store, masks: Mapping[str, Tensor], weights: Weights | None, dense: Mapping[str, Weights | None]
) -> dict[str, str]:
    """Keep masks, trained weights, and the dense level's starting points; {name: digest}."""
    blobs = {"masks": store.put_blob(tensors.pack_masks(masks))}
    if weights is not None:
        blobs["weights"] = store.put_blob(tensors.pack_weights(weights, masks))
    return blobs | {k: store.put_blob(tensors.pack_weights(w, {})) for k, w in dense.items() if w is not None}


def _facts(seconds: float, shared: bool) -> dict[str, Any]:
    """What differs between equal runs. shared: another trial's training served."""
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    place = {"host": platform.node(), "pid": os.getpid()}
    return {"seconds": round(seconds, 3), "shared": shared, "finished": finished, **place}


def _next_masks(
    trial: Trial,
    level: int,
    bench: Bench,
    store: Store,
    network: nn.Module,
    initial: Weights,
    origin: _State,
    before: _State | None,
) -> dict[str, Tensor]:
    """Masks of `level`: from the scores of the network of `origin`, or those of the finished ladder it takes them from.

    The latter as they are for re-init, shuffled for `pruning.remask`.
    """
    source, how = trial.source_trial(), trial.pruning.remask
    if source is not None:
        chosen = tensors.unpack_masks(store.blob(finished(store, source, level).body["blobs"]["masks"]))
        if how != "none":
            chosen = prune.remask(chosen, how, trial.seed, level)
        return {name: mask.to(bench.device) for name, mask in chosen.items()}
    network.load_state_dict(dict(origin.weights))

    def select(scored: int, masks: Mapping[str, Tensor], level: int) -> dict[str, Tensor]:
        there = {name: mask.to(bench.device) for name, mask in masks.items()}
        found = prune.scores(Snapshot(trial, scored, network, there, initial, bench.data), bench.site.plugins)
        # On the CPU, so that ties and order are decided the same way everywhere.
        return prune.select(_cpu(found), masks, bench.budgets[level], bench.floors)

    # The level that is scored names the streams: a one-shot ladder draws its scores once.
    if trial.pruning.ladder == "one-shot":
        masks = select(0, origin.masks, level)
    elif trial.builds_on(level) == level - 1 or before is not None:
        masks = select(level - 1, (before or origin).masks, level)
    else:  # scores that ask nothing of the network: draw by draw from the top
        masks = dict(origin.masks)
        for lower in range(1, level + 1):
            masks = select(lower - 1, masks, lower)
    return {name: mask.to(bench.device) for name, mask in masks.items()}


def _level_done(record: Record, *, cached: bool, shared: bool = False) -> LevelDone:
    body = record.body
    last = {key: (column[-1] if column else None) for key, column in body["epochs"].items()}
    return LevelDone(
        body["trial"], body["level"], body["sparsity"], body["remaining"], body["status"], last, cached, shared
    )


def _cpu(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in values.items()}
