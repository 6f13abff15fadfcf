"""What the tests of diagnoses share: data with wrong labels, levels made by hand, and what must stay as it was."""

# N examples, F features, K classes.

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunephase import sections, trial
from prunephase.data import Dataset, Split
from prunephase.snapshot import Snapshot

K = 4


def split(count: int, shape: tuple[int, ...], seed: int, noisy: bool = False) -> Split:
    """Random examples; two fifths drawn anew where noisy, some of which hit their true class."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, K, (count,), generator=draw)
    chosen = torch.rand(count, generator=draw) < (0.4 if noisy else 0.0)
    labels = torch.where(chosen, torch.randint(0, K, (count,), generator=draw), truth)
    index = torch.randperm(3 * count, generator=draw)[:count]
    return Split(torch.randn(count, *shape, generator=draw), labels, truth, chosen, index)


def dataset(shape: tuple[int, ...] = (6,), count: int = 2_345, tests: int = 1_017) -> Dataset:
    names = ("ant", "bee", "cow", "dog")
    return Dataset(split(count, shape, 1, noisy=True), None, split(tests, shape, 3), names, "")


def snapshot(network: nn.Module, data: Dataset, masks: Mapping[str, Tensor] | None = None, **more: Any) -> Snapshot:
    """A level of a ladder; its initial weights are `network`'s unless they are given. more: fields of Snapshot."""
    initial = {name: value.clone() for name, value in network.state_dict().items()}
    fields = {"trial": trial.Trial(pruning=sections.Pruning(levels=3)), "level": 3, "initial": initial, **more}
    return Snapshot(network=network, masks=masks or {}, data=data, **fields)


class Moody(nn.Module):
    """BatchNorm, dropout, a part that the user froze, an activation in place, and draws in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.BatchNorm1d(5)
        self.drop, self.out = nn.Dropout(), nn.Linear(5, K)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.frozen(self.first(x))) + 0.1 * torch.randn(len(x), 5)
        return self.out(self.drop(nn.functional.relu(x, inplace=True)))  # type: ignore[no-any-return]


@contextmanager
def untouched(seen: Snapshot) -> Iterator[None]:
    """What happens inside leaves every byte, mode, gradient, hook and random number of the caller as it was."""
    network = seen.network
    modes = {name: module.training for name, module in network.named_modules()}
    wants = {name: p.requires_grad for name, p in network.named_parameters()}
    state, draws = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    slopes = {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}
    others = copy.deepcopy([dict(seen.masks), dict(seen.initial), seen.data.train.inputs, seen.data.test.inputs])
    yield
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert {name: p.requires_grad for name, p in network.named_parameters()} == wants
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws)
    for name, p in network.named_parameters():
        assert (p.grad is None) if slopes[name] is None else torch.equal(p.grad, slopes[name])  # type: ignore[arg-type]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    masks, initial, train, test = others
    assert all(torch.equal(seen.masks[name], mask) for name, mask in masks.items())
    assert all(torch.equal(seen.initial[name], value) for name, value in initial.items())
    assert torch.equal(seen.data.train.inputs, train)
    assert torch.equal(seen.data.test.inputs, test)


def row(finding: Any, part: str) -> dict[str, Any]:
    """The one row of a finding called `part`."""
    (found,) = [r for r in finding.rows if r["part"] == part]
    return dict(found)
