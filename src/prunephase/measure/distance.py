"""Learning distance: how far training carried the weights from where they began."""

# P weights of one layer.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

from torch import Tensor

from prunephase.measure.finding import Finding
from prunephase.measure.passes import number
from prunephase.prune.layers import weights
from prunephase.snapshot import Snapshot

Cells = dict[str, str | int | float | bool | None]


def distance(snapshot: Snapshot, biases: bool = False) -> Finding:
    """Euclidean distance of the trained weights, pruned ones counted as 0, from the dense initialisation.

    He et al. 2022, section 3.2 (ICLR submission, section 5, for which tensors): the weights of convolutional and linear
    layers, whether they may be pruned or not, no BatchNorm; `biases`: those of these layers too. One row per layer and
    one for the network, total^2 = surviving^2 + pruned^2:

    total; surviving, over surviving weights alone; pruned, over pruned ones, which is the pruned mass ||(1-m) w0||;
    normalised, total / ||w0||. The same with the prefix rewind_ from the rewind point, redense_ for the weights after
    re-dense training (surviving and pruned by the sparse masks), redense_rewind_ for these from the rewind point;
    normalised is by ||w0|| throughout. initial_norm, norm: ||w0|| and that of the trained weights. None: not known.
    """
    layers = weights(snapshot.network, biases)
    learned = dict(snapshot.network.state_dict())
    squares: dict[str, list[dict[str, float]]] = {}
    for layer, names in layers.items():
        squares[layer] = [_squares(snapshot, learned, name) for name in names]
    every = [found for layer in squares.values() for found in layer]
    return Finding([_row("network", every), *(_row(layer, found) for layer, found in squares.items())])


def _squares(snapshot: Snapshot, learned: Mapping[str, Tensor], name: str) -> dict[str, float]:
    """Sums of squares of one weight, {"initial", "learned", and "PREFIXsurviving", "PREFIXpruned" of each pair}."""
    mask = snapshot.masks.get(name)
    found = {"initial": _square(snapshot.initial[name]), "learned": _square(learned[name])}
    for prefix, ends in _pairs(snapshot, learned).items():
        if ends is not None:
            end, origin = (weights[name].detach().cpu().double() for weights in ends)
            gap = (end - origin).square()
            pruned = float(gap[~mask.cpu()].sum()) if mask is not None else 0.0
            surviving = float(gap[mask.cpu()].sum()) if mask is not None else float(gap.sum())
            found |= {f"{prefix}surviving": surviving, f"{prefix}pruned": pruned}
    return found


def _pairs(
    snapshot: Snapshot, learned: Mapping[str, Tensor]
) -> dict[str, tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None]:
    """{prefix: (end, origin)}; None where one of them is not known."""
    ends, origins = {"": learned, "redense_": snapshot.redense}, {"": snapshot.initial, "rewind_": snapshot.rewound}
    return {
        f"{to}{start}": (end, origin) if end is not None and origin is not None else None
        for to, end in ends.items()
        for start, origin in origins.items()
    }


def _square(weight: Tensor) -> float:
    return float(weight.detach().double().square().sum())


def _row(part: str, parts: Sequence[Mapping[str, float]]) -> Cells:
    def root(*names: str) -> float | None:
        known = parts and all(name in parts[0] for name in names)
        return number(sqrt(sum(found[name] for found in parts for name in names))) if known else None

    norm = root("initial")
    row: Cells = {"part": part, "initial_norm": norm, "norm": root("learned")}
    for prefix in ("", "rewind_", "redense_", "redense_rewind_"):
        surviving, pruned = f"{prefix}surviving", f"{prefix}pruned"
        total = root(surviving, pruned)
        row |= {f"{prefix}total": total, surviving: root(surviving), pruned: root(pruned)}
        row[f"{prefix}normalised"] = total / norm if total is not None and norm else None
    return row
