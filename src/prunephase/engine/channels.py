"""Channels that nothing reads any more, left out of the computation for the time of a level."""

# B batch, O outputs (channels or units) and I inputs of a layer, C channels, S columns of a channel behind a flatten.

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

# What acts on every channel alone and draws nothing. Dropout is missing: its draws depend on the shape.
CHANNELWISE: frozenset[object] = frozenset(
    {nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid}
    | {nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten}
    | {torch.relu, torch.tanh, torch.sigmoid, torch.flatten, torch.add, operator.add, operator.iadd}
    | {functional.relu, functional.gelu, functional.silu, functional.max_pool2d, functional.avg_pool2d}
    | {functional.adaptive_avg_pool2d, "relu", "relu_", "tanh", "sigmoid", "flatten", "expand", "add", "add_"}
)


@dataclass(frozen=True)
class Living:
    """What of a network is computed.

    modules: {name: (places of the living inputs, of the living outputs)} of the modules that lose some; dead: outputs
    of layers that are computed no more; saved: the share of the multiplications in Conv2d and Linear modules that goes
    with them, in [0, 1].
    """

    modules: dict[str, tuple[Tensor, Tensor]]
    dead: int
    saved: float


def living(network: nn.Module, masks: Mapping[str, Tensor], inputs: Tensor) -> Living:
    """Which channels of `network` reach its output through the weights that `masks` keep. inputs: a few examples.

    A channel is dead where every weight that reads it is pruned, or belongs to dead channels only. A channel without
    inputs lives: it is a constant that trains. Where a whole layer is dead, its first channel lives on. What torch.fx
    cannot trace, and every operation that is not known to keep channels apart, keeps its channels alive.
    """
    nodes = _traced(network, inputs)
    modules = {node: network.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"}
    flow = _flow(nodes, modules, masks)
    flow.reach()
    for channels in flow.alive.values():
        channels[0] |= not channels.any()  # no kernel takes an empty tensor
    flow.reach()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    dead, work, saved = 0, 0.0, 0.0
    for node, module in modules.items():
        if not isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
            continue
        (source,) = node.all_input_nodes
        read, made = flow.alive[source].repeat_interleave(flow.spans[source]), flow.alive[node]
        if not (read.all() and made.all()):
            found[str(node.target)] = (read.nonzero().squeeze(1), made.nonzero().squeeze(1))
        if not isinstance(module, nn.BatchNorm2d):
            multiplications = module.weight.numel() * prod(_shape(node)) / len(module.weight)
            work += multiplications
            if node in flow.kept:
                dead += int((~made).sum())
                saved += multiplications * (1 - int(read.sum()) * int(made.sum()) / flow.kept[node].numel())
    return Living(found, dead, saved / work if work else 0.0)


@dataclass(frozen=True)
class _Flow:
    """alive: bool [C], one tensor for nodes that carry the same channels; spans: S; kept: living weights [O, I]."""

    alive: dict[fx.Node, Tensor]
    spans: dict[fx.Node, int]
    kept: dict[fx.Node, Tensor]

    def reach(self) -> None:
        """Bring to life whatever a living channel reads, until nothing more is read."""
        counts: list[int] = []
        while len(counts) < 2 or counts[-1] > counts[-2]:
            for node, weights in reversed(list(self.kept.items())):
                (source,) = node.all_input_nodes
                read = weights[self.alive[node]].any(0)
                self.alive[source].logical_or_(read.view(-1, self.spans[source]).any(1))
            counts.append(sum(int(channels.sum()) for channels in self.alive.values()))


def _flow(nodes: list[fx.Node], modules: Mapping[fx.Node, nn.Module], masks: Mapping[str, Tensor]) -> _Flow:
    """Layers with dead outputs; everything else joins the channels that it passes on, or wants all of what it takes."""
    alive: dict[fx.Node, Tensor] = {}
    spans: dict[fx.Node, int] = {}
    kept: dict[fx.Node, Tensor] = {}
    calls = Counter(modules.values())
    for node in nodes:
        module, sources = modules.get(node), node.all_input_nodes
        foreign = module is not None and _foreign(module, calls[module])
        span = None if foreign else _span(node, module, spans)
        if span is not None:
            alive[node], spans[node] = alive[sources[0]], span
            for held in [alive[source] for source in sources[1:]]:
                alive[node].logical_or_(held)
                alive.update({n: alive[node] for n, other in alive.items() if other is held})
        elif module is not None and not foreign and _is_layer(module, _shape(node)):
            mask = masks.get(f"{node.target}.weight", torch.ones_like(module.weight, dtype=torch.bool))
            kept[node] = mask.view(*mask.shape[:2], -1).any(2)
            alive[node], spans[node] = torch.zeros_like(kept[node][:, 0]), 1
        else:
            for source in sources:
                alive[source].fill_(True)
            alive[node], spans[node] = torch.ones(([*_shape(node), 1, 1])[1], dtype=torch.bool), 1
    return _Flow(alive, spans, kept)


def _traced(network: nn.Module, inputs: Tensor) -> list[fx.Node]:
    """The operations of the network in order; none where it does not trace, or is another network when evaluated."""
    twin = copy.deepcopy(network)
    try:
        graphs = [fx.Tracer().trace(twin.train(training)) for training in (True, False)]
        ShapeProp(fx.GraphModule(twin, graphs[1])).propagate(inputs)
    except Exception:  # the user's code, and there is always the plain loop
        return []
    training, evaluated = ([(node.op, node.target) for node in graph.nodes] for graph in graphs)
    return list(graphs[1].nodes) if training == evaluated else []


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Of the node's tensor; () where it gives something else."""
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _span(node: fx.Node, module: nn.Module | None, spans: Mapping[fx.Node, int]) -> int | None:
    """S of a node that keeps the channels of all its sources apart; None of any other."""
    sources, shape = node.all_input_nodes, _shape(node)
    if type(module) is nn.BatchNorm2d:
        known = module.affine and module.track_running_stats and module.momentum is not None
    else:
        known = (node.target if module is None else type(module)) in CHANNELWISE
    if not known or not sources or len({spans[source] for source in sources}) > 1:
        return None
    shapes = [_shape(source) for source in sources]
    if all(len(given) == len(shape) > 1 and given[:2] == shape[:2] for given in shapes):
        return spans[sources[0]]
    if len(shapes) == 1 and len(shapes[0]) > 2 and shape == (shapes[0][0], prod(shapes[0][1:])):  # flattened
        return spans[sources[0]] * prod(shapes[0][2:])
    return None


def _foreign(module: nn.Module, calls: int) -> bool:
    """Whether more happens with a module than its one call in the graph says."""
    return (calls > 1 and bool(list(module.parameters()))) or bool(module._forward_hooks or module._forward_pre_hooks)


def _is_layer(module: nn.Module, shape: tuple[int, ...]) -> TypeGuard[nn.Conv2d | nn.Linear]:
    """Whether a module that gives `shape` reads all its input channels for each of its own."""
    if type(module) is nn.Linear:
        return len(shape) == 2
    return type(module) is nn.Conv2d and module.groups == 1 and len(shape) == 4


@contextmanager
def compacted(network: nn.Module, found: Living) -> Iterator[None]:
    """For the time of the block, the modules of `found` compute their living channels alone.

    Pruned weights are zero. What the network gives, and the gradients of living weights, are those of the whole network
    but for rounding; parameters stay whole, and those of dead channels get a zero gradient, as in the whole network.
    Between modules tensors carry the living channels: whoever calls parts of the network sees fewer. The running
    statistics of a dead BatchNorm2d channel, which nobody can know without computing it, stay as they were.
    """
    chosen = {network.get_submodule(name): places for name, places in found.modules.items()}
    try:
        for module, (read, made) in chosen.items():
            vars(module)["forward"] = _Forward(module, read, made)
        yield
    finally:
        for module in chosen:
            vars(module).pop("forward", None)


class _Forward:
    """Stands in for a module's forward. read, made: places of the living inputs and outputs."""

    def __init__(self, module: nn.Module, read: Tensor, made: Tensor) -> None:
        self.module, self.read, self.made = module, read, made

    def __deepcopy__(self, memo: dict[int, Any]) -> _Forward:
        """Of a copied network, the copied module."""
        return _Forward(copy.deepcopy(self.module, memo), self.read, self.made)

    def __call__(self, input: Tensor) -> Tensor:
        """[B, living inputs, ...] -> [B, living outputs, ...]."""
        module, x = self.module, input
        if isinstance(module, nn.BatchNorm2d):
            return self._normalise(module, x)
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        weight: Tensor = _Part.apply(module.weight, self.made, self.read)  # type: ignore[no-untyped-call]
        bias = None if module.bias is None else module.bias.index_select(0, self.made)
        if isinstance(module, nn.Conv2d):
            convolved: Tensor = module._conv_forward(x, weight, bias)
            return convolved
        return functional.linear(x, weight, bias)

    def _normalise(self, module: nn.BatchNorm2d, x: Tensor) -> Tensor:
        """BatchNorm2d, its running statistics included."""
        assert module.running_mean is not None
        assert module.running_var is not None
        assert module.num_batches_tracked is not None
        whole = (module.running_mean, module.running_var, module.weight, module.bias)
        mean, variance, weight, bias = (held.index_select(0, self.made) for held in whole)
        momentum = module.momentum or 0.0
        y = functional.batch_norm(x, mean, variance, weight, bias, module.training, momentum, module.eps)
        if module.training:
            module.num_batches_tracked.add_(1)
            module.running_mean.index_copy_(0, self.made, mean)
            module.running_var.index_copy_(0, self.made, variance)
        return y


class _Part(torch.autograd.Function):
    """weight [O, I, ...] -> weight[made][:, read]; torch's own gradient of it takes ten times as long."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, made: Tensor, read: Tensor) -> Tensor:
        ctx.save_for_backward(weight, made, read)
        return weight.index_select(0, made).index_select(1, read)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        weight, made, read = ctx.saved_tensors
        rows = slope.new_zeros(len(made), *weight.shape[1:]).index_copy_(1, read, slope)
        return torch.zeros_like(weight).index_copy_(0, made, rows), None, None
