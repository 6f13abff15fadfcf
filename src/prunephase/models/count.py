"""Multiply-accumulates of a network, module by module, without data or weights."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from prunephase import models
from prunephase.models.checks import Shape
from prunephase.plugins import is_reference, resolve
from prunephase.sections import Model


class _Undrawn(TorchFunctionMode):
    """Weights are made but not drawn: on the meta device nothing is drawn, and torch takes a second to see it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        if func in (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_):
            return args[0]
        return func(*args, **(kwargs or {}))


@cache
def macs(
    model: bytes, shape: Shape, classes: int, plugins: frozenset[str] = frozenset(), dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """Multiply-accumulates of one example's forward pass, {module: its own}, counted on torch's meta device.

    model: name and arguments, as JSON; shape, dtype: of an input. Counted are products of matrices and convolutions;
    norms, biases and activations are not.
    """
    spec = Model.model_validate_json(model)
    make = resolve(spec.name, plugins, "model.name") if is_reference(spec.name) else models.FAMILY[spec.name]
    with torch.device("meta"):
        with _Undrawn():
            network = make(shape, classes, **spec.kwargs)
        return _counted(network, shape, dtype)


def macs_of(network: nn.Module, shape: Shape, dtype: torch.dtype) -> dict[str, float]:
    """`macs` of a network that is there, which keeps every byte. Raises what it raises where there is no data."""
    with torch.device("meta"):
        return _counted(copy.deepcopy(network).to("meta"), shape, dtype)


def _counted(network: nn.Module, shape: Shape, dtype: torch.dtype) -> dict[str, float]:
    """On the meta device: elsewhere, LSTMs and the layers of transformers are fused, and torch counts nothing."""
    network.eval()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):  # counts nothing, and is slow without a device
                setattr(module, name, nn.Identity())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, *shape, dtype=dtype))
    counted = {name: sum(said.values()) / 2 for name, said in counter.get_flop_counts().items() if name != "Global"}
    root = type(network).__name__
    whole = {name.removeprefix(root).removeprefix("."): float(count) for name, count in counted.items()}
    own = dict(whole)  # what a module counts includes its children
    for name, count in whole.items():
        if name:
            own[name.rpartition(".")[0]] -= count
    assert sum(own.values()) == counter.get_total_flops() / 2
    return {name: count for name, count in own.items() if count}
