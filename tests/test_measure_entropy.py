"""Activation entropy: recounted by NumPy, worked by hand, and what the hooks and the calls of functions see."""

# N examples, C channels.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from measured import K, dataset, row, snapshot, split
from prunephase import models, streams
from prunephase.data import Dataset
from prunephase.measure.entropy import entropy
from prunephase.measure.finding import Finding
from prunephase.sections import Model


def bits(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(-p * np.log2(p)) + np.nan_to_num(-(1 - p) * np.log2(1 - p))


def of(inputs: Tensor) -> Dataset:
    """Training examples with these inputs."""
    data = dataset(tuple(inputs.shape[1:]), count=len(inputs), tests=5)
    return replace(data, train=replace(data.train, inputs=inputs))


def test_entropy_of_an_mlp_equals_a_recount_of_every_unit() -> None:
    data = dataset(count=2_345)
    net = models.build(Model(name="mlp", kwargs={"widths": [8, 3]}), (6,), K, 0)
    found = entropy(snapshot(net, data))
    w = {n: p.detach().numpy().astype(np.float64) for n, p in net.named_parameters()}
    x = data.train.inputs.numpy().astype(np.float64)
    means, units = [], (8, 3)
    for i in (1, 2):
        z = x @ w[f"hidden{i}.weight"].T + w[f"hidden{i}.bias"]
        on = (z > 0).sum(0)
        np.testing.assert_array_equal(found.arrays[f"relu{i}"], on)
        means.append(bits(on / len(x)).mean())
        line = row(found, f"relu{i}")
        assert line["mean"] == line["channel_mean"] == pytest.approx(means[-1], abs=1e-12)
        assert (line["units"], line["on_share"]) == (units[i - 1], pytest.approx((z > 0).mean()))
        x = np.maximum(z, 0)
    said = row(found, "network")
    assert (said["layers"], said["units"]) == (2, 11)
    assert said["mean"] == pytest.approx(np.mean(means), abs=1e-12)
    assert said["weighted"] == pytest.approx((8 * means[0] + 3 * means[1]) / 11, abs=1e-12)
    assert said["mean"] != pytest.approx(said["weighted"], abs=1e-4)


def test_elements_and_channels_of_a_convolution_are_two_definitions() -> None:
    # One channel of two pixels that are ON in turn, one whose pixels are ON together in a quarter of the examples.
    one = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    two = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0]])
    three = -torch.ones(4, 2)  # always OFF
    pixels = torch.stack([one, two, three], 1)[:, :, None]  # [N, C, 1, 2]
    net = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(6, K))
    line = row(entropy(snapshot(net, of(pixels))), "0")
    quarter = 2 - 0.75 * np.log2(3)
    assert line["mean"] == pytest.approx((2 * 1 + 2 * quarter + 0) / 6)
    assert line["channel_mean"] == pytest.approx((1 + quarter + 0) / 3)
    assert (line["units"], line["channels"], line["constant"], line["off"], line["zero"]) == (6, 3, 2, 2, False)
    half = torch.stack([one, -one, three], 1)[:, :, None]
    half[:, 0, 0, 1] = 1.0  # first pixel ON in half of the examples, second always: p of the channel is 3/4
    assert row(entropy(snapshot(net, of(half))), "0")["channel_mean"] == pytest.approx((quarter + 1 + 0) / 3)


def test_exactly_zero_is_off() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Linear(2, K))
    found = entropy(snapshot(net, of(torch.tensor([[0.0, 0.0], [-0.0, 1.0]]))))
    assert found.arrays["0"].tolist() == [0, 1]
    assert row(found, "0")["mean"] == 0.5


def test_layers_without_entropy_are_named() -> None:
    net = models.build(Model(name="mlp", kwargs={"widths": [5, 4, 3]}), (6,), K, 0)
    with torch.no_grad():
        net.get_parameter("hidden3.bias").copy_(torch.tensor([1e6, -1e6, -1e6]))
    found = entropy(snapshot(net, dataset()))
    said = row(found, "network")
    assert (said["zero_layers"], said["zero_layer_names"]) == (1, "relu3")
    assert [row(found, f"relu{i}")["zero"] for i in (1, 2, 3)] == [False, False, True]
    assert (row(found, "relu3")["constant"], row(found, "relu3")["off"]) == (3, 2)


def test_the_first_batch_is_the_released_script_on_one_random_batch() -> None:
    """The formula of DSD2's entropy.py, on the inputs of each ReLU, in torch as there."""
    data = dataset((3, 4, 4), count=1_500)
    net = models.build(Model(name="small-cnn", kwargs={"channels": [5, 2]}), (3, 4, 4), K, 0)
    seen = snapshot(net, data)
    found = entropy(seen)
    chosen = np.sort(streams.generator(seen.trial.seed, "analysis", "first-batch").permutation(1_500)[:400])
    x, values, neurons = data.train.inputs[torch.from_numpy(chosen)], [], []
    for name, module in net.named_children():
        if isinstance(module, nn.ReLU):
            plus = (x > 0).float().mean(0)
            minus = 1 - plus
            h = -plus * torch.log2(torch.clamp(plus, min=1e-5)) - minus * torch.log2(torch.clamp(minus, min=1e-5))
            values.append(h.mean().item())
            neurons.append(plus.shape[0])
            assert row(found, name)["first_batch"] == pytest.approx(values[-1], abs=1e-5)
        x = module(x)
    said = row(found, "network")
    assert neurons == [5, 2]
    assert said["first_batch"] == pytest.approx(np.mean(values), abs=1e-5)
    assert said["first_batch_weighted"] == pytest.approx(np.average(values, weights=neurons), abs=1e-5)
    assert said["first_batch"] != pytest.approx(said["mean"], abs=1e-4)
    assert row(entropy(replace(seen, level=7)), "network")["first_batch"] == said["first_batch"]


def test_the_floor_of_the_released_script_moves_no_share_of_400_examples() -> None:
    inputs = -torch.ones(400, 2)
    inputs[7, 0] = 1.0  # ON in one example; the other unit never
    found = entropy(snapshot(nn.Sequential(nn.ReLU(), nn.Linear(2, K)), of(inputs)))
    assert row(found, "0")["first_batch"] == pytest.approx(bits(np.array([1 / 400])).item() / 2, abs=1e-12)


class Functions(nn.Module):
    """Activations of every kind, called as functions and methods, some in place, one module twice."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.act, self.out, self.call = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, K), call

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.act(self.call(self.body(x))) - 0.3))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (functional.relu, "relu"),
        (lambda z: functional.relu(z, inplace=True), "relu"),
        (torch.relu, "relu"),
        (lambda z: z.relu(), "relu"),
        (lambda z: z.relu_(), "relu"),
        (functional.gelu, "gelu"),
        (functional.silu, "silu"),
        (functional.leaky_relu, "leaky_relu"),
        (torch.tanh, "tanh"),
        (lambda z: z.sigmoid(), "sigmoid"),
        (lambda z: z.sigmoid_(), "sigmoid"),
        (functional.relu6, "relu6"),
        (nn.GELU(), "call"),
        (nn.SiLU(), "call"),
        (nn.LeakyReLU(), "call"),
        (nn.Tanh(), "call"),
        (nn.PReLU(), "call"),
        (nn.ReLU6(), "call"),
        (nn.Hardswish(), "call"),
        (nn.ELU(inplace=True), "call"),
    ],
)
def test_activations_are_seen_however_they_are_called(call: Callable[[Tensor], Tensor], name: str) -> None:
    data, net = dataset(count=1_100), Functions(call)
    found = entropy(snapshot(net, data))
    assert [r["part"] for r in found.rows] == ["network", name, "act", "act:2"]
    with torch.no_grad():
        z = net.body(data.train.inputs)
        np.testing.assert_array_equal(found.arrays[name], (z > 0).sum(0))
        y = torch.relu(call(z.clone()))
        np.testing.assert_array_equal(found.arrays["act:2"], (y - 0.3 > 0).sum(0))


def test_a_network_without_activations_has_no_entropy() -> None:
    found = entropy(snapshot(nn.Sequential(nn.Linear(6, 5), nn.Softmax(1), nn.Linear(5, K)), dataset()))
    said = row(found, "network")
    assert (len(found.rows), said["layers"]) == (1, 0)
    assert said["mean"] is said["weighted"] is said["first_batch"] is None


class Tokens(nn.Module):
    """Attention over three tokens of two features, with torch's own encoder layer and its fused path."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.first = batch_first
        self.encoder = nn.TransformerEncoderLayer(2, 1, 7, activation="gelu", batch_first=batch_first)
        self.out = nn.Linear(6, K)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 3, 2)
        x = self.encoder(x) if self.first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
        return self.out(x.flatten(1))  # type: ignore[no-any-return]


def test_channels_of_a_transformer_are_its_features() -> None:
    line = row(entropy(snapshot(Tokens(), dataset())), "encoder.gelu")
    assert (line["units"], line["channels"]) == (3 * 7, 7)


def test_an_activation_that_does_not_keep_examples_first_is_left_out_and_counted() -> None:
    found = entropy(snapshot(Tokens(batch_first=False), dataset(count=1_003)))  # the last batch has as many as tokens
    said = row(found, "network")
    assert (said["layers"], said["uncounted"], said["mean"]) == (1, 1, None)
    assert row(found, "encoder.gelu")["mean"] is None
    assert not found.arrays


def test_channels_behind_a_convolution_and_its_batchnorm_follow_the_batch() -> None:
    def net(*tail: Any) -> nn.Module:
        return nn.Sequential(nn.Conv1d(2, 5, 2), *tail, nn.Flatten(), nn.Linear(10, K))

    for tail in ([nn.ReLU()], [nn.BatchNorm1d(5), nn.ReLU()]):
        found: Finding = entropy(snapshot(net(*tail), replace(dataset((2, 3)), test=split(5, (2, 3), 1))))
        assert found.rows[1]["channels"] == 5
        assert found.rows[1]["units"] == 10
