"""Loss and accuracy of one network at many points of weight space, each a mixture of a few state_dicts."""

# P points, M state_dicts that are mixed, N examples.

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prunephase import streams
from prunephase.data import Split
from prunephase.engine.forward import BATCH, laid_out, memory_format
from prunephase.randomness import seeded

Weights = Mapping[str, Tensor]
Numbers = NDArray[np.float64]
TAILS = 256 * 2**20  # bytes that all points of a network may take in memory at once


@dataclass(frozen=True)
class Heights:
    """Mean cross-entropy (NaN where it is not finite) and accuracy at every point, [P] each."""

    loss: Numbers
    accuracy: Numbers


def drawn(split: Split, count: int | None, seed: int, *where: int | str) -> Split:
    """`count` examples of `split`, drawn from the stream (seed, "analysis", *where); all of them where it is None.

    The draw does not know the level: every level of a trial is looked at through the same examples.
    """
    if count is None or count >= len(split):
        return split
    order = streams.generator(seed, "analysis", *where, "examples").permutation(len(split))[:count]
    places = torch.from_numpy(np.sort(order)).to(split.labels.device)
    rest = (getattr(split, name)[places] for name in ("labels", "truth", "permuted", "index"))
    return Split(split.inputs.index_select(0, places), *rest)


def mixture(states: Sequence[Weights], shares: Sequence[float]) -> dict[str, Tensor]:
    """sum_m shares[m] * states[m], exactly states[m] where its share is 1 and all others are 0.

    What is not a floating-point number, such as a count of batches, is that of the first state with a share.
    """
    parts = [(state, share) for state, share in zip(states, shares, strict=True) if share != 0]
    return {name: _sum([(state[name], share) for state, share in parts]) for name in parts[0][0]}


def _sum(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    """A new tensor."""
    (first, share), *rest = parts
    if not first.is_floating_point():
        return first.clone()
    total = first * share  # a share of 1 keeps the very bits, and so the sign of a zero
    for tensor, share in rest:
        total.add_(tensor, alpha=share)
    return total


@torch.no_grad()
def heights(
    network: nn.Module,
    states: Sequence[Weights],
    shares: Numbers,
    splits: Mapping[str, Split],
    settle: Callable[[nn.Module], None] | None = None,
) -> dict[str, Heights]:
    """How `network` does on each of `splits` at the weights `mixture(states, shares[p])`, in evaluation mode.

    shares: [P, M]. settle: called with the network at each point before it is measured. BATCH examples at once, in
    the network's own precision; a copy of it is used. Where a plain nn.Sequential begins with a Linear or Conv2d layer,
    what that layer gives is mixed instead of its weights - it is linear in them - and so computed M times instead of P
    times: the same up to rounding, and to the last bit at a point that is one of the states.
    """
    twin = copy.deepcopy(network).eval()
    stem = _stem(twin, len(shares)) if settle is None else None
    if stem is not None:
        return {name: _shared(twin, stem, states, shares, split) for name, split in splits.items()}
    totals = {name: _totals(len(shares), split) for name, split in splits.items()}
    for point, row in enumerate(shares.tolist()):
        twin.load_state_dict(mixture(states, row))
        if settle is not None:
            settle(twin)
        # A network may draw in evaluation mode as well: the same at every point.
        with seeded(streams.seed(0, "dropout", "evaluate")):
            for name, split in splits.items():
                for inputs, labels in _batches(twin, split):
                    totals[name][point] += _score(twin(inputs), labels)
    return {name: _heights(totals[name], split) for name, split in splits.items()}


def _stem(network: nn.Module, points: int) -> int | None:
    """Place of the layer that sees the inputs, where what it gives may be mixed."""
    if type(network) is not nn.Sequential:
        return None
    for place, module in enumerate(network):
        if module.state_dict():
            rest = sum(t.numel() * t.element_size() for t in network[place + 1 :].state_dict().values())
            linear = type(module) in (nn.Linear, nn.Conv2d) and not module._forward_hooks
            known = all(type(later).__module__.startswith("torch.nn.modules.") for later in network.modules())
            return place if linear and known and points * rest <= TAILS else None
    return None


def _shared(network: nn.Module, place: int, states: Sequence[Weights], shares: Numbers, split: Split) -> Heights:
    assert isinstance(network, nn.Sequential)
    stems = [_loaded(network[: place + 1], state) for state in states]
    tails = [_loaded(network[place + 1 :], mixture(states, row)) for row in shares.tolist()]
    totals = _totals(len(shares), split)
    for inputs, labels in _batches(network, split):
        made = [stem(inputs) for stem in stems]
        for point, row in enumerate(shares.tolist()):
            mixed = _sum([(out, share) for out, share in zip(made, row, strict=True) if share != 0])
            totals[point] += _score(tails[point](mixed), labels)
    return _heights(totals, split)


def _batches(network: nn.Module, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    layout = memory_format(network)
    parts = (t.split(BATCH) for t in (split.inputs, split.labels))  # type: ignore[no-untyped-call]
    return ((laid_out(inputs, layout), labels) for inputs, labels in zip(*parts, strict=True))


def _totals(points: int, split: Split) -> Tensor:
    return torch.zeros(points, 2, dtype=torch.float64, device=split.labels.device)


def _score(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy and count of hits. In float64: curvatures are small differences of such sums."""
    return torch.stack(
        [cross_entropy(logits.double(), labels, reduction="sum"), (logits.argmax(1) == labels).sum().double()]
    )


def _heights(totals: Tensor, split: Split) -> Heights:
    loss, accuracy = (totals / len(split)).T.cpu().numpy()
    return Heights(np.where(np.isfinite(loss), loss, math.nan), accuracy)


def _loaded(module: nn.Module, state: Weights) -> nn.Module:
    twin = copy.deepcopy(module)
    twin.load_state_dict({name: state[name] for name in twin.state_dict()})
    return twin


def number(value: float) -> float | None:
    """A value of a row: None where there is no finite one."""
    return float(value) if math.isfinite(value) else None
