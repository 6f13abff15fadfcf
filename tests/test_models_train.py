"""Every architecture goes down the ladder: interrupted and resumed, without its dead channels, with native layers."""

# N examples, C channels, H height, W width.

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from campaign import tree
from prunephase import runs, study
from prunephase.data import Dataset, Split
from prunephase.engine import Job, Moment
from prunephase.engine.channels import living
from prunephase.engine.native.build import library
from prunephase.engine.plain import Plain
from prunephase.engine.team import NOTHING, Patched, team
from prunephase.events import EpochDone
from prunephase.models import build
from prunephase.prune import leaked, prunable, zero_pruned
from prunephase.sections import MODELS, Model, Pruning, Recipe

K, SHAPE = 3, (3, 16, 16)
KWARGS: dict[str, dict[str, Any]] = {
    "lenet-300-100": {},
    "mlp": {"widths": [9]},
    "small-cnn": {"channels": [4, 5]},
    "resnet18": {"width": 4},
    "resnet101": {"width": 2},
    "vgg-like": {"delta": 3, "gamma": 2},
    "vgg16": {"width": 4},
    "vit": {"dim": 16, "depth": 2, "heads": 2, "mlp_dim": 12},
}
CASES = [*KWARGS.items(), ("resnet18", {"width": 4, "max_pool": True})]


def test_every_architecture_is_here() -> None:
    assert set(KWARGS) == set(MODELS)


# Through `run`


class Interrupted(Exception):
    """Stands for Ctrl-C."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny images as an npz file."""
    draw, path = np.random.default_rng(0), tmp_path_factory.mktemp("images") / "images.npz"
    pixels, labels = draw.integers(0, 256, (56, *SHAPE), dtype=np.uint8), np.arange(56) % K
    np.savez(path, x_train=pixels[:40], y_train=labels[:40], x_test=pixels[40:], y_test=labels[40:])
    return path


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_a_resumed_ladder_is_byte_for_byte_an_uninterrupted_one(
    name: str, kwargs: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    fields = {
        "name": "tiny",
        "seeds": [0],
        "data": {"source": "npz", "path": str(images), "validation": 0.2},
        "noise": {"kind": "symmetric-flip", "rate": 0.2},
        "model": {"name": name, "kwargs": kwargs, "init": "he-code" if name == "vgg16" else "default"},
        "recipe": {"epochs": 1, "batch_size": 16, "lr": 0.01, "momentum": 0.9},
        "pruning": {"levels": 2, "fraction": 0.7},
        "restart": {"to": "1it"},
    }
    tiny = study.parse(fields)

    def interrupt(_trial: object, event: object) -> None:
        if isinstance(event, EpochDone) and (event.level, event.epoch) == (2, 1):
            raise Interrupted

    with pytest.raises(Interrupted):
        runs.train(tiny, tmp_path / "broken", workers=1, observe=interrupt)
    before = tree(tmp_path / "broken")
    assert runs.train(tiny, tmp_path / "broken", workers=1).code == 0
    assert before.items() < tree(tmp_path / "broken").items()
    assert runs.train(tiny, tmp_path / "whole", workers=1).code == 0
    assert tree(tmp_path / "broken") == tree(tmp_path / "whole")


# Beside the plain loop


def job(name: str, kwargs: dict[str, Any], dtype: torch.dtype = torch.float32) -> Job:
    """A pruned network: nine tenths of its weights live, and nothing reads channel 1 of any layer."""
    network = build(Model(name=name, kwargs=kwargs), SHAPE, K, 0).to(dtype)
    draw = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(w.shape, generator=draw) < 0.9 for n, w in prunable(network, Pruning())[0].items()}
    for key, mask in masks.items():
        places = {"vgg-like": 7 * 7, "small-cnn": 4 * 4}.get(name, 1) if key == "output.weight" else 1
        mask[:, places : 2 * places] = False  # behind a flatten a channel is as many columns as it had places
    zero_pruned(network, masks)
    data = Dataset(split(24, 1, dtype), None, split(10, 2, dtype), ("a", "b", "c"), "")
    recipe = Recipe(epochs=2, batch_size=12, lr=0.01, momentum=0.9, weight_decay=1e-4)
    return Job(network, data, recipe, 0, 1, masks)


def split(count: int, seed: int, dtype: torch.dtype) -> Split:
    draw = torch.Generator().manual_seed(seed)
    inputs, labels = torch.randn(count, *SHAPE, generator=draw), torch.randint(K, (count,), generator=draw)
    return Split(inputs.to(dtype), labels, labels, torch.zeros(count, dtype=torch.bool), torch.arange(count))


def flat(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def follow(ours: Plain, theirs: Plain) -> float:
    """Train both ways; how far apart they end, as a share of the way they went. Leaks and lost losses are failures."""
    start = flat(theirs.job.network)
    for (mine,), (other,) in zip(ours.moments(), theirs.moments(), strict=True):
        assert isinstance(mine, Moment)
        assert isinstance(other, Moment)
        assert mine.running_loss == pytest.approx(other.running_loss, rel=1e-5)
    assert leaked(ours.job.network, ours.job.masks) == 0
    mine, other = flat(ours.job.network), flat(theirs.job.network)
    return float((mine - other).norm() / (other - start).norm())


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_left_without_its_dead_channels_it_trains_as_in_the_plain_loop(name: str, kwargs: dict[str, Any]) -> None:
    ours, theirs = job(name, kwargs, torch.float64), job(name, kwargs, torch.float64)
    found = living(ours.network, ours.masks, ours.data.train.inputs[:2])
    inner = sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in ours.network.modules()) - 1
    if name == "vit":  # attention and norms read all of their channels
        assert found == NOTHING
    else:
        assert found.dead >= inner
        assert found.saved > 0
    # In double precision: a hundred layers of BatchNorm turn one rounding of float32 into another network.
    assert follow(Patched(ours, [], found), Plain(theirs)) < 1e-5
    x = ours.data.test.inputs
    torch.testing.assert_close(ours.network.eval()(x), theirs.network.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(library() is None, reason="no C compiler")
@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_a_step_with_native_linear_layers_is_that_of_the_plain_loop(name: str, kwargs: dict[str, Any]) -> None:
    once = Recipe(epochs=1, batch_size=24, lr=0.01)
    ours, theirs = (replace(job(name, kwargs), recipe=once) for _ in range(2))
    names = [n for n, m in ours.network.named_modules() if type(m) is nn.Linear]
    assert follow(Patched(ours, names), Plain(theirs)) < 1e-4


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_in_bfloat16_it_trains_and_repeats(name: str, kwargs: dict[str, Any]) -> None:
    found = []
    for _ in range(2):
        one = job(name, kwargs)
        recipe = one.recipe.model_copy(update={"precision": "bfloat16"})
        together = team([replace(one, recipe=recipe)])
        losses = [m.running_loss for (m,) in together.moments() if isinstance(m, Moment)]
        found.append((losses, [p.detach().clone() for p in one.network.parameters()]))
    (first, weights), (again, others) = found
    assert len(first) == 2
    assert first == again
    assert all(torch.equal(p, q) for p, q in zip(weights, others, strict=True))
