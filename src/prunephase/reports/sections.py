"""The sections of the report: each one finding in a sentence, tied to numbers, and what shows it."""

# G curves, L levels, K classes.

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from prunephase.reports import charts
from prunephase.reports.parts import Card, Figure, Panel, Section, Table
from prunephase.reports.series import At, Ladder, Series, constant, dynamics
from prunephase.reports.words import (
    NOTHING,
    across_seeds,
    clipped,
    listed,
    mean_sd,
    percent,
    points,
    seeds,
    sparse,
    spread,
    value,
)

ORACLE = "oracle (selected on test)"
SUBSETS = {
    "permuted": ("permuted_accuracy", "on the wrong labels they were given: how much noise is memorised"),
    "unpermuted": ("unpermuted_accuracy", "the training images whose label was left alone"),
    "restored": ("restored_accuracy", "the permuted images again, scored on their true labels"),
    "test": ("test_accuracy", "images never trained on, with clean labels"),
}
COLUMNS = {
    "train": "train_accuracy",
    "validation": "validation_accuracy",
    "test, last epoch": "test_accuracy",
    "test at the epoch chosen on validation": "test_accuracy_at_best",
    f"test at the best test epoch: {ORACLE}": "oracle_test_accuracy",
}
PANELS_IN_TABLE = 12  # epochs shown in the table of the dynamics


def verdict(found: Sequence[Series], missing: Sequence[str] = ()) -> Section:
    """The verdict of every curve, and the figures that a reader takes away. missing: a line per unfinished trial."""
    if not found:
        return Section("verdict", "Verdict", "No level is finished yet, so there is no curve and no verdict.")
    lead = found[0].phases.sentence if len(found) == 1 else _count(found)
    unfinished = [
        f"{len(missing)} trials are unfinished: all of this rests on what is there, and each figure on its n."
    ]
    return Section(
        "verdict",
        "Verdict",
        lead,
        verdicts=[(one.label, one.phases.verdict, one.phases.sentence) for one in found] if len(found) > 1 else (),
        cards=[(one.label if len(found) > 1 else "", _cards(one)) for one in found],
        notes=[
            *(unfinished if missing else ()),
            "Accuracies are those of the last epoch, on the test set. Dip and peak are located on the test curve: they "
            f"describe it. To pick a model, take the level chosen on validation; the peak is an {ORACLE}.",
        ],
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
        for role, level in one.roles().items():
            test, train = (dynamics(epochs, one, level, column) for column in ("test_accuracy", "train_accuracy"))
            if not test and not train:
                continue
            sparsity = float(one.group.sparsity[list(one.group.levels).index(level)])
            title = f"{role}: level {level}, {sparse(sparsity)} sparse"
            text = f"Accuracy against epoch, {one.label}, {title}. {_ends(test, train)}"
            drawn = [charts.Line("test", test), charts.Line("train", train)]
            chart = charts.lines([d for d in drawn if d.points], None, charts.PAGE, description=text, height=190)
            panels.append(Panel(charts.spec(chart, charts.PAGE), title))
            rows += _sampled(role, level, test, train)
            said.append(f"{_of(one, found)}{role} (level {level}) {_ends(test, train).rstrip('.')}")
        if panels:
            caption = f"{one.label}: accuracy after each epoch; the band is the 95 % interval over seeds."
            table = Table("Accuracy by epoch", ("level", "epoch", "test", "train"), rows)
            figures.append(Figure(panels, caption, table, wide=False))
    finding = f"{'; '.join(said)}." if said else "No epochs are recorded yet."
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
        said.append(f"{_of(one, found)}{finding}")
        text = f"Accuracy by subset against level, {one.label}. {finding}"
        chart = charts.lines(drawn, ladder, charts.PAGE, description=text, height=280)
        table = _wide_table("Accuracy by subset", {name: column for name, (column, _) in SUBSETS.items()}, one)
        figures.append(Figure([Panel(charts.spec(chart, charts.PAGE))], f"{one.label}: accuracy by subset.", table))
    notes = [f"{name}: {meaning}." for name, (_, meaning) in SUBSETS.items()]
    if not figures:
        return Section(
            "subsets", "Which labels are learned", "No labels are known to be noisy, so there are no subsets."
        )
    return Section("subsets", "Which labels are learned", " ".join(said), notes=notes, figures=figures)


def noise(found: Sequence[Series], cards: Mapping[str, Mapping[str, Any]]) -> Section:
    """The noise card of every curve: convention, rates, transition matrix."""
    figures, facts, said = [], [], []
    for one in found:
        mine = [cards[trial] for trial in one.rows["trial"].unique(maintain_order=True) if trial in cards]
        if not mine:
            continue
        first, splits = mine[0], [card["train"] for card in mine]
        realised = [float(split["realised"]) for split in splits]
        asked = "no nominal rate" if first.get("nominal") is None else f"{percent(first['nominal'])} asked for"
        low, high = percent(min(realised)), percent(max(realised))
        between = low if low == high else f"{low} to {high}"
        said.append(
            f"{_of(one, found)}{clipped(str(first['kind']))}: {asked}, {between} of the {splits[0]['n']:,} training "
            f"labels are wrong ({seeds(len(mine))} patterns)."
        )
        facts.append((one.label, _card(first, splits, mine)))
        matrix = _mean_matrix([split["transition"] for split in splits])
        text = (
            f"Transition matrix of the training labels, {one.label}, mean of {len(mine)}: row true class, column given."
        )
        chart = charts.matrix_chart(matrix, charts.PAGE, description=text)
        panel = Panel(charts.spec(chart, charts.PAGE))
        figures.append(Figure([panel], text, _matrix_table(matrix), wide=len(matrix) > 12))
    return Section(
        "noise", "Noise card", " ".join(said) or "No noise card is stored yet.", figures=figures, facts=facts
    )


def levels(found: Sequence[Series], table: pl.DataFrame) -> Section:
    """Every level with mean, spread and n; every row of every trial."""
    rows, kept = [], 0
    for one in found:
        columns = {name: {at.level: at for at in one.summary(column)} for name, column in COLUMNS.items()}
        left = dict(one.rows.group_by("level").agg(pl.col("remaining").mean()).iter_rows())
        for level, sparsity in zip(one.group.levels, one.group.sparsity, strict=True):
            kept += 1
            rows.append(
                (
                    one.label,
                    str(level),
                    sparse(float(sparsity)),
                    NOTHING if left[level] is None else f"{left[level]:,.0f}",
                    *(mean_sd(columns[name].get(int(level))) for name in COLUMNS),
                )
            )
    head = ("curve", "level", "sparsity", "weights left", *COLUMNS)
    finding = (
        f"{kept} levels of {len(found)} curve{'s' if len(found) != 1 else ''}, from {table.height} trained networks "
        f"of {table['trial'].n_unique()} trials; values are mean ± sd of one seed (n seeds)."
    )
    return Section(
        "levels",
        "Levels",
        finding,
        tables=[Table("Mean, spread and n of every level", head, rows, folded=False), _all_rows(found)] if rows else (),
    )


def settings(
    found: Sequence[Series], table: pl.DataFrame, provenance: Mapping[str, Any], missing: Sequence[str]
) -> Section:
    """What was asked for, what varies, what is missing, and where the numbers come from."""
    fixed = constant(table)
    diverged = table.filter(pl.col("status") == "diverged")
    most = max((one.phases.n for one in found), default=0)
    named = [
        f"trial {trial}, seed {seed}, level {level}: diverged"
        for trial, seed, level in diverged.select("trial", "seed", "level").iter_rows()
    ]
    count = f"{len(named)} levels diverged and {len(missing)} trials are unfinished" if named or missing else (
        "No level diverged and none is missing"
    )  # fmt: skip
    facts: list[tuple[str, Sequence[tuple[str, str]]]] = []
    if len(found) > 1:
        facts.append(("What tells the curves apart", [(one.label, _keys(one)) for one in found]))
    if fixed:
        facts.append(("Settings common to all", [(name, value(held)) for name, held in fixed.items()]))
    facts += _flattened("Provenance", provenance)
    tables = []
    if named or missing:
        rows = [(clipped(text, 400),) for text in (*named, *missing)]
        tables.append(Table("Diverged and missing", ("what",), rows, folded=False))
    finding = f"{across_seeds(fixed, len(found), most)} {count}." if found else f"{count}."
    return Section("settings", "Settings and provenance", finding, tables=tables, facts=facts)


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
        interval = ""
        if hard.forfeited_interval:
            low, high = hard.forfeited_interval
            interval = f" (95 % interval {100 * low:.1f} to {100 * high:.1f})"
        made.append(
            Card(
                "stopping early forfeits",
                points(hard.forfeited),
                f"with patience {hard.patience} on the test curve it ends at level {hard.stop_level} and takes level "
                f"{hard.chosen_level}{interval}, {seeds(one.phases.n)}",
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
            fitted = f", where train accuracy is {percent(train.mean)}" if train else ""
            said.append(
                f"{_of(one, found)}from {percent(test[0].mean)} dense down to {percent(dip.value)} at level {dip.level}"
                f"{fitted}, up to {percent(peak.value)} at level {peak.level} ({sparse(peak.sparsity)} sparse), "
                f"{seeds(one.phases.n)}."
            )
        else:
            said.append(
                f"{_of(one, found)}from {percent(test[0].mean)} at level {test[0].level} to {percent(test[-1].mean)} "
                f"at level {test[-1].level}, without a dip between, {seeds(one.phases.n)}."
            )
    text = " ".join(said)
    return text[:1].upper() + text[1:] if text else "No level has a test accuracy yet."


def _main(found: Sequence[Series], ladder: Ladder) -> Figure:
    text = f"Accuracy against pruning level. {_shape(found)}"
    panels = [Panel(charts.spec(charts.curve_chart(found, ladder, charts.PAGE, description=text), charts.PAGE))]
    columns = {"test, last epoch": "test_accuracy", "train": "train_accuracy",
               "test, epoch chosen on validation": "test_accuracy_at_best"}  # fmt: skip
    if len(found) > 1:
        for name, column in list(columns.items())[1:]:
            drawn = [charts.line(one.label, one, column, ladder) for one in found]
            if any(line.points for line in drawn):
                chart = charts.lines(
                    drawn, ladder, charts.PAGE, description=f"{name} accuracy against level.", title=name
                )
                panels.append(Panel(charts.spec(chart, charts.PAGE)))
    caption = "Accuracy by level; the dip and the peak are ringed." if any(one.phases.dip for one in found) else (
        "Accuracy by level.")  # fmt: skip
    return Figure(panels, caption, _wide_table("Accuracy by level", columns, *found))


def _choice(found: Sequence[Series], ladder: Ladder) -> list[Figure]:
    columns = {"last epoch": "test_accuracy", "epoch chosen on validation": "test_accuracy_at_best",
               ORACLE: "oracle_test_accuracy"}  # fmt: skip
    panels, gaps = [], []
    for one in found:
        best, last = one.summary("oracle_test_accuracy"), {at.level: at for at in one.summary("test_accuracy")}
        widest = max(
            ((at.mean - last[at.level].mean, at) for at in best if at.level in last), key=lambda p: p[0], default=None
        )
        if widest is None:
            continue
        gap = (
            f"{_of(one, found)}choosing the epoch on the test set ({ORACLE}) would add up to {points(widest[0])} "
            f"(level {widest[1].level}, {seeds(widest[1].n)})."
        )
        gaps.append(gap)
        drawn = [
            charts.line(name, one, column, ladder, band=False, paint="oracle" if name == ORACLE else None)
            for name, column in columns.items()
        ]
        text = f"Test accuracy by the way the epoch is chosen, {one.label}. {gap}"
        chart = charts.lines(
            [d for d in drawn if d.points], ladder, charts.PAGE, description=text, title="test accuracy"
        )
        panels.append(Panel(charts.spec(chart, charts.PAGE), one.label if len(found) > 1 else ""))
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
            rows.append((one.label, str(level), sparse(float(sparsity)), *cells))
    return Table(caption, ("curve", "level", "sparsity", *columns), rows)


def _all_rows(found: Sequence[Series]) -> Table:
    names = {
        "train": "train_accuracy",
        "validation": "validation_accuracy",
        "test": "test_accuracy",
        "test at best validation epoch": "test_accuracy_at_best",
        ORACLE: "oracle_test_accuracy",
    }
    rows = [
        (
            one.label,
            value(trial),
            value(seed),
            value(level),
            value(status),
            NOTHING if sparsity is None else sparse(sparsity),
            value(epochs),
            *(percent(share, 2) for share in shares),
        )
        for one in found
        for trial, seed, level, status, sparsity, epochs, *shares in one.rows.sort("seed", "trial", "level")
        .select("trial", "seed", "level", "status", "sparsity", "epochs", *names.values())
        .iter_rows()
    ]
    head = ("curve", "trial", "seed", "level", "status", "sparsity", "epochs", *names)
    return Table("All rows: every trial, every level", head, rows)


def _ends(test: Sequence[At], train: Sequence[At]) -> str:
    parts = [f"{name} {percent(line[-1].mean)}" for name, line in (("test", test), ("train", train)) if line]
    last = (test or train)[-1]
    return f"ends at {' and '.join(parts)} after {last.level} epochs ({seeds(last.n)})."


def _sampled(role: str, level: int, test: Sequence[At], train: Sequence[At]) -> list[tuple[str, ...]]:
    longest = test or train
    step = max(1, len(longest) // PANELS_IN_TABLE)
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
                f"at {role} (level {level}, {seeds(permuted.n)}) {percent(permuted.mean)} of the permuted labels are "
                f"fitted and {percent(restored.mean)} of their true labels found"
            )
    text = f"{'; '.join(said)}." if said else "The subsets are not measured at these levels."
    return text[0].upper() + text[1:]


def _card(first: Mapping[str, Any], splits: Sequence[Mapping[str, Any]], cards: Sequence[Mapping[str, Any]]) -> list[
    tuple[str, str]
]:  # fmt: skip
    realised = [float(split["realised"]) for split in splits]
    selected = [float(split["selected"]) for split in splits]
    validation = [card["validation"] for card in cards if card.get("validation")]
    facts = [
        ("convention", clipped(f"{first['kind']}: {first['convention']}", 400)),
        ("count", value(first.get("count"))),
        ("nominal rate", percent(first.get("nominal"))),
        ("selected, training", f"{percent(statistics.fmean(selected), 2)} ({seeds(len(selected))})"),
        ("realised, training", f"{percent(statistics.fmean(realised), 2)} ({seeds(len(realised))})"),
        ("training labels", f"{splits[0]['n']:,}"),
    ]
    if validation:
        rates = [float(split["realised"]) for split in validation]
        facts.append(("realised, validation", f"{percent(statistics.fmean(rates), 2)} of {validation[0]['n']:,} labels "
                      f"({seeds(len(rates))})"))  # fmt: skip
    facts.append(("seeds of the pattern", ", ".join(value(card.get("seed")) for card in cards[:20])))
    return facts


def _mean_matrix(matrices: Sequence[Sequence[Sequence[float] | None]]) -> list[list[float | None]]:
    size = len(matrices[0])
    mean: list[list[float | None]] = []
    for i in range(size):
        rows = [row for matrix in matrices if (row := matrix[i]) is not None]
        mean.append([statistics.fmean(row[j] for row in rows) if rows else None for j in range(size)])
    return mean


def _matrix_table(matrix: Sequence[Sequence[float | None]]) -> Table:
    size = len(matrix)
    if size <= 12:
        rows = [(str(i), *(percent(share) for share in row)) for i, row in enumerate(matrix)]
        return Table("Transition matrix", ("true \\ given", *map(str, range(size))), rows)
    flips = sorted(
        ((share, i, j) for i, row in enumerate(matrix) for j, share in enumerate(row) if share and i != j), reverse=True
    )
    rows = [(str(i), str(j), percent(share, 2)) for share, i, j in flips[:40]]
    return Table("The 40 most frequent flips", ("true", "given", "share"), rows)


def _flattened(title: str, facts: Mapping[str, Any]) -> list[tuple[str, Sequence[tuple[str, str]]]]:
    """Nested provenance as titled lists; a mapping inside becomes a list of its own."""
    plain = [(str(name), _joined(held)) for name, held in facts.items() if not isinstance(held, Mapping)]
    nested = [pair for name, held in facts.items() if isinstance(held, Mapping)
              for pair in _flattened(f"{title}: {name}", held)]  # fmt: skip
    return [(title, plain), *nested] if plain else nested


def _joined(held: Any) -> str:
    return ", ".join(value(each) for each in held) if isinstance(held, list | tuple) else value(held)


def _keys(one: Series) -> str:
    return ", ".join(f"{name} = {value(held)}" for name, held in one.key.items())


def _of(one: Series, found: Sequence[Series]) -> str:
    return f"{one.label}: " if len(found) > 1 else ""


def _span(start: int, end: int) -> str:
    return f"{start} to {end}" if end > start else f"{start}"
