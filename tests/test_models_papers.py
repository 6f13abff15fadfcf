"""The networks of the papers: how many weights and multiplications, which are pruned, and what they compute."""

# B batch, C channels, H height, W width, N patches, D features, K classes.

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from prunephase.models import FAMILY, build
from prunephase.models.vgg import Spread
from prunephase.prune import prunable
from prunephase.sections import Model, Pruning

CIFAR = (3, 32, 32)


def on_paper(name: str, classes: int, shape: tuple[int, ...] = CIFAR, **kwargs: Any) -> nn.Module:
    """The network without numbers in its weights."""
    with torch.device("meta"):
        return FAMILY[name](shape, classes, **kwargs).eval()


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# Prunable weights and multiplications per image as He et al. (2022), DSD2 and the ViT paper have them, or as their code
# counts; None where there is no count to compare with.
@pytest.mark.parametrize(
    ("name", "classes", "kwargs", "weights", "millions"),
    [
        ("resnet18", 10, {}, 11_164_352, 555.4),
        ("resnet18", 100, {}, 11_210_432, None),
        ("resnet18", 10, {"max_pool": True}, 11_164_352, 140.2),
        ("vgg-like", 10, {}, 4_961_120, 67.2),
        ("vgg-like", 100, {}, 7_219_040, 69.5),
        ("vit", 10, {}, 9_466_880, None),
    ],
)
def test_weights_and_multiplications_are_the_papers(
    name: str, classes: int, kwargs: dict[str, Any], weights: int, millions: float | None
) -> None:
    network = on_paper(name, classes, **kwargs)
    chosen, ignored = prunable(network, Pruning())
    assert (sum(w.numel() for w in chosen.values()), ignored) == (weights, 0)
    if millions is not None:
        with FlopCounterMode(display=False) as counted:
            network(torch.zeros(1, *CIFAR, device="meta"))
        assert round(counted.get_total_flops() / 2e6, 1) == millions


def test_parameters_are_those_of_the_code_that_the_papers_build_on() -> None:
    assert parameters(on_paper("resnet18", 10)) == 11_173_962
    # torchvision's ResNet-101 has 44,549,160 with a 7x7 stem and 1,000 classes.
    assert parameters(on_paper("resnet101", 1000)) == 44_549_160 - 64 * 3 * (49 - 9)
    assert parameters(on_paper("vgg16", 10)) == 14_728_266
    # Kept out of the 9,466,880: biases (qkv has none), norms, class token and 65 positions.
    assert parameters(on_paper("vit", 10)) == 9_466_880 + 512 * (1 + 6 * (1 + 2 + 4) + 2 + 1 + 65) + 10


def test_what_each_paper_prunes_is_one_pattern() -> None:
    convolutions, left = prunable(on_paper("vgg16", 10), Pruning(include=("conv*",)))
    assert (len(convolutions), sum(w.numel() for w in convolutions.values()), left) == (13, 14_710_464, 5_120)
    assert all(w.ndim == 4 for w in convolutions.values())
    hidden, left = prunable(on_paper("lenet-300-100", 10, (1, 28, 28)), Pruning(exclude=("output",)))
    assert (sum(w.numel() for w in hidden.values()), left) == (265_200, 1_000)
    linear, _ = prunable(on_paper("vit", 10), Pruning())
    assert all(w.ndim == 2 for w in linear.values())
    assert len(linear) == 1 + 4 * 6 + 1
    everything, _ = prunable(on_paper("resnet18", 10), Pruning())
    assert [w.ndim for w in everything.values()] == [4] * 20 + [2]


def calls(network: nn.Module, kind: type[nn.Module]) -> list[int]:
    """How often each module of this kind is called in one forward pass."""
    found = [m for m in network.modules() if isinstance(m, kind)]
    seen: list[nn.Module] = []
    for module in found:
        module.register_forward_hook(lambda called, _given, _out: seen.append(called))
    network(torch.zeros(1, *CIFAR, device="meta"))
    return [sum(called is module for called in seen) for module in found]


@pytest.mark.parametrize(
    ("name", "kwargs", "relus"),
    [("resnet18", {}, 17), ("resnet101", {}, 100), ("vgg-like", {"delta": 3}, 6), ("vgg16", {}, 13)],
)
def test_every_relu_is_a_module_of_its_own_and_leaves_its_input(name: str, kwargs: dict[str, Any], relus: int) -> None:
    network = on_paper(name, 10, **kwargs)
    assert calls(network, nn.ReLU) == [1] * relus
    assert not any(m.inplace for m in network.modules() if isinstance(m, nn.ReLU))


def test_vgg_like_doubles_its_width_block_by_block_and_normalises_behind_the_relu() -> None:
    network = on_paper("vgg-like", 10, delta=3, gamma=2)
    assert isinstance(network, nn.Sequential)
    assert [type(m).__name__ for m in network][:7] == ["Conv2d", "ReLU", "BatchNorm2d"] * 2 + ["MaxPool2d"]
    assert [m.out_channels for m in network if isinstance(m, nn.Conv2d)] == [4, 4, 8, 8, 16, 16]
    assert all(m.bias is not None for m in network if isinstance(m, nn.Conv2d))
    assert [type(m).__name__ for m in network][-3:] == ["AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert network.get_parameter("output.weight").shape == (10, 49 * 16)


def test_vgg16_normalises_before_the_relu() -> None:
    network = on_paper("vgg16", 10)
    assert isinstance(network, nn.Sequential)
    assert [type(m).__name__ for m in network][:7] == ["Conv2d", "BatchNorm2d", "ReLU"] * 2 + ["MaxPool2d"]
    assert [type(m).__name__ for m in network][-3:] == ["AdaptiveAvgPool2d", "Flatten", "Linear"]


def conv(x: Tensor, w: dict[str, Tensor], name: str, bn: str, stride: int = 1) -> Tensor:
    """A convolution and its BatchNorm in evaluation mode, from a state_dict."""
    weight = w[f"{name}.weight"]
    x = functional.conv2d(x, weight, None, stride, padding=weight.shape[-1] // 2)
    parts = [w[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return functional.batch_norm(x, *parts)


@pytest.mark.parametrize(
    ("name", "kwargs", "depths"),
    [
        ("resnet18", {}, (2, 2, 2, 2)),
        ("resnet18", {"max_pool": True}, (2, 2, 2, 2)),
        ("resnet101", {}, (3, 4, 23, 3)),
    ],
)
def test_a_resnet_is_that_of_the_paper_written_out(name: str, kwargs: dict[str, Any], depths: tuple[int, ...]) -> None:
    network = build(Model(name=name, kwargs={"width": 3, **kwargs}), CIFAR, 10, 0)
    x = torch.randn(4, *CIFAR, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # none of them the identity
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
        network(x)
        ours = network.eval()(x)
    w = {key: value.detach() for key, value in network.state_dict().items()}
    x = conv(x, w, "conv1", "bn1").relu()
    if kwargs:
        x = functional.max_pool2d(x, 3, 2, 1)
    for stage, depth in enumerate(depths, start=1):
        for i in range(depth):
            block, stride = f"layer{stage}.{i}.", 2 if stage > 1 and i == 0 else 1
            if name == "resnet18":
                y = conv(x, w, f"{block}conv1", f"{block}bn1", stride).relu()
                y = conv(y, w, f"{block}conv2", f"{block}bn2")
            else:
                y = conv(x, w, f"{block}conv1", f"{block}bn1").relu()
                y = conv(y, w, f"{block}conv2", f"{block}bn2", stride).relu()
                y = conv(y, w, f"{block}conv3", f"{block}bn3")
            if y.shape != x.shape:
                x = conv(x, w, f"{block}downsample.0", f"{block}downsample.1", stride)
            x = (x + y).relu()
    expected = functional.linear(x.mean((2, 3)), w["output.weight"], w["output.bias"])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_vit_is_torchs_own_pre_norm_encoder_over_patches() -> None:
    network = build(
        Model(name="vit", kwargs={"dim": 24, "depth": 2, "heads": 3, "mlp_dim": 20}), (3, 8, 12), 5, 0
    ).eval()
    w = network.state_dict()
    x = torch.randn(6, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    patches = functional.unfold(x, 4, stride=4).mT  # [B, N, C * 4 * 4], channels first within a patch
    embedding = w["embedding.weight"].view(24, 4, 4, 3).permute(0, 3, 1, 2).flatten(1)
    tokens = functional.linear(patches, embedding, w["embedding.bias"])
    tokens = torch.cat([w["token"].expand(6, -1, -1), tokens], 1) + w["positions"]
    names = {
        "self_attn.in_proj_weight": "attention.qkv.weight",
        "self_attn.out_proj": "attention.project",
        "linear1": "mlp.0",
        "linear2": "mlp.3",
        "norm1": "norm1",
        "norm2": "norm2",
    }
    for i in range(2):
        layer = nn.TransformerEncoderLayer(24, 3, 20, 0.0, "gelu", batch_first=True, norm_first=True).eval()
        own = dict.fromkeys(["self_attn.in_proj_bias"], torch.zeros(72))
        for theirs, ours in names.items():
            own |= {k: w[f"blocks.{i}.{k.replace(theirs, ours)}"] for k in layer.state_dict() if k.startswith(theirs)}
        layer.load_state_dict(own)
        tokens = layer(tokens)
    token = functional.layer_norm(tokens[:, 0], (24,), w["norm.weight"], w["norm.bias"])
    expected = functional.linear(token, w["output.weight"], w["output.bias"])
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_a_vit_drops_behind_its_embedding_and_three_times_in_every_block() -> None:
    network = on_paper("vit", 10, depth=2, dropout=0.3)
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.3] * (1 + 3 * 2)
    assert calls(network, nn.Dropout) == [1] * (1 + 3 * 2)


def test_token_and_positions_of_a_vit_begin_standard_normal() -> None:
    network = build(Model(name="vit", kwargs={"depth": 1}), CIFAR, 10, 0)
    for name in ("token", "positions"):
        z = network.get_parameter(name).detach().flatten()
        assert abs(float(z.mean())) < 4.5 * len(z) ** -0.5
        assert abs(float(z.std()) - 1) < 4.5 * (2 * len(z)) ** -0.5


def test_one_pixel_is_spread_as_the_average_pool_to_seven_would() -> None:
    pixel = torch.randn(4, 5, 1, 1, dtype=torch.float64, requires_grad=True)
    given, (spread, pooled) = torch.randn(4, 5, 7, 7, dtype=torch.float64), (Spread(), nn.AdaptiveAvgPool2d(7))
    assert torch.equal(spread(pixel), pooled(pixel))
    gradients = [torch.autograd.grad((make(pixel) * given).sum(), pixel)[0] for make in (spread, pooled)]
    assert torch.allclose(*gradients, rtol=0, atol=1e-14)
    kinds = [build(Model(name="vgg-like", kwargs={"gamma": 2}), (3, size, size), 10, 0) for size in (32, 64)]
    assert [type(kind.average) for kind in kinds] == [Spread, nn.AdaptiveAvgPool2d]
