"""States of units: how often each unit's input to its activation is positive, counted as the network runs."""

# B batch, C channels or features, [...] the shape of one example's input to an activation.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from prunephase.measure.passes import forward

# Every call of these is a layer of units, from a module (nn.ReLU calls functional.relu) or from a forward of one's own.
_NAMES = (
    *("relu", "relu6", "gelu", "silu", "leaky_relu", "elu", "selu", "celu", "prelu", "rrelu", "mish", "softplus"),
    *("softsign", "tanh", "sigmoid", "logsigmoid", "hardtanh", "hardswish", "hardsigmoid", "tanhshrink", "threshold"),
)
ACTIVATIONS: frozenset[Callable[..., Any]] = frozenset(
    getattr(place, name + ending)
    for place in (functional, torch, Tensor)
    for name in _NAMES
    for ending in ("", "_")
    if hasattr(place, name + ending)
)
# What is behind these has its features last; anywhere else, behind convolutions for one, channels follow the batch.
_FEATURES_LAST: frozenset[object] = frozenset(
    {functional.linear, functional.layer_norm, torch.layer_norm, functional.rms_norm}
)
_CHANNELS_FIRST: frozenset[object] = frozenset(
    {torch.conv1d, torch.conv2d, torch.conv3d, torch.batch_norm, functional.batch_norm, functional.group_norm}
    | {functional.conv1d, functional.conv2d, functional.conv3d, functional.instance_norm}
)


@dataclass
class Layer:
    """Units behind one call of an activation.

    on: number of examples at which each is on, int64 [...]; None where the first dimension is not the batch, so that
    nothing can be counted. examples: how many were seen. axis: that of `on` along which its channels lie.
    """

    name: str
    on: NDArray[np.int64] | None
    examples: int
    axis: int


def count(network: nn.Module, batches: Iterable[Tensor], precision: str) -> list[Layer]:
    """Count the ON states (input to the activation > 0) of every unit of `network` over `batches` of inputs [B, ...].

    `network` is a copy at rest; it runs once per batch, and its layers come in the order in which they are called. A
    call is named after its module, or after the module that calls a function: "block1.relu"; the second call under one
    name is "block1.relu:2". Seen are torch's activation functions, however they are reached, but for those inside a
    compiled or scripted module.
    """
    watch = _Watch()
    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(watch.enter(name, module)))
        handles.append(module.register_forward_hook(watch.leave, always_call=True))
    for inputs in batches:
        watch.begin(len(inputs))
        with watch:
            forward(network, inputs, precision)
    for handle in handles:
        handle.remove()
    return [
        Layer(name, None if on is None else on.cpu().numpy(), watch.examples[name], watch.axes[name])
        for name, on in watch.on.items()
    ]


class _Watch(TorchFunctionMode):
    """Sees every torch function that is called, and in which module."""

    def __init__(self) -> None:
        super().__init__()
        self.on: dict[str, Tensor | None] = {}
        self.examples: Counter[str] = Counter()
        self.axes: dict[str, int] = {}
        self.begin(0)

    def begin(self, batch: int) -> None:
        """The next batch: the same calls come again."""
        self.batch, self.inside, self.calls, self.last = batch, list[tuple[str, bool]](), Counter[str](), False

    def enter(self, name: str, module: nn.Module) -> Callable[..., None]:
        """The hook before `module`."""
        activation = type(module).__module__ == "torch.nn.modules.activation"
        return lambda *_: self.inside.append((name, activation))

    def leave(self, *_: Any) -> None:
        """The hook behind any module."""
        self.inside.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, then call."""
        if func in ACTIVATIONS:
            self.count(func.__name__.rstrip("_"), args[0] if args else kwargs["input"])
        elif func in _FEATURES_LAST or func in _CHANNELS_FIRST:
            self.last = func in _FEATURES_LAST
        return func(*args, **(kwargs or {}))

    def count(self, function: str, z: Tensor) -> None:
        """Add the states of one batch, [B, ...], before an activation in place overwrites them."""
        path, activation = self.inside[-1] if self.inside else ("", False)
        name = path if activation and path else f"{path}.{function}".lstrip(".")
        self.calls[name] += 1
        if self.calls[name] > 1:
            name = f"{name}:{self.calls[name]}"
        before = self.on.get(name)
        if z.ndim < 2 or len(z) != self.batch or (name in self.on and before is None):
            self.on[name] = None
        else:
            on = (z > 0).sum(0, dtype=torch.int32)  # twice as fast as int64
            self.on[name] = on.long() if before is None else before + on
        self.examples[name] += self.batch
        self.axes[name] = z.ndim - 2 if self.last else 0
