"""The overlay: a published curve beneath ours where it belongs, and how far ours lies from it."""

from __future__ import annotations

from collections.abc import Sequence

from prunephase.analysis.published import Difference, Offset, Published, differences, matching, offsets
from prunephase.reports.charts import Line
from prunephase.reports.series import At, Ladder, Series, constant, prefix
from prunephase.reports.words import interval, listed, percent, points, seeds, value

PLACE = 7  # among the shapes and dashes: the last, which ours come to only with eight curves


def published(one: Series) -> Published | None:
    """The published curve that belongs below this one."""
    return matching(constant(one.rows))


def beneath(found: Sequence[Series], ladder: Ladder) -> list[Line]:
    """The published curves that belong below these, each once, as far as our ladder goes."""
    theirs = {curve.name: curve for one in found if (curve := published(one)) is not None}
    return [_line(curve, ladder) for curve in theirs.values()]


def findings(found: Sequence[Series]) -> list[str]:
    """For every curve that has a published one: where dip and peak lie against it, and whose settings differ how."""
    return [_finding(one, curve, found) for one in found if (curve := published(one)) is not None]


def _line(curve: Published, ladder: Ladder) -> Line:
    last = max(ladder.x(level, sparsity) for level, sparsity in ladder.sparsity.items())
    group = curve.group
    at = [
        At(int(level), float(sparsity), float(accuracy), curve.seeds or 0, None, None)
        for level, sparsity, accuracy in zip(group.levels, group.sparsity, group.test[0], strict=True)
        if ladder.x(int(level), float(sparsity)) <= last + 1e-9
    ]
    return Line(curve.label, at, paint="faint", place=PLACE, note=_error(curve), joined=curve.whole)


def _finding(one: Series, curve: Published, found: Sequence[Series]) -> str:
    found_at = offsets(one.phases, curve)
    said = [_offset(name, found_at[name], one, curve) for name in ("dip", "peak") if name in found_at]
    where = "; ".join(said) if said else f"our curve has no dip to compare ({seeds(one.phases.n)})"
    candidate = (
        "" if one.phases.verdict == "present" or not said else " Ours are candidates: the verdict is not “present”."
    )
    different = differences(curve, constant(one.rows), one.phases.n)
    return f"{prefix(one, found)}against {curve.label}: {where}.{candidate} {_settings(different)}"


def _offset(name: str, offset: Offset, one: Series, curve: Published) -> str:
    ours, theirs = offset.ours, offset.theirs
    steps = (
        "at the same level"
        if offset.levels == 0
        else f"{offset.levels:+d} level{'s' if abs(offset.levels) > 1 else ''}"
    )
    span = "" if ours.levels is None else f" (95 % interval {ours.levels[0]} to {ours.levels[1]})"
    at = one.at("test_accuracy", ours.level)
    spread = f", {interval(*at.interval)}" if at is not None and at.interval is not None else ""
    return (
        f"{name} at level {ours.level}{span}, in the paper {theirs.level}: {steps}; {percent(ours.value)} "
        f"({seeds(one.phases.n)}{spread}), in the paper {percent(theirs.value)} ({_error(curve)}): "
        f"{'+' if offset.accuracy >= 0 else '−'}{points(abs(offset.accuracy))}"
    )


def _error(curve: Published) -> str:
    n = f"{seeds(curve.seeds)}, " if curve.seeds else ""
    return f"{n}read off the figure to ±{100 * curve.error:g} points"


def _settings(different: Sequence[Difference]) -> str:
    if not different:
        return "No setting that we know of differs from the paper's."
    each = [f"{one.name} {value(one.ours)} (paper: {value(one.theirs)})" for one in different]
    return f"Settings that differ from the paper's: {listed(each)}."
