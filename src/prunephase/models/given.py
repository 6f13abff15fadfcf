"""Weights from a file: a state_dict that must fit the network, and masks of torch.nn.utils.prune that it may bring."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from safetensors.torch import load
from torch import Tensor, nn

from prunephase import checkpoint
from prunephase.errors import UserError
from prunephase.sections import Model

SHOWN = 3  # names in an error


@dataclass(frozen=True)
class Given:
    """What a file gives a network, on the CPU; nothing where no file is named.

    weights: its whole state_dict, zero where a mask says so; masks: {parameter name: bool tensor}, True where the
    weight lives, of the parameters that have one.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)


def given(spec: Model, network: nn.Module) -> Given:
    """The weights whose SHA-256 `spec` has, for `network`, which takes them on.

    Where the file holds NAME_orig and NAME_mask, as torch.nn.utils.prune keeps a pruned parameter NAME, their product
    is the weight. Raises UserError where they do not fit the network, or the file is another than when the study was
    read.
    """
    assert spec.weights_sha256 is not None
    if spec.weights is None:
        raise UserError(f"model.weights_sha256 = '{spec.weights_sha256[:16]}...': name the file with model.weights")
    say = f"model.weights = {spec.weights!r}"
    try:
        data = checkpoint.read(spec.weights)
        if checkpoint.content(data) != spec.weights_sha256:
            raise ValueError("has changed since the study was read; give the command again")
        weights, masks = _unmasked(load(data))
        _check(weights, network.state_dict(), spec.name)
    except ValueError as problem:
        raise UserError(f"{say}: {problem}") from None
    network.load_state_dict(weights)
    for name, value in network.state_dict().items():
        if not torch.equal(value, weights[name]):
            raise UserError(
                f"{say}: {name} is one with another tensor of this network, but not the same there; make them equal"
            )
    return Given(weights, masks)


def _unmasked(found: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights as they act, and the masks that made them so."""
    names = [name.removesuffix("_orig") for name in found if name.endswith("_orig")]
    masks = {name: found[f"{name}_mask"] for name in names if f"{name}_mask" in found and name not in found}
    parts = {f"{name}{end}" for name in masks for end in ("_orig", "_mask")}
    weights = {name: value for name, value in found.items() if name not in parts}
    for name, mask in masks.items():
        weight = found[f"{name}_orig"]
        if mask.shape != weight.shape or not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"{name}_mask is not a mask of {name}_orig; expected its shape, and zeros and ones alone")
        weights[name] = torch.where(mask.bool(), weight, torch.zeros_like(weight))
    return weights, {name: mask.bool() for name, mask in masks.items()}


def _check(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], model: str) -> None:
    """Raise ValueError where `weights` are not those of a network whose state_dict is `wanted`."""
    lacks, odd = [name for name in wanted if name not in weights], sorted(weights.keys() - wanted.keys())
    if any("parametrizations." in name or name.endswith(("_orig", "_mask")) for name in odd):
        raise ValueError(
            f"holds {_some(odd)}, from which the weights would have to be computed; make them permanent "
            "(torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.prune.remove) and save it again"
        )
    if lacks or odd:
        which = [f"lacks {_some(lacks)}"] * bool(lacks) + [f"holds {_some(odd)} beside it"] * bool(odd)
        raise ValueError(f"is not of model.name = '{model}': {' and '.join(which)}; save the state_dict of that one")
    for name, value in weights.items():
        if value.shape != wanted[name].shape:
            shape = f"{name} is {list(value.shape)}, and the model's {list(wanted[name].shape)}"
            raise ValueError(f"is not of this model: {shape}; correct model.kwargs or the data")
        if value.dtype != wanted[name].dtype:
            kind = f"{name} is {value.dtype}, and the model's {wanted[name].dtype}"
            raise ValueError(f"holds other numbers: {kind}; convert it and save it again")
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or Inf; take a checkpoint from before the training diverged")


def _some(names: Collection[str]) -> str:
    """The first of some names, which may come from anywhere, and how many more there are."""
    shown = ", ".join(ascii(name)[1:-1][:60] for name in list(names)[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
