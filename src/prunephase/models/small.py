"""Small networks: perceptrons and a plain convolutional network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from prunephase.models.checks import Shape, check_list, image_shape
from prunephase.models.init import kaiming


def mlp(input_shape: Shape, classes: int, widths: Sequence[int] = (300, 100)) -> nn.Module:
    """A ReLU perceptron with hidden layers of `widths` units; its layers are hidden1, hidden2, ..., output."""
    check_list(widths=widths)
    sizes = [prod(input_shape), *widths]
    network = nn.Sequential()
    network.add_module("flatten", nn.Flatten())
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        network.add_module(f"hidden{i}", nn.Linear(fan_in, fan_out))
        network.add_module(f"relu{i}", nn.ReLU())
    network.add_module("output", nn.Linear(sizes[-1], classes))
    return kaiming(network)


def lenet_300_100(input_shape: Shape, classes: int) -> nn.Module:
    """LeNet-300-100 (LeCun et al. 1998): 266,200 weights on MNIST, 1,000 of them in the output layer.

    He et al. (2022) prune all but those: `exclude = ["output"]`.
    """
    return mlp(input_shape, classes, (300, 100))


def small_cnn(input_shape: Shape, classes: int, channels: Sequence[int] = (16, 32)) -> nn.Module:
    """[Conv3x3-ReLU-MaxPool2] per entry of `channels`, then one linear layer; layers conv1, conv2, ..., output."""
    check_list(channels=channels)
    depth, height, width = image_shape(input_shape, len(channels))
    network = nn.Sequential()
    for i, (fan_in, fan_out) in enumerate(pairwise([depth, *channels]), start=1):
        network.add_module(f"conv{i}", nn.Conv2d(fan_in, fan_out, 3, padding=1))
        network.add_module(f"relu{i}", nn.ReLU())
        network.add_module(f"pool{i}", nn.MaxPool2d(2))
        height, width = height // 2, width // 2
    network.add_module("flatten", nn.Flatten())
    network.add_module("output", nn.Linear([depth, *channels][-1] * height * width, classes))
    return kaiming(network)
