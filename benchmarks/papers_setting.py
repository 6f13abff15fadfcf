"""The best setting of the papers' loop on this machine: threads, loader workers, or several trials at once.

    python benchmarks/papers_setting.py --data FOLDER_WITH_MNIST

The settings take turns in each round, in processes that stay. What counts is the throughput of all cores together:
training examples per second, evaluation of both sets after every epoch included.
"""

# N examples.

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from measuring import Pixels, arguments, cores, machine, pixels, source, spread, table
from papers_data import Images, Loader
from papers_loop import Times, pruned, train
from prunephase import sections


@dataclass(frozen=True)
class Setting:
    """processes: independent trials at once; threads: of torch in each; workers: loader processes of each."""

    processes: int = 1
    threads: int = 1
    workers: int = 0

    def __str__(self) -> str:
        trials = "1 trial" if self.processes == 1 else f"{self.processes} trials at once"
        return f"{trials}, {self.threads} thread(s), {self.workers} loader worker(s)"


TWO_TRIALS = Setting(2, 1, 0)
SETTINGS = (Setting(), Setting(1, 2, 0), Setting(1, 1, 1), Setting(1, 1, 2), TWO_TRIALS)


def session(spec: sections.Data, share: float, setting: Setting, sparsity: float, epochs: int = 1) -> Times:
    """Train on a share of the examples, as `setting` says; call it in as many processes as it names."""
    return _session(pixels(spec).share(share), setting, sparsity, epochs)


def _session(data: Pixels, setting: Setting, sparsity: float, epochs: int) -> Times:
    torch.set_num_threads(setting.threads)
    sets = [(data.inputs, data.labels), (data.test_inputs, data.test_labels)]
    loaders = [Loader(Images(torch.from_numpy(x), y), setting.workers) for x, y in sets]
    with tempfile.TemporaryDirectory() as folder:
        return train(pruned(prod(data.inputs.shape[1:]), sparsity), loaders, epochs, Path(folder))


class Pool:
    """Processes that stay, each with the data in memory, and that train on demand at the same time."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self.pipes = pipes

    def measure(self, setting: Setting, sparsity: float, epochs: int = 1) -> list[Times]:
        """One `Times` for each process of `setting`, all running at once."""
        for pipe in self.pipes[: setting.processes]:
            pipe.send((setting, sparsity, epochs))
        return [pipe.recv() for pipe in self.pipes[: setting.processes]]


@contextmanager
def pool(spec: sections.Data, share: float, processes: int = 2) -> Iterator[Pool]:
    """A pool of `processes`, which ends with the block."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(processes)]
    started = [context.Process(target=_serve, args=(theirs, spec, share)) for _, theirs in pipes]
    for process in started:
        process.start()
    for _, theirs in pipes:
        theirs.close()
    try:
        yield Pool([ours for ours, _ in pipes])
    finally:
        for ours, _ in pipes:
            ours.close()
        for process in started:
            process.join()


def _serve(pipe: Connection, spec: sections.Data, share: float) -> None:
    if "fork" in multiprocessing.get_all_start_methods():  # as loader workers start in a script of one's own
        multiprocessing.set_start_method("fork", force=True)
    data = pixels(spec).share(share)
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        pipe.send(_session(data, *asked))


def rate(times: Sequence[Times], seconds: Callable[[Times], float], count: Callable[[Times], int]) -> float:
    """Examples per second of all processes together."""
    return sum(count(found) / seconds(found) for found in times)


training_rate = partial(rate, seconds=lambda t: sum(t.training) / len(t.training), count=lambda t: t.examples)
evaluation_rate = partial(rate, seconds=lambda t: sum(t.evaluation) / len(t.evaluation), count=lambda t: t.evaluated)
epoch_rate = partial(rate, seconds=lambda t: t.epoch, count=lambda t: t.examples)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds measured, after one to warm up")
    parser.add_argument("--share", type=float, default=0.5, help="share of the examples in each epoch")
    chosen = parser.parse_args()
    spec, words = source(chosen.data)
    print(f"data: {words}; a share of {chosen.share:g} of each set; {machine()}", flush=True)
    # More threads or processes than cores wait for each other: no setting of theirs would be chosen so.
    settings = [s for s in SETTINGS if s.processes * s.threads <= cores() and s.workers <= cores()]
    with pool(spec, chosen.share, max(s.processes for s in settings)) as processes:
        rounds = [{s: processes.measure(s, 0.89) for s in settings} for _ in range(chosen.rounds + 1)][1:]
    print(f"\nexamples/s of all processes together: median (least..most), n = {len(rounds)}, in turns\n")
    rows = []
    for setting in settings:
        found = [measured[setting] for measured in rounds]
        epochs = [epoch_rate(times) / epoch_rate(row[SETTINGS[0]]) for times, row in zip(found, rounds, strict=True)]
        rates = [[of(times) for times in found] for of in (training_rate, evaluation_rate, epoch_rate)]
        rows.append([str(setting), *(spread(values, ",.0f") for values in rates), spread(epochs, ".2f")])
    table(["setting", "training", "evaluation", "training with evaluation", "against the first"], rows)
    example = rounds[-1][SETTINGS[0]][0]
    whole = example.epoch / example.examples * 60_000
    print(f"\nfirst setting, last round, 60,000 examples: {whole:.1f} s an epoch; test accuracy {example.accuracy:.3f}")


if __name__ == "__main__":
    main()
