"""Work that trials have in common is done once, and never taken from a training that was another one."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign import STUDY, tree
from prunephase import bench, cohort, disk, runs, study
from prunephase.bench import Site
from prunephase.engine import Diverged, Guesses, Job, Moment
from prunephase.events import LevelDone
from prunephase.sections import LATER
from prunephase.store import Store
from prunephase.task import Task
from prunephase.trial import Trial, canonical_json

CRITERIA = ["magnitude", "gradient", "random"]
Fields = dict[str, Any]
Run = Callable[..., Any]


def pruned(tiny: Fields, criterion: str, **more: Any) -> Fields:
    return {**tiny, "pruning": {"levels": 3, "criterion": criterion, **more}}


def trial(fields: Fields) -> Trial:
    return study.parse(fields).trials[0]


class Idle:
    """A team that trains nothing."""

    strategy = "idle"

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs

    def moments(self) -> Iterator[Sequence[Moment | Diverged]]:
        yield from ()

    def guesses(self) -> Sequence[Guesses]:
        raise NotImplementedError


class Unlucky(Idle):
    """A team whose training diverges at once where a third of the weights are gone."""

    def moments(self) -> Iterator[Sequence[Moment | Diverged]]:
        if self.jobs[0].level == 2:
            yield [Diverged(1, 1, float("inf"))]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The level of every training, in order."""
    levels: list[int] = []
    team = cohort.team

    def counted(jobs: Sequence[Job]) -> Any:
        levels.extend(job.level for job in jobs)
        return team(jobs)

    monkeypatch.setattr(cohort, "team", counted)
    monkeypatch.setattr(cohort, "PATIENCE", 0.0)
    return levels


@pytest.fixture(scope="session")
def apart(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """By criterion: the bytes of the small study, pruned by it in a store of its own."""
    found = {}
    for criterion in CRITERIA:
        store = tmp_path_factory.mktemp(criterion) / "runs"
        assert runs.train(study.parse(pruned(STUDY, criterion)), store, workers=1).code == 0
        found[criterion] = tree(store)
    return found


def resealed(store: Store, of: Trial, level: int, **changes: Any) -> None:
    """A level's record with other fields, sealed well."""
    found = store.record(of.digest(), level)
    assert found is not None
    body = {**found.body, **changes}
    data = canonical_json({"record": body, "seal": hashlib.sha256(canonical_json(body)).hexdigest()}) + b"\n"
    store._record_path(of.digest(), level).write_bytes(data)


def facts(store: Path, of: Trial, level: int) -> Any:
    return json.loads((store / "facts" / of.digest() / f"level-{level:03d}.json").read_bytes())


# -- the dense level


def test_trials_that_agree_in_it_train_their_dense_level_once(
    tiny: Fields, train: Run, trained: list[int], apart: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    fields = {**tiny, "grid": {"pruning.criterion": CRITERIA}}
    events: list[LevelDone] = []
    observe = lambda _, event: events.append(event) if isinstance(event, LevelDone) else None  # noqa: E731
    assert train(fields, tmp_path, observe=observe).code == 0
    assert sorted(trained) == [0, *sorted([1, 2, 3] * 3)]
    expected: dict[str, bytes] = {}
    for bytes_of_one in apart.values():
        expected |= bytes_of_one
    assert tree(tmp_path) == expected
    assert [(e.level, e.shared) for e in events if e.level == 0] == [(0, False), (0, True), (0, True)]
    assert not any(e.shared for e in events if e.level > 0)
    assert not any(e.cached for e in events)
    for event in events:
        of = next(t for t in study.parse(fields).trials if t.digest() == event.trial)
        assert facts(tmp_path, of, event.level)["shared"] is event.shared


def test_two_workers_share_one_training(
    tiny: Fields, train: Run, apart: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    fields = {**tiny, "grid": {"pruning.criterion": CRITERIA[:2]}}
    assert train(fields, tmp_path, workers=2).code == 0
    assert sorted(facts(tmp_path, t, 0)["shared"] for t in study.parse(fields).trials) == [False, True]
    assert tree(tmp_path) == apart["magnitude"] | apart["gradient"]


@pytest.mark.parametrize("other_finishes", [True, False])
def test_a_dense_level_that_another_process_trains_is_waited_for(
    other_finishes: bool,
    tiny: Fields,
    trained: list[int],
    apart: dict[str, dict[str, bytes]],
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = Store(finished).record(trial(tiny).digest(), 0)
    assert record is not None
    waits: list[int] = []
    claim = Store(tmp_path).claim(record.body["training"])

    def wait(_seconds: float) -> None:
        assert trained == []
        waits.append(1)
        if len(waits) == 3:
            if other_finishes:
                shutil.copytree(finished, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("locks"))
            claim.__exit__(None, None, None)

    assert claim.__enter__()
    monkeypatch.setattr(cohort.time, "sleep", wait)
    list(cohort.descend([Task(trial(pruned(tiny, "gradient")))], Site(tmp_path)))
    assert len(waits) == 3
    assert trained == ([1, 2, 3] if other_finishes else [0, 1, 2, 3])
    assert apart["gradient"].items() <= tree(tmp_path).items()


# -- hints that are wrong


ME = trial(STUDY)


def _body(store: Store) -> dict[str, Any]:
    record = store.record(ME.digest(), 0)
    assert record is not None
    return record.body


def _hint(store: Store) -> Path:
    return store._hint_path(_body(store)["training"])


def _blob(store: Store, name: str) -> Path:
    return store._blob_path(_body(store)["blobs"][name])


def _written(data: bytes) -> Callable[[Store], Any]:
    return lambda store: _hint(store).write_bytes(data)


def _foreign(store: Store) -> None:
    """The record of another start, under the hint of this one."""
    other = {**STUDY, "seeds": [1]}
    assert runs.train(study.parse(other), store.folder, workers=1).code == 0
    _hint(store).write_text(f"{trial(other).digest()} 0")


DAMAGES: dict[str, Callable[[Store], Any]] = {
    "no hint": lambda store: _hint(store).unlink(),
    "empty": _written(b""),
    "half": lambda store: _hint(store).write_bytes(_hint(store).read_bytes()[:9]),
    "noise": _written(random.Random(0).randbytes(64)),
    "three words": _written(f"{ME.digest()} 0 0".encode()),
    "no number": _written(f"{ME.digest()} -1".encode()),
    "a very long number": _written(f"{ME.digest()} {'1' * 300}".encode()),
    "more digits than Python reads": _written(f"{ME.digest()} {'1' * 5000}".encode()),
    "a way out of the store": _written(b"../../../../etc 0"),
    "a trial that is not there": _written(b"0123456789abcdef 0"),
    "a level that is not there": _written(f"{ME.digest()} 77".encode()),
    "another level": _written(f"{ME.digest()} 1".encode()),
    "another start": _foreign,
    "another training": lambda store: resealed(store, ME, 0, training="0" * 64),
    "no training": lambda store: resealed(store, ME, 0, training=None),
    "a record of another version": lambda store: resealed(store, ME, 0, format=0),
    "a damaged record": lambda store: store._record_path(ME.digest(), 0).write_bytes(b"{}"),
    "no record": lambda store: store._record_path(ME.digest(), 0).unlink(),
    "no weights": lambda store: _blob(store, "weights").unlink(),
    "damaged weights": lambda store: _blob(store, "weights").write_bytes(b"\0" * 99),
    "damaged weights to rewind to": lambda store: _blob(store, "rewound").write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_hint_costs_a_training_and_no_more(
    damage: str,
    tiny: Fields,
    train: Run,
    trained: list[int],
    apart: dict[str, dict[str, bytes]],
    finished: Path,
    tmp_path: Path,
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](Store(tmp_path))
    trained.clear()
    outcome = train(pruned(tiny, "gradient", levels=1), tmp_path)
    assert (outcome.code, outcome.failed) == (0, {})
    assert trained == [0, 1]
    ours = {name: data for name, data in apart["gradient"].items() if "level-002" not in name}
    there = tree(tmp_path)
    name = trial(pruned(tiny, "gradient")).digest()
    for level in ("level-000.json", "level-001.json"):
        assert there[f"trials/{name}/{level}"] == ours[f"trials/{name}/{level}"]
    assert Store(tmp_path).missing(trial(pruned(tiny, "gradient", levels=1))) == 0


# -- what is never shared

# For every field that decides a training, a value other than the small study's. None: it belongs to other sources,
# and is part of the trial's identity all the same.
OTHER: dict[str, dict[str, Any]] = {
    "data": {
        "source": None, "path": None, "kwargs": None, "train": 121, "validation": 0.03, "test": 0.03,
        "normalise": "none", "label": "other", "truth": "other", "size": 9, "seed": 1, "crop": None,
    },
    "noise": {
        "kind": "uniform-relabel", "rate": 0.3, "count": "per-sample", "map": None, "path": None, "key": None,
        "seed": 1,
    },
    "model": {
        "name": "lenet-300-100", "kwargs": {"widths": [15]}, "init": "he-paper", "weights": None,
        "weights_sha256": None,
    },
    "antidote": {
        "kind": "gce", "alpha": None, "beta": None, "temperature": None, "strength": None, "q": None, "teacher": None,
        "teacher_model": None, "teacher_force": None, "kwargs": None,
    },
    "recipe": {
        "optimizer": {"optimizer": "adamw", "momentum": 0.0}, "lr": 0.2, "momentum": 0.8, "weight_decay": 0.1,
        "batch_size": 31, "epochs": 2, "schedule": "cosine", "milestones": None, "factor": 0.2,
        "precision": "bfloat16", "warmup": None, "augment": ["flip"], "decay_by": {"*.bias": 0.1},
    },
}  # fmt: skip


def variants(base: Fields) -> dict[str, Fields]:
    """By field: the small study with that field changed."""
    found = {}
    for section, values in OTHER.items():
        for field, value in values.items():
            if value is not None:
                changed = value if field == "optimizer" else {field: value}
                found[f"{section}.{field}"] = {**base, section: {**base.get(section, {}), **changed}}
    found["model.name"]["model"] = {"name": "lenet-300-100"}
    return {**found, "seed": {**base, "seeds": [1]}, "restart.to": {**base, "restart": {"to": "1it"}}}


def key(fields: Fields, store: Path) -> str:
    """What the dense training of a trial is named by, from a store in which none is trained."""
    only = study.parse({**fields, "pruning": {**fields["pruning"], "levels": 0}}).trials[0]
    list(cohort.descend([Task(only)], Site(store)))
    record = Store(store).record(only.digest(), 0)
    assert record is not None
    name: str = record.body["training"]
    return name


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "team", Idle)


def test_every_field_is_spoken_of_here() -> None:
    for section in OTHER:
        assert OTHER[section].keys() == type(getattr(Trial(), section)).model_fields.keys()
    assert Trial.model_fields.keys() == {*OTHER, "pruning", "restart", "seed"}
    assert LATER.keys() <= OTHER.keys() | {"pruning"}


@pytest.mark.usefixtures("idle")
def test_trials_that_differ_in_anything_before_the_first_pruning_share_nothing(tiny: Fields, tmp_path: Path) -> None:
    keys = {name: key(fields, tmp_path / name) for name, fields in {"": tiny, **variants(tiny)}.items()}
    assert len(set(keys.values())) == len(keys) > 25, keys


@pytest.mark.usefixtures("idle")
def test_trials_that_differ_in_how_they_prune_and_restart_share_the_dense_level(tiny: Fields, tmp_path: Path) -> None:
    prunings = [{"criterion": "random"}, {"fraction": 0.3}, {"scope": "layer"}, {"ladder": "one-shot"}, {"batches": 2}]
    found = [key({**tiny, "pruning": {**tiny["pruning"], **p}}, tmp_path / str(i)) for i, p in enumerate(prunings)]
    restarts = [{"mode": m, "to": "2it"} for m in ("finetune", "lr-rewind", "scratch")]
    found += [key({**tiny, "restart": r}, tmp_path / r["mode"]) for r in restarts]
    assert {*found, key(tiny, tmp_path / "base")} == {found[0]}


@pytest.mark.usefixtures("idle")
def test_numerics_are_never_mixed_by_sharing(tiny: Fields, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [key(tiny, tmp_path / "here")]
    numerics = bench.numerics
    monkeypatch.setattr(bench, "numerics", lambda device: {**numerics(device), "torch": "another"})
    keys.append(key(tiny, tmp_path / "there"))
    monkeypatch.setattr(bench, "numerics", numerics)
    monkeypatch.setattr(bench, "NUMERICS_EPOCH", bench.NUMERICS_EPOCH + 1)
    keys.append(key(tiny, tmp_path / "then"))
    assert len(set(keys)) == 3


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("what", ["data", "labels"])
def test_what_a_file_held_before_it_changed_is_not_taken_over(what: str, tiny: Fields, tmp_path: Path) -> None:
    draw, keys = np.random.default_rng(0), []
    x, y = draw.normal(size=(200, 5)), np.arange(200) % 3
    given, path = tmp_path / "given.csv", tmp_path / "data.npz"
    fields = {**tiny, "data": {"source": "npz", "path": str(path)}, "noise": {"kind": "human", "path": str(given)}}
    for i, criterion in enumerate(CRITERIA[:2]):
        np.savez(path, x=x + (i if what == "data" else 0), y=y)
        labels = (y + (np.arange(200) % 7 == 0) * (1 + (i if what == "labels" else 0))) % 3
        given.write_text("label\n" + "\n".join(map(str, labels)))
        keys.append(key({**fields, "pruning": {"criterion": criterion}}, tmp_path / "runs"))
    assert keys[0] != keys[1]


# -- levels that stand side by side


@pytest.mark.parametrize("mode", ["rewind", "finetune", "lr-rewind", "scratch", "re-init"])
@pytest.mark.parametrize("shape", ["iterative", "one-shot"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_levels_build_on_the_dense_one_where_no_other_can_matter(
    criterion: str, shape: str, mode: str, tiny: Fields
) -> None:
    of = trial({**pruned(tiny, criterion, ladder=shape), "restart": {"mode": mode}})
    chain = shape == "iterative" and mode != "re-init" and not (criterion == "random" and mode in ("rewind", "scratch"))
    assert of.side_by_side is not chain
    assert [of.builds_on(level) for level in range(4)] == ([None, 0, 1, 2] if chain else [None, 0, 0, 0])


def test_the_seals_say_what_a_level_builds_on(apart: dict[str, dict[str, bytes]], tiny: Fields, tmp_path: Path) -> None:
    for criterion in CRITERIA:
        for name, data in apart[criterion].items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        head = Store(tmp_path).record(trial(pruned(tiny, criterion)).digest())
        chain = Store(tmp_path).levels(trial(pruned(tiny, criterion)))
        assert head is not None
        assert chain[0].body["parent"] == head.seal
        above = [chain[0]] * 3 if criterion == "random" else chain[:3]
        assert [r.body["parent"] for r in chain[1:]] == [r.seal for r in above]


@pytest.mark.parametrize("fields", [{"criterion": "random"}, {"ladder": "one-shot"}, {}], ids=str)
def test_a_level_that_diverges_ends_only_what_builds_on_it(
    fields: Fields, tiny: Fields, train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort, "team", Unlucky)
    mine = {**tiny, "restart": {"to": "0it"}, "pruning": {"levels": 3, **fields}}
    outcome = train(mine, tmp_path)
    assert outcome.failed == {}
    assert outcome.diverged == {trial(mine).digest()}
    said = ["ok", "ok", "diverged", "ok"] if fields else ["ok", "ok", "diverged"]
    assert [r.body["status"] for r in Store(tmp_path).levels(trial(mine))] == said
    assert Store(tmp_path).missing(trial(mine)) == 0
    before = tree(tmp_path)
    monkeypatch.setattr(cohort, "team", None)  # nothing is trained again
    assert train(mine, tmp_path).diverged == outcome.diverged
    assert tree(tmp_path) == before


def test_a_diverged_level_stands_for_those_that_build_on_it_and_no_other(
    tiny: Fields, train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort, "team", Unlucky)
    mine = {**tiny, "restart": {"to": "0it"}, "pruning": {"levels": 3, "ladder": "one-shot"}}
    train(mine, tmp_path)
    store, of = Store(tmp_path), trial(mine)
    store._record_path(of.digest(), 3).unlink()
    assert [r.body["level"] for r in store.levels(of)] == [0, 1, 2]
    assert store.missing(of) == 1  # although the last that is there diverged
    resealed(store, of, 0, status="diverged")
    assert store.missing(of) == 0


@pytest.mark.parametrize("damage", ["gone", "foreign", "damaged", "weights"])
@pytest.mark.parametrize(
    "fields", [{"pruning": {"criterion": "random", "levels": 3}}, {"pruning": {"ladder": "one-shot", "levels": 3}}, {}]
)
def test_what_is_amiss_with_a_level_costs_those_that_build_on_it(
    fields: Fields,
    damage: str,
    tiny: Fields,
    train: Run,
    trained: list[int],
    tmp_path: Path,
) -> None:
    mine = {**tiny, **fields}
    of, store = trial(mine), Store(tmp_path)
    train(mine, tmp_path)
    before = tree(tmp_path)
    record = store.record(of.digest(), 1)
    assert record is not None
    path = store._record_path(of.digest(), 1)
    damages: dict[str, Callable[[], Any]] = {
        "gone": path.unlink,
        "foreign": lambda: resealed(store, of, 1, parent="0" * 64),
        "damaged": lambda: path.write_bytes(path.read_bytes()[:-1]),
        "weights": lambda: store._blob_path(record.body["blobs"]["weights"]).write_bytes(b"weights"),
    }
    damages[damage]()
    if damage == "weights":  # the records vouch for themselves
        assert store.missing(of) == 0
    else:
        assert [r.body["level"] for r in store.levels(of)] == ([0, 2, 3] if of.side_by_side else [0])
        assert store.missing(of) == (1 if of.side_by_side else 3)
    said = store.damages()
    if damage == "foreign":  # where levels are a chain, the next one now follows from none
        assert len(said) == (1 if of.side_by_side else 2)
        assert all("does not follow from a record before it" in line for line in said)
    trained.clear()
    assert train(mine, tmp_path).code == 0
    assert trained == [1]  # a chain's later levels follow from it again, as it comes out the same
    assert tree(tmp_path) == before
    assert store.damages() == []


# -- who is given what


def spread(trials: Sequence[Trial], workers: int, *, together: bool = False) -> list[list[Task]]:
    return runs.tasks(trials, workers, together=together)


def taken(groups: Sequence[Sequence[Task]]) -> dict[str, list[int]]:
    """By trial: the levels that tasks will train, dense ones of parts but the first left out."""
    found: dict[str, list[int]] = {}
    for group in groups:
        for task in group:
            assert task.levels is None or task.levels[0] == 0
            mine = found.setdefault(task.trial.digest(), [])
            levels = range(task.trial.pruning.levels + 1) if task.levels is None else task.levels
            mine += [level for level in levels if level or not mine]
    return found


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("count", [1, 2, 5, 70])
def test_every_level_is_given_to_one_worker(workers: int, count: int, together: bool, tiny: Fields) -> None:
    fields = {**tiny, "grid": {"pruning.criterion": CRITERIA[:: 2 if count > 1 else 3]}, "seeds": list(range(count))}
    trials = [t for levels in (0, 7) for t in study.parse({**fields, "pruning": {"levels": levels}}).trials[:count]]
    for some in (trials[: len(trials) // 2], trials[len(trials) // 2 :]):
        groups = spread(some, workers, together=together)
        depth = some[0].pruning.levels
        assert {name: sorted(levels) for name, levels in taken(groups).items()} == {
            t.digest(): list(range(depth + 1)) for t in some
        }
        assert all(groups)
        alone = [task.levels is None for group in groups for task in group if not task.trial.side_by_side]
        assert all(alone)  # a chain is one task
        if together:
            assert len(groups) <= max(workers, -(-sum(map(len, groups)) // runs.TOGETHER))
            assert max(map(len, groups)) <= min(runs.TOGETHER, -(-sum(map(len, groups)) // workers))
        else:
            assert {len(group) for group in groups} == {1}


def test_levels_are_spread_only_where_workers_would_be_idle(tiny: Fields) -> None:
    trials = study.parse({**pruned(tiny, "random", levels=6), "seeds": [0, 1]}).trials
    assert [t.levels for (t,) in spread(trials, 3)] == [None, None]
    assert [t.levels for (t,) in spread(trials, 4)] == [(0, 1, 3, 5), (0, 2, 4, 6)] * 2
    assert [t.levels for (t,) in spread(trials, 100)] == [(0, level) for level in range(1, 7)] * 2
    (group,) = spread(trials, 1, together=True)
    assert len(group) == 12  # a GPU has room for more than a core


def test_the_longest_ladder_comes_first_and_equal_ones_do_not_begin_alike(
    tiny: Fields, finished: Path, tmp_path: Path
) -> None:
    grid = {"pruning.criterion": CRITERIA, "noise.rate": [0.2, 0.4]}
    trials = list(study.parse({**tiny, "grid": grid, "seeds": [0, 1]}).trials)
    deep = trial({**tiny, "recipe": {"epochs": 5}, "pruning": {"levels": 2}})
    store = Store(finished)
    begun = trial(tiny)
    assert store.missing(begun) == 0
    for seed in range(5):
        todo = [deep, *trials]
        random.Random(seed).shuffle(todo)
        todo.sort(key=runs.order(todo, store))
        assert todo[0] == deep  # 3 levels of 5 epochs before 4 of one
        assert todo[-1] == begun
        costs = [store.missing(t) * t.recipe.epochs for t in todo]
        assert costs == sorted(costs, reverse=True)
    for seed in range(6):
        random.Random(seed).shuffle(trials)
        if seed == 0:  # the worst order: all that share a training one after the other
            trials.sort(key=lambda t: canonical_json(t.dense()))
        trials.sort(key=runs.order(trials, Store(tmp_path)))
        dense = [canonical_json(t.dense()) for t in trials]
        assert seed or not any(a == b for a, b in pairwise(dense))
        assert [len(set(dense[start : start + 4])) for start in range(0, 12, 4)] == [4, 4, 4]


# -- notes on the side


def test_hints_and_facts_are_not_waited_for(
    tiny: Fields, train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: dict[int, Path] = {}
    synced: list[Path] = []
    fsync, opened = disk.os.fsync, disk.os.open

    def remember(path: Any, *rest: Any, **more: Any) -> int:
        handle = opened(path, *rest, **more)
        places[handle] = Path(path)
        return handle

    monkeypatch.setattr(disk.os, "open", remember)
    monkeypatch.setattr(disk.os, "fsync", lambda handle: (synced.append(places[handle]), fsync(handle))[1])
    disk.write(tmp_path / "a" / "lasting", b"1", tmp_path / "tmp")
    assert [p for p in synced if p.parent == tmp_path / "tmp"]
    assert synced[-1] == tmp_path / "a"
    disk.make_folder(tmp_path / "b")
    synced.clear()
    disk.write(tmp_path / "b" / "fleeting", b"2", tmp_path / "tmp", durable=False)
    assert synced == []
    assert disk.read(tmp_path / "b" / "fleeting") == b"2"
    assert not list((tmp_path / "tmp").iterdir())

    store = Store(tmp_path / "runs")
    train(pruned(tiny, "magnitude", levels=1), store.folder)
    synced.clear()
    store.put_hint("ab" * 32, "0" * 16, 3)
    store.put_facts("0" * 16, 3, {"seconds": 1.5})
    for place in ("hints", "facts"):
        assert sum(path.is_file() for path in (store.folder / place).rglob("*")) == 3
    assert synced  # folders that were made for them; but no file
    assert not [path for path in synced if path.is_file() or path.parent.name == "tmp"]


def test_the_first_hint_stands(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.hinted("ab" * 32) is None
    store.put_hint("ab" * 32, "0" * 16, 3)
    store.put_hint("ab" * 32, "1" * 16, 4)
    assert store._hint_path("ab" * 32).read_text() == f"{'0' * 16} 3"
    assert store.hinted("ab" * 32) is None  # no such record
