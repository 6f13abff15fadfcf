"""What the benchmarks share: data, clocks, memory, and how a number with its spread is printed."""

# N examples, H height, W width.

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prunephase import sections
from prunephase.data.load import SOURCES
from prunephase.errors import UserError


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with --data, which every benchmark of ours has."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    known = os.environ.get("PRUNEPHASE_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=known and Path(known),
        help="folder of MNIST's IDX files (default: PRUNEPHASE_DATA)",
    )
    return parser


def source(folder: Path | None) -> tuple[sections.Data, str]:
    """The data of a trial, and what to say of them: MNIST, or scikit-learn's digits where MNIST is not at hand."""
    spec = sections.Data(source="mnist", path=None if folder is None else str(folder), validation=0.0)
    try:
        if folder is None:
            raise UserError("no folder of MNIST given (--data, PRUNEPHASE_DATA)")
        SOURCES["mnist"](spec, None)
    except UserError as problem:
        return sections.Data(source="digits", validation=0.0), f"NOT MNIST but scikit-learn's digits, 8 x 8: {problem}"
    return spec, "MNIST"


@dataclass(frozen=True)
class Pixels:
    """Images as bytes. inputs, test_inputs: [N, H, W] uint8; labels, test_labels: [N] int64."""

    inputs: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test_inputs: NDArray[np.uint8]
    test_labels: NDArray[np.int64]

    def share(self, share: float) -> Pixels:
        """The first `share` of both sets; at least four batches of 128 where there are as many."""
        train, test = (max(512, round(share * len(found))) for found in (self.labels, self.test_labels))
        return Pixels(self.inputs[:train], self.labels[:train], self.test_inputs[:test], self.test_labels[:test])


def pixels(spec: sections.Data) -> Pixels:
    """The bytes behind `source`."""
    found = SOURCES[spec.source](spec, None)
    if found.test_inputs is None or found.test_labels is None:  # digits: grey levels in [0, 1], no test set
        inputs, labels = np.round(255 * found.inputs).astype(np.uint8), found.labels.astype(np.int64)
        return Pixels(inputs[360:], labels[360:], inputs[:360], labels[:360])
    labels, test_labels = (held.astype(np.int64) for held in (found.labels, found.test_labels))
    # Copied: the loaders' tensors must be writable.
    return Pixels(np.array(found.inputs, np.uint8), labels, np.array(found.test_inputs, np.uint8), test_labels)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matmul(size: int = 1024) -> float:
    """FLOP/s of one square fp32 matrix product: the best of 20, as a peak is what the machine can do."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(20))


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Where the numbers come from, in one line."""
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    versions = f"torch {torch.__version__}, Python {sys.version.split()[0]}"
    return f"{cores()} of {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, {versions}{load}"


def spread(values: Iterable[float], form: str = ",.1f") -> str:
    """Median, least and most; n stands in the table's caption."""
    found = list(values)
    return f"{statistics.median(found):{form}} ({min(found):{form}}..{max(found):{form}})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for place, line in enumerate(lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if place == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    sys.stdout.flush()


@dataclass(frozen=True)
class Child:
    """What a process of its own gave. memory: its peak RSS in MB; workers: the largest peak RSS of its own children."""

    value: Any
    memory: float
    workers: float


def in_child(work: Callable[..., Any], *given: Any) -> Child:
    """Run `work(*given)` in a fresh process, so that neither memory nor anything warm comes from before."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, work, given))
    process.start()
    theirs.close()
    try:
        found: Child = ours.recv()
    except EOFError:
        raise SystemExit(f"the process of {work.__name__} died; its message stands above") from None
    process.join()
    return found


def _child(pipe: Connection, work: Callable[..., Any], given: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    value = work(*given)
    unit = 1e6 if sys.platform == "darwin" else 1e3
    own, others = (resource.getrusage(who).ru_maxrss / unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    pipe.send(Child(value, own, others))
