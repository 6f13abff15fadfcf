"""The command that looks at labels before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prunephase.cli.words import HERE, Json, Where, aligned, app, examples, print_json
from prunephase.errors import Exit, UserError

if TYPE_CHECKING:
    from prunephase.trial import Trial

CELLS = 12  # classes whose matrix is printed whole


@app.command(
    help_epilogue=examples(
        "prunephase audit-labels study.toml",
        "prunephase audit-labels cells.csv --set data.label=phenotype",
        "prunephase audit-labels features.npz --json > audit.json",
    )
)
def audit_labels(
    data: Annotated[
        str,
        Parameter(
            help="A study file or preset:NAME (its first trial's data and noise), or data: npz, csv, parquet, a folder."
        ),
    ],
    *,
    where: Where = HERE,
    most: Annotated[int, Parameter(help="Look at so many examples at most, drawn at random.")] = 10_000,
    json: Json = False,
) -> int:
    """Estimate how many labels are wrong and which class is taken for which, before anything is spent.

    Confident learning (cleanlab; takes the extra labels) on cross-validated classifiers. Also what it predicts for a
    sweep, and whether one is worth it. docs/suspects.md says how far off the estimates were.
    """
    from prunephase.analysis.forecast import forecast, level
    from prunephase.bench import Site
    from prunephase.labels import audited
    from prunephase.terminal import clean, percent

    if most < 2:
        raise UserError(f"--most {most}: expected at least 2")
    trial, ours = _trial(data, where)
    found = audited(trial, Site(where.store, plugins=frozenset(where.plugins)), most)
    said = found.estimate
    ahead = forecast(None if said.weak else said.rate, trial.data.source)
    if json:
        print_json(
            {
                "data": data,
                "labels": found.labels,
                "classes": list(found.classes),
                **asdict(said),
                "weak": said.weak,
                "agreements": found.agreements,
                "known_rate": found.known,
                "forecast": ahead.as_json(),
            }
        )
        return Exit.OK
    drawn = f", {found.card.kind} noise of seed {found.card.seed}" if found.card.seed is not None else ""
    lines = [
        f"{said.examples:,} of {found.labels:,} labels of the training and validation splits, {len(found.classes)} "
        f"classes{drawn}.",
        f"Wrong labels: {percent(said.rate)} (95 % interval {percent(said.low)} to {percent(said.high)}: bootstrap "
        f"over examples, without the classifier's mistakes). By {said.classifier}, which agrees with "
        f"{percent(said.agreement)} of the labels out of sample, so with {percent(said.accuracy)} of true ones.",
    ]
    if said.weak:
        lines.append(
            "That is too few: its mistakes pass for wrong labels, and the estimate is not to be relied on. Give "
            "features that tell the classes apart, such as those of a pretrained network, as npz."
        )
    if found.known is not None:
        off = said.rate - found.known
        lines.append(
            f"Known: {percent(found.known)} of these are wrong, so the estimate is {100 * abs(off):.1f} points too "
            f"{'high' if off > 0 else 'low'}."
        )
    predicted, needed = ahead.sentences
    if ours and (dips := ahead.dips):
        low, high = (level(edge, trial.pruning.fraction) for edge in dips)
        predicted += f" In this ladder the dip is about level {low if low == high else f'{low} to {high}'}."
    print(clean("\n".join([*lines, predicted, needed, _transition(said.transition, found.classes)])))
    return Exit.OK


def _trial(data: str, where: Where) -> tuple[Trial, bool]:
    """The trial whose labels are looked at, and whether it is one of a study rather than of bare data."""
    from prunephase.study import overridden

    path = Path(data)
    if data.startswith("preset:") or path.suffix == ".toml":
        return where.load(data).trials[0], True
    sources = {".npz": "npz", ".csv": "table", ".parquet": "table"}
    source = sources.get(path.suffix)
    if path.is_dir():
        tables = any((path / f"train{end}").is_file() for end in (".csv", ".parquet"))
        source = "table" if tables else "folder"
    if source is None:
        raise UserError(f"{data}: expected a study file (.toml), preset:NAME, .npz, .csv, .parquet or a folder")
    fields = {"name": path.name or "data", "data": {"source": source, "path": data}, "noise": {"kind": "none"}}
    return overridden(fields, where.changes, data).trials[0], False


def _transition(matrix: Sequence[Sequence[float] | None], classes: Sequence[str]) -> str:
    """The matrix, or of many classes the most frequent flips."""
    if len(classes) <= CELLS:
        rows = [
            (name, *("-" if row is None else f"{100 * share:.1f}" for share in row or classes))
            for name, row in zip(classes, matrix, strict=True)
        ]
        return f"Percent of a true class (row) that got a label (column):\n{aligned(('', *classes), rows)}"
    flips = sorted(
        ((share, i, j) for i, row in enumerate(matrix) for j, share in enumerate(row or ()) if i != j), reverse=True
    )
    cells = [(classes[i], classes[j], f"{100 * share:.1f}") for share, i, j in flips[:CELLS]]
    return f"The most frequent flips:\n{aligned(('true', 'given', 'percent'), cells)}"
