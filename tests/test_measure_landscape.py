"""Slices of the loss: directions as large as the network's own filters, losses recounted, curvature exact."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prunephase.measure import evaluate
from prunephase.measure.landscape import direction, landscape, minimum, surface
from snapshots import MOODY, K, Moody, mlp, snapshot, untouched


def test_every_unit_of_a_direction_has_the_norm_of_the_networks_own() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, K)).double()
    d = direction(network, None, seed=0)
    assert d.keys() == network.state_dict().keys()
    for name in ("0.weight", "3.weight"):
        own = network.get_parameter(name).detach()
        for unit in range(len(own)):
            assert float(d[name][unit].norm()) == pytest.approx(float(own[unit].norm()), rel=1e-12)
        assert float((d[name] * own).sum() / own.norm() ** 2) != pytest.approx(1.0, abs=0.1)  # another direction
    for name in set(d) - {"0.weight", "3.weight"}:
        assert not d[name].any(), name


def test_within_the_subspace_pruned_weights_stay_and_the_norms_hold_all_the_same() -> None:
    seen = snapshot(mlp(torch.float64))
    inside, outside = (direction(seen.network, masks, seed=0) for masks in (seen.masks, None))
    for name, mask in seen.masks.items():
        own = seen.network.get_parameter(name).detach()
        assert not inside[name][~mask].any()
        assert outside[name][~mask].any()
        alive = mask.any(1)
        for d in (inside[name], outside[name]):
            assert d.norm(dim=1)[alive].tolist() == pytest.approx(own.norm(dim=1)[alive].tolist(), rel=1e-12)


def test_a_unit_without_weights_does_not_move() -> None:
    network = mlp()
    with torch.no_grad():
        network.get_parameter("1.weight")[2] = 0.0
    mask = torch.ones(8, 6, dtype=torch.bool)
    mask[2] = False
    for masks in (None, {"1.weight": mask}):
        d = direction(network, masks, seed=0)["1.weight"]
        assert torch.isfinite(d).all()
        assert d.any(1).tolist() == [unit != 2 for unit in range(8)]


def test_the_draw_knows_seed_and_axis_and_not_the_level_nor_the_weights() -> None:
    network, louder = mlp(torch.float64), mlp(torch.float64)
    with torch.no_grad():
        louder.get_parameter("3.weight").mul_(3.0)
    one = direction(network, None, 0)["3.weight"]
    assert direction(louder, None, 0)["3.weight"].numpy() == pytest.approx(3 * one.numpy(), rel=1e-12)
    assert not torch.equal(direction(network, None, 1)["3.weight"], one)
    assert not torch.equal(direction(network, None, 0, axis=1)["3.weight"], one)
    seen = snapshot(mlp())
    assert landscape(seen, points=3).rows == landscape(replace(seen, level=8), points=3).rows


def test_a_weight_that_two_modules_share_moves_as_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))  # type: ignore[no-any-return]

    network = Tied()
    mask = torch.rand(6, 6) < 0.5
    d = direction(network, {"one.weight": mask}, 0)
    assert torch.equal(d["one.weight"], d["two.weight"])
    assert not d["two.weight"][~mask].any()


def test_losses_are_those_of_the_shifted_network() -> None:
    seen = snapshot(mlp(), redense=True)
    headline, *rows = landscape(seen, points=5).rows
    assert headline["part"] == "network"
    assert [row["x"] for row in rows] == [-1, -0.5, 0, 0.5, 1] * 3
    assert len({row["part"] for row in rows}) == 15
    for row in rows:
        centre = minimum(seen, row["around"])  # type: ignore[arg-type]
        assert centre is not None
        d = direction(centre, seen.masks if row["space"] == "subspace" else None, seen.trial.seed)
        shifted = copy.deepcopy(centre)
        shifted.load_state_dict({name: w + row["x"] * d[name] for name, w in centre.state_dict().items()})
        truth = evaluate(shifted, seen.data)
        assert row["train_loss"] == pytest.approx(truth["train_loss"], rel=1e-5)
        assert row["train_accuracy"] == truth["train_accuracy"]
        if row["x"] == 0:
            assert row["train_loss"] == pytest.approx(evaluate(centre, seen.data)["train_loss"], rel=1e-6)


def test_curvature_is_that_of_the_hessian_along_the_direction() -> None:
    seen = snapshot(mlp(torch.float64, nn.Tanh), redense=True)
    headline = landscape(seen, points=3).rows[0]
    for around, space in (("sparse", "subspace"), ("sparse", "ambient"), ("redense", "ambient")):
        centre = minimum(seen, around)  # type: ignore[arg-type]
        assert centre is not None
        d = direction(centre, seen.masks if space == "subspace" else None, seen.trial.seed)
        state = centre.state_dict()

        def loss(x: Tensor, centre: nn.Module = centre, state: dict = state, d: dict = d) -> Tensor:  # type: ignore[type-arg]
            moved = {name: w + x * d[name] for name, w in state.items()}
            logits = torch.func.functional_call(centre, moved, (seen.data.train.inputs,))
            return cross_entropy(logits, seen.data.train.labels)

        exact = torch.autograd.functional.hessian(loss, torch.zeros((), dtype=torch.float64))
        assert headline[f"{around}_{space}_curvature"] == pytest.approx(float(exact), rel=2e-3)


def test_the_curvature_of_a_float32_network_is_no_rounding_error() -> None:
    seen = snapshot(mlp(act=nn.Tanh), count=3_000)
    train = replace(seen.data.train, inputs=seen.data.train.inputs.double())
    finer = replace(seen, network=copy.deepcopy(seen.network).double(), data=replace(seen.data, train=train))
    single, double = (landscape(which, points=3).rows[0] for which in (seen, finer))
    for name in ("sparse_subspace_curvature", "sparse_ambient_curvature"):
        assert single[name] == pytest.approx(double[name], abs=2e-4)


def test_the_middle_of_the_surface_is_the_slice() -> None:
    seen = snapshot(mlp(), redense=True)
    rows = landscape(seen, points=5).rows
    for around, space in (("sparse", "subspace"), ("redense", "ambient")):
        found = surface(seen, around=around, space=space, points=5)  # type: ignore[arg-type]
        line = [row["train_loss"] for row in rows if (row.get("around"), row.get("space")) == (around, space)]
        plane = found.arrays["train_loss"]
        assert plane.shape == found.arrays["train_accuracy"].shape == (5, 5)
        assert plane[2].tolist() == pytest.approx(line, rel=1e-6)
        assert plane[:, 2].tolist() != pytest.approx(line, rel=1e-3)
        assert found.arrays["x"].tolist() == [-1, -0.5, 0, 0.5, 1]
        (headline,) = found.rows
        assert headline["minimum_loss"] == line[2]
        assert headline["highest_loss"] == plane.max()


def test_without_a_re_dense_network_its_slice_is_missing() -> None:
    seen = snapshot(mlp())
    headline, *rows = landscape(seen, points=3).rows
    assert headline["redense_ambient_curvature"] is None
    assert {row["around"] for row in rows} == {"sparse"}
    assert surface(seen, around="redense").rows == []


def test_a_loss_that_is_not_finite_is_no_number() -> None:
    network = mlp()
    with torch.no_grad():
        network.get_parameter("5.bias")[0] = torch.nan
    headline, *rows = landscape(snapshot(network), points=3).rows
    assert headline["sparse_subspace_curvature"] is rows[0]["train_loss"] is None


def test_the_network_that_is_looked_at_is_left_alone() -> None:
    seen = snapshot(Moody(), shape=MOODY, redense=True)
    with untouched(seen):
        again = [landscape(seen, points=3, examples=100).rows for _ in range(2)]
        surface(seen, points=3)
    assert again[0] == again[1]
    assert np.isfinite([row["train_loss"] for row in again[0][1:]]).all()  # type: ignore[arg-type]
