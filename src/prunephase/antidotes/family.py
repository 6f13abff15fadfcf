"""Which antidotes there are, and how each is made for one level."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor, nn

from prunephase.antidotes.distill import Distilled, Teacher
from prunephase.antidotes.elr import EarlyLearning
from prunephase.antidotes.losses import GeneralisedCrossEntropy, Smoothed, SymmetricCrossEntropy
from prunephase.antidotes.tether import Tethered
from prunephase.engine import Batch, Objective, cross_entropy
from prunephase.errors import UserError
from prunephase.plugins import is_reference, resolve
from prunephase.sections import Antidote


@dataclass(frozen=True)
class Given:
    """What an antidote is made from: its fields, the network as the level begins, and the teacher, if there is one.

    count: how many training examples there are.
    """

    spec: Antidote
    network: nn.Module
    count: int
    teacher: Teacher | None = None


def objective(given: Given, plugins: Collection[str] = ()) -> Objective:
    """What a level is trained for; `engine.cross_entropy` itself where the antidote has no strength.

    Raises UserError where it is somebody's code that may not or cannot be imported.
    """
    kind = given.spec.kind
    make = resolve(kind, plugins, "antidote.kind") if is_reference(kind) else FAMILY[kind]
    return make(given)


def check(given: Given, plugins: Collection[str], batch: Batch) -> None:
    """Raise UserError where an antidote of the user's own gives no objective, or that no loss of `batch`."""
    say = f"antidote.kind = '{given.spec.kind}'"
    try:
        found = objective(given, plugins)
        loss = found(batch)
    except UserError:
        raise
    except Exception as problem:  # the user's code
        text = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise UserError(f"{say}: fails on a batch of {len(batch.labels)} examples: {text}") from None
    if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
        came = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"{say}: gives {came}, expected a loss: one number that the network's weights decide")


def _distill(given: Given) -> Objective:
    spec = given.spec
    if not spec.alpha:
        return cross_entropy
    assert given.teacher is not None
    assert spec.temperature is not None
    return Distilled(given.teacher, spec.alpha, spec.temperature)


def _tether(given: Given) -> Objective:
    return Tethered.to(given.network, given.spec.strength) if given.spec.strength else cross_entropy


def _label_smoothing(given: Given) -> Objective:
    return Smoothed(given.spec.strength) if given.spec.strength else cross_entropy


def _gce(given: Given) -> Objective:
    assert given.spec.q is not None
    return GeneralisedCrossEntropy(given.spec.q)


def _sce(given: Given) -> Objective:
    alpha, beta = given.spec.alpha, given.spec.beta
    assert alpha is not None
    assert beta is not None
    return cross_entropy if (alpha, beta) == (1, 0) else SymmetricCrossEntropy(alpha, beta)


def _elr(given: Given) -> Objective:
    spec = given.spec
    assert spec.beta is not None
    return EarlyLearning(given.count, spec.strength, spec.beta) if spec.strength else cross_entropy


FAMILY: dict[str, Callable[[Given], Objective]] = {
    "none": lambda _given: cross_entropy,
    "distill": _distill,
    "tether": _tether,
    "label-smoothing": _label_smoothing,
    "gce": _gce,
    "sce": _sce,
    "elr": _elr,
}
