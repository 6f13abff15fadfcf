"""Antidotes: each objective is the published formula, changes training as it says, and is nothing at no strength."""

# N examples, B batch, K classes.

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from prunephase import models, study
from prunephase.antidotes import (
    FAMILY,
    Asked,
    Distilled,
    EarlyLearning,
    GeneralisedCrossEntropy,
    Given,
    Remembered,
    Smoothed,
    SymmetricCrossEntropy,
    Tethered,
    distillation,
    objective,
)
from prunephase.data import Dataset, Split
from prunephase.engine import Batch, Job, Moment, Objective, cross_entropy, team
from prunephase.engine.gpu import team as gpu_team
from prunephase.engine.gpu.capture import uncaptured
from prunephase.engine.native.chain import Chain
from prunephase.engine.plain import Plain
from prunephase.prune import leaked, zero_pruned
from prunephase.sections import ANTIDOTES, Antidote, Model, Recipe
from prunephase.store import Store
from prunephase.trial import Trial

B, K, N, SHAPE = 7, 4, 40, (1, 8, 8)
Floats = NDArray[np.float64]


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Student's and teacher's logits [B, K] in float64, labels [B]."""
    draw = torch.Generator().manual_seed(0)
    logits, taught = (3 * torch.randn(B, K, generator=draw, dtype=torch.float64) for _ in range(2))
    return logits.requires_grad_(), taught, torch.randint(0, K, (B,), generator=draw)


def log_softmax(z: Floats) -> Floats:
    high = z.max(1, keepdims=True)
    return z - high - np.log(np.exp(z - high).sum(1, keepdims=True))


def of_label(values: Floats, labels: Tensor) -> Floats:
    return values[np.arange(len(values)), labels.numpy()]


class Says(nn.Module):
    """A network that says what it was given: inputs are logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def said(goal: Objective, logits: Tensor, labels: Tensor) -> float:
    return float(goal(Batch(Says(), logits, labels, torch.arange(len(labels)))).detach())


@pytest.mark.parametrize(("alpha", "temperature"), [(0.8, 10.0), (0.3, 1.0), (1.0, 4.0), (1.5, 2.0)])
def test_distillation_is_the_published_formula(
    alpha: float, temperature: float, drawn: tuple[Tensor, Tensor, Tensor]
) -> None:
    logits, taught, labels = drawn
    student, teacher = logits.detach().numpy(), taught.numpy()
    hard = -of_label(log_softmax(student), labels).mean()
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    soft = (np.exp(p) * (p - q)).sum() / B
    expected = (1 - alpha) * hard + alpha * temperature**2 * soft
    found = distillation(logits, taught, labels, alpha, temperature)
    assert abs(found.item() - expected) < 1e-12
    assert abs(said(Distilled(Remembered(taught), alpha, temperature), logits, labels) - expected) < 1e-12
    # and its gradient: the T of the softmax cancels one of the two in front
    found.backward()  # type: ignore[no-untyped-call]
    right = np.eye(K)[labels.numpy()]
    by_hand = (1 - alpha) * (np.exp(log_softmax(student)) - right) + alpha * temperature * (np.exp(q) - np.exp(p))
    assert logits.grad is not None
    assert np.abs(logits.grad.numpy() - by_hand / B).max() < 1e-12


def test_robust_losses_are_the_published_formulas(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, _, labels = drawn
    log_p = log_softmax(logits.detach().numpy())
    own = of_label(log_p, labels)
    right = np.eye(K)[labels.numpy()]
    for q in (0.7, 1.0, 0.1):
        assert abs(said(GeneralisedCrossEntropy(q), logits, labels) - ((1 - np.exp(own) ** q) / q).mean()) < 1e-12
    logs = np.where(right == 1, 0.0, -4.0)  # of the label's probabilities, with log 0 = -4
    reverse = -(np.exp(log_p) * logs).sum(1)
    for a, b in ((0.1, 1.0), (6.0, 0.1)):
        assert abs(said(SymmetricCrossEntropy(a, b), logits, labels) - (a * -own + b * reverse).mean()) < 1e-12
    smooth = 0.9 * right + 0.1 / K
    assert abs(said(Smoothed(0.1), logits, labels) + (smooth * log_p).sum(1).mean()) < 1e-12


def test_generalised_cross_entropy_lies_between_cross_entropy_and_mean_absolute_error(
    drawn: tuple[Tensor, Tensor, Tensor],
) -> None:
    logits, _, labels = drawn
    at_zero = said(GeneralisedCrossEntropy(1e-9), logits, labels)
    assert at_zero == pytest.approx(said(cross_entropy, logits, labels), rel=1e-6)
    p = logits.detach().softmax(1).gather(1, labels[:, None])
    assert said(GeneralisedCrossEntropy(1.0), logits, labels) == pytest.approx(float((1 - p).mean()))


def test_early_learning_holds_an_example_to_what_was_said_of_it(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    _, _, labels = drawn
    goal, held = EarlyLearning(N, 3.0, 0.7), np.zeros((N, K))
    index = torch.tensor([5, 0, 9, 9 + B, 2, 33, 1])
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        logits = torch.randn(B, K, generator=draw, dtype=torch.float64).requires_grad_()
        log_p = log_softmax(logits.detach().numpy())
        p, places = np.exp(log_p), index.numpy()
        held[places] = 0.7 * held[places] + 0.3 * p
        agreed = (p * held[places]).sum(1)
        found = goal(Batch(Says(), logits, labels, index))
        assert abs(float(found.detach()) - (-of_label(log_p, labels).mean() + 3 * np.log(1 - agreed).mean())) < 1e-12
        found.backward()  # type: ignore[no-untyped-call]
        slope = p * (held[places] - agreed[:, None])  # of <p, t> by the logits, with t at rest
        by_hand = (p - np.eye(K)[labels.numpy()]) - 3 * slope / (1 - agreed[:, None])
        assert logits.grad is not None
        assert np.abs(logits.grad.numpy() - by_hand / B).max() < 1e-12


def test_an_objective_that_remembers_is_trained_by_the_plain_loop_and_twice_alike() -> None:
    first, again = (job("mlp", lambda _: EarlyLearning(N, 3.0, 0.7)) for _ in range(2))
    for some in (first, again):
        together = team([some])
        assert type(together) is Plain
        list(together.moments())
    assert torch.equal(weights(first), weights(again))


# -- the tether


def batch_of(network: nn.Module) -> Batch:
    draw = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(B, *SHAPE, generator=draw), torch.randint(0, K, (B,), generator=draw)
    return Batch(network, inputs, labels, torch.arange(B))


def gradients(goal: Objective, batch: Batch) -> dict[str, Tensor]:
    batch.network.zero_grad()
    goal(batch).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in batch.network.named_parameters() if p.grad is not None}


def test_the_tether_pulls_every_trained_parameter_back_to_where_it_began() -> None:
    network = models.build(Model(name="small-cnn"), SHAPE, K, 0)
    first = next(network.parameters()).requires_grad_(False)
    tethered = Tethered.to(network, 0.5)
    begun = {name: p.detach().clone() for name, p in network.named_parameters()}
    batch = batch_of(network)
    free = gradients(cross_entropy, batch)
    for name, gradient in gradients(tethered, batch).items():
        assert torch.equal(gradient, free[name])  # at the start it pulls at nothing
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    free, held = gradients(cross_entropy, batch), gradients(tethered, batch)
    assert first.grad is None
    for name, gradient in held.items():
        pull = gradient - free[name]
        expected = 0.5 * (network.get_parameter(name) - begun[name]).detach()
        assert expected.abs().max() > 0.01
        assert torch.allclose(pull, expected, atol=1e-6), name
    with torch.no_grad():
        apart = sum(float((network.get_parameter(n) - begun[n]).square().sum()) for n in held)
        assert float(tethered(batch) - cross_entropy(batch)) == pytest.approx(0.25 * apart, rel=1e-4)


def test_a_strong_tether_keeps_a_network_near_its_start() -> None:
    def moved(strength: float) -> float:
        some = job("mlp", lambda network: Tethered.to(network, strength))
        begun = copy.deepcopy(some.network)
        list(Plain(some).moments())
        pairs = zip(some.network.parameters(), begun.parameters(), strict=True)
        return float(torch.stack([(a - b).square().sum() for a, b in pairs]).sum().detach()) ** 0.5

    assert moved(5.0) < 0.5 * moved(0.0)


# -- in the engine


def split(count: int, seed: int) -> Split:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (count,), generator=draw)
    inputs = torch.randn(count, *SHAPE, generator=draw)
    return Split(inputs, labels, labels, torch.zeros(count, dtype=torch.bool), torch.arange(count))


def job(kind: str, make: Callable[[nn.Module], Objective], seed: int = 0, **recipe: Any) -> Job:
    kwargs = {"widths": [17]} if kind == "mlp" else {}
    network = models.build(Model(name=kind, kwargs=kwargs), SHAPE, K, seed)
    draw = torch.Generator().manual_seed(seed)
    shapes = {name: p.shape for name, p in network.named_parameters() if p.ndim > 1}
    masks = {name: torch.rand(shape, generator=draw) < 0.4 for name, shape in shapes.items()}
    zero_pruned(network, masks)
    data = Dataset(split(N, 0), split(8, 1), split(9, 2), ("a", "b", "c", "d"), "")
    fields = Recipe(**{"epochs": 2, "batch_size": 16, **recipe})
    return Job(network, data, fields, seed=seed, level=1, masks=masks, objective=make(network))


def teacher() -> nn.Module:
    return models.build(Model(name="small-cnn"), SHAPE, K, 9).eval().requires_grad_(False)


MAKERS: dict[str, Callable[[nn.Module], Objective]] = {
    "remembered": lambda _: Distilled(Remembered(torch.linspace(-2, 2, N * K).sin().view(N, K)), 0.8, 4.0),
    "asked": lambda _: Distilled(Asked(teacher()), 0.8, 4.0),
    "tether": lambda network: Tethered.to(network, 0.1),
    "smoothed": lambda _: Smoothed(0.1),
    "gce": lambda _: GeneralisedCrossEntropy(0.7),
    "sce": lambda _: SymmetricCrossEntropy(0.1, 1.0),
}


def weights(some: Job) -> Tensor:
    return torch.cat([p.detach().flatten() for p in some.network.parameters()])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", ["mlp", "small-cnn"])
def test_every_way_trains_for_the_antidote_and_not_for_cross_entropy(name: str, kind: str) -> None:
    plain, oracle, own = job(kind, lambda _: cross_entropy), job(kind, MAKERS[name]), job(kind, MAKERS[name])
    native = kind == "mlp" and name != "asked"  # a teacher that is asked is a network of its own
    assert Chain.fits(own) == native
    together = Chain(own) if native else team([own])
    assert "dead channels" not in together.strategy
    moments = [m.running_loss for (m,) in together.moments() if isinstance(m, Moment)]
    expected = [m.running_loss for (m,) in Plain(oracle).moments() if isinstance(m, Moment)]
    list(Plain(plain).moments())
    assert leaked(own.network, own.masks) == 0
    assert moments == pytest.approx(expected, rel=1e-5)
    assert (weights(own) - weights(oracle)).norm() < 1e-4 * weights(oracle).norm()
    assert (weights(own) - weights(plain)).norm() > 1e-3 * weights(plain).norm()  # and it does change what is learnt


@pytest.mark.parametrize("name", MAKERS)
def test_networks_trained_side_by_side_give_what_each_gives_alone(name: str) -> None:
    ours, theirs = ([job("mlp", MAKERS[name], seed) for seed in range(2)] for _ in range(2))
    together = gpu_team(ours, uncaptured)
    # Equal objectives are one batched call; those with a teacher or a start of their own are not.
    assert together.strategy == ("streams x2" if name in ("remembered", "asked", "tether") else "stacked x2")
    list(together.moments())
    for mine, other in zip(ours, theirs, strict=True):
        list(Plain(other).moments())
        for a, b in zip(mine.network.parameters(), other.network.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_bfloat16_networks_take_every_antidote(name: str) -> None:
    some = job("small-cnn", MAKERS[name], precision="bfloat16")
    for (moment,) in Plain(some).moments():
        assert getattr(moment, "running_loss", None) is not None
    assert all(torch.isfinite(p).all() for p in some.network.parameters())


def test_a_teacher_that_is_asked_keeps_every_byte_and_the_student_gets_its_gradient() -> None:
    mentor = teacher()
    before = copy.deepcopy(mentor.state_dict())
    some = job("small-cnn", lambda _: Distilled(Asked(mentor), 1.0, 2.0))
    list(Plain(some).moments())
    for name, value in mentor.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in mentor.parameters())


def test_objectives_hold_no_state_of_their_own() -> None:
    for make in MAKERS.values():
        network = models.build(Model(name="small-cnn"), SHAPE, K, 0)
        goal = make(network)
        first = goal(batch_of(network))
        goal(replace(batch_of(network), index=torch.zeros(B).long()))
        second = goal(batch_of(network))
        assert torch.equal(first, second)


# -- in a trial


def test_the_family_is_that_of_the_study_file() -> None:
    assert FAMILY.keys() == ANTIDOTES.keys()


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "none"},
        {"kind": "distill", "alpha": 0.0},
        {"kind": "tether", "strength": 0.0},
        {"kind": "label-smoothing", "strength": 0.0},
        {"kind": "sce", "alpha": 1.0, "beta": 0.0},
    ],
)
def test_an_antidote_of_no_strength_is_plain_training_itself(fields: dict[str, Any]) -> None:
    given = Given(Antidote.model_validate(fields), nn.Linear(2, 2), 1)
    assert objective(given) is cross_entropy


def test_what_is_left_out_means_the_same_as_its_default() -> None:
    for kind, fields in ANTIDOTES.items():
        short = Trial.model_validate({"antidote": {"kind": kind}})
        full = Trial.model_validate({"antidote": {"kind": kind, **fields}})
        assert short == full
        assert short.digest() == full.digest()
        assert Trial.model_validate(short.model_dump(mode="json")) == short
    assert len({Trial.model_validate({"antidote": {"kind": k}}).digest() for k in ANTIDOTES}) == len(ANTIDOTES)
    assert "antidote" in Trial().canonical()
    assert Trial().canonical()["antidote"] == {"kind": "none"}  # as it was before there were any


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "gce", "alpha": 0.0}, "alpha belongs to kind = 'distill' or 'sce', not 'gce'"),
        ({"kind": "none", "strength": 1.0}, "strength belongs to"),
        ({"kind": "none", "teacher_force": True}, "teacher_force belongs to"),
        ({"kind": "tether", "teacher": "dense"}, "teacher belongs to"),
        ({"kind": "label-smoothing", "strength": 1.0}, "share below 1"),
        ({"kind": "distill", "temperature": 0.0}, "greater than 0"),
        ({"kind": "distill", "alpha": -0.1}, "greater than or equal to 0"),
        ({"kind": "distill", "teacher": "best"}, "DIGEST:LEVEL"),
        ({"kind": "distill", "teacher": "0123456789abcdef:2", "teacher_model": {"name": "mlp"}}, "leave it out"),
    ],
)
def test_a_field_of_another_antidote_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Antidote.model_validate(fields)


def test_grids_over_antidotes_and_their_strengths_are_written_in_a_study_file(
    study_file: Callable[..., Path], tiny: dict[str, Any]
) -> None:
    kinds = [{"kind": "none"}, {"kind": "distill", "alpha": 1.5}, {"kind": "gce", "q": 0.5}]
    found = study.load(study_file({**tiny, "grid": {"antidote": kinds}}))
    assert [t.antidote.kind for t in found.trials] == ["none", "distill", "gce"]
    axes = {"antidote.alpha": [0.5, 0.8], "antidote.temperature": [1.0, 10.0]}
    found = study.load(study_file({**tiny, "antidote": {"kind": "distill", "teacher": "dense"}, "grid": axes}))
    assert len(found.trials) == 4
    assert study.load(study_file(tiny), ["antidote.kind=gce", "antidote.q=0.5"]).trials[0].antidote.q == 0.5
    for name in Antidote.model_fields:
        assert f"\n{name} " in study.schema()


def columns(store: Path, trial: Trial) -> list[Any]:
    records = Store(store).levels(trial)
    return [[r.body["epochs"], {k: v for k, v in r.body["blobs"].items() if k != "labels"}] for r in records]


def test_alpha_zero_is_bit_equal_to_plain_training(
    tiny: dict[str, Any], tmp_path: Path, train: Callable[..., Any]
) -> None:
    weak = [{"kind": "distill", "alpha": 0.0, "teacher": "dense"}, {"kind": "tether", "strength": 0.0}]
    fields = {**tiny, "grid": {"antidote": [{"kind": "none"}, *weak]}}
    assert train(fields, tmp_path).code == 0
    plain, *others = study.parse(fields).trials
    for other in others:
        assert columns(tmp_path, other) == columns(tmp_path, plain)


@pytest.mark.parametrize("kind", [k for k in ANTIDOTES if k not in ("none", "distill")])
def test_an_antidote_goes_down_the_whole_ladder_and_says_so(
    kind: str, tiny: dict[str, Any], tmp_path: Path, train: Callable[..., Any]
) -> None:
    fields = {**tiny, "antidote": {"kind": kind}}
    assert train(fields, tmp_path).code == 0
    (trial,) = study.parse(fields).trials
    records = Store(tmp_path).levels(trial)
    assert len(records) == tiny["pruning"]["levels"] + 1
    goal = type(objective(Given(trial.antidote, nn.Linear(2, 2), 1))).__name__
    assert all(r.body["numerics"]["strategy"].endswith(f", objective {goal}") for r in records)
    assert "teacher" not in records[0].body
