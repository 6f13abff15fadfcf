"""Architectures: ordinary modules, built from a named random stream."""

# B batch, K classes, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import nn

from prunephase import streams
from prunephase.errors import UserError
from prunephase.plugins import is_reference, resolve
from prunephase.randomness import seeded
from prunephase.trial import Model

Shape = tuple[int, ...]


def mlp(input_shape: Shape, classes: int, widths: Sequence[int] = (300, 100)) -> nn.Module:
    """A ReLU perceptron with hidden layers of `widths` units; its layers are hidden1, hidden2, ..., output."""
    _check_sizes("widths", widths)
    sizes = [prod(input_shape), *widths]
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        layers += [(f"hidden{i}", nn.Linear(fan_in, fan_out)), (f"relu{i}", nn.ReLU())]
    return kaiming(_sequential([*layers, ("output", nn.Linear(sizes[-1], classes))]))


def lenet_300_100(input_shape: Shape, classes: int) -> nn.Module:
    """LeNet-300-100 (LeCun et al. 1998): 266,200 weights on MNIST, 1,000 of them in the output layer."""
    return mlp(input_shape, classes, (300, 100))


def small_cnn(input_shape: Shape, classes: int, channels: Sequence[int] = (16, 32)) -> nn.Module:
    """[Conv3x3-ReLU-MaxPool2] per entry of `channels`, then one linear layer; layers conv1, conv2, ..., output."""
    if len(input_shape) != 3:
        raise ValueError(f"needs images [C, H, W], the data have shape {list(input_shape)}")
    _check_sizes("channels", channels)
    depth, height, width = input_shape
    if min(height, width) < 2 ** len(channels):
        raise ValueError(
            f"{len(channels)} halvings need images of at least {2 ** len(channels)} pixels, "
            f"these are {height} x {width}"
        )
    layers: list[tuple[str, nn.Module]] = []
    for i, (fan_in, fan_out) in enumerate(pairwise([depth, *channels]), start=1):
        layers += [
            (f"conv{i}", nn.Conv2d(fan_in, fan_out, 3, padding=1)),
            (f"relu{i}", nn.ReLU()),
            (f"pool{i}", nn.MaxPool2d(2)),
        ]
        height, width = height // 2, width // 2
    flat = [depth, *channels][-1] * height * width
    return kaiming(_sequential([*layers, ("flatten", nn.Flatten()), ("output", nn.Linear(flat, classes))]))


def kaiming(network: nn.Module) -> nn.Module:
    """He et al. (ICML 2022, appendix B): Kaiming-normal weights (fan-in, ReLU gain) and zero biases, in place."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


FAMILY: dict[str, Callable[..., nn.Module]] = {
    "lenet-300-100": lenet_300_100,
    "mlp": mlp,
    "small-cnn": small_cnn,
}


def build(
    spec: Model, input_shape: Shape, classes: int, seed: int, *where: int | str, plugins: Collection[str] = ()
) -> nn.Module:
    """The network of `spec` with initial weights from the stream (seed, "weights", *where).

    Raises UserError where the arguments do not suit the model, or the model the data: one example must give K logits.
    """
    make = resolve(spec.name, plugins, "model.name") if is_reference(spec.name) else FAMILY[spec.name]
    with seeded(streams.seed(seed, "weights", *where)):
        try:
            network: Any = make(input_shape, classes, **spec.kwargs)
        except Exception as problem:  # the user's code, or arguments that do not suit ours
            raise UserError(f"model.name = '{spec.name}': {_line(problem)}") from None
        if not isinstance(network, nn.Module):
            raise UserError(f"model.name = '{spec.name}': gave {type(network).__name__}, expected a torch.nn.Module")
        _check_shapes(network, spec.name, input_shape, classes)
    return network


def _check_shapes(network: nn.Module, name: str, input_shape: Shape, classes: int) -> None:
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            logits = network(torch.zeros(2, *input_shape))
    except Exception as problem:
        raise UserError(
            f"model.name = '{name}': fails on inputs of shape {list(input_shape)}: {_line(problem)}"
        ) from None
    network.train(training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"model.name = '{name}': gives {shape} for 2 examples, expected logits [2, {classes}]")


def _check_sizes(name: str, sizes: Sequence[int]) -> None:
    if not isinstance(sizes, Sequence) or any(type(size) is not int or size < 1 for size in sizes):
        raise ValueError(f"{name} = {sizes!r}: expected a list of whole numbers from 1")


def _sequential(layers: Sequence[tuple[str, nn.Module]]) -> nn.Module:
    network = nn.Sequential()
    for name, layer in layers:
        network.add_module(name, layer)
    return network


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())
