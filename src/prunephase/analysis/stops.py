"""Stop rules: may the ladder end here, and which level is to be taken? Functions of the rows so far of one seed."""

# L levels so far, from the dense one on.

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prunephase.analysis.phases import THRESHOLD
from prunephase.analysis.severity import PATIENCE

Floats = NDArray[np.float64]

LONG = 8  # levels, in which what is left shrinks sixfold; DSD2's published dip takes 18 to be made good
FROZEN = 0.95  # of the largest entropy so far
WINDOW = 2  # values in the moving average of Label Wave


@dataclass(frozen=True)
class Rows:
    """Levels 0..k of one seed. All [L], NaN where not measured.

    validation: accuracy on held-out examples with labels as noisy as the training's, `examples` of them (None: unknown,
    then it is taken as exact); train: on the labels trained on, of which the share `wrong` is wrong (None: unknown);
    entropy: mean activation entropy, bits; changes: number of training examples whose predicted class is not that of
    the level before, all of them at the dense level; test: for the oracle alone.
    """

    validation: Floats
    train: Floats
    entropy: Floats
    changes: Floats
    test: Floats
    examples: int | None = None
    wrong: float | None = None

    def __len__(self) -> int:
        return len(self.test)

    def until(self, level: int) -> Rows:
        """What was known when `level`, an index, was done."""
        cut = {f.name: getattr(self, f.name)[: level + 1] for f in fields(self) if f.name not in ("examples", "wrong")}
        return Rows(**cut, examples=self.examples, wrong=self.wrong)


@dataclass(frozen=True)
class Decision:
    """stop: whether the ladder may end here; chosen: the level to take if it does, an index."""

    stop: bool
    chosen: int


class Rule(Protocol):
    """A stop rule. needs: the fields of `Rows` that it reads; says: what it does, in one line."""

    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def says(self) -> str: ...
    def __call__(self, rows: Rows) -> Decision: ...


@dataclass(frozen=True)
class Patience:
    """Classic early stopping: ends after `patience` levels in a row without a new best validation accuracy."""

    patience: int = PATIENCE
    needs = ("validation",)

    @property
    def says(self) -> str:
        return f"ends after {self.patience} levels without a new best validation accuracy; takes the best"

    def __call__(self, rows: Rows) -> Decision:
        since = len(rows) - 1 - int(np.argmax(rows.validation))
        return Decision(since >= self.patience, best(rows.validation))


@dataclass(frozen=True)
class EntropyGated:
    """Patience that is armed once entropy and train accuracy say that the critical phase has begun.

    Armed by the first level at which train accuracy is below `train` of the dense level's and the entropy below
    `entropy` of its largest so far. From there on it ends the ladder where the best validation accuracy since then
    lies more than one standard error above the lowest before it (so the descent is over), and `patience` levels in a
    row brought no new best. Takes the best level of all. Never armed, it never ends the ladder.

    DSD2 (Quetu and Tartaglione 2024) names the idea but publishes no thresholds: these are ours; see docs/stops.md.
    """

    train: float = THRESHOLD
    entropy: float = FROZEN
    patience: int = PATIENCE
    needs = ("validation", "train", "entropy")

    @property
    def says(self) -> str:
        return (
            f"armed once train accuracy is below {self.train:g} of the dense level's and entropy below "
            f"{self.entropy:g} of its largest; then ends after a rise and {self.patience} levels without a new best"
        )

    def __call__(self, rows: Rows) -> Decision:
        chosen, since = best(rows.validation), self.armed(rows)
        if since is None:
            return Decision(False, chosen)
        seen = rows.validation[since:]
        top = int(np.argmax(seen))
        risen = seen[top] - seen[: top + 1].min() > standard_error(float(seen[top]), rows.examples)
        return Decision(bool(risen) and len(seen) - 1 - top >= self.patience, chosen)

    def armed(self, rows: Rows) -> int | None:
        """Index of the level that arms the rule, None if none has."""
        forgets = rows.train < self.train * rows.train[0]
        freezes = rows.entropy < self.entropy * np.maximum.accumulate(rows.entropy)
        both = np.flatnonzero(forgets & freezes)
        return int(both[0]) if len(both) else None


@dataclass(frozen=True)
class CleanShare:
    """Ends at the first level whose train accuracy is at most the share of right labels, and takes it.

    A network that fits the right labels and none of the wrong ones has exactly this train accuracy.
    """

    needs = ("train", "wrong")
    says = "ends where train accuracy falls to the share of right labels (noise card); takes that level"

    def __call__(self, rows: Rows) -> Decision:
        assert rows.wrong is not None
        crossed = np.flatnonzero(rows.train <= 1 - rows.wrong)
        return Decision(bool(len(crossed)), int(crossed[0]) if len(crossed) else len(rows) - 1)


@dataclass(frozen=True)
class NoisyValidation:
    """The best noisy validation accuracy (Toner and Storkey 2024, for epochs), sought with a long patience.

    Ends after `patience` levels in a row that are each worse than the best by more than one standard error.
    """

    patience: int = LONG
    needs = ("validation",)

    @property
    def says(self) -> str:
        return (
            f"ends after {self.patience} levels in a row worse than the best validation accuracy by more than one "
            "standard error; takes the best"
        )

    def __call__(self, rows: Rows) -> Decision:
        top = best(rows.validation)
        bar = rows.validation[top] - standard_error(float(rows.validation[top]), rows.examples)
        last = rows.validation[-self.patience :]
        return Decision(len(last) == self.patience and bool((last < bar).all()), top)


@dataclass(frozen=True)
class LabelWave:
    """Ends where the prediction changes on the training set, averaged over `window` levels, rise; takes the one before.

    Yuan, Feng and Liu 2024, who say it of epochs; see docs/stops.md.
    """

    window: int = WINDOW
    needs = ("changes",)

    @property
    def says(self) -> str:
        return (
            f"ends where the number of training examples whose prediction changes, averaged over {self.window} levels, "
            "first rises; takes the level before"
        )

    def __call__(self, rows: Rows) -> Decision:
        at = first_minimum(rows.changes, self.window)
        return Decision(at is not None, len(rows) - 1 if at is None else at)


@dataclass(frozen=True)
class WholeLadder:
    """Never ends the ladder; takes the best validation accuracy: what it loses is lost by choosing, not by stopping."""

    needs = ("validation",)
    says = "trains the whole ladder; takes the best validation accuracy"

    def __call__(self, rows: Rows) -> Decision:
        return Decision(False, best(rows.validation))


@dataclass(frozen=True)
class Oracle:
    """Trains the whole ladder and takes the best *test* accuracy: what others are measured against, never a rule."""

    needs = ("test",)
    says = "trains the whole ladder; takes the best test accuracy: an oracle"

    def __call__(self, rows: Rows) -> Decision:
        return Decision(False, best(rows.test))


ORACLE = "oracle"
RULES: Mapping[str, Rule] = {
    "patience": Patience(),
    "entropy": EntropyGated(),
    "clean-share": CleanShare(),
    "noisy-validation": NoisyValidation(),
    "label-wave": LabelWave(),
    "whole-ladder": WholeLadder(),
    ORACLE: Oracle(),
}
REMEDIES: Mapping[str, str] = {
    "validation": "no validation accuracy at every level; set data.validation",
    "train": "no train accuracy at every level",
    "entropy": "no activation entropy at every level; `prunephase diagnose STUDY --only entropy` adds it",
    "changes": "no count of prediction changes at every level; `prunephase diagnose STUDY --only changes` adds it",
    "wrong": "the share of wrong training labels is unknown or zero",
    "test": "no test accuracy at every level",
}


def patient(rule: Any, patience: int) -> Rule:
    """The same rule with another patience, in levels."""
    return replace(rule, patience=patience)  # type: ignore[no-any-return]


def lacking(rule: Rule, rows: Rows) -> str | None:
    """Why `rule` cannot be asked about these rows, in one line; None where it can."""
    for name in rule.needs:
        held = getattr(rows, name)
        if not held if name == "wrong" else not np.isfinite(held).all():
            return REMEDIES[name]
    return None


def descend(rule: Rule, rows: Rows) -> tuple[int, Decision]:
    """Go down a finished ladder level by level under `rule`: the index of the last level trained, and what it says.

    >>> validation = np.array([0.80, 0.82, 0.81, 0.80, 0.79, 0.90])
    >>> none = np.full(6, np.nan)
    >>> descend(Patience(3), Rows(validation, none, none, none, none))
    (4, Decision(stop=True, chosen=1))
    """
    for level in range(len(rows)):
        said = rule(rows.until(level))
        if said.stop:
            return level, said
    return len(rows) - 1, said


def best(values: Floats) -> int:
    """Index of the highest value, the sparsest of equals.

    >>> best(np.array([0.5, 0.7, 0.7, 0.6]))
    2
    """
    return len(values) - 1 - int(np.argmax(values[::-1]))


def first_minimum(counts: Floats, window: int = WINDOW) -> int | None:
    """Index of the first local minimum of the moving average of the last `window` values; None: it has not risen yet.

    >>> first_minimum(np.array([9.0, 5.0, 3.0, 2.0, 4.0, 6.0]))
    3
    """
    if len(counts) <= window:
        return None
    smooth = np.convolve(counts, np.ones(window), "valid")
    rises = np.flatnonzero(smooth[1:] > smooth[:-1])
    return int(rises[0]) + window - 1 if len(rises) else None


def standard_error(accuracy: float, examples: int | None) -> float:
    """Of an accuracy on so many independent examples; 0 where their number is unknown.

    >>> round(standard_error(0.8, 100), 3)
    0.04
    """
    return 0.0 if examples is None else math.sqrt(max(accuracy * (1 - accuracy), 0.0) / examples)
