"""Convolutional networks on the CPU: bfloat16 with channels last against our own float32 with channels first.

    python benchmarks/convolutions.py --data FOLDER_WITH_CIFAR10 --rounds 5
    python benchmarks/convolutions.py --data FOLDER_WITH_CIFAR10 --ladder work/    accuracy of a short ladder

Speed: the plain loop on ResNet-18 (3x3 stem, no max-pool) and a VGG-like network, one thread, in turns within one run.

Ladder, decided before it was run: VGG-like from 8 channels, CIFAR-10, 4,000 training images of which 40 % get another
label, 8 epochs a level, half of the weights pruned five times, rewinding to epoch 1, seeds 0 to 4, each in float32 and
in bfloat16. Judged: the mean over all levels of the difference in test accuracy, paired by seed; its 95 % t-interval
over the seeds holds zero, or it does not. The levels are listed with their own intervals, which are not judged.
FOLDER: cifar10-train.parquet and cifar10-test.parquet as Hugging Face has them.
"""

# N examples, H height, W width.

from __future__ import annotations

import copy
import io
import statistics
import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image
from scipy import stats
from torch import nn

import prunephase as pp
from convnets import resnet18, vgg_like
from measuring import arguments, seconds, spread
from prunephase.data import Split
from prunephase.engine import fit
from prunephase.sections import Data, Model, Noise, Pruning, Recipe, Restart
from prunephase.trial import Trial

BATCH = 128


def random_images(count: int) -> Split:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (count,), generator=draw)
    inputs = torch.randn(count, 3, 32, 32, generator=draw)
    return Split(inputs, labels, labels, torch.zeros(count, dtype=torch.bool), torch.arange(count))


def speed(name: str, network: nn.Module, steps: int, rounds: int) -> None:
    """Images/s of training in both ways, and their ratio round by round."""
    train = random_images(steps * BATCH)

    def train_once(network: nn.Module, precision: str) -> float:
        recipe = Recipe(epochs=1, batch_size=BATCH, lr=0.01, momentum=0.9, precision=precision)
        return seconds(lambda: list(fit(network, train, recipe, seed=0, level=0, masks={})))

    ours = copy.deepcopy(network).to(memory_format=torch.channels_last)
    found = [(train_once(network, "float32"), train_once(ours, "bfloat16")) for _ in range(rounds + 1)][1:]
    ratios = [slow / fast for slow, fast in found]
    rates = [[len(train) / times[i] for times in found] for i in (0, 1)]
    print(
        f"{name:<12} float32 {spread(rates[0])} images/s, bfloat16 {spread(rates[1])} images/s, ratio {spread(ratios)}"
    )


def archive(folder: Path, place: Path) -> Path:
    """CIFAR-10 as an npz file that a study can name."""
    if not place.exists():
        arrays = {}
        for name in ("train", "test"):
            rows = pl.read_parquet(folder / f"cifar10-{name}.parquet")
            images = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in rows["image"]]
            arrays[f"x_{name}"] = np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2)
            arrays[f"y_{name}"] = rows["label"].to_numpy()
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez(place, **{key: value[: 10_000 if key.endswith("test") else None] for key, value in arrays.items()})
    return place


def ladders(folder: Path, work: Path) -> None:
    """Both precisions down the same ladders, and the paired difference in test accuracy."""
    base = Trial(
        data=Data(source="npz", path=str(archive(folder, work / "cifar10.npz")), train=4_000, validation=0.02),
        noise=Noise(kind="symmetric-flip", rate=0.4),
        model=Model(name="vgg-like", kwargs={"gamma": 3}),
        recipe=Recipe(lr=0.05, momentum=0.9, weight_decay=1e-4, epochs=8, batch_size=BATCH),
        pruning=Pruning(levels=5, fraction=0.5),
        restart=Restart(to="1ep"),
    )
    trials = pp.grid(base, recipe__precision=["float32", "bfloat16"], seed=range(5))
    table = pp.run(trials, work / "runs")
    by = table.pivot("recipe.precision", index=["level", "sparsity", "seed"], values="test_accuracy")
    by = by.with_columns((pl.col("bfloat16") - pl.col("float32")).alias("difference"))
    for (level, sparsity), rows in sorted(by.group_by("level", "sparsity")):
        print(f"level {level}, sparsity {sparsity:.3f}: {interval(rows['difference'].to_list())}")
    means = by.group_by("seed").agg(pl.col("difference").mean())["difference"].to_list()
    print(f"mean over the levels, bfloat16 - float32: {interval(means)}")


def interval(differences: list[float]) -> str:
    """Mean and 95 % t-interval, in percentage points."""
    n, mean = len(differences), statistics.mean(differences)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(differences) / n**0.5
    return f"{100 * mean:+.2f} points ({100 * (mean - half):+.2f} to {100 * (mean + half):+.2f}, n = {n} seeds)"


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ladder", type=Path, help="folder for the ladders' results; trains them instead of timing")
    chosen = parser.parse_args()
    if chosen.ladder:
        if chosen.data is None:
            print("name the folder of CIFAR-10 with --data or PRUNEPHASE_DATA", file=sys.stderr)
            return 2
        ladders(chosen.data, chosen.ladder)
        return 0
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, batch {BATCH}")
    speed("ResNet-18", resnet18(64), 1, chosen.rounds)
    speed("VGG-like", vgg_like(5), 4, chosen.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
