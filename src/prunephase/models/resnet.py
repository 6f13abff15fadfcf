"""Residual networks for small images: a 3x3 stem of stride 1, with or without a max-pool behind it."""

# B batch, C channels, H height, W width, K classes.

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from prunephase.models.checks import Shape, check_whole, image_shape
from prunephase.models.init import kaiming


def resnet18(input_shape: Shape, classes: int, width: int = 64, max_pool: bool = False) -> nn.Module:
    """ResNet-18 from `width` channels: 11,164,352 prunable weights on CIFAR-10, 11,210,432 on CIFAR-100.

    He et al. (2022) and the ViT paper of Quetu et al. (2023) have no max-pool (555.4 M multiplications per 32 x 32
    image); DSD2 (Quetu and Tartaglione 2024) has one, 3x3 of stride 2 (140.2 M; its code draws convolutions by fan-out,
    here they are by fan-in as He et al.'s). All prune every layer: `include = ["*"]`. Layers conv1,
    layer1.0.conv1, ..., layer4.1.conv2, output; every ReLU is a module of its own.
    """
    if type(max_pool) is not bool:
        raise ValueError(f"max_pool = {max_pool!r}: expected true or false")
    return _resnet(input_shape, classes, Basic, (2, 2, 2, 2), width, max_pool=max_pool)


def resnet101(input_shape: Shape, classes: int, width: int = 64) -> nn.Module:
    """ResNet-101 with the stem of He et al. (2022, Tiny ImageNet at 32 x 32): bottlenecks from `width` channels.

    They prune every layer: `include = ["*"]`. Layers conv1, layer1.0.conv1, ..., layer4.2.conv3, output.
    """
    return _resnet(input_shape, classes, Bottleneck, (3, 4, 23, 3), width, max_pool=False)


class Basic(nn.Module):
    """The basic residual block of He, Zhang, Ren and Sun (2016), from `channels` to `width`."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(width), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(width), nn.ReLU()
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, width, H / stride, W / stride]."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.downsample(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """The bottleneck block of the same paper, from `channels` to 4 * `width`; the 3x3 convolution strides."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(width), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(width), nn.ReLU()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3, self.relu3 = nn.BatchNorm2d(4 * width), nn.ReLU()
        self.downsample = _shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 4 * width, H / stride, W / stride]."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(y + self.downsample(x))  # type: ignore[no-any-return]


def _shortcut(channels: int, width: int, stride: int) -> nn.Module:
    if stride == 1 and channels == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


def _resnet(
    input_shape: Shape,
    classes: int,
    block: type[Basic] | type[Bottleneck],
    depths: Sequence[int],
    width: int,
    *,
    max_pool: bool,
) -> nn.Module:
    """Four stages of `depths` blocks, named as in torchvision but for the last layer."""
    check_whole(width=width)
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(image_shape(input_shape)[0], width, 3, padding=1, bias=False))
    network.add_module("bn1", nn.BatchNorm2d(width))
    network.add_module("relu", nn.ReLU())
    if max_pool:
        network.add_module("maxpool", nn.MaxPool2d(3, stride=2, padding=1))
    channels = width
    for stage, depth in enumerate(depths):
        wide, blocks = width * 2**stage, nn.Sequential()
        for i in range(depth):
            blocks.append(block(channels, wide, 2 if stage and not i else 1))
            channels = wide * block.expansion
        network.add_module(f"layer{stage + 1}", blocks)
    network.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("output", nn.Linear(channels, classes))
    return kaiming(network)
