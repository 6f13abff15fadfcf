"""Selection: which level to take by held-out labels that are as noisy as the training's, and what to expect of it."""

# S seeds, L levels, K classes.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from prunephase.analysis.curve import split
from prunephase.analysis.facts import Fact, fact
from prunephase.analysis.replay import Cards, Ladder, finished
from prunephase.analysis.stops import REMEDIES, best, standard_error
from prunephase.errors import UserError

Floats = NDArray[np.float64]
Matrix = Sequence[Sequence[float] | None]  # [K, K], row: true class, column: given label
Rule = Literal["best", "one-se"]
RULES: tuple[Rule, ...] = ("best", "one-se")
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """An expected accuracy and its 95 % interval, in [0, 1]; None where the number of examples is unknown.

    It is that of the level that looked best, so it is a little too high: the interval does not allow for the choice.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Choice:
    """A level chosen for one seed. validation: its noisy accuracy; test, regret: on clean labels, known afterwards."""

    seed: int
    trial: str
    level: int
    sparsity: float
    validation: float
    expected: Estimate
    test: float
    regret: float


@dataclass(frozen=True)
class Selection:
    """What one rule takes on one curve.

    level: by the mean validation curve of all seeds; trial, seed: of its networks the one with the best validation
    accuracy (the first of equals); validation: mean over seeds; expected: mean accuracy of such a network, on clean
    labels where `clean`, else on labels as noisy as these; test, regret: of that level over the seeds, regret against
    each seed's own best test accuracy; own: what each seed alone would have taken.
    """

    key: Mapping[str, Any]
    rule: Rule
    clean: bool
    level: int
    sparsity: float
    trial: str
    seed: int
    validation: float
    expected: Estimate
    test: Fact
    regret: Fact
    own: tuple[Choice, ...]
    unfinished: tuple[int, ...]

    @property
    def own_regret(self) -> Fact:
        """Regret where each seed chooses for itself."""
        return fact(np.array([one.regret for one in self.own]), "regret")

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        values["group"] = dict(values.pop("key"))
        for name in ("test", "regret", "own_regret"):
            held = getattr(self, name)
            values[name] = {"mean": held.mean, "interval": list(held.interval) if held.interval else None, "n": held.n}
        return values


def select(
    table: pl.DataFrame,
    rule: Rule = "one-se",
    *,
    cards: Cards | None = None,
    clean: bool = False,
    transitions: Mapping[str, Matrix] | None = None,
) -> list[Selection]:
    """Choose a level of every curve of a level table by its noisy validation accuracies. The test set chooses nothing.

    cards: noise cards by trial digest; clean: correct the accuracies with the training labels' transition matrix: of
    `transitions`, by trial digest, or of the noise card.
    Curves of which no ladder is finished are left out. Raises UserError where a level has no validation accuracy, or
    the noise leaves nothing to correct with.
    """
    cards = cards or {}
    matrices = (
        {trial: card["train"]["transition"] for trial, card in cards.items()} if transitions is None else transitions
    )
    found = []
    for key, rows in split(table):
        ladders, unfinished = finished(rows, cards)
        if ladders:
            found.append(_selected(key, rule, ladders, unfinished, matrices if clean else None))
    return found


def choose(accuracies: Floats, error: float, rule: Rule) -> int:
    """Index of the level to take: the best, or the sparsest within one standard error `error` of it. [L].

    >>> accuracies = np.array([0.60, 0.66, 0.70, 0.69, 0.60])
    >>> choose(accuracies, 0.02, "best"), choose(accuracies, 0.02, "one-se")
    (2, 3)
    """
    top = best(accuracies)
    return top if rule == "best" else int(np.flatnonzero(accuracies >= accuracies[top] - error)[-1])


def corrected(accuracy: ArrayLike, transition: Matrix) -> Floats:
    """Accuracy on true labels from that on noisy ones: (a - stray) / (keep - stray). Not clipped to [0, 1].

    transition: [K, K], row: true class, column: given label, None for a class without examples; keep: mean of its
    diagonal, the chance that a label is right; stray: mean of the rest, (1 - keep) / (K - 1), the chance that a wrong
    prediction agrees with a wrong label. Exact for symmetric noise; docs/stops.md says what else it takes.

    >>> symmetric = [[0.55 if i == j else 0.05 for j in range(10)] for i in range(10)]
    >>> corrected([0.45, 0.05], symmetric).round(3).tolist()
    [0.8, 0.0]

    Raises UserError where labels are no likelier to be right than to be any one wrong class.
    """
    known = [(i, row) for i, row in enumerate(transition) if row is not None]
    keep = float(np.mean([row[i] for i, row in known]))
    stray = (1 - keep) / (len(transition) - 1)
    if keep - stray < 1e-6:
        raise UserError(
            f"the labels are right with chance {keep:.3f} and wrong as each other class with {stray:.3f}: nothing is "
            "left to correct with; select without --clean"
        )
    return (np.asarray(accuracy, dtype=np.float64) - stray) / (keep - stray)


def wilson(accuracy: float, examples: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy on so many independent examples.

    >>> low, high = wilson(0.8, 100)
    >>> f"{low:.3f} {high:.3f}"
    '0.711 0.867'
    """
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    middle = (accuracy + z * z / (2 * examples)) / (1 + z * z / examples)
    half = z / (1 + z * z / examples) * math.sqrt(accuracy * (1 - accuracy) / examples + z * z / (4 * examples**2))
    return middle - half, middle + half


def _selected(
    key: Mapping[str, Any],
    rule: Rule,
    ladders: Sequence[Ladder],
    unfinished: tuple[int, ...],
    known: Mapping[str, Matrix] | None,
) -> Selection:
    for one in ladders:
        if not np.isfinite(one.rows.validation).all():
            raise UserError(f"trial {one.trial}: {REMEDIES['validation']}")
    matrices = [None if known is None else _matrix(known, one) for one in ladders]
    count = min(len(one.rows) for one in ladders)  # the levels that all have
    validation = np.stack([one.rows.validation[:count] for one in ladders])
    mean = validation.mean(axis=0)
    at = choose(mean, _error(validation, ladders[0].rows.examples), rule)
    taken = int(np.argmax(validation[:, at]))
    of_true = [_true(values, matrix) for values, matrix in zip(validation, matrices, strict=True)]
    tests = np.array([one.rows.test[at] for one in ladders])
    bests = np.array([one.rows.test.max() for one in ladders])
    return Selection(
        key=dict(key),
        rule=rule,
        clean=known is not None,
        level=int(ladders[0].levels[at]),
        sparsity=float(ladders[0].sparsity[at]),
        trial=ladders[taken].trial,
        seed=ladders[taken].seed,
        validation=float(mean[at]),
        expected=_expected(np.array([values[at] for values in of_true]), float(mean[at]), ladders[0], matrices[0]),
        test=fact(tests, "test"),
        regret=fact(bests - tests, "regret"),
        own=tuple(_own(one, rule, matrix) for one, matrix in zip(ladders, matrices, strict=True)),
        unfinished=unfinished,
    )


def _error(validation: Floats, examples: int | None) -> float:
    """Standard error of the best mean: over seeds, which share the examples; of the examples with one seed. [S, L]."""
    top = best(validation.mean(axis=0))
    if len(validation) > 1:
        return float(validation[:, top].std(ddof=1)) / math.sqrt(len(validation))
    return standard_error(float(validation[0, top]), examples)


def _own(ladder: Ladder, rule: Rule, matrix: Matrix | None) -> Choice:
    """What one seed alone would take."""
    validation, test = ladder.rows.validation, ladder.rows.test
    at = choose(validation, standard_error(float(validation[best(validation)]), ladder.rows.examples), rule)
    value = float(validation[at])
    return Choice(
        seed=ladder.seed,
        trial=ladder.trial,
        level=int(ladder.levels[at]),
        sparsity=float(ladder.sparsity[at]),
        validation=value,
        expected=_expected(_true(validation[at : at + 1], matrix), value, ladder, matrix),
        test=float(test[at]),
        regret=float(test.max() - test[at]),
    )


def _expected(of_true: Floats, noisy: float, ladder: Ladder, matrix: Matrix | None) -> Estimate:
    """The mean of `of_true` [S] with an interval for the seeds and for the held-out examples, which they share.

    The half widths of both, Student-t over seeds and Wilson at the noisy accuracy, add up as squares do.
    """
    value = float(np.clip(of_true.mean(), 0, 1))
    if ladder.rows.examples is None:
        return Estimate(value, None, None)
    low, high = _true(np.array(wilson(noisy, ladder.rows.examples)), matrix)
    seeds = 0.0
    if len(of_true) > 1:
        t = float(stats.t.ppf((1 + LEVEL) / 2, len(of_true) - 1))
        seeds = t * float(of_true.std(ddof=1)) / math.sqrt(len(of_true))
    middle = float(_true(np.array([noisy]), matrix)[0])
    below, above = (math.hypot(seeds, end - middle) for end in (low, high))
    return Estimate(value, max(0.0, float(of_true.mean()) - below), min(1.0, float(of_true.mean()) + above))


def _true(accuracies: Floats, matrix: Matrix | None) -> Floats:
    return accuracies if matrix is None else corrected(accuracies, matrix)


def _matrix(known: Mapping[str, Matrix], ladder: Ladder) -> Matrix:
    """Transition matrix of the training labels: of the held-out ones it would tell which of them are wrong."""
    if ladder.trial not in known:
        raise UserError(f"trial {ladder.trial}: has no noise card to correct with; select without --clean")
    return known[ladder.trial]
