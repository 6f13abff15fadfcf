"""What the diagnoses of a few levels show: curves along weights, paths and epochs, one line or panel for each level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunephase.reports import findings
from prunephase.reports.diagnosis_charts import Dot, Quantity, Trace, along, panel, plain
from prunephase.reports.diagnosis_views import (
    ACCURACY,
    SUBSETS,
    Shown,
    View,
    by_level,
    joined,
    level_table,
    present,
    story,
    where,
)
from prunephase.reports.findings import by_part, short, told
from prunephase.reports.parts import Table
from prunephase.reports.words import capital, listed, percent, seeds

LOSS = Quantity("training loss, nats")
FEWEST = 10  # examples of a bin of confidence, over the seeds
SLICES = {
    "sparse subspace": "around the sparse network, among its living weights",
    "sparse ambient": "around the sparse network, among all weights",
    "redense ambient": "around the re-dense network",
}


def calibration(view: View) -> Shown:
    """Three scores against level, and reliability diagrams."""
    scores = {
        "ECE": ("ece", Quantity("expected calibration error")),
        "NLL": ("nll", Quantity("negative log-likelihood, nats")),
        "Brier": ("brier", Quantity("Brier score")),
    }
    panels = [by_level(view, {words: column}, quantity) for words, (column, quantity) in scores.items()]
    traces = []
    for place, (role, level) in enumerate(told(view.one, view.name).items()):
        examples, right, sure = (
            by_part(view.one, view.findings, view.name, level, column, kind="bin")
            for column in ("examples", "accuracy", "confidence")
        )
        bins = sorted(sure, key=lambda part: sure[part].mean)
        dots = [
            Dot(sure[b].mean, right[b], f"confidence {percent(sure[b].mean)}")
            for b in bins
            if examples[b].mean * examples[b].n >= FEWEST
        ]
        traces.append(Trace(named(role, level), dots, place))
    text = f"Accuracy against confidence on the test set, {view.one.label}: {_names(traces)}."
    drawn = [trace for trace in traces if trace.dots]
    if drawn:
        panels.append(
            panel(drawn, along("mean confidence of a bin", tick=".0%"), ACCURACY, description=text, diagonal=True)
        )
    said = story(view, "ece", "The expected calibration error is", scores["ECE"][1])
    apart = story(view, "overconfidence", "Confidence less accuracy is", Quantity("", share=True))
    caption = f"Scores on the test set; accuracy against confidence by bin (bins with {FEWEST} examples or more)."
    return Shown(joined([said, apart]), present(panels), level_table(view, scores), caption)


def histograms(view: View) -> Shown:
    """Shares of surviving weights by size at some levels."""
    traces, rows = [], []
    size = Quantity("share of surviving weights in a bin", share=True)
    for place, (role, level) in enumerate(told(view.one, view.name, most=5).items()):
        found = [view.findings.arrays(trial, level, view.name) for trial in sorted(view.one.rows["trial"].unique())]
        counts = [each["network"].astype(np.float64) for each in found if "network" in each and each["network"].sum()]
        if not counts:
            continue
        edges = np.asarray(next(each["edges"] for each in found if "edges" in each), dtype=np.float64)
        shares = np.stack([count / count.sum() for count in counts])
        held = np.flatnonzero(shares.mean(0) > 1e-3)  # the tails would make the middle a needle
        middle = (edges[:-1] + edges[1:]) / 2
        sparsity = float(view.one.group.sparsity[list(view.one.group.levels).index(level)])
        dots = [
            Dot(
                float(middle[i]),
                short(level, sparsity, shares[:, i].tolist()),
                f"{middle[i]:.2f} sd of the initial weights",
            )
            for i in range(held[0], held[-1] + 1)
            if np.isfinite(middle[i])
        ]
        traces.append(Trace(named(role, level), dots, place))
        step = max(1, len(dots) // 12)
        rows += [(named(role, level), f"{dot.x:.2f}", size.held(dot.at)) for dot in dots[::step]]
    x = along("weight, in standard deviations of its layer's initial weights")
    text = f"Histogram of the surviving weights, {view.one.label}: {_names(traces)}."
    panels = [panel(traces, x, size, description=text, pointed=False)] if traces else []
    mean = Quantity("|w|, mean over surviving weights")
    panels = [*panels, *present([by_level(view, {"mean size": "mean_abs", "standard deviation": "sd"}, mean)])]
    finding = story(view, "mean_abs", "The mean size of a surviving weight is", mean)
    table = Table("The histograms, some bins", ("level", "weight", size.title), rows)
    return Shown(finding, panels, table, "Bins hold a quarter of a standard deviation; those below 0.1 % are left out.")


def sharpness(view: View) -> Shown:
    """Top eigenvalue and trace of the Hessian."""
    top, trace = Quantity("top eigenvalue"), Quantity("trace")
    said = [story(view, "top_eigenvalue", "The top eigenvalue is", top), story(view, "trace", "The trace is", trace)]
    name = view.begins + "converged"
    asked = view.one.rows[name].drop_nulls() if name in view.one.rows.columns else ()
    if len(asked):
        said.append(f"Lanczos converged in {sum(asked)} of {len(asked)} networks.")
    columns = {"top eigenvalue": ("top_eigenvalue", top), "residual": ("residual", Quantity(""))}
    columns |= {"trace": ("trace", trace), "its standard error": ("trace_error", Quantity(""))}
    columns |= {"products": ("products", Quantity(""))}
    panels = [by_level(view, {"top eigenvalue": "top_eigenvalue"}, top), by_level(view, {"trace": "trace"}, trace)]
    return Shown(
        joined(said),
        present(panels),
        level_table(view, columns),
        "The Hessian at single levels; bars are 95 % intervals over seeds.",
    )


def landscape(view: View) -> Shown:
    """Loss along a line, one panel for each slice, one line for each level."""
    panels, rows = [], []
    for kind, words in SLICES.items():
        traces = []
        for place, (role, level) in enumerate(told(view.one, view.name).items()):
            at, x = (by_part(view.one, view.findings, view.name, level, column) for column in ("train_loss", "x"))
            parts = [part for part in at if part.startswith(f"{kind} ")]
            dots = [Dot(x[part].mean, at[part], f"x = {plain(x[part].mean)}") for part in parts]
            if dots:
                traces.append(Trace(named(role, level), dots, place))
                rows += [
                    (kind, named(role, level), plain(d.x), LOSS.held(d.at)) for d in dots[:: max(1, len(dots) // 10)]
                ]
        if traces:
            text = f"Training loss along a random direction {words}, {view.one.label}: {_names(traces)}."
            panels.append(panel(traces, along("x"), LOSS, description=text, title=words, pointed=False))
    curved = Quantity("curvature at the minimum")
    said = [
        story(view, f"{kind.replace(' ', '_')}_curvature", f"{capital(words)} the curvature is", curved)
        for kind, words in SLICES.items()
    ]
    table = Table("Loss along the line, some points", ("slice", "level", "x", LOSS.title), rows)
    return Shown(joined(said), panels, table, "The same direction at every level of a seed.")


def redense(view: View) -> Shown:
    """Accuracy by subset after each epoch, one panel for each level."""
    panels, rows, said = [], [], []
    names = {"train": "train_accuracy", **SUBSETS}
    for role, level in told(view.one, view.name).items():
        traces = []
        epoch = by_part(view.one, view.findings, view.name, level, "epoch")
        for place, (words, column) in enumerate(names.items()):
            at = by_part(view.one, view.findings, view.name, level, column)
            dots = [Dot(epoch[part].mean, at[part], part) for part in at if part in epoch]
            if dots:
                traces.append(Trace(words, dots, place))
                rows += [(named(role, level), words, plain(d.x), ACCURACY.held(d.at)) for d in _few(dots)]
        if traces:
            text = f"Accuracy by epoch of re-dense training, {view.one.label}, {named(role, level)}: {_names(traces)}."
            x = along("epoch of re-dense training")
            panels.append(
                panel(traces, x, ACCURACY, description=text, title=named(role, level), pointed=False, domain=(0.0, 1.0))
            )
            ends = {trace.name: trace.dots for trace in traces}
            parts = [
                f"{words} {ACCURACY.brief(ends[words][0].at)} to {ACCURACY.brief(ends[words][-1].at)}"
                for words in ("train", "permuted", "test")
                if words in ends
            ]
            if role != "dense":
                said.append(f"{where(role, level)} {listed(parts)} ({seeds(traces[0].dots[0].at.n)})")
    table = Table("Accuracy by epoch, some epochs", ("level", "examples", "epoch", "accuracy"), rows)
    finding = f"Accuracy from the sparse network to the last epoch of re-dense training: {'; '.join(said)}."
    return Shown(finding, panels, table, "The pruned weights are back and train; the band is the 95 % interval.")


def interpolation(view: View) -> Shown:
    """Train and test loss along the line, one panel for each level."""
    panels, rows, said = [], [], []
    quantity = Quantity("loss, nats")
    for role, level in told(view.one, view.name).items():
        traces = []
        alpha = by_part(view.one, view.findings, view.name, level, "alpha")
        for place, words in enumerate(("train", "test")):
            at = by_part(view.one, view.findings, view.name, level, f"{words}_loss")
            dots = [Dot(alpha[part].mean, at[part], part) for part in at]
            if dots:
                traces.append(Trace(words, dots, place))
                rows += [(named(role, level), words, plain(d.x), quantity.held(d.at)) for d in _few(dots)]
        if traces:
            text = f"Loss from sparse to re-dense, {view.one.label}, {named(role, level)}: {_names(traces)}."
            x = along("from sparse (0) to re-dense (1)")
            panels.append(panel(traces, x, quantity, description=text, title=named(role, level), pointed=False))
        name = view.begins + "monotone"
        flags = [f for at, f in view.one.rows.select("level", name).iter_rows() if at == level and f is not None]
        hills = {words: findings.at(view.one, view.begins + words, level) for words in ("rise", "barrier")}
        if flags:
            high = "".join(f", {words} {quantity.brief(at)}" for words, at in hills.items() if at is not None)
            said.append(f"in {sum(flags)} of {len(flags)} seeds {where(role, level)}{high}")
    table = Table("Loss along the line, some points", ("level", "split", "a", quantity.title), rows)
    finding = f"The training loss goes down from sparse to re-dense without a rise {'; '.join(said)}." if said else ""
    caption = "Rise: above the lowest loss before; barrier: above the straight line between the ends; both in nats."
    return Shown(finding, panels, table, caption)


def named(role: str, level: int) -> str:
    return role if role.startswith("level ") else f"{role} (level {level})"


def _names(traces: Sequence[Trace]) -> str:
    counts = sorted({dot.at.n for trace in traces for dot in trace.dots}) or [0]
    n = seeds(counts[0]) if len(counts) == 1 else f"{seeds(counts[0])} to {counts[-1]}"
    return f"{listed([trace.name for trace in traces])}, {n}"


def _few(dots: Sequence[Dot], most: int = 8) -> list[Dot]:
    """Some of many, with both ends."""
    return [dots[i] for i in sorted({*range(0, len(dots), max(1, len(dots) // most)), len(dots) - 1})]
