"""The line from the sparse to the re-dense network: exact at its ends, recounted between them."""

# P points, N examples.

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prunephase.data import Split
from prunephase.measure import evaluate
from prunephase.measure.interpolation import interpolation, recalibrate, shape
from prunephase.measure.weight_space import drawn, heights, mixture
from prunephase.snapshot import Snapshot
from snapshots import MOODY, K, Moody, TensorLike, mlp, snapshot, untouched


class Wrapped(nn.Module):
    """Not a Sequential, so nothing is shared between the points."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


def moody() -> Snapshot:
    return snapshot(Moody(), shape=MOODY, redense=True)


def at(seen: Snapshot, weights: Any) -> nn.Module:
    network = copy.deepcopy(seen.network)
    network.load_state_dict(dict(weights))
    return network


@torch.no_grad()
def recount(network: nn.Module, part: Split) -> tuple[float, float]:
    """Loss and accuracy, the loss in float64 of float32 logits, 1,000 examples at a time."""
    total, hits = torch.zeros((), dtype=torch.float64), 0
    for x, y in zip(part.inputs.split(1000), part.labels.split(1000), strict=True):
        z = network(x)
        total += cross_entropy(z.double(), y, reduction="sum")
        hits += int((z.argmax(1) == y).sum())
    return total.item() / len(part), hits / len(part)


NAMES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


@pytest.mark.parametrize("network", [mlp, lambda: Wrapped(mlp()), lambda: nn.Sequential(nn.Conv2d(1, K, 6))])
def test_the_ends_are_the_two_networks_to_the_last_bit(network: Any) -> None:
    made = network()
    shaped = (1, 6, 6) if isinstance(made[0] if isinstance(made, nn.Sequential) else made, nn.Conv2d) else (6,)
    if shaped != (6,):
        made = nn.Sequential(*made, nn.Flatten())
    seen = snapshot(made, shape=shaped, count=2_345, redense=True)
    headline, *rows = interpolation(seen).rows
    assert len(rows) == 101
    for row, weights, end in ((rows[0], made.state_dict(), "sparse"), (rows[-1], seen.redense, "redense")):
        network = at(seen, weights).eval()
        for name, part in (("train", seen.data.train), ("test", seen.data.test)):
            loss, hits = recount(network, part)
            assert row[f"{name}_loss"] == headline[f"{end}_{name}_loss"] == loss
            assert row[f"{name}_accuracy"] == hits
        truth = evaluate(network, seen.data)
        assert {name: row[name] for name in NAMES} == pytest.approx({name: truth[name] for name in NAMES}, rel=1e-6)


def test_with_interpolated_statistics_the_ends_are_exact_too_and_otherwise_said_beside_the_line() -> None:
    seen = moody()
    own = [
        evaluate(at(seen, weights), seen.data)["train_loss"] for weights in (seen.network.state_dict(), seen.redense)
    ]
    plain = interpolation(seen, points=3, statistics="interpolated").rows
    assert [plain[1]["train_loss"], plain[-1]["train_loss"]] == pytest.approx(own, rel=1e-6)
    settled = interpolation(seen, points=3).rows
    assert [settled[0]["sparse_train_loss"], settled[0]["redense_train_loss"]] == pytest.approx(own, rel=1e-6)
    assert settled[0]["redense_train_loss"] == plain[-1]["train_loss"]
    network = at(seen, seen.redense).eval()
    recalibrate(network, seen.data.train.inputs)
    assert settled[-1]["train_loss"] == pytest.approx(evaluate(network, seen.data)["train_loss"], rel=1e-6)
    assert settled[-1]["train_loss"] != pytest.approx(own[1], rel=1e-3)
    assert (plain[0]["statistics"], settled[0]["statistics"]) == ("interpolated", "recalibrated")


def test_between_the_ends_it_is_the_network_of_the_mixed_weights_recounted_by_numpy() -> None:
    seen = snapshot(mlp(), redense=True)
    assert seen.redense is not None
    rows = interpolation(seen, points=11).rows
    assert [row["part"] for row in rows] == ["network", *(f"alpha {i / 10:.1f}" for i in range(11))]
    first, last = ({n: w.double().numpy() for n, w in s.items()} for s in (seen.network.state_dict(), seen.redense))
    for row in rows[1:]:
        a = row["alpha"]
        w = {name: (1 - a) * first[name] + a * last[name] for name in first}
        for name, part in (("train", seen.data.train), ("test", seen.data.test)):
            hidden, labels = part.inputs.double().numpy(), part.labels.numpy()
            for layer in ("1", "3"):
                hidden = np.maximum(hidden @ w[f"{layer}.weight"].T + w[f"{layer}.bias"], 0)
            z = hidden @ w["5.weight"].T + w["5.bias"]
            loss = (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]).mean()
            assert row[f"{name}_loss"] == pytest.approx(loss, rel=1e-5)
            assert row[f"{name}_accuracy"] == (z.argmax(1) == labels).mean()


def test_the_mixed_first_layer_gives_what_the_mixed_weights_give() -> None:
    seen = snapshot(mlp(), count=2_100, redense=True)
    assert seen.redense is not None
    states = [seen.network.state_dict(), seen.redense]
    shares = np.array([[1.0, 0.0], [0.3, 0.7], [-1.0, 2.0], [0.0, 1.0]])
    quick = heights(seen.network, states, shares, seen.data.splits)
    slow = heights(seen.network, states, shares, seen.data.splits, settle=lambda _: None)
    for name in seen.data.splits:
        assert quick[name].loss == pytest.approx(slow[name].loss, rel=1e-5)
        assert (quick[name].accuracy == slow[name].accuracy).all()
        assert (quick[name].loss[[0, -1]] == slow[name].loss[[0, -1]]).all()


def test_a_first_layer_that_is_not_linear_is_not_mixed_by_what_it_gives() -> None:
    seen = snapshot(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, K)), redense=True)
    assert seen.redense is not None
    middle = mixture([seen.network.state_dict(), seen.redense], [0.5, 0.5])
    rows = interpolation(seen, points=3, statistics="interpolated").rows
    assert rows[2]["train_loss"] == pytest.approx(evaluate(at(seen, middle), seen.data)["train_loss"], rel=1e-6)


def test_a_mixture_of_one_state_is_that_state_with_its_signed_zeros_and_its_whole_numbers() -> None:
    a = {"w": torch.tensor([-0.0, 0.0, 1.5]), "count": torch.tensor(7)}
    b = {"w": torch.tensor([1.0, math.inf, math.nan]), "count": torch.tensor(9)}
    alone = mixture([a, b], [1.0, 0.0])
    assert torch.equal(alone["w"].view(torch.int32), a["w"].view(torch.int32))
    assert alone["w"].data_ptr() != a["w"].data_ptr()
    assert [int(mixture([a, b], s)["count"]) for s in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5])] == [7, 9, 7]
    assert mixture([a, a], [0.25, 0.5])["w"].tolist() == [0.0, 0.0, 1.125]


@pytest.mark.parametrize(
    ("loss", "rise", "monotone", "barrier", "place"),
    [
        ([4.0, 2.0, 1.5, 1.0, 0.0], 0.0, True, 0.0, 0.0),  # falls faster than the line, and meets it at 0.75
        ([4.0, 5.0, 2.0, 1.0, 0.0], 1.0, False, 2.0, 0.25),
        ([4.0, 1.0, 3.0, 1.0, 0.0], 2.0, False, 1.0, 0.5),
        ([4.0, 3.0, 3.03, 1.0, 0.0], 0.03, True, 1.03, 0.5),  # within 1 % of 4
        ([0.0, 1.0, 2.0, 3.0, 4.0], 4.0, False, 0.0, 0.0),  # a straight way up is no way down
    ],
)
def test_a_rise_and_a_barrier_are_measured_on_known_curves(
    loss: list[float], rise: float, monotone: bool, barrier: float, place: float
) -> None:
    found = shape(np.linspace(0, 1, 5), np.array(loss))
    assert (found["monotone"], found["barrier_at"]) == (monotone, place)
    assert [found["rise"], found["barrier"]] == pytest.approx([rise, barrier])


def test_a_loss_that_is_not_finite_leaves_no_number() -> None:
    assert set(shape(np.linspace(0, 1, 3), np.array([1.0, math.nan, 0.0])).values()) == {None}
    seen = snapshot(mlp(), redense=True)
    assert seen.redense is not None
    far = {name: value * 1e30 for name, value in seen.redense.items()}
    headline, *rows = interpolation(replace(seen, redense=far), points=3).rows
    assert headline["barrier"] is rows[-1]["train_loss"] is headline["redense_train_loss"] is None
    assert rows[0]["train_loss"] is not None


def test_without_a_re_dense_network_there_is_nothing_to_say() -> None:
    assert interpolation(snapshot(mlp())).rows == []


def test_recalibrated_statistics_are_the_means_over_whole_batches_without_dropout() -> None:
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6, momentum=0.3))
    x = torch.randn(2_500, 6, generator=torch.Generator().manual_seed(0))
    network(x - 3)
    network.eval()
    recalibrate(network, x)
    batches = x.double().numpy()[:2_000].reshape(2, 1_000, 6)
    assert network[1].running_mean.numpy() == pytest.approx(batches.mean((0, 1)), abs=1e-6)
    assert network[1].running_var.numpy() == pytest.approx(batches.var(1, ddof=1).mean(0), rel=1e-5)
    assert network[3].momentum == 0.3
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("statistics", ["recalibrated", "interpolated"])
def test_the_network_that_is_looked_at_is_left_alone(statistics: Any) -> None:
    seen = moody()
    with untouched(seen):
        again = [interpolation(seen, points=3, statistics=statistics) for _ in range(2)]
    assert again[0].rows == again[1].rows
    chained = snapshot(mlp(), redense=True)
    with untouched(chained):
        interpolation(chained, points=3)


def test_examples_are_drawn_once_for_all_levels() -> None:
    seen = snapshot(mlp(), redense=True)
    assert (
        interpolation(seen, points=2, examples=100).rows
        == interpolation(replace(seen, level=9), points=2, examples=100).rows
    )
    part, train = drawn(seen.data.train, 100, 4, "here"), seen.data.train
    assert len(part) == 100
    assert torch.equal(part.inputs, train.inputs[part.index])
    assert torch.equal(part.labels, train.labels[part.index])
    assert len(set(part.index.tolist())) == 100
    assert not torch.equal(part.index, drawn(train, 100, 5, "here").index)
    assert drawn(train, None, 4) is drawn(train, 300, 4) is train


def test_inputs_need_not_be_a_tensor() -> None:
    seen = snapshot(mlp(), redense=True)
    splits = {name: replace(s, inputs=TensorLike(s.inputs)) for name, s in seen.data.splits.items()}  # type: ignore[arg-type]
    like = replace(seen, data=replace(seen.data, **splits))
    assert interpolation(like, points=3).rows == interpolation(seen, points=3).rows
    assert interpolation(like, points=3, examples=50).rows == interpolation(seen, points=3, examples=50).rows
