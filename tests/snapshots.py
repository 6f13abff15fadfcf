"""Snapshots of toy networks, and a guard that a diagnosis leaves everything as it was."""

# N examples, K classes.

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunephase.data import Dataset, Split
from prunephase.randomness import seeded
from prunephase.sections import Recipe
from prunephase.snapshot import Snapshot
from prunephase.trial import Trial

K = 5


def examples(count: int, seed: int, shape: tuple[int, ...] = (6,), dtype: torch.dtype = torch.float32) -> Split:
    draw = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, K, (count,), generator=draw)
    chosen = torch.rand(count, generator=draw) < 0.4
    labels = torch.where(chosen, torch.randint(0, K, (count,), generator=draw), truth)
    inputs = torch.randn(count, *shape, generator=draw, dtype=dtype)
    inputs.flatten(1)[:, :K] += nn.functional.one_hot(truth, K)
    return Split(inputs, labels, truth, chosen, torch.arange(count))


def snapshot(
    network: nn.Module,
    *,
    count: int = 300,
    shape: tuple[int, ...] = (6,),
    level: int = 3,
    redense: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> Snapshot:
    """A network with half of each weight pruned; redense: somewhere else in weight space."""
    dtype = next(network.parameters()).dtype
    train, held, test = (examples(n, seed, shape, dtype) for n, seed in ((count, 1), (101, 5), (207, 2)))
    data = Dataset(train, held, replace(test, labels=test.truth), tuple("abcde"), "")
    initial = {name: value.clone() for name, value in network.state_dict().items()}
    draw = torch.Generator().manual_seed(3)
    named = {name: w for name, w in network.named_parameters() if w.ndim > 1}
    masks = {name: torch.rand(w.shape, generator=draw) < 0.5 for name, w in named.items()}
    with torch.no_grad():
        for name, mask in masks.items():
            named[name].masked_fill_(~mask, 0.0)
    other = {
        name: value + 0.5 * torch.rand(value.shape, generator=draw).to(value)
        if value.is_floating_point()
        else value + 7
        for name, value in network.state_dict().items()
    }
    fields = Recipe(**{"epochs": 2, "batch_size": 32, **(recipe or {})})
    return Snapshot(
        Trial(recipe=fields, seed=4), level, network, masks, initial, data, redense=other if redense else None
    )


def mlp(dtype: torch.dtype = torch.float32, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), act(), nn.Linear(8, 7), act(), nn.Linear(7, K)).to(dtype)


class Moody(nn.Module):
    """Convolution, BatchNorm (one frozen in evaluation mode), dropout, in-place ReLU, draws in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.conv, self.norm, self.frozen = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.act, self.drop, self.out = nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4 * 16, K)
        self.frozen.eval()
        self.out.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.act(self.frozen(self.norm(self.conv(x)))))
        return self.out(hidden.flatten(1)) + 0.01 * torch.randn(len(x), K)  # type: ignore[no-any-return]


MOODY = (2, 6, 6)  # shape of its inputs


@contextmanager
def untouched(seen: Snapshot) -> Iterator[None]:
    """Whatever happens inside changes no byte, mode, gradient or flag of the snapshot, nor anybody's random numbers."""
    network = seen.network
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(_everything(seen))
    yield
    after = _everything(seen)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        assert same, name


def _everything(seen: Snapshot) -> dict[str, Any]:
    found: dict[str, Any] = {f"weights of {name}": value for name, value in seen.network.state_dict().items()}
    for name, parameter in seen.network.named_parameters():
        found |= {f"{name}.grad": parameter.grad, f"{name} learns": parameter.requires_grad}
    found |= {f"mode of {name}": module.training for name, module in seen.network.named_modules()}
    found |= {f"hooks of {name}": len(module._forward_hooks) for name, module in seen.network.named_modules()}
    for name in ("masks", "initial", "redense"):
        found |= {f"{name} {key}": value for key, value in (getattr(seen, name) or {}).items()}
    for name, split in seen.data.splits.items():
        found |= {f"{name} inputs": split.inputs, f"{name} labels": split.labels}
    numbers = np.random.get_state()  # noqa: NPY002 - that of other people's code
    return {**found, "torch draws": torch.get_rng_state(), "numpy draws": (numbers[1].tolist(), numbers[2:])}


class TensorLike:
    """Inputs that can do what every tensor-like object of a Split can, and nothing else."""

    def __init__(self, held: Tensor) -> None:
        self._held = held

    @property
    def shape(self) -> torch.Size:
        return self._held.shape

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        return self._held.index_select(dim, index)

    def split(self, size: int) -> Any:
        return self._held.split(size)  # type: ignore[no-untyped-call]

    def __getitem__(self, chosen: slice) -> TensorLike:
        return TensorLike(self._held[chosen])

    def __len__(self) -> int:
        return len(self._held)
