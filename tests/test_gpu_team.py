"""Training several networks at once: every way gives what the plain loop gives. On the CPU, so without CUDA graphs."""

# N examples, K classes, J jobs.

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunephase import models
from prunephase.data import Dataset, Split
from prunephase.engine import Batch, Diverged, Job, Moment, Team, cross_entropy
from prunephase.engine.gpu import team
from prunephase.engine.gpu.capture import Action, uncaptured
from prunephase.engine.gpu.together import InTurn, Together
from prunephase.engine.plain import Plain
from prunephase.prune import leaked, zero_pruned
from prunephase.sections import Model, Recipe

N, K, SHAPE = 52, 3, (1, 8, 8)
BLACK = torch.tensor([-1.5])
MOMENTUM: dict[str, Any] = {"momentum": 0.9, "weight_decay": 5e-3}
ADAM: dict[str, Any] = {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.02}


class Normed(nn.Module):
    """A user's network of stackable layers: LayerNorm, a residual connection, a constant, a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 20), nn.Linear(20, 20), nn.Linear(20, K)
        self.norm, self.act = nn.LayerNorm(20), nn.GELU()
        self.register_buffer("shift", torch.linspace(-1, 1, 20))
        self.last.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1)) + self.shift
        return self.last(x + self.act(self.second(self.norm(x))))  # type: ignore[no-any-return]


class Convolved(nn.Module):
    """A user's network with BatchNorm, and dropout where asked."""

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.pool, self.last = nn.AdaptiveAvgPool2d(2), nn.Linear(24, K)
        self.drop = nn.Dropout(drop) if drop else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.pool(self.norm(self.conv(x)).relu()).flatten(1)))  # type: ignore[no-any-return]


def network(kind: str, seed: int) -> nn.Module:
    if kind == "mlp":
        return models.build(Model(name="mlp", kwargs={"widths": [17, 9]}), SHAPE, K, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {"normed": Normed, "convolved": Convolved, "dropout": lambda: Convolved(0.4)}[kind]()


def split(count: int, seed: int, labels_seed: int = 0) -> Split:
    draw, own = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(labels_seed)
    labels = torch.randint(0, K, (count,), generator=own)
    inputs = torch.randn(count, *SHAPE, generator=draw)
    return Split(inputs, labels, labels, torch.zeros(count, dtype=torch.bool), torch.arange(count))


def jobs(kind: str, count: int = 3, sparsity: float = 0.6, **fields: Any) -> list[Job]:
    """Jobs that agree in recipe and inputs, and in nothing else; called twice, it gives the same."""
    begin, pause_at, lr = fields.pop("begin", 0), fields.pop("pause_at", None), fields.pop("lr", None)
    recipe = Recipe(**{"epochs": 3, "batch_size": 16, **fields})  # 4 steps an epoch, the last of 4 examples
    made = []
    for seed in range(count):
        data = Dataset(split(N, 0, seed), split(9, 1, seed), split(11, 2), ("a", "b", "c"), "", black=BLACK)
        net, draw = network(kind, seed), torch.Generator().manual_seed(seed)
        names = [name for name, p in net.named_parameters() if p.ndim > 1]
        # The last job has a layer that is not pruned at all.
        masks = {n: torch.rand(net.get_parameter(n).shape, generator=draw) > sparsity for n in names[seed // 2 :]}
        zero_pruned(net, masks)
        made.append(Job(net, data, recipe, seed + 10, seed, masks, begin=begin, pause_at=pause_at, lr=lr))
    return made


def close(ours: nn.Module, theirs: nn.Module, bound: float) -> None:
    for name, mine in ours.state_dict().items():
        other = theirs.state_dict()[name].double()
        assert (mine.double() - other).norm() <= bound * other.norm().clamp_min(1e-3), name


def near(one: float | None, other: float | None) -> None:
    assert one == (None if other is None else pytest.approx(other, rel=1e-5))


def follow(together: Team, ours: list[Job], theirs: list[Job], bound: float = 1e-6) -> list[Moment]:
    """Run a team beside one plain loop for each job, comparing at every moment; gives the moments."""
    seen = []
    plain = [Plain(job) for job in theirs]
    for moments, *expected in zip(together.moments(), *(p.moments() for p in plain), strict=True):
        for mine, (other,) in zip(moments, expected, strict=True):
            assert isinstance(mine, Moment)
            assert isinstance(other, Moment)
            assert (mine.step, mine.epoch, mine.lr) == (other.step, other.epoch, other.lr)
            near(mine.running_loss, other.running_loss)
        for mine_job, other_job in zip(ours, theirs, strict=True):
            close(mine_job.network, other_job.network, bound)
            assert leaked(mine_job.network, mine_job.masks) == 0
        for mine_said, (other_said,) in zip(together.guesses(), [p.guesses() for p in plain], strict=True):
            assert list(mine_said) == list(other_said)
            for name, (loss, classes) in other_said.items():
                near(mine_said[name][0], loss)
                assert torch.equal(mine_said[name][1], classes)
        seen.append(moments[0])
    return seen


CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {**MOMENTUM, "schedule": "step", "milestones": (1, 2)},
    {**MOMENTUM, "schedule": "cosine", "sparsity": 0.0},
    {**ADAM, "sparsity": 0.9},
    {**MOMENTUM, "begin": 6, "sparsity": 0.9},
    {**MOMENTUM, "pause_at": 6},
    {**ADAM, "begin": 2, "pause_at": 8},
    {"momentum": 0.9, "lr": 0.01, "begin": 5},
    {**MOMENTUM, "batch_size": 13},  # no short batch
    {**MOMENTUM, "batch_size": 60, "epochs": 6},  # only a short one
    {"augment": ("flip", "shift"), "begin": 6},
    {**ADAM, "augment": ("flip", "resized-crop"), "pause_at": 6},
    {**MOMENTUM, "decay_by": {"*.bias": 0.0, "last.weight": 0.1}, "warmup": 2},
    {**ADAM, "decay_by": {"*.bias": 0.0}},
]


# Every configuration for the two ways of many networks, those that differ most for the others.
CASES = [
    (kind, 3, way, c) for kind, way in (("mlp", "stacked x3"), ("convolved", "streams x3")) for c in CONFIGURATIONS
]
CASES += [
    (kind, count, way, CONFIGURATIONS[i])
    for kind, count, way in (
        ("mlp", 1, "single"),
        ("convolved", 1, "single"),
        ("dropout", 1, "single"),
        ("normed", 3, "stacked x3"),
        ("dropout", 3, "in turn x3"),
    )
    for i in (2, 5, 7, 11, 13)
]


@pytest.mark.parametrize(("kind", "count", "strategy", "fields"), CASES)
def test_every_way_trains_what_the_plain_loop_trains(
    kind: str, count: int, strategy: str, fields: dict[str, Any]
) -> None:
    ours, theirs = jobs(kind, count, **fields), jobs(kind, count, **fields)
    before = [copy.deepcopy(job.network.state_dict()) for job in ours]
    together = team(ours)
    assert together.strategy == strategy
    assert all(same(job.network.state_dict(), was) for job, was in zip(ours, before, strict=True))
    # AdamW divides a gradient by its own size: before BatchNorm there are gradients of rounding errors alone.
    loose = kind in ("convolved", "dropout") and fields.get("optimizer") == "adamw"
    moments = follow(together, ours, theirs, 1e-4 if loose else 1e-6)
    pause = fields.get("pause_at")
    assert [m.step for m in moments if m.running_loss is None] == ([] if pause is None else [pause])
    assert not any(same(job.network.state_dict(), was) for job, was in zip(ours, before, strict=True))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def drain(together: Team) -> list[list[Moment | Diverged]]:
    return [list(moments) for moments in together.moments()]


@pytest.mark.parametrize("fields", [{}, {"momentum": 0.9}, MOMENTUM, ADAM])
@pytest.mark.parametrize("kind", ["mlp", "convolved"])
def test_the_optimiser_holds_exact_zeros_for_every_pruned_weight(kind: str, fields: dict[str, Any]) -> None:
    together = team(jobs(kind, **fields))
    assert isinstance(together, Together)
    drain(together)
    kept = 0
    for member in together.members:
        for weight, mask in member.nets.masks:
            state = [t for t in member.optimiser.state[weight].values() if t.shape == mask.shape]
            assert all(t[mask == 0].abs().max() == 0 and t[mask == 1].any() for t in (weight.detach(), *state))
            kept += len(state)
    assert kept == {(): 0, ("momentum",): 1}.get(tuple(fields)[:1], 2 if fields is ADAM else 1) * sum(
        len(member.nets.masks) for member in together.members
    )


@pytest.mark.parametrize("kind", ["mlp", "convolved", "dropout"])
def test_a_job_that_diverges_leaves_no_trace_in_the_others(kind: str) -> None:
    healthy, sick = jobs(kind, **MOMENTUM, pause_at=6), jobs(kind, **MOMENTUM, pause_at=6)
    with torch.no_grad():
        for weight in sick[1].network.parameters():
            weight.mul_(math.inf)  # NaN where it is pruned
    expected, together = drain(team(healthy)), team(sick)
    found = []
    for moments in together.moments():
        found.append(list(moments))
        said = together.guesses()
    assert len(found) == len(expected) == 4
    assert [type(row[1]) for row in found] == [Diverged] * 4
    first = found[-1][1]
    assert all(row[1] is first for row in found)
    assert isinstance(first, Diverged)
    assert (first.epoch, first.step) == (1, 1)
    assert not math.isfinite(first.loss)
    for place in (0, 2):
        assert [row[place] for row in found] == [row[place] for row in expected]
        assert same(sick[place].network.state_dict(), healthy[place].network.state_dict())
        assert all(loss is not None for loss, _ in said[place].values())
    assert all(loss is None for loss, _ in said[1].values())


@pytest.mark.parametrize("kind", ["mlp", "convolved"])
def test_divergence_is_found_at_the_step_at_which_the_plain_loop_finds_it(kind: str) -> None:
    fields: dict[str, Any] = {"lr": 1e4, "weight_decay": 1.0, "epochs": 30, "batch_size": 30}
    ours, theirs = jobs(kind, **fields), jobs(kind, **fields)
    rows = drain(team(ours))
    for place, job in enumerate(theirs):
        expected = [moments[0] for moments in Plain(job).moments()]
        stop, found = expected[-1], rows[len(expected) - 1][place]
        assert isinstance(stop, Diverged)
        assert isinstance(found, Diverged)
        assert (found.epoch, found.step) == (stop.epoch, stop.step)
    assert all(isinstance(answer, Diverged) for answer in rows[-1])
    assert len(rows) < 30  # nothing is left to train


def test_steps_are_counted_from_the_start_of_the_schedule_where_a_level_begins_later() -> None:
    made = jobs("mlp", begin=6)
    with torch.no_grad():
        for job in made:
            for weight in job.network.parameters():
                weight.fill_(math.inf)
    ((*answers,),) = drain(team(made))
    assert [(a.epoch, a.step) for a in answers if isinstance(a, Diverged)] == [(2, 7)] * 3


def failing(times: int, problem: Exception) -> Callable[[Action], Action]:
    """A capture that fails at first, as one does for want of memory."""
    left = iter([problem] * times)

    def capture(action: Action) -> Action:
        if (found := next(left, None)) is not None:
            action()
            raise found
        return lambda: action()

    return capture


@pytest.mark.parametrize("problem", [RuntimeError("operation not permitted"), torch.OutOfMemoryError("CUDA")])
def test_what_fails_makes_way_for_the_next_and_nothing_is_lost(problem: Exception) -> None:
    ladder = ["stacked x3, captured", "streams x3, captured", "in turn x3, captured", "plain"]
    for times, strategy in enumerate(ladder):
        ours, theirs = jobs("mlp", **MOMENTUM), jobs("mlp", **MOMENTUM)
        together: Any = team(ours, failing(times, problem))
        assert together.strategy == strategy
        assert [reason.split(":")[0] for reason in together.reasons] == ladder[:times]
        assert all(str(problem) in reason for reason in together.reasons)
        follow(together, ours, theirs)


@pytest.mark.parametrize(
    "broken",
    [
        lambda _: lambda: None,  # an empty graph
        lambda action: lambda: [action(), action()],  # one that trains twice
        lambda action: lambda: with_seed(123, action),  # one that draws the same numbers for ever
    ],
)
def test_a_captured_step_that_does_something_else_is_not_used(broken: Any) -> None:
    ours, theirs = jobs("dropout", 1, **MOMENTUM), jobs("dropout", 1, **MOMENTUM)
    together: Any = team(ours, broken)
    assert together.strategy == "plain, channels last"
    assert "does not do what the step does" in together.reasons[0]
    follow(together, ours, theirs)


def with_seed(number: int, action: Action) -> None:
    torch.manual_seed(number)
    action()


def test_jobs_of_different_networks_are_not_stacked() -> None:
    class Scaled(nn.Sequential):
        """The same layers, another function."""

        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)  # type: ignore[no-any-return]

    for other in (
        models.build(Model(name="mlp", kwargs={"widths": [17, 8]}), SHAPE, K, 1),
        Scaled(OrderedDict(network("mlp", 1).named_children())),
    ):
        ours = jobs("mlp", 2)
        assert team(ours).strategy == "stacked x2"
        theirs = jobs("mlp", 2)
        ours[1], theirs[1] = (replace(j[1], network=copy.deepcopy(other), masks={}) for j in (ours, theirs))
        together = team(ours)
        assert together.strategy == "streams x2"
        follow(together, ours, theirs)


def test_an_objective_that_all_share_is_stacked_and_one_of_its_own_is_not() -> None:
    teacher = torch.randn(N, K, generator=torch.Generator().manual_seed(0)).softmax(1)

    def distilled(batch: Batch) -> Tensor:
        weights = sum((p**2).sum() for p in batch.network.parameters())
        soft = nn.functional.cross_entropy(batch.network(batch.inputs), teacher[batch.index])
        return cross_entropy(batch) + soft + 1e-3 * weights

    for objectives, strategy in (
        ([distilled] * 3, "stacked x3"),
        ([distilled, lambda batch: distilled(batch) / 2, cross_entropy], "streams x3"),
    ):
        made = [
            [replace(job, objective=o) for job, o in zip(jobs("mlp", **MOMENTUM), objectives, strict=True)]
            for _ in range(2)
        ]
        together = team(made[0])
        assert together.strategy == strategy
        follow(together, *made)


@pytest.mark.parametrize("kind", ["mlp", "convolved", "dropout"])
def test_bfloat16_computes_as_the_plain_loop_does(kind: str) -> None:
    fields = {**MOMENTUM, "precision": "bfloat16", "epochs": 1}
    ours, theirs, exact = (jobs(kind, **fields), jobs(kind, **fields), jobs(kind, **{**fields, "precision": "float32"}))
    moments = next(iter(team(ours).moments()))
    for mine, other, full, moment in zip(ours, theirs, exact, moments, strict=True):
        (expected,) = next(iter(Plain(other).moments()))
        next(iter(Plain(full).moments()))
        assert isinstance(moment, Moment)
        assert isinstance(expected, Moment)
        assert moment.running_loss == pytest.approx(expected.running_loss, rel=2e-3)
        close(mine.network, other.network, 5e-3)
        assert all(p.dtype is torch.float32 for p in mine.network.parameters())
        assert leaked(mine.network, mine.masks) == 0
        with pytest.raises(AssertionError):
            close(mine.network, full.network, 1e-5)


@pytest.mark.parametrize("kind", ["mlp", "convolved", "dropout"])
def test_training_twice_gives_equal_bytes_and_leaves_the_callers_random_numbers_alone(kind: str) -> None:
    ends = []
    torch.manual_seed(7)
    expected = torch.rand(5)
    for _ in range(2):
        torch.manual_seed(7)
        made = jobs(kind, **MOMENTUM, pause_at=2)
        together = team(made)
        for _ in together.moments():
            said = together.guesses()
        assert torch.equal(torch.rand(5), expected)
        ends.append((made, said))
    (one, first), (two, second) = ends
    assert all(same(a.network.state_dict(), b.network.state_dict()) for a, b in zip(one, two, strict=True))
    assert [{k: v[0] for k, v in said.items()} for said in first] == [
        {k: v[0] for k, v in said.items()} for said in second
    ]


def test_a_network_that_draws_in_evaluation_says_the_same_whenever_it_is_asked() -> None:
    class Unsure(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(len(x), K)

    made = [replace(job, network=Unsure(), masks={}) for job in jobs("convolved", 1)]
    together = team(made)
    assert together.strategy == "single"
    next(iter(together.moments()))
    (once,), (again,) = together.guesses(), together.guesses()
    assert {k: v[0] for k, v in once.items()} == {k: v[0] for k, v in again.items()}


def test_nothing_is_trained_until_it_is_asked_for() -> None:
    made = jobs("mlp")
    before = [copy.deepcopy(job.network.state_dict()) for job in made]
    moments = team(made, uncaptured).moments()
    assert all(same(job.network.state_dict(), was) for job, was in zip(made, before, strict=True))
    next(iter(moments))
    after = [copy.deepcopy(job.network.state_dict()) for job in made]
    assert not any(same(a, b) for a, b in pairwise([before[0], after[0]]))


class OnDisk:
    """Inputs that are read as they are needed: no tensor, but what the plain loop asks of one."""

    def __init__(self, held: Tensor) -> None:
        self.held, self.shape = held, held.shape

    def __len__(self) -> int:
        return len(self.held)

    def index_select(self, dimension: int, chosen: Tensor) -> Tensor:
        return self.held.index_select(dimension, chosen)

    def split(self, size: int) -> tuple[Tensor, ...]:
        return self.held.split(size)  # type: ignore[no-any-return, no-untyped-call]


def test_inputs_that_are_read_from_the_disk_are_left_to_the_plain_loop() -> None:
    def lazily(job: Job) -> Job:
        splits = {name: replace(s, inputs=OnDisk(s.inputs)) for name, s in job.data.splits.items()}  # type: ignore[arg-type]
        return replace(job, data=replace(job.data, **splits))  # type: ignore[arg-type]

    ours, theirs = [lazily(job) for job in jobs("convolved", **MOMENTUM)], jobs("convolved", **MOMENTUM)
    together = team(ours)
    assert isinstance(together, InTurn)
    assert together.reasons == ["inputs are read from the disk as they are needed"]  # no other way was tried
    follow(together, ours, theirs)
