"""The sections about the curve: verdict and shape; each a finding in a sentence and what shows it."""

# G curves, L levels, K classes.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prunephase.looks import sparse
from prunephase.reports import charts, multiples, overlay
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Card, Figure, Panel, Section, Table
from prunephase.reports.series import At, Ladder, Series, count, first_of, head_of, prefix
from prunephase.reports.words import (
    NOTHING,
    ORACLE,
    between,
    capital,
    interval,
    listed,
    mean_sd,
    percent,
    points,
    seeds,
    spread,
)

COLUMNS = {
    "test, last epoch": "test_accuracy",
    "train": "train_accuracy",
    "test, epoch chosen on validation": "test_accuracy_at_best",
}


def verdict(found: Sequence[Series]) -> Section:
    """The verdict of every curve, and the few figures that a reader takes away."""
    if not found:
        return Section("verdict", "Verdict", "No level is finished yet, so there is no curve and no verdict.")
    notes = [
        "Accuracies are those of the last epoch, on the test set. Dip and peak are located on the test curve: they "
        f"describe it. To pick a model, take the level chosen on validation; the peak is an {ORACLE}."
    ]
    missing, diverged = (sum(getattr(one.phases, name) for one in found) for name in ("missing", "diverged"))
    if missing:
        notes.append(
            f"{missing} levels of single seeds have no value ({diverged} diverged, the others are not trained). The "
            "detector allows for who is missing, so its dip and peak may differ slightly from the plain means below."
        )
    lead = found[0].phases.sentence if len(found) == 1 else _count(found)
    many = len(found) > multiples.MANY
    return Section(
        "verdict",
        "Verdict",
        lead,
        verdicts=[(one.label, one.phases.verdict, one.phases.sentence) for one in found] if len(found) > 1 else (),
        cards=() if many else [(one.label if len(found) > 1 else "", _cards(one)) for one in found],
        notes=notes,
        tables=[_figures(found)] if many else (),
    )


def curves(found: Sequence[Series], ladder: Ladder) -> Section:
    """The curve itself, and what choosing the epoch would change."""
    notes = [
        "Lines are means over seeds, bands their 95 % Student-t interval, thin lines single seeds. The x-axis goes by "
        "level, because on a linear axis of sparsity the sweet and the collapsed phase share the last few per cent."
    ]
    figures = []
    if any(one.summary("test_accuracy") for one in found):
        figures += _panelled(found, ladder) if len(found) > multiples.MANY else [_main(found, ladder)]
        figures += _choice(found, ladder)
    if len(found) == 1 and found[0].phases.phases:
        spans = [f"{name} {_span(span.start, span.end)}" for name, span in found[0].phases.phases.items()]
        notes.append(f"Phases by level: {listed(spans)}.")
    notes += [capital(text) for text in overlay.findings(found)]
    return Section("curve", "Accuracy and sparsity", _shape(found), notes=notes if figures else (), figures=figures)


def _count(found: Sequence[Series]) -> str:
    counts = {
        name: sum(one.phases.verdict == name for one in found) for name in ("present", "not shown", "underpowered")
    }
    said = listed([f"{name} in {n}" for name, n in counts.items() if n])
    return f"Of {len(found)} curves, sparse double descent is {said}."


def _figures(found: Sequence[Series]) -> Table:
    """The cards of many curves as one table."""
    names: dict[str, str] = {}
    rows = []
    for one in found:
        cards = {card.name: card for card in _cards(one)}
        names |= {name: f"{name}: {ORACLE}" if card.oracle else name for name, card in cards.items()}
        rows.append((one, cards))
    cells = [
        (
            *first_of(one, found),
            *(f"{cards[name].value} ({cards[name].short})" if name in cards else NOTHING for name in names),
        )
        for one, cards in rows
    ]
    return Table("The figures of every curve", (*head_of(found), *names.values()), cells, folded=False)


def _cards(one: Series) -> list[Card]:
    dense_level = int(one.group.levels[0])
    made = [_card_at(one, "dense" if dense_level == 0 else f"level {dense_level}", dense_level)]
    for name, point in (("dip", one.phases.dip), ("peak", one.phases.peak)):
        if point is not None:
            made.append(_card_at(one, name, point.level, point.levels, oracle=name == "peak"))
    if one.phases.severity is not None:
        hard = one.phases.severity
        within = f" ({interval(*hard.forfeited_interval)})" if hard.forfeited_interval else ""
        made.append(
            Card(
                "stopping early forfeits",
                points(hard.forfeited),
                f"with patience {hard.patience} on the test curve it ends at level {hard.stop_level} and takes level "
                f"{hard.chosen_level}{within}, {seeds(one.phases.n)}",
                f"level {hard.chosen_level}, {seeds(one.phases.n)}",
                oracle=True,
            )
        )
    choices = one.summary("validation_accuracy")
    if choices:
        level = max(choices, key=lambda at: at.mean).level
        chosen = one.at("test_accuracy", level)
        if chosen:
            where = f"level {level}, {sparse(chosen.sparsity)} sparse; {spread(chosen)}"
            short = f"level {level}, {seeds(chosen.n)}"
            made.append(Card("level chosen on validation", percent(chosen.mean), f"test accuracy at {where}", short))
    return [card for card in made if card.value != NOTHING]


def _card_at(one: Series, name: str, level: int, interval: tuple[int, int] | None = None, oracle: bool = False) -> Card:
    at = one.at("test_accuracy", level)
    if at is None:
        return Card(name, NOTHING, "", "")
    where = f"level {level}" + (f" (95 % interval {interval[0]} to {interval[1]})" if interval else "")
    note = f"{where}, {sparse(at.sparsity)} sparse; {spread(at)}"
    return Card(name, percent(at.mean), note, f"level {level}, {seeds(at.n)}", oracle)


def _shape(found: Sequence[Series]) -> str:
    if len(found) > multiples.MANY:
        return _ranges(found)
    said = []
    for one in found:
        test = one.summary("test_accuracy")
        if not test:
            continue
        dip, peak = one.phases.dip, one.phases.peak
        if dip and peak:
            train = one.at("train_accuracy", dip.level)
            fitted = f", train accuracy {percent(train.mean)}" if train else ""
            said.append(
                f"{prefix(one, found)}from {percent(test[0].mean)} dense down to {percent(dip.value)} at level "
                f"{dip.level}{fitted}, up to {percent(peak.value)} at level {peak.level} "
                f"({sparse(peak.sparsity)} sparse), {seeds(one.phases.n)}."
            )
        else:
            said.append(
                f"{prefix(one, found)}from {percent(test[0].mean)} at level {test[0].level} to "
                f"{percent(test[-1].mean)} at level {test[-1].level}, without a dip between, {seeds(one.phases.n)}."
            )
    text = " ".join(said)
    return capital(text) or "No level has a test accuracy yet."


def _ranges(found: Sequence[Series]) -> str:
    """Many curves in one sentence."""
    dense = [at[0].mean * 100 for one in found if (at := one.summary("test_accuracy"))]
    if not dense:
        return "No level has a test accuracy yet."
    said = [f"{len(dense)} curves begin at {between(dense, ' %')}"]
    for name, points_of in (("dips", [o.phases.dip for o in found]), ("peaks", [o.phases.peak for o in found])):
        known = [point for point in points_of if point is not None]
        if known:
            levels, shares = between([p.level for p in known]), between([100 * p.value for p in known], " %")
            said.append(f"{len(known)} have {name}, of {shares} at levels {levels}")
    return f"{'; '.join(said)} ({count(found)} each). Every curve stands in the table above."


def _panelled(found: Sequence[Series], ladder: Ladder) -> list[Figure]:
    """The figures of many curves: one for each quantity, a panel for each value of a setting."""
    figures = []
    for name, column in COLUMNS.items():
        points_of, lower = _points(column), partial(overlay.beneath, ladder=ladder)
        if not any(points_of(one) for one in found):
            continue
        if column == "test_accuracy":
            panels = multiples.panels(found, ladder, points_of, title=name, beneath=lower, ringed=True)
        else:
            panels = multiples.panels(found, ladder, points_of, title=name)
        ringed = "; the dip and the peak are ringed" if column == "test_accuracy" else ""
        caption = f"Accuracy by level, {name}{ringed}. All panels have the same scales and colours."
        figures.append(Figure(panels, caption, wide_table(f"Accuracy by level, {name}", {name: column}, *found), False))
    return figures


def _main(found: Sequence[Series], ladder: Ladder) -> Figure:
    text = f"Accuracy against pruning level. {_shape(found)}"
    lines = overlay.beneath(found, ladder)
    chart = charts.curve_chart(found, ladder, PAGE, description=text, beneath=lines)
    panels = [Panel(charts.spec(chart, PAGE))]
    if len(found) > 1:
        for name, column in list(COLUMNS.items())[1:]:
            drawn = [charts.line(one.label, one, column, ladder) for one in found]
            if any(line.points for line in drawn):
                chart = charts.lines(drawn, ladder, PAGE, description=f"{name} accuracy against level.", title=name)
                panels.append(Panel(charts.spec(chart, PAGE)))
    ringed = "; the dip and the peak are ringed" if any(one.phases.dip for one in found) else ""
    caption = f"Accuracy by level{ringed}."
    return Figure(panels, caption, wide_table("Accuracy by level", COLUMNS, *found))


def _points(column: str) -> Callable[[Series], Sequence[At]]:
    return lambda one: one.summary(column)


def _choice(found: Sequence[Series], ladder: Ladder) -> list[Figure]:
    columns = {
        "last epoch": "test_accuracy",
        "epoch chosen on validation": "test_accuracy_at_best",
        ORACLE: "oracle_test_accuracy",
    }
    paints = dict(zip(columns, ("s0", "s2", "oracle"), strict=True))
    panels, gaps, worth = [], [], []
    for one in found:
        best, last = one.summary("oracle_test_accuracy"), {at.level: at for at in one.summary("test_accuracy")}
        widest = max(
            ((at.mean - last[at.level].mean, at) for at in best if at.level in last), key=lambda p: p[0], default=None
        )
        if widest is None:
            continue
        gap = (
            f"{prefix(one, found)}Choosing the epoch on the test set ({ORACLE}) would add up to {points(widest[0])} "
            f"(level {widest[1].level}, {seeds(widest[1].n)})."
        )
        gaps.append(gap)
        worth.append(widest[0])
        drawn = [
            charts.line(name, one, column, ladder, band=False, paint=paints[name]) for name, column in columns.items()
        ]
        text = f"Test accuracy by the way the epoch is chosen, {one.label}. {gap}"
        chart = charts.lines([d for d in drawn if d.points], ladder, PAGE, description=text, title="test accuracy")
        panels.append(Panel(charts.spec(chart, PAGE), one.label if len(found) > 1 else ""))
    if not panels:
        return []
    if len(found) > multiples.MANY:
        gaps = [f"Choosing it on the test set ({ORACLE}) would add up to {points(max(worth))} ({count(found)} each)."]
    caption = f"What the choice of the epoch is worth. {' '.join(gaps)} Never a headline."
    table = wide_table("Test accuracy by choice of the epoch", columns, *found)
    return [Figure(panels, caption, table, wide=len(panels) == 1)]


def wide_table(caption: str, columns: Mapping[str, str], *found: Series) -> Table:
    """Columns by name, side by side for every level of every curve."""
    rows = []
    for one in found:
        by = {name: {at.level: at for at in one.summary(column)} for name, column in columns.items()}
        for level, sparsity in zip(one.group.levels, one.group.sparsity, strict=True):
            cells = [mean_sd(by[name].get(int(level))) for name in columns]
            rows.append((*first_of(one, found), str(level), sparse(float(sparsity)), *cells))
    return Table(caption, (*head_of(found), "level", "sparsity", *columns), rows)


def _span(start: int, end: int) -> str:
    return f"{start} to {end}" if end > start else f"{start}"
