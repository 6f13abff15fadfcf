"""A network as a graph of operations: what each of them is, and what can be said of it without knowing the inputs."""

# B batch, C channels.

from __future__ import annotations

import copy
import inspect
import operator
import re
from collections import Counter
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map

from prunephase.engine.channels import CHANNELWISE

# What Python writes as x += y and the like, and the functions whose names merely end as those in place do.
_IN_PLACE: dict[object, Any] = {
    getattr(operator, "i" + name.rstrip("_")): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor")
}
_WORDS = frozenset({operator.and_, operator.or_, operator.not_, operator.is_})

RESULT = "result"  # of a node's meta: what it gave, its tensors without their numbers

# Dropout is the identity here: a network that is evaluated.
SAME: frozenset[object] = frozenset(
    {nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, "contiguous", "clone"}
)
ADDS: frozenset[object] = frozenset({torch.add, operator.add, "add"})
FLATTENS: frozenset[object] = frozenset({nn.Flatten, torch.flatten, "flatten", "view", "reshape"})
MEANS: frozenset[object] = frozenset({torch.mean, "mean"})
# What acts on every channel alone. An unknown number (NaN) that goes in comes out unknown.
ALONE: frozenset[object] = (CHANNELWISE | SAME | ADDS) - FLATTENS | frozenset(
    {nn.Mish, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.LogSigmoid}
    | {nn.MaxPool1d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool3d}
    | {nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool3d}
    | {functional.elu, functional.leaky_relu, functional.relu6, functional.hardswish, functional.mish}
    | {torch.sub, torch.mul, torch.div, operator.sub, operator.mul, operator.truediv}
    | {"sub", "mul", "div"}
)
# What only lays numbers elsewhere.
MOVES: frozenset[object] = (
    SAME
    | FLATTENS
    | frozenset(
        {nn.Unflatten, torch.reshape, torch.permute, torch.transpose, torch.unflatten, torch.unbind, torch.chunk}
        | {torch.split, operator.getitem, "permute", "transpose", "unflatten", "unbind", "chunk", "split", "select"}
    )
)


def traced(network: nn.Module, inputs: Tensor) -> fx.GraphModule:
    """A copy of `network` in eval mode as a graph whose operations change nothing in place.

    inputs: two examples. Raises whatever tracing or running raises, and ValueError where an operation in place changes
    something that others see.
    """
    twin = copy.deepcopy(network).eval()
    graph = fx.GraphModule(twin, fx.Tracer().trace(twin))
    graph.graph.eliminate_dead_code()
    for node in graph.graph.nodes:
        _outside(graph, node)
    graph.recompile()
    record(graph, inputs)
    return graph


def record(graph: fx.GraphModule, inputs: Tensor) -> None:
    """Run the graph, and note in every node's meta what it gives."""
    with torch.no_grad():
        _Record(graph, garbage_collect_values=True).run(inputs)


class _Record(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        n.meta[RESULT] = tree_map(lambda v: v.new_empty(()).expand(v.shape) if isinstance(v, Tensor) else v, result)
        return result


def shape(node: fx.Node) -> tuple[int, ...] | None:
    """Of the tensor that a node gives; None where it gives something else."""
    result = node.meta[RESULT]
    return tuple(result.shape) if isinstance(result, Tensor) else None


def tensors(node: fx.Node) -> list[fx.Node]:
    """The sources of a node that are tensors."""
    return [source for source in node.all_input_nodes if shape(source) is not None]


def kind(graph: fx.GraphModule, node: fx.Node) -> object:
    """What a node does: the type of its module, its function or the name of its method.

    A module with hooks or a forward of its own is its own kind.
    """
    if node.op != "call_module":
        return node.target if node.op in ("call_function", "call_method") else node.op
    module = graph.get_submodule(str(node.target))
    changed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return module if changed else type(module)


def is_move(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node only lays the numbers of its first source elsewhere, in a way that no number decides."""
    return kind(graph, node) in MOVES and len(tensors(node)) <= 1


def owned(graph: fx.GraphModule) -> dict[fx.Node, nn.Module]:
    """The modules that the graph tells everything of: called once, without hooks, all parameters and buffers theirs."""
    calls = [node for node in graph.graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    read = [node.target for node in graph.graph.nodes if node.op == "get_attr"]
    held = Counter(id(value) for module in graph.modules() for value in _values(module))
    held.update(id(operator.attrgetter(str(name))(graph)) for name in read)
    modules = {node: graph.get_submodule(str(node.target)) for node in calls if times[node.target] == 1}
    return {
        node: module
        for node, module in modules.items()
        if kind(graph, node) is type(module) and all(held[id(value)] == 1 for value in _values(module))
    }


def is_layer(module: nn.Module | None, node: fx.Node) -> TypeGuard[nn.Linear | _ConvNd]:
    """Whether each output channel of a node is a sum over all its input channels, plus a bias. module: its own."""
    if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        assert isinstance(module, _ConvNd)
        return module.groups == 1 and len(shape(node) or ()) == module.weight.ndim
    return type(module) is nn.Linear


def is_norm(module: nn.Module | None) -> TypeGuard[_BatchNorm]:
    """Whether a module is a BatchNorm with statistics of its own."""
    known = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return known and isinstance(module, _BatchNorm) and module.running_mean is not None


def is_alone(graph: fx.GraphModule, node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node acts on every channel alone and gives the same each time. module: its own, where it owns one."""
    does = kind(graph, node)
    if does is functional.dropout:
        return _said(node).get("training") is False
    return does in ALONE or is_norm(module)


def dimensions(does: object) -> int | None:
    """How many dimensions an input of a pool has, by its name: MaxPool2d -> 4. None where any will do."""
    found = re.search(r"pool(\d)d$", name_of(does).lower())
    return int(found[1]) + 2 if found else None


def attends(node: fx.Node) -> bool:
    """Whether a node is attention without a mask and without chance, of queries, keys and values [B, heads, N, D]."""
    if node.target is not functional.scaled_dot_product_attention or len(node.args) != 3 or len(tensors(node)) != 3:
        return False
    more = {name for name, value in node.kwargs.items() if value}
    return more <= {"scale", "is_causal"} and len(shape(node) or ()) == 4


def narrow(layer: nn.Linear | _ConvNd, made: Tensor, given: Tensor) -> None:
    """Leave a layer the outputs `made` and the inputs `given`, in this order; places, or bool."""
    layer.weight = nn.Parameter(layer.weight.data[made][:, given], layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.data[made], layer.bias.requires_grad)
    out, into = layer.weight.shape[:2]
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = out, into
    else:
        layer.out_channels, layer.in_channels = out, into


def asks(node: fx.Node) -> bool:
    """Whether a node asks of a tensor only what all its channels together do not change: its batch, type or device."""
    if node.target is not getattr:
        return node.op == "call_method" and (node.target == "dim" or (node.target, *node.args[1:]) == ("size", 0))
    first = all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
    return node.args[1] in ("ndim", "dtype", "device") or (node.args[1] == "shape" and first)


def _values(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _outside(graph: fx.GraphModule, node: fx.Node) -> None:
    """Replace an operation in place by its like that is not. Raises ValueError where that is something else."""
    module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
    if "out" in node.kwargs:
        raise ValueError(f"{node.name} writes into a tensor that it is given")
    if getattr(module, "inplace", False):
        module.inplace = False  # type: ignore[union-attr]
    elif (said := _said(node)).get("inplace"):
        node.args, node.kwargs = (), {**said, "inplace": False}
    elif node.op == "call_method" and re.search(r"[^_]_$", str(node.target)):
        node.target = str(node.target)[:-1]
    elif node.op == "call_function" and node.target in _IN_PLACE:
        node.target = _IN_PLACE[node.target]
    elif node.op == "call_function" and re.search(r"[^_]_$", name_of(node.target)) and node.target not in _WORDS:
        raise ValueError(f"{node.name} changes its input")
    else:
        return
    source = node.all_input_nodes[0]
    while len(source.users) == 1 and source.all_input_nodes and not _makes(graph, source):
        source = source.all_input_nodes[0]
    if len(source.users) > 1 or not source.all_input_nodes:
        raise ValueError(f"{node.name} changes in place what others may read")


def _makes(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node gives a new tensor, and no view of its source."""
    does = kind(graph, node)
    return does in ALONE - SAME - {"expand"} or (node.op == "call_module" and does not in MOVES)


def name_of(does: object) -> str:
    """What to call a kind of node."""
    return str(getattr(does, "__name__", type(does).__name__ if isinstance(does, nn.Module) else does))


def _said(node: fx.Node) -> dict[str, Any]:
    """The arguments of a function of torch.nn.functional by their names; {} of anything else."""
    if not callable(node.target) or node.target.__module__ != functional.__name__:
        return {}
    return dict(zip(inspect.signature(node.target).parameters, node.args, strict=False)) | node.kwargs
