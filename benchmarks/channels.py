"""Dead channels: how many a short real ladder has, and what leaving them out saves.

    python benchmarks/channels.py --data FOLDER_WITH_CIFAR10

VGG-like and ResNet-18 (3x3 stem, no max-pool) from 16 channels on 2,560 images of CIFAR-10 (random ones without
--data), half of the weights pruned by magnitude at every level, rewinding to the initial ones. Speed: a step of the
plain loop, with all and with living channels, in turns within one run, CPU time of one thread; median, least and most
of the rounds. FOLDER: cifar10-train.parquet as Hugging Face has it.
"""

# N examples, H height, W width.

from __future__ import annotations

import copy
import io
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image
from torch import Tensor, nn

from convnets import resnet18, vgg_like
from convolutions import BATCH, random_images
from measuring import arguments, machine, spread, table
from prunephase.data import Split
from prunephase.engine import fit
from prunephase.engine.channels import Living, compacted, living
from prunephase.prune import budgets, prunable, select, zero_pruned
from prunephase.sections import Pruning, Recipe

IMAGES = 2_560
LEARN = Recipe(lr=0.02, momentum=0.9, weight_decay=5e-4, batch_size=BATCH, precision="bfloat16")


def images(folder: Path) -> Split:
    """The first images of CIFAR-10, [N, 3, H, W]."""
    rows = pl.read_parquet(folder / "cifar10-train.parquet").head(IMAGES)
    pictures = [np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB")) for image in rows["image"]]
    inputs = (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous().float() / 255 - 0.47) / 0.25
    labels = torch.tensor(rows["label"].to_list())
    return Split(inputs, labels, labels, torch.zeros(IMAGES, dtype=torch.bool), torch.arange(IMAGES))


def ladder(network: nn.Module, train: Split, epochs: int, levels: int) -> Iterator[dict[str, Tensor]]:
    """Masks of every level; at each the network holds its initial weights."""
    spec, start = Pruning(levels=levels, fraction=0.5), copy.deepcopy(network.state_dict())
    weights, _ = prunable(network, spec)
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    recipe = LEARN.model_copy(update={"epochs": epochs})
    for level, budget in enumerate(budgets({name: w.numel() for name, w in weights.items()}, spec)):
        if level:
            list(fit(network, train, recipe, seed=0, level=level - 1, masks=masks))
            masks = select({name: weight.detach().abs() for name, weight in weights.items()}, masks, budget)
            network.load_state_dict(start)
            zero_pruned(network, masks)
        yield masks


def ratios(
    network: nn.Module, masks: dict[str, Tensor], found: Living, train: Split, recipe: Recipe, rounds: int
) -> list[float]:
    """CPU time with all channels over that with the living ones."""
    result = []
    for turn in range(rounds + 1):
        took = {}
        for less in (turn % 2 == 0, turn % 2 == 1):
            twin = copy.deepcopy(network)
            with compacted(twin, found) if less else nullcontext():
                begun = time.process_time()
                list(fit(twin, train, recipe, seed=0, level=0, masks=masks))
                took[less] = time.process_time() - begun
        result.append(took[False] / took[True])
    return result[1:]  # the first one warms up


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--levels", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    real = chosen.data is not None and (chosen.data / "cifar10-train.parquet").exists()
    train = images(chosen.data) if real else random_images(IMAGES)
    said = "CIFAR-10" if real else "NOT CIFAR-10 but random images"
    print(f"{machine()}, one thread, batch {BATCH}, {said}, {chosen.rounds} rounds")
    once = LEARN.model_copy(update={"epochs": 1})
    few = random_images(BATCH)
    for name, network, epochs in (("VGG-like", vgg_like(4), 3), ("ResNet-18", resnet18(16), 2)):
        network = network.to(memory_format=torch.channels_last)
        outputs = sum(len(m.weight) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
        rows = []
        for level, masks in enumerate(ladder(network, train, epochs, chosen.levels)):
            found = living(network, masks, train.inputs[:2])
            kept = sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
            speeds = [
                spread(ratios(network, masks, found, few, recipe, chosen.rounds), ".2f") if found.modules else "-"
                for recipe in (once, once.model_copy(update={"precision": "float32"}))
            ]
            rows.append([f"{level}", f"{1 - kept:.2%}", f"{found.dead / outputs:.1%}", f"{found.saved:.1%}", *speeds])
        print(f"\n{name}")
        table(["level", "sparsity", "dead channels", "MACs saved", "bfloat16, ratio", "float32, ratio"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
