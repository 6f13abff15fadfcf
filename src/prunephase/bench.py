"""A trial's materials: noisy data, networks, budgets; and whether it can be trained at all."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunephase import data as sources
from prunephase import models, noise, prune
from prunephase.data import Dataset
from prunephase.engine import numerics, pick
from prunephase.errors import UserError
from prunephase.models import Given
from prunephase.noise import Card
from prunephase.trial import Trial, canonical_json, steps_per_epoch

# Raised by hand whenever a change of ours alters the numbers that an unchanged trial gives.
NUMERICS_EPOCH = 1


@dataclass(frozen=True)
class Site:
    """Where trials are trained: not part of what they are. shared: the folder where their data are published."""

    store: Path
    device: str = "cpu"
    plugins: frozenset[str] = frozenset()
    allow_numerics_change: bool = False
    shared: Path | None = None


# Inputs on a device, by data and device: of the data that were used last.
_resident: dict[tuple[bytes, str, str], dict[str, Tensor]] = {}


class Bench:
    """Each material is made when first asked for; a UserError explains input that cannot be used.

    clean: the data that the trial names, where they are at hand already.
    """

    def __init__(self, trial: Trial, site: Site, clean: Dataset | None = None) -> None:
        self.trial, self.site = trial, site
        self.device = pick(site.device)
        self.clean = clean if clean is not None else sources.obtain(trial.data, site.plugins, site.shared)

    @cached_property
    def noisy(self) -> tuple[Dataset, Card]:
        source, seed = self.trial.data.source, self.trial.seed
        home = Path(self.trial.data.path) if self.trial.data.path is not None else None
        return noise.corrupt(
            self.clean, self.trial.noise, source=source, seed=seed, plugins=self.site.plugins, home=home
        )

    @cached_property
    def data(self) -> Dataset:
        noisy = self.noisy[0]
        if self.device.type == "cpu":
            return noisy
        # The inputs of all trials of a process are one copy on the device: so they can train at once.
        key = (canonical_json(self.trial.data.model_dump(mode="json")), noisy.fingerprint, str(self.device))
        if key not in _resident:
            _resident.clear()
            _resident[key] = {name: split.inputs.to(self.device) for name, split in noisy.splits.items()}
        return noisy.to(self.device, _resident[key])

    def network(self, *where: int | str) -> nn.Module:
        """A network on the device as every level finds it: freshly initialised, or with the weights that are given.

        `where` names a new initialisation instead.
        """
        fresh = self._fresh(*where)
        if not where and self.given.weights:
            fresh.load_state_dict(dict(self.given.weights))
        return fresh.to(self.device)

    def _fresh(self, *where: int | str) -> nn.Module:
        data = self.noisy[0]
        spec, seed, classes = self.trial.model, self.trial.seed, len(data.classes)
        return models.build(spec, data.input_shape, classes, seed, *where, plugins=self.site.plugins, dtype=data.dtype)

    @cached_property
    def given(self) -> Given:
        """What the file of weights holds, where one is named."""
        spec = self.trial.model
        return Given() if spec.weights_sha256 is None else models.given(spec, self._fresh())

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """Masks of level 0, on the CPU: every weight lives, unless the file of weights says otherwise."""
        for name in self.given.masks:
            if name not in self.prunable[0]:
                raise UserError(
                    f"model.weights = {self.trial.model.weights!r}: holds a mask of {name}, which [pruning] does not "
                    "prune; make it permanent (torch.nn.utils.prune.remove) or change include and exclude"
                )
        network = self._fresh()
        every = {name: torch.ones(network.get_parameter(name).shape, dtype=torch.bool) for name in self.prunable[0]}
        masks = {**every, **self.given.masks}
        if not any(mask.any() for mask in masks.values()):
            raise UserError(
                f"model.weights = {self.trial.model.weights!r}: its masks leave no weight; take another file"
            )
        return masks

    @cached_property
    def prunable(self) -> tuple[dict[str, int], int]:
        """{name: size} of the prunable weights, and the number of weights left out."""
        chosen, ignored = prune.prunable(self.network(), self.trial.pruning)
        return {name: weight.numel() for name, weight in chosen.items()}, ignored

    @cached_property
    def alive(self) -> dict[str, int]:
        """{name: size} of what lives at level 0 of the prunable weights."""
        return {name: int(mask.sum()) for name, mask in self.masks.items()}

    @cached_property
    def floors(self) -> dict[str, int]:
        """{name: weights that stay in any case}, for prunable weights that have a floor."""
        least = prune.floors(self.network(), self.trial.pruning) if self.trial.pruning.floor else {}
        return {name: min(count, self.alive[name]) for name, count in least.items()}

    @cached_property
    def budgets(self) -> list[dict[str, int]]:
        return prune.budgets(self.alive, self.trial.pruning, self.prunable[1], self.floors)

    @cached_property
    def numerics(self) -> dict[str, Any]:
        """The numerics fingerprint, but for the strategy, which is chosen level by level."""
        return {**numerics(self.device), "epoch": NUMERICS_EPOCH}

    @property
    def steps(self) -> int:
        return steps_per_epoch(len(self.noisy[0].train), self.trial.recipe.batch_size)

    def check(self) -> None:
        """Raise UserError where this trial cannot be trained, before anything is spent."""
        recipe, count = self.trial.recipe, len(self.noisy[0].train)
        prune.criterion(self.trial.pruning.criterion, self.site.plugins)
        self._check_network()
        _ = self.budgets
        self._check_augmentation()
        self._check_decay()
        to, end = self.trial.restart.to, self.steps * recipe.epochs
        if self.trial.restart.iteration(self.steps) >= end:
            raise UserError(f"restart.to = '{to}': lies beyond the schedule of {end:,} steps ({recipe.epochs} epochs)")
        batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.network().modules())
        if batch_norm and (recipe.batch_size == 1 or count % recipe.batch_size == 1):
            raise UserError(
                f"recipe.batch_size = {recipe.batch_size}: {count:,} examples leave a batch of one, which BatchNorm "
                "cannot train on; change it by one"
            )

    def _check_network(self) -> None:
        network, data, name = self.network().eval(), self.data, self.trial.model.name
        if not any(p.requires_grad for p in network.parameters()):
            raise UserError(f"model.name = '{name}': every parameter is frozen; nothing would be trained")
        if data.dtype.is_floating_point:
            return
        for split in data.splits.values():  # whole numbers name things; the network must know the first and the last
            numbers = split.inputs.flatten(1)
            for place in (numbers.amin(1).argmin(), numbers.amax(1).argmax()):
                try:
                    with torch.no_grad():
                        network(split.inputs[place : place + 1])
                except Exception as problem:  # the user's code
                    said, held = " ".join(str(problem).split()), f"{numbers.min()} to {numbers.max()}"
                    raise UserError(
                        f"model.name = '{name}': fails on an example of the data, whose numbers go from {held}: {said}"
                    ) from None

    def _check_augmentation(self) -> None:
        names, data = self.trial.recipe.augment, self.noisy[0]
        shape = data.input_shape
        if names and len(shape) != 3:
            raise UserError(
                f"recipe.augment = {list(names)}: changes images [channels, height, width], but an example of these "
                f"data is {list(shape)}; leave it out"
            )
        if names and not data.dtype.is_floating_point:
            raise UserError(
                f"recipe.augment = {list(names)}: changes images of floats, but data.normalise = 'keep' leaves them "
                f"{data.dtype}; leave one of them out"
            )
        if "shift" in names and data.black is None:
            raise UserError(
                "recipe.augment: 'shift' fills the margin with black, and only images of bytes (uint8) say what that "
                "is; give the images as bytes, or leave it out"
            )

    def _check_decay(self) -> None:
        chosen = self.trial.recipe.decay_by
        names = [name for name, p in self.network().named_parameters() if p.requires_grad]
        for pattern in chosen:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UserError(
                    f"recipe.decay_by: '{pattern}' matches no parameter; the parameters are {', '.join(names)}"
                )
        # The order of the patterns is no part of a trial's identity, so it must not matter.
        for name in names:
            fitting = [pattern for pattern in chosen if fnmatchcase(name, pattern)]
            if len({chosen[pattern] for pattern in fitting}) > 1:
                both = " and ".join(f"'{pattern}'" for pattern in fitting)
                raise UserError(f"recipe.decay_by: {both} fit {name}, with unlike decays; let one pattern fit it")

    def sparsity(self, remaining: int) -> float:
        """Share removed, of the weights that the trial counts."""
        sizes, ignored = self.prunable
        extra = ignored if self.trial.pruning.count_ignored else 0
        return 1.0 - (remaining + extra) / (sum(sizes.values()) + extra)
