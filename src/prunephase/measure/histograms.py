"""Histograms of the surviving weights, in bins that all levels share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunephase.measure.finding import Finding
from prunephase.measure.passes import number
from prunephase.prune.layers import weights
from prunephase.snapshot import Snapshot

# In standard deviations of the layer's weights at the dense initialisation, so that levels, seeds and strengths of a
# regulariser share them; trained weights of the digits demo reach about 20 of them.
REACH, WIDTH = 50, 0.25
EDGES = np.concatenate([[-np.inf], np.arange(-REACH, REACH + WIDTH / 2, WIDTH), [np.inf]])


def histograms(snapshot: Snapshot) -> Finding:
    """Counts of surviving weights of convolutional and linear layers, and a summary, by layer and for the network.

    The bins are a quarter of a standard deviation of the layer's dense initialisation wide (`scale`; a layer that
    begins constant: 1) and reach 50 of them to both sides, with one open bin beyond each end. A bin holds its lower
    end. Rows, in units of the weights: count, mean, mean_abs, sd, smallest and largest |w|, and quantiles q05 ... q95;
    those of the network are over all its weights, each in its own units, while its histogram adds those of the layers.
    Arrays: edges [bins + 1], and the counts [bins], "network" and "layer:NAME".
    The figures of The Quest (Quetu and Milovanovic 2023) are such histograms.
    """
    rows: list[Mapping[str, str | int | float | bool | None]] = []
    counts: dict[str, NDArray[np.int64]] = {}
    values: list[NDArray[np.float64]] = []
    for layer, names in weights(snapshot.network).items():
        found = np.concatenate([_surviving(snapshot.network, snapshot.masks, name) for name in names])
        scale = _scale([snapshot.initial[name] for name in names])
        counts[f"layer:{layer}"] = np.histogram(found / scale, EDGES)[0]
        rows.append({**_summary(layer, found), "scale": scale})
        values.append(found)
    every = np.concatenate(values) if values else np.zeros(0)
    network = sum(counts.values(), np.zeros(len(EDGES) - 1, dtype=np.int64))
    return Finding([_summary("network", every), *rows], {"edges": EDGES, "network": network} | counts)


def _surviving(network: nn.Module, masks: Mapping[str, Tensor], name: str) -> NDArray[np.float64]:
    """The surviving values of one weight, [count] float64; all of them where it is never pruned."""
    weight = network.get_parameter(name).detach()
    return (weight[masks[name]] if name in masks else weight.flatten()).double().cpu().numpy()


def _scale(initial: list[Tensor]) -> float:
    """Standard deviation at the dense initialisation; 1 where there is none."""
    flat = np.concatenate([weight.detach().double().cpu().numpy().ravel() for weight in initial])
    return float(np.std(flat)) or 1.0


def _summary(part: str, found: NDArray[np.float64]) -> dict[str, str | int | float | None]:
    names = ("mean", "mean_abs", "sd", "smallest", "largest", "q05", "q25", "q50", "q75", "q95")
    if not len(found):
        return {"part": part, "count": 0, **dict.fromkeys(names)}
    size = np.abs(found)
    quantiles = np.quantile(found, (0.05, 0.25, 0.5, 0.75, 0.95))
    numbers = (found.mean(), size.mean(), found.std(), size.min(), size.max(), *quantiles)
    return {"part": part, "count": len(found), **{n: number(float(v)) for n, v in zip(names, numbers, strict=True)}}
