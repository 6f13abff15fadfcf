"""The native chain: what the plain loop gives, up to rounding; and the same bytes every time."""

# N examples, F features, K classes.

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunephase import models
from prunephase.antidotes import (
    Distilled,
    GeneralisedCrossEntropy,
    Remembered,
    Smoothed,
    SymmetricCrossEntropy,
    Tethered,
)
from prunephase.data import Codes, Dataset, Split
from prunephase.engine import Diverged, Job, Moment, Objective, cross_entropy, guesses
from prunephase.engine.native.build import library
from prunephase.engine.native.chain import Chain
from prunephase.engine.plain import Plain
from prunephase.sections import Model, Recipe

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler")

K = 10


@cache
def images(count: int, features: int = 784, seed: int = 0, shifts: bool = False) -> Split:
    """Bytes like those of handwritten digits: inputs that never, seldom, often and always have ink."""
    random = np.random.default_rng(seed)
    ink = np.random.default_rng(1).choice([0, 0.002, 0.02, 0.2, 1], features)
    values = (random.integers(0, 256, (count, features)) * (random.random((count, features)) < ink)).astype(np.uint8)
    scale, shift = np.full(features, 1 / 78.5, np.float32), np.full(features, -0.42, np.float32)
    if shifts:
        shift += np.arange(features, dtype=np.float32) / features
    labels = torch.from_numpy(random.integers(0, K, count))
    return Split(
        inputs=torch.from_numpy(values * scale + shift),
        labels=labels,
        truth=labels,
        permuted=torch.zeros(count, dtype=torch.bool),
        index=torch.arange(count),
        codes=Codes(*(torch.from_numpy(array) for array in (values, scale, shift))),
    )


def dataset(train: Split, test: Split | None = None) -> Dataset:
    return Dataset(train, None, test or train, tuple("0123456789"), "")


def masks_of(net: nn.Module, sparsity: float, seed: int = 0) -> dict[str, Tensor]:
    """Random masks of all matrices; pruned weights are set to zero in `net`."""
    draw = torch.Generator().manual_seed(seed)
    masks = {n: torch.rand(p.shape, generator=draw) >= sparsity for n, p in net.named_parameters() if p.ndim > 1}
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(mask)
    return masks


def job(net: nn.Module, data: Dataset, recipe: Recipe, masks: dict[str, Tensor], **more: Any) -> Job:
    return Job(net, data, recipe, **{"seed": 3, "level": 1, "masks": masks, **more})


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def both(a: Job) -> tuple[Job, Job, list[Any], list[Any], Chain]:
    """The job trained by the plain loop and by the chain; their moments, and the chain."""
    b = replace(a, network=copy.deepcopy(a.network))
    chain = Chain(b)
    return a, b, [m for (m,) in Plain(a).moments()], [m for (m,) in chain.moments()], chain


def distance(a: nn.Module, b: nn.Module) -> float:
    return float((flat(a) - flat(b)).norm() / flat(a).norm())


RECIPES = {
    "sgd": Recipe(lr=0.1, epochs=1),
    "momentum": Recipe(lr=0.05, momentum=0.9, weight_decay=1e-3, epochs=1),
    "adamw": Recipe(lr=1e-3, weight_decay=1e-2, optimizer="adamw", epochs=1),
}


@pytest.mark.parametrize(
    ("kind", "sparsity"),
    [("sgd", s) for s in (0, 0.36, 0.79, 0.89, 0.95, 0.99, 0.995)]
    + [(kind, s) for kind in ("momentum", "adamw") for s in (0, 0.79, 0.99)],
)
def test_twenty_steps_of_lenet_are_those_of_the_plain_loop(kind: str, sparsity: float) -> None:
    data = dataset(images(20 * 128 - 32), images(200, seed=9))
    distances = []
    for seed in range(3):
        net = models.build(Model(), (784,), K, seed=seed)
        masks = masks_of(net, sparsity, seed)
        a, b, expected, found, chain = both(job(net, data, RECIPES[kind], masks))
        distances.append(distance(a.network, b.network))
        assert found[-1].running_loss == pytest.approx(expected[-1].running_loss, rel=1e-3)
        assert all(torch.equal(b.network.get_parameter(n) != 0, mask) for n, mask in masks.items())
        for name, (loss, classes) in chain.guesses()[0].items():
            exact, same = guesses(b.network, data)[name]
            assert loss == pytest.approx(exact, rel=1e-6)
            assert (classes != same).float().mean() < 1e-3
    # Between any two float32 programs a ReLU flips at rounding level, in about one run of ten, and moves it by 1e-4
    # (AdamW: a gradient that all but cancels does the same). A fault of ours would be in every run.
    assert min(distances) < 1e-6
    assert max(distances) < 1e-2


def chained(widths: list[int], bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1], bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("source", ["bytes", "bytes of unlike shift", "floats"])
@pytest.mark.parametrize(
    ("widths", "batch", "sparsity"),
    [
        ([784, K], 128, 0.5),
        ([1, 1, K], 7, 0.0),
        ([5, 3, 17, K], 1, 0.3),
        ([17, 40, K], 60, 0.0),
        ([16, 9, K], 33, 0.9),
        ([70, 300, 1, 20, K], 129, 0.8),
        ([130, 65, K], 1000, 0.0),
        ([784, 33, K], 1000, 0.97),
        ([200, 30, 30, 30, 30, K], 96, 0.6),
        ([20, 15, K], 128, 1.0),
    ],
)
def test_any_shape_trains_as_in_the_plain_loop(source: str, widths: list[int], batch: int, sparsity: float) -> None:
    split = images(520, widths[0], shifts="unlike" in source)
    data = dataset(
        split if "bytes" in source else replace(split, codes=None), images(77, widths[0], shifts="unlike" in source)
    )
    if source == "floats":
        data = replace(data, test=replace(data.test, codes=None))
    net = chained(widths, bias=len(widths) != 4)
    masks = masks_of(net, sparsity)
    recipe = Recipe(lr=0.02, momentum=0.9, weight_decay=0.01, batch_size=batch, epochs=1)
    a, b, expected, found, chain = both(job(net, data, recipe, masks))
    assert distance(a.network, b.network) < 3e-6
    assert found[-1].running_loss == pytest.approx(expected[-1].running_loss, rel=1e-5)
    for name, (loss, classes) in chain.guesses()[0].items():
        exact, same = guesses(b.network, data)[name]
        assert loss == pytest.approx(exact, rel=1e-5)
        assert torch.equal(classes, same)


def objectives(net: nn.Module, count: int) -> dict[str, Objective]:
    taught = Remembered(5 * torch.randn(count, K, generator=torch.Generator().manual_seed(0)))
    return {
        "taught": Distilled(taught, 0.8, 10.0),
        "taught against the labels": Distilled(taught, 1.3, 2.0),
        "smoothed": Smoothed(0.1),
        "generalised": GeneralisedCrossEntropy(0.7),
        "symmetric": SymmetricCrossEntropy(0.1, 1.0),
        "tethered": Tethered.to(net, 0.1),
    }


@pytest.mark.parametrize("sparsity", [0, 0.79, 0.99])
@pytest.mark.parametrize("batch", [128, 200])  # of one tile, and of several
@pytest.mark.parametrize("name", objectives(nn.Linear(1, 1), 1))
def test_twenty_steps_for_an_antidote_are_those_of_the_plain_loop(name: str, batch: int, sparsity: float) -> None:
    count = 20 * batch - 32
    data, recipe = dataset(images(count), images(200, seed=9)), Recipe(lr=0.1, epochs=1, batch_size=batch)
    distances = []
    for seed in range(3):
        net = models.build(Model(), (784,), K, seed=seed)
        masks = masks_of(net, sparsity, seed)
        goal = objectives(net, count)[name]
        a, b, expected, found, _ = both(job(net, data, recipe, masks, objective=goal))
        distances.append(distance(a.network, b.network))
        assert found[-1].running_loss == pytest.approx(expected[-1].running_loss, rel=1e-3)
    assert min(distances) < 1e-6  # see above
    assert max(distances) < 1e-2


def test_rows_and_layers_without_masks_or_weights_train_as_in_the_plain_loop() -> None:
    net = chained([40, 30, 20, K])
    masks = masks_of(net, 0.5)
    del masks["3.weight"]
    masks["1.weight"][[0, 7, 29]] = False
    masks["1.weight"][:, :20] = False
    masks["5.weight"][:, 3] = False
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(mask)
    a, b, *_ = both(job(net, dataset(images(300, 40)), RECIPES["momentum"], masks))
    assert distance(a.network, b.network) < 1e-6


def small(**fields: Any) -> tuple[Job, Job]:
    net = chained([30, 12, K])
    masks = masks_of(net, 0.5)
    recipe = Recipe(**{"lr": 0.1, "epochs": 4, "batch_size": 16, **fields.pop("recipe", {})})
    a = job(net, dataset(images(70, 30)), recipe, masks, **fields)
    return a, replace(a, network=copy.deepcopy(net))


@pytest.mark.parametrize(
    "fields",
    [
        {"begin": 7},
        {"begin": 10, "recipe": {"schedule": "step", "milestones": (3,)}},
        {"pause_at": 3},
        {"pause_at": 5},
        {"begin": 2, "pause_at": 8, "recipe": {"schedule": "cosine", "momentum": 0.9}},
        {"begin": 6, "pause_at": 5},
        {"lr": 0.03, "recipe": {"optimizer": "adamw", "momentum": 0.0, "weight_decay": 0.1}},
    ],
)
def test_moments_come_when_the_plain_loop_has_them(fields: dict[str, Any]) -> None:
    a, b = small(**fields)
    for (expected,), (found,) in zip(Plain(a).moments(), Chain(b).moments(), strict=True):
        assert isinstance(expected, Moment)
        assert isinstance(found, Moment)
        assert replace(found, running_loss=None) == replace(expected, running_loss=None)
        assert found.running_loss == (expected.running_loss and pytest.approx(expected.running_loss, rel=1e-5))
        assert distance(a.network, b.network) < 1e-6
        assert a.network.training == b.network.training


def test_divergence_is_found_where_the_plain_loop_finds_it() -> None:
    a, b = small(lr=1e30)
    ((expected,),), ((found,),) = list(Plain(a).moments()), list(Chain(b).moments())
    assert isinstance(expected, Diverged)
    assert isinstance(found, Diverged)
    assert (found.epoch, found.step) == (expected.epoch, expected.step)


def test_a_network_of_nan_guesses_as_torch_does() -> None:
    a, _ = small()
    with torch.no_grad():
        a.network.get_parameter("3.bias")[4] = float("nan")
    for name, (loss, classes) in Chain(a).guesses()[0].items():
        assert loss is None
        assert torch.equal(classes, guesses(a.network, a.data)[name][1])


def test_equal_jobs_give_equal_bytes_wherever_the_data_lie() -> None:
    first, second = small()
    values = first.data.train.codes
    assert values is not None
    moved = torch.empty(values.values.numel() + 13, dtype=torch.uint8)[13:].view_as(values.values)
    moved.copy_(values.values)
    train = replace(first.data.train, codes=replace(values, values=moved))
    list(Chain(first).moments())
    list(Chain(replace(second, data=dataset(train))).moments())
    assert torch.equal(flat(first.network), flat(second.network))


def test_a_run_resumed_at_an_epoch_gives_the_same_bytes() -> None:
    whole, parts = small()
    list(Chain(whole).moments())
    for epoch, _ in zip(range(2), Chain(parts).moments(), strict=False):
        assert epoch < 2
    list(Chain(replace(parts, begin=10)).moments())
    assert torch.equal(flat(whole.network), flat(parts.network))


def test_the_data_are_not_written() -> None:
    a, _ = small()
    codes = a.data.train.codes
    assert codes is not None
    before = [t.clone() for t in (codes.values, a.data.train.labels, a.data.train.inputs)]
    chain = Chain(a)
    list(chain.moments())
    chain.guesses()
    assert all(
        torch.equal(x, y) for x, y in zip(before, (codes.values, a.data.train.labels, a.data.train.inputs), strict=True)
    )


def test_what_fits_is_a_plain_chain() -> None:
    a, _ = small()
    nested = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(30, 12), nn.ReLU()), nn.Linear(12, K))
    assert Chain.fits(a)
    assert Chain.fits(replace(a, network=nested, masks={}))
    assert Chain.fits(replace(a, network=models.build(Model(), (1, 5, 6), K, seed=0), masks={}))


def altered(change: Callable[[nn.Module], object]) -> nn.Module:
    net = chained([30, 12, K])
    change(net)
    return net


def share(net: nn.Module) -> None:
    net.get_submodule("3").bias = nn.Parameter(torch.zeros(K))
    net.get_submodule("1").weight = nn.Parameter(torch.zeros(12, 30))
    net.insert(3, nn.Linear(12, 12))
    net.insert(4, nn.ReLU())
    net.get_submodule("5").weight = nn.Parameter(net.get_submodule("3").weight.data[:K])


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.append(nn.Dropout(0.1)),
        lambda net: net.append(nn.ReLU()),
        lambda net: net.insert(2, nn.BatchNorm1d(12)),
        lambda net: net.double(),
        lambda net: net.get_parameter("1.bias").requires_grad_(False),
        lambda net: net.get_submodule("1").register_forward_hook(print),
        lambda net: net.register_forward_pre_hook(print),
        lambda net: net.get_parameter("1.weight").register_hook(print),
        lambda net: nn.utils.parametrizations.weight_norm(net.get_submodule("1")),
        lambda net: setattr(net.get_submodule("2"), "forward", torch.tanh),
        share,
    ],
)
def test_a_network_that_does_something_else_does_not_fit(change: Callable[[nn.Module], object]) -> None:
    a, _ = small()
    assert not Chain.fits(replace(a, network=altered(change), masks={}))


def test_a_job_that_asks_for_something_else_does_not_fit() -> None:
    a, _ = small()
    train = a.data.train
    assert not Chain.fits(replace(a, objective=lambda batch: 2 * cross_entropy(batch)))
    assert not Chain.fits(replace(a, masks={"1.bias": torch.ones(12, dtype=torch.bool)}))
    assert not Chain.fits(replace(a, recipe=Recipe(augment=("flip",))))
    assert not Chain.fits(replace(a, recipe=Recipe(decay_by={"*.bias": 0.0})))
    assert not Chain.fits(replace(a, data=dataset(replace(train, labels=train.labels + K))))
    assert not Chain.fits(replace(a, data=dataset(replace(train, codes=None, inputs=train.inputs.double()))))
    assert not Chain.fits(replace(a, data=dataset(train, replace(train, codes=None))))
    assert not Chain.fits(replace(a, data=dataset(train, images(20, 30, shifts=True))))
    assert not Chain.fits(replace(a, network=models.build(Model(name="small-cnn"), (1, 5, 6), K, seed=0), masks={}))
