"""What each diagnosis shows of one curve: its finding in a sentence, its drawings and their numbers."""

# S seeds, L levels.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prunephase.analysis.curve import curve
from prunephase.analysis.facts import Fact, fact, threshold
from prunephase.analysis.relations import crossing
from prunephase.looks import THIN, sparse
from prunephase.reports import findings
from prunephase.reports.diagnosis_charts import Across, Quantity, Trace, panel
from prunephase.reports.findings import Findings
from prunephase.reports.parts import Panel, Table
from prunephase.reports.series import At, Series
from prunephase.reports.words import listed, seeds

ACCURACY = Quantity("accuracy", share=True)
SUBSETS = {name: f"{name}_accuracy" for name in ("permuted", "unpermuted", "restored", "test")}
BEFORE = 0.95  # of the dense accuracy: below it a subset is being forgotten


@dataclass(frozen=True)
class View:
    """What a diagnosis is shown with: its name, one curve, the findings, and the x-axis of levels."""

    name: str
    one: Series
    findings: Findings
    across: Across

    @property
    def begins(self) -> str:
        """What its headline columns begin with."""
        return findings.prefix_of(self.name)

    def points(self, column: str) -> list[At]:
        """A headline number at every level."""
        return findings.summary(self.one, self.begins + column)

    def at(self, column: str, role: str) -> At | None:
        """A headline number at a level of the story."""
        return findings.at(self.one, self.begins + column, findings.told(self.one, self.name).get(role))


@dataclass(frozen=True)
class Shown:
    """finding: a sentence; panels: drawings; table: their numbers; caption: what to know of the drawings."""

    finding: str
    panels: Sequence[Panel]
    table: Table
    caption: str = ""


def memorisation(view: View) -> Shown:
    """Accuracy by subset, and the loss of right and of wrong labels."""
    split = {"right labels": "right_labels_loss", "wrong labels": "wrong_labels_loss", "all": "train_loss"}
    loss = Quantity("training loss, nats")
    panels = [by_level(view, SUBSETS, ACCURACY), by_level(view, split, loss)]
    said = [story(view, "permuted_accuracy", "Of the labels drawn anew the network fits", ACCURACY)]
    first = {name: f for name in ("permuted", "unpermuted") if (f := _falls(view, SUBSETS[name])) is not None}
    parts = [f"{name} accuracy at level {_level(fact)}" for name, fact in first.items() if fact.n]
    if parts:
        said.append(f"Below {100 * BEFORE:g}{THIN}% of its dense value falls {listed(parts)}.")
    share = story(view, "wrong_labels_loss_share", "Wrong labels carry", Quantity("", share=True), " of the loss")
    table = level_table(
        view, {**{k: (v, ACCURACY) for k, v in SUBSETS.items()}, **{k: (v, loss) for k, v in split.items()}}
    )
    return Shown(joined([*said, share]), present(panels), table, "Accuracy by subset; training loss by kind of label.")


def distance(view: View) -> Shown:
    """Total, surviving and pruned part of the distance from the dense initialisation."""
    names, quantity = (
        {"total": "total", "surviving weights": "surviving", "pruned mass": "pruned"},
        Quantity("distance"),
    )
    said = [story(view, "total", "The distance from the initialisation is", quantity)]
    highest = [_extreme(view, column, words, quantity) for words, column in names.items() if column != "pruned"]
    panels = [by_level(view, {**names, "total, re-dense": "redense_total"}, quantity)]
    if view.points("redense_total"):
        said.append(story(view, "redense_total", "After re-dense training it is", quantity))
        said.append(_crossing(view))
    rewound = {"total": "rewind_total", "surviving weights": "rewind_surviving", "pruned mass": "rewind_pruned"}
    same = all(
        abs(a.mean - b.mean) < 1e-6 * max(a.mean, 1.0)
        for a, b in zip(view.points("total"), view.points("rewind_total"), strict=False)
    )
    if not same:
        panels.append(by_level(view, rewound, Quantity("distance from the rewind point")))
    table = level_table(view, {words: (column, quantity) for words, column in names.items()})
    return Shown(joined([*said, *highest]), present(panels), table, "Total² = surviving² + pruned².")


def _crossing(view: View) -> str:
    """From which sparsity on the sparse weights lie closer to the initialisation than the re-dense ones."""
    columns = [f"{view.begins}total", f"{view.begins}redense_total"]
    known = view.one.rows.drop_nulls(columns).sort("level")
    found = []
    for _, rows in known.group_by("seed", maintain_order=True):
        at = crossing(*(rows[name].to_list() for name in ("sparsity", *columns)))
        found += [] if at is None else [at]
    if not found:
        return "At no two of these levels the sparse weights come to lie closer to it than the re-dense ones."
    said = fact(np.array(found), "sparsity")
    spread = f" ({sparse(said.interval[0])} to {sparse(said.interval[1])})" if said.interval else ""
    where = f"from {sparse(said.mean)} on{spread}, {seeds(said.n)}"
    return f"The sparse weights lie closer to it than the re-dense ones {where}."


def entropy(view: View) -> Shown:
    """Entropy of the network and of each layer."""
    names, bits = {"mean of layers": "mean", "weighted by units": "weighted"}, Quantity("entropy, bits")
    said = [story(view, "mean", "The mean entropy is", bits, " bits"), _extreme(view, "mean", "mean", bits)]
    zero = [at for at in view.points("zero_layers") if at.mean > 0]
    said.append(
        f"Some layer has no entropy left from level {zero[0].level} on ({seeds(zero[0].n)})."
        if zero
        else "No layer loses all of it."
    )
    panels = [by_level(view, names, bits), by_layer(view, "mean", bits)]
    table = level_table(view, {words: (column, bits) for words, column in names.items()})
    return Shown(joined(said), present(panels), table, "Entropy of the network, and of each of its layers.")


def structure(view: View) -> Shown:
    """Nominal and effective density, density by layer, dead units."""
    density = Quantity("share of weights that remain", share=True, log=True)
    units, shares = Quantity("units"), Quantity("", share=True)
    names = {"nominal": "density", "effective": "effective_density"}
    dead = {"dead": "dead", "unfed": "unfed", "unread": "unread"}
    said = [_effective(view), story(view, "dead", "Dead units:", units)]
    falling = [at for at in view.points("collapses") if at.mean > 0]
    if falling:
        said.append(f"After level {falling[0].level} the next level empties a layer ({seeds(falling[0].n)}).")
    inexact = view.begins + "exact" in view.one.rows.columns and not view.one.rows[view.begins + "exact"].all()
    caption = "Dead: no path of surviving weights enters (unfed) or leaves (unread) the unit."
    if inexact:
        caption += " An operation of this network is not followed, so dead units and effective sparsity are the least."
    panels = [by_level(view, names, density), by_layer(view, "density", density), by_level(view, dead, units)]
    columns = {**{k: (v, shares) for k, v in names.items()}, **{k: (v, units) for k, v in dead.items()}}
    return Shown(joined(said), present(panels), level_table(view, columns), caption)


def own(view: View) -> Shown:
    """A user's diagnosis: every number of the network."""
    names = [column.removeprefix(view.begins) for column in findings.columns(view.one, view.name)]
    panels = [by_level(view, {name: name}, Quantity(name)) for name in names]
    said = [story(view, name, f"{name}:", Quantity("")) for name in names[:3]]
    finding = joined(said) or "It says no number of the network."
    return Shown(finding, present(panels), level_table(view, {name: (name, Quantity(name)) for name in names}))


def story(view: View, column: str, begins: str, quantity: Quantity, ends: str = "") -> str:
    """A headline number where the story is told: "BEGINS 0.1ENDS dense and 0.2 at the dip (level 4) (n = 3)."."""
    at = {role: found for role in findings.told(view.one, view.name) if (found := view.at(column, role)) is not None}
    kept = {role: found for role, found in at.items() if not role.startswith("level ")} or at
    if not kept:
        return ""
    n = sorted({found.n for found in kept.values()})
    count = seeds(n[0]) if len(n) == 1 else f"{seeds(n[0])} to {n[-1]}"
    parts = [
        f"{quantity.brief(found)}{ends if i == 0 else ''} {where(role, found.level)}"
        for i, (role, found) in enumerate(kept.items())
    ]
    return f"{begins} {listed(parts)} ({count})."


def by_level(view: View, names: Mapping[str, str], quantity: Quantity, title: str = "") -> Panel | None:
    """Headline numbers by name as lines against level; None where there are none."""
    traces = [
        view.across.trace(words, view.one, points, i)
        for i, (words, column) in enumerate(names.items())
        if (points := view.points(column))
    ]
    return lines(view, traces, quantity, title)


def by_layer(view: View, column: str, quantity: Quantity, title: str = "by layer") -> Panel | None:
    """A number of every layer as a line against level, of at most eight layers, spread over the depth."""
    points: dict[str, list[At]] = {}
    for at in view.points(column):
        for part, found in findings.by_part(view.one, view.findings, view.name, at.level, column).items():
            points.setdefault(part, []).append(found)
    names = list(points)
    if len(names) > 8:
        names = [names[i] for i in np.linspace(0, len(names) - 1, 8).round().astype(int)]
    traces = [view.across.trace(name, view.one, points[name], i) for i, name in enumerate(names)]
    return lines(view, traces, quantity, f"{title}{f', 8 of {len(points)}' if len(points) > 8 else ''}")


def lines(view: View, traces: Sequence[Trace], quantity: Quantity, title: str) -> Panel | None:
    """Lines against level, where any has a point."""
    drawn = [trace for trace in traces if trace.dots]
    if not drawn:
        return None
    counts = sorted({dot.at.n for trace in drawn for dot in trace.dots})
    n = seeds(counts[0]) if len(counts) == 1 else f"{seeds(counts[0])} to {counts[-1]}"
    names = listed([trace.name for trace in drawn])
    text = f"{quantity.title} against {view.across.name}, {view.one.label}: {names}, {n}."
    return panel(drawn, view.across.x, quantity, description=text, title=title, rising=view.across.rising)


def level_table(view: View, columns: Mapping[str, tuple[str, Quantity]]) -> Table:
    """Headline numbers of every level."""
    by = {words: ({at.level: at for at in view.points(column)}, q) for words, (column, q) in columns.items()}
    levels = {at.level: at.sparsity for found, _ in by.values() for at in found.values()}
    rows = [
        (str(level), sparse(levels[level]), *(q.held(found.get(level)) for found, q in by.values()))
        for level in sorted(levels)
    ]
    return Table("The numbers by level", ("level", "sparsity", *by), rows)


def joined(sentences: Sequence[str]) -> str:
    """Sentences as a text, without those that had nothing to say."""
    return " ".join(filter(None, sentences))


def present(panels: Sequence[Panel | None]) -> list[Panel]:
    """Those that there are."""
    return [each for each in panels if each is not None]


def where(role: str, level: int) -> str:
    if role in ("dense", "last"):
        return "dense" if role == "dense" else f"at the last level ({level})"
    if role.startswith("level "):
        return f"at {role}"
    return f"at the {role} (level {level})" if role in ("dip", "peak") else f"{role} (level {level})"


def _effective(view: View) -> str:
    """Effective beside nominal sparsity at the levels that tell the story."""
    parts = []
    for role, level in findings.told(view.one, view.name).items():
        real, nominal = view.at("effective_sparsity", role), view.at("sparsity", role)
        if real is not None and nominal is not None and nominal.mean > 0:
            also = f"nominal {sparse(nominal.mean)}, {seeds(real.n)}"
            parts.append(f"{sparse(real.mean)} {where(role, level)} ({also})")
    return f"Counting only weights on a path, the sparsity is {listed(parts)}." if parts else ""


def _extreme(view: View, column: str, words: str, quantity: Quantity) -> str:
    """Where the mean over seeds is highest."""
    points = view.points(column)
    if not points:
        return ""
    top = max(points, key=lambda at: at.mean)
    return f"Highest ({words}): {quantity.brief(top)} at level {top.level} ({seeds(top.n)})."


def _falls(view: View, column: str) -> Fact | None:
    """The first level at which each seed's number is below `BEFORE` of its dense one."""
    name = view.begins + column
    if not findings.numeric(view.one.rows, name):
        return None
    (group,) = curve(view.one.rows, name, by=()).groups()
    return threshold(replace(group, train=group.test), BEFORE)


def _level(fact: Fact) -> str:
    within = "" if fact.interval is None else f", 95{THIN}% interval {fact.interval[0]:.1f} to {fact.interval[1]:.1f}"
    return f"{fact.mean:.1f} ({seeds(fact.n)}{within})"


Show = Callable[[View], Shown]
