"""Measuring: loss and accuracy of every split and subset, recounted by hand; and nothing is changed by it."""

# N examples, K classes.

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunephase import models
from prunephase.data import Dataset, Split
from prunephase.measure import METRICS, evaluate
from prunephase.sections import Model

K = 5


def split(count: int, noisy: bool, seed: int, permuted: float = 0.4) -> Split:
    draw = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, K, (count,), generator=draw)
    chosen = torch.rand(count, generator=draw) < (permuted if noisy else 0.0)
    drawn = torch.randint(0, K, (count,), generator=draw)  # may hit the true class
    inputs = torch.randn(count, 6, generator=draw)
    return Split(inputs, torch.where(chosen, drawn, truth), truth, chosen, torch.arange(count))


def dataset(count: int = 2_345, validation: bool = True) -> Dataset:
    held = split(321, True, 2) if validation else None
    return Dataset(split(count, True, 1), held, split(1_017, False, 3), tuple("abcde"), "")


def network() -> nn.Module:
    return models.build(Model(name="mlp", kwargs={"widths": [8]}), (6,), K, 0)


def logits(net: nn.Module, of: Split) -> np.ndarray:
    """[N, K], in one piece and by numpy alone."""
    x = of.inputs.numpy().astype(np.float64)
    w = {n: p.detach().numpy().astype(np.float64) for n, p in net.named_parameters()}
    hidden = np.maximum(x @ w["hidden1.weight"].T + w["hidden1.bias"], 0)
    return hidden @ w["output.weight"].T + w["output.bias"]


def recount(net: nn.Module, data: Dataset) -> dict[str, float | None]:
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    for name, part in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if part is not None:
            z, labels = logits(net, part), part.labels.numpy()
            losses = np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]
            values[f"{name}_loss"] = losses.mean()
            values[f"{name}_accuracy"] = float((z.argmax(1) == labels).mean())
    guess, train = logits(net, data.train).argmax(1), data.train
    moved = train.permuted.numpy()
    for name, labels, where in (
        ("permuted", train.labels, moved),
        ("unpermuted", train.labels, ~moved),
        ("restored", train.truth, moved),
    ):
        hits = guess[where] == labels.numpy()[where]
        values[f"{name}_accuracy"] = float(hits.mean()) if where.any() else None
    return values


@pytest.mark.parametrize("count", [7, 1_000, 1_001, 2_345])
@pytest.mark.parametrize("validation", [True, False])
def test_losses_and_accuracies_equal_a_recount_from_the_predictions(count: int, validation: bool) -> None:
    data, net = dataset(count, validation), network()
    found, expected = evaluate(net, data), recount(net, data)
    assert set(found) == set(expected) == set(METRICS)
    for name, value in expected.items():
        exact = value is None or "accuracy" in name
        assert found[name] == (value if exact else pytest.approx(value, rel=1e-5)), name


def test_a_subset_without_examples_has_no_accuracy() -> None:
    data = dataset()
    clean = Dataset(split(100, False, 1), None, data.test, data.classes, "")
    values = evaluate(network(), clean)
    assert values["permuted_accuracy"] is values["restored_accuracy"] is values["validation_accuracy"] is None
    assert values["unpermuted_accuracy"] == values["train_accuracy"]


class Oracle(nn.Module):
    """Knows every label it was trained on by heart."""

    def __init__(self, part: Split) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        places = [int((self.part.inputs == row).all(1).nonzero()[0, 0]) if len(row) else 0 for row in x]
        return nn.functional.one_hot(self.part.labels[torch.tensor(places)], K).float()


def test_a_network_that_memorises_scores_on_permuted_labels_and_not_on_restored_ones() -> None:
    part = split(200, True, 1)
    values = evaluate(Oracle(part), Dataset(part, None, part, tuple("abcde"), ""))
    assert values["train_accuracy"] == values["permuted_accuracy"] == values["unpermuted_accuracy"] == 1.0
    hit = (part.labels == part.truth)[part.permuted].float().mean().item()
    assert values["restored_accuracy"] == pytest.approx(hit)
    assert hit < 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_no_number(value: float) -> None:
    net = network()
    with torch.no_grad():
        net.get_parameter("output.bias")[0] = value
    assert evaluate(net, dataset(50))["train_loss"] is None


class Moody(nn.Module):
    """BatchNorm, dropout, one part frozen by the user, and draws in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.norm, self.drop, self.out = (
            nn.BatchNorm1d(6),
            nn.BatchNorm1d(6),
            nn.Dropout(),
            nn.Linear(6, K),
        )

    def forward(self, x: Tensor) -> Tensor:
        noise = 0.1 * torch.randn(len(x), 6)
        return self.out(self.drop(self.norm(self.frozen(x)) + noise))  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [True, False])
def test_measuring_changes_no_byte_no_mode_no_gradient_and_no_random_number_of_the_caller(training: bool) -> None:
    data, net = dataset(300), Moody().train(training)
    net.frozen.eval()
    net.out.weight.grad = torch.ones(K, 6)
    modes = {name: module.training for name, module in net.named_modules()}
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    inputs = data.train.inputs.clone()
    evaluate(net, data)
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net.out.weight.grad, torch.ones(K, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(data.train.inputs, inputs)


def test_measuring_twice_gives_the_same_numbers_even_where_the_network_draws() -> None:
    data, net = dataset(300), Moody()
    results: list[dict[str, Any]] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(evaluate(net, data))
    assert results[0] == results[1]
