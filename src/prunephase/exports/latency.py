"""Latency: how long each form of a network takes for a batch, on this machine, in turn with the others."""

# B batch, K classes, I inputs and O outputs of a layer.

from __future__ import annotations

import copy
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from prunephase.exports.forms import Run

BATCHES = (1, 128)
WARM, COUNTED = 2, 5  # runs of a turn
MOST, FEWEST = 40, 3  # turns
SECONDS = 4.0  # for all forms at one batch, unless that allows fewer than FEWEST


@dataclass(frozen=True)
class Timing:
    """Milliseconds of n runs of one form at one batch size: median and quartiles, both ends of the middle half."""

    form: str
    batch: int
    n: int
    median: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def latencies(runs: Mapping[str, Run], inputs: Tensor, batches: Sequence[int] = BATCHES) -> list[Timing]:
    """Time every form at every batch size. inputs: real examples, repeated where they are fewer than a batch.

    The forms take turns, so that what else the machine does falls on all of them alike; the first runs of a turn are
    not counted, so that none suffers from what the one before it left in the caches.
    """
    found = []
    for size in batches:
        batch = inputs[torch.arange(size) % len(inputs)].contiguous()
        seconds: dict[str, list[float]] = {form: [] for form in runs}
        begun = perf_counter()
        for turn in range(MOST):
            if turn >= FEWEST and perf_counter() - begun > SECONDS:
                break
            for form, run in runs.items():
                for i in range(WARM + COUNTED):
                    start = perf_counter()
                    run(batch)
                    if i >= WARM:
                        seconds[form].append(perf_counter() - start)
        for form, taken in seconds.items():
            low, median, high = (1e3 * cut for cut in quantiles(taken, n=4, method="inclusive"))
            found.append(Timing(form, size, len(taken), median, low, high))
    return found


def compressed(network: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module | None:
    """A copy whose pruned linear layers multiply with compressed sparse rows; None where there are none of either."""
    twin = copy.deepcopy(network)
    layers = [name for name, m in twin.named_modules() if type(m) is nn.Linear and f"{name}.weight" in masks]
    try:
        for name in layers:
            twin.set_submodule(name, Rows(twin.get_submodule(name)))
    except (RuntimeError, ValueError):  # a network that is a layer itself; a torch that has no such kernels
        return None
    return twin if layers else None


class Rows(nn.Module):
    """A linear layer whose weight is kept in compressed sparse rows. [..., I] -> [..., O]"""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, nn.Linear)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that their support is in beta
            self.weight = layer.weight.detach().to_sparse_csr()
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = (self.weight @ flat.T).T
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], -1)


def machine() -> dict[str, Any]:
    """What the times belong to."""
    return {"processor": _processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def _processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
