"""What the diagnoses of single examples show: when they are forgotten, how often, and whose prediction turns."""

# N examples.

from __future__ import annotations

import numpy as np

from prunephase.looks import sparse
from prunephase.reports.diagnosis_charts import Quantity
from prunephase.reports.diagnosis_views import (
    Shown,
    View,
    by_layer,
    by_level,
    joined,
    level_table,
    lines,
    present,
    story,
)
from prunephase.reports.findings import by_part, short
from prunephase.reports.parts import Table
from prunephase.reports.series import At
from prunephase.reports.words import NOTHING, capital, seeds

SHARE = Quantity("share of examples", share=True)


def forgetting(view: View) -> Shown:
    """The share of examples that some level from here on still fits, by subset."""
    dense = int(view.one.group.levels[0])
    columns = ("never_fitted", "fitted_to_the_end", "forgotten")
    never, kept, median = (by_part(view.one, view.findings, view.name, dense, column) for column in columns)
    said, rows = [], []
    for part in never:
        at = median.get(part)
        half = sparse(at.mean) if at else NOTHING
        rows.append((part.replace("_", " "), SHARE.held(never[part]), SHARE.held(kept.get(part)), half))
        if part in ("permuted", "unpermuted"):
            when = f"half are forgotten by {half}" if at else "more than half outlast the ladder"
            last = SHARE.brief(kept[part]) if part in kept else NOTHING
            said.append(f"of the {part} examples {when}, {last} are fitted to the end ({seeds(never[part].n)})")
    points = _outlasting(view, dense)
    traces = [view.across.trace(name, view.one, at, place) for place, (name, at) in enumerate(points.items())]
    panels = present([lines(view, traces, Quantity("share not yet forgotten", share=True), "")])
    head = ("examples", "never fitted", "fitted to the end", "forgotten, median sparsity")
    finding = f"{capital('; '.join(said))}." if said else ""
    caption = "An example counts up to the last level that fits it; the rest are forgotten for good."
    return Shown(finding, panels, Table("When examples are forgotten, by subset", head, rows), caption)


def _outlasting(view: View, dense: int) -> dict[str, list[At]]:
    """Shares of the permuted and of the unpermuted examples that this level or a later one fits."""
    shares: dict[str, list[list[float]]] = {"permuted": [], "unpermuted": []}
    sparsities = [float(sparsity) for sparsity in view.one.group.sparsity]
    for trial in sorted(view.one.rows["trial"].unique()):
        found = view.findings.arrays(trial, dense, view.name)
        bits = view.findings.arrays(trial, dense, "memorisation")
        if "forgotten" not in found or "permuted" not in bits:
            continue
        until = np.asarray(found["forgotten"], dtype=np.float64)
        permuted = np.unpackbits(np.asarray(bits["permuted"], dtype=np.uint8), count=len(until)).astype(bool)
        for name, of in (("permuted", permuted), ("unpermuted", ~permuted)):
            if of.any():
                shares[name].append([float((until[of] > sparsity).mean()) for sparsity in sparsities])
    levels = [int(level) for level in view.one.group.levels]
    return {
        name: [
            short(level, s, [seed[i] for seed in held])
            for i, (level, s) in enumerate(zip(levels, sparsities, strict=True))
        ]
        for name, held in shares.items()
        if held
    }


def changes(view: View) -> Shown:
    """How many examples get another prediction than by the level before."""
    sizes = {"all": "changed"}
    count = Quantity("training examples")
    said = [story(view, "changed", "Training examples whose prediction changes from the level before:", count)]
    panels = [by_level(view, sizes, count), by_layer(view, "share", SHARE, "by subset")]
    columns = {"examples that change": ("changed", count), "share of all": ("share", SHARE)}
    return Shown(joined(said), present(panels), level_table(view, columns), "At the dense level, all.")


def ledger(view: View) -> Shown:
    """How often an example is forgotten again while a level trains."""
    events = Quantity("forgetting events per example")
    said = [story(view, "forgetting_events", "While it trains, an example is forgotten again (times):", events)]
    name = view.begins + "repeated"
    asked = view.one.rows[name].drop_nulls() if name in view.one.rows.columns else ()
    if len(asked):
        said.append(f"The training repeated ended with the very weights of the level in {sum(asked)} of {len(asked)}.")
    panels = [by_layer(view, "forgetting_events", events, "by subset")]
    columns = {"forgetting events": ("forgetting_events", events), "fitted at the end": ("fitted_at_the_end", SHARE)}
    columns |= {"fitted from epoch": ("fitted_from_epoch", Quantity("epoch"))}
    columns |= {"Label Wave would end at epoch": ("label_wave_epoch", Quantity("epoch"))}
    columns |= {"test accuracy there": ("label_wave_test_accuracy", SHARE), "at the end": ("test_accuracy", SHARE)}
    return Shown(joined(said), present(panels), level_table(view, columns), "Means over the examples of a subset.")


def harm(view: View) -> Shown:
    """Whom pruning takes accuracy from: the examples that flip, and each class."""
    share, change = Quantity("share of the test set", share=True), Quantity("change of accuracy", share=True)
    names = {"turn wrong": "lost", "turn right": "won", "get another prediction": "changed"}
    said = [
        story(view, "lost", "Turn wrong, of the test set:", share),
        story(view, "won", "Turn right:", share),
        story(view, "worst_change", "The class that loses most changes by", change),
    ]
    panels = [by_level(view, names, share), by_layer(view, "change", change, "by class")]
    columns = {**{words: (column, share) for words, column in names.items()}, "worst class": ("worst_change", change)}
    caption = "Against the dense network of the same seed: all examples, and the accuracy of classes."
    return Shown(joined(said), present(panels), level_table(view, columns), caption)
