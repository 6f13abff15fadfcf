"""What the published settings cost at dense cost, by arithmetic alone: no data are read, nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass

from prunephase import study
from prunephase.analysis.cost import Network, Training, student
from prunephase.models.count import macs
from prunephase.runs import families, waves
from prunephase.trial import Trial, canonical_json

Shape = tuple[int, ...]

# Input shape, classes and training examples of the sources that are known without reading them.
KNOWN: dict[str, tuple[Shape, int, int]] = {
    "digits": ((1, 8, 8), 10, 1_438),
    "mnist": ((1, 28, 28), 10, 60_000),
    "cifar10": ((3, 32, 32), 10, 50_000),
    "cifar100": ((3, 32, 32), 100, 50_000),
    "tiny-imagenet": ((3, 32, 32), 200, 100_000),
}
FOLDERS: dict[str, tuple[int, int]] = {"flowers-102": (102, 1_020), "imagenet": (1_000, 1_281_167)}


@dataclass(frozen=True)
class Price:
    """trials: with those that others build on; trainings: levels, shared dense ones once; epochs: of all of them.

    pflops: 3 x multiply-accumulates of a forward pass x examples x epochs, dense at every level, in 1e15: the papers'
    convention, which counts a multiply-accumulate as one operation.
    """

    trials: int
    trainings: int
    epochs: int
    pflops: float


def price(name: str) -> Price:
    """The cost of a preset from nothing; NAME:small for its small scale."""
    trials = [trial for wave in waves(study.load(f"preset:{name}").trials) for trial in wave]
    rank = families(trials)
    trainings = epochs = 0
    operations = 0.0
    for trial in trials:
        levels = trial.pruning.levels + (0 if rank[trial.digest()] else 1)
        trainings, epochs = trainings + levels, epochs + levels * trial.recipe.epochs
        shape, classes, examples = _data(trial)
        counted = macs(canonical_json(trial.model.model_dump(include={"name", "kwargs"})), shape, classes)
        operations += student(Training(Network(counted), examples, levels * trial.recipe.epochs)).papers
    return Price(len(trials), trainings, epochs, operations / 1e15)


def _data(trial: Trial) -> tuple[Shape, int, int]:
    """Input shape, classes and training examples."""
    data = trial.data
    if data.source == "folder":
        side = data.crop or data.size
        classes, examples = FOLDERS[str(data.path)]
        shape: Shape = (3, side or 224, side or 224)
    else:
        shape, classes, examples = KNOWN[data.source]
    return shape, classes, data.train or round(examples * (1 - data.validation))
