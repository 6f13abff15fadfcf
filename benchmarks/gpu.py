"""Checks and times training on a GPU, then trains as much of a ladder as fits; without a GPU, a toy of it on the CPU.

    PYTHONPATH=src python benchmarks/gpu.py [--data FOLDER] [--minutes 8] [--device cuda:0]

First correctness, small: what `gpu.team` chooses against the plain loop on the same device, captured against
uncaptured, equal bytes when repeated, a neighbour that diverges. Then seconds per epoch (scaled to 50,000 images) of
LeNet-300-100, a VGG-like network and a ResNet-18, against an eager loop over resident data on the same device, in turns
within one run. Last a ladder of the VGG-like network as in DSD2 (CIFAR-10, half of the labels wrong, 160 epochs a
level, 20 % of the weights pruned in between, weights kept; no augmentation), as many levels as fit into --minutes.
FOLDER: cifar10-train.parquet and cifar10-test.parquet as Hugging Face has them (needs pyarrow and Pillow); without it,
random images. The tables come last; all numbers go to $OUT/gpu.json where OUT is set.
"""

# J jobs, N examples, B batch, C channels, H height, W width, K classes.

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from convnets import resnet18, vgg_like
from measuring import spread, table
from prunephase import streams
from prunephase.data import Dataset, Split
from prunephase.engine import Diverged, Job, Moment, Team, gpu
from prunephase.engine.forward import autocast
from prunephase.engine.gpu.capture import uncaptured
from prunephase.engine.plain import Plain
from prunephase.models import kaiming, lenet_300_100
from prunephase.prune import leaked, zero_pruned
from prunephase.prune.masks import keep_top
from prunephase.randomness import seeded
from prunephase.sections import Recipe

K, BATCH, EPOCH, ROUNDS = 10, 128, 50_000, 5
MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


def networks(toy: bool) -> dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]]:
    """By name: the shape of an image, and how to make the network."""
    gamma, width = (2, 4) if toy else (5, 64)
    return {
        "LeNet-300-100": (MNIST, lambda: lenet_300_100(MNIST, K)),
        "VGG-like": (CIFAR, lambda: vgg_like(gamma)),
        "VGG-like, dropout": (CIFAR, lambda: vgg_like(gamma, 0.5)),
        "ResNet-18": (CIFAR, lambda: resnet18(width)),
    }


def split(inputs: Tensor, labels: Tensor, truth: Tensor) -> Split:
    return Split(inputs, labels, truth, labels != truth, torch.arange(len(labels), device=labels.device))


def random_data(shape: tuple[int, ...], count: int, device: torch.device) -> Dataset:
    """Random images with random labels: as much work as any."""
    draw = torch.Generator().manual_seed(0)
    sizes = (count, max(20, count // 5))
    made = [(torch.randn(n, *shape, generator=draw), torch.randint(K, (n,), generator=draw)) for n in sizes]
    train, test = (split(x.to(device), y.to(device), y.to(device)) for x, y in made)
    return Dataset(train, None, test, tuple(map(str, range(K))), "")


def cifar10(folder: Path, device: torch.device) -> Dataset:
    """CIFAR-10 with half of its training labels replaced by another class (symmetric noise, wrong label guaranteed)."""
    from PIL import Image
    from pyarrow import parquet

    found = []
    for name in ("train", "test"):
        rows = parquet.read_table(folder / f"cifar10-{name}.parquet")
        images, labels = (
            rows.column(c).to_pylist() for c in ("image" if "image" in rows.column_names else "img", "label")
        )
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB")) for image in images])
        found.append(
            (torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device), torch.tensor(labels).to(device))
        )
    mean, deviation = (
        torch.tensor(c, device=device).view(1, 3, 1, 1) for c in ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
    )
    (train, truth), (test, clean) = (((x / 255 - mean) / deviation, y) for x, y in found)
    draw, labels = streams.generator(0, "noise"), truth.clone()
    wrong = torch.from_numpy(draw.permutation(len(truth))[: len(truth) // 2]).to(device)
    labels[wrong] = (labels[wrong] + torch.from_numpy(draw.integers(1, K, len(wrong))).to(device)) % K
    return Dataset(split(train, labels, truth), None, split(test, clean, clean), tuple(map(str, range(K))), "")


def prunable(network: nn.Module) -> list[str]:
    return [f"{name}.weight" for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def jobs(make: Callable[[], nn.Module], data: Dataset, recipe: Recipe, count: int, sparsity: float = 0.5) -> list[Job]:
    """`count` jobs of different seeds, with random masks."""
    made = []
    for seed in range(count):
        with seeded(streams.seed(seed, "weights")):
            network = kaiming(make()).to(data.train.labels.device)
            masks = {n: torch.rand_like(network.get_parameter(n)) >= sparsity for n in prunable(network)}
        zero_pruned(network, masks)
        made.append(Job(network, data, recipe, seed, 0, masks))
    return made


# Correctness


def drain(team: Team) -> None:
    for _ in team.moments():
        pass


def flat(network: nn.Module) -> Tensor:
    return torch.cat([weight.detach().double().flatten() for weight in network.parameters()])


def apart(ours: Sequence[Job], theirs: Sequence[Job], start: Sequence[Job]) -> float:
    """How far our weights are from theirs, as a share of how far training has moved theirs; of the worst job."""
    sides = [[flat(job.network) for job in side] for side in (ours, theirs, start)]
    return max(float((a - b).norm() / (b - s).norm()) for a, b, s in zip(*sides, strict=True))


def checks(name: str, precision: str, device: torch.device, toy: bool) -> dict[str, Any]:
    """One network: its ways of training against each other, over some steps, the last of an epoch short."""
    shape, make = networks(toy)[name]
    batch, steps, epochs = (16, 4, 1) if toy else (BATCH, 10, 2)
    data = random_data(shape, steps * batch + batch // 2, device)
    # A rate at which rounding errors do not grow: at a higher one, any two programs drift apart.
    recipe = Recipe(lr=0.001, momentum=0.9, weight_decay=1e-4, batch_size=batch, epochs=epochs, precision=precision)
    start, ours, single, bare, again, sick, theirs = (jobs(make, data, recipe, 2) for _ in range(7))
    team: Any = gpu.team(ours)
    drain(team)
    for job in single:
        drain(gpu.team([job]))
        assert leaked(job.network, job.masks) == 0, "a pruned weight came back"
    drain(gpu.team(bare, uncaptured))
    drain(gpu.team(again))
    with torch.no_grad():
        for weight in sick[1].network.parameters():
            weight.fill_(torch.inf)
    drain(gpu.team(sick))
    said = []
    for job in theirs:
        plain = Plain(job)
        drain(plain)
        said += plain.guesses()
    agree = [(a[k][1] == b[k][1]).double().mean().item() for a, b in zip(team.guesses(), said, strict=True) for k in b]
    return {
        "network": name,
        "precision": precision,
        "strategy": team.strategy,
        "reasons": list(team.reasons),
        "from plain": apart(ours, theirs, start),
        "single from plain": apart(single, theirs, start),
        "from uncaptured": apart(ours, bare, start),
        "repeated": apart(again, ours, start),
        "beside one that diverges": apart(sick[:1], ours[:1], start[:1]),
        "equal guesses": min(agree),
    }


# Speed


def eager(job: Job) -> Iterator[None]:
    """What anybody would write: an epoch of an eager loop over resident data, masks applied after each step."""
    network, train, recipe = job.network, job.data.train, job.recipe
    half = recipe.precision == "bfloat16"
    layout = torch.channels_last if half else torch.contiguous_format
    network.to(memory_format=layout)
    optimiser = torch.optim.SGD(network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    masks = {name: mask.float() for name, mask in job.masks.items()}
    while True:
        network.train()
        for chosen in torch.randperm(len(train), device=train.labels.device).split(recipe.batch_size):
            optimiser.zero_grad()
            with autocast(recipe.precision, train.labels.device.type):
                loss = cross_entropy(
                    network(train.inputs[chosen].contiguous(memory_format=layout)), train.labels[chosen]
                )
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for name, mask in masks.items():
                    network.get_parameter(name).mul_(mask)
        yield


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(action: Callable[[], object], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    action()
    wait(device)
    return time.perf_counter() - start


def flops(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> float:
    """FLOP of a training step for one image."""
    network = make()
    with FlopCounterMode(display=False) as counter:
        cross_entropy(network(torch.randn(2, *shape)), torch.zeros(2, dtype=torch.int64)).backward()
    return counter.get_total_flops() / 2


def speed(
    name: str, precision: str, counts: Sequence[int], device: torch.device, toy: bool
) -> Iterator[dict[str, Any]]:
    """Seconds per epoch of 50,000 images: eager, and ours with 1, ... networks at once, in turns."""
    shape, make = networks(toy)[name]
    batch = 16 if toy else BATCH
    count = 4 * batch if toy else EPOCH if shape == MNIST else 100 * batch
    data = random_data(shape, count, device)
    recipe = Recipe(lr=0.01, momentum=0.9, weight_decay=1e-4, batch_size=batch, epochs=100_000, precision=precision)
    scale, rounds = EPOCH / count, 1 if toy else ROUNDS
    (first,) = jobs(make, data, recipe, 1)
    loop, ways = eager(first), []
    for width in counts:
        start = time.perf_counter()
        team: Any = gpu.team(jobs(make, data, recipe, width))
        wait(device)
        ways.append((width, team, team.moments(), time.perf_counter() - start))
    runs: list[tuple[str, Callable[[], object]]] = [
        ("eager", lambda: next(loop)),
        ("eager evaluation", Plain(first).guesses),
    ]
    for width, team, moments, _ in ways:
        runs += [(f"ours {width}", lambda moments=moments: next(moments)), (f"evaluation {width}", team.guesses)]
    times: dict[str, list[float]] = {label: [] for label, _ in runs}
    for round_ in range(rounds + 1):
        for label, action in runs:
            taken = seconds(action, device)
            if round_:  # the first warms up
                times[label].append(scale * taken)
    for width, team, _, built in ways:
        ours, evaluation = times[f"ours {width}"], times[f"evaluation {width}"]
        yield {
            "network": name,
            "precision": precision,
            "at once": width,
            "strategy": team.strategy,
            "reasons": list(team.reasons),
            "seconds to set up": built,
            "eager": times["eager"],
            "ours": ours,
            "ratio": [width * e / o for e, o in zip(times["eager"], ours, strict=True)],
            "eager evaluation": times["eager evaluation"],
            "evaluation": evaluation,
            "evaluation ratio": [width * e / o for e, o in zip(times["eager evaluation"], evaluation, strict=True)],
            "TFLOP/s": [width * EPOCH * flops(make, shape) / o / 1e12 for o in ours],
        }


def chosen_width(name: str, precision: str, device: torch.device, toy: bool) -> dict[str, Any]:
    """What `gpu.width` answers, and how long it thinks."""
    shape, make = networks(toy)[name]
    recipe = Recipe(lr=0.01, momentum=0.9, batch_size=BATCH, epochs=1, precision=precision)
    (job,) = jobs(make, random_data(shape, 100 * BATCH, device), recipe, 1)
    start = time.perf_counter()
    found = gpu.width(job)
    return {"network": name, "precision": precision, "width": found, "seconds": time.perf_counter() - start}


def peaks(device: torch.device) -> dict[str, float]:
    """TFLOP/s of one large matrix product: what the device can do."""
    found = {}
    for precision in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(8192, 8192, device=device, dtype=precision) for _ in range(2))
        a @ b
        best = min(seconds(lambda a=a, b=b: a @ b, device) for _ in range(5))
        found[str(precision).removeprefix("torch.")] = 2 * 8192**3 / best / 1e12
    return found


# The ladder


def ladder(data: Dataset, device: torch.device, toy: bool, until: float) -> Iterator[dict[str, Any]]:
    """Levels of the VGG-like network, from the dense one down, as long as another one fits before `until`."""
    epochs, milestones = (4, (2, 3)) if toy else (160, (80, 120))
    steps = {"schedule": "step", "milestones": milestones, "batch_size": 16 if toy else BATCH, "precision": "bfloat16"}
    recipe = Recipe(lr=0.1, momentum=0.9, weight_decay=1e-4, epochs=epochs, **steps)
    (job,) = jobs(networks(toy)["VGG-like"][1], data, recipe, 1, sparsity=0.0)
    total, level, longest = sum(m.numel() for m in job.masks.values()), 0, 0.0
    while time.monotonic() + 1.05 * longest < until:
        start = time.monotonic()
        team, curve, moment = gpu.team([job]), [], None
        for moments in team.moments():
            moment = moments[0]
            curve.append(accuracies(team, data))
        wait(device)
        longest = max(longest, time.monotonic() - start)
        alive = sum(int(mask.sum()) for mask in job.masks.values())
        assert leaked(job.network, job.masks) == 0, "a pruned weight came back"
        diverged = isinstance(moment, Diverged)
        loss = moment.running_loss if isinstance(moment, Moment) else None
        row = {"level": level, "sparsity": 1 - alive / total, "seconds": time.monotonic() - start, "loss": loss}
        yield row | {
            "strategy": team.strategy,
            "diverged": diverged,
            **curve[-1],
            "test by epoch": [c["test"] for c in curve],
        }
        if diverged:
            return
        level += 1
        job = replace(job, level=level, masks=pruned(job, alive - round(0.2 * alive)))
        zero_pruned(job.network, job.masks)


def accuracies(team: Team, data: Dataset) -> dict[str, float]:
    """Training accuracy on the given labels, on the true labels of the wrong ones, and test accuracy."""
    (said,) = team.guesses()
    guess, train = said["train"][1], data.train
    test, wrong = said["test"][1] == data.test.labels, train.permuted
    return {
        "train": (guess == train.labels).double().mean().item(),
        "restored": (guess == train.truth)[wrong].double().mean().item() if wrong.any() else 0.0,
        "test": test.double().mean().item(),
    }


def pruned(job: Job, keep: int) -> dict[str, Tensor]:
    """The `keep` largest weights of the whole network."""
    names = list(job.masks)
    scores = torch.cat([job.network.get_parameter(n).detach().abs().flatten() for n in names])
    mask = keep_top(scores, torch.cat([job.masks[n].flatten() for n in names]), keep)
    parts = mask.split([job.masks[n].numel() for n in names])
    return {n: part.view_as(job.masks[n]) for n, part in zip(names, parts, strict=True)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet; random images without it")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it")
    words = parser.parse_args()
    device, until = torch.device(words.device), time.monotonic() + 60 * words.minutes
    toy = device.type != "cuda"
    name = torch.cuda.get_device_name(device) if not toy else "CPU"
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "toy": toy, "data": "random", "failed": []}

    def keep(section: str, rows: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """Collect rows; what fails is said and does not stop the rest."""
        found = report.setdefault(section, [])
        if time.monotonic() > until and not toy:
            report["failed"].append(f"{section}: no time left")
            return
        try:
            for row in rows():
                found.append(row)
                print(f"{section}: { ({k: v for k, v in row.items() if not isinstance(v, list)}) }", flush=True)
        except Exception as problem:  # a benchmark on a lent machine: report, go on
            report["failed"].append(f"{section}: {type(problem).__name__}: {problem}")
            print(report["failed"][-1], file=sys.stderr, flush=True)
        if "OUT" in os.environ:
            (Path(os.environ["OUT"]) / "gpu.json").write_text(json.dumps(report, indent=1))

    for network in networks(toy):
        for precision in ("float32", "bfloat16"):
            keep("checks", lambda n=network, p=precision: iter([checks(n, p, device, toy)]))
    if not toy:
        report["matmul TFLOP/s"] = peaks(device)
    plan = [("LeNet-300-100", "float32", (1, 3) if toy else (1, 15, 45))]
    precisions = ("float32",) if toy else ("float32", "bfloat16")
    plan += [(n, p, (1, 2) if toy else (1, 4)) for n in ("VGG-like", "ResNet-18") for p in precisions]
    for network, precision, counts in plan:
        keep("speed", lambda n=network, p=precision, c=counts: speed(n, p, c, device, toy))
    if not toy:
        for network, precision in (("LeNet-300-100", "float32"), ("VGG-like", "bfloat16"), ("ResNet-18", "bfloat16")):
            keep("width", lambda n=network, p=precision: iter([chosen_width(n, p, device, toy)]))
    data = random_data(CIFAR, 64 if toy else EPOCH, device)
    if words.data is not None:
        data, report["data"] = cifar10(words.data, device), "CIFAR-10"
    stop = time.monotonic() + 3 if toy else until
    keep("ladder", lambda: ladder(data, device, toy, stop))
    show(report)
    bounds = {"float32": 1e-3, "bfloat16": 5e-2}
    bad = [row for row in report["checks"] if not row["from plain"] < bounds[row["precision"]]]
    return 1 if bad or report["failed"] else 0


def named(row: dict[str, Any]) -> list[str]:
    return [row["network"], row["precision"], row["strategy"]]


def show(report: dict[str, Any]) -> None:
    """The tables."""
    sizes = ", toy sizes" if report["toy"] else ""
    print(f"\n{report['device']}, torch {report['torch']}{sizes}, ladder on {report['data']} images")
    print("\nTwo jobs: distance of the weights after training, as a share of how far they moved")
    columns = ["from plain", "single from plain", "from uncaptured", "repeated", "beside one that diverges"]
    table(
        ["network", "precision", "strategy", *columns, "equal guesses"],
        [[*named(r), *(f"{r[c]:.1e}" for c in columns), f"{r['equal guesses']:.3f}"] for r in report["checks"]],
    )
    print(f"\nSeconds per {EPOCH:,} images, training all networks (eager: one); ratio: to as many eager loops in a row")
    forms = {"eager": ".3f", "ours": ".3f", "ratio": ".1f", "TFLOP/s": ".2f"}
    forms |= {"evaluation": ".3f", "evaluation ratio": ".1f"}
    table(
        ["network", "precision", "strategy", *forms],
        [[*named(r), *(spread(r[c], form) for c, form in forms.items())] for r in report["speed"]],
    )
    for row in report.get("width", []):
        print(f"width of {row['network']}, {row['precision']}: {row['width']}, found in {row['seconds']:.1f} s")
    for precision, peak in report.get("matmul TFLOP/s", {}).items():
        print(f"matrix product of 8192, {precision}: {peak:.0f} TFLOP/s")
    print("\nVGG-like ladder, half of the labels wrong")
    shares = ("sparsity", "train", "restored", "test")
    table(
        ["level", "seconds", *shares, "strategy"],
        [
            [str(r["level"]), f"{r['seconds']:.1f}", *(f"{r[c]:.4f}" for c in shares), r["strategy"]]
            for r in report["ladder"]
        ],
    )
    for line in report["failed"]:
        print(f"FAILED {line}")


if __name__ == "__main__":
    sys.exit(main())
