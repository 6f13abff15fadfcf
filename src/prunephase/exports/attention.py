"""Attention: the features of queries, keys and values that its projection needs, packed head by head."""

# B batch, N tokens, h heads, D features of a head, O outputs and I inputs of a layer.

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from prunephase.exports.channels import read
from prunephase.exports.graph import RESULT, attends, is_move, narrow, owned, shape


def pack(graph: fx.GraphModule) -> None:
    """Take out of attention, in place, what its weights make needless: features of heads, and whole heads.

    A feature of the values goes where the projection does not read it; one of queries and keys where the queries are
    zero, so that it adds nothing, or the keys constant, so that it adds the same for all of them, which softmax does
    not see. All heads keep as many features as the fullest one needs. Understood is scaled_dot_product_attention
    without a mask, whose inputs come from Linear modules and whose output goes to one, however the numbers are laid out
    in between.
    """
    for node in list(graph.graph.nodes):
        found = _understood(graph, node) if attends(node) else None
        if found is not None:
            _pack(graph, found)
    graph.graph.eliminate_dead_code()
    graph.recompile()


@dataclass(frozen=True)
class _Attention:
    """node: the attention; layers: the Linear nodes of queries, keys and values; rows: of their weights, each [h, D];
    project: the Linear behind; columns: of its weight, [h, D]; modules: of these nodes."""

    node: fx.Node
    layers: list[fx.Node]
    rows: list[Tensor]
    project: fx.Node
    columns: Tensor
    modules: dict[fx.Node, nn.Linear]


def _understood(graph: fx.GraphModule, node: fx.Node) -> _Attention | None:
    """Where the features of an attention come from and go to; None where they do more than that."""
    modules = {n: module for n, module in owned(graph).items() if type(module) is nn.Linear}
    inner, layers, rows = {node}, [], []
    for source in node.all_input_nodes:
        path: list[fx.Node] = []
        while source not in modules and is_move(graph, source):
            path.append(source)
            source = source.all_input_nodes[0]
        if source not in modules:
            return None
        layers.append(source)
        rows.append(_rows(graph, source, path[::-1]))
        inner.update(path, [source])
    if any(user not in inner for source in inner - {node} for user in source.users):
        return None
    path, project = [], node
    while len(project.users) == 1:
        (project,) = project.users
        if project in modules:
            columns = _columns(graph, node, path)
            if columns is None or any(places is None for places in rows):
                return None
            return _Attention(node, layers, [r for r in rows if r is not None], project, columns, modules)
        if not is_move(graph, project):
            return None
        path.append(project)
    return None


def _rows(graph: fx.GraphModule, layer: fx.Node, path: list[fx.Node]) -> Tensor | None:
    """Which output of a layer each feature of each head is, where the tokens stay what they are. int [h, D]."""
    size, made = shape(layer) or (), path[-1] if path else layer
    if len(size) != 3 or len(shape(made) or ()) != 4:
        return None
    places = _moved(graph, torch.arange(math.prod(size)).view(size), path)  # [B, h, N, D]
    tokens = torch.arange(size[0] * size[1]).view(size[0], 1, size[1], 1)
    rows: Tensor = (places % size[2])[0, :, 0]
    expected = tokens * size[2] + rows[None, :, None]
    return rows if torch.equal(places, expected) else None


def _columns(graph: fx.GraphModule, node: fx.Node, path: list[fx.Node]) -> Tensor | None:
    """Which input of the projection each feature of each head becomes, where the tokens stay what they are. [h, D]."""
    batch, heads, tokens, features = size = shape(node) or ()
    places = torch.arange(math.prod(size)).view(size)
    moved = _moved(graph, places, path)
    if moved.shape != (batch, tokens, heads * features):
        return None
    first = moved[0, 0]  # of the first token: which head and which feature stand where
    order = first // (tokens * features) * features + first % features
    if not torch.equal(moved, places.transpose(1, 2).flatten(2)[..., order]):
        return None
    columns: Tensor = order.argsort().view(heads, features)
    return columns


def _moved(graph: fx.GraphModule, value: Any, path: list[fx.Node]) -> Any:
    """What a chain of moves makes of a value."""
    for node in path:
        given = {source: source.meta[RESULT] for source in node.all_input_nodes} | {node.all_input_nodes[0]: value}
        args = fx.node.map_arg(node.args, given.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, given.__getitem__)
        if node.op == "call_module":
            value = graph.get_submodule(str(node.target))(*args, **kwargs)
        elif node.op == "call_method":
            value = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            value = node.target(*args, **kwargs)  # type: ignore[operator]
    return value


def _pack(graph: fx.GraphModule, found: _Attention) -> None:
    """Keep the needed heads, and of each as many features as the fullest one needs."""
    (queries, keys, _), project = (found.modules[layer] for layer in found.layers), found.modules[found.project]
    query, key = queries.weight[found.rows[0]], keys.weight[found.rows[1]]  # [h, D, I]
    asking, telling = (query != 0).any(2), (key != 0).any(2)
    if queries.bias is not None:
        asking |= queries.bias[found.rows[0]] != 0
    values = read(project.weight)[found.columns]
    heads = values.any(1)
    heads[0] |= ~heads.any()  # no kernel takes an empty tensor
    scores = (asking & telling)[heads]
    picks = [_fullest(scores), _fullest(scores), _fullest(values[heads])]
    if not all(pick.shape == rows.shape for pick, rows in zip(picks, found.rows, strict=True)):
        rows = [given[heads].gather(1, pick) for given, pick in zip(found.rows, picks, strict=True)]
        columns = found.columns[heads].gather(1, picks[2])
        _rewrite(graph, found, rows, columns)


def _fullest(needed: Tensor) -> Tensor:
    """The needed features of each head first, as many as the fullest head needs; the rest do no harm. int [h, D]."""
    width = max(1, int(needed.sum(1).max()))
    return needed.int().argsort(dim=1, descending=True, stable=True)[:, :width]


def _rewrite(graph: fx.GraphModule, found: _Attention, rows: list[Tensor], columns: Tensor) -> None:
    """Let the layers give these rows, and the projection read these columns."""
    node, g = found.node, graph.graph
    inputs: dict[int, fx.Node] = {}
    with g.inserting_before(node):
        for layer in dict.fromkeys(found.layers):
            parts = [i for i, source in enumerate(found.layers) if source is layer]
            module = found.modules[layer]
            narrow(module, torch.cat([rows[i].flatten() for i in parts]), torch.arange(module.in_features))
            split = g.call_method("split", (layer, [rows[i].numel() for i in parts], -1))
            for place, i in enumerate(parts):
                part = g.call_function(operator.getitem, (split, place)) if len(parts) > 1 else layer
                heads = g.call_method("unflatten", (part, -1, tuple(rows[i].shape)))
                inputs[i] = g.call_method("transpose", (heads, 1, 2))
    scale = node.kwargs.get("scale")
    scale = 1 / math.sqrt(found.rows[0].shape[1]) if scale is None else scale
    node.args, node.kwargs = (inputs[0], inputs[1], inputs[2]), {**node.kwargs, "scale": scale}
    narrow(found.modules[found.project], torch.arange(len(found.modules[found.project].weight)), columns.flatten())
    with g.inserting_before(found.project):
        flat = g.call_method("flatten", (g.call_method("transpose", (node, 1, 2)), 2))
    found.project.args = (flat,)
