"""The sections about the curve: verdict, shape, training, subsets; each a finding in a sentence and what shows it."""

# G curves, L levels, K classes.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from prunephase.reports import charts
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Card, Figure, Panel, Section, Table
from prunephase.reports.series import At, Ladder, Series, dynamics, first_of, head_of, prefix
from prunephase.reports.words import (
    NOTHING,
    ORACLE,
    capital,
    interval,
    listed,
    mean_sd,
    percent,
    points,
    seeds,
    sparse,
    spread,
)

SUBSETS = {
    "permuted": ("permuted_accuracy", "training examples with a label drawn anew, scored on it: how much is memorised"),
    "unpermuted": ("unpermuted_accuracy", "training examples whose label was left alone"),
    "restored": ("restored_accuracy", "the permuted examples again, scored on their true labels"),
    "test": ("test_accuracy", "examples never trained on, with clean labels"),
}
EPOCHS_IN_TABLE = 12


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
            f"{missing} levels of single seeds have no value ({diverged} diverged, the others are not finished). The "
            "detector allows for who is missing, so its dip and peak may differ slightly from the plain means below."
        )
    lead = found[0].phases.sentence if len(found) == 1 else _count(found)
    return Section(
        "verdict",
        "Verdict",
        lead,
        verdicts=[(one.label, one.phases.verdict, one.phases.sentence) for one in found] if len(found) > 1 else (),
        cards=[(one.label if len(found) > 1 else "", _cards(one)) for one in found],
        notes=notes,
    )


def curves(found: Sequence[Series], ladder: Ladder) -> Section:
    """The curve itself, and what choosing the epoch would change."""
    notes = [
        "Lines are means over seeds, bands their 95 % Student-t interval, thin lines single seeds. The x-axis goes by "
        "level, because on a linear axis of sparsity the sweet and the collapsed phase share the last few per cent."
    ]
    figures = []
    if any(one.summary("test_accuracy") for one in found):
        figures.append(_main(found, ladder))
        figures += _choice(found, ladder)
    if len(found) == 1 and found[0].phases.phases:
        spans = [f"{name} {_span(span.start, span.end)}" for name, span in found[0].phases.phases.items()]
        notes.append(f"Phases by level: {listed(spans)}.")
    return Section("curve", "Accuracy and sparsity", _shape(found), notes=notes if figures else (), figures=figures)


def training(found: Sequence[Series], epochs: pl.DataFrame) -> Section:
    """Test and train accuracy against epoch at the levels that tell the story."""
    figures, said = [], []
    for one in found:
        panels, rows = [], []
        steps = {
            (role, level): [dynamics(epochs, one, level, column) for column in ("test_accuracy", "train_accuracy")]
            for role, level in one.roles().items()
        }
        # panels side by side are read together, so they share one scale
        means = [at.mean for pair in steps.values() for line in pair for at in line]
        for (role, level), (test, train) in steps.items():
            if not test and not train:
                continue
            sparsity = float(one.group.sparsity[list(one.group.levels).index(level)])
            title = f"{role}: level {level}, {sparse(sparsity)} sparse"
            text = f"Accuracy against epoch, {one.label}, {title}. {capital(_ends(test, train))}"
            drawn = [line for line in (charts.Line("test", test), charts.Line("train", train)) if line.points]
            domain = (max(0.0, min(means) - 0.02), min(1.0, max(means) + 0.02))
            chart = charts.lines(drawn, None, PAGE, description=text, height=190, domain=domain)
            panels.append(Panel(charts.spec(chart, PAGE), title))
            rows += _sampled(role, level, test, train)
            said.append(f"{prefix(one, found)}{role} (level {level}) {_ends(test, train).rstrip('.')}")
        if panels:
            caption = f"{prefix(one, found)}Accuracy after each epoch; the band is the 95 % interval over seeds."
            table = Table("Accuracy by epoch", ("level", "epoch", "test", "train"), rows)
            figures.append(Figure(panels, caption, table, wide=False))
    finding = f"{capital('; '.join(said))}." if said else "No epochs are recorded yet."
    return Section("training", "Training, epoch by epoch", finding, figures=figures)


def subsets(found: Sequence[Series], ladder: Ladder) -> Section:
    """Accuracy on the four subsets against level."""
    figures, said = [], []
    for one in found:
        drawn = [charts.line(name, one, column, ladder) for name, (column, _) in SUBSETS.items()]
        drawn = [line for line in drawn if line.points]
        if len(drawn) < 2:
            continue
        finding = _memorised(one)
        said.append(f"{prefix(one, found)}{finding}")
        text = f"Accuracy by subset against level, {one.label}. {finding}"
        chart = charts.lines(drawn, ladder, PAGE, description=text, height=280)
        table = _wide_table("Accuracy by subset", {name: column for name, (column, _) in SUBSETS.items()}, one)
        figures.append(
            Figure([Panel(charts.spec(chart, PAGE))], f"{prefix(one, found)}Accuracy by subset against level.", table)
        )
    notes = [f"{name}: {meaning}." for name, (_, meaning) in SUBSETS.items()]
    if not figures:
        return Section(
            "subsets", "Which labels are learned", "No labels are known to be noisy, so there are no subsets."
        )
    return Section("subsets", "Which labels are learned", " ".join(said), notes=notes, figures=figures)


def _count(found: Sequence[Series]) -> str:
    counts = {
        name: sum(one.phases.verdict == name for one in found) for name in ("present", "not shown", "underpowered")
    }
    said = listed([f"{name} in {n}" for name, n in counts.items() if n])
    return f"Of {len(found)} curves, sparse double descent is {said}."


def _cards(one: Series) -> list[Card]:
    dense_level = int(one.group.levels[0])
    made = [_card_at(one, "dense" if dense_level == 0 else f"level {dense_level}", dense_level)]
    for name, point in (("dip", one.phases.dip), ("peak", one.phases.peak)):
        if point is not None:
            made.append(_card_at(one, name, point.level, point.levels, oracle=name == "peak"))
    if one.phases.severity is not None:
        hard = one.phases.severity
        between = f" ({interval(*hard.forfeited_interval)})" if hard.forfeited_interval else ""
        made.append(
            Card(
                "stopping early forfeits",
                points(hard.forfeited),
                f"with patience {hard.patience} on the test curve it ends at level {hard.stop_level} and takes level "
                f"{hard.chosen_level}{between}, {seeds(one.phases.n)}",
                oracle=True,
            )
        )
    choices = one.summary("validation_accuracy")
    if choices:
        level = max(choices, key=lambda at: at.mean).level
        chosen = one.at("test_accuracy", level)
        if chosen:
            where = f"level {level}, {sparse(chosen.sparsity)} sparse; {spread(chosen)}"
            made.append(Card("level chosen on validation", percent(chosen.mean), f"test accuracy at {where}"))
    return [card for card in made if card.value != NOTHING]


def _card_at(one: Series, name: str, level: int, interval: tuple[int, int] | None = None, oracle: bool = False) -> Card:
    at = one.at("test_accuracy", level)
    if at is None:
        return Card(name, NOTHING, "")
    where = f"level {level}" + (f" (95 % interval {interval[0]} to {interval[1]})" if interval else "")
    return Card(name, percent(at.mean), f"{where}, {sparse(at.sparsity)} sparse; {spread(at)}", oracle)


def _shape(found: Sequence[Series]) -> str:
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


def _main(found: Sequence[Series], ladder: Ladder) -> Figure:
    text = f"Accuracy against pruning level. {_shape(found)}"
    panels = [Panel(charts.spec(charts.curve_chart(found, ladder, PAGE, description=text), PAGE))]
    columns = {
        "test, last epoch": "test_accuracy",
        "train": "train_accuracy",
        "test, epoch chosen on validation": "test_accuracy_at_best",
    }
    if len(found) > 1:
        for name, column in list(columns.items())[1:]:
            drawn = [charts.line(one.label, one, column, ladder) for one in found]
            if any(line.points for line in drawn):
                chart = charts.lines(drawn, ladder, PAGE, description=f"{name} accuracy against level.", title=name)
                panels.append(Panel(charts.spec(chart, PAGE)))
    ringed = "; the dip and the peak are ringed" if any(one.phases.dip for one in found) else ""
    caption = f"Accuracy by level{ringed}."
    return Figure(panels, caption, _wide_table("Accuracy by level", columns, *found))


def _choice(found: Sequence[Series], ladder: Ladder) -> list[Figure]:
    columns = {
        "last epoch": "test_accuracy",
        "epoch chosen on validation": "test_accuracy_at_best",
        ORACLE: "oracle_test_accuracy",
    }
    paints = dict(zip(columns, ("s0", "s2", "oracle"), strict=True))
    panels, gaps = [], []
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
        drawn = [
            charts.line(name, one, column, ladder, band=False, paint=paints[name]) for name, column in columns.items()
        ]
        text = f"Test accuracy by the way the epoch is chosen, {one.label}. {gap}"
        chart = charts.lines([d for d in drawn if d.points], ladder, PAGE, description=text, title="test accuracy")
        panels.append(Panel(charts.spec(chart, PAGE), one.label if len(found) > 1 else ""))
    if not panels:
        return []
    caption = f"What the choice of the epoch is worth. {' '.join(gaps)} Never a headline."
    return [Figure(panels, caption, _wide_table("Test accuracy by choice of the epoch", columns, *found))]


def _wide_table(caption: str, columns: Mapping[str, str], *found: Series) -> Table:
    rows = []
    for one in found:
        by = {name: {at.level: at for at in one.summary(column)} for name, column in columns.items()}
        for level, sparsity in zip(one.group.levels, one.group.sparsity, strict=True):
            cells = [mean_sd(by[name].get(int(level))) for name in columns]
            rows.append((*first_of(one, found), str(level), sparse(float(sparsity)), *cells))
    return Table(caption, (*head_of(found), "level", "sparsity", *columns), rows)


def _ends(test: Sequence[At], train: Sequence[At]) -> str:
    parts = [f"{name} {percent(line[-1].mean)}" for name, line in (("test", test), ("train", train)) if line]
    last = (test or train)[-1]
    return f"ends at {' and '.join(parts)} after {last.level} epochs ({seeds(last.n)})."


def _sampled(role: str, level: int, test: Sequence[At], train: Sequence[At]) -> list[tuple[str, ...]]:
    longest = test or train
    step = max(1, len(longest) // EPOCHS_IN_TABLE)
    shown = sorted({*range(0, len(longest), step), len(longest) - 1})
    at_test, at_train = ({at.level: at for at in line} for line in (test, train))
    epochs = [longest[i].level for i in shown]
    return [(f"{role} ({level})", str(e), mean_sd(at_test.get(e)), mean_sd(at_train.get(e))) for e in epochs]


def _memorised(one: Series) -> str:
    said = []
    for role, level in one.roles().items():
        permuted, restored = one.at("permuted_accuracy", level), one.at("restored_accuracy", level)
        if permuted and restored:
            said.append(
                f"{percent(permuted.mean)} of the permuted labels are fitted and {percent(restored.mean)} of their "
                f"true labels found at {role} (level {level}, {seeds(permuted.n)})"
            )
    return f"{'; '.join(said)}." if said else "The subsets are not measured at these levels."


def _span(start: int, end: int) -> str:
    return f"{start} to {end}" if end > start else f"{start}"
