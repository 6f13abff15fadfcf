"""Linear interpolation from the sparse to the re-dense network: is there a way down without a hill?"""

# P points.

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunephase import streams
from prunephase.engine.forward import BATCH, laid_out, memory_format
from prunephase.measure.finding import Finding
from prunephase.measure.weight_space import Numbers, drawn, heights, number
from prunephase.randomness import seeded
from prunephase.snapshot import Snapshot

SLACK = 0.01  # of the difference between the ends' losses: a smaller rise still counts as monotone


def interpolation(
    snapshot: Snapshot,
    *,
    points: int = 101,
    examples: int | None = None,
    statistics: Literal["recalibrated", "interpolated"] = "recalibrated",
) -> Finding:
    """Loss and accuracy at w(a) = (1-a) w_sparse + a w_redense, a from 0 to 1 (He et al. 2022, A.5).

    The ends are the weights of the two networks to the last bit. Buffers are interpolated as the weights are, but for
    BatchNorm statistics: "recalibrated", they are at each point, the ends included, those of the training inputs (the
    mean over batches of 1,000); "interpolated", they too lie on the line. examples: of the training and of the test
    set; all by default. No rows where the re-dense network is not known.

    Rows: one per point ("alpha 0.37": alpha, train_loss, train_accuracy, test_loss, test_accuracy), and "network":
    sparse_*, redense_*, the losses of the two networks as they are, with their own statistics; rise, the most by which
    the training loss climbs above its lowest value before (nats); monotone, whether that is within `tolerance`, 1 % of
    the difference between the ends; barrier, the training loss at most above the straight line between its ends
    (nats), at barrier_at. Numbers are None where a loss is not finite.
    """
    if snapshot.redense is None:
        return Finding([])
    network, seed = snapshot.network, snapshot.trial.seed
    ends = [{name: w.detach() for name, w in network.state_dict().items()}, _beside(network, snapshot.redense)]
    alpha = np.linspace(0, 1, points)
    shares = np.stack([1 - alpha, alpha], axis=1)
    given = {"train": snapshot.data.train, "test": snapshot.data.test}
    splits = {name: drawn(split, examples, seed, "interpolation", name) for name, split in given.items()}
    normed = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    recalibrated = statistics == "recalibrated" and bool(normed)
    found = heights(
        *(network, ends, shares, splits),
        settle=(lambda twin: recalibrate(twin, splits["train"].inputs)) if recalibrated else None,
    )
    own = heights(network, ends, np.eye(2), splits) if recalibrated else {}
    rows = [
        {
            "part": f"alpha {a:.{max(len(str(points - 1)) - 1, 1)}f}",
            "alpha": float(a),
            **{f"{name}_loss": number(on.loss[i]) for name, on in found.items()},
            **{f"{name}_accuracy": number(on.accuracy[i]) for name, on in found.items()},
        }
        for i, a in enumerate(alpha)
    ]
    two = {name: own[name].loss if own else found[name].loss[[0, -1]] for name in found}
    headline = {
        "part": "network",
        **{f"{end}_{name}_loss": number(two[name][i]) for name in two for i, end in enumerate(("sparse", "redense"))},
        **shape(alpha, found["train"].loss),
        "statistics": statistics if normed else None,
        "examples": len(splits["train"]),
        "points": points,
    }
    return Finding([headline, *rows])


def shape(alpha: Numbers, loss: Numbers) -> dict[str, float | bool | None]:
    """rise, tolerance, monotone, barrier and barrier_at of the losses along a line; see `interpolation`. [P], [P]."""
    if not np.isfinite(loss).all():
        return dict.fromkeys(("rise", "tolerance", "monotone", "barrier", "barrier_at"))
    rise = float((loss - np.minimum.accumulate(loss)).max())
    tolerance = max(SLACK * abs(float(loss[0] - loss[-1])), 1e-6)  # float32 sums are no better than that
    above = loss - ((1 - alpha) * loss[0] + alpha * loss[-1])
    top = int(above.argmax())
    return {
        "rise": rise,
        "tolerance": tolerance,
        "monotone": rise <= tolerance,
        "barrier": float(above[top]),
        "barrier_at": float(alpha[top]),
    }


@torch.no_grad()
def recalibrate(network: nn.Module, inputs: Tensor) -> None:
    """Set the running statistics of BatchNorm to those of `inputs` under the weights of now, in place.

    Means over batches of 1,000 (what is left over at the end would count too much, and is not used); all other modules
    stay in evaluation mode, dropout among them.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    layout = memory_format(network)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
        norm.train()
    whole = max(len(inputs) // BATCH, 1)
    with seeded(streams.seed(0, "dropout", "evaluate")):  # a network may draw in evaluation mode as well
        for batch in islice(inputs.split(BATCH), whole):  # type: ignore[no-untyped-call]
            network(laid_out(batch, layout))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _beside(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` where the network is."""
    return {name: weights[name].to(w.device) for name, w in network.state_dict().items()}
