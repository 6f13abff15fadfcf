"""Which way a level is trained: by what the network is, and said in its record."""

# N examples, C channels, D features, K classes, T tokens.

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from campaign import tree
from prunephase import models, study
from prunephase.data import Dataset, Split
from prunephase.engine import Batch, Job, Moment, cross_entropy, grouped, takeover, team
from prunephase.engine.native.build import library
from prunephase.engine.native.chain import Chain
from prunephase.engine.plain import Plain
from prunephase.engine.team import Patched
from prunephase.prune import leaked, zero_pruned
from prunephase.sections import Model, Recipe
from prunephase.store import Store

N, K, SHAPE = 50, 3, (1, 6, 6)
MODULE = importlib.import_module("prunephase.engine.team")  # its name in the package is that of the function
needs_kernels = pytest.mark.skipif(library() is None, reason="needs a C compiler")


class Mixed(nn.Module):
    """A user's network: a convolution, BatchNorm, dropout, and Linear layers, one of them on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.tokens, self.drop = nn.Linear(36, 24), nn.Dropout(0.3)
        self.hidden, self.last = nn.Linear(96, 40), nn.Linear(40, K)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().flatten(2)
        x = self.drop(self.tokens(x)).flatten(1)
        return self.last(self.hidden(x).relu())  # type: ignore[no-any-return]


def split(count: int) -> Split:
    draw = torch.Generator().manual_seed(count)
    labels = torch.randint(0, K, (count,), generator=draw)
    inputs = torch.randn(count, *SHAPE, generator=draw)
    return Split(inputs, labels, labels, torch.zeros(count, dtype=torch.bool), torch.arange(count))


def job(kind: str, density: float = 0.3, level: int = 1, **recipe: Any) -> Job:
    """A level of a network, pruned at random; called twice, it gives the same."""
    if kind == "mixed":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network: nn.Module = Mixed()
    else:
        network = models.build(Model(name=kind), SHAPE, K, 0)
    draw = torch.Generator().manual_seed(0)
    weights = {name: p for name, p in network.named_parameters() if p.ndim > 1}
    masks = {name: torch.rand(p.shape, generator=draw) < density for name, p in weights.items()}
    zero_pruned(network, masks)
    data = Dataset(split(N), split(8), split(9), ("a", "b", "c"), "")
    recipe = {"epochs": 2, "batch_size": 16, **recipe}
    return Job(network, data, Recipe(**recipe), seed=0, level=level, masks=masks)


@pytest.fixture(autouse=True)
def channels_alive(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead channels are a matter of their own, but for the tests that ask for them."""
    if "dead_channels" not in request.keywords:
        monkeypatch.setattr(MODULE, "living", lambda *_: MODULE.NOTHING)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`at(density)`: the native kernels are faster up to there."""
    return lambda density: monkeypatch.setattr(takeover, "crossover", lambda _key, _race: density)


def ways(some: Job) -> tuple[type, str]:
    """The class of the team, and what it calls itself."""
    chosen = team([some])
    return type(chosen), chosen.strategy


@needs_kernels
def test_a_chain_is_trained_by_the_kernels_where_they_are_faster(at: Callable[[float], None]) -> None:
    at(0.5)
    assert ways(job("lenet-300-100", 0.3)) == (Chain, "native chain")
    assert ways(job("lenet-300-100", 0.7)) == (Plain, "plain")
    at(0.0)
    assert ways(job("lenet-300-100", 0.01)) == (Plain, "plain")
    at(1.0)
    assert ways(job("lenet-300-100", 1.0, level=0)) == (Chain, "native chain")


@needs_kernels
def test_linear_layers_elsewhere_are_taken_over_one_by_one(at: Callable[[float], None]) -> None:
    at(0.5)
    assert ways(job("mixed", 0.3)) == (Patched, "plain, channels last, native tokens hidden last")
    assert ways(job("small-cnn", 0.3)) == (Patched, "plain, channels last, native output")
    assert ways(job("mixed", 0.7)) == (Plain, "plain, channels last")
    some = job("mixed", 0.3)
    masks = {name: mask for name, mask in some.masks.items() if name != "hidden.weight"}
    assert ways(replace(some, masks=masks))[1] == "plain, channels last, native tokens last"
    at(0.0)
    assert ways(job("mixed", 0.3)) == (Plain, "plain, channels last")
    at(1.0)
    dense = {name: torch.ones_like(mask) for name, mask in some.masks.items()}
    assert ways(replace(some, masks=dense)) == (Plain, "plain, channels last")  # nothing is pruned


@pytest.mark.parametrize("kind", ["lenet-300-100", "mixed"])
def test_without_kernels_the_plain_loop_serves(
    kind: str, at: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    at(1.0)
    monkeypatch.setattr(MODULE, "library", lambda: None)
    assert ways(job(kind))[0] is Plain


@pytest.mark.parametrize("kind", ["lenet-300-100", "mixed"])
def test_what_the_kernels_cannot_do_is_left_to_the_plain_loop(kind: str, at: Callable[[float], None]) -> None:
    at(1.0)
    assert ways(job(kind, precision="bfloat16"))[0] is Plain

    def twice(batch: Batch) -> Tensor:
        return 2 * cross_entropy(batch)

    assert ways(replace(job(kind), objective=twice))[0] is not Chain


def test_on_the_cpu_every_job_trains_by_itself() -> None:
    assert grouped([]) == []
    assert grouped([job("lenet-300-100") for _ in range(3)]) == [[0], [1], [2]]


# -- layers taken over


def followed(some: Job, other: Job, names: list[str]) -> None:
    """Train one with layers taken over and one without, comparing at every moment."""
    ours, theirs = Patched(some, names), Plain(other)
    seen = 0
    for (mine,), (plain,) in zip(ours.moments(), theirs.moments(), strict=True):
        assert isinstance(mine, Moment)
        assert isinstance(plain, Moment)
        assert replace(mine, running_loss=None) == replace(plain, running_loss=None)
        if plain.running_loss is not None:
            assert mine.running_loss == pytest.approx(plain.running_loss, rel=1e-5)
        for name, value in some.network.state_dict().items():
            expected = other.network.state_dict()[name].double()
            assert (value.double() - expected).norm() <= 2e-6 * expected.norm().clamp_min(1e-3), name
        assert leaked(some.network, some.masks) == 0
        for (loss, classes), (plain_loss, plain_classes) in zip(
            ours.guesses()[0].values(), theirs.guesses()[0].values(), strict=True
        ):
            assert loss == pytest.approx(plain_loss, rel=1e-5)
            assert torch.equal(classes, plain_classes)
        seen += 1
    assert seen >= 2


@needs_kernels
@pytest.mark.parametrize(
    "recipe",
    [
        {"lr": 0.02},
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3},
        {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_layers_taken_over_train_as_they_would(recipe: dict[str, Any]) -> None:
    for more in ({}, {"begin": 2}, {"pause_at": 3}, {"lr": 0.001}):
        some, other = (replace(job("mixed", 0.3, **recipe), **more) for _ in range(2))  # type: ignore[arg-type]
        followed(some, other, ["tokens", "hidden", "last"])


@needs_kernels
def test_a_network_is_its_own_again_when_the_training_is_left() -> None:
    some = job("mixed", 0.3)
    moments = Patched(some, ["tokens", "hidden"]).moments()
    next(moments)
    assert "forward" in vars(some.network.get_submodule("hidden"))
    moments.close()  # type: ignore[attr-defined]
    assert not any("forward" in vars(module) for module in some.network.modules())


# -- records


@needs_kernels
@pytest.mark.parametrize("kind", ["mlp", "small-cnn"])
def test_a_record_says_how_its_level_was_trained_and_a_resume_may_choose_otherwise(
    kind: str, at: Callable[[float], None], tiny: dict[str, Any], train: Callable[..., Any], tmp_path: Path
) -> None:
    kwargs = {"mlp": {"widths": [16]}, "small-cnn": {"channels": [2]}}[kind]
    fields = {**tiny, "model": {"name": kind, "kwargs": kwargs}, "pruning": {"levels": 1, "fraction": 0.5}}
    native, plain = {
        "mlp": ("native chain", "plain"),
        "small-cnn": ("plain, channels last, native output", "plain, channels last"),
    }[kind]
    at(1.0)
    assert train(fields, tmp_path).code == 0
    begun = tree(tmp_path)
    at(0.0)
    fields["pruning"]["levels"] = 3
    outcome = train(fields, tmp_path)
    assert (outcome.code, outcome.failed) == (0, {})
    assert begun.items() <= tree(tmp_path).items()
    chain = Store(tmp_path).levels(study.parse(fields).trials[0])
    dense = native if kind == "mlp" else plain  # a layer is taken over where it is pruned
    assert [r.body["numerics"]["strategy"] for r in chain] == [dense, native, plain, plain]
    assert train(fields, tmp_path).code == 0
    rest = [{k: v for k, v in r.body["numerics"].items() if k != "strategy"} for r in chain]
    assert rest == [rest[0]] * 4


@pytest.mark.dead_channels
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_dead_channels_are_left_out_where_it_pays(precision: str) -> None:
    def pruned(objective: Any = cross_entropy) -> Job:
        found = job("small-cnn", 1.0, precision=precision)
        masks = {name: mask.clone() for name, mask in found.masks.items()}
        masks["conv2.weight"][:, :8] = False  # nothing reads half of the first layer's channels
        zero_pruned(found.network, masks)
        return replace(found, masks=masks, objective=objective)

    ours = team([pruned()])
    assert "without 8 dead channels" in ours.strategy
    theirs = Plain(pruned())
    for (mine,), (plain,) in zip(ours.moments(), theirs.moments(), strict=True):
        assert isinstance(mine, Moment)
        assert isinstance(plain, Moment)
        rounding = 1e-5 if precision == "float32" else 2e-2
        assert mine.running_loss == pytest.approx(plain.running_loss, rel=rounding)
    few = pruned()
    few.masks["conv2.weight"][:, 1:8] = True
    few.masks["conv2.weight"][:, 0] = True
    assert type(team([few])) is Plain
    # an objective of somebody's own may look into the network
    assert type(team([pruned(lambda batch: cross_entropy(batch))])) is Plain
