"""Architectures: shapes, initial weights, and what does not fit."""

# B batch, K classes.

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunephase import models, trial
from prunephase.errors import UserError
from prunephase.models import FAMILY, build
from prunephase.trial import Model

PLUGINS = {"test_models"}


def weights(network: nn.Module) -> list[Tensor]:
    return [p.detach() for p in network.parameters() if p.ndim > 1]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_every_model_that_a_trial_may_name_is_there() -> None:
    assert tuple(FAMILY) == trial.MODELS


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8)])
@pytest.mark.parametrize("name", trial.MODELS)
def test_a_batch_of_examples_gives_logits(name: str, shape: tuple[int, ...]) -> None:
    network = build(Model(name=name), shape, 7, 0)
    assert network(torch.zeros(5, *shape)).shape == (5, 7)
    assert network.training
    assert list(network.state_dict())[-2:] == ["output.weight", "output.bias"]


def test_lenet_300_100_is_the_papers() -> None:
    network = build(Model(), (1, 28, 28), 10, 0)
    assert [tuple(w.shape) for w in weights(network)] == [(300, 784), (100, 300), (10, 100)]
    assert sum(w.numel() for w in weights(network)) == 266_200
    assert sum(isinstance(m, nn.ReLU) for m in network.modules()) == 2


def test_widths_and_channels_are_what_was_asked_for() -> None:
    mlp = build(Model(name="mlp", kwargs={"widths": [5, 4]}), (6,), 3, 0)
    assert [tuple(w.shape) for w in weights(mlp)] == [(5, 6), (4, 5), (3, 4)]
    assert [tuple(w.shape) for w in weights(build(Model(name="mlp", kwargs={"widths": []}), (6,), 3, 0))] == [(3, 6)]
    cnn = build(Model(name="small-cnn", kwargs={"channels": [2, 3]}), (1, 9, 12), 4, 0)
    assert [tuple(w.shape) for w in weights(cnn)] == [(2, 1, 3, 3), (3, 2, 3, 3), (4, 3 * 2 * 3)]


@pytest.mark.parametrize(("name", "shape"), [("lenet-300-100", (1, 28, 28)), ("small-cnn", (3, 32, 32))])
def test_weights_are_kaiming_normal_by_fan_in_and_biases_zero(name: str, shape: tuple[int, ...]) -> None:
    network = build(Model(name=name), shape, 10, 1)
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            assert module.bias is not None
            assert not module.bias.any()
            fan_in, n = module.weight[0].numel(), module.weight.numel()
            z = module.weight.detach().flatten() / math.sqrt(2 / fan_in)
            assert abs(float(z.mean())) < 4.5 / math.sqrt(n)
            assert abs(float(z.std()) - 1) < 4.5 / math.sqrt(2 * n)
            assert abs(float((z**4).mean()) - 3) < 4.5 * math.sqrt(96 / n)  # a uniform draw would give 1.8


def test_initial_weights_follow_seed_and_place_and_nothing_else() -> None:
    first = build(Model(), (1, 8, 8), 10, 0)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert equal(first, build(Model(), (1, 8, 8), 10, 0))
    assert torch.equal(torch.get_rng_state(), state)
    others = [
        build(Model(), (1, 8, 8), 10, *where) for where in ((1,), (0, "re-init"), (0, "level", 1), (0, "level", 2))
    ]
    for other in others:
        correlation = torch.corrcoef(torch.stack([weights(first)[1].flatten(), weights(other)[1].flatten()]))[0, 1]
        assert abs(float(correlation)) < 4.5 / math.sqrt(30_000)


class Strange(nn.Module):
    """A user's network that starts in evaluation mode."""

    def __init__(self, classes: int, out: Any = None) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(4, classes), out
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.layer(x) if self.out is None else self.out(self.layer(x))


def good(_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Strange(classes)


def one_too_many(_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Strange(classes + 1)


def pair(_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Strange(classes, lambda logits: (logits, logits))


def flat(_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Strange(classes, torch.flatten)


def nothing(_shape: tuple[int, ...], _classes: int) -> Any:
    return None


def explodes(_shape: tuple[int, ...], _classes: int) -> nn.Module:
    raise ValueError("two\nlines")


def test_a_network_of_the_user_is_built_from_the_named_stream() -> None:
    network = build(Model(name="test_models:good"), (4,), 3, 0, plugins=PLUGINS)
    assert not network.training
    assert equal(network, build(Model(name="test_models:good"), (4,), 3, 0, plugins=PLUGINS))
    assert not equal(network, build(Model(name="test_models:good"), (4,), 3, 1, plugins=PLUGINS))


@pytest.mark.parametrize(
    ("name", "kwargs", "shape", "words"),
    [
        ("test_models:one_too_many", {}, (4,), r"gives \[2, 4\] for 2 examples, expected logits \[2, 3\]"),
        ("test_models:pair", {}, (4,), "gives tuple for 2 examples"),
        ("test_models:flat", {}, (4,), r"gives \[6\] for 2 examples"),
        ("test_models:nothing", {}, (4,), "gave NoneType, expected a torch.nn.Module"),
        ("test_models:explodes", {}, (4,), "two lines"),
        ("test_models:good", {}, (5,), r"fails on inputs of shape \[5\]"),
        ("test_models:good", {"depth": 3}, (4,), "depth"),
        ("test_models:missing", {}, (4,), "cannot be imported"),
        ("elsewhere:good", {}, (4,), "--plugins elsewhere"),
        ("mlp", {"widht": [3]}, (4,), "widht"),
        ("mlp", {"widths": ["a"]}, (4,), "model.name = 'mlp'"),
        ("mlp", {"widths": [-3]}, (4,), "model.name = 'mlp'"),
        ("mlp", {"widths": [0]}, (4,), "model.name = 'mlp'"),
        ("mlp", {"widths": 5}, (4,), "model.name = 'mlp'"),
        ("small-cnn", {}, (4,), r"needs images \[C, H, W\], the data have shape \[4\]"),
        ("small-cnn", {"channels": [2, 2, 2, 2]}, (1, 8, 8), "at least 16 pixels, these are 8 x 8"),
        ("small-cnn", {"channels": [0]}, (1, 8, 8), "model.name = 'small-cnn'"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_in_one_line(
    name: str, kwargs: dict[str, Any], shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words) as error:
        build(Model(name=name, kwargs=kwargs), shape, 3, 0, plugins=PLUGINS)
    assert "\n" not in str(error.value)


def test_a_default_of_torch_is_not_mistaken_for_the_papers_initialisation() -> None:
    layer = nn.Sequential(nn.Linear(50, 40))
    before = layer[0].weight.detach().clone()
    models.kaiming(layer)
    assert float(layer[0].weight.detach().std()) > 1.5 * float(before.std())
