"""Architectures: shapes, initial weights, and what does not fit."""

# B batch, K classes.

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunephase import models, sections
from prunephase.errors import UserError
from prunephase.models import FAMILY, build
from prunephase.sections import Model

PLUGINS = {"test_models"}


def weights(network: nn.Module) -> list[Tensor]:
    return [p.detach() for p in network.parameters() if p.ndim > 1]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_every_model_that_a_trial_may_name_is_there() -> None:
    assert tuple(FAMILY) == sections.MODELS


SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 2},
    "resnet101": {"width": 2},
    "vgg-like": {"delta": 3, "gamma": 1},
    "vgg16": {"width": 2},
    "vit": {"dim": 8, "depth": 2, "heads": 2, "mlp_dim": 6},
}


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 16, 20)])
@pytest.mark.parametrize("name", sections.MODELS)
def test_a_batch_of_examples_gives_logits(name: str, shape: tuple[int, ...]) -> None:
    network = build(Model(name=name, kwargs=SMALL.get(name, {})), shape, 7, 0)
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


Layer = nn.Linear | nn.Conv2d


def layers(network: nn.Module) -> list[Layer]:
    return [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


def is_kaiming(layer: Layer) -> bool:
    """Whether the weights look normal, of the fan-in's deviation. A uniform draw has a fourth moment of 1.8, not 3."""
    n = layer.weight.numel()
    z = layer.weight.detach().flatten() / math.sqrt(2 / layer.weight[0].numel())
    moments = (float(z.mean()), float(z.std()) - 1, float((z**4).mean()) - 3)
    return all(
        abs(m) < 4.5 * error for m, error in zip(moments, (n**-0.5, (2 * n) ** -0.5, (96 / n) ** 0.5), strict=True)
    )


def is_torchs(values: Tensor, layer: Layer) -> bool:
    """Whether they fill torch's default interval for a layer's weights and biases, and no more."""
    bound = 1 / math.sqrt(layer.weight[0].numel())
    return 1 - 12 / values.numel() < float(values.abs().max()) / bound <= 1 + 1e-6


NETS: list[tuple[str, dict[str, Any], str]] = [  # model, arguments, initialisation
    ("lenet-300-100", {}, "default"),
    ("small-cnn", {}, "default"),
    ("resnet18", {"width": 16}, "default"),
    ("resnet101", {"width": 8}, "default"),
    ("vgg16", {"width": 16}, "default"),
    ("vgg-like", {"gamma": 4}, "he-paper"),
    ("vit", {"dim": 64, "mlp_dim": 96}, "he-paper"),
]


@pytest.mark.parametrize(("name", "kwargs", "init"), NETS)
def test_weights_are_kaiming_normal_by_fan_in_and_biases_zero(name: str, kwargs: dict[str, Any], init: Any) -> None:
    network = build(Model(name=name, kwargs=kwargs, init=init), (3, 32, 32), 10, 1)
    for layer in layers(network):
        assert is_kaiming(layer)
        assert layer.bias is None or not layer.bias.any()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert not module.bias.any()


@pytest.mark.parametrize(("name", "kwargs"), [("vgg-like", {"gamma": 4}), ("vit", {"dim": 64, "mlp_dim": 96})])
def test_the_networks_of_quetu_and_others_are_drawn_as_torch_draws(name: str, kwargs: dict[str, Any]) -> None:
    network = build(Model(name=name, kwargs=kwargs), (3, 32, 32), 10, 1)
    for layer in layers(network):
        assert is_torchs(layer.weight.detach(), layer)
        assert layer.bias is None or is_torchs(layer.bias.detach(), layer)


@pytest.mark.parametrize(("name", "kwargs", "_init"), NETS)
def test_the_code_of_he_et_al_leaves_biases_to_torch_and_draws_batchnorm(
    name: str, kwargs: dict[str, Any], _init: str
) -> None:
    network = build(Model(name=name, kwargs=kwargs, init="he-code"), (3, 32, 32), 100, 1)
    for layer in layers(network):
        assert is_kaiming(layer)
        assert layer.bias is None or is_torchs(layer.bias.detach(), layer)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    if norms:
        scales = torch.cat([m.weight.detach() for m in norms])
        n = len(scales)
        assert float(scales.min()) >= 0
        assert float(scales.max()) < 1
        assert abs(float(scales.mean()) - 0.5) < 4.5 / math.sqrt(12 * n)
        assert abs(float(scales.var()) - 1 / 12) < 4.5 / math.sqrt(180 * n)
        assert not any(m.bias.any() for m in norms)


@pytest.mark.parametrize("init", ["he-paper", "he-code"])
def test_a_network_of_the_user_is_initialised_as_asked(init: Any) -> None:
    network, own = (
        build(Model(name="test_models:normed", init=i), (3, 8, 8), 10, 0, plugins=PLUGINS) for i in (init, "default")
    )
    assert all(
        is_kaiming(layer) and not is_kaiming(before) for layer, before in zip(layers(network), layers(own), strict=True)
    )
    scale = network.get_parameter("1.weight")
    assert bool((scale == 1).all()) == (init == "he-paper")
    assert bool((own.get_parameter("1.weight") == 7).all())
    again = build(Model(name="test_models:normed", init=init), (3, 8, 8), 10, 0, plugins=PLUGINS)
    assert equal(network, again)


def normed(shape: tuple[int, ...], classes: int) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(shape[0], 64, 3), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(64 * 36, classes))
    nn.init.constant_(network.get_parameter("1.weight"), 7.0)
    return network


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
        ("resnet18", {}, (64,), r"needs images \[C, H, W\], the data have shape \[64\]"),
        ("resnet18", {"width": 0}, (3, 8, 8), "width = 0: expected a whole number from 1"),
        ("resnet18", {"max_pool": 1}, (3, 8, 8), "max_pool = 1: expected true or false"),
        ("resnet101", {"width": 2.0}, (3, 8, 8), "width = 2.0: expected a whole number from 1"),
        ("resnet101", {"max_pool": True}, (3, 8, 8), "max_pool"),
        ("vgg-like", {"gamma": 0}, (3, 32, 16), "5 halvings need images of at least 32 pixels, these are 32 x 16"),
        ("vgg-like", {"delta": 0}, (3, 32, 32), "delta = 0: expected a whole number from 1"),
        ("vgg-like", {"gamma": -1}, (3, 32, 32), "gamma = -1: expected a whole number from 0"),
        ("vgg16", {}, (3, 15, 32), "4 halvings need images of at least 16 pixels, these are 15 x 32"),
        ("vit", {}, (784,), r"needs images \[C, H, W\]"),
        ("vit", {"patch": 5}, (3, 30, 32), "patch = 5: does not divide images of 30 x 32 pixels"),
        ("vit", {"patch": 0}, (3, 32, 32), "patch = 0: expected a whole number from 1"),
        ("vit", {"dim": 20}, (3, 32, 32), "dim = 20: cannot be shared by 8 heads"),
        ("vit", {"dropout": 1.0}, (3, 32, 32), "dropout = 1.0: expected a fraction"),
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
