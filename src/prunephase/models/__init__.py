"""Architectures: ordinary modules, built from a named random stream."""

# B batch, K classes, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from prunephase import streams
from prunephase.errors import UserError
from prunephase.models.checks import Shape
from prunephase.models.given import Given, given
from prunephase.models.init import INITS, he_code, he_paper, kaiming
from prunephase.models.resnet import resnet18, resnet101
from prunephase.models.small import lenet_300_100, mlp, small_cnn
from prunephase.models.transformer import vit
from prunephase.models.vgg import vgg16, vgg_like
from prunephase.plugins import is_reference, resolve
from prunephase.randomness import seeded
from prunephase.sections import Model

__all__ = [
    "FAMILY",
    "INITS",
    "Given",
    "build",
    "given",
    "he_code",
    "he_paper",
    "kaiming",
    "lenet_300_100",
    "mlp",
    "resnet18",
    "resnet101",
    "small_cnn",
    "vgg16",
    "vgg_like",
    "vit",
]

FAMILY: dict[str, Callable[..., nn.Module]] = {
    "lenet-300-100": lenet_300_100,
    "mlp": mlp,
    "small-cnn": small_cnn,
    "resnet18": resnet18,
    "resnet101": resnet101,
    "vgg-like": vgg_like,
    "vgg16": vgg16,
    "vit": vit,
}


def build(
    spec: Model,
    input_shape: Shape,
    classes: int,
    seed: int,
    *where: int | str,
    plugins: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The network of `spec` with initial weights from the stream (seed, "weights", *where).

    dtype: of the inputs that it will see.
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
        INITS[spec.init](network)
        _check_shapes(network, spec.name, input_shape, classes, dtype)
    return network


def _check_shapes(network: nn.Module, name: str, input_shape: Shape, classes: int, dtype: torch.dtype) -> None:
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            logits = network(torch.zeros(2, *input_shape, dtype=dtype))
    except Exception as problem:
        words = dtype.is_floating_point and any(isinstance(module, nn.Embedding) for module in network.modules())
        hint = "; tokens stay whole numbers with data.normalise = 'keep'" if words else ""
        raise UserError(
            f"model.name = '{name}': fails on inputs of shape {list(input_shape)}: {_line(problem)}{hint}"
        ) from None
    network.train(training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"model.name = '{name}': gives {shape} for 2 examples, expected logits [2, {classes}]")


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())
