"""Compares what `prunephase plan` says with what the same study then takes, on digits, MNIST and a CIFAR-10 network.

    python benchmarks/planning.py --data FOLDER_WITH_MNIST_AND_CIFAR10 --work work/ [--workers 2]

Each study is planned and then run from scratch, one after the other; the seconds that are compared are those of
training, from the first worker's start to the last one's end. FOLDER: MNIST's IDX files, cifar10-train.parquet and
cifar10-test.parquet as Hugging Face has them; without it digits alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from convolutions import archive
from measuring import arguments, seconds, table
from prunephase import execute, plan, runs
from prunephase.bench import Site
from prunephase.study import Study, load, parse


def studies(folder: Path | None, work: Path) -> dict[str, Study]:
    found = {"digits, mlp, 34 levels": load("preset:demo")}
    if folder is not None:
        os.environ["PRUNEPHASE_DATA"] = str(folder)
        changes = ["seeds=[0,1]", "recipe.epochs=4"]
        found["MNIST, LeNet-300-100, 25 levels"] = load("preset:he2022-mnist-short", changes)
        fields = {
            "name": "cifar",
            "seeds": [0, 1],
            "data": {"source": "npz", "path": str(archive(folder, work / "cifar10.npz")), "train": 5_000},
            "noise": {"kind": "symmetric-flip", "rate": 0.2},
            "model": {"name": "vgg-like", "kwargs": {"gamma": 3}},
            "recipe": {"epochs": 2, "lr": 0.05, "momentum": 0.9},
            "pruning": {"levels": 4, "fraction": 0.6},
        }
        found["CIFAR-10, VGG-like, 5 levels"] = parse(fields)
    return found


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for results, emptied before each study")
    parser.add_argument("--workers", type=int, default=execute.default_workers())
    chosen = parser.parse_args()
    rows = []
    for name, study in studies(chosen.data, chosen.work).items():
        store = chosen.work / "runs"
        shutil.rmtree(store, ignore_errors=True)
        site = Site(store)
        cost = plan.estimate(study, site, chosen.workers)
        taken = seconds(lambda: runs.train(study, store, workers=chosen.workers))  # noqa: B023
        rows.append((name, f"{cost.seconds:.0f} s", f"{taken:.0f} s", f"{cost.seconds / taken:.2f}"))
        print(*rows[-1], sep="  ", flush=True)
    table(("study", "planned", f"taken, {chosen.workers} workers", "planned / taken"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
