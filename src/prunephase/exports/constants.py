"""Constants: what a pruned network computes whatever its input, worked into the biases behind it."""

# O outputs and I inputs of a layer, C channels; of a tensor whose numbers are known in part, NaN stands for the others.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map

from prunephase.exports.graph import (
    ADDS,
    MEANS,
    RESULT,
    attends,
    is_alone,
    is_layer,
    is_move,
    kind,
    owned,
    shape,
    tensors,
)

AXIS = "axis"  # of the meta of a node that gives the constant part of a sum: the axis of its channels
EXECUTED: frozenset[object] = MEANS | {torch.cat, "expand"}  # keep unknown numbers unknown, as moves do
ROUNDING = 1e-12  # as far apart, relatively, may numbers be that exact arithmetic finds equal


def fold(graph: fx.GraphModule, axes: Mapping[fx.Node, int]) -> None:
    """Let no layer read what is constant, as far as biases can stand in for it; in place.

    A layer whose weights are all zero gives its bias, and what follows may be constant too. The zeros around a padded
    convolution are not that constant: the taps that meet them read on, but one channel is enough for that, which the
    others hand their weights to. The constant part of a sum becomes a buffer. axes: where the channels of a node lie.
    Computed in float64; the type of the graph's numbers stays. Raises ValueError where they are of several.
    """
    types = {value.dtype for value in graph.state_dict().values() if value.is_floating_point()}
    if len(types) != 1:
        raise ValueError(f"its numbers are of {len(types)} types, expected one")
    graph.double()
    folding = _Folding(graph)
    with torch.no_grad():
        folding.run()
    for node, source, value in folding.parts:
        vector = None if source not in axes else _along(value, axes[source])
        if vector is not None and not vector.isnan().any():
            _replace(graph, node, source, vector, axes[source])
    graph.to(types.pop())
    graph.graph.eliminate_dead_code()
    graph.recompile()


class _Folding(fx.Interpreter):
    """Runs the graph on what is known of every value, and folds as it goes.

    parts: sums, with one source that is constant while the other is not, and its values.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=True)
        self.whole, self.owned = graph, owned(graph)
        self.parts: list[tuple[fx.Node, fx.Node, Tensor]] = []

    def run_node(self, n: fx.Node) -> Any:
        """What is known of the node's result."""
        if n.op in ("get_attr", "output"):
            return super().run_node(n)
        module, given = self.owned.get(n), [self.env[source] for source in tensors(n)]
        if is_layer(module, n):
            _fold(module, given[0])
            nothing = given[0].isnan().all() and (module.weight != 0).flatten(1).any(1).all()
            return _unknown(n) if nothing else _through(module, given[0])
        if attends(n):
            return _attended(given[2], n)
        if not (is_alone(self.whole, n, module) or is_move(self.whole, n) or kind(self.whole, n) in EXECUTED):
            return _unknown(n)
        if kind(self.whole, n) in ADDS and len(n.args) == len(given) == 2 and not n.kwargs:
            for i, source in enumerate(tensors(n)):
                if shape(source) == shape(n) and not given[i].isnan().any() and given[1 - i].isnan().any():
                    self.parts.append((n, source, given[i]))
        result = super().run_node(n)
        return result if getattr(result, "shape", ()) == (shape(n) or ()) else _unknown(n)


def _unknown(node: fx.Node) -> Any:
    """The node's result with tensors of unknown numbers."""
    result = node.meta[RESULT]
    return tree_map(lambda v: torch.full_like(v, torch.nan, dtype=torch.double) if isinstance(v, Tensor) else v, result)


def _along(value: Tensor, axis: int) -> Tensor:
    """The number that each channel is everywhere, NaN where there is none. [..., C, ...] -> [C]."""
    flat = value.movedim(axis, 0).flatten(1)
    if flat.shape[1] == 0:
        return flat.new_full(flat.shape[:1], torch.nan)
    low, high = flat.aminmax(dim=1)
    return low.where(high - low <= ROUNDING * high.abs().maximum(low.abs()), torch.nan)


def _fold(layer: nn.Linear | _ConvNd, x: Tensor) -> None:
    """Take constant channels of the input x out of the weights, into the bias."""
    value = _along(x, -1 if isinstance(layer, nn.Linear) else 1)
    known = ~value.isnan()
    if not known.any():
        return
    weight = layer.weight.data.reshape(*layer.weight.shape[:2], -1)  # [O, I, taps]
    inside = _inside(layer, x) if isinstance(layer, _ConvNd) else torch.ones_like(known[:1])
    movable = known[:, None] & (inside | (value == 0)[:, None])  # [I, taps]
    value = value.where(known, 0)
    shift = torch.einsum("oit,i->o", weight * movable, value)
    weight.masked_fill_(movable, 0)
    if shift.any():
        layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias + shift)
    rest = known & (weight != 0).any(2).any(0)
    if rest.sum() > 1:
        carrier = value.abs().argmax()
        share = (value / value[carrier]).where(rest, 0)
        weight[:, carrier] = torch.einsum("oit,i->ot", weight, share)
        weight[:, rest & (torch.arange(len(rest), device=rest.device) != carrier)] = 0
    layer.weight.data = weight.view_as(layer.weight)


def _inside(layer: _ConvNd, x: Tensor) -> Tensor:
    """The taps of a kernel that never meet the zeros around the input. bool [taps]."""
    size = layer.weight[0, 0].numel()
    taps = torch.eye(size, dtype=x.dtype, device=x.device).view(size, 1, *layer.weight.shape[2:])
    met: Tensor = layer._conv_forward(torch.ones_like(x[:1, :1]), taps, None)
    return (met == 1).flatten(2).all(2)[0]


def _through(layer: nn.Linear | _ConvNd, x: Tensor) -> Tensor:
    """What is known of a layer's outputs: those of which no living weight reads an unknown number."""
    unknown, alive = x.isnan(), (layer.weight != 0).to(x.dtype)
    if isinstance(layer, _ConvNd):
        reads: Tensor = layer._conv_forward(unknown.to(x.dtype), alive, None)
    else:
        reads = functional.linear(unknown.to(x.dtype), alive)
    result: Tensor = layer(x.masked_fill(unknown, 0))
    return result.masked_fill(reads > 0.5, torch.nan)


def _attended(values: Tensor, node: fx.Node) -> Tensor:
    """What is known of attention: its weights sum to 1, so that features equal in all tokens stay as they are."""
    same = values[..., :1, :]
    result: Tensor = _unknown(node)
    return same.where((values == same).all(-2, keepdim=True), torch.nan).expand_as(result)


def _replace(graph: fx.GraphModule, node: fx.Node, source: fx.Node, vector: Tensor, axis: int) -> None:
    """Let a sum read a constant per channel, [C], in place of a source; or nothing in place of zeros."""
    if not vector.any():
        (other,) = (given for given in node.all_input_nodes if given is not source)
        node.replace_all_uses_with(other)
        return
    name = f"{node.name}_constant"
    form = [1] * len(shape(node) or ())
    form[axis] = -1
    graph.register_buffer(name, vector.view(form))
    with graph.graph.inserting_before(node):
        constant = graph.graph.get_attr(name)
    constant.meta[AXIS] = axis
    node.replace_input_with(source, constant)
