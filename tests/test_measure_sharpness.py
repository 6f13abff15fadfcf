"""Sharpness against the whole Hessian of toy networks, in float64."""

# D directions.

from __future__ import annotations

import copy
import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from prunephase.measure.sharpness import Hessian, sharpness
from prunephase.snapshot import Snapshot
from snapshots import MOODY, K, Moody, TensorLike, mlp, snapshot, untouched


def smooth(count: int = 300) -> Snapshot:
    return snapshot(mlp(torch.float64, nn.GELU), count=count)


def whole(seen: Snapshot) -> np.ndarray:
    """The Hessian over all trainable parameters by torch itself, [D, D]."""
    network = copy.deepcopy(seen.network).eval()
    named = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in named.values()]

    def loss(flat: Tensor) -> Tensor:
        pieces = flat.split(sizes)  # type: ignore[no-untyped-call]
        given = {name: piece.view(p.shape) for (name, p), piece in zip(named.items(), pieces, strict=True)}
        logits = torch.func.functional_call(network, given, (seen.data.train.inputs,))
        return cross_entropy(logits, seen.data.train.labels)

    flat = torch.cat([p.flatten() for p in named.values()])
    with sdpa_kernel(SDPBackend.MATH):
        return np.asarray(torch.autograd.functional.hessian(loss, flat))


def living(seen: Snapshot) -> np.ndarray:
    named = seen.network.named_parameters()
    return torch.cat([seen.masks.get(name, torch.ones_like(p).bool()).flatten() for name, p in named]).numpy()


@pytest.mark.parametrize("count", [300, 2_345])
def test_products_are_those_of_the_whole_hessian(count: int) -> None:
    seen = smooth(count)
    exact, alive = whole(seen), living(seen)
    draw = np.random.default_rng(0)
    v = draw.standard_normal(len(exact))
    assert Hessian(seen.network, seen.data.train, {})(v) == pytest.approx(exact @ v, rel=1e-9, abs=1e-12)
    v = draw.standard_normal(alive.sum())
    found = Hessian(seen.network, seen.data.train, seen.masks)
    assert found.size == alive.sum() < len(exact)
    assert found(v) == pytest.approx(exact[alive][:, alive] @ v, rel=1e-9, abs=1e-12)
    assert found.times(np.stack([v, v**2]))[1] == pytest.approx(found(v**2), rel=1e-9)
    assert found.products == 4


def test_the_top_eigenvalue_and_the_trace_are_those_of_the_whole_hessian() -> None:
    seen = smooth()
    exact, alive = whole(seen), living(seen)
    part = exact[alive][:, alive]
    for weights, matrix in (("surviving", part), ("all", exact)):
        (row,) = sharpness(seen, weights=weights, tolerance=1e-8, probes=200).rows  # type: ignore[arg-type]
        assert row["part"] == "network"
        assert row["top_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-9)
        assert row["converged"] is True
        assert row["residual"] < 1e-7  # type: ignore[operator]
        assert row["directions"] == len(matrix)
        assert abs(row["trace"] - np.trace(matrix)) < 4 * row["trace_error"]  # type: ignore[operator]
        assert row["trace_error"] < 0.1 * np.trace(matrix)  # type: ignore[operator]
    top = [sharpness(seen, weights=w, probes=0).rows[0]["top_eigenvalue"] for w in ("surviving", "all")]  # type: ignore[arg-type]
    assert top[0] < top[1]  # type: ignore[operator]


def test_the_standard_error_of_the_trace_is_that_of_known_spread() -> None:
    """Var v'Hv = 2 sum of the squares off the diagonal (Hutchinson 1990)."""
    seen = smooth()
    exact = whole(seen)
    spread = np.sqrt(2 * ((exact**2).sum() - (np.diag(exact) ** 2).sum()))
    (row,) = sharpness(seen, weights="all", probes=300, tolerance=0.1).rows
    assert row["trace_error"] == pytest.approx(spread / np.sqrt(300), rel=0.15)


def test_the_trace_does_not_know_how_many_probes_are_multiplied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = sharpness(smooth(), probes=5).rows[0]
    module = importlib.import_module("prunephase.measure.sharpness")
    monkeypatch.setattr(module, "TOGETHER", 2 * at_once["directions"])  # type: ignore[operator]
    assert sharpness(smooth(), probes=5).rows[0] == at_once


def test_what_does_not_converge_says_so() -> None:
    (row,) = sharpness(smooth(), tolerance=1e-14, restarts=1, probes=2).rows
    assert row["converged"] is False
    assert row["top_eigenvalue"] is row["residual"] is None
    assert row["products"] > 0  # type: ignore[operator]
    assert row["trace"] is not None


class Indifferent(nn.Module):
    """Says the same whatever its weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * 0.0  # type: ignore[no-any-return]


def test_a_flat_loss_has_no_top_eigenvalue() -> None:
    (row,) = sharpness(snapshot(Indifferent()), probes=2).rows
    assert row["top_eigenvalue"] is None
    assert (row["converged"], row["trace"]) == (False, 0.0)


def test_products_count_what_the_eigenvalue_cost() -> None:
    seen = smooth()
    alone, more = (sharpness(seen, probes=probes).rows[0]["products"] for probes in (0, 3))
    assert alone == more
    loose, tight = (sharpness(seen, tolerance=t, probes=0).rows[0]["products"] for t in (1e-1, 1e-10))
    assert loose < tight  # type: ignore[operator]


def test_in_float32_it_agrees_with_float64() -> None:
    seen = snapshot(mlp(act=nn.GELU))
    train = replace(seen.data.train, inputs=seen.data.train.inputs.double())
    finer = replace(seen, network=copy.deepcopy(seen.network).double(), data=replace(seen.data, train=train))
    single, double = (sharpness(which, probes=5, tolerance=1e-3).rows[0] for which in (seen, finer))
    for name in ("top_eigenvalue", "trace"):
        assert single[name] == pytest.approx(double[name], rel=1e-4)


class Attentive(nn.Module):
    """Self-attention, an unused parameter and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out, self.unused = nn.Linear(12, K), nn.Linear(3, 3)
        self.out.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, 3, 4)
        return self.out(self.attend(tokens, tokens, tokens, need_weights=False)[0].flatten(1))  # type: ignore[no-any-return]


def test_attention_unused_and_frozen_parameters() -> None:
    torch.manual_seed(0)
    seen = snapshot(Attentive().double(), shape=(12,), count=120)
    exact = whole(seen)
    found = Hessian(seen.network, seen.data.train, {})
    assert found.size == len(exact) == sum(p.numel() for p in seen.network.parameters()) - K
    v = np.random.default_rng(0).standard_normal(len(exact))
    assert found(v) == pytest.approx(exact @ v, rel=1e-9, abs=1e-12)


def test_the_network_that_is_looked_at_is_left_alone() -> None:
    seen = snapshot(Moody(), shape=MOODY)
    with untouched(seen):
        again = [sharpness(seen, probes=3, examples=100).rows for _ in range(2)]
    assert again[0] == again[1]
    assert again[0][0]["converged"] is True
    assert again[0][0]["examples"] == 100


def test_it_is_the_network_of_evaluation_whatever_mode_it_comes_in() -> None:
    seen = snapshot(Moody(), shape=MOODY)
    training, evaluating = (
        sharpness(replace(seen, network=copy.deepcopy(seen.network).train(mode)), probes=3).rows
        for mode in (True, False)
    )
    assert training == evaluating


def test_inputs_need_not_be_a_tensor() -> None:
    seen = smooth()
    held = replace(seen.data.train, inputs=TensorLike(seen.data.train.inputs))  # type: ignore[arg-type]
    assert sharpness(replace(seen, data=replace(seen.data, train=held))).rows == sharpness(seen).rows
