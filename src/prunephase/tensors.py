"""Tensors as bytes: safetensors, with pruned weights left out and masks packed to bits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import numpy as plain
from safetensors.torch import load, save
from torch import Tensor

_SHAPE = "shape:"  # prefix under which a mask's place among the masks and its shape travel


def pack_masks(masks: Mapping[str, Tensor]) -> bytes:
    """Masks ({name: bool tensor}) at one bit a weight, in their order: ties between scores are decided by it."""
    packed: dict[str, Tensor] = {}
    for place, (name, mask) in enumerate(masks.items()):
        packed[name] = torch.from_numpy(np.packbits(mask.cpu().numpy()))
        packed[_SHAPE + name] = torch.tensor([place, *mask.shape], dtype=torch.int64)
    return save(packed)


def unpack_masks(data: bytes) -> dict[str, Tensor]:
    """The inverse of `pack_masks`."""
    packed = load(data)  # in no particular order
    places = {name.removeprefix(_SHAPE): packed[name].tolist() for name in packed if name.startswith(_SHAPE)}
    masks = {}
    for name, (_, *shape) in sorted(places.items(), key=lambda item: item[1][0]):
        flat = np.unpackbits(packed[name].numpy(), count=math.prod(shape))
        masks[name] = torch.from_numpy(flat).bool().reshape(shape)
    return masks


def pack_weights(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> bytes:
    """A state_dict whose masked tensors keep their living values only, so that a level's size follows its density."""
    kept = {name: (w[masks[name]] if name in masks else w) for name, w in weights.items()}
    return save({name: w.detach().cpu().clone().contiguous() for name, w in kept.items()})


def unpack_weights(data: bytes, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `pack_weights`, with exact zeros where weights are pruned."""
    weights = load(data)
    for name, mask in masks.items():
        full = torch.zeros(mask.shape, dtype=weights[name].dtype)
        full[mask] = weights[name]
        weights[name] = full
    return weights


def pack_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Arrays by name."""
    return plain.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def unpack_arrays(data: bytes) -> dict[str, NDArray[np.generic]]:
    """The inverse of `pack_arrays`."""
    return plain.load(data)


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes of a state_dict."""
    total = hashlib.sha256()
    for name in sorted(weights):
        w = weights[name].detach().cpu().contiguous()
        total.update(f"{name}{tuple(w.shape)}{w.dtype}".encode())
        total.update(w.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
