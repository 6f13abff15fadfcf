"""The layers of a network that multiply by weights: convolutions, linear layers and attention's projections."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunephase.prune.masks import PRUNABLE_MODULES

_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def weights(network: nn.Module, biases: bool = False) -> dict[str, list[str]]:
    """{module name: names of its weights}, in the order of the modules; a weight of several modules counts once.

    A network that is itself a layer is called "whole".
    Of Linear, Conv and MultiheadAttention modules, not of normalisation layers (section 3 of the ICLR submission of He
    et al. takes "the trainable parameters of convolutional and linear layers"). biases: theirs as well.
    """
    found: dict[str, list[str]] = {}
    seen: set[int] = set()
    for path, module in network.named_modules():
        wanted: tuple[str, ...] = ()
        if isinstance(module, PRUNABLE_MODULES):
            wanted = ("weight", "bias") if biases else ("weight",)
        elif isinstance(module, nn.MultiheadAttention):
            wanted = (*_ATTENTION, "in_proj_bias") if biases else _ATTENTION
        own = dict(module.named_parameters(recurse=False))
        chosen = [name for name in wanted if name in own and id(own[name]) not in seen]
        seen.update(id(own[name]) for name in chosen)
        if chosen:
            found[path or "whole"] = [f"{path}.{name}" if path else name for name in chosen]
    return found


def surviving(network: nn.Module, masks: Mapping[str, Tensor], name: str) -> NDArray[np.float64]:
    """The surviving values of one weight, [count] float64; all of them where it is never pruned."""
    weight = network.get_parameter(name).detach()
    return (weight[masks[name]] if name in masks else weight.flatten()).double().cpu().numpy()
