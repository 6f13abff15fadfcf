"""Structure: where the surviving weights lie, which of them matter, and which layer the next level would empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from prunephase import prune
from prunephase.measure.finding import Finding
from prunephase.measure.reach import Reach, reach
from prunephase.models.count import macs_of
from prunephase.plugins import is_reference
from prunephase.prune.layers import weights
from prunephase.snapshot import Snapshot

Cells = dict[str, str | int | float | bool | None]


def structure(snapshot: Snapshot) -> Finding:
    """Density, dead units and effective (reachable) density of every layer and of the network, and a warning.

    weights, survivors, density: of all and of surviving weights. effective_density: share of the weights that lies on a
    path of surviving weights from the network's input to its output. units: output channels or features; unfed: those
    that no such path enters (they are constants); unread: those from which none leads on; dead: either. next_survivors:
    what the next level of the ladder leaves of a layer, see `ahead`; collapses: whether that is nothing.

    The network's row is over the prunable weights, its units over all layers but the last; sparsity and
    effective_sparsity are 1 minus the densities; collapses counts layers and collapsing names them. exact: False where
    an operation is not known and was taken to mix everything, so that dead units and effective_sparsity are the least
    that they can be; macs: see `macs`. None: not known, because the network cannot be traced (only its nominal sparsity
    is), or because there is no next level that follows from this one.
    """
    network, masks = snapshot.network, snapshot.masks
    ways, after = reach(network, masks, snapshot.data.train.inputs[:2]), ahead(snapshot)
    rows = [
        _row(layer if len(names) == 1 else name, name, network.get_parameter(name), masks.get(name), ways, after)
        for layer, names in weights(network).items()
        for name in names
    ]
    return Finding([{**_network(masks, ways, after), "macs": macs(snapshot)}, *rows])


def macs(snapshot: Snapshot) -> float | None:
    """Multiply-accumulates of one example's forward pass, those of a layer times its density; None: not countable."""
    network, masks, data = snapshot.network, snapshot.masks, snapshot.data
    try:
        dense = macs_of(network, data.input_shape, data.dtype)
    except Exception:  # an operation of a user's network that needs numbers
        return None
    spared = 0.0
    for layer, names in weights(network).items():
        size = sum(network.get_parameter(name).numel() for name in names)
        pruned = sum(int((~masks[name]).sum()) for name in names if name in masks)
        spared += pruned / size * dense.get("" if layer == "whole" else layer, 0.0)
    return sum(dense.values()) - spared


def ahead(snapshot: Snapshot) -> dict[str, Tensor] | None:
    """The masks of the next level, by the trial's criterion and budget, as the ladder will choose them.

    None at the last level, where the next level's masks come from another network than this level's, and where the
    criterion is a user's own code.
    """
    trial, level = snapshot.trial, snapshot.level + 1
    other = trial.source_trial() is not None or (trial.pruning.ladder == "one-shot" and snapshot.level > 0)
    if level > trial.pruning.levels or other or is_reference(trial.pruning.criterion):
        return None
    chosen, ignored = prune.prunable(snapshot.network, trial.pruning)
    sizes, floors = {n: weight.numel() for n, weight in chosen.items()}, prune.floors(snapshot.network, trial.pruning)
    budget = prune.budgets(sizes, trial.pruning, ignored, floors)[level]
    found = prune.scores(snapshot)
    masks = {name: mask.cpu() for name, mask in snapshot.masks.items()}
    return prune.select({name: found[name].cpu() for name in masks}, masks, budget, floors)


def collapses(masks: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """The weights that `masks` keep some of and the next level, `after`, none: signals no longer pass their layers."""
    return [name for name, mask in masks.items() if mask.any() and not after[name].any()]


def _row(
    part: str, name: str, weight: Tensor, mask: Tensor | None, ways: Reach | None, after: Mapping[str, Tensor] | None
) -> Cells:
    count = weight.numel()
    survivors = count if mask is None else int(mask.sum())
    row: Cells = {"part": part, "weights": count, "survivors": survivors, "density": survivors / count}
    row |= dict.fromkeys(("effective_density", "units", "unfed", "unread", "dead", "next_survivors", "collapses"))
    if ways is not None and name in ways.used:
        row["effective_density"] = int(ways.used[name].sum()) / count
        row |= _units(ways, [name])
    if after is not None and mask is not None:
        row |= {"next_survivors": int(after[name].sum()), "collapses": bool(mask.any() and not after[name].any())}
    return row


def _units(ways: Reach, names: Sequence[str]) -> dict[str, int]:
    """Units of the layers of these weights, and how many of them lie on no path."""
    unfed, unread = ([~side[name] for name in names] for side in (ways.fed, ways.read))
    dead = [entering | leaving for entering, leaving in zip(unfed, unread, strict=True)]
    counts = {"unfed": unfed, "unread": unread, "dead": dead}
    return {"units": sum(len(d) for d in dead)} | {n: sum(int(s.sum()) for s in of) for n, of in counts.items()}


def _network(masks: Mapping[str, Tensor], ways: Reach | None, after: Mapping[str, Tensor] | None) -> Cells:
    count, survivors = (
        sum(counted) for counted in ((m.numel() for m in masks.values()), (int(m.sum()) for m in masks.values()))
    )
    row: Cells = {"part": "network", "weights": count, "survivors": survivors, "density": survivors / count}
    row |= {"sparsity": 1 - survivors / count}
    row |= dict.fromkeys(("effective_density", "effective_sparsity", "units", "unfed", "unread", "dead", "exact"))
    row |= dict.fromkeys(("collapses", "collapsing"))
    if ways is not None:
        # Weights of a kind that is not followed count as they are.
        used = sum(int(ways.used.get(name, mask).sum()) for name, mask in masks.items())
        row |= {"effective_density": used / count, "effective_sparsity": 1 - used / count}
        row |= _units(ways, [name for name in ways.used if name not in ways.last])
        row["exact"] = ways.exact and masks.keys() <= ways.used.keys()
    if after is not None:
        falling = collapses(masks, after)
        row |= {"collapses": len(falling), "collapsing": ", ".join(falling)}
    return row
