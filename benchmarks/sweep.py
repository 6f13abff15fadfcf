"""A whole sweep of 25 levels on both cores by `prunephase.run`, against the papers' loop; memory and store overhead.

    python benchmarks/sweep.py --data FOLDER_WITH_MNIST --epochs 10

LeNet-300-100, batch 128, SGD, 20 % noise, training and test set evaluated after every epoch; one trial per seed. Ours
is timed from the call of `run` to its table, workers' start, data and store included, by two workers and by one. A
sweep of the papers' loop would take hours: epochs of it are measured before and after ours, on a share of the examples,
at three sparsities, in its best setting (papers_setting.py finds it), and multiplied out. Its first evaluation of every
level, its pruning and its restarts are left out, in its favour. The run with one worker also tells what share of the
time goes into the store.
"""

# N examples.

from __future__ import annotations

import inspect
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measuring import Child, arguments, cores, in_child, machine, source, spread, table
from papers_data import BATCH
from papers_loop import RATE
from papers_setting import Setting, epoch_rate, pool
from prunephase import disk, run, sections, store, tensors, trial

SPARSITIES = (0.0, 0.79, 0.95)
STORE_BOUND = 1.0  # percent of the run time


def sweep(spec: sections.Data, trials: int, levels: int, epochs: int) -> list[trial.Trial]:
    """The trials: He et al.'s setting for MNIST at `epochs` instead of 200."""
    return [
        trial.Trial(
            data=spec,
            noise=sections.Noise(kind="uniform-relabel", rate=0.2),
            model=sections.Model(name="lenet-300-100"),
            recipe=sections.Recipe(epochs=epochs, batch_size=BATCH, lr=RATE),
            pruning=sections.Pruning(levels=levels - 1, exclude=("output",)),
            seed=seed,
        )
        for seed in range(trials)
    ]


def ours(trials: list[trial.Trial], workers: int, *, timed: bool = False) -> dict[str, Any]:
    """Run the trials into a folder of its own: seconds, training examples, and seconds by part of the store."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder, watch.installed() if timed else _nothing():
        start = time.perf_counter()
        found = run(trials, store=folder, workers=workers)
        passed = time.perf_counter() - start
        examples = json.loads(next(Path(folder).glob("trials/*/trial.json")).read_text())["record"]["data"]["train"]
    assert found.height == sum(one.pruning.levels + 1 for one in trials)
    return {"seconds": passed, "examples": examples, "parts": dict(watch.totals)}


class Stopwatch:
    """Seconds spent in the functions of the store, each counted once: those of a function it calls are not its own."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self.within: list[float] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Time every public function of the store, the disk and the packing while the block runs."""
        places: list[tuple[Any, str, str]] = [(os, "fsync", "fsync"), (store, "canonical_json", "JSON")]
        places += [(json, name, "JSON") for name in ("loads", "dumps")]
        for owner, part in ((tensors, "packing, digests"), (disk, "files"), (store.Store, "store: SHA-256, checks")):
            places += [(owner, name, part) for name in _public(owner)]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        for owner, name, part in places:
            setattr(owner, name, self._timed(getattr(owner, name), part))
        try:
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            self.within.append(0.0)
            try:
                return function(*given, **named)
            finally:
                passed = time.perf_counter() - start
                self.totals[part] += passed - self.within.pop()
                if self.within:
                    self.within[-1] += passed

        return timed


def _public(owner: Any) -> list[str]:
    """Its own functions, but neither context managers nor generators: what those do is done by others."""
    home = owner.__name__ if inspect.ismodule(owner) else owner.__module__
    return [
        name
        for name, found in vars(owner).items()
        if inspect.isfunction(found) and found.__module__ == home and not name.startswith("_")
        if not hasattr(found, "__wrapped__") and not inspect.isgeneratorfunction(found)
    ]


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each level")
    parser.add_argument("--levels", type=int, default=25)
    parser.add_argument("--trials", type=int, default=2, help="seeds")
    parser.add_argument("--repeats", type=int, default=1, help="how often ours runs, with two workers and with one")
    parser.add_argument("--share", type=float, default=0.5, help="share of the examples for the papers' loop")
    parser.add_argument(
        "--setting",
        default="2,1,0" if cores() > 1 else "1,1,0",
        help="processes, threads and loader workers of the papers' loop",
    )
    chosen = parser.parse_args()
    setting = Setting(*map(int, chosen.setting.split(",")))
    spec, words = source(chosen.data)
    trials = sweep(spec, chosen.trials, chosen.levels, chosen.epochs)
    print(f"data: {words}; {machine()}", flush=True)

    papers: list[float] = []
    found: dict[str, list[Child]] = {"2 workers": [], "1 worker": [], "1 worker, store timed": []}
    with pool(spec, chosen.share, setting.processes) as processes:

        def measure_papers() -> None:
            papers.extend(epoch_rate(processes.measure(setting, sparsity)) for sparsity in SPARSITIES)

        processes.measure(setting, 0.0)  # warm-up
        measure_papers()
        for _ in range(chosen.repeats):
            found["2 workers"].append(in_child(ours, trials, 2))
            measure_papers()
            found["1 worker"].append(in_child(ours, trials, 1))
            found["1 worker, store timed"].append(in_child(timed, trials))
            measure_papers()

    examples = found["2 workers"][0].value["examples"]
    epochs = chosen.trials * chosen.levels * chosen.epochs
    print(f"\nsweep: {chosen.trials} trials x {chosen.levels} levels x {chosen.epochs} epochs = {epochs:,} epochs")
    print(f"papers' loop, {setting}: training with evaluation, examples/s, median (least..most), n = {len(papers)}:")
    print(f"  {spread(papers, ',.0f')}; measured on {chosen.share:g} of the examples at sparsities {SPARSITIES}")
    middle = statistics.median(papers)
    theirs = epochs * examples / middle
    product = f"{epochs:,} epochs x {examples:,} examples / {middle:,.0f} examples/s"
    print(f"  {product} = {theirs:,.0f} s = {theirs / 3600:.2f} h\n")
    rows = []
    for name, children in found.items():
        times = [child.value["seconds"] for child in children]
        ratios = [theirs / passed for passed in times]
        least, most = (epochs * examples / rate / statistics.median(times) for rate in (max(papers), min(papers)))
        peak = max(child.workers if name == "2 workers" else child.memory for child in children)
        rows.append([name, spread(times), spread(ratios), f"{least:,.1f}..{most:,.1f}", f"{peak:,.0f}"])
    header = ["prunephase.run", "seconds", "papers / ours", "over the papers' spread", "peak MB of a worker"]
    table(header, rows)
    pairs = zip(found["1 worker"], found["2 workers"], strict=True)
    print(f"\ntwo workers against one: {spread((a.value['seconds'] / b.value['seconds'] for a, b in pairs), '.2f')}")
    print("\nwhere the store spends its time, one worker, percent of the run:")
    stores = [child.value for child in found["1 worker, store timed"]]
    shares = [{part: 100 * t / one["seconds"] for part, t in one["parts"].items()} for one in stores]
    rows = [[part, spread((share.get(part, 0.0) for share in shares), ".3f")] for part in shares[0]]
    whole = [sum(share.values()) for share in shares]
    table(["part", "percent"], [*rows, [f"all (bound: {STORE_BOUND:g})", spread(whole, ".3f")]])
    print(f"n = {chosen.repeats} for each row of ours")


def timed(trials: list[trial.Trial]) -> dict[str, Any]:
    """`ours` by one worker, with the stopwatch."""
    return ours(trials, 1, timed=True)


if __name__ == "__main__":
    main()
