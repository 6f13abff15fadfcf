"""One level of the ladder at seven sparsities: our engine against its own dense step, the papers' loop and SparseProp.

    python benchmarks/engine.py --data FOLDER_WITH_MNIST --cache FOLDER

LeNet-300-100, batch 128, SGD, one thread; the masks are those of a ladder of iterative magnitude pruning which is
trained first, and kept in the cache folder for the next time. Four ways take turns within each round, so that a busy
machine slows all of them; the ratio of each round is what to quote:

- papers: the loop of papers_loop.py in its simplest setting, on a share of the examples;
- dense: `prunephase.engine.plain`, the masked step that is the oracle of every faster one;
- engine: whatever `prunephase.engine.team` chooses for the network; its name stands in the table;
- SparseProp (Nikdan et al. 2023) in place of each pruned layer, where its package `sparseprop` is installed.
"""

# N examples, B batch.

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from measuring import arguments, in_child, machine, matmul, pixels, seconds, source, spread, table
from papers_data import BATCH, Images, Loader
from papers_loop import RATE, pruned, train
from papers_setting import Setting, session
from prunephase import engine, prune, run, sections, tensors, trial
from prunephase.bench import Bench, Site
from prunephase.data import Dataset, Split
from prunephase.engine import Job, Team
from prunephase.engine.plain import Plain
from prunephase.store import Store

TARGETS = (0.0, 0.36, 0.79, 0.89, 0.95, 0.99, 0.995)
ENOUGH = 0.25  # seconds: shorter measurements are repeated, so that the clock and a stray interrupt weigh little
EPOCHS = 2  # of the ladder that gives the masks


def ladder(spec: sections.Data) -> trial.Trial:
    """The trial whose masks are used."""
    return trial.Trial(
        data=spec,
        noise=sections.Noise(kind="uniform-relabel", rate=0.2),
        model=sections.Model(name="lenet-300-100"),
        recipe=sections.Recipe(epochs=EPOCHS, batch_size=BATCH, lr=RATE),
        pruning=sections.Pruning(levels=24, exclude=("output",)),
    )


@dataclass(frozen=True)
class Level:
    """One level of the finished ladder: its masks, and the network as it begins, zero where pruned."""

    level: int
    sparsity: float
    masks: Mapping[str, Tensor]
    network: nn.Module

    def flops(self) -> int:
        """Useful FLOP of one training step per image: forward, weight gradients, and input gradients but the first."""
        sizes = [
            int(self.masks.get(f"{name}.weight", torch.ones_like(module.weight)).sum())
            for name, module in self.network.named_modules()
            if isinstance(module, nn.Linear)
        ]
        return 4 * sum(sizes) + 2 * sum(sizes[1:])


def levels(spec: sections.Data, cache: Path) -> tuple[Dataset, list[Level]]:
    """The data, and the levels nearest to the targets; trained now where the cache does not hold them."""
    chosen = ladder(spec)
    run([chosen], store=cache, workers=1)
    store, bench = Store(cache), Bench(chosen, Site(cache))
    records = {record.body["level"]: record for record in store.levels(chosen)}
    nearest = [min(records, key=lambda k: abs(records[k].body["sparsity"] - target)) for target in TARGETS]
    found = []
    for number in dict.fromkeys(nearest):
        masks = tensors.unpack_masks(store.blob(records[number].body["blobs"]["masks"]))
        network = bench.network()
        prune.zero_pruned(network, masks)
        found.append(Level(number, records[number].body["sparsity"], masks, network))
    return bench.data, found


@dataclass
class Way:
    """train: trains an epoch and gives the number of examples; evaluate: likewise, over both sets."""

    name: str
    train: Callable[[], int]
    evaluate: Callable[[], int]


def enough(work: Callable[[], int]) -> float:
    """Seconds per example of `work`, repeated until it has taken long enough."""
    count, passed = 0, 0.0

    def counted() -> None:
        nonlocal count
        count += work()

    while passed < ENOUGH:
        passed += seconds(counted)
    return passed / count


def of_team(name: str, build: Callable[[Job], Team], level: Level, data: Dataset) -> Way:
    """A way of our own: a schedule without end, trained an epoch at a time."""
    recipe = sections.Recipe(epochs=100_000, batch_size=BATCH, lr=RATE)
    team = build(Job(copy.deepcopy(level.network), data, recipe, 0, level.level, level.masks))
    moments = team.moments()

    def train() -> int:
        next(moments)
        return len(data.train)

    def evaluate() -> int:
        team.guesses()
        return len(data.train) + len(data.test)

    return Way(f"{name} ({team.strategy})", train, evaluate)


def sparseprop(level: Level, data: Dataset) -> Way | None:
    """The plain loop with SparseProp's layers in place of the pruned ones; None where it is not installed."""
    try:
        from sparseprop.modules import SparseLinear
    except ImportError:
        return None
    network = copy.deepcopy(level.network)
    for name in level.masks if level.level else ():  # a dense layer has nothing to gain from it
        layer = name.removesuffix(".weight")
        setattr(network, layer, SparseLinear.from_dense(network.get_submodule(layer)))
    optimiser = torch.optim.SGD(network.parameters(), lr=RATE)

    def batches(split: Split, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(split), size):
            places = slice(first, first + size) if order is None else order[first : first + size]
            yield split.inputs[places], split.labels[places]

    def train() -> int:
        for inputs, labels in batches(data.train, BATCH, torch.randperm(len(data.train))):
            optimiser.zero_grad()
            cross_entropy(network(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return len(data.train)

    @torch.no_grad()
    def evaluate() -> int:
        for split in (data.train, data.test):
            for inputs, labels in batches(split, 1000):
                logits = network(inputs)
                cross_entropy(logits, labels)
                logits.argmax(1)
        return len(data.train) + len(data.test)

    return Way("SparseProp", train, evaluate)


def papers(spec: sections.Data, share: float) -> Callable[[], tuple[float, float]]:
    """A function that measures the papers' loop: seconds per example, of training and of evaluation."""
    data = pixels(spec).share(share)
    sets = [(data.inputs, data.labels), (data.test_inputs, data.test_labels)]
    loaders = [Loader(Images(torch.from_numpy(x), y), 0) for x, y in sets]
    model = pruned(prod(data.inputs.shape[1:]), 0.89)

    def measure() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            times = train(model, loaders, 1, Path(folder))
        return times.training[0] / times.examples, sum(times.evaluation) / 2 / times.evaluated

    return measure


def memory(spec: sections.Data, cache: Path, way: str) -> str:
    """Train and evaluate an epoch of MNIST in this process; its strategy."""
    if way == "papers":
        session(spec, 1.0, Setting(), 0.89)
        return "papers' loop"
    data, found = levels(spec, cache)
    built = of_team(way, Plain if way == "dense" else lambda job: engine.team([job]), found[len(found) // 2], data)
    built.train()
    built.evaluate()
    return built.name


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--cache", type=Path, default=Path("benchmark-cache"), help="folder that keeps the ladder")
    parser.add_argument("--rounds", type=int, default=7, help="rounds measured, after one to warm up")
    parser.add_argument("--papers-share", type=float, default=0.05, help="share of the examples for the papers' loop")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    spec, words = source(chosen.data)
    print(f"data: {words}; one thread; {machine()}", flush=True)
    data, found = levels(spec, chosen.cache)
    measure = papers(spec, chosen.papers_share)
    rows: dict[str, list[list[str]]] = {"training": [], "evaluation": []}
    peaks: list[float] = []
    for level in found:
        ways = [
            of_team("dense", Plain, level, data),
            of_team("engine", lambda job: engine.team([job]), level, data),
            *filter(None, [sparseprop(level, data)]),
        ]
        rounds = [one_round(ways, measure) for _ in range(chosen.rounds + 1)][1:]
        peaks += [row["peak"][0] for row in rounds]
        print(f"level {level.level}: sparsity {level.sparsity:.2%}, {ways[1].name}", flush=True)
        for place, part in enumerate(rows):
            rows[part].append(line(level, ways, rounds, place))
    for place, (part, lines) in enumerate(rows.items()):
        print(f"\n{part}: 1,000 examples/s and ratios of rounds, median (least..most), n = {chosen.rounds}\n")
        work = ["useful GFLOP/s", "of the peak"] if place == 0 else []
        header = ["sparsity", "papers", "dense", "engine", "engine / dense", "engine / papers", *work]
        table([*header, "SparseProp / dense", "engine / SparseProp"], lines)
    print(f"\nfp32 matmul of 1024 x 1024 x 1024, best of 20 in each round: {spread(p / 1e9 for p in peaks)} GFLOP/s")
    print("useful work: 4 FLOP a surviving weight and image, 6 beyond the first layer; the peak's share is of training")
    if not any(way.name == "SparseProp" for way in ways):
        print("SparseProp: package sparseprop is not installed")
    print("\npeak memory of a process that trains and evaluates one epoch, imports and data included (MB):")
    for way in ("papers", "dense", "engine"):
        child = in_child(memory, spec, chosen.cache, way)
        print(f"  {child.value}: {child.memory:,.0f}", flush=True)


def one_round(ways: Sequence[Way], measure: Callable[[], tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Seconds per example of training and evaluation, by way; and the peak."""
    result = {"peak": (matmul(), 0.0), "papers": measure()}
    for way in ways:
        result[way.name.split()[0]] = (enough(way.train), enough(way.evaluate))
    return result


def line(level: Level, ways: Sequence[Way], rounds: Sequence[dict[str, tuple[float, float]]], place: int) -> list[str]:
    """A row of the table; place 0: training, 1: evaluation."""
    ratio = partial(_ratio, rounds, place)
    rates = [spread((1e-3 / row[name][place] for row in rounds), ",.1f") for name in ("papers", "dense", "engine")]
    cells = [f"{level.sparsity:.2%}", *rates, ratio("dense", "engine"), ratio("papers", "engine")]
    if place == 0:
        useful = [level.flops() / row["engine"][0] for row in rounds]
        shares = (100 * speed / row["peak"][0] for speed, row in zip(useful, rounds, strict=True))
        cells += [spread(speed / 1e9 for speed in useful), spread(shares, ".0f") + " %"]
    beside = [ratio("dense", "SparseProp"), ratio("SparseProp", "engine")] if len(ways) > 2 else ["", ""]
    return [*cells, *beside]


def _ratio(rounds: Sequence[Mapping[str, Any]], place: int, slow: str, fast: str) -> str:
    return spread((row[slow][place] / row[fast][place] for row in rounds), ".2f")


if __name__ == "__main__":
    main()
