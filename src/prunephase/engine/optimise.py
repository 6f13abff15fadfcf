"""Optimisers and learning rates: torch's own, told what a recipe says."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from prunephase.trial import Recipe


def optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with coupled, or AdamW with decoupled weight decay, over all trainable parameters."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(trainable, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(trainable, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def rates(recipe: Recipe) -> list[float]:
    """The learning rate of every epoch, as torch's schedulers give it.

    >>> rates(Recipe(lr=1.0, epochs=4, schedule="step", milestones=(2,)))
    [1.0, 1.0, 0.1, 0.1]
    """
    probe = torch.optim.SGD([Tensor()], lr=recipe.lr)
    scheduler: lr_scheduler.LRScheduler
    if recipe.schedule == "step":
        scheduler = lr_scheduler.MultiStepLR(probe, list(recipe.milestones), recipe.factor)
    elif recipe.schedule == "cosine":
        scheduler = lr_scheduler.CosineAnnealingLR(probe, recipe.epochs)
    else:
        scheduler = lr_scheduler.LambdaLR(probe, lambda _: 1.0)
    result = []
    for _ in range(recipe.epochs):
        result.append(float(probe.param_groups[0]["lr"]))
        probe.step()
        scheduler.step()
    return result
