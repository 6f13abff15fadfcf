"""Reads a bit-packed model: its weights, with exact zeros where they were pruned. Needs torch and safetensors alone."""

import math

import torch
from safetensors.torch import load_file


def read(path: str) -> dict[str, torch.Tensor]:
    """The state_dict in `path`: "mask/NAME" holds a bit per weight, highest first, "values/NAME" the weights left."""
    packed = load_file(path)
    weights = {key[6:]: tensor for key, tensor in packed.items() if key.startswith("dense/")}
    for name in [key[7:] for key in packed if key.startswith("values/")]:
        values, shape = packed["values/" + name], packed["shape/" + name].tolist()
        bits = packed["mask/" + name][:, None] >> torch.arange(7, -1, -1) & 1
        weight = torch.zeros(math.prod(shape), dtype=values.dtype)
        weight[bits.flatten()[: len(weight)].bool()] = values
        weights[name] = weight.reshape(shape)
    return weights
