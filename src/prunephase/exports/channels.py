"""Channels: which of them live and die together in a graph, and which of them some living weight reads."""

# B batch, O outputs and I inputs of a layer, C channels, S columns of a channel behind a flatten.

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prunephase.exports.constants import AXIS
from prunephase.exports.graph import (
    FLATTENS,
    MEANS,
    RESULT,
    asks,
    dimensions,
    is_alone,
    is_layer,
    is_norm,
    kind,
    name_of,
    owned,
    shape,
    tensors,
)


@dataclass(frozen=True)
class Channels:
    """What is known of the channels of a graph's nodes; a node that is missing keeps all that it has.

    alive: bool [C], one tensor for all nodes whose channels go together; axis: where they lie; spans: S; layers, norms:
    their modules; constants: nodes that give a constant; held: what needs all channels of what it reads, by name.
    """

    alive: dict[fx.Node, Tensor] = field(default_factory=dict)
    axis: dict[fx.Node, int] = field(default_factory=dict)
    spans: dict[fx.Node, int] = field(default_factory=dict)
    layers: dict[fx.Node, nn.Linear | _ConvNd] = field(default_factory=dict)
    norms: dict[fx.Node, _BatchNorm] = field(default_factory=dict)
    constants: list[fx.Node] = field(default_factory=list)
    held: set[str] = field(default_factory=set)

    def source(self, node: fx.Node) -> fx.Node | None:
        """What a layer reads, where the channels of that are what the layer takes for channels."""
        (source,) = tensors(node)
        return source if self.axis.get(source) == self.axis[node] else None

    def columns(self, node: fx.Node) -> Tensor:
        """Which of its columns a layer is still given. bool [I]."""
        source = self.source(node)
        if source is not None:
            return self.alive[source].repeat_interleave(self.spans[source])
        weight = self.layers[node].weight
        return torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)


def channels(graph: fx.GraphModule) -> Channels:
    """Where the channels lie and which go together; alive are those that something other than a layer needs."""
    found, own = Channels(), owned(graph)
    for node in graph.graph.nodes:
        module, sources = own.get(node), tensors(node)
        if is_layer(module, node):
            axis = len(shape(node) or ()) - 1 if isinstance(module, nn.Linear) else 1
            found.layers[node] = module
            _begin(found, node, axis, len(module.weight))
            if found.source(node) is None:
                _hold(graph, found, node, sources)
        elif AXIS in node.meta:
            found.constants.append(node)
            _begin(found, node, node.meta[AXIS], (shape(node) or ())[node.meta[AXIS]])
        elif (span := _span(graph, node, module, found)) is not None:
            _join(found, node, sources, span)
            if is_norm(module):
                found.norms[node] = module
        elif not asks(node):
            _hold(graph, found, node, sources)
    return found


def reach(found: Channels) -> None:
    """Bring to life whatever a living channel reads, until nothing more is read.

    Where nothing lives, one channel that reads nothing stays: no kernel takes an empty tensor.
    """
    counts: list[int] = []
    while len(counts) < 2 or counts[-1] > counts[-2]:
        for node, layer in reversed(found.layers.items()):
            source = found.source(node)
            if source is not None:
                columns = read(layer.weight[found.alive[node]])
                found.alive[source].logical_or_(columns.view(-1, found.spans[source]).any(1))
        counts.append(sum(int(alive.sum()) for alive in found.alive.values()))
    for node, layer in found.layers.items():
        if not found.alive[node].any():
            layer.weight.data.zero_()
    for alive in found.alive.values():
        alive[0] |= ~alive.any()


def read(weight: Tensor) -> Tensor:
    """Which inputs the weights of a layer read. [O, I, ...] -> bool [I]."""
    return (weight != 0).movedim(1, 0).flatten(1).any(1)


def _begin(found: Channels, node: fx.Node, axis: int, size: int) -> None:
    found.alive[node] = torch.zeros(size, dtype=torch.bool, device=node.meta[RESULT].device)
    found.axis[node], found.spans[node] = axis, 1


def _join(found: Channels, node: fx.Node, sources: list[fx.Node], span: int) -> None:
    """Give a node the channels of its sources, which from now on go together."""
    first = sources[0]
    found.alive[node], found.axis[node], found.spans[node] = found.alive[first], found.axis[first], span
    for other in [found.alive[source] for source in sources[1:]]:
        found.alive[node].logical_or_(other)
        found.alive.update({n: found.alive[node] for n, held in found.alive.items() if held is other})


def _hold(graph: fx.GraphModule, found: Channels, node: fx.Node, sources: list[fx.Node]) -> None:
    """Keep all channels of the sources of a node that mixes them, or does who knows what."""
    for source in sources:
        if source in found.alive and not found.alive[source].all():
            found.alive[source].fill_(True)
            if node.op != "output":
                found.held.add(name_of(kind(graph, node)))


def _span(graph: fx.GraphModule, node: fx.Node, module: nn.Module | None, found: Channels) -> int | None:
    """S of a node that keeps the channels of all its sources apart; None of any other."""
    sources, made = tensors(node), shape(node)
    if made is None or not sources or any(source not in found.alive for source in sources):
        return None
    axis, span = found.axis[sources[0]], found.spans[sources[0]]
    if any((found.axis[source], found.spans[source]) != (axis, span) for source in sources):
        return None
    does, shapes = kind(graph, node), [shape(source) or () for source in sources]
    if does in FLATTENS:
        flat = axis == 1 and made == (shapes[0][0], prod(shapes[0][1:]))
        sized = does in ("view", "reshape") and node.args[2:] != (-1,)  # it would be told a size that is wrong then
        return span * prod(shapes[0][2:]) if flat and not sized else None
    if does in MEANS:
        over = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
        places = [over] if isinstance(over, int) else list(over) if isinstance(over, (list, tuple)) else []
        return span if axis == 1 and places and all(int(place) % len(shapes[0]) > 1 for place in places) else None
    if not all(len(given) == len(made) and given[axis] == made[axis] for given in shapes):
        return None
    if does == "expand":
        return span if node.args[1 + axis : 2 + axis] == (-1,) else None
    if dimensions(does) not in (None, len(made)) or (axis != 1 and (dimensions(does) or is_norm(module))):
        return None
    return span if is_alone(graph, node, module) else None
