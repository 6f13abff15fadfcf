"""Masks: bool tensors beside the network, with exactly the agreed number of survivors."""

# P prunable weights of one network, in parameter order.

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor, nn

from prunephase.errors import UserError
from prunephase.sections import Pruning
from prunephase.trial import remaining_weights

Masks = dict[str, Tensor]
NONE: Mapping[str, int] = MappingProxyType({})


def budgets(
    sizes: Mapping[str, int], spec: Pruning, ignored: int = 0, floors: Mapping[str, int] = NONE
) -> list[dict[str, int]]:
    """Survivors at each level 0..levels: one entry per layer, or one "" for all where the scope is global.

    sizes: {name: number of weights}. `ignored` weights, never pruned, count only with `spec.count_ignored` (as in the
    code of He et al. 2022). floors: {name: number of weights} that stay in any case; where the scope is a layer, one
    that has come down to its floor stands still. Raises UserError where the ladder is longer than the weights or the
    floors allow, or re-masking would break the counts of the layers.
    """
    if floors and spec.remask in ("global", "even"):
        raise UserError(
            f"pruning.remask = '{spec.remask}': spreads the weights without regard to pruning.floor; use remask = "
            "'layer', or leave the floors out"
        )
    if spec.scope == "layer" and spec.remask in ("global", "even"):
        raise UserError(
            f"pruning.remask = '{spec.remask}': with scope = 'layer' every layer keeps its own count; use remask = "
            "'layer', or scope = 'global'"
        )
    groups = {"": sum(sizes.values())} if spec.scope == "global" else dict(sizes)
    extra = ignored if spec.count_ignored and spec.scope == "global" else 0
    rounds = [spec.rounds(level) for level in range(spec.levels + 1)]
    counts = {name: remaining_weights(size, spec.fraction, rounds[-1], extra) for name, size in groups.items()}
    for name, least in floors.items() if spec.scope == "layer" else ():
        counts[name] = [max(count, least) for count in counts[name]]
        if counts[name][-1] == least:
            counts[name] += [least] * (rounds[-1] + 1 - len(counts[name]))
    shortest = min(counts, key=lambda name: len(counts[name]))
    if len(counts[shortest]) <= rounds[-1]:
        where = f" of {shortest}" if shortest else ""
        last = max(level for level, count in enumerate(rounds) if count < len(counts[shortest]))
        raise UserError(
            f"pruning.levels = {spec.levels}: more levels than weights; at level {last} "
            f"{counts[shortest][rounds[last]]} weights{where} are left and another round would remove none or all; at "
            f"most {last}"
        )
    found = [{name: counts[name][count] for name in groups} for count in rounds]
    totals, held = [sum(level.values()) for level in found], sum(floors.values())
    for level, (above, total) in enumerate(pairwise(totals), 1):  # without floors, totals fall and stay positive
        if total < held or total == above:
            raise UserError(
                f"pruning.levels = {spec.levels}: level {level} has {total:,} weights left to keep, but pruning.floor "
                f"holds {held:,}; lower the floors, or take at most {level - 1} levels"
            )
    return found


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


def select(
    scores: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    budget: Mapping[str, int],
    floors: Mapping[str, int] = NONE,
) -> Masks:
    """Masks of the next level: the best of what lives, as many as `budget` allows globally ("") or in each layer.

    floors: {name: how many of it stay in any case}, its own best ones; they are part of a global budget.
    """
    if "" not in budget:
        return {
            name: keep_top(scores[name].flatten(), m.flatten(), budget[name]).view_as(m) for name, m in masks.items()
        }
    values, alive = (torch.cat([held[name].flatten() for name in masks]) for held in (scores, masks))
    kept = torch.zeros_like(alive)
    for name, part in zip(masks, kept.split([m.numel() for m in masks.values()]), strict=True):  # type: ignore[no-untyped-call]
        if name in floors:
            part.copy_(keep_top(scores[name].flatten(), masks[name].flatten(), floors[name]))
    flat = kept | keep_top(values, alive & ~kept, budget[""] - int(kept.sum()))
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
