"""Masks: bool tensors beside the network, with exactly the agreed number of survivors."""

# P prunable weights of one network, in parameter order.

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from prunephase.errors import UserError
from prunephase.sections import Pruning
from prunephase.trial import remaining_weights

PRUNABLE_MODULES = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
Masks = dict[str, Tensor]


def prunable(network: nn.Module, spec: Pruning) -> tuple[dict[str, nn.Parameter], int]:
    """Weights that may be pruned, {parameter name: parameter} in parameter order, and how many others were left out.

    Candidates are the weights of Linear and Conv modules; `spec.include` and `spec.exclude` choose among them by module
    name. A weight used by several modules counts once. Raises UserError where nothing is left or a pattern matches
    nothing.
    """
    modules: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in network.named_modules():
        if (
            isinstance(module, PRUNABLE_MODULES)
            and isinstance(module.weight, nn.Parameter)
            and id(module.weight) not in seen
        ):
            seen.add(id(module.weight))
            modules[name] = module.weight
    if not modules:
        raise UserError("model: no prunable weights; looked for weights of Linear and Conv modules")
    for field, patterns in (("include", spec.include), ("exclude", spec.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in modules):
                raise UserError(f"pruning.{field}: '{pattern}' matches no layer; the layers are {', '.join(modules)}")
    chosen = {
        f"{name}.weight" if name else "weight": weight
        for name, weight in modules.items()
        if any(fnmatchcase(name, p) for p in spec.include) and not any(fnmatchcase(name, p) for p in spec.exclude)
    }
    if not chosen:
        raise UserError(
            f"pruning: no prunable weights left by include and exclude; the layers are {', '.join(modules)}"
        )
    total = sum(w.numel() for w in modules.values())
    return chosen, total - sum(w.numel() for w in chosen.values())


def budgets(sizes: Mapping[str, int], spec: Pruning, ignored: int = 0) -> list[dict[str, int]]:
    """Survivors at each level 0..levels: one entry per layer, or one "" for all where the scope is global.

    sizes: {name: number of weights}. `ignored` weights, never pruned, count only with `spec.count_ignored` (as in the
    code of He et al. 2022). Raises UserError where the ladder is longer than the weights last, or re-masking would
    break the counts of the layers.
    """
    if spec.scope == "layer" and spec.remask in ("global", "even"):
        raise UserError(
            f"pruning.remask = '{spec.remask}': with scope = 'layer' every layer keeps its own count; use remask = "
            "'layer', or scope = 'global'"
        )
    groups = {"": sum(sizes.values())} if spec.scope == "global" else dict(sizes)
    extra = ignored if spec.count_ignored and spec.scope == "global" else 0
    rounds = [spec.rounds(level) for level in range(spec.levels + 1)]
    counts = {name: remaining_weights(size, spec.fraction, rounds[-1], extra) for name, size in groups.items()}
    shortest = min(counts, key=lambda name: len(counts[name]))
    if len(counts[shortest]) <= rounds[-1]:
        where = f" of {shortest}" if shortest else ""
        last = max(level for level, count in enumerate(rounds) if count < len(counts[shortest]))
        raise UserError(
            f"pruning.levels = {spec.levels}: more levels than weights; at level {last} "
            f"{counts[shortest][rounds[last]]} weights{where} are left and another round would remove none or all; at "
            f"most {last}"
        )
    return [{name: counts[name][count] for name in groups} for count in rounds]


def keep_top(scores: Tensor, alive: Tensor, keep: int) -> Tensor:
    """Keep exactly `keep` living weights, those that score highest; ties go to the lower index. [P] -> bool [P].

    Raises ValueError where a living score is not a number, or fewer than `keep` weights live.
    """
    places = alive.nonzero().squeeze(1)
    living = scores[places]
    if torch.isnan(living).any():
        raise ValueError("a score is NaN")
    if keep > len(places):
        raise ValueError(f"{keep} weights to keep, {len(places)} alive")
    best = torch.sort(living, descending=True, stable=True).indices[:keep]
    mask = torch.zeros_like(alive)
    mask[places[best]] = True
    return mask


def select(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], budget: Mapping[str, int]) -> Masks:
    """Masks of the next level: the best of what lives, as many as `budget` allows globally ("") or in each layer."""
    if "" not in budget:
        return {
            name: keep_top(scores[name].flatten(), m.flatten(), budget[name]).view_as(m) for name, m in masks.items()
        }
    flat = keep_top(
        torch.cat([scores[name].flatten() for name in masks]),
        torch.cat([m.flatten() for m in masks.values()]),
        budget[""],
    )
    parts = flat.split([m.numel() for m in masks.values()])  # type: ignore[no-untyped-call]
    return {name: part.view_as(m) for (name, m), part in zip(masks.items(), parts, strict=True)}


def zero_pruned(network: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set pruned weights to zero, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            network.get_parameter(name).masked_fill_(~mask, 0.0)


def leaked(network: nn.Module, masks: Mapping[str, Tensor]) -> int:
    """How many pruned weights are not zero; anything but 0 is a fault of ours."""
    return sum(int(network.get_parameter(name)[~mask].count_nonzero()) for name, mask in masks.items())
