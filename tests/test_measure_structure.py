"""Structure: paths worked by hand, paths found by trying, and the next level as the ladder makes it."""

# O outputs and I inputs of a layer.

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from measured import K, dataset, row, snapshot
from prunephase import models, study
from prunephase.bench import Bench, Site
from prunephase.measure.reach import reach
from prunephase.measure.structure import ahead, collapses, macs, structure
from prunephase.revive import snapshot as revived
from prunephase.sections import Model, Pruning, Restart
from prunephase.store import Store
from prunephase.trial import Trial


def test_paths_of_a_small_chain_worked_by_hand() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    masks = {
        "0.weight": torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 1, 0]]),  # unit 1 unfed
        "2.weight": torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),  # unit 3 below unread, unit 1 unfed
        "4.weight": torch.tensor([[1, 1, 0], [0, 1, 0]]),  # unit 2 below unread; output 1 unfed
    }
    seen = snapshot(net, dataset((3,)), {name: mask.bool() for name, mask in masks.items()})
    found = structure(seen)
    # On a path are 0-0, then 0-0, then 0-0: unit 2 of the first layer leads to unit 2 of the second, which none reads.
    first, second, last, whole = (row(found, name) for name in ("0", "2", "4", "network"))
    assert (first["units"], first["unfed"], first["unread"], first["dead"]) == (4, 1, 2, 3)
    assert (second["units"], second["unfed"], second["unread"], second["dead"]) == (3, 1, 1, 2)
    assert (last["units"], last["unfed"], last["unread"]) == (2, 1, 0)
    assert [line["effective_density"] for line in (first, second, last)] == [1 / 12, 1 / 12, 1 / 6]
    assert [line["density"] for line in (first, second, last)] == [5 / 12, 4 / 12, 3 / 6]
    assert (whole["sparsity"], whole["effective_sparsity"]) == (1 - 12 / 30, 1 - 3 / 30)
    assert (whole["units"], whole["dead"], whole["exact"]) == (7, 5, True)


class Residual(nn.Module):
    """Convolutions, one in groups, BatchNorm, a pool, a branch that is read twice, a sum and a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, groups=2)
        self.gain, self.pool, self.out = nn.Parameter(torch.ones(4, 1, 1)), nn.MaxPool2d(2), nn.Linear(4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        y = self.b(nn.functional.relu(self.a(x)))
        count = y.size(0)
        return self.out(self.pool(x + self.gain * y).view(count, -1))  # type: ignore[no-any-return]


def felt(net: nn.Module, masks: dict[str, Tensor], shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Weights on a path, found by trying: where inputs and weights are positive and biases 0, the sum of the outputs
    has a slope along a surviving weight exactly where a path runs through it. Pools take means and images wrap around,
    so that every tap of a kernel meets pixels and no maximum hides one."""
    net = net.double().eval()
    for name, module in list(net.named_children()):
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular" if module.padding != (0, 0) else "zeros"
            module._reversed_padding_repeated_twice = [p for p in reversed(module.padding) for _ in range(2)]  # type: ignore[misc]
        if isinstance(module, nn.MaxPool2d):
            setattr(net, name, nn.AvgPool2d(2))
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.copy_(torch.rand(value.shape, dtype=torch.float64) + 0.5 if "bias" not in name else 0 * value)
            value.mul_(masks.get(name, torch.ones(())))
    net(torch.rand(2, *shape, dtype=torch.float64) + 0.1).sum().backward()
    return {name: (net.get_parameter(name).grad != 0) & mask for name, mask in masks.items()}  # type: ignore[operator]


def network(kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    if kind == "residual":
        return Residual(), (2, 4, 4)
    if kind == "cnn":
        return models.build(Model(name="small-cnn", kwargs={"channels": [4, 3]}), (2, 4, 4), 3, 0), (2, 4, 4)
    return models.build(Model(name="mlp", kwargs={"widths": [7, 5]}), (6,), 3, 0), (6,)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["mlp", "cnn", "residual"])
def test_effective_weights_are_those_that_a_positive_network_feels(kind: str, seed: int) -> None:
    net, shape = network(kind)
    torch.manual_seed(seed)
    share = 0.05 + 0.04 * seed
    masks = {
        name: torch.rand(value.shape) < share
        for name, value in net.named_parameters()
        if value.ndim > 1 and name != "gain"
    }
    ways = reach(net, masks, torch.rand(2, *shape))
    assert ways is not None
    assert ways.exact
    assert len(ways.last) == 1
    for name, expected in felt(net, masks, shape).items():
        assert torch.equal(ways.used[name], expected), name


def test_a_bias_feeds_nothing_and_a_shortcut_does() -> None:
    net = Residual()
    masks = {"a.weight": torch.zeros(4, 4, 3, 3, dtype=torch.bool)}
    ways = reach(net, masks, torch.rand(2, 2, 4, 4))
    assert ways is not None
    assert not ways.fed["a.weight"].any()
    assert ways.read["a.weight"].all()
    assert not ways.used["b.weight"].any()  # nothing enters the branch
    assert ways.used["out.weight"].all()  # the shortcut carries the signal
    assert ways.used["stem.weight"].all()


class Mixed(nn.Module):
    """An operation that is not known between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.cumsum(self.one(x), 1).chunk(1, 1)[0])  # type: ignore[no-any-return]


def test_what_is_not_known_is_taken_to_mix_everything_and_said() -> None:
    masks = {"one.weight": torch.zeros(4, 6, dtype=torch.bool), "two.weight": torch.zeros(3, 4, dtype=torch.bool)}
    masks["one.weight"][1, 2] = masks["two.weight"][0, 3] = True
    found = structure(snapshot(Mixed(), dataset((6,)), masks))
    whole = row(found, "network")
    assert (whole["exact"], whole["effective_density"]) == (False, 2 / 36)
    masks["one.weight"].zero_()
    assert row(structure(snapshot(Mixed(), dataset((6,)), masks)), "network")["effective_density"] == 0


def test_a_linear_layer_along_another_dimension_mixes_the_channels() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Linear(5, 3), nn.Flatten(), nn.Linear(4 * 3, 2))
    masks = {"0.weight": torch.ones(4, 2, 1, 1).bool()}
    masks["0.weight"][1:] = False
    ways = reach(net, masks, torch.rand(2, 2, 1, 5))
    assert ways is not None
    assert not ways.exact
    assert ways.fed["0.weight"].tolist() == [True, False, False, False]
    assert ways.used["1.weight"].all()
    assert ways.used["3.weight"].all()
    assert ways.used["0.weight"][0].all()


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.two(x if x.sum() > 0 else -x)  # type: ignore[no-any-return]


def test_a_network_that_cannot_be_traced_has_its_nominal_sparsity_alone() -> None:
    masks = {"one.weight": torch.arange(24).view(4, 6) < 6}
    found = structure(snapshot(Untraceable(), dataset((6,)), masks))
    whole = row(found, "network")
    assert (whole["sparsity"], row(found, "one")["density"]) == (0.75, 0.25)
    assert whole["effective_sparsity"] is whole["dead"] is whole["exact"] is row(found, "one")["unfed"] is None


def test_a_transformers_perceptron_is_followed_along_its_features() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.act, self.down = nn.LayerNorm(2), nn.Linear(2, 5), nn.GELU(), nn.Linear(5, 2)
            self.out = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.view(-1, 3, 2)
            return self.out((x + self.down(self.act(self.up(self.norm(x))))).flatten(1))  # type: ignore[no-any-return]

    masks = {"up.weight": torch.ones(5, 2).bool(), "down.weight": torch.ones(2, 5).bool()}
    masks["up.weight"][0] = False  # unfed
    masks["down.weight"][:, 1:3] = False  # unread
    found = structure(snapshot(Tokens(), dataset((6,)), masks))
    line = row(found, "up")
    assert (line["unfed"], line["unread"], line["dead"], line["effective_density"]) == (1, 2, 3, 4 / 10)
    assert row(found, "down")["effective_density"] == 4 / 10
    assert row(found, "network")["exact"] is False  # LayerNorm mixes


@pytest.mark.parametrize("pruning", [{}, {"criterion": "gradient"}, {"criterion": "random"}, {"scope": "layer"}])
def test_the_next_level_is_the_one_that_the_ladder_makes(
    pruning: dict[str, Any], tiny: dict[str, Any], tmp_path: Path, train: Any
) -> None:
    tiny["pruning"] = {**tiny["pruning"], **pruning}
    assert train(tiny, tmp_path / "runs").code == 0
    (trial,) = study.parse(tiny).trials
    store = Store(tmp_path / "runs")
    bench = Bench(trial, Site(store.folder, "cpu", frozenset()))
    levels = [revived(store, trial, level, bench) for level in range(trial.pruning.levels + 1)]
    for now, then in pairwise(levels):
        masks = ahead(now)
        assert masks is not None
        assert all(torch.equal(masks[name], mask) for name, mask in then.masks.items())
        found = structure(now)
        for name, mask in then.masks.items():
            line = row(found, name.removesuffix(".weight"))
            assert (line["next_survivors"], line["collapses"]) == (int(mask.sum()), False)
    assert ahead(levels[-1]) is None
    assert row(structure(levels[-1]), "network")["collapses"] is None


def test_a_layer_that_the_next_level_would_empty_is_named() -> None:
    net = models.build(Model(name="mlp", kwargs={"widths": [4, 4]}), (4,), 4, 0)
    masks = {f"{name}.weight": torch.ones(4, 4, dtype=torch.bool) for name in ("hidden1", "hidden2", "output")}
    with torch.no_grad():
        for name in masks:
            net.get_parameter(name).fill_(1.0)
        net.get_parameter("hidden2.weight").fill_(0.1)
    trial = Trial(pruning=Pruning(fraction=0.5, levels=2))
    whole = row(structure(snapshot(net, dataset((4,)), masks, trial=trial, level=0)), "network")
    assert (whole["collapses"], whole["collapsing"]) == (1, "hidden2.weight")
    after = ahead(snapshot(net, dataset((4,)), masks, trial=trial, level=0))
    assert after is not None
    assert collapses(masks, after) == ["hidden2.weight"]
    assert collapses(after, after) == []  # it is empty already


@pytest.mark.parametrize(
    "trial",
    [
        Trial(pruning=Pruning(levels=3, ladder="one-shot")),
        Trial(pruning=Pruning(levels=3), restart=Restart(mode="re-init")),
        Trial(pruning=Pruning(levels=3, remask="layer")),
        Trial(pruning=Pruning(levels=3, criterion="mine:score")),
    ],
)
def test_a_next_level_that_does_not_follow_from_this_one_is_not_foretold(trial: Trial) -> None:
    net = models.build(Model(name="mlp"), (6,), K, 0)
    masks = {"hidden1.weight": torch.ones(300, 6, dtype=torch.bool)}
    assert ahead(snapshot(net, dataset(), masks, trial=trial, level=1)) is None


def test_multiplications_are_those_of_the_surviving_weights() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    masks = {"0.weight": torch.arange(30).reshape(5, 6) % 3 == 0, "2.weight": torch.arange(20).reshape(4, 5) < 5}
    seen = snapshot(network, dataset(), masks)
    assert macs(seen) == 10 + 5
    pictures = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 4 * 4, 4))
    half = {"0.weight": torch.arange(54).reshape(2, 3, 3, 3) % 2 == 0}
    seen = snapshot(pictures, dataset((3, 4, 4), 20, 10), half)
    assert macs(seen) == 27 * 16 + 32 * 4
