"""Learning distance and weight histograms: closed forms in float64, and NumPy's own sums."""

# P weights of a layer.

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from measured import K, dataset, row, snapshot
from prunephase import models
from prunephase.analysis.relations import crossing
from prunephase.measure.distance import distance
from prunephase.measure.histograms import EDGES, histograms
from prunephase.prune.layers import weights
from prunephase.sections import Model


def toy() -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """A network in float64, with its initial weights, rewind point and masks, all of whole numbers."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1)).double()
    initial = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    initial["0.weight"] = torch.tensor([[3.0, 4.0], [12.0, 0.0]]).double()
    initial["3.weight"] = torch.tensor([[0.0, 84.0]]).double()
    rewound = {name: value + (1.0 if name.endswith("weight") else 0.0) for name, value in initial.items()}
    masks = {"0.weight": torch.tensor([[False, True], [True, True]])}
    with torch.no_grad():
        for value in net.parameters():
            value.fill_(7.0)  # BatchNorm and biases: never counted, unless asked for
        net.get_parameter("0.weight").copy_(torch.tensor([[0.0, 8.0], [0.0, 0.0]]))
        net.get_parameter("3.weight").copy_(torch.tensor([[0.0, 84.0]]))
    return net, initial, rewound, masks


def test_distances_of_a_toy_network_have_a_closed_form() -> None:
    net, initial, rewound, masks = toy()
    redense = {name: value.clone() for name, value in net.state_dict().items()}
    redense["0.weight"] = torch.tensor([[3.0, 4.0], [12.0, 2.0]]).double()
    found = distance(snapshot(net, dataset((2,)), masks, initial=initial, rewound=rewound, redense=redense))
    one, two, all_of_it = row(found, "0"), row(found, "3"), row(found, "network")
    assert [r["part"] for r in found.rows] == ["network", "0", "3"]
    # From [3 4; 12 0] to [0 8; 0 0], the first pruned: 3 of it by pruned mass, (4, 12, 0) by the survivors.
    assert (one["pruned"], one["surviving"], one["total"]) == (3.0, pytest.approx(160**0.5), 13.0)
    assert (one["initial_norm"], one["norm"], one["normalised"]) == (13.0, 8.0, 1.0)
    assert (two["pruned"], two["surviving"], two["total"], two["initial_norm"]) == (0.0, 0.0, 0.0, 84.0)
    assert (all_of_it["total"], all_of_it["initial_norm"], all_of_it["normalised"]) == (13.0, 85.0, 13 / 85)
    # From [4 5; 13 1] and [1 85].
    assert one["rewind_pruned"] == 4.0
    assert one["rewind_surviving"] == pytest.approx((3**2 + 13**2 + 1) ** 0.5)
    assert all_of_it["rewind_total"] == pytest.approx((4**2 + 3**2 + 13**2 + 1 + 1 + 1) ** 0.5)
    assert all_of_it["rewind_normalised"] == pytest.approx(all_of_it["rewind_total"] / 85)
    assert (one["redense_total"], one["redense_pruned"], one["redense_surviving"]) == (2.0, 0.0, 2.0)
    assert (one["redense_rewind_total"], one["redense_rewind_pruned"]) == (2.0, 1.0)


def test_what_is_not_known_has_no_distance() -> None:
    net, initial, _, masks = toy()
    for line in distance(snapshot(net, dataset((2,)), masks, initial=initial)).rows:
        for name in ("rewind_total", "redense_pruned", "redense_rewind_normalised"):
            assert line[name] is None
    for value in initial.values():
        value.zero_()
    assert row(distance(snapshot(net, dataset((2,)), masks, initial=initial)), "network")["normalised"] is None


def test_biases_count_where_they_are_asked_for_and_those_of_batchnorm_never() -> None:
    net, initial, _, masks = toy()
    seen = snapshot(net, dataset((2,)), masks, initial=initial)
    found = distance(seen, biases=True)
    assert row(found, "0")["surviving"] ** 2 == pytest.approx(160 + 2 * 49)
    assert row(found, "network")["total"] ** 2 == pytest.approx(13**2 + 3 * 49)


def test_distance_of_a_float32_network_is_that_of_its_numbers_in_float64() -> None:
    net = models.build(Model(name="small-cnn", kwargs={"channels": [3, 2]}), (1, 4, 4), K, 0)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(net.get_parameter(n).shape, generator=draw) > 0.7 for n in ("conv1.weight", "conv2.weight")}
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.add_(torch.randn(value.shape, generator=draw)).mul_(masks.get(name, torch.ones(())))
    found = distance(snapshot(net, dataset((1, 4, 4)), masks, initial=start))
    names = ["conv1", "conv2", "output"]
    assert [r["part"] for r in found.rows] == ["network", *names]
    gaps = {n: (net.get_parameter(f"{n}.weight").detach() - 0).numpy().astype(np.float64) for n in names}
    squares = {n: (gaps[n] - start[f"{n}.weight"].numpy().astype(np.float64)) ** 2 for n in names}
    for n in names:
        assert row(found, n)["total"] == pytest.approx(np.sqrt(squares[n].sum()), rel=1e-12)
    mask = masks["conv1.weight"].numpy()
    assert row(found, "conv1")["surviving"] == pytest.approx(np.sqrt(squares["conv1"][mask].sum()), rel=1e-12)
    mass = start["conv1.weight"].numpy()[~mask].astype(np.float64)
    assert row(found, "conv1")["pruned"] == pytest.approx(np.linalg.norm(mass), rel=1e-12)
    whole = np.sqrt(sum(s.sum() for s in squares.values()))
    assert row(found, "network")["total"] == pytest.approx(whole, rel=1e-12)


def test_layers_are_convolutions_linear_layers_and_attention_and_a_shared_weight_counts_once() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
            self.attention, self.layer_norm = nn.MultiheadAttention(4, 2), nn.LayerNorm(4)
            self.embed, self.tied = nn.Linear(4, 4), nn.Linear(4, 4)
            self.tied.weight = self.embed.weight

    found = weights(Net())
    assert found == {
        "conv": ["conv.weight"],
        "attention": ["attention.in_proj_weight"],
        "attention.out_proj": ["attention.out_proj.weight"],
        "embed": ["embed.weight"],
    }
    assert weights(Net(), biases=True)["tied"] == ["tied.bias"]
    assert weights(nn.Linear(2, 2)) == {"whole": ["weight"]}


@pytest.mark.parametrize(
    ("sparse", "redense", "at"),
    [
        ([5, 5, 5, 2, 1], [3, 4, 4, 4, 4], 0.4 + 0.2 * 1 / 3),  # farther by 1, then closer by 2
        ([5, 5, 5, 4, 1], [3, 4, 4, 4, 4], 0.6),
        ([5, 3, 5, 2, 1], [4, 4, 4, 4, 4], 0.4 + 0.2 * 1 / 3),  # what counts is from where on
        ([5, 5, 5, 5, 5], [4, 4, 4, 4, 4], None),
        ([3, 3, 3, 3, 3], [4, 4, 4, 4, 4], None),
    ],
)
def test_the_crossing_is_where_the_sparse_weights_come_to_lie_closer(
    sparse: list[float], redense: list[float], at: float | None
) -> None:
    found = crossing([0.0, 0.2, 0.4, 0.6, 0.8], sparse, redense)
    assert found == (None if at is None else pytest.approx(at))


def levelled(scale: float) -> Any:
    net = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, K))
    draw = torch.Generator().manual_seed(1)
    start = {name: torch.randn(value.shape, generator=draw) for name, value in net.state_dict().items()}
    masks = {"0.weight": torch.rand(30, 40, generator=draw) > 0.6}
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.copy_(scale * start[name] * masks.get(name, torch.ones(())))
    return snapshot(net, dataset((40,)), masks, initial=start)


def test_a_histogram_counts_every_surviving_weight_once() -> None:
    seen = levelled(3.0)
    found = histograms(seen)
    w = seen.network.get_parameter("0.weight").detach().double().numpy()[seen.masks["0.weight"].numpy()]
    line, sd = row(found, "0"), seen.initial["0.weight"].double().numpy().std()
    assert line["scale"] == pytest.approx(sd)
    counts = found.arrays["layer:0"]
    expected = [((w / sd >= low) & (w / sd < high)).sum() for low, high in pairwise(EDGES)]
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == line["count"] == len(w)
    np.testing.assert_array_equal(found.arrays["network"], counts + found.arrays["layer:2"])
    assert line["mean_abs"] == pytest.approx(np.abs(w).mean())
    assert line["sd"] == pytest.approx(w.std())
    assert (line["smallest"], line["largest"]) == (np.abs(w).min(), np.abs(w).max())
    assert line["q95"] == pytest.approx(np.quantile(w, 0.95))
    assert row(found, "network")["count"] == len(w) + 30 * K


def test_bins_are_those_of_every_level_and_hold_whatever_lies_beyond() -> None:
    near, far = histograms(levelled(1.0)), histograms(levelled(1000.0))
    np.testing.assert_array_equal(near.arrays["edges"], far.arrays["edges"])
    assert near.arrays["network"][0] == near.arrays["network"][-1] == 0
    assert far.arrays["network"][0] > 100
    assert far.arrays["network"].sum() == near.arrays["network"].sum()


def test_an_emptied_layer_has_an_empty_histogram() -> None:
    seen = levelled(1.0)
    seen.masks["0.weight"].zero_()
    line = row(histograms(seen), "0")
    assert (line["count"], line["mean_abs"]) == (0, None)
