"""Re-dense training: the sparse network with all its weights back, trained on, against torch's own loop."""

from __future__ import annotations

import copy
import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from prunephase import streams
from prunephase.measure import METRICS, evaluate
from prunephase.measure.redense import redense
from prunephase.snapshot import Snapshot
from snapshots import MOODY, Moody, mlp, snapshot, untouched

STEP = {"epochs": 4, "schedule": "step", "milestones": (2,), "lr": 0.2, "momentum": 0.9, "weight_decay": 1e-3}


def by_hand(seen: Snapshot, epochs: int, lr: float) -> nn.Module:
    """All weights trained by torch.optim.SGD, fresh, on the batches of the epochs after the recipe's."""
    network, recipe, train = copy.deepcopy(seen.network).train(), seen.trial.recipe, seen.data.train
    sgd = torch.optim.SGD(network.parameters(), lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    for epoch in range(recipe.epochs, recipe.epochs + epochs):
        order = streams.generator(seen.trial.seed, "order", seen.level, epoch).permutation(len(train))
        for chosen in torch.from_numpy(order).split(recipe.batch_size):  # type: ignore[no-untyped-call]
            sgd.zero_grad()
            cross_entropy(network(train.inputs[chosen]), train.labels[chosen]).backward()  # type: ignore[no-untyped-call]
            sgd.step()
    return network


@pytest.mark.parametrize("recipe", [{}, STEP])
def test_it_is_torchs_own_training_of_all_weights_at_the_last_rate(recipe: dict[str, Any]) -> None:
    seen = snapshot(mlp(), recipe=recipe)
    found = redense(seen)
    epochs, lr = (4, 0.2 * 0.1) if recipe else (2, 0.1)
    expected = by_hand(seen, epochs, lr)
    for name, value in expected.state_dict().items():
        assert found.arrays[name] == pytest.approx(value.numpy(), rel=1e-4, abs=1e-6), name
    assert found.rows[0]["lr"] == pytest.approx(lr)
    assert [row["part"] for row in found.rows] == ["network", *(f"epoch {i}" for i in range(epochs + 1))]
    truth = evaluate(expected, seen.data)
    for name in METRICS:
        assert found.rows[0][name] == found.rows[-1][name] == pytest.approx(truth[name], rel=1e-4), name


def test_it_begins_as_the_sparse_network_and_brings_pruned_weights_back() -> None:
    seen = snapshot(mlp())
    found = redense(seen)
    assert {name: found.rows[1][name] for name in METRICS} == evaluate(seen.network, seen.data)
    for name, mask in seen.masks.items():
        assert (found.arrays[name][~mask.numpy()] != 0).mean() > 0.5
    headline, first, last = found.rows[0], found.rows[1], found.rows[-1]
    for subset in ("train", "permuted", "unpermuted", "restored", "test"):
        name = f"{subset}_accuracy"
        assert headline[f"{name}_gain"] == last[name] - first[name]  # type: ignore[operator]
    alone = replace(seen, data=replace(seen.data, validation=None))
    assert redense(alone, epochs=1).rows[0]["validation_accuracy_gain"] is None
    assert headline["diverged"] is False


def test_a_longer_training_begins_with_the_shorter_one_and_every_number_can_be_had_again() -> None:
    seen = snapshot(Moody(), shape=MOODY)  # its dropout draws follow the epochs too
    short, long, again = redense(seen, epochs=1), redense(seen, epochs=2), redense(seen, epochs=1)
    assert short.rows[1:] == long.rows[1:3]
    assert short.rows == again.rows
    assert all((short.arrays[name] == again.arrays[name]).all() for name in short.arrays)


def test_the_rate_and_the_length_can_be_chosen() -> None:
    seen = snapshot(mlp())
    found = redense(seen, epochs=3, lr=1e-9)
    assert (found.rows[0]["epochs"], found.rows[0]["lr"], len(found.rows)) == (3, 1e-9, 5)
    for name, value in seen.network.state_dict().items():
        assert found.arrays[name] == pytest.approx(value.numpy(), abs=1e-6)


def test_its_batches_are_not_those_of_the_sparse_phase() -> None:
    seen = snapshot(mlp(), recipe={"epochs": 3})
    used: list[tuple[Any, ...]] = []
    original = streams.generator

    def listen(seed: int, purpose: Any, *where: int | str) -> Any:
        used.append((seed, purpose, *where))
        return original(seed, purpose, *where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "generator", listen)
        redense(seen)
    assert [name for name in used if name[1] == "order"] == [(4, "order", 3, epoch) for epoch in (3, 4, 5)]


def test_it_is_trained_by_the_engines_fastest_way_as_a_dense_level(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, module = [], importlib.import_module("prunephase.measure.redense")
    original = module.team

    def listen(jobs: Any) -> Any:
        asked.append(jobs)
        return original(jobs)

    monkeypatch.setattr(module, "team", listen)
    seen = snapshot(mlp())
    found = redense(seen)
    ((job,),) = asked
    assert job.masks.keys() == seen.masks.keys()
    assert all(mask.all() for mask in job.masks.values())
    assert found.rows[0]["strategy"] == original([job]).strategy


@pytest.mark.parametrize("batch_size", [32, 300])  # 300: in the only step of an epoch, after its finite loss
def test_a_training_that_diverges_says_so(batch_size: int) -> None:
    headline, *rows = (found := redense(snapshot(mlp(), recipe={"batch_size": batch_size}), lr=1e30)).rows
    assert headline["diverged"] is True
    assert headline["train_loss"] is headline["test_accuracy_gain"] is None
    assert [row["part"] for row in rows] == ["epoch 0"]
    assert not found.arrays


def test_the_network_that_is_looked_at_is_left_alone() -> None:
    for seen in (snapshot(Moody(), shape=MOODY), snapshot(mlp())):
        with untouched(seen):
            found = redense(seen)
        copy.deepcopy(seen.network).load_state_dict({k: torch.from_numpy(v) for k, v in found.arrays.items()})
