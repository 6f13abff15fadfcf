"""Checks and times the training loop on an accelerator; on a machine without one, the same at toy size on the CPU.

    PYTHONPATH=src python benchmarks/gpu.py [--device cuda] [--data FOLDER_WITH_MNIST]

First correctness, small: the loop on the device against the same loop on the CPU, same streams, over a few steps (equal
to float32 rounding, no leaked weight), and twice on the device (equal bytes). Then speed: LeNet-300-100 at batch 128,
training alone and with evaluation, in samples/s, in turns with an eager plain loop on the same device. A table comes
last; everything also goes to $OUT/gpu.json where OUT is set.
"""

# N examples, B batch.

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from prunephase import models, tensors
from prunephase.data import Dataset, Split
from prunephase.data.mnist import mnist
from prunephase.engine import fit
from prunephase.errors import UserError
from prunephase.measure import evaluate
from prunephase.prune import leaked, zero_pruned
from prunephase.trial import Data, Model, Recipe

BATCH, SPARSITY, ROUNDS = 128, 0.89, 5


def split(count: int, images: np.ndarray | None, labels: np.ndarray | None, seed: int) -> Split:
    """`count` examples: of MNIST where it is at hand, random otherwise. inputs [N, 1, 28, 28], labels [N]."""
    draw = np.random.default_rng(seed)
    x = images[:count] / 255 if images is not None else draw.random((count, 28, 28))
    y = labels[:count] if labels is not None else draw.integers(10, size=count)
    inputs = torch.from_numpy(((x - 0.1307) / 0.3081).astype(np.float32)).unsqueeze(1)
    given = torch.from_numpy(np.asarray(y, np.int64))
    return Split(inputs, given, given, torch.zeros(count, dtype=torch.bool), torch.arange(count))


def materials(data: Dataset, device: torch.device) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """LeNet-300-100 with a random mask at `SPARSITY`, the same on every device."""
    network = models.build(Model(name="lenet-300-100"), data.input_shape, 10, 0).to(device)
    draw = torch.Generator().manual_seed(0)
    names = ("hidden1.weight", "hidden2.weight")
    masks = {n: torch.rand(network.get_parameter(n).shape, generator=draw) > SPARSITY for n in names}
    masks = {n: m.to(device) for n, m in masks.items()}
    zero_pruned(network, masks)
    return network, masks


def steps(data: Dataset, device: torch.device, count: int) -> dict[str, torch.Tensor]:
    """Weights after `count` steps on `device`."""
    network, masks = materials(data, device)
    recipe = Recipe(lr=0.1, momentum=0.9, batch_size=BATCH, epochs=1)
    next(fit(network, data.train.to(device), recipe, seed=0, level=0, masks=masks, pause_at=count))
    assert leaked(network, masks) == 0, "a pruned weight came back"
    return {name: value.detach().cpu() for name, value in network.state_dict().items()}


def plain(data: Dataset, device: torch.device) -> Callable[[], None]:
    """One epoch of an eager loop that masks weights after every step."""
    network, masks = materials(data, device)
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    floats = {name: mask.float() for name, mask in masks.items()}
    train = data.train

    def epoch() -> None:
        for chosen in torch.randperm(len(train), device=device).split(BATCH):
            optimiser.zero_grad()
            cross_entropy(network(train.inputs[chosen]), train.labels[chosen]).backward()
            optimiser.step()
            with torch.no_grad():
                for name, mask in floats.items():
                    network.get_parameter(name).mul_(mask)

    return epoch


def ours(data: Dataset, device: torch.device, *, measured: bool) -> Callable[[], None]:
    """One epoch of prunephase, with its evaluation of all splits if `measured`."""
    network, masks = materials(data, device)
    moments = fit(network, data.train, Recipe(lr=0.1, batch_size=BATCH, epochs=100_000), seed=0, level=0, masks=masks)

    def epoch() -> None:
        next(moments)
        if measured:
            evaluate(network, data)

    return epoch


def seconds(action: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, help="folder with the IDX files of MNIST; random images without it")
    words = parser.parse_args()
    device = torch.device(words.device)
    toy = device.type == "cpu"
    try:
        found = mnist(Data(source="mnist", path=str(words.data)), None) if words.data else None
    except UserError as problem:
        print(problem, file=sys.stderr)
        return 2
    count = 4_000 if toy else 54_000
    train = split(count, found.inputs if found else None, found.labels if found else None, 0)
    test = split(count // 6, found.test_inputs if found else None, found.test_labels if found else None, 1)
    data = Dataset(train, None, test, tuple(map(str, range(10))), "")

    here, there = steps(data, torch.device("cpu"), 20), steps(data, device, 20)
    error = max(float((here[n] - there[n]).norm() / here[n].norm().clamp_min(1e-12)) for n in here)
    repeats = tensors.digest(there) == tensors.digest(steps(data, device, 20))
    data = data.to(device)
    runs = {
        "plain eager loop": plain(data, device),
        "prunephase": ours(data, device, measured=False),
        "prunephase, with evaluation": ours(data, device, measured=True),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(ROUNDS + 1):
        for name, action in runs.items():
            taken = seconds(action, device)
            if round_:  # the first warms up
                times[name].append(taken)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rates = {k: [round(count / t, 1) for t in v] for k, v in times.items()}
    report = {
        "device": name,
        "torch": torch.__version__,
        "examples": count,
        "data": "MNIST" if found else "random",
        "relative error after 20 steps": error,
        "equal bytes when repeated": repeats,
        "samples per second": rates,
    }
    if "OUT" in os.environ:
        (Path(os.environ["OUT"]) / "gpu.json").write_text(json.dumps(report, indent=1))
    print(f"{name}, torch {torch.__version__}, {report['data']}, {count:,} examples{' (toy size)' if toy else ''}")
    print(f"relative error against the CPU after 20 steps {error:.1e}; repeated bytes equal: {repeats}")
    for name, found_rates in rates.items():
        spread = f"{min(found_rates):,.0f} .. {max(found_rates):,.0f}, n = {len(found_rates)}"
        print(f"{name:<30} {statistics.median(found_rates):>12,.0f} samples/s ({spread})")
    return 0 if error < 1e-4 and repeats else 1


if __name__ == "__main__":
    sys.exit(main())
