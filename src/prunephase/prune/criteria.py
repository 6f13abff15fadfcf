"""Criteria: a score for every prunable weight; higher stays."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prunephase import streams
from prunephase.errors import UserError
from prunephase.plugins import is_reference, resolve
from prunephase.randomness import seeded
from prunephase.snapshot import Snapshot

Scores = Mapping[str, Tensor]


def magnitude(snapshot: Snapshot) -> Scores:
    """|w| (Han et al. 2015)."""
    return {name: snapshot.network.get_parameter(name).detach().abs() for name in snapshot.masks}


def gradient(snapshot: Snapshot) -> Scores:
    """|dL/dw * w|, L the cross-entropy on random training batches with the labels trained on (He et al. 2022, §2.1).

    `pruning.batches` batches are averaged (the paper's code: 1); `pruning.score_mode` is the mode of the network
    (the paper's code: train). The network itself is not touched, its BatchNorm statistics included.
    """
    spec, train = snapshot.trial.pruning, snapshot.data.train
    network = copy.deepcopy(snapshot.network).train(spec.score_mode == "train")
    network.zero_grad(set_to_none=True)
    wanted = spec.batches * snapshot.trial.recipe.batch_size
    order = snapshot.generator("batches").permutation(len(train))[:wanted]
    places = torch.from_numpy(order).to(train.labels.device)
    for chosen in places.split(snapshot.trial.recipe.batch_size):  # type: ignore[no-untyped-call]
        loss = cross_entropy(network(train.inputs[chosen]), train.labels[chosen], reduction="sum") / len(order)
        loss.backward()  # type: ignore[no-untyped-call]
    result = {}
    for name in snapshot.masks:
        weight = network.get_parameter(name)
        slope = weight.grad if weight.grad is not None else torch.zeros_like(weight)
        result[name] = (slope * weight.detach()).abs()
    return result


def random(snapshot: Snapshot) -> Scores:
    """U(0, 1), an independent stream per tensor and level."""
    scores = {}
    for name, mask in snapshot.masks.items():
        draws = snapshot.generator(name).random(mask.numel(), dtype="float32")
        scores[name] = torch.from_numpy(draws).view(mask.shape).to(mask.device)
    return scores


FAMILY: dict[str, Callable[[Snapshot], Scores]] = {"magnitude": magnitude, "gradient": gradient, "random": random}


def criterion(name: str, plugins: Collection[str] = ()) -> Callable[[Snapshot], Scores]:
    """The criterion called `name`. Raises UserError where it is somebody's code that may not or cannot be imported."""
    return resolve(name, plugins, "pruning.criterion") if is_reference(name) else FAMILY[name]


def scores(snapshot: Snapshot, plugins: Collection[str] = ()) -> Scores:
    """Scores of the trial's criterion, checked. Raises UserError where a user's own gives something else."""
    name = snapshot.trial.pruning.criterion
    rule = criterion(name, plugins)
    # Dropout in train mode, and whatever a user's own criterion draws from torch, follow the trial too.
    with seeded(streams.seed(snapshot.trial.seed, "score", snapshot.level)):
        found = rule(snapshot)
    for key, mask in snapshot.masks.items():
        score = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(score, Tensor) or score.shape != mask.shape:
            raise UserError(f"pruning.criterion = '{name}': gave no scores of shape {list(mask.shape)} for {key}")
        if torch.isnan(score[mask]).any():
            raise UserError(f"pruning.criterion = '{name}': a score of {key} is NaN at level {snapshot.level}")
    return found
