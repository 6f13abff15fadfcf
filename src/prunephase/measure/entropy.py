"""Activation entropy: how much the units of a network still switch (DSD2, Quetu and Tartaglione 2024)."""

# N examples, C channels or features, [...] the shape of one example's input to an activation.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr

from prunephase import streams
from prunephase.engine.forward import BATCH
from prunephase.measure.finding import Finding, Row
from prunephase.measure.passes import resting
from prunephase.measure.states import Layer, count
from prunephase.snapshot import Snapshot

FIRST_BATCH = 400  # examples in a batch of the released script
CLAMP = 1e-5  # its floor under the logarithm


def entropy(snapshot: Snapshot) -> Finding:
    """Entropy in bits of whether a unit is ON (input to its activation > 0; 0 is OFF) over the whole training set.

    DSD2, equation 2: H = -p log2 p - (1-p) log2 (1-p), p a unit's share of examples at which it is ON, in evaluation
    mode, without augmentation; counts are exact. Activations: ReLU, GELU and all others by the sign of their input, of
    modules and of functions (see `states.count`). A unit is an element of an activation's input (DSD2); `channel_`: a
    channel, whose p is the mean over its positions (EASIER, Quetu et al. 2024, which counts 0 as ON).

    One row per layer: mean entropy over its units and channels; constant, units with zero entropy, of which off are
    never ON; zero, whether that is all of them: such a layer is linear on the training set. The network's row: mean,
    the plain mean over layers, and weighted, by their numbers of units; constant and off units; zero_layers, how many,
    and zero_layer_names. `first_batch` and `first_batch_weighted` do what DSD2's released script does: the mean entropy
    over one random batch of 400 examples, logarithms floored at 1e-5, weighted by the numbers of channels; the batch is
    the same at every level. None where the network has no activation, or one works across examples. Arrays: the counts
    ON of each layer, uint32 [...]; p = counts / N.
    """
    train, precision = snapshot.data.train, snapshot.trial.recipe.precision
    draw = streams.generator(snapshot.trial.seed, "analysis", "first-batch")
    some = torch.from_numpy(np.sort(draw.permutation(len(train))[:FIRST_BATCH])).to(train.labels.device)
    with resting(snapshot.network) as network:
        whole = count(network, train.inputs.split(BATCH), precision)  # type: ignore[no-untyped-call]
        batch = count(network, [train.inputs.index_select(0, some)], precision)
    first = {layer.name: float(_script(layer.on / layer.examples).mean()) for layer in batch if layer.on is not None}
    rows = [{**_row(layer), "first_batch": first.get(layer.name)} for layer in whole]
    arrays = {layer.name: layer.on.astype(np.uint32) for layer in whole if layer.on is not None}
    return Finding([_network(rows), *rows], arrays)


def bits(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in bits of a state that is ON with probability p.

    >>> bits(np.array([0.0, 0.5, 1.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    return (entr(p) + entr(1 - p)) / np.log(2)  # type: ignore[no-any-return]


def _script(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """The entropy as the released script has it."""
    q = 1 - p
    return -p * np.log2(np.maximum(p, CLAMP)) - q * np.log2(np.maximum(q, CLAMP))


def _row(layer: Layer) -> dict[str, Any]:
    if layer.on is None:
        columns = ("units", "mean", "on_share", "channels", "channel_mean", "constant", "off", "zero")
        return {"part": layer.name, **dict.fromkeys(columns)}
    p = layer.on / layer.examples
    places = tuple(axis for axis in range(p.ndim) if axis != layer.axis)
    channels = bits(layer.on.sum(places) / (layer.examples * p.size / p.shape[layer.axis]))
    constant = int(((layer.on == 0) | (layer.on == layer.examples)).sum())
    return {
        "part": layer.name,
        "units": p.size,
        "mean": float(bits(p).mean()),
        "on_share": float(p.mean()),
        "channels": len(channels),
        "channel_mean": float(channels.mean()),
        "constant": constant,
        "off": int((layer.on == 0).sum()),
        "zero": constant == p.size,
    }


def _network(rows: Sequence[dict[str, Any]]) -> Row:
    known = [row for row in rows if row["mean"] is not None]
    zero = [row["part"] for row in known if row["zero"]]

    def over(column: str, weight: str | None) -> float | None:
        weights = [row[weight] if weight else 1 for row in known]
        if not known or any(row[column] is None for row in known):
            return None
        return float(np.average([row[column] for row in known], weights=weights))

    return {
        "part": "network",
        "mean": over("mean", None),
        "weighted": over("mean", "units"),
        "channel_mean": over("channel_mean", None),
        "channel_weighted": over("channel_mean", "channels"),
        "first_batch": over("first_batch", None),
        "first_batch_weighted": over("first_batch", "channels"),
        "layers": len(rows),
        "uncounted": len(rows) - len(known),
        "units": sum(row["units"] for row in known),
        "constant": sum(row["constant"] for row in known),
        "off": sum(row["off"] for row in known),
        "zero_layers": len(zero),
        "zero_layer_names": ", ".join(zero),
    }
