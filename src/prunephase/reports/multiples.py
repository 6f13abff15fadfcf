"""Small multiples: many curves in several panels of the same scales, one for each value of some of the axes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from prunephase.analysis.map import named
from prunephase.reports import charts
from prunephase.reports.charts import Line
from prunephase.reports.marks import extrema
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Panel
from prunephase.reports.series import At, Ladder, Series
from prunephase.reports.words import seeds

MANY = 6  # curves that one chart holds and a reader still tells apart


def axes(found: Sequence[Series]) -> tuple[str, ...]:
    """The settings whose values get a panel each: those that make the fewest panels of at most `MANY` curves."""
    names = list(dict.fromkeys(name for one in found for name in one.key))
    ways = [chosen for size in range(len(names)) for chosen in itertools.combinations(names, size)]
    fit = [chosen for chosen in ways if max(map(len, split(found, chosen).values())) <= MANY]
    return min(fit, key=lambda chosen: len(split(found, chosen)), default=tuple(names))


def split(found: Sequence[Series], chosen: Sequence[str]) -> dict[str, list[Series]]:
    """Curves by the values of some settings."""
    parts: dict[str, list[Series]] = {}
    for one in found:
        parts.setdefault(named(one.key, chosen), []).append(one)
    return parts


def panels(
    found: Sequence[Series],
    ladder: Ladder,
    points: Callable[[Series], Sequence[At]],
    *,
    title: str,
    bounds: tuple[float, float] = (0.0, 1.0),
    beneath: Callable[[Sequence[Series]], Sequence[Line]] = lambda _: (),
    ringed: bool = False,
) -> list[Panel]:
    """One quantity of many curves against level, as panels that share both scales; a colour means the same in all."""
    chosen = axes(found)
    parts = split(found, chosen)
    words = {one.label: named(one.key, [k for k in one.key if k not in chosen]) or "this curve" for one in found}
    places = {word: i for i, word in enumerate(dict.fromkeys(words.values()))}
    drawn = {
        name: [Line(words[one.label], at, place=places[words[one.label]]) for one in members if (at := points(one))]
        for name, members in parts.items()
    }
    lower = {name: list(beneath(members)) for name, members in parts.items()}
    domain = charts.limits([line for name in parts for line in (*lower[name], *drawn[name])], bounds)
    x = [ladder.x(at.level, at.sparsity) for lines in drawn.values() for line in lines for at in line.points]
    made = []
    for name, members in parts.items():
        if not drawn[name]:
            continue
        rings = [
            ring
            for one in members
            for ring in extrema(one, ladder, PAGE, f"s{places[words[one.label]] % 8}", named=False)
            if ringed
        ]
        n = sorted({at.n for line in drawn[name] for at in line.points})
        count = seeds(n[0]) if len(n) == 1 else f"{seeds(n[0])} to {n[-1]}"
        text = f"{title} against pruning level, {name}, {count}: {', '.join(line.name for line in drawn[name])}."
        chart = charts.lines(
            *([*lower[name], *drawn[name]], ladder, PAGE),
            description=text,
            title=title,
            domain=domain,
            bounds=bounds,
            span=(min(x), max(x)),
            above=rings,
        )
        made.append(Panel(charts.spec(chart, PAGE), name))
    return made
