"""Tensors as bytes: what is packed comes back, in its order, and costs what it must."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunephase import tensors

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
NAMES = st.lists(st.text("abcz.0_", min_size=1, max_size=6), min_size=1, max_size=6, unique=True)


def masks_of(names: list[str], shapes: list[tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=draw) < 0.4 for name, shape in zip(names, shapes, strict=False)}


@settings(deadline=None)
@given(NAMES, st.lists(SHAPES, min_size=6, max_size=6), st.integers(0, 99))
def test_masks_come_back_bit_for_bit_and_in_their_order(
    names: list[str], shapes: list[tuple[int, ...]], seed: int
) -> None:
    masks = masks_of(names, shapes, seed)
    back = tensors.unpack_masks(tensors.pack_masks(masks))
    assert list(back) == list(masks)
    assert all(back[n].dtype == torch.bool and torch.equal(back[n], m) for n, m in masks.items())


def test_a_mask_costs_one_bit_a_weight() -> None:
    size = len(tensors.pack_masks({"w": torch.ones(1_000, 1_000, dtype=torch.bool)}))
    assert 125_000 <= size < 125_000 + 500


@settings(deadline=None)
@given(NAMES, st.lists(SHAPES, min_size=6, max_size=6), st.integers(0, 99))
def test_weights_come_back_with_exact_zeros_where_they_are_pruned(
    names: list[str], shapes: list[tuple[int, ...]], seed: int
) -> None:
    masks = masks_of(names, shapes, seed)
    weights = {n: torch.randn(m.shape) * m for n, m in masks.items()}
    weights |= {"norm!": torch.randn(3), "count!": torch.tensor(7), "flag!": torch.tensor([True, False])}
    back = tensors.unpack_weights(tensors.pack_weights(weights, masks), masks)
    assert back.keys() == weights.keys()
    assert all(back[n].dtype == w.dtype and torch.equal(back[n], w) for n, w in weights.items())
    assert all(math.copysign(1, x) == 1 for n, m in masks.items() for x in back[n][~m].tolist())


def test_special_values_survive() -> None:
    values = torch.tensor([-0.0, 1e-45, math.inf, -math.inf, math.nan, 3.0])
    mask = torch.tensor([True] * 5 + [False])
    back = tensors.unpack_weights(tensors.pack_weights({"w": values}, {"w": mask}), {"w": mask})["w"]
    assert torch.equal(back[:5].view(torch.int32), values[:5].view(torch.int32))
    assert back[5] == 0


def test_a_levels_size_follows_its_density() -> None:
    weights = {"w": torch.randn(500, 500)}
    dense, sparse = ({"w": torch.rand(500, 500) < share} for share in (2.0, 0.01))
    assert len(tensors.pack_weights(weights, dense)) > 1_000_000
    assert len(tensors.pack_weights(weights, sparse)) < 12_000


def test_packing_shared_strided_and_trained_tensors_gives_the_same_bytes_as_plain_ones() -> None:
    base = torch.randn(4, 6)
    tricky = {"a": base, "b": base, "t": base.t(), "p": torch.nn.Parameter(base)}
    plain = {"a": base.clone(), "b": base.clone(), "t": base.t().contiguous(), "p": base.clone()}
    assert tensors.pack_weights(tricky, {}) == tensors.pack_weights(plain, {})
    assert tensors.digest(tricky) == tensors.digest(plain)


def test_the_digest_sees_names_shapes_types_and_every_bit_but_not_the_order() -> None:
    w = torch.arange(6.0)
    base = {"a": w, "b": w}
    same = [{"b": w, "a": w}]
    changed = w.clone()
    changed[3] = torch.nextafter(w[3], torch.tensor(9.0))
    other = [
        {"a": w},
        {"a": w, "c": w},
        {"a": w.view(2, 3), "b": w},
        {"a": w.double(), "b": w},
        {"a": w, "b": changed},
        {"a": w, "b": torch.tensor([-0.0, 1, 2, 3, 4, 5])},
    ]
    assert {tensors.digest(s) for s in same} == {tensors.digest(base)}
    assert len({tensors.digest(s) for s in [base, *other]}) == len(other) + 1
    assert tensors.digest({"n": torch.tensor(3)}) != tensors.digest({"n": torch.tensor(4)})
