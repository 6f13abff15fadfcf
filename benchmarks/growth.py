"""How time, memory and disk grow with the number of trials, of levels and of examples.

    python benchmarks/growth.py --data FOLDER_WITH_MNIST

One axis at a time, the others at 1 trial, 10 levels and 10,000 examples; LeNet-300-100, two epochs a level, one worker,
so that nothing but the size of the task varies. Every run has a fresh process, warmed up by one level, and a fresh
store; the sizes take turns in each round. What should be flat: seconds per trial along the trials, memory along trials
and levels; what should grow in proportion: seconds and memory with the examples. Levels get cheaper as they get
sparser, so the cost per level falls.
"""

# N examples.

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measuring import Child, arguments, in_child, machine, source, spread, table
from papers_data import BATCH
from papers_loop import RATE
from prunephase import run, sections, trial

EPOCHS = 2


@dataclass(frozen=True)
class Size:
    """trials: seeds; levels: trainings of each; examples: of the training set."""

    trials: int = 1
    levels: int = 10
    examples: int = 10_000

    @property
    def work(self) -> int:
        """Training examples seen, in thousands."""
        return self.trials * self.levels * self.examples * EPOCHS // 1000


def measured(spec: sections.Data, size: Size) -> dict[str, Any]:
    """Run a study of that size: seconds, MB on disk, files."""
    base = trial.Trial(
        data=spec.model_copy(update={"train": size.examples}),
        noise=sections.Noise(kind="uniform-relabel", rate=0.2),
        model=sections.Model(name="lenet-300-100"),
        recipe=sections.Recipe(epochs=EPOCHS, batch_size=BATCH, lr=RATE),
        pruning=sections.Pruning(levels=size.levels - 1, exclude=("output",)),
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run([base.model_copy(update={"seed": seed}) for seed in range(size.trials)], store=folder, workers=1)
        passed = time.perf_counter() - start
        files = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
    return {"seconds": passed, "disk": sum(files) / 1e6, "files": len(files)}


def warmed(spec: sections.Data, size: Size) -> dict[str, Any]:
    """`measured`, after imports, compiler and probes have had their time."""
    measured(spec, Size(1, 1, 300))
    return measured(spec, size)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    spec, words = source(chosen.data)
    base = Size() if spec.source == "mnist" else Size(examples=1_000)
    counts = (10_000, 30_000, 60_000) if spec.source == "mnist" else (300, 600, 1_000)
    axes = {
        "trials": [replace(base, trials=count) for count in (1, 2, 4)],
        "levels": [replace(base, levels=count) for count in (5, 10, 20)],
        "examples": [replace(base, examples=count) for count in counts],
    }
    print(f"data: {words}; {EPOCHS} epochs a level, one worker; {machine()}", flush=True)
    sizes = list(dict.fromkeys(size for along in axes.values() for size in along))
    found: dict[Size, list[Child]] = {size: [] for size in sizes}
    for _ in range(chosen.rounds):
        for size in sizes:
            found[size].append(in_child(warmed, spec, size))
    print(f"\nmedian (least..most), n = {chosen.rounds}; memory: peak of the process, imports included\n")
    rows = []
    for axis, along in axes.items():
        for size in along:
            children = found[size]
            times = [child.value["seconds"] for child in children]
            rows.append(
                [
                    f"{axis}: {getattr(size, axis):,}",
                    spread(times),
                    spread(1e3 * passed / size.work for passed in times),
                    spread((child.memory for child in children), ",.0f"),
                    f"{children[0].value['disk']:,.1f} MB, {children[0].value['files']} files",
                ]
            )
    table(["size", "seconds", "ms per 1,000 examples trained on", "memory, MB", "store"], rows)


if __name__ == "__main__":
    main()
