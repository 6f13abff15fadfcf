"""Initial weights: draws from torch's global generator, which `build` ties to a named stream."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def kaiming(network: nn.Module) -> nn.Module:
    """He et al. (ICML 2022, appendix B): Kaiming-normal weights (fan-in, ReLU gain) and zero biases, in place."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def he_paper(network: nn.Module) -> nn.Module:
    """As He et al. write: `kaiming`, and BatchNorm that changes nothing yet (scales 1, shifts 0), in place."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    return kaiming(network)


def he_code(network: nn.Module) -> nn.Module:
    """As the code of He et al. does (OpenLTH's `kaiming_normal` and `uniform`), in place.

    Weights of Linear and Conv2d as in `kaiming`, their biases as torch draws them; BatchNorm scales uniform in [0, 1),
    shifts 0.
    """
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.reset_parameters()
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, _BatchNorm) and module.affine:
            with torch.no_grad():
                module.weight.uniform_()
            nn.init.zeros_(module.bias)
    return network


INITS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "default": lambda network: network,
    "he-paper": he_paper,
    "he-code": he_code,
}
