"""The sections of diagnoses: one for each that was asked, and accuracy against the quantity that the axis names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunephase.diagnoses import DIAGNOSES, Diagnosis
from prunephase.reports import diagnosis_examples as examples
from prunephase.reports import diagnosis_planes as planes
from prunephase.reports import diagnosis_roles as roles
from prunephase.reports import diagnosis_views as views
from prunephase.reports.diagnosis_charts import Across, across
from prunephase.reports.diagnosis_views import ACCURACY, Show, Shown, View
from prunephase.reports.findings import Findings, told
from prunephase.reports.multiples import MANY
from prunephase.reports.parts import Figure, Section, Table
from prunephase.reports.series import Ladder, Series, count, prefix
from prunephase.reports.turns import turns
from prunephase.reports.words import capital, clipped

SHOWN: Mapping[str, Show] = {
    "memorisation": views.memorisation,
    "forgetting": examples.forgetting,
    "changes": examples.changes,
    "ledger": examples.ledger,
    "distance": views.distance,
    "entropy": views.entropy,
    "calibration": roles.calibration,
    "harm": examples.harm,
    "structure": views.structure,
    "histograms": roles.histograms,
    "sharpness": roles.sharpness,
    "landscape": roles.landscape,
    "surface": planes.surface,
    "redense": roles.redense,
    "interpolation": roles.interpolation,
}
FEW = 2  # curves whose findings one paragraph holds
ACCURACIES = {"test, last epoch": "test_accuracy", "train, labels as given": "train_accuracy"}


def diagnoses(found: Sequence[Series], ladder: Ladder, findings: Findings, axis: str = "level") -> list[Section]:
    """What turns where, and a section for each diagnosis with findings, ours first. Empty where none was asked.

    axis: what is drawn across: level, sparsity, remaining, or a column of numbers of the level table. Raises UserError
    for another.
    """
    drawn = across(axis, found, ladder)
    parts = [] if axis == "level" else [_accuracy(found, findings, drawn)]
    if findings.names:
        parts.append(turns(found, findings))
    ours = [name for name in SHOWN if name in findings.names]
    for name in [*ours, *(name for name in findings.names if name not in SHOWN)]:
        parts.append(_section(name, DIAGNOSES.get(name), found, findings, drawn))
    return [part for part in parts if part is not None]


def _section(
    name: str, known: Diagnosis | None, found: Sequence[Series], findings: Findings, drawn: Across
) -> Section | None:
    asked = [one for one in found if told(one, name)]
    if not asked:
        return None
    show, said, figures = SHOWN.get(name, views.own), [], []
    many = len(asked) > FEW
    for one in asked[:MANY]:
        shown = show(View(name, one, findings, drawn))
        said.append(f"{prefix(one, found)}{shown.finding}")
        if shown.panels:
            figures.append(_figure(shown, f"{said[-1]} " if many else prefix(one, found)))
    if many:
        said = [f"{len(asked)} curves; what is found of each stands below its drawings ({count(asked)} each)."]
    notes = [f"{known.definition} Source: {known.source}."] if known else [f"A function of your own: {clipped(name)}."]
    if len(asked) > MANY:
        notes.append(f"Shown for the first {MANY} of {len(asked)} curves; the others stand in the table of levels.")
    title = known.title if known else clipped(name)
    return Section(f"diagnosis-{name}", title, capital(" ".join(said)), notes=notes, figures=figures)


def _figure(shown: Shown, before: str) -> Figure:
    caption = capital(f"{before}{shown.caption}".strip()) or "The band is the 95 % interval over seeds."
    return Figure(shown.panels, caption, shown.table, wide=len(shown.panels) == 1)


def _accuracy(found: Sequence[Series], findings: Findings, drawn: Across) -> Section | None:
    """Accuracy against what the axis names."""
    panels, tables = [], []
    for one in found[:MANY]:
        traces = [
            drawn.trace(words, one, one.summary(column), place)
            for place, (words, column) in enumerate(ACCURACIES.items())
        ]
        view = View("", one, findings, drawn)
        made = views.lines(
            view, [trace for trace in traces if trace.dots], ACCURACY, one.label if len(found) > 1 else ""
        )
        if made is not None:
            panels.append(made)
            tables += [
                (one.label, dot.where, f"{dot.x:.6g}", trace.name, ACCURACY.held(dot.at))
                for trace in traces
                for dot in trace.dots
            ]
    if not panels:
        return None
    words = drawn.name.replace("_", " ")
    head = ("curve", "level", words, "examples", "accuracy")
    best = max(
        (one.phases for one in found if one.phases.peak), key=lambda p: p.peak.value if p.peak else 0, default=None
    )
    said = best.sentence if best is not None else "No curve has a dip."
    figure = Figure(
        panels,
        f"Accuracy against {words}, level after level; where it does not rise with the level, bands are left out.",
        Table(f"Accuracy and {words}", head, tables),
        wide=len(panels) == 1,
    )
    return Section("axis", f"Accuracy and {words}", said, figures=[figure])
