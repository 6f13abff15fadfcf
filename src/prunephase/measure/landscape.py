"""The loss around a trained network, along random directions of the size of its filters."""

# P points, O output units of a weight.

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from prunephase import streams
from prunephase.data import Split
from prunephase.measure.finding import Finding, Row
from prunephase.measure.weight_space import Heights, Numbers, Weights, drawn, heights, number
from prunephase.snapshot import Snapshot

Around = Literal["sparse", "redense"]
Space = Literal["subspace", "ambient"]
STEP = 0.01  # of the finite difference


def landscape(snapshot: Snapshot, *, points: int = 51, examples: int | None = 10_000) -> Finding:
    """Training loss along a line through each minimum, x in [-1, 1] (Li et al. 2018; He et al. 2022, A.6).

    The line goes along `direction` number 0, which is the same draw at every level of a trial. Three slices: around the
    sparse network among its living weights ("sparse subspace") and among all ("sparse ambient"), and, where it is
    known, around the re-dense network ("redense ambient"). The loss is that of `examples` training examples (drawn once
    for all levels; None: all) with the labels trained on; BatchNorm statistics stay those of the minimum.

    Rows: one per slice and point ("sparse subspace +0.04": around, space, x, train_loss, train_accuracy), and
    "network": per slice its curvature, d2 loss / d x2 at 0 by the central difference of step 0.01 (None where a loss is
    not finite). Of a ReLU network that difference sees kinks which the Hessian does not.
    """
    train = drawn(snapshot.data.train, examples, snapshot.trial.seed, "landscape")
    x = np.linspace(-1, 1, points)
    shares = _with_centre(np.concatenate([x, [-STEP, 0.0, STEP]])[:, None])
    headline: dict[str, str | int | float | bool | None] = {"part": "network"}
    rows: list[Row] = []
    slices: list[tuple[Around, Space]] = [("sparse", "subspace"), ("sparse", "ambient"), ("redense", "ambient")]
    for around, space in slices:
        if (centre := minimum(snapshot, around)) is None:
            headline[f"{around}_{space}_curvature"] = None
            continue
        found = _measured(centre, [_direction(snapshot, centre, space, 0)], shares, train)
        left, middle, right = found.loss[points:]
        headline[f"{around}_{space}_curvature"] = number((left - 2 * middle + right) / STEP**2)
        rows += [
            {
                "part": f"{around} {space} {at:+.3g}",
                "around": around,
                "space": space,
                "x": float(at),
                "train_loss": number(found.loss[i]),
                "train_accuracy": number(found.accuracy[i]),
            }
            for i, at in enumerate(x)
        ]
    return Finding([{**headline, "step": STEP, "examples": len(train), "points": points}, *rows])


def surface(
    snapshot: Snapshot,
    *,
    around: Around = "sparse",
    space: Space = "subspace",
    points: int = 15,
    examples: int | None = 10_000,
) -> Finding:
    """Training loss over the plane of directions 0 and 1, x and y in [-1, 1]; see `landscape` for the rest.

    Rows: "network", the loss at the minimum and the highest of the plane (None where not finite). arrays: x [P];
    train_loss and train_accuracy, [P, P], rows along y. No rows where the network in question is not known.
    """
    if (centre := minimum(snapshot, around)) is None:
        return Finding([])
    train = drawn(snapshot.data.train, examples, snapshot.trial.seed, "landscape")
    x = np.linspace(-1, 1, points)
    across, along = np.meshgrid(x, x)
    shares = _with_centre(np.stack([np.append(across, 0.0), np.append(along, 0.0)], axis=1))
    found = _measured(centre, [_direction(snapshot, centre, space, axis) for axis in (0, 1)], shares, train)
    loss, right = found.loss[:-1].reshape(points, points), found.accuracy[:-1].reshape(points, points)
    headline: Row = {
        "part": "network",
        "around": around,
        "space": space,
        "minimum_loss": number(found.loss[-1]),
        "highest_loss": number(loss.max()),
        "examples": len(train),
        "points": points,
    }
    return Finding([headline], {"x": x, "train_loss": loss, "train_accuracy": right})


def direction(network: nn.Module, masks: Mapping[str, Tensor] | None, seed: int, axis: int = 0) -> dict[str, Tensor]:
    """A random direction with, per output unit of each weight, the norm of the network's own (Li et al. 2018, §4).

    Gaussian, from the stream (seed, "analysis", "landscape", axis, name). Biases and BatchNorm - whatever has fewer
    than two axes - are left alone, and so are buffers and units whose weights are all zero. masks: weights pruned there
    are left alone too; None: none are. Gives a change for each entry of the state_dict.
    """
    change = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    first: dict[int, str] = {}  # a weight that two modules share moves once
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if parameter.ndim < 2:
            continue
        weight, known = parameter.detach(), first.setdefault(id(parameter), name)
        draws = streams.generator(seed, "analysis", "landscape", axis, known)
        d = torch.from_numpy(draws.standard_normal(tuple(weight.shape))).to(weight)
        if masks is not None and known in masks:
            d = d * masks[known]
        # Norms in float64: the sums of a large filter lose digits otherwise.
        size, length = (t.double().flatten(1).norm(dim=1) for t in (weight, d))
        scale = torch.where(length > 0, size / length.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        change[name] = d * scale.to(d).view(-1, *[1] * (d.ndim - 1))
    return change


def minimum(snapshot: Snapshot, around: Around) -> nn.Module | None:
    """A copy of the sparse, or of the re-dense network; None where it is not known."""
    network = copy.deepcopy(snapshot.network).eval()
    if around == "redense":
        if snapshot.redense is None:
            return None
        network.load_state_dict(dict(snapshot.redense))
    return network


def _direction(snapshot: Snapshot, centre: nn.Module, space: Space, axis: int) -> dict[str, Tensor]:
    return direction(centre, snapshot.masks if space == "subspace" else None, snapshot.trial.seed, axis)


def _with_centre(steps: Numbers) -> Numbers:
    """[P, axes] -> [P, 1 + axes]: once the minimum, and so much of each direction."""
    return np.concatenate([np.ones((len(steps), 1)), steps], axis=1)


def _measured(centre: nn.Module, along: list[dict[str, Tensor]], shares: Numbers, train: Split) -> Heights:
    state: Weights = {name: value.detach() for name, value in centre.state_dict().items()}
    return heights(centre, [state, *along], shares, {"train": train})["train"]
