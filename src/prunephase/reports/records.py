"""The sections that put on record: noise card, levels, settings and provenance."""

# G curves, L levels, K classes.

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from prunephase.looks import sparse
from prunephase.reports import charts
from prunephase.reports.matrix import matrix_chart
from prunephase.reports.multiples import MANY
from prunephase.reports.palette import PAGE
from prunephase.reports.parts import Figure, Panel, Section, Table
from prunephase.reports.series import Series, constant, first_of, head_of, prefix
from prunephase.reports.words import NOTHING, ORACLE, across_seeds, capital, clipped, mean_sd, percent, seeds, value

COLUMNS = {
    "train": "train_accuracy",
    "validation": "validation_accuracy",
    "test, last epoch": "test_accuracy",
    "test at the epoch chosen on validation": "test_accuracy_at_best",
    f"test at the best test epoch: {ORACLE}": "oracle_test_accuracy",
}


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
        name = "" if len(found) > MANY else prefix(one, found)
        said.append(
            f"{name}{clipped(str(first['kind']))}: {asked}, {between} of the {splits[0]['n']:,} training "
            f"labels are wrong ({seeds(len(mine))} patterns)."
        )
        facts.append((one.label if len(found) > 1 else "Training and validation labels", _card(mine)))
        matrix = _mean_matrix([split["transition"] for split in splits])
        text = (
            f"Transition matrix of the training labels, {one.label}, mean of {len(mine)}: row true class, column given."
        )
        chart = matrix_chart(matrix, PAGE, description=text)
        panel = Panel(charts.spec(chart, PAGE))
        figures.append(Figure([panel], text, _matrix_table(matrix), wide=len(matrix) > 12))
    return Section(
        "noise",
        "Noise card",
        capital(" ".join(dict.fromkeys(said))) or "No noise card is stored yet.",
        figures=figures,
        facts=facts,
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
                    *first_of(one, found),
                    str(level),
                    sparse(float(sparsity)),
                    NOTHING if left[level] is None else f"{left[level]:,.0f}",
                    *(mean_sd(columns[name].get(int(level))) for name in COLUMNS),
                )
            )
    head = (*head_of(found), "level", "sparsity", "weights left", *COLUMNS)
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
    count = "No level diverged and none is missing"
    if named or missing:
        count = f"{len(named)} levels diverged and {len(missing)} trials are unfinished"
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
            *first_of(one, found),
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
    head = (*head_of(found), "trial", "seed", "level", "status", "sparsity", "epochs", *names)
    return Table("All rows: every trial, every level", head, rows)


def _card(cards: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    first, splits = cards[0], [card["train"] for card in cards]
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
        labels = f"{validation[0]['n']:,} labels ({seeds(len(rates))})"
        facts.append(("realised, validation", f"{percent(statistics.fmean(rates), 2)} of {labels}"))
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
    inner = {name: held for name, held in facts.items() if isinstance(held, Mapping)}
    nested = [pair for name, held in inner.items() for pair in _flattened(f"{title}: {name}", held)]
    return [(title, plain), *nested] if plain else nested


def _joined(held: Any) -> str:
    return ", ".join(value(each) for each in held) if isinstance(held, list | tuple) else value(held)


def _keys(one: Series) -> str:
    return ", ".join(f"{name} = {value(held)}" for name, held in one.key.items())
