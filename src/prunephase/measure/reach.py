"""Reach: which channels of a network lie on a path of surviving weights from its input to its output."""

# O outputs (channels, or features of a linear layer) and I inputs of a layer, C entries of a tensor along one axis.

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from prunephase.engine.channels import CHANNELWISE
from prunephase.measure.states import ACTIVATIONS

# What acts on every channel alone: modules, functions, and methods by their names.
_ALONE: tuple[object, ...] = (
    *(nn.Mish, nn.SELU, nn.CELU, nn.PReLU, nn.RReLU, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid),
    *(nn.LogSigmoid, nn.Upsample, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
    *(functional.dropout, functional.dropout2d, functional.batch_norm, torch.mean, torch.mul, torch.sub, torch.div),
    *(operator.mul, operator.imul, operator.sub, operator.truediv),
    *("mean", "contiguous", "clone", "float", "mul", "mul_", "sub", "sub_", "div", "div_"),
    *("relu_", "sigmoid_", "tanh_"),
)
_PASSES = CHANNELWISE | ACTIVATIONS | frozenset(_ALONE)
_FLATTENS = frozenset({nn.Flatten, torch.flatten, torch.reshape, "flatten", "view", "reshape"})


@dataclass(frozen=True)
class Reach:
    """Of each weight of Linear and Conv modules, by its name, bool on the CPU.

    fed: output channels that some path of surviving weights from the network's input enters, [O]; read: those from
    which such a path leads to its output, [O]; used: weights on a path from input to output, in the weight's shape.
    last: the weights of layers whose outputs are the network's. exact: whether every operation on the way is known; one
    that is not is taken to mix all that goes in into all that comes out, so that fed, read and used are the most that
    they can be.
    """

    fed: dict[str, Tensor]
    read: dict[str, Tensor]
    used: dict[str, Tensor]
    last: frozenset[str]
    exact: bool


def reach(network: nn.Module, masks: Mapping[str, Tensor], inputs: Tensor) -> Reach | None:
    """Follow the surviving weights of `network` through its operations. inputs: two examples.

    Paths run through weights alone: a bias feeds nothing, and the weights of a kernel that only ever meet padding
    count. Known are Linear and Conv modules (any groups), BatchNorm, dropout, activations, pools, flattening, and sums
    and products of equal shapes. None where torch.fx cannot trace the network.
    """
    twin = copy.deepcopy(network).eval()
    try:
        graph = fx.Tracer().trace(twin)
        with torch.no_grad():
            ShapeProp(fx.GraphModule(twin, graph)).propagate(inputs)
    except Exception:  # the user's code; its nominal sparsity is still known
        return None
    walk = _Walk(twin, masks)
    nodes = [node for node in graph.nodes if _shape(node) and node.op != "get_attr"]
    for node in nodes:
        if node.op != "output":
            walk.forth(node)
    for node in reversed(nodes):
        walk.back(node)
    return walk.found()


@dataclass(frozen=True)
class _Layer:
    """weight: its name; mask: what survives of it, in its shape; kept: which inputs its outputs read, [O, I]; axis: the
    dimension of its input along which I lies."""

    weight: str
    mask: Tensor
    kept: Tensor
    axis: int


class _Walk:
    """fed, read: bool [C] of each node's tensor along its axis of channels."""

    def __init__(self, network: nn.Module, masks: Mapping[str, Tensor]) -> None:
        self.modules = dict(network.named_modules(remove_duplicate=False))
        self.names = {id(weight): name for name, weight in network.named_parameters()}
        self.masks = masks
        self.fed: dict[fx.Node, Tensor] = {}
        self.read: dict[fx.Node, Tensor] = {}
        self.axis: dict[fx.Node, int] = {}
        self.layers: dict[fx.Node, _Layer] = {}
        self.exact = True

    def forth(self, node: fx.Node) -> None:
        """Which channels of a node its sources feed."""
        sources, shape = _sources(node), _shape(node)
        layer = self._layer(node)
        self.axis[node] = axis = self._axis(node, layer)
        if node.op == "placeholder":
            fed = torch.ones(shape[axis], dtype=torch.bool)
        elif layer is not None:
            self.layers[node] = layer
            given = self.fed[sources[0]]
            if self.axis[sources[0]] != layer.axis:  # what lies there now was mixed on the way
                self.exact = False
                given = given.any().expand(layer.kept.shape[1])
            fed = layer.kept[:, given].any(1)
        elif self._flattens(node):
            fed = self.fed[sources[0]].repeat_interleave(shape[1] // len(self.fed[sources[0]]))
        elif self._passes(node):
            fed = torch.stack([self.fed[source] for source in sources]).any(0)
        else:
            self.exact = False
            fed = torch.full((shape[axis],), any(bool(self.fed[source].any()) for source in sources))
        self.fed[node], self.read[node] = fed, torch.zeros_like(fed)

    def back(self, node: fx.Node) -> None:
        """Which channels of its sources a node brings to the output."""
        for source in _sources(node):
            if node.op == "output":
                self.read[source].fill_(True)
            elif node in self.layers:
                layer = self.layers[node]
                read = layer.kept[self.read[node]].any(0)
                self.read[source] |= read if self.axis[source] == layer.axis else read.any()
            elif self._flattens(node):
                self.read[source] |= self.read[node].view(len(self.read[source]), -1).any(1)
            elif self._passes(node):
                self.read[source] |= self.read[node]
            else:
                self.read[source] |= self.read[node].any()

    def found(self) -> Reach:
        """The layers' part of it; of a weight that is used twice, what either use does."""
        fed: dict[str, Tensor] = {}
        read: dict[str, Tensor] = {}
        used: dict[str, Tensor] = {}
        last = set()
        for node, layer in self.layers.items():
            source = _sources(node)[0]
            given = self.fed[source] if self.axis[source] == layer.axis else self.fed[source].any()
            here = _narrow(layer.kept & self.read[node][:, None] & given, layer.mask) & layer.mask
            for side, value in ((fed, self.fed[node]), (read, self.read[node]), (used, here)):
                side[layer.weight] = side[layer.weight] | value if layer.weight in side else value
            if self._ends(node):
                last.add(layer.weight)
        return Reach(fed, read, used, frozenset(last), self.exact)

    def _layer(self, node: fx.Node) -> _Layer | None:
        module, sources = self._module(node), _sources(node)
        if len(sources) != 1 or not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return None
        name = self.names[id(module.weight)]
        mask = self.masks[name].cpu() if name in self.masks else torch.ones(module.weight.shape, dtype=torch.bool)
        if isinstance(module, nn.Linear):
            return _Layer(name, mask, mask, len(_shape(sources[0])) - 1)
        return _Layer(name, mask, _widened(mask.flatten(2).any(2), module.groups), 1)

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _kind(self, node: fx.Node) -> object:
        module = self._module(node)
        return node.target if module is None else type(module)

    def _axis(self, node: fx.Node, layer: _Layer | None) -> int:
        """Where the channels of a node's tensor lie: where those of its source do, unless a layer makes new ones."""
        shape, sources = _shape(node), _sources(node)
        if layer is not None:
            return layer.axis
        if sources and len(shape) == len(_shape(sources[0])):
            return self.axis[sources[0]]
        return min(1, len(shape) - 1)

    def _passes(self, node: fx.Node) -> bool:
        """Whether a node keeps the channels of its sources apart."""
        sources, shape, axis = _sources(node), _shape(node), self.axis[node]
        known = self._kind(node) in _PASSES or isinstance(self._module(node), (_BatchNorm, _DropoutNd))
        aligned = (self.axis[s] == axis and _shape(s)[: axis + 1] == shape[: axis + 1] for s in sources)
        return known and bool(sources) and all(aligned)

    def _flattens(self, node: fx.Node) -> bool:
        """Whether a node lays the positions of each channel side by side: [B, C, ...] -> [B, C * ...]."""
        sources, shape = _sources(node), _shape(node)
        if self._kind(node) not in _FLATTENS or len(sources) != 1:
            return False
        given = _shape(sources[0])
        return self.axis[sources[0]] == 1 and len(given) > 1 and shape == (given[0], prod(given[1:]))

    def _ends(self, node: fx.Node) -> bool:
        """Whether a node's channels are the network's outputs."""
        users = [user for user in node.users if _shape(user)]
        return all(user.op == "output" or (self._passes(user) and self._ends(user)) for user in users)


def _widened(part: Tensor, groups: int) -> Tensor:
    """[O, I / groups] of a convolution in groups -> [O, I]."""
    blocks: Tensor = torch.block_diag(*part.float().chunk(groups))  # type: ignore[no-untyped-call]
    return blocks.bool()


def _narrow(wide: Tensor, mask: Tensor) -> Tensor:
    """The inverse of `_widened`, in the shape of a weight: [O, I] -> [O, I / groups, ...]."""
    groups = wide.shape[1] // mask.shape[1]
    blocks = [rows[:, g * mask.shape[1] : (g + 1) * mask.shape[1]] for g, rows in enumerate(wide.chunk(groups))]
    return torch.cat(blocks).view(*mask.shape[:2], *[1] * (mask.ndim - 2)).expand(mask.shape)


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Of the node's tensor; that of one channel where it gives several, () where it gives none."""
    meta = node.meta.get("tensor_meta")
    return tuple(getattr(meta, "shape", (1,) if meta else ()))


def _sources(node: fx.Node) -> list[fx.Node]:
    """The tensors that go into a node, but for the network's own, which no path comes from."""
    return [source for source in node.all_input_nodes if _shape(source) and source.op != "get_attr"]
