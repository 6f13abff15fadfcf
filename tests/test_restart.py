"""Restarts: what each level begins from, in real ladders on scikit-learn's digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunephase as pp
from prunephase import models, restart, runs, tensors
from prunephase.data import load
from prunephase.engine import Job, rates, team
from prunephase.noise import corrupt
from prunephase.sections import Restart
from prunephase.store import Record, Store
from prunephase.trial import Trial

LEVELS, STEPS = 3, 4  # 200 examples in batches of 64
Weights = dict[str, Tensor]


def with_norm(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A user's network: BatchNorm has weights, statistics and a counter that a rewind must bring back."""
    depth, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(depth, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * height * width, classes),
    )


def trial(model: str = "test_restart:with_norm", pruning: dict[str, Any] | None = None, **fields: Any) -> Trial:
    return Trial.model_validate(
        {
            "data": {"train": 200},
            "noise": {"kind": "symmetric-flip", "rate": 0.2},
            "model": {"name": model},
            "recipe": {"epochs": 2, "batch_size": 64, "momentum": 0.9, "schedule": "step", "milestones": [1]},
            "pruning": {"levels": LEVELS, "fraction": 0.4, **(pruning or {})},
            "restart": fields,
        }
    )


class Ladder:
    """What the store holds of a finished trial, level by level."""

    def __init__(self, store: Store, of: Trial) -> None:
        self.store, self.trial = store, of
        self.records: list[Record] = store.levels(of)
        assert len(self.records) == LEVELS + 1
        assert all(r.body["status"] == "ok" for r in self.records)

    def masks(self, level: int) -> dict[str, Tensor]:
        return tensors.unpack_masks(self.store.blob(self.records[level].body["blobs"]["masks"]))

    def final(self, level: int) -> Weights:
        data = self.store.blob(self.records[level].body["blobs"]["weights"])
        return tensors.unpack_weights(data, self.masks(level))

    def dense(self, kind: str) -> Weights:
        return tensors.unpack_weights(self.store.blob(self.records[0].body["blobs"][kind]), {})

    def begins_with(self, level: int, weights: Weights) -> bool:
        """Whether the level began from `weights`, with its mask on them, bit for bit."""
        masked = {
            n: torch.where(self.masks(level)[n], w, 0.0) if n in self.masks(level) else w for n, w in weights.items()
        }
        return bool(self.records[level].body["start"]["weights"] == tensors.digest(masked))

    def step(self, level: int) -> int:
        return int(self.records[level].body["start"]["step"])

    def column(self, level: int, name: str) -> list[Any]:
        return list(self.records[level].body["epochs"][name])


@pytest.fixture(scope="module")
def ladders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trains a trial once, in this process, however many tests look at it."""
    folder: Path = tmp_path_factory.mktemp("runs")

    known: dict[str, Ladder] = {}

    def of(t: Trial) -> Ladder:
        if t.digest() not in known:
            table = runs.run([t], folder, workers=1, plugins=["test_restart"])
            assert table["level"].to_list() == list(range(LEVELS + 1))
            known[t.digest()] = Ladder(Store(folder), t)
        return known[t.digest()]

    return of


def retrained(t: Trial, start: Weights, level: int, masks: dict[str, Tensor], until: int, **kwargs: Any) -> Weights:
    """The weights that the engine makes of `start` by step `until`, outside of any ladder."""
    data, _ = corrupt(load(t.data), t.noise, source=t.data.source, seed=t.seed)
    network = models.build(t.model, data.input_shape, 10, t.seed, plugins={"test_restart"})
    network.load_state_dict(start)
    job = Job(network, data, t.recipe, t.seed, level, masks, pause_at=until, **kwargs)
    for (moment,) in team([job]).moments():
        if moment.step == until:
            break
    return dict(network.state_dict())


def same(a: Weights, b: Weights) -> bool:
    return tensors.digest(a) == tensors.digest(b)


@pytest.mark.parametrize(("to", "step"), [("0it", 0), ("3it", 3), ("1ep", 4), ("6it", 6), ("0ep", 0)])
def test_rewind_begins_every_level_from_the_dense_weights_of_that_step_batchnorm_included(
    ladders: Any, to: str, step: int
) -> None:
    t = trial(to=to)
    ladder = ladders(t)
    expected = ladder.dense("initial")
    assert same(
        expected,
        dict(models.build(t.model, (1, 8, 8), 10, 0, plugins={"test_restart"}).state_dict()),
    )
    if step:
        full = {n: torch.ones_like(m) for n, m in ladder.masks(0).items()}
        expected = retrained(t, ladder.dense("initial"), 0, full, step)
        assert int(expected["1.num_batches_tracked"]) == step
    assert same(ladder.dense("rewound"), expected)
    for level in range(1, LEVELS + 1):
        assert ladder.begins_with(level, expected)
        assert ladder.step(level) == step
        assert not ladder.begins_with(level, ladder.final(level - 1))
        assert ladder.column(level, "epoch") == list(range(step // STEPS + 1, 3))
        assert ladder.column(level, "lr") == rates(t.recipe)[step // STEPS :]


def test_a_rewound_level_is_what_fit_makes_of_its_start(ladders: Any) -> None:
    t = trial(to="3it")
    ladder = ladders(t)
    masks = ladder.masks(2)
    start = {n: torch.where(masks[n], w, 0.0) if n in masks else w for n, w in ladder.dense("rewound").items()}
    assert same(retrained(t, start, 2, masks, 8, begin=3), ladder.final(2))


@pytest.mark.parametrize(("lr", "rate"), [(None, 0.01), (0.003, 0.003)])
def test_finetune_goes_on_from_the_final_weights_at_a_constant_rate_for_a_full_schedule(
    ladders: Any, lr: float | None, rate: float
) -> None:
    ladder = ladders(trial(mode="finetune", lr=lr))
    assert ladder.column(0, "lr") == pytest.approx([0.1, 0.01])
    for level in range(1, LEVELS + 1):
        assert ladder.begins_with(level, ladder.final(level - 1))
        assert ladder.step(level) == 0
        assert ladder.column(level, "lr") == pytest.approx([rate, rate])


@pytest.mark.parametrize(("to", "step"), [("0it", 0), ("1ep", 4), ("5it", 5)])
def test_lr_rewind_keeps_the_final_weights_and_rewinds_the_schedule_alone(ladders: Any, to: str, step: int) -> None:
    ladder = ladders(trial(mode="lr-rewind", to=to))
    for level in range(1, LEVELS + 1):
        assert ladder.begins_with(level, ladder.final(level - 1))
        assert ladder.step(level) == step
        assert ladder.column(level, "lr") == pytest.approx([0.1, 0.01][step // STEPS :])


def test_scratch_draws_new_weights_for_every_level_and_runs_the_full_schedule(ladders: Any) -> None:
    t = trial(mode="scratch")
    ladder = ladders(t)
    starts = [ladder.dense("initial")]
    for level in range(1, LEVELS + 1):
        fresh = models.build(t.model, (1, 8, 8), 10, 0, "level", level, plugins={"test_restart"})
        starts.append(dict(fresh.state_dict()))
        assert ladder.begins_with(level, starts[-1])
        assert ladder.step(level) == 0
        assert ladder.column(level, "epoch") == [1, 2]
    assert len({tensors.digest(s) for s in starts}) == LEVELS + 1


@pytest.mark.parametrize(("start_at", "step"), [("start", 0), ("rewind", 5)])
def test_traps_30_and_31_re_init_takes_the_masks_of_the_rewind_ladder_and_says_where_it_begins(
    ladders: Any, start_at: str, step: int
) -> None:
    t = trial(mode="re-init", to="5it", start_at=start_at)
    ladder, source = ladders(t), ladders(trial(to="5it"))
    fresh = dict(models.build(t.model, (1, 8, 8), 10, 0, "re-init", plugins={"test_restart"}).state_dict())
    for level in range(1, LEVELS + 1):
        assert tensors.pack_masks(ladder.masks(level)) == tensors.pack_masks(source.masks(level))
        assert ladder.begins_with(level, fresh)
        assert ladder.step(level) == step
        assert str(step) in ladder.records[level].body["start"]["from"]
        assert ladder.column(level, "epoch") == [1, 2][step // STEPS :]
        assert ladder.column(level, "lr") == pytest.approx([0.1, 0.01][step // STEPS :])
    assert not same(fresh, source.dense("initial"))


def test_one_shot_prunes_the_dense_network_to_every_level_at_once(ladders: Any) -> None:
    ladder = ladders(trial(pruning={"ladder": "one-shot"}, to="2it"))
    dense = ladder.final(0)
    flat = torch.cat([dense[n].abs().flatten() for n in ladder.masks(0)])
    for level in range(1, LEVELS + 1):
        masks = ladder.masks(level)
        keep = sum(int(m.sum()) for m in masks.values())
        expected = torch.zeros(len(flat), dtype=torch.bool)
        expected[flat.argsort(descending=True, stable=True)[:keep]] = True
        assert torch.equal(torch.cat([m.flatten() for m in masks.values()]), expected)
        assert ladder.begins_with(level, ladder.dense("rewound"))
    iterative = ladders(trial(to="2it"))
    counts = [[sum(r.body["layers"][n][0] for n in r.body["layers"]) for r in x.records] for x in (ladder, iterative)]
    assert counts[0] == counts[1]
    assert tensors.pack_masks(ladder.masks(1)) == tensors.pack_masks(iterative.masks(1))
    assert tensors.pack_masks(ladder.masks(3)) != tensors.pack_masks(iterative.masks(3))


def all_tied(snapshot: pp.Snapshot) -> Weights:
    """A criterion that leaves every choice to the order of the weights."""
    return {name: torch.zeros(mask.shape) for name, mask in snapshot.masks.items()}


def test_a_resumed_ladder_decides_ties_as_an_uninterrupted_one(tmp_path: Path) -> None:
    t = trial("test_restart:unsorted", pruning={"criterion": "test_restart:all_tied"})
    runs.run([t], tmp_path, workers=1, plugins=["test_restart"])
    store = Store(tmp_path)
    seals = [record.seal for record in store.levels(t)]
    for attempt in range(4):
        for level in range(1 + attempt % LEVELS, LEVELS + 1):
            store.set_aside(t.digest(), level)
        runs.run([t], tmp_path, workers=1, plugins=["test_restart"])
        assert [record.seal for record in store.levels(t)] == seals
    last = Ladder(store, t).masks(LEVELS)
    assert list(last) == ["z.weight", "m.weight", "b.weight", "a.weight"]
    flat = torch.cat([mask.flatten() for mask in last.values()]).tolist()
    assert flat == sorted(flat, reverse=True)


def unsorted(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A user's network whose layers do not stand in the order of their names."""
    network = nn.Sequential(nn.Flatten())
    widths = {"z": (64, 8), "m": (8, 9), "b": (9, 7), "a": (7, classes)}
    for name, (fan_in, fan_out) in widths.items():
        network.add_module(name, nn.Linear(fan_in, fan_out))
    assert input_shape == (1, 8, 8)
    return network


@pytest.mark.parametrize("model", ["lenet-300-100", "small-cnn"])
@pytest.mark.parametrize("criterion", ["gradient", "random"])
def test_masks_of_a_ladder_are_nested_and_its_weights_live_only_there(ladders: Any, model: str, criterion: str) -> None:
    ladder = ladders(trial(model, pruning={"criterion": criterion}))
    counts = pp.trial.remaining_weights(ladder.records[0].body["prunable"], 0.4, LEVELS)  # type: ignore[attr-defined]
    for level in range(LEVELS + 1):
        body, masks, weights = ladder.records[level].body, ladder.masks(level), ladder.final(level)
        assert body["remaining"] == counts[level] == sum(int(m.sum()) for m in masks.values())
        assert body["sparsity"] == 1 - counts[level] / counts[0]
        assert all(not weights[n][~m].any() for n, m in masks.items())
        if level:
            assert all(not (m & ~ladder.masks(level - 1)[n]).any() for n, m in masks.items())


def test_a_rewind_point_beyond_the_schedule_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(pp.UserError, match=r"restart\.to = '2ep'.* beyond the schedule of 8 steps") as error:
        runs.run([trial("lenet-300-100", to="2ep")], tmp_path / "runs", workers=1)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_model_that_names_code_which_was_not_allowed_is_not_imported(tmp_path: Path) -> None:
    with pytest.raises(pp.UserError, match="--plugins test_restart"):
        runs.run([trial()], tmp_path / "runs", workers=1)


def test_a_diverged_level_ends_its_ladder_keeps_what_was_there_and_says_the_step(tmp_path: Path) -> None:
    bad = trial("lenet-300-100")
    bad = bad.model_copy(update={"recipe": bad.recipe.model_copy(update={"lr": 1e6, "epochs": 20})})
    good = trial("lenet-300-100", pruning={"levels": 0})
    table = runs.run([bad, good], tmp_path, workers=1)
    assert table["status"].to_list() == ["diverged", "ok"]
    body = Store(tmp_path).levels(bad)[0].body
    assert body["diverged"]["step"] >= 1
    assert body["epochs"]["epoch"] == list(range(1, body["diverged"]["epoch"]))
    assert "weights" not in body["blobs"]


@pytest.mark.parametrize(("to", "step"), [("7it", 7), ("2ep", 20), ("0it", 0), ("0ep", 0)])
def test_a_rewind_point_is_a_count_of_steps(to: str, step: int) -> None:
    assert Restart(to=to).iteration(10) == step


def test_only_the_restarts_that_need_new_weights_draw_them() -> None:
    def fresh() -> Weights:
        raise AssertionError("drawn")

    for mode in ("rewind", "finetune", "lr-rewind"):
        spec = Restart.model_validate({"mode": mode})
        assert restart.begin(spec, 5, 0.1, {}, {}, fresh).words
