"""The compacted network: a pruned one without the units, channels and inputs that no surviving path uses."""

# O outputs and I inputs of a layer, C channels.

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from prunephase.exports.attention import pack
from prunephase.exports.channels import Channels, channels, reach, read
from prunephase.exports.constants import fold
from prunephase.exports.graph import narrow, record, tensors, traced

COPY = 16  # multiplications that take as long as copying one number: 2 to 30 on a CPU


@dataclass(frozen=True)
class Compacted:
    """A network that computes the same with less.

    network: dense, in eval mode, an fx.GraphModule where it was understood; before, after: shapes of the weights by
    module, without those that vanished; kept: one sentence on what got smaller, and what could not.
    """

    network: nn.Module
    before: Mapping[str, tuple[int, ...]]
    after: Mapping[str, tuple[int, ...]]
    kept: str


def compact(network: nn.Module, example: Tensor) -> Compacted:
    """Remove from a copy of `network` whatever its zero weights make needless; the outputs in eval mode stay the same.

    example: a batch of inputs on the network's device, [B, ...]. Units and channels that nothing reads go; so do those
    that are constant since all their weights are zero: biases take them over, exactly. A layer that reads few of its
    inputs gets those alone. A channel of a sum goes where it goes from all the parts; a head of attention gets as few
    features as the fullest head needs. What is not understood keeps all of its channels. A network that cannot be
    traced, or that would change on the example by more than rounding, is left as it is.
    """
    before = _shapes(network)
    dense = copy.deepcopy(network).eval().cpu()
    inputs = example.cpu()
    try:
        graph, found = _compacted(dense, torch.cat([inputs[:1], inputs[:1]]))
        _check(graph, dense, inputs)
    except Exception as problem:  # of the user's code; a dense network is right as well
        reason = " ".join(str(problem).split()).partition(". ")[0].rstrip(".")
        return Compacted(dense.to(example.device), before, before, f"The network is left as it is: {reason}.")
    after = _shapes(graph)
    sizes = [sum(parameter.numel() for parameter in n.parameters()) for n in (dense, graph)]
    return Compacted(graph.to(example.device), before, after, _sentence(before, after, found, *sizes))


def _compacted(dense: nn.Module, inputs: Tensor) -> tuple[fx.GraphModule, Channels]:
    """The compacted network, and what is known of its channels. inputs: two examples."""
    graph = traced(dense, inputs)
    fold(graph, channels(graph).axis)
    record(graph, inputs)
    pack(graph)
    record(graph, inputs)
    found = channels(graph)
    reach(found)
    _shrink(graph, found)
    return graph, found


def _shrink(graph: fx.GraphModule, found: Channels) -> None:
    """Take what is dead out of the modules, in place."""
    for node, layer in found.layers.items():
        made, given = found.alive[node], found.columns(node)
        places = read(layer.weight.data[made][:, given])
        places[0] |= ~places.any()
        spared = int((~places).sum()) * int(made.sum()) * layer.weight[0, 0].numel()
        if spared > COPY * int(places.sum()):
            (source,) = tensors(node)
            graph.register_buffer(name := f"{node.name}_inputs", places.nonzero().squeeze(1))
            with graph.graph.inserting_before(node):
                axis = -1 if isinstance(layer, nn.Linear) else 1
                gathered = graph.graph.call_function(torch.index_select, (source, axis, graph.graph.get_attr(name)))
            node.replace_input_with(source, gathered)
            given = given.nonzero().squeeze(1)[places]
        narrow(layer, made, given)
    for node, norm in found.norms.items():
        made = found.alive[node]
        for name, value in norm.named_parameters():
            setattr(norm, name, nn.Parameter(value.data[made], value.requires_grad))
        for name in ("running_mean", "running_var"):
            setattr(norm, name, getattr(norm, name)[made])
        norm.num_features = int(made.sum())
    for node in found.constants:
        axis, made = found.axis[node], found.alive[node]
        setattr(graph, str(node.target), getattr(graph, str(node.target)).index_select(axis, made.nonzero().squeeze(1)))
    graph.delete_all_unused_submodules()
    graph.recompile()


def _check(graph: nn.Module, dense: nn.Module, example: Tensor) -> None:
    """Raise where the outputs on the example differ by more than rounding."""
    with torch.no_grad():
        expected, given = dense(example), graph(example)
    if not isinstance(expected, Tensor):
        raise ValueError(f"it gives a {type(expected).__name__}, expected one tensor")
    allowed = math.sqrt(torch.finfo(expected.dtype).eps) * float(expected.abs().max())
    if not torch.allclose(given, expected, rtol=0, atol=allowed, equal_nan=True):
        raise ValueError(f"its outputs on the example would change by {float((given - expected).abs().max()):.1e}")


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    named = network.named_modules()
    return {name: tuple(m.weight.shape) for name, m in named if isinstance(getattr(m, "weight", None), Tensor)}


def _sentence(
    before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]], found: Channels, was: int, now: int
) -> str:
    gone = len(before.keys() - after.keys())
    smaller = sum(shape != before[name] for name, shape in after.items())
    said = f"Of {len(before)} modules with weights {smaller} got smaller and {gone} vanished"
    said += f" ({was:,} parameters became {now:,})" if now < was else ""
    held = f", or by what needs all of its inputs ({', '.join(sorted(found.held))})" if found.held else ""
    return f"{said}; what stays is read by surviving weights{held}."
