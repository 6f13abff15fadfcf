"""Where the native kernels take over: measured once on a machine, and the same for everybody on it."""

# N examples, D features, K classes, T tokens.

from __future__ import annotations

import copy
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from campaign import kill_at
from prunephase import disk
from prunephase.data import Codes, Dataset, Split
from prunephase.engine import Job, takeover
from prunephase.engine.native.build import library
from prunephase.prune import leaked, zero_pruned
from prunephase.sections import Recipe

N, D, K = 40, 12, 3
needs_kernels = pytest.mark.skipif(library() is None, reason="needs a C compiler")


def split(count: int, shape: tuple[int, ...] = (D,)) -> Split:
    draw = torch.Generator().manual_seed(count)
    labels = torch.randint(0, K, (count,), generator=draw)
    inputs = torch.randn(count, *shape, generator=draw)
    return Split(inputs, labels, labels, torch.zeros(count, dtype=torch.bool), torch.arange(count))


def job(network: nn.Module, density: float = 0.3, shape: tuple[int, ...] = (D,), **recipe: Any) -> Job:
    """A level of `network` whose Linear weights are pruned at random."""
    draw = torch.Generator().manual_seed(0)
    weights = {name: p for name, p in network.named_parameters() if p.ndim == 2}
    masks = {name: torch.rand(p.shape, generator=draw) < density for name, p in weights.items()}
    zero_pruned(network, masks)
    data = Dataset(split(N, shape), split(8, shape), split(9, shape), ("a", "b", "c"), "")
    return Job(network, data, Recipe(**{"epochs": 2, "batch_size": 16, **recipe}), seed=0, level=1, masks=masks)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, K))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which kernels are there and nothing is measured yet."""
    monkeypatch.setenv("PRUNEPHASE_CACHE", str(tmp_path))
    monkeypatch.setattr(takeover, "library", lambda: SimpleNamespace(identity="0" * 16))
    return tmp_path


class Races:
    """A race whose dense work takes one second, and whose native work takes as long as `seconds` says of a density."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[float], float]) -> None:
        self.seconds, self.now, self.run = seconds, 0.0, list[float]()
        monkeypatch.setattr(takeover, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def __call__(self, density: float) -> tuple[Callable[[], None], Callable[[], None]]:
        self.run.append(density)
        return lambda: self._spend(self.seconds(density)), lambda: self._spend(1.0)

    def _spend(self, seconds: float) -> None:
        self.now += seconds


# -- the measurement


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda density: 0.5 + density, 0.25),
        (lambda density: 1.01 * (density > 0.02), 0.015),
        (lambda _density: 0.99, 1.0),
        (lambda _density: 1.0, 0.0),
        (lambda _density: 2.0, 0.0),
    ],
)
@pytest.mark.usefixtures("cache")
def test_the_kernels_take_over_at_the_highest_density_at_which_they_win(
    seconds: Callable[[float], float], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    races = Races(monkeypatch, lambda density: max(seconds(density), 1e-9))
    assert takeover.crossover("a", races) == expected
    lost = [density for density in takeover.DENSITIES if density > expected]
    assert races.run == [*lost, *([expected] if expected else [])]  # no more races than it takes


def test_densities_fall_and_include_the_dense_one() -> None:
    assert takeover.DENSITIES[0] == 1.0
    assert list(takeover.DENSITIES) == sorted(set(takeover.DENSITIES), reverse=True)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [((9.0, 0.9, 0.9, 9.0, 0.9, 9.0), 1.0), ((0.01, 1.1, 0.01, 1.1, 1.1, 0.01), 0.0)],  # the first warms up
)
@pytest.mark.usefixtures("cache")
def test_odd_rounds_do_not_decide(rounds: tuple[float, ...], expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    again = itertools.cycle(rounds)
    races = Races(monkeypatch, lambda _density: next(again))
    assert takeover.crossover("a", races) == expected
    assert next(again) == rounds[0]  # each race had all its rounds


def test_what_was_measured_is_not_measured_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    races = Races(monkeypatch, lambda density: 0.5 + density)
    found = [takeover.crossover(key, races) for key in ("a", "b", "a", "b", "a")]
    assert found == [0.25] * 5
    assert len(races.run) == 2 * 3
    faster = Races(monkeypatch, lambda _density: 0.1)
    assert takeover.crossover("a", faster) == 0.25  # not even where it would come out otherwise
    assert faster.run == []
    (path,) = cache.glob("takeover-*.json")
    assert json.loads(path.read_text()) == {"a": 0.25, "b": 0.25}


def test_other_kernels_are_measured_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert takeover.crossover("a", Races(monkeypatch, lambda density: 0.5 + density)) == 0.25
    monkeypatch.setattr(takeover, "library", lambda: SimpleNamespace(identity="1" * 16))
    assert takeover.crossover("a", Races(monkeypatch, lambda _density: 0.1)) == 1.0
    assert len(list(cache.glob("takeover-*.json"))) == 2


def test_without_kernels_nothing_is_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "library", lambda: None)
    races = Races(monkeypatch, lambda _density: 0.1)
    assert takeover.crossover("a", races) == 0.0
    assert races.run == []
    assert list(cache.iterdir()) == []


def forked(work: Callable[[], float]) -> int:
    """A process that ends with `work()` percent as its exit code; gives its number."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(round(100 * work()))
        finally:
            os._exit(99)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.usefixtures("cache")
def test_two_processes_agree() -> None:
    """Whoever comes first decides, for a race that would come out otherwise in each of them."""

    def race_won_at(wins: float) -> takeover.Race:
        return lambda density: (lambda: time.sleep(0.03 * (density != wins)), lambda: time.sleep(0.01))

    races = [race_won_at(wins) for wins in (0.5, 0.25)]
    children = [forked(lambda race=race: takeover.crossover("a", race)) for race in races]  # type: ignore[misc]
    codes = [exit_code(child) for child in children]
    assert codes in ([50, 50], [25, 25])


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("torn", [False, True])
def test_a_process_killed_while_it_writes_leaves_nothing_that_hurts(
    torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    races = Races(monkeypatch, lambda density: 0.5 + density)
    for point in range(1, 50):
        with monkeypatch.context() as patch:
            patch.setattr(disk, "os", kill_at(point, torn=torn))
            code = exit_code(forked(lambda point=point: takeover.crossover(f"key {point}", races)))  # type: ignore[misc]
        assert takeover.crossover(f"key {point}", races) == 0.25
        if code == 25:
            break
        assert code == -signal.SIGKILL
    assert point > 3  # it was killed at every step of its writing
    before = len(races.run)
    assert [takeover.crossover(f"key {n + 1}", races) for n in range(point)] == [0.25] * point
    assert len(races.run) == before  # and nothing was lost


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 20, b'{"a": 0.25'])
def test_a_damaged_note_is_measured_again(damage: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    races = Races(monkeypatch, lambda density: 0.5 + density)
    takeover.crossover("a", races)
    (path,) = cache.glob("takeover-*.json")
    path.write_bytes(damage)
    assert takeover.crossover("a", races) == 0.25
    assert json.loads(path.read_bytes()) == {"a": 0.25}


# -- what is measured


class Known:
    """Stands in for `crossover`: an answer for every key that is asked, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: float) -> None:
        self.keys: list[str] = []
        self.answer = answer
        monkeypatch.setattr(takeover, "crossover", self)

    def __call__(self, key: str, _race: Any) -> float:
        self.keys.append(key)
        return self.answer


def test_a_chain_takes_over_by_the_density_of_all_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    Known(monkeypatch, 0.5)
    some = job(mlp(), density=0.0)
    whole = some.network[0].weight.numel() + some.network[2].weight.numel()  # type: ignore[index, union-attr]
    for alive in (whole // 2, whole // 2 + 1):
        first = torch.zeros(8, D, dtype=torch.bool)
        first.view(-1)[: alive - 8 * K] = True
        masks = {"0.weight": first, "2.weight": torch.ones(K, 8, dtype=torch.bool)}
        assert takeover.chain(replace(some, masks=masks)) is (alive <= whole / 2)
        # A layer that is not pruned at all counts as dense.
        assert takeover.chain(replace(some, masks={"0.weight": first})) is (alive <= whole / 2)


def test_chains_that_cost_differently_are_measured_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(monkeypatch, 0.5)
    base = job(mlp())
    train = base.data.train
    codes = Codes(torch.zeros(N, D, dtype=torch.uint8), torch.ones(D), torch.zeros(D))
    kinds = [
        base,
        job(nn.Sequential(nn.Linear(D, 9), nn.ReLU(), nn.Linear(9, K))),
        job(nn.Sequential(nn.Linear(D, K))),
        job(mlp(), batch_size=17),
        job(mlp(), momentum=0.9),
        job(mlp(), optimizer="adamw"),
        replace(base, data=replace(base.data, train=replace(train, codes=codes))),
    ]
    for kind in kinds:
        takeover.chain(kind)
    assert len(set(known.keys)) == len(kinds)
    for same in (job(mlp(), density=0.9), job(mlp(), lr=0.5, epochs=7), replace(base, seed=5, level=9)):
        assert takeover.chain(same) in (True, False)
        assert known.keys[-1] == known.keys[0]


class Doubled(nn.Linear):
    """A layer of the user's that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Mixed(nn.Module):
    """Layers that are called in every way: as usual, on tokens, twice, by name, past the module, and not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(D, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.tokens, self.twice, self.named = nn.Linear(2, 4), nn.Linear(12, 12), nn.Linear(12, 12)
        self.past, self.never, self.other = nn.Linear(12, 12), nn.Linear(12, 12), Doubled(12, 12)
        self.last = nn.Linear(12, K)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.first(x)))
        x = self.tokens(x.view(-1, 3, 2)).flatten(1)
        x = self.named(input=self.twice(self.twice(x)))
        x = nn.functional.linear(x, self.past.weight, self.past.bias)
        return self.last(self.other(x))  # type: ignore[no-any-return]


def test_layers_are_chosen_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(monkeypatch, 0.5)
    mixed = job(Mixed())
    modes = {name: module.training for name, module in mixed.network.named_modules()}
    before = copy.deepcopy(mixed.network.state_dict())
    usual = {"first", "tokens", "twice", "last"}
    assert usual <= set(takeover.layers(mixed)) <= usual | {"named"}
    assert known.keys[:2] == [f"linear {D} to 6, 16 rows", "linear 2 to 4, 48 rows"]
    assert {name: module.training for name, module in mixed.network.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in mixed.network.state_dict().items())
    assert not any(module._forward_hooks for module in mixed.network.modules())

    dense = {**mixed.masks, "first.weight": torch.ones_like(mixed.masks["first.weight"])}
    half = torch.zeros(K, 12, dtype=torch.bool)
    half.view(-1)[:18] = True
    more = half.clone()
    more.view(-1)[18] = True
    assert "first" not in takeover.layers(replace(mixed, masks=dense))
    assert "last" in takeover.layers(replace(mixed, masks={"last.weight": half}))
    assert takeover.layers(replace(mixed, masks={"last.weight": more})) == ()
    assert takeover.layers(replace(mixed, masks={})) == ()


class Bare(nn.Linear):
    """A network that is itself one layer, whose weight has no module's name before it."""


@pytest.mark.parametrize("network", [nn.Linear(D, K), Bare(D, K)])
def test_a_network_may_be_one_layer(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    Known(monkeypatch, 0.5)
    assert set(takeover.layers(job(network))) <= {""}


# -- real races


@needs_kernels
@pytest.mark.parametrize("recipe", [{}, {"momentum": 0.9}, {"optimizer": "adamw"}], ids=str)
def test_a_race_leaves_everything_as_it_was(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEPHASE_CACHE", str(tmp_path))
    monkeypatch.setattr(takeover, "ROUNDS", 1)
    torch.set_num_threads(2)
    try:
        for network, decide in ((mlp(), takeover.chain), (Mixed(), takeover.layers)):
            some = job(network, **recipe)
            before = copy.deepcopy(network.state_dict())
            assert decide(some) == decide(some)
            assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
            assert torch.get_num_threads() == 2
            assert all(p.grad is None for p in network.parameters())
    finally:
        torch.set_num_threads(1)
    (path,) = tmp_path.glob("takeover-*.json")
    found: dict[str, float] = json.loads(path.read_text())
    assert len(found) >= 5
    assert set(found.values()) <= {0.0, *takeover.DENSITIES}


@needs_kernels
def test_a_race_is_run_at_the_density_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []

    def watched(name: str, real: Any) -> Any:
        def way(some: Job) -> Any:
            assert leaked(some.network, some.masks) == 0
            assert (some.begin, some.pause_at) == (0, None)
            alive = sum(int(mask.sum()) for mask in some.masks.values())
            seen.append((name, alive / sum(mask.numel() for mask in some.masks.values())))
            return real(some)

        return way

    monkeypatch.setattr(takeover, "Chain", watched("native", takeover.Chain))
    monkeypatch.setattr(takeover, "Plain", watched("dense", takeover.Plain))
    wide = job(nn.Sequential(nn.Linear(D, 400), nn.ReLU(), nn.Linear(400, K)))
    for density in (1.0, 0.5, 0.06):
        seen.clear()
        native, dense = takeover._chains(replace(wide, begin=2, pause_at=3), density)
        for _ in range(3):  # as many rounds as are wanted, on data of any size
            native()
            dense()
        assert [name for name, _ in seen] == ["native", "dense"]
        assert all(found == pytest.approx(density, abs=0.02) for _, found in seen)
