"""The section of turns: which signal of the network turns where test accuracy does, at the dip or at the peak."""

from __future__ import annotations

from collections.abc import Sequence

from prunephase.analysis.facts import Fact
from prunephase.analysis.relations import FEWEST_LEVELS, NEAR, Relation, relations
from prunephase.diagnoses import DIAGNOSES
from prunephase.reports.diagnosis_charts import plain
from prunephase.reports.findings import Findings, columns, numeric, prefix_of
from prunephase.reports.multiples import MANY
from prunephase.reports.parts import Section, Table
from prunephase.reports.series import Series, first_of, head_of, prefix
from prunephase.reports.words import NOTHING, capital, listed, seeds

# Signals of every study, and of each diagnosis those that its definition is about; the others stand in a second table.
TRAINING = (
    *("train_accuracy", "permuted_accuracy", "unpermuted_accuracy", "restored_accuracy", "validation_accuracy"),
    *("train_loss", "test_loss", "best_epoch"),
)
TOLD = {
    "memorisation": ("right_labels_loss", "wrong_labels_loss", "wrong_labels_loss_share"),
    "forgetting": ("forgotten",),
    "changes": ("changed",),
    "ledger": ("forgetting_events",),
    "distance": ("total", "surviving", "pruned"),
    "entropy": ("mean", "weighted"),
    "calibration": ("ece", "nll", "brier", "overconfidence"),
    "harm": ("lost", "won", "changed", "worst_change"),
    "structure": ("effective_sparsity", "dead"),
    "histograms": ("mean_abs", "sd"),
    "sharpness": ("top_eigenvalue", "trace"),
    "landscape": ("sparse_subspace_curvature", "redense_ambient_curvature"),
    "redense": ("permuted_accuracy_gain", "test_accuracy_gain"),
    "interpolation": ("barrier", "rise"),
}
VERDICTS = {
    "dip": "at the dip",
    "peak": "at the peak",
    "both": "at both",
    "neither": "elsewhere",
    "underpowered": "underpowered",
    "mixed": "in some seeds only",
}


def turns(found: Sequence[Series], findings: Findings) -> Section:
    """Where the signals of every curve turn, with intervals, offsets from dip and peak, and correlation."""
    said, first, rest = [], [], []
    for one in found:
        told, others = signals(one, findings)
        made = sorted(relations(one.rows, [*told, *others]), key=lambda r: list(VERDICTS).index(r.near))
        first += [(*first_of(one, found), *_cells(r)) for r in made if r.signal in told]
        rest += [(*first_of(one, found), *_cells(r)) for r in made if r.signal in others]
        said.append(f"{prefix(one, found)}{_sentence(one, [r for r in made if r.signal in told], told)}")
    head = (
        *(*head_of(found), "signal", "turn", "turns", "n", "at level"),
        *("levels after the dip", "levels after the peak", "correlation"),
    )
    tables = []
    if first:
        tables.append(Table("Signals that turn between the ends of the ladder", head, first, folded=len(found) > MANY))
    if rest:
        tables.append(Table("Every other number of the diagnoses that turns", head, rest))
    notes = [
        f"A signal turns at the dip (or the peak) where the 95 % interval of its level lies within {NEAR:g} levels; "
        "dip and peak are those of the mean test accuracy, and their own uncertainty is not in these intervals. The "
        "correlation with test accuracy is Spearman's, over the levels from the interpolation threshold on, seed by "
        "seed.",
        "Many signals are looked at, and some turn near a dip or a peak by chance: that one turns there is no proof "
        "that it is the reason.",
    ]
    if len(said) > MANY:
        said = [f"{len(first)} turns of signals in {len(found)} curves; each stands in the table."]
    return Section("turns", "What turns where", capital(" ".join(said)), notes=notes if first else (), tables=tables)


def signals(one: Series, findings: Findings) -> tuple[list[str], list[str]]:
    """The columns that are asked where they turn: those that are told, and the others; each course once."""
    told = [name for name in TRAINING if numeric(one.rows, name)]
    others: list[str] = []
    for name in findings.names:
        for column in columns(one, name):
            wanted = name not in DIAGNOSES or column.removeprefix(prefix_of(name)) in TOLD.get(name, ())
            (told if wanted else others).append(column)
    courses: dict[str, str] = {}
    for column in [*told, *others]:
        courses.setdefault(str([plain(v, 4) if v is not None else None for v in one.rows[column].to_list()]), column)
    once = set(courses.values()) - {"test_accuracy"}
    return [c for c in dict.fromkeys(told) if c in once], [c for c in dict.fromkeys(others) if c in once]


def _sentence(one: Series, made: Sequence[Relation], told: Sequence[str]) -> str:
    dip, peak = one.phases.dip, one.phases.peak
    if dip is None or peak is None:
        return f"the curve has no dip, so nothing can turn there ({seeds(one.phases.n)})."
    parts = []
    for name, point in (("dip", dip), ("peak", peak)):
        within = f", 95 % interval {point.levels[0]} to {point.levels[1]}" if point.levels else ""
        at = [f"{_words(r.signal)} ({r.turn}, level {r.level.mean:.1f})" for r in made if r.near in (name, "both")]
        parts.append(f"at the {name} (level {point.level}{within}) turn {listed(at) if at else 'none of the signals'}")
    text = f"{'; '.join(parts)} ({seeds(one.phases.n)})."
    flat = [name for name in told if name not in {r.signal for r in made}]
    few = [name for name in flat if one.rows.drop_nulls(name)["level"].n_unique() < FEWEST_LEVELS]
    if still := [_words(name) for name in flat if name not in few]:
        text += f" Without a turn between the ends: {listed(still)}."
    if few:
        names = listed([_words(name) for name in few])
        text += f" Known at fewer than {FEWEST_LEVELS} levels (--levels all would tell): {names}."
    if one.phases.verdict != "present":
        text += f" Dip and peak are candidates: the verdict is “{one.phases.verdict}”."
    return text


def _cells(one: Relation) -> tuple[str, ...]:
    return (
        _words(one.signal),
        one.turn,
        VERDICTS[one.near],
        str(one.level.n) if one.level.n == one.seeds else f"{one.level.n} of {one.seeds}",
        _fact(one.level, ".1f"),
        f"{one.from_dip.mean:+.1f}",
        f"{one.from_peak.mean:+.1f}",
        _fact(one.correlation, "+.2f", bound=1.0) if one.correlation.n else NOTHING,
    )


def _fact(held: Fact, form: str, bound: float | None = None) -> str:
    if held.interval is None:
        return f"{held.mean:{form}}"
    low, high = held.interval
    if bound is not None:
        low, high = max(low, -bound), min(high, bound)
    return f"{held.mean:{form}} ({low:{form}} to {high:{form}})"


def _words(column: str) -> str:
    return column.removeprefix("memorisation_").replace("_", " ")
