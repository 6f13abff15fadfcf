"""Auditing labels without training a network: how many are wrong, which class is taken for which, and which examples.

Confident learning (Northcutt et al. 2021), counted by cleanlab, on cross-validated probabilities of scikit-learn's
classifiers; docs/suspects.md says which, and how far off the estimates were where the truth is known.
"""

# N examples, F features, K classes, D draws.

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunephase import streams
from prunephase.errors import UserError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

FOLDS = 5
DRAWS = 200
WEAK = 0.8  # accuracy below which a classifier's mistakes pass for wrong labels


@dataclass(frozen=True)
class Crossed:
    """Probabilities that a classifier gives examples it was not trained on, [N, K]. agreement: with the labels."""

    classifier: str
    chances: Floats
    agreement: float


@dataclass(frozen=True)
class Estimate:
    """What the labels of N examples are held to be.

    rate: share of wrong ones, low, high: its 95 % interval over examples drawn again, which does not cover what the
    classifier gets wrong; transition: [K, K] shares, row: true class, column: given label, None for a class that no
    example is held to be of; agreement: of the classifier with the labels; accuracy: what that makes its accuracy on
    true ones.
    """

    examples: int
    classifier: str
    agreement: float
    accuracy: float
    rate: float
    low: float
    high: float
    transition: tuple[tuple[float, ...] | None, ...]

    @property
    def weak(self) -> bool:
        """Whether the classifier knows the classes too badly for its disagreement to mean that a label is wrong."""
        return self.accuracy < WEAK


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=0.1, max_iter=300)


def _neighbours() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(15)


def _trees() -> Any:
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(300, min_samples_leaf=3, random_state=0)


def _mlp() -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((300, 100), early_stopping=True, random_state=0)


CLASSIFIERS: Mapping[str, Callable[[], Any]] = {
    "logistic": _logistic,
    "neighbours": _neighbours,
    "trees": _trees,
    "mlp": _mlp,
}


def crossed(features: NDArray[np.generic], labels: Labels, classes: Sequence[str]) -> list[Crossed]:
    """Every classifier's out-of-sample probabilities, the one that agrees best with the labels first. [N, F], [N].

    Raises UserError where cleanlab is missing, or a class has fewer than 2 examples.
    """
    library()  # said before the work
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        name = classes[int(counts.argmin())]
        raise UserError(f"class '{name}' has {counts.min()} of the {len(labels):,} labels; expected at least 2 of each")
    folds = StratifiedKFold(min(FOLDS, int(counts.min())), shuffle=True, random_state=0)
    found = []
    for name, make in CLASSIFIERS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a solver stopped at its limit, which is part of the definition
            chances = cross_val_predict(make(), features, labels, cv=folds, method="predict_proba").astype(np.float64)
        found.append(Crossed(name, chances, float((chances.argmax(1) == labels).mean())))
    return sorted(found, key=lambda one: -one.agreement)


def suspicion(labels: Labels, chances: Floats) -> Floats:
    """1 - cleanlab's label quality score (self-confidence, its default): higher is more suspect. [N], [N, K] -> [N]."""
    quality: Floats = library().rank.get_label_quality_scores(labels, chances)
    return 1 - quality


def estimate(labels: Labels, by: Crossed, draws: int = DRAWS) -> Estimate:
    """Noise rate and transition matrix by cleanlab's calibrated confident joint, the rate with a bootstrap interval."""
    joint = _joint(labels, by.chances)
    generator = streams.generator(0, "analysis", "audit")
    rates = []
    for _ in range(draws):
        again = generator.integers(len(labels), size=len(labels))
        rates.append(1 - np.trace(_joint(labels[again], by.chances[again])))
    low, high = np.quantile(rates, [0.025, 0.975])
    rate = 1 - float(np.trace(joint))
    stray = rate / (len(joint) - 1)  # the chance that a wrong answer agrees with a wrong label
    told = 1 - rate - stray  # near 0, right and wrong labels are equally likely to agree, and nothing can be said
    accuracy = (by.agreement - stray) / told if told > 0.05 else 0.0
    return Estimate(
        examples=len(labels),
        classifier=by.classifier,
        agreement=by.agreement,
        accuracy=float(np.clip(accuracy, 0, 1)),
        rate=rate,
        low=float(low),
        high=float(high),
        transition=tuple(tuple((row / row.sum()).tolist()) if row.any() else None for row in joint.T),
    )


def library() -> Any:
    """The library that counts. Raises UserError where it is not installed."""
    try:
        import cleanlab.count
        import cleanlab.rank
    except ImportError:
        raise UserError("cleanlab is not installed; pip install 'prunephase[labels]'") from None
    return cleanlab


def _joint(labels: Labels, chances: Floats) -> Floats:
    """Shares of the examples by given label (row) and true class (column), [K, K], summing to 1."""
    joint: Floats = library().count.estimate_joint(labels, chances)
    return joint
