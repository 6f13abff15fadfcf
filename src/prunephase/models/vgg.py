"""VGG networks: the VGG-like family of DSD2, and VGG-16 as in OpenLTH."""

# C channels.

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from prunephase.models.checks import Shape, check_whole, image_shape
from prunephase.models.init import kaiming


def vgg_like(input_shape: Shape, classes: int, delta: int = 5, gamma: int = 5) -> nn.Module:
    """DSD2's network (Quetu and Tartaglione 2024, figures 4 and 5), as deep and as wide as `delta` and `gamma` say.

    `delta` blocks of [Conv3x3-ReLU-BatchNorm] x 2 and a max-pool, of 2^gamma, 2^(gamma+1), ... channels; an average
    pool to 7 x 7; one linear layer. At delta = gamma = 5 on CIFAR-10 it has 4,961,120 prunable weights and 67.2 M
    multiplications per image, on CIFAR-100 7,219,040 and 69.5 M. DSD2 prunes every layer: `include = ["*"]`. Layers
    conv1_1, conv1_2, ..., output, drawn as torch draws them.
    """
    check_whole(delta=delta)
    check_whole(least=0, gamma=gamma)
    widths = [2 ** (gamma + i) for i in range(delta)]
    network = _convolutions(input_shape, [[width, width] for width in widths], ("conv", "relu", "bn"), pools=delta)
    pixel = max(input_shape[1:]) < 2 ** (delta + 1)
    network.add_module("average", Spread() if pixel else nn.AdaptiveAvgPool2d(7))
    network.add_module("flatten", nn.Flatten())
    network.add_module("output", nn.Linear(49 * widths[-1], classes))
    return network


class Spread(nn.Module):
    """One pixel on every place of a 7 x 7 map: what AdaptiveAvgPool2d(7) makes of it, at a hundredth of the time."""

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, C, 1, 1] -> [B, C, 7, 7]."""
        return inputs.expand(-1, -1, 7, 7)


def vgg16(input_shape: Shape, classes: int, width: int = 64) -> nn.Module:
    """VGG-16 as in OpenLTH, which He et al. (2022) use: 13 Conv3x3-BatchNorm-ReLU, an average pool, one linear layer.

    From `width` channels: 14,710,464 weights of convolutions on colour images; they prune those alone, with
    `include = ["conv*"]`. Layers conv1_1, conv1_2, conv2_1, ..., conv5_3, output.
    """
    check_whole(width=width)
    plan = [[width * wide] * depth for wide, depth in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))]
    network = _convolutions(input_shape, plan, ("conv", "bn", "relu"), pools=4)
    network.add_module("average", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("output", nn.Linear(8 * width, classes))
    return kaiming(network)


def _convolutions(input_shape: Shape, plan: Sequence[Sequence[int]], order: Sequence[str], pools: int) -> nn.Sequential:
    """Blocks of convolutions of the widths of `plan`; the first `pools` of them end in a max-pool.

    order: of a convolution, its BatchNorm and its ReLU. The convolutions have biases, as in both papers' code.
    """
    channels = image_shape(input_shape, pools)[0]
    network = nn.Sequential()
    for block, widths in enumerate(plan, start=1):
        for i, width in enumerate(widths, start=1):
            modules = {
                "conv": nn.Conv2d(channels, width, 3, padding=1),
                "bn": nn.BatchNorm2d(width),
                "relu": nn.ReLU(),
            }
            for kind in order:
                network.add_module(f"{kind}{block}_{i}", modules[kind])
            channels = width
        if block <= pools:
            network.add_module(f"pool{block}", nn.MaxPool2d(2))
    return network
