"""The section of pairs: two curves that differ only in how they restart, or in a control of the masks, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prunephase.analysis.compare import ALPHA, Paired, paired
from prunephase.analysis.map import named
from prunephase.errors import UserError
from prunephase.looks import sparse
from prunephase.reports import charts
from prunephase.reports.charts import Line
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Figure, Panel, Section, Table
from prunephase.reports.series import At, Ladder, Series
from prunephase.reports.words import NOTHING, capital, interval, listed, points, seeds

TICKET = {"restart.mode": "rewind", "pruning.remask": "none"}
RESTART = ("restart.start_at", "restart.to", "restart.lr")  # that go with a mode of restart


def pairs(found: Sequence[Series], ladder: Ladder) -> Section | None:
    """The lottery ticket against its twin, level by level; None where no two curves differ so."""
    figures, said = [], []
    for ticket, twin, axis in _twins(found):
        try:
            levels = [level for level in paired(ticket.group, twin.group).levels if level.n]
        except UserError:  # no seed or no level in common yet
            continue
        if not levels:
            continue
        a, b = (f"{one.key[axis]}" if axis == "restart.mode" else f"masks: {one.key[axis]}" for one in (ticket, twin))
        rest = named(ticket.key, [name for name in ticket.key if name != axis and name not in RESTART])
        finding = f"{rest}: {_who(levels, a, b)}" if rest else capital(_who(levels, a, b))
        said.append(finding)
        text = f"Test accuracy of {a} less that of {b}, by level. {finding}"
        line = Line(f"{a} less {b}", [At(p.level, p.sparsity, p.difference, p.n, None, p.interval) for p in levels])
        chart = charts.lines(
            *([line], ladder, PAGE),
            description=text,
            title="difference of test accuracy",
            height=220,
            bounds=(-1.0, 1.0),
            below=[charts.rule(0.0, PAGE)],
        )
        caption = f"{capital(rest) + ': ' if rest else ''}paired by seed; the band is the 95 % interval, not adjusted."
        figures.append(Figure([Panel(charts.spec(chart, PAGE))], caption, _table(levels, a, b)))
    if not figures:
        return None
    notes = [
        "A level has a winner where p of the paired t-test, after Holm's adjustment for all levels of the pair, is "
        f"below {ALPHA:g}. Elsewhere the difference may be chance; with few seeds only large ones can be told from it."
    ]
    reinit = any(
        "re-init" in (one.key.get("restart.mode"), other.key.get("restart.mode")) for one, other, _ in _twins(found)
    )
    title = "Ticket versus re-init" if reinit else "Ticket versus its controls"
    return Section("pairs", title, " ".join(said), notes=notes, figures=figures)


def _twins(found: Sequence[Series]) -> Iterator[tuple[Series, Series, str]]:
    """Pairs of curves that differ in one axis of `TICKET` alone, the ticket first."""
    for axis, value in TICKET.items():
        beside = (axis, *RESTART) if axis == "restart.mode" else (axis,)
        for ticket in found:
            for twin in found:
                if axis in ticket.key and ticket.key[axis] == value != twin.key.get(axis, value):
                    rest = [{k: v for k, v in one.key.items() if k not in beside} for one in (ticket, twin)]
                    if repr(rest[0]) == repr(rest[1]):
                        yield ticket, twin, axis


def _who(levels: Sequence[Paired], a: str, b: str) -> str:
    counts = sorted({level.n for level in levels})
    n = seeds(counts[0]) if len(counts) == 1 else f"{seeds(counts[0])} to {counts[-1]}"
    won = {name: [level.level for level in levels if level.winner == side] for name, side in ((a, "a"), (b, "b"))}
    parts = [f"{name} wins at level{'s' if len(at) > 1 else ''} {listed(_runs(at))}" for name, at in won.items() if at]
    most = max(levels, key=lambda level: abs(level.difference))
    between = "" if most.interval is None else f", {interval(*most.interval)}"
    widest = (
        f"the largest difference, {a} less {b}, is {points(most.difference)} at level {most.level} "
        f"({sparse(most.sparsity)} sparse{between})"
    )
    verdict = "; ".join(parts) or f"neither {a} nor {b} wins at any of {len(levels)} levels"
    return f"{verdict} after Holm; {widest}, {n} pairs."


def _runs(levels: Sequence[int]) -> list[str]:
    """Levels in short.

    >>> _runs([1, 2, 3, 7])
    ['1 to 3', '7']
    """
    runs: list[list[int]] = []
    for level in levels:
        if runs and runs[-1][-1] == level - 1:
            runs[-1].append(level)
        else:
            runs.append([level])
    return [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]


def _table(levels: Sequence[Paired], a: str, b: str) -> Table:
    rows = [
        (
            str(level.level),
            sparse(level.sparsity),
            f"{points(level.difference)} ({seeds(level.n)})",
            NOTHING if level.interval is None else interval(*level.interval),
            NOTHING if level.p is None else f"{level.p:.4f}",
            NOTHING if level.adjusted is None else f"{level.adjusted:.4f}",
            {"a": a, "b": b, None: "not shown"}[level.winner],
        )
        for level in levels
    ]
    head = ("level", "sparsity", f"{a} less {b}", "95 % interval, points", "p, paired t", "p after Holm", "winner")
    return Table(f"{capital(a)} against {b}, paired by seed", head, rows)
