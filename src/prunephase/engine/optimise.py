"""Optimisers and learning rates: torch's own, told what a recipe says."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from prunephase.sections import Recipe


def optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with coupled, or AdamW with decoupled weight decay, over all trainable parameters. No Nesterov momentum."""
    parameters = groups({name: p for name, p in network.named_parameters() if p.requires_grad}, recipe)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr)
    return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum)


def groups(trained: Mapping[str, Tensor], recipe: Recipe) -> list[dict[str, Any]]:
    """The parameters {name: parameter} in torch's groups, one for each weight decay that the recipe gives them."""
    found: dict[float, list[Tensor]] = {}
    for name, parameter in trained.items():
        fitting = (decay for pattern, decay in recipe.decay_by.items() if fnmatchcase(name, pattern))
        found.setdefault(next(fitting, recipe.weight_decay), []).append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in found.items()]


def rates(recipe: Recipe) -> list[float]:
    """The learning rate of every epoch, as torch's schedulers give it, times (e + 1/2) / w in epoch e < w of a warm-up.

    >>> rates(Recipe(lr=1.0, epochs=4, schedule="step", milestones=(2,)))
    [1.0, 1.0, 0.1, 0.1]
    >>> rates(Recipe(lr=1.0, epochs=4, warmup=2))
    [0.25, 0.75, 1.0, 1.0]

    OpenLTH's warm-up (which He et al.'s code uses for Tiny ImageNet, 5 epochs) multiplies the rate of its schedule as
    well, but rises at every step, from 0 to 1. Ours stands still within an epoch, at the mean of those rates: half an
    epoch's rise above them at its beginning, as much below at its end.
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
    warm = recipe.warmup
    return [rate * (e + 0.5) / warm if e < warm else rate for e, rate in enumerate(result)]
