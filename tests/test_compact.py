"""The compacted network: it computes what the dense one does, and what no surviving path uses is gone."""

# B batch, C channels, N tokens, D features.

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional

from prunephase.exports.compact import Compacted, compact
from prunephase.exports.graph import ALONE
from prunephase.models import build
from prunephase.sections import Model

SPARSITIES = (0.0, 0.9, 0.98, 0.995)
SMALL: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "lenet-300-100": ({}, (1, 28, 28)),
    "mlp": ({"widths": [40, 30, 20]}, (1, 12, 12)),
    "small-cnn": ({}, (1, 16, 16)),
    "resnet18": ({"width": 8}, (3, 16, 16)),
    "resnet101": ({"width": 2}, (3, 8, 8)),
    "vgg-like": ({"delta": 2, "gamma": 4}, (3, 8, 8)),
    "vgg16": ({"width": 8}, (3, 16, 16)),
    "vit": ({"dim": 32, "depth": 2, "heads": 4, "mlp_dim": 48}, (3, 16, 16)),
}
CASES = [(name, sparsity) for name in SMALL for sparsity in (SPARSITIES if name != "resnet101" else (0.98,))]


def lived(network: nn.Module, seed: int) -> nn.Module:
    """Biases, BatchNorm statistics and scales as of a network that has trained, in float64."""
    draw = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.ndim == 1:
            value.copy_(torch.randn(value.shape, generator=draw) * 0.3)
            if "running_var" in name or name.endswith("weight"):
                value.abs_().add_(0.3)
    return network.double().eval()


def model(name: str, shape: tuple[int, ...], **kwargs: Any) -> nn.Module:
    """Of the library; normal weights, since of uniform ones some layers lose all at 90 %."""
    return lived(build(Model(name=name, kwargs=kwargs, init="he-paper"), shape, 10, 0), 1)


def weights(network: nn.Module) -> list[Tensor]:
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d)
    return [m.weight.data for m in network.modules() if isinstance(m, layers)]


def prune(network: nn.Module, sparsity: float) -> nn.Module:
    """Global magnitude pruning of all layers."""
    scores = torch.cat([w.abs().flatten() for w in weights(network)])
    gone = int(len(scores) * sparsity)
    if gone:
        bound = scores.kthvalue(gone).values
        for weight in weights(network):
            weight[weight.abs() <= bound] = 0
    return network


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def compacted(network: nn.Module, x: Tensor) -> Compacted:
    """`compact`, that the network was understood, and that it gives what the dense one does."""
    before = copy.deepcopy(network.state_dict())
    found = compact(network, x)
    assert isinstance(found.network, fx.GraphModule), found.kept
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    dense = copy.deepcopy(network).eval()
    with torch.no_grad():
        for inputs in (x, torch.randn(5, *x.shape[1:], dtype=x.dtype)):
            small, expected = found.network(inputs), dense(inputs)
            assert small.shape == expected.shape
            assert (small - expected).abs().max() <= 1e-10 * max(1, expected.abs().max())
    assert size(found.network) <= size(network) + sum(len(w) for w in weights(network))  # biases come at most
    named = {n: tuple(m.weight.shape) for n, m in found.network.named_modules() if hasattr(m, "weight")}
    assert found.after == named
    return found


@pytest.mark.parametrize(("name", "sparsity"), CASES)
def test_a_pruned_network_computes_the_same_with_less(name: str, sparsity: float) -> None:
    kwargs, shape = SMALL[name]
    network = prune(model(name, shape, **kwargs), sparsity)
    x = torch.randn(3, *shape, dtype=torch.double)
    found = compacted(network, x)
    assert network(x).std(0).sum() > 0 or sparsity > 0.9  # what collapses to a constant is no test
    if sparsity == 0:
        assert found.before == found.after
    if sparsity > 0.98:
        assert size(found.network) < 0.8 * size(network)


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", SMALL)
def test_so_does_one_of_full_size(name: str, sparsity: float) -> None:
    shape = (1, 28, 28) if name in ("lenet-300-100", "mlp", "small-cnn") else (3, 32, 32)
    network = prune(model(name, shape), sparsity)
    compacted(network, torch.randn(2, *shape, dtype=torch.double))


def test_the_max_pool_stem_of_a_resnet_is_understood() -> None:
    network = prune(model("resnet18", (3, 16, 16), width=8, max_pool=True), 0.98)
    found = compacted(network, torch.randn(3, 3, 16, 16, dtype=torch.double))
    assert size(found.network) < 0.9 * size(network)


# ---- perceptrons: the arithmetic by hand


def perceptron(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).double()


X = torch.randn(6, 5, dtype=torch.double, generator=torch.Generator().manual_seed(7))


def test_a_unit_without_inputs_becomes_a_bias() -> None:
    network = perceptron(5, 4, 3)
    first, last = network[0], network[2]
    first.weight.data[[1, 3]] = 0
    first.bias.data[1], first.bias.data[3] = 2.0, -2.0  # the second is below zero: it gives nothing at all
    found = compacted(network, X)
    assert found.after == {"0": (2, 5), "2": (3, 2)}
    assert torch.equal(found.network.get_submodule("2").bias, last.bias + 2.0 * last.weight[:, 1])


def test_a_unit_that_nobody_reads_goes_and_so_does_what_it_alone_reads() -> None:
    network = perceptron(5, 4, 3, 2)
    network[4].weight.data[:, 2] = 0
    network[2].weight.data[:2, 1] = 0
    network[0].weight.data[[0, 2, 3], 4] = 0  # input 4 feeds unit 1 alone, which feeds the unread unit alone
    found = compacted(network, X)
    assert found.after == {"0": (3, 5), "2": (2, 3), "4": (2, 2)}  # a single input is not worth a copy of the others


def test_inputs_that_nobody_reads_are_left_aside() -> None:
    network = perceptron(50, 20, 3)
    network[0].weight.data[:, 10:] = 0
    x = torch.randn(6, 50, dtype=torch.double)
    found = compacted(network, x)
    assert found.after["0"] == (20, 10)
    assert torch.equal(dict(found.network.named_buffers())["_0_inputs"], torch.arange(10))


class Readers(nn.Module):
    """Two layers that read the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.many, self.few = nn.Linear(5, 80), nn.Linear(80, 3), nn.Linear(80, 3)
        self.many.weight.data[:, :10] = self.few.weight.data[:, :10] = self.few.weight.data[:, 20:] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.many(x) + self.few(x)  # type: ignore[no-any-return]


def test_a_layer_is_given_the_units_that_it_reads_of_those_that_are_left() -> None:
    assert compacted(Readers().double(), X).after == {"first": (70, 5), "many": (3, 70), "few": (3, 10)}


def test_a_dead_layer_makes_the_network_a_constant() -> None:
    network = perceptron(50, 4, 3, 2)
    network[2].weight.data.zero_()
    x = torch.randn(6, 50, dtype=torch.double)
    found = compacted(network, x)
    assert found.after == {"0": (1, 1), "2": (1, 1), "4": (2, 1)}  # no kernel takes an empty tensor
    with torch.no_grad():
        assert torch.equal(found.network(x), network(x[:1]).expand(6, -1))


def test_what_was_float32_in_training_mode_comes_back_float32_in_eval_mode() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 3))
    network[0].weight.data[1] = 0
    found = compact(network, X.float())
    assert found.after == {"0": (3, 5), "3": (3, 3)}
    assert network.training
    assert not any(module.training for module in found.network.modules())
    assert {p.dtype for p in found.network.parameters()} == {torch.float32}
    with torch.no_grad():
        assert torch.allclose(found.network(X.float()), network.eval()(X.float()), atol=1e-6)


# ---- convolutions


def convolutions(padding: int | str, mode: str = "zeros", *between: nn.Module) -> nn.Sequential:
    """Two convolutions; channels 1, 2 and 4 of the first are constants, of which 4 is zero behind the ReLU."""
    torch.manual_seed(0)
    second = nn.Conv2d(6, 5, 3, padding=padding, bias=False, padding_mode=mode)
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), *between, second, nn.Flatten(), nn.LazyLinear(3)).double()
    network(IMAGES)
    network[0].weight.data[[1, 2, 4]] = 0
    network[0].bias.data[[1, 2, 4]] = torch.tensor([0.5, 2.0, -1.0], dtype=torch.double)
    return network.eval()


IMAGES = torch.randn(3, 2, 9, 9, dtype=torch.double, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize(
    ("padding", "mode", "left"), [(0, "zeros", 3), (1, "circular", 3), (1, "reflect", 3), (1, "zeros", 4)]
)
def test_a_constant_channel_is_one_behind_padding_only_where_it_pads_itself(padding: int, mode: str, left: int) -> None:
    found = compacted(convolutions(padding, mode), IMAGES)
    assert found.after["0"] == (left, 2, 3, 3)  # with zeros around, one channel stands for both constants
    assert found.after["2"] == (5, left, 3, 3)


def test_taps_that_never_meet_the_padding_read_no_constants() -> None:
    network = convolutions(1)
    network[2].weight.data[:, [1, 2]] *= torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert compacted(network, IMAGES).after["2"] == (5, 3, 3, 3)


def test_constants_pass_batch_norm_and_pools() -> None:
    between = (nn.BatchNorm2d(6), nn.AvgPool2d(2, 1), nn.MaxPool2d(2, 1))
    network = lived(convolutions(0, "zeros", *between), 3)
    network[0].bias.data[4] = -1.0
    found = compacted(network, IMAGES)
    assert (found.after["0"], found.after["2"], found.after["5"][1]) == ((3, 2, 3, 3), (3,), 3)


def test_an_average_that_counts_padding_makes_no_constant() -> None:
    network = convolutions(0, "zeros", nn.AvgPool2d(3, 1, padding=1))
    assert compacted(network, IMAGES).after["0"] == (5, 2, 3, 3)  # all but the channel of zeros


def test_a_map_of_constants_that_differ_still_folds_behind_a_flatten() -> None:
    network = convolutions(1)
    network[0].weight.data.zero_()  # the second convolution makes of its constants another number at each border
    found = compacted(network, IMAGES)
    assert (found.after["2"], found.after["4"]) == ((1, 1, 3, 3), (3, 1))


# ---- sums


class Residual(nn.Module):
    """A stem, a block of two convolutions added to it, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.output = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x
        x = self.relu(y)
        return self.output(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_a_branch_that_is_constant_vanishes_and_leaves_its_shift() -> None:
    network = lived(Residual(), 0)
    network.conv2.weight.data.zero_()
    found = compacted(network, IMAGES)
    assert found.after == {"stem": (6, 2, 3, 3), "output": (3, 6)}
    shift = {name: tuple(b.shape) for name, b in found.network.named_buffers()}
    assert list(shift.values()) == [(1, 6, 1, 1)]


def test_a_branch_of_zeros_leaves_nothing() -> None:
    network = lived(Residual(), 0)
    network.conv2.weight.data.zero_()
    network.bn2.weight.data.zero_()
    network.bn2.bias.data.zero_()
    found = compacted(network, IMAGES)
    assert found.after == {"stem": (6, 2, 3, 3), "output": (3, 6)}
    assert not list(found.network.buffers())


def test_a_sum_of_constants_is_one() -> None:
    network = lived(Residual(), 0)
    network.stem.weight.data.zero_()
    network.conv2.weight.data.zero_()
    found = compacted(network, IMAGES)
    assert found.after["output"] == (3, 1)


def test_a_dead_block_within_a_branch_goes() -> None:
    network = lived(Residual(), 0)
    network.conv1.weight.data.zero_()  # constants meet the padding of conv2: one channel carries them all
    found = compacted(network, IMAGES)
    assert (found.after["conv1"], found.after["conv2"]) == ((1, 1, 3, 3), (6, 1, 3, 3))


def test_a_channel_of_a_sum_goes_where_nobody_reads_it_or_all_its_parts_are_constant() -> None:
    network = lived(Residual(), 0)
    network.output.weight.data[:, 0] = network.conv1.weight.data[:, 0] = 0  # unread
    network.stem.weight.data[[1, 2]] = network.conv2.weight.data[[1, 2]] = 0  # constant in both
    network.stem.weight.data[3] = 0  # constant in the stem alone
    network.stem.bias.data[[1, 2, 3]] = torch.tensor([0.2, 0.3, 0.4], dtype=torch.double)  # 3 carries what conv1 pads
    found = compacted(network, IMAGES)
    assert [found.after[name][0] for name in ("stem", "conv2", "bn2")] == [3, 3, 3]
    assert found.after["output"] == (3, 3)


# ---- attention


def vit(**kwargs: Any) -> nn.Module:
    small = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 12, "patch": 4}
    return model("vit", (2, 8, 8), **(small | kwargs))


VIEWS = torch.randn(3, 2, 8, 8, dtype=torch.double, generator=torch.Generator().manual_seed(9))


def test_features_of_heads_and_units_of_the_perceptron_go() -> None:
    network = vit()
    attention, mlp = network.blocks[0].attention, network.blocks[0].mlp
    rows = attention.qkv.weight.data.view(3, 2, 8, 16)  # of q, k and v, of each head
    rows[0, 0, :3] = rows[1, 0, 3] = 0  # head 0 loses four features of queries and keys, head 1 two
    rows[1, 1, [2, 5]] = 0
    attention.project.weight.data[:, [0, 9]] = rows[2, 0, 7] = 0  # values: two and one
    mlp[0].weight.data[[0, 4]] = mlp[3].weight.data[:, [4, 6]] = 0
    found = compacted(network, VIEWS)
    assert found.after["blocks.0.attention.qkv"] == (6 * 2 * 2 + 7 * 2, 16)
    assert found.after["blocks.0.attention.project"] == (16, 14)
    assert found.after["blocks.0.mlp.0"] == (9, 16)
    assert "LayerNorm" in found.kept or "cat" in found.kept


def test_a_head_that_is_not_read_goes() -> None:
    network = vit()
    network.blocks[0].attention.project.weight.data[:, 8:] = 0
    found = compacted(network, VIEWS)
    assert found.after["blocks.0.attention.qkv"] == (24, 16)


def test_attention_without_values_is_a_constant() -> None:
    network = vit()
    network.blocks[0].attention.qkv.weight.data[32:] = 0
    found = compacted(network, VIEWS)
    assert not any("attention" in name for name in found.after)


class Heads(nn.Module):
    """Attention as others write it: three layers with biases, reshape and permute, or chunks of one layer."""

    def __init__(self, chunks: bool, **kwargs: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.chunks, self.kwargs = chunks, kwargs
        self.queries, self.keys, self.values = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 12)
        self.qkv, self.project = nn.Linear(8, 36), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        size, tokens, _ = x.shape
        if self.chunks:
            q, k, v = self.qkv(x).chunk(3, -1)
        else:
            q, k, v = self.queries(x), self.keys(x), self.values(x)
        q, k, v = (part.reshape(size, tokens, 3, 4).permute(0, 2, 1, 3) for part in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, **self.kwargs)
        return self.project(y.permute(0, 2, 1, 3).reshape(size, tokens, 12)).mean(1)  # type: ignore[no-any-return]


SEQUENCES = torch.randn(4, 7, 8, dtype=torch.double, generator=torch.Generator().manual_seed(10))


@pytest.mark.parametrize("kwargs", [{}, {"is_causal": True}, {"scale": 0.3}])
@pytest.mark.parametrize("chunks", [True, False])
def test_attention_is_understood_however_it_is_laid_out(chunks: bool, kwargs: dict[str, Any]) -> None:
    network = Heads(chunks, **kwargs).double()
    if chunks:
        queries, keys, values = network.qkv.weight.data.chunk(3)
    else:
        queries, keys, values = (getattr(network, name).weight.data for name in ("queries", "keys", "values"))
    keys[[0, 1, 4, 5, 8]] = 0  # constant keys: the same for all tokens, so softmax does not see them
    queries[9] = 0  # a constant query is seen
    values[[0, 5, 10]] = 0  # a constant value goes into the bias behind
    found = compacted(network, SEQUENCES)
    wide = {name: shape[0] for name, shape in found.after.items()}
    assert wide == ({"qkv": 27} if chunks else {"queries": 9, "keys": 9, "values": 9}) | {"project": 5}


class Started(Heads):
    """The same behind a token that is a constant, which its values are for that token alone."""

    def __init__(self) -> None:
        super().__init__(chunks=True)
        self.token = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([self.token.expand(x.shape[0], 1, 8), x], 1))


def test_what_is_constant_in_one_token_is_no_constant() -> None:
    network = Started().double()
    assert compacted(network, SEQUENCES).after == {"qkv": (36, 8), "project": (5, 12)}


class Scrambled(Heads):
    """Cuts heads across tokens, and adds its queries to what it gives."""

    def __init__(self, across: bool, peek: bool) -> None:
        super().__init__(chunks=False)
        self.across, self.peek = across, peek

    def forward(self, x: Tensor) -> Tensor:
        size, tokens, _ = x.shape
        q, k, v = self.queries(x), self.keys(x), self.values(x)
        cut = [part.reshape(size, 3, tokens, 4) for part in (q, k, v)]
        if not self.across:
            cut = [part.reshape(size, tokens, 3, 4).transpose(1, 2) for part in (q, k, v)]
        y = functional.scaled_dot_product_attention(*cut).transpose(1, 2).flatten(2)
        return self.project(y) + q[:, :, :5] if self.peek else self.project(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("across", "peek"), [(True, False), (False, True), (False, False)])
def test_attention_that_does_more_with_its_parts_keeps_their_features(across: bool, peek: bool) -> None:
    network = Scrambled(across, peek).double()
    network.queries.weight.data[[0, 4, 8]] = network.queries.bias.data[[0, 4, 8]] = 0
    after = compacted(network, SEQUENCES).after
    assert after["queries"][0] == (12 if across or peek else 9)


@pytest.mark.parametrize("kwargs", [{"attn_mask": torch.ones(7, 7).tril().bool()}, {"dropout_p": 0.5}])
def test_attention_with_more_to_it_keeps_its_features(kwargs: dict[str, Any]) -> None:
    network = Heads(True, **kwargs).double()
    network.qkv.weight.data[:12] = 0
    found = compact(network, SEQUENCES)
    assert found.before | found.after == found.before


# ---- other people's networks


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Twice(nn.Module):
    """A layer and a BatchNorm that are called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.output = nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.output(torch.relu(self.norm(self.first(x))))  # type: ignore[no-any-return]


class Overwriting(nn.Module):
    """Its ReLU works in place on what the shortcut reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(functional.relu(x, True)) + x  # type: ignore[no-any-return]


class Sized(nn.Module):
    """Names the number of its channels as it flattens and scales, as much published code does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.output = nn.Conv2d(2, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        x = functional.adaptive_avg_pool2d(x, 1) / x.shape[1] ** 0.5
        return self.output(x.view(-1, 6))  # type: ignore[no-any-return]


class Mixing(nn.Module):
    """A grouped convolution, a softmax over channels and a product with a parameter, before and behind layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=3)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.second, self.output = nn.Conv2d(6, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.softmax(self.grouped(torch.relu(self.first(x))), 1) * self.scale
        x = functional.max_pool2d(torch.relu(self.second(x)), 2)
        return self.output(functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


class Gated(nn.Module):
    """Squeeze and excitation: channels times what is computed of all of them; flattened by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)
        self.output = nn.Linear(6 * 49, 3)
        self.output.weight.data[:, :98] = 0  # two channels

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean([2, 3], True)))))
        return self.output((x * gate).view(x.size(0), -1))  # type: ignore[no-any-return]


def zeroed(network: nn.Module, seed: int = 0, density: float = 0.4) -> nn.Module:
    """A third of the weights stay; so does about half of each layer's rows, and of its columns."""
    draw = torch.Generator().manual_seed(seed)
    for weight in weights(network):
        weight.mul_(torch.rand(weight.shape, generator=draw) < density)
        weight[torch.rand(len(weight), generator=draw) < 0.4] = 0
        weight[:, torch.rand(weight.shape[1], generator=draw) < 0.2] = 0
    return network


class Shared(nn.Module):
    """A softmax needs all channels of what a sum takes in as well; the layer behind the sum leaves one unread."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.output = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 6)
        self.output.weight.data[:, 2] = 0

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.second(x), self.first(x)
        share = torch.softmax(y, 1)
        return self.output(torch.relu(x + y)) + share  # type: ignore[no-any-return]


class Sideways(nn.Module):
    """A linear layer along the width of a map, and a module and an argument with the names of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dim, self.output = nn.Conv2d(2, 7, 3), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, relu: Tensor) -> Tensor:
        return self.output(torch.relu(self.dim(self.first(relu)))).mean([1, 2])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "x", "whole", "smaller"),
    [
        (Twice, X, {"first": 5, "norm": 5}, {}),
        (Sized, IMAGES, {"conv": 6}, {}),
        (Mixing, IMAGES, {"first": 6, "grouped": 6}, {"second": 4}),
        (Gated, IMAGES, {}, {"conv": 6, "excite": 6, "squeeze": 4}),
        (Sideways, IMAGES, {"first": 7}, {"dim": 6}),
    ],
)
def test_what_is_not_understood_keeps_its_channels(
    make: Callable[[], nn.Module], x: Tensor, whole: dict[str, int], smaller: dict[str, int]
) -> None:
    after = compacted(zeroed(lived(make(), 0)), x).after
    assert {name: after[name][0] for name in whole} == whole
    assert all(after[name][0] < width for name, width in smaller.items())


class Two(nn.Module):
    """Gives a pair."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, -x


def test_more_than_one_output_is_left_as_it_is() -> None:
    found = compact(nn.Sequential(nn.Linear(5, 4), Two()).double(), X)
    assert found.kept == "The network is left as it is: it gives a tuple, expected one tensor."


@pytest.mark.parametrize("make", [Branching, Overwriting])
def test_what_cannot_be_read_is_left_as_it_is(make: Callable[[], nn.Module]) -> None:
    network = nn.Sequential(nn.Linear(5, 5), make()).double()
    network[0].weight.data[1:4] = 0
    found = compact(network, X)
    assert found.before == found.after
    assert found.kept.startswith("The network is left as it is: ")
    with torch.no_grad():
        assert torch.equal(found.network(X), network(X))


def test_a_sum_keeps_what_one_of_its_parts_needs_elsewhere() -> None:
    assert compacted(lived(Shared(), 0), X).after == {"first": (6, 5), "second": (6, 5), "output": (6, 6)}


class Around(nn.Module):
    """Something between two layers."""

    def __init__(self, first: nn.Module, between: Callable[[Tensor], Tensor], last: nn.Module) -> None:
        super().__init__()
        self.lines, self.first, self.between, self.last = nn.Flatten(2), first, between, last

    def forward(self, x: Tensor) -> Tensor:
        x = x if isinstance(self.first, nn.Conv2d) else self.lines(x)
        return self.last(self.between(self.first(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("first", "between", "inputs"),
    [
        (nn.Conv2d(2, 6, 9), lambda x: x.view(-1, 6), 6),  # a size of its own
        (nn.Conv2d(2, 6, 9), lambda x: x.expand(-1, 6, 2, 2).flatten(1), 24),
        (nn.Conv2d(2, 7, 3), lambda x: x.mean(1).flatten(1), 49),  # over the channels
        (nn.Conv1d(2, 6, 73), lambda x: functional.max_pool2d(x, 3, 1, 1).flatten(1), 54),  # across the channels
        (nn.Linear(81, 6), nn.BatchNorm1d(2), 6),  # along another axis
        (nn.Conv2d(2, 6, 9), lambda x: functional.dropout(x.flatten(1), 0.0, True), 6),  # draws, if only ones
    ],
)
def test_what_names_or_mixes_channels_keeps_them(first: nn.Module, between: Any, inputs: int) -> None:
    network = lived(Around(first, between, nn.Linear(inputs, 3)), 0)
    network.last.weight.data[:, : -(-inputs // 2)] = 0
    found = compacted(network, IMAGES)
    assert found.after["first"][0] == len(first.weight)


def test_tied_and_hooked_modules_stay_whole() -> None:
    network = perceptron(5, 5, 5, 5, 3)
    network[2].weight = network[4].weight
    for layer in (network[0], network[2]):
        layer.weight.data[[1, 2]] = 0
    network[6].register_forward_hook(lambda _, args, result: result + args[0][:, :3])
    network[6].weight.data[:, :4] = 0
    assert compacted(network, X).after == {"0": (5, 5), "2": (5, 5), "4": (5, 5), "6": (3, 5)}


def called(one: Any) -> str:
    """The same in every process, unlike str of a function."""
    return one if isinstance(one, str) else f"{getattr(one, '__module__', None) or 'torch'}.{one.__name__}"


@pytest.mark.parametrize("one", sorted(ALONE, key=called), ids=called)
def test_what_acts_on_channels_alone_makes_no_number_of_an_unknown_one(one: Any) -> None:
    torch.manual_seed(0)
    name = getattr(one, "__name__", str(one))
    space = next((int(d) for d in "123" if f"{d}d" in name), 2)
    sample = torch.randn(2, 3, *[6] * space, dtype=torch.double)
    more = {"expand": ((2, 3, 6, 6),)}.get(name, (2,) if "pool" in name.lower() else ())
    if name in ("add", "iadd", "sub", "mul", "div", "truediv", "add_"):
        more = (torch.randn_like(sample),)
    if isinstance(one, type):
        acts = one(*more).eval()
    elif isinstance(one, str):
        acts = lambda x: getattr(x, one)(*more)  # noqa: E731
    else:
        acts = lambda x: one(x, *more)  # noqa: E731
    sample[:, 1] = torch.nan
    result = acts(sample)
    assert result.shape[:2] == (2, 3)
    assert result.isnan().flatten(2).all(2).tolist() == [[False, True, False]] * 2


# ---- any network


ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Sigmoid, nn.Tanh)


class Block(nn.Module):
    """A sum of a branch and a shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.branch(x) + self.shortcut(x))  # type: ignore[no-any-return]


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """A perceptron or a convolutional network with norms, pools and sums, zeroed at random."""
    torch.manual_seed(draw(st.integers(0, 2**20)))
    width = st.integers(1, 7)
    body: list[nn.Module] = []
    channels = 2

    def convolution(into: int, out: int, size: int) -> nn.Module:
        mode = draw(st.sampled_from(["zeros", "zeros", "zeros", "circular", "replicate"]))
        return nn.Conv2d(into, out, size, padding=size // 2, bias=draw(st.booleans()), padding_mode=mode)

    def activation() -> nn.Module:
        return draw(st.sampled_from(ACTIVATIONS))()

    for _ in range(draw(st.integers(0, 3))):
        out = draw(width)
        size = draw(st.sampled_from([1, 3]))
        if draw(st.booleans()):
            middle = draw(width)
            branch = [convolution(channels, middle, size), nn.BatchNorm2d(middle), activation()]
            branch.append(convolution(middle, out, size))
            same = out == channels and draw(st.booleans())
            shortcut = nn.Identity() if same else nn.Sequential(convolution(channels, out, 1), nn.BatchNorm2d(out))
            body.append(Block(nn.Sequential(*branch), shortcut, activation()))
        else:
            body += [convolution(channels, out, size), activation()]
            body += [nn.BatchNorm2d(out)] * draw(st.integers(0, 1))
        body += draw(
            st.sampled_from([[], [nn.MaxPool2d(2, ceil_mode=True)], [nn.AvgPool2d(3, 1, padding=1)], [nn.Dropout2d()]])
        )
        channels = out
    body.append(draw(st.sampled_from([nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(2), nn.Identity()])))
    body.append(nn.Flatten())
    features = nn.Sequential(*body)(torch.zeros(2, 2, 5, 5)).shape[1]
    for _ in range(draw(st.integers(0, 2))):
        out = draw(width)
        body += [nn.Linear(features, out), *[nn.BatchNorm1d(out)] * draw(st.integers(0, 1)), activation()]
        features = out
    network = lived(nn.Sequential(*body, nn.Linear(features, 3)), draw(st.integers(0, 2**20)))
    return zeroed(network, draw(st.integers(0, 2**20)), draw(st.sampled_from([0.02, 0.1, 0.3, 0.7])))


@settings(max_examples=40)
@given(networks())
def test_any_network_computes_the_same(network: nn.Module) -> None:
    compacted(network, torch.randn(2, 2, 5, 5, dtype=torch.double))


@pytest.mark.slow
@settings(max_examples=3000)
@given(networks())
def test_very_many_networks_compute_the_same(network: nn.Module) -> None:
    compacted(network, torch.randn(2, 2, 5, 5, dtype=torch.double))
