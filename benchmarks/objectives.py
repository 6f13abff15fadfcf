"""Antidotes on LeNet-300-100: a step of the native chain against one of the plain loop, the same job in turns.

    python benchmarks/objectives.py --rounds 5

MNIST (scikit-learn's digits without --data), batches of 128, one thread, CPU time; median, least and most of the
rounds. The dense column also says how a step with an antidote compares with plain cross-entropy, native both.
"""

# N examples, K classes.

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from measuring import arguments, machine, source, spread, table
from prunephase import data, models
from prunephase.antidotes import (
    Distilled,
    GeneralisedCrossEntropy,
    Remembered,
    Smoothed,
    SymmetricCrossEntropy,
    Tethered,
)
from prunephase.data import Dataset
from prunephase.engine import Job, Objective, Team, cross_entropy
from prunephase.engine.native.chain import Chain
from prunephase.engine.plain import Plain
from prunephase.prune import zero_pruned
from prunephase.sections import Model, Recipe

SPARSITIES = (0.0, 0.79, 0.95, 0.99)
RECIPE = Recipe(lr=0.1, epochs=100_000)


def objectives(network: nn.Module, count: int, classes: int) -> dict[str, Objective]:
    """Each kind of antidote, for a network that is about to be trained on `count` examples."""
    taught = Remembered(5 * torch.randn(count, classes, generator=torch.Generator().manual_seed(0)))
    return {
        "none": cross_entropy,
        "distill": Distilled(taught, 0.8, 10.0),
        "tether": Tethered.to(network, 0.01),
        "label-smoothing": Smoothed(0.1),
        "gce": GeneralisedCrossEntropy(0.7),
        "sce": SymmetricCrossEntropy(0.1, 1.0),
    }


def epoch(way: Callable[[Job], Team], job: Job) -> Callable[[], float]:
    """CPU seconds of the next epoch each time it is called."""
    moments = way(replace(job, network=copy.deepcopy(job.network))).moments()

    def seconds() -> float:
        begun = time.process_time()
        next(moments)
        return time.process_time() - begun

    return seconds


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1280, help="training examples of an epoch")
    words = parser.parse_args()
    torch.set_num_threads(1)
    spec, said = source(words.data)
    known: Dataset = data.load(spec.model_copy(update={"train": words.count}))
    print(f"{machine()}; {said}")
    network = models.build(Model(), known.input_shape, len(known.classes), seed=0)
    rows = []
    for name in objectives(network, 1, 1):
        cells = []
        for sparsity in SPARSITIES:
            draw = torch.Generator().manual_seed(0)
            masks = {
                n: torch.rand(p.shape, generator=draw) >= sparsity for n, p in network.named_parameters() if p.ndim > 1
            }
            some = copy.deepcopy(network)
            zero_pruned(some, masks)
            goals = objectives(some, len(known.train), len(known.classes))
            job = Job(some, known, RECIPE, seed=0, level=1, masks=masks, objective=goals[name])
            native, plain = epoch(Chain, job), epoch(Plain, job)
            bare = epoch(Chain, replace(job, objective=cross_entropy))
            ratios, extra = [], []
            for turn in range(words.rounds + 1):
                ours, theirs, none = native(), plain(), bare()
                if turn:  # the first one warms up
                    ratios.append(theirs / ours)
                    extra.append(ours / none)
            cells += [spread(ratios), spread(extra)] if not sparsity else [spread(ratios)]
        rows.append((name, *cells))
    head = (
        "antidote",
        "plain / native, dense",
        "with / without, dense",
        *(f"plain / native at {s:.0%}" for s in SPARSITIES[1:]),
    )
    table(head, rows)


if __name__ == "__main__":
    main()
