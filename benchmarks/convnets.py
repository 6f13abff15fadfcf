"""The package's two convolutional networks, from as many channels as a benchmark has time for."""

from __future__ import annotations

from torch import nn

from prunephase import models

K, SHAPE = 10, (3, 32, 32)


def resnet18(width: int) -> nn.Module:
    """ResNet-18 without max-pool (He et al. 2022). `width`: channels of the stem."""
    return models.resnet18(SHAPE, K, width)


def vgg_like(gamma: int, drop: float = 0.0) -> nn.Module:
    """DSD2's network from 2^gamma channels; `drop`: with dropout before its last layer."""
    network = models.vgg_like(SHAPE, K, gamma=gamma)
    if not drop:
        return network
    return nn.Sequential(*list(network)[:-1], nn.Dropout(drop), network.get_submodule("output"))
