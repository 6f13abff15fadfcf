"""Layers: which parameters of a network may be pruned, and how many of each stay in any case."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from fnmatch import fnmatchcase

from torch import nn

from prunephase.errors import UserError
from prunephase.sections import Pruning

# Modules that multiply their input by weights, and what they call the weights and the biases.
_KINDS: tuple[tuple[tuple[type[nn.Module], ...], str, str], ...] = (
    (
        (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        "weight",
        "bias",
    ),
    ((nn.MultiheadAttention,), r"(in|q|k|v)_proj_weight", "in_proj_bias"),
    ((nn.RNNBase, nn.RNNCellBase), r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?", r"bias_(ih|hh)(_l\d+(_reverse)?)?"),
)


def weights(network: nn.Module, biases: bool = False) -> dict[str, list[str]]:
    """{module name: names of its weights}, in the order of the modules; a weight of several modules counts once.

    Of Linear, Conv, MultiheadAttention, RNN, LSTM and GRU modules, not of normalisation layers and embeddings. A weight
    is called as `named_parameters` calls it, and a network that is itself a layer is called "whole". biases: theirs as
    well.
    """
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for path, _, name in _held(network, biases):
        if name not in seen:
            seen.add(name)
            found.setdefault(path or "whole", []).append(name)
    return found


def prunable(network: nn.Module, spec: Pruning) -> tuple[dict[str, nn.Parameter], int]:
    """Weights that may be pruned, {parameter name: parameter} in parameter order, and how many others were left out.

    Candidates are the trained `weights` of the network's layers; `spec.include` and `spec.exclude` choose among them,
    by the name of a module or, where a module has several weights, of one of these. `spec.parameters` adds any others
    by their own names. A weight used by several modules counts once, and each of them names it. Frozen weights
    (requires_grad False) stay as they are, unless `spec.parameters` names them. Raises UserError where nothing is left
    or a pattern matches nothing.
    """
    parameters, called = dict(network.named_parameters()), _called(network)
    if not called and not spec.parameters:
        raise UserError(
            "model: no prunable weights; looked for trained ones of Linear, Conv, attention and recurrent modules; "
            "name others in pruning.parameters"
        )
    layers = ", ".join(dict.fromkeys(names[0] for names in called.values()))
    for field, patterns in (("include", spec.include), ("exclude", spec.exclude)):
        for pattern in patterns:
            if called and not any(_fits(pattern, names) for names in called.values()):
                raise UserError(f"pruning.{field}: '{pattern}' matches no layer; the layers are {layers}")
    for pattern in spec.parameters:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise UserError(
                f"pruning.parameters: '{pattern}' matches no parameter; the parameters are {', '.join(parameters)}"
            )
    layered = {
        name
        for name, names in called.items()
        if any(_fits(p, names) for p in spec.include) and not any(_fits(p, names) for p in spec.exclude)
    }
    chosen = {
        name: parameter
        for name, parameter in parameters.items()
        if name in layered or any(fnmatchcase(name, pattern) for pattern in spec.parameters)
    }
    if not chosen:
        raise UserError(f"pruning: no prunable weights left by include and exclude; the layers are {layers}")
    return chosen, sum(parameters[name].numel() for name in called if name not in chosen)


def floors(network: nn.Module, spec: Pruning) -> dict[str, int]:
    """How many weights each prunable parameter keeps at least, {parameter name: count}, by `spec.floor`.

    A share is rounded up, and a count is at most all there are; of several patterns that fit, the highest floor holds.
    Parameters without a floor are left out. Raises UserError where a pattern matches none.
    """
    chosen, called = prunable(network, spec)[0], _called(network)
    known = {name: [*called.get(name, []), name] for name in chosen}
    for pattern in spec.floor:
        if not any(_fits(pattern, names) for names in known.values()):
            listing = ", ".join(dict.fromkeys(names[0] for names in known.values()))
            raise UserError(f"pruning.floor: '{pattern}' matches nothing that is pruned; that is {listing}")
    found: dict[str, int] = {}
    for name, parameter in chosen.items():
        size = parameter.numel()
        fitting = [_least(least, size) for pattern, least in spec.floor.items() if _fits(pattern, known[name])]
        if fitting:
            found[name] = max(fitting)
    return found


def _least(floor: float, size: int) -> int:
    # Of the decimal that was written: 0.07 * 100 is more than 7 in binary.
    return math.ceil(Decimal(repr(floor)) * size) if floor < 1 else min(int(floor), size)


def _called(network: nn.Module) -> dict[str, list[str]]:
    """{parameter name: names by which patterns know it} of the trained weights of layers."""
    found: dict[str, list[str]] = {}
    held = [(path, own, name) for path, own, name in _held(network) if network.get_parameter(name).requires_grad]
    counts = Counter(path for path, _, _ in held)
    for path, own, name in held:
        finer = [f"{path}.{own}" if path else own] if counts[path] > 1 else []
        found.setdefault(name, []).extend([path, *finer])
    return found


def _held(network: nn.Module, biases: bool = False) -> Iterator[tuple[str, str, str]]:
    """Module name, what the module calls its weight, and what the network calls it; shared ones come several times."""
    canonical = {id(parameter): name for name, parameter in network.named_parameters()}
    for path, module in network.named_modules():
        for kinds, weight, bias in _KINDS:
            if isinstance(module, kinds):
                wanted = f"{weight}|{bias}" if biases else weight
                for own, parameter in module.named_parameters(recurse=False):
                    if re.fullmatch(wanted, own):
                        yield path, own, canonical[id(parameter)]


def _fits(pattern: str, names: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)
