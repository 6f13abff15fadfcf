"""The sections about what is learned: accuracy by epoch at the levels that tell the story, and by subset of labels."""

# L levels.

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from prunephase.looks import sparse
from prunephase.reports import charts
from prunephase.reports.multiples import MANY
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Figure, Panel, Section, Table
from prunephase.reports.sections import wide_table
from prunephase.reports.series import At, Ladder, Series, count, dynamics, prefix
from prunephase.reports.words import capital, mean_sd, percent, seeds

SUBSETS = {
    "permuted": ("permuted_accuracy", "training examples with a label drawn anew, scored on it: how much is memorised"),
    "unpermuted": ("unpermuted_accuracy", "training examples whose label was left alone"),
    "restored": ("restored_accuracy", "the permuted examples again, scored on their true labels"),
    "test": ("test_accuracy", "examples never trained on, with clean labels"),
}
EPOCHS_IN_TABLE = 12


def training(found: Sequence[Series], epochs: pl.DataFrame) -> Section:
    """Test and train accuracy against epoch at the levels that tell the story."""
    figures, said = [], []
    for one in found:
        panels, rows, mine = [], [], []
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
            mine.append(f"{role} (level {level}) {_ends(test, train).rstrip('.')}")
        said += [f"{prefix(one, found)}{each}" for each in mine]
        if panels:
            caption = f"{prefix(one, found)}Accuracy after each epoch; the band is the 95 % interval over seeds."
            if len(found) > MANY:
                caption += f" {capital('; '.join(mine))}."
            table = Table("Accuracy by epoch", ("level", "epoch", "test", "train"), rows)
            figures.append(Figure(panels, caption, table, wide=False))
    finding = f"{capital('; '.join(said))}." if said else "No epochs are recorded yet."
    if len(figures) > MANY:
        finding = f"{len(figures)} curves, at the levels that tell the story of each ({count(found)} each)."
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
        table = wide_table("Accuracy by subset", {name: column for name, (column, _) in SUBSETS.items()}, one)
        caption = f"{prefix(one, found)}Accuracy by subset against level."
        if len(found) > MANY:
            caption += f" {capital(finding)}"
        figures.append(Figure([Panel(charts.spec(chart, PAGE))], caption, table))
    notes = [f"{name}: {meaning}." for name, (_, meaning) in SUBSETS.items()]
    if not figures:
        return Section(
            "subsets", "Which labels are learned", "No labels are known to be noisy, so there are no subsets."
        )
    if len(said) > MANY:
        said = [f"{len(said)} curves, by subset of their labels ({count(found)} each)."]
    return Section("subsets", "Which labels are learned", " ".join(said), notes=notes, figures=figures)


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
