"""Channels that nothing reads: which they are, and that leaving them out changes nothing."""

# B batch, C channels.

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prunephase.data import Split
from prunephase.engine import fit
from prunephase.engine.channels import compacted, living
from prunephase.prune import zero_pruned
from prunephase.sections import Recipe

RECIPE = Recipe(epochs=5, batch_size=8, lr=0.05, momentum=0.9, weight_decay=0.01)  # 20 steps on 32 examples
INPUTS = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(5, (32,), generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """A stem whose channels pass through two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first = nn.Sequential(
            nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 6, 3, padding=1)
        )
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.first(x))
        x = torch.relu(self.second(x) + x)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def chain(*tail: nn.Module) -> nn.Sequential:
    """Two convolutions, a flatten over 4 x 4 positions and two linear layers."""
    body = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(6), nn.Conv2d(6, 7, 3, padding=1, bias=False)]
    head = [nn.BatchNorm2d(7), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *tail, nn.Linear(7 * 16, 9), nn.ReLU()]
    return nn.Sequential(*body, *head, nn.Linear(9, 5))


def masks_of(network: nn.Module, density: float = 0.6) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    layers = {n: m for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    return {f"{n}.weight": torch.rand(m.weight.shape, generator=draw) < density for n, m in layers.items()}


def pruned_chain(*tail: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """Unit 4 of the first linear layer is read by nobody; channel 2 of the second convolution by that unit alone."""
    torch.manual_seed(3)
    network = chain(*tail)
    masks = masks_of(network)
    first, last = (f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Linear))
    masks[last][:, 4] = False
    columns = masks[first].view(9, 7, 16)
    columns[:, 2] = False
    columns[4, 2] = True
    masks["3.weight"][:, [0, 5]] = False  # of the first convolution
    zero_pruned(network, masks)
    return network, masks


def pruned_residual() -> tuple[nn.Module, dict[str, Tensor]]:
    """Channel 3 of the stream is read by nobody; channel 1 by the first block alone."""
    torch.manual_seed(3)
    network = Residual()
    masks = masks_of(network)
    for name in ("first.0.weight", "second.0.weight", "head.weight"):
        masks[name][:, 3] = False
    masks["second.0.weight"][:, 1] = masks["head.weight"][:, 1] = False
    masks["first.0.weight"][:, 1] = True
    masks["first.3.weight"][:, 6] = False  # a channel within the first block
    masks["first.3.weight"][[0, 1, 2, 4, 5], 7] = False
    masks["first.3.weight"][3, 7] = True  # read for the dead channel of the stream only
    zero_pruned(network, masks)
    return network, masks


def outputs_of(network: nn.Module, masks: dict[str, Tensor]) -> dict[str, list[int]]:
    found = living(network, masks, INPUTS[:2])
    return {name: made.tolist() for name, (_, made) in found.modules.items()}


def test_a_channel_is_dead_where_only_dead_channels_read_it() -> None:
    network, masks = pruned_chain()
    assert outputs_of(network, masks) == {
        "0": [1, 2, 3, 4],
        "2": [1, 2, 3, 4],
        "3": [0, 1, 3, 4, 5, 6],
        "4": [0, 1, 3, 4, 5, 6],
        "8": [0, 1, 2, 3, 5, 6, 7, 8],
        "10": [0, 1, 2, 3, 4],
    }
    found = living(network, masks, INPUTS[:2])
    assert found.modules["8"][0].tolist() == [i for i in range(7 * 16) if i // 16 != 2]
    assert found.dead == 4
    whole = 64 * 9 * (3 * 6 + 6 * 7) + 112 * 9 + 9 * 5
    left = 64 * 9 * (3 * 4 + 4 * 6) + 96 * 8 + 8 * 5
    assert found.saved == pytest.approx(1 - left / whole)


def test_a_channel_of_a_residual_stream_is_dead_where_nobody_reads_it_at_any_place() -> None:
    network, masks = pruned_residual()
    stream = [0, 1, 2, 4, 5]
    assert outputs_of(network, masks) == {
        "stem": stream,
        "first.0": [0, 1, 2, 3, 4, 5],
        "first.1": [0, 1, 2, 3, 4, 5],
        "first.3": stream,
        "second.0": stream,
        "second.1": stream,
        "head": [0, 1, 2, 3, 4],
    }


def test_of_a_sum_all_channels_live_where_one_of_its_terms_is_computed_whole() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x) + x + self.second(x)).flatten(1)

    network = Sum()
    masks = masks_of(network)
    for mask in masks.values():
        mask[:, 1] = False
    assert outputs_of(network, masks) == {}


def test_a_channel_lives_however_long_the_way_to_the_output() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.up, self.down = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
            self.head = nn.Conv2d(6, 5, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.down(self.up(x))).flatten(1)

    network = Loop()
    masks = {f"{name}.weight": torch.zeros_like(m.weight, dtype=torch.bool) for name, m in network.named_children()}
    masks["head.weight"][:, 0] = True
    for i in range(4):  # channel i of the stream has channel i of the block, which has channel i + 1 of the stream
        masks["down.weight"][i, i] = masks["up.weight"][i, i + 1] = True
    assert outputs_of(network, masks) == {
        "stem": [0, 1, 2, 3, 4],
        "up": [0, 1, 2, 3],
        "down": [0, 1, 2, 3, 4],
        "head": [0, 1, 2, 3, 4],
    }


def test_channels_that_only_feed_each_other_around_a_residual_block_are_dead() -> None:
    network, masks = pruned_residual()
    masks["second.0.weight"][3, 3] = True  # the dead channel of the stream reads itself
    assert outputs_of(network, masks)["stem"] == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("pruned", [pruned_chain, pruned_residual])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_without_dead_channels_is_the_plain_loop(
    pruned: Callable[[], tuple[nn.Module, dict[str, Tensor]]], optimizer: str
) -> None:
    network, masks = pruned()
    network = network.double()
    twin = copy.deepcopy(network)
    start = copy.deepcopy(network.state_dict())
    train = Split(INPUTS.double(), LABELS, LABELS, torch.zeros(32, dtype=torch.bool), torch.arange(32))
    found = living(twin, masks, train.inputs[:2])
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "lr": 0.05 if optimizer == "sgd" else 1e-3})
    losses = [m.running_loss for m in fit(network, train, recipe, seed=0, level=1, masks=masks)]
    with compacted(twin, found):
        assert [m.running_loss for m in fit(twin, train, recipe, seed=0, level=1, masks=masks)] == pytest.approx(
            losses, rel=1e-12
        )
        inside = twin.eval()(train.inputs)
    torch.testing.assert_close(inside, network.eval()(train.inputs), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(twin(train.inputs), inside, rtol=1e-10, atol=1e-10)
    statistics = ("running_mean", "running_var")
    for name, value in network.state_dict().items():
        ours = twin.state_dict()[name]
        module, _, last = name.rpartition(".")
        if last in statistics and module in found.modules:
            made = found.modules[module][1]
            dead = [i for i in range(len(value)) if i not in made]
            assert torch.equal(ours[dead], start[name][dead])
            assert not torch.equal(ours[made], start[name][made])
            value, ours = value[made], ours[made]
        torch.testing.assert_close(ours, value, rtol=1e-10, atol=1e-12)


def test_in_float32_the_weights_after_20_steps_are_within_rounding() -> None:
    network, masks = pruned_chain()
    twin = copy.deepcopy(network)
    train = Split(INPUTS, LABELS, LABELS, torch.zeros(32, dtype=torch.bool), torch.arange(32))
    recipe = RECIPE.model_copy(update={"lr": 0.01, "momentum": 0.0})
    list(fit(network, train, recipe, seed=0, level=1, masks=masks))
    with compacted(twin, living(twin, masks, INPUTS[:2])):
        list(fit(twin, train, recipe, seed=0, level=1, masks=masks))
    ours, theirs = (torch.cat([p.detach().flatten() for p in n.parameters()]) for n in (twin, network))
    assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


def test_dead_parameters_get_a_zero_gradient() -> None:
    network, masks = pruned_residual()
    with compacted(network, living(network, masks, INPUTS[:2])):
        network(INPUTS).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
    for name in ("stem.weight", "stem.bias", "first.3.weight", "second.1.weight", "second.1.bias"):
        slope = network.get_parameter(name).grad
        assert slope is not None
        assert not slope[3].any()
        assert slope[0].any()


def test_a_layer_without_living_channels_still_computes() -> None:
    network, masks = pruned_chain()
    masks["3.weight"][:] = False
    zero_pruned(network, masks)
    expected = network(INPUTS)
    found = living(network, masks, INPUTS[:2])
    assert found.modules["0"][1].tolist() == [0]
    with compacted(network, found):
        torch.testing.assert_close(network(INPUTS), expected)


class Foreign(nn.Module):
    """Mixes channels in a way of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


@pytest.mark.parametrize("foreign", [nn.Dropout(0.5), Foreign(), nn.LayerNorm(7 * 16)])
def test_before_what_does_not_keep_channels_apart_or_draws_by_shape_all_channels_live(foreign: nn.Module) -> None:
    network, masks = pruned_chain(foreign)
    assert set(outputs_of(network, masks)) == {"0", "2", "3", "9", "11"}  # not 4, the BatchNorm before it
    found = living(network, masks, INPUTS[:2])
    assert found.modules["3"][1].tolist() == list(range(7))
    torch.manual_seed(0)
    expected = network(INPUTS)
    torch.manual_seed(0)
    with compacted(network, found):
        torch.testing.assert_close(network(INPUTS), expected)


class Branching(nn.Module):
    """Cannot be traced: its way depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.body = chain()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if x.sum() > 0 else -self.body(x)


class Moody(Branching):
    """Another network when it is evaluated."""

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if self.training else self.body(x).flip(1)


@pytest.mark.parametrize("kind", [Branching, Moody])
def test_of_a_network_that_has_no_one_graph_all_is_computed(kind: type[nn.Module]) -> None:
    _, masks = pruned_chain()
    found = living(kind(), {f"body.{name}": mask for name, mask in masks.items()}, INPUTS[:2])
    assert (found.modules, found.dead, found.saved) == ({}, 0, 0.0)


class Twice(nn.Module):
    """Called twice: a convolution, a BatchNorm by the name of an operation, and an activation without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 4), (4, 4), (4, 5)))
        self.relu, self.act = nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.body(self.relu(self.stem(x))))
        return self.head(self.act(self.relu(self.body(x)))).mean((2, 3))


def test_a_module_with_weights_that_is_called_twice_computes_all_its_channels() -> None:
    network = Twice()
    masks = masks_of(network)
    masks["head.weight"][:, 1] = masks["body.weight"][:, 1] = False
    assert outputs_of(network, masks) == {}


def test_an_activation_may_be_called_twice() -> None:
    act = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Conv2d(4, 4, 3), act, nn.Flatten(), nn.Linear(64, 2))
    masks = {"2.weight": torch.ones(4, 4, 3, 3, dtype=torch.bool)}
    masks["2.weight"][:, 1] = False
    assert outputs_of(network, masks) == {"0": [0, 2, 3], "2": [0, 1, 2, 3]}


def test_a_grouped_convolution_reads_all_channels() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten())
    masks = masks_of(network)
    masks["1.weight"][:] = False
    assert outputs_of(network, masks) == {}


def test_what_a_hook_may_see_is_computed() -> None:
    network, masks = pruned_chain()
    network.get_submodule("4").register_forward_hook(lambda _module, _given, out: 2 * out)
    assert "4" not in outputs_of(network, masks)


def test_the_slope_of_a_slope_is_that_of_the_whole_network() -> None:
    network, masks = pruned_residual()
    network = network.double()

    def penalty() -> dict[str, Tensor]:
        """Slopes, at the living weights, of a penalty on the slopes there."""
        names, weights = zip(*network.named_parameters(), strict=True)
        slopes = torch.autograd.grad(network(INPUTS.double()).square().sum(), weights, create_graph=True)
        sum((slope * masks.get(n, 1.0)).square().sum() for n, slope in zip(names, slopes, strict=True)).backward()
        found = {n: p.grad * masks.get(n, 1.0) for n, p in network.named_parameters() if p.grad is not None}
        network.zero_grad()
        return found

    expected = penalty()
    with compacted(network, living(network, masks, INPUTS[:2].double())):
        torch.testing.assert_close(penalty(), expected, rtol=1e-9, atol=1e-9)


def test_nothing_of_it_remains_and_a_copy_made_meanwhile_computes_with_its_own_weights() -> None:
    network, masks = pruned_chain()
    found = living(network, masks, INPUTS[:2])
    expected = network.eval()(INPUTS)
    with compacted(network, found):
        twin = copy.deepcopy(network)
        network.get_parameter("10.bias").data.add_(1.0)
        torch.testing.assert_close(twin(INPUTS), expected)
    assert not any("forward" in vars(module) for module in network.modules())
    pickle.dumps(network)
