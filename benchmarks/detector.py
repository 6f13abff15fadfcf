"""The detector on trial: false alarms, power, coverage and speed on synthetic curves, with fresh random numbers.

python benchmarks/detector.py                      everything, 2,000 curves a case
python benchmarks/detector.py --part alarms -c 200 one part, quicker
"""

# S seeds, L levels.

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunephase.analysis import Group, phases
from prunephase.analysis.detect import ALPHA, evidence
from prunephase.streams import generator

Floats = NDArray[np.float64]
Generator = np.random.Generator
Shape = Callable[[Floats, float], Floats]

LEVELS = 25
SD = 0.01  # of one seed at one level
DRAWS = 199  # instead of 999: the level of the test is the same, its power a little lower


def flat(x: Floats, _: Generator) -> Floats:
    return np.full_like(x, 0.8)


def falling(x: Floats, g: Generator) -> Floats:
    return 0.9 - g.uniform(0.01, 0.4) * (x / x[-1]) ** g.uniform(0.5, 3)


def collapsing(x: Floats, g: Generator) -> Floats:
    return 0.85 - g.uniform(0.2, 0.7) / (1 + np.exp(-(x - g.uniform(0.6, 0.95) * x[-1]) / g.uniform(0.3, 2)))


def rising(x: Floats, g: Generator) -> Floats:
    return 0.6 + g.uniform(0.01, 0.3) * (x / x[-1]) ** g.uniform(0.5, 3)


def rising_then_falling(x: Floats, g: Generator) -> Floats:
    up = g.uniform(0.01, 0.2) / (1 + np.exp(-(x - g.uniform(0.2, 0.6) * x[-1]) / g.uniform(0.5, 3)))
    return 0.7 + up - g.uniform(0.1, 0.6) / (1 + np.exp(-(x - g.uniform(0.8, 0.95) * x[-1]) / g.uniform(0.3, 1)))


def stairs(x: Floats, g: Generator) -> Floats:
    """Plateaus: the hardest case, each leaves room for chance dips."""
    return 0.9 - 0.1 * np.searchsorted(np.sort(g.uniform(0, x[-1], 4)), x)


NULLS = (flat, falling, collapsing, rising, rising_then_falling, stairs)


def dip(x: Floats, depth: float, half: float, bonus: float = 0.0) -> Floats:
    """A plateau, a raised-cosine dip at 40 % of the ladder with `half` levels to each shoulder, a plateau, a collapse.

    `bonus`: by how many depths the second plateau, reached 6 levels after the dip, stands above the first.
    """
    centre = round(0.4 * x[-1])
    u = np.clip((x - centre) / half, -1, 1)
    above = bonus * depth * np.clip((x - centre) / 6, 0, 1)
    return np.asarray(0.85 - depth * (1 + np.cos(np.pi * u)) / 2 + above - 0.08 * np.clip(x - 0.84 * x[-1], 0, None))


# He et al., ICML 2022, Fig. 1, MNIST: the published mean, here only as a shape to be scaled.
MNIST = [83.4, 83.5, 82.9, 82.3, 82.2, 81.8, 81.6, 80.9, 80.0, 78.6, 76.6, 77.4, 81.6]
MNIST += [85.7, 88.6, 91.0, 92.7, 94.1, 94.9, 95.3, 95.3, 95.1, 94.5, 92.7, 86.6]


def mnist(_: Floats, depth: float) -> Floats:
    """The published MNIST curve, squeezed until its fall from 83.5 to 76.6 is `depth`."""
    return np.asarray(0.8 + (np.array(MNIST) - 83.5) / (83.5 - 76.6) * depth)


def scatter(kind: str, seeds: int, x: Floats, g: Generator, sd: float = SD) -> Floats:
    """Noise of a few seeds. [S, L]; `sd`: of one seed at one level."""
    e = g.standard_normal((seeds, len(x)))
    if kind == "heavy tails":
        e = g.standard_t(3, (seeds, len(x))) / np.sqrt(3)
    if kind.startswith("correlated"):
        for i in range(1, len(x)):
            e[:, i] = 0.7 * e[:, i - 1] + np.sqrt(1 - 0.7**2) * e[:, i]
    e = e * sd
    if kind.endswith("noisy collapse"):
        e = e * np.where(x >= 0.8 * x[-1], 5.0, 0.5 + x / x[-1])
    if kind == "seed offset":
        e = e + 2 * sd * g.standard_normal((seeds, 1))
    if kind == "seed slope":
        e = e + 2 * sd * g.standard_normal((seeds, 1)) * (x / x[-1])
    return e


def shifted(seeds: int, x: Floats, g: Generator) -> Floats:
    """Each seed collapses at a level of its own. [S, L]"""
    at = 0.8 * x[-1] + g.normal(0, 1, (seeds, 1))
    return np.asarray(0.85 - 0.5 / (1 + np.exp(-(x - at) / 0.7)) + SD * g.standard_normal((seeds, len(x))))


KINDS = ("independent", "correlated", "seed offset", "noisy collapse", "correlated, noisy collapse")


@dataclass(frozen=True)
class Case:
    """One line of the table: `make(generator, index)` gives the values of one curve, [S, L]."""

    part: str
    name: str
    seeds: int
    curves: int
    make: Callable[[Generator, int], Floats]


def null_curve(kind: str, seeds: int, levels: int, missing: float, g: Generator, i: int) -> Floats:
    x = np.arange(float(levels))
    values = NULLS[i % len(NULLS)](x, g) + scatter(kind, seeds, x, g)
    values[g.uniform(size=values.shape) < missing] = np.nan
    return values


def shifted_curve(seeds: int, g: Generator, _: int) -> Floats:
    return shifted(seeds, np.arange(float(LEVELS)), g)


def dip_curve(shape: Shape, kind: str, seeds: int, size: float, g: Generator, _: int) -> Floats:
    x = np.arange(float(LEVELS))
    return shape(x, size * SD / np.sqrt(seeds)) + scatter(kind, seeds, x, g)


SHAPES: dict[str, Shape] = {
    "7 levels": partial(dip, half=4),
    "9 levels": partial(dip, half=5),
    "5 levels": partial(dip, half=3),
    "3 levels": partial(dip, half=2),
    "1 level": partial(dip, half=1),
    "7 levels, peak higher": partial(dip, half=4, bonus=2.0),
    "published MNIST, scaled": mnist,
}


def cases(curves: int) -> Iterator[Case]:
    for n in (3, 5, 10):
        for kind in KINDS:
            yield Case("alarms", kind, n, curves, partial(null_curve, kind, n, LEVELS, 0.0))
    for n in (3, 5):
        for kind in ("heavy tails", "seed slope"):
            yield Case("stress", kind, n, curves, partial(null_curve, kind, n, LEVELS, 0.0))
        yield Case("stress", "each seed collapses elsewhere", n, curves, partial(shifted_curve, n))
        yield Case("stress", "a tenth of the cells missing", n, curves, partial(null_curve, KINDS[0], n, LEVELS, 0.1))
        yield Case("stress", "12 levels", n, curves, partial(null_curve, KINDS[0], n, 12, 0.0))
        yield Case("stress", "6 levels", n, curves, partial(null_curve, KINDS[0], n, 6, 0.0))
        yield Case("stress", "40 levels", n, curves // 4, partial(null_curve, KINDS[0], n, 40, 0.0))
    half = curves // 2
    for name, shape in SHAPES.items():
        yield Case("power", f"{name}, independent", 5, half, partial(dip_curve, shape, KINDS[0], 5, 3.0))
    seven = SHAPES["7 levels"]
    for kind in KINDS[1:]:
        yield Case("power", f"7 levels, {kind}", 5, half, partial(dip_curve, seven, kind, 5, 3.0))
    for n in (3, 10):
        yield Case("power", "7 levels, independent", n, half, partial(dip_curve, seven, KINDS[0], n, 3.0))
    yield Case("power", "7 levels, correlated, 5 SE", 5, half, partial(dip_curve, seven, KINDS[1], 5, 5.0))


def p_value(case: Case, seed: int, i: int) -> float:
    g = generator(seed, "analysis", "benchmark", case.part, case.name, case.seeds, i)
    values = case.make(g, i)
    values = values[:, np.isfinite(values).any(axis=0)]
    found = evidence(values, np.isfinite(values), g, DRAWS)
    assert found is not None
    return found.p_value


def coverage(n: int, kind: str, curves: int, seed: int) -> str:
    """How often the intervals of dip level and peak level hold the true one, and what the verdicts are."""
    x = np.arange(float(LEVELS))
    truth = dip(x, 0.03, 4) + 0.02 * np.exp(-(((x - 17) / 3) ** 2))
    at = {"dip": int(np.argmin(truth[:20])), "peak": int(np.argmax(truth[12:])) + 12}
    hits, sound, seconds = {"dip": 0, "peak": 0}, 0, 0.0
    for i in range(curves):
        g = generator(seed, "analysis", "coverage", n, kind, i)
        group = Group({}, np.arange(LEVELS), 1 - 0.8**x, truth + scatter(kind, n, x, g), None, tuple(range(n)))
        start = time.perf_counter()
        found = phases(group, seed=i)
        seconds += time.perf_counter() - start
        sound += found.verdict == "present"
        for name, point in (("dip", found.dip), ("peak", found.peak)):
            if point and point.levels and point.levels[0] <= at[name] <= point.levels[1]:
                hits[name] += 1
    return (
        f"| intervals | {kind}, dip of 3 points, peak 2 above | {n} | {curves} | dip level {hits['dip'] / curves:.1%}, "
        f"peak level {hits['peak'] / curves:.1%} held; present {sound / curves:.1%}; {seconds / curves:.2f} s a curve |"
    )


def missed(n: int, sd: float, curves: int, seed: int) -> str:
    """How often a real dip of 2 points is called "not shown"."""
    x = np.arange(float(LEVELS))
    verdicts = []
    for i in range(curves):
        g = generator(seed, "analysis", "missed", n, str(sd), i)
        values = dip(x, 0.02, 4) + scatter("independent", n, x, g, sd)
        verdicts.append(phases(Group({}, np.arange(LEVELS), 1 - 0.8**x, values, None, tuple(range(n))), seed=i).verdict)
    shares = ", ".join(f"{v} {verdicts.count(v) / curves:.1%}" for v in ("present", "not shown", "underpowered"))
    return f"| verdicts | dip of 2 points, sd {100 * sd:g} points | {n} | {curves} | {shares} |"


def lines(part: str, curves: int, seed: int, workers: int) -> Iterator[str]:
    yield "| part | case | seeds | curves | result |"
    yield "|---|---|---|---|---|"
    with get_context("spawn").Pool(workers) as pool:
        for case in cases(curves):
            if part not in ("all", case.part):
                continue
            p = np.array(pool.map(partial(p_value, case, seed), range(case.curves), chunksize=25))
            alarm = p <= ALPHA
            text = f"{alarm.mean():.1%}"
            if case.part == "alarms":
                worst = max(range(len(NULLS)), key=lambda k: alarm[k :: len(NULLS)].mean())
                text += f" (worst shape: {NULLS[worst].__name__}, {alarm[worst :: len(NULLS)].mean():.1%})"
            yield f"| {case.part} | {case.name} | {case.seeds} | {case.curves} | {text} |"
    if part in ("all", "intervals"):
        for n in (3, 5, 10):
            yield coverage(n, "independent", max(1, curves // 8), seed)
        yield coverage(5, "correlated", max(1, curves // 8), seed)
    if part in ("all", "verdicts"):
        for n, sd in ((3, 0.01), (5, 0.01), (5, 0.02)):
            yield missed(n, sd, max(1, curves // 8), seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="all", choices=["all", "alarms", "stress", "power", "intervals", "verdicts"])
    parser.add_argument("-c", "--curves", type=int, default=2000, help="curves a case (default 2000)")
    parser.add_argument("--seed", type=int, default=2026, help="of the judging curves (default 2026)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1); the numbers do not depend on it")
    parser.add_argument("-o", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    start, table = time.perf_counter(), []
    for line in lines(given.part, given.curves, given.seed, given.workers):
        print(line, flush=True)
        table.append(line)
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    if given.o:
        given.o.write_text("\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
