"""Training: bit for bit what a plain PyTorch loop gives."""

# N examples, C channels, H height, W width, K classes.

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prunephase import models, streams, study
from prunephase.bench import Bench, Site
from prunephase.data import Dataset, Split
from prunephase.engine import Batch, Diverged, Moment, fit, optimiser, rates
from prunephase.engine.gpu import step as gpu_step
from prunephase.errors import UserError
from prunephase.measure import evaluate
from prunephase.sections import Model, Recipe
from prunephase.store import Store

N, K, SHAPE = 52, 3, (1, 8, 8)


def examples(count: int = N, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Split:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (count,), generator=random)
    return Split(
        inputs=torch.randn(count, *shape, generator=random),
        labels=labels,
        truth=labels,
        permuted=torch.zeros(count, dtype=torch.bool),
        index=torch.arange(count),
    )


class Dropping(nn.Module):
    """A user's network with dropout, BatchNorm and a parameter that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 20)
        self.norm = nn.BatchNorm1d(20)
        self.drop = nn.Dropout(0.4)
        self.last = nn.Linear(20, K)
        self.last.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.norm(self.first(x.flatten(1)))
        return self.last(self.drop(hidden.relu()))  # type: ignore[no-any-return]


def network(name: str) -> nn.Module:
    if name == "dropout":
        torch.manual_seed(5)
        return Dropping()
    kwargs: dict[str, Any] = {"mlp": {"widths": [17, 9]}, "small-cnn": {"channels": [3, 4]}}.get(name, {})
    return models.build(Model(name=name, kwargs=kwargs), SHAPE, K, seed=3)


def random_masks(net: nn.Module, sparsity: float) -> dict[str, Tensor]:
    """Masks of all matrices and kernels; pruned weights are set to zero in `net`."""
    random = torch.Generator().manual_seed(17)
    masks = {n: torch.rand(p.shape, generator=random) >= sparsity for n, p in net.named_parameters() if p.ndim > 1}
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(mask)
    return masks


def grouped(net: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """torch's parameter groups, by hand: what one pattern of `decay_by` fits, and the rest."""
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    parts = [
        {"params": [p for name, p in trained.items() if fnmatch(name, pattern)], "weight_decay": decay}
        for pattern, decay in recipe.decay_by.items()
    ]
    chosen = {id(p) for part in parts for p in part["params"]}
    return [*parts, {"params": [p for p in trained.values() if id(p) not in chosen]}]


def plain(
    net: nn.Module,
    data: Split,
    recipe: Recipe,
    seed: int,
    level: int,
    masks: dict[str, Tensor],
    begin: int = 0,
    lr: float | None = None,
    until: int | None = None,
) -> None:
    """The oracle: what anybody would write. It masks weights and optimiser state after each step, not gradients."""
    params = grouped(net, recipe)
    first = recipe.lr if lr is None else lr
    opt: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        opt = torch.optim.SGD(params, first, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    else:
        opt = torch.optim.AdamW(params, first, weight_decay=recipe.weight_decay)
    scheduler: Any = None
    if lr is None and recipe.schedule == "step":
        scheduler = torch.optim.lr_scheduler.MultiStepLR(opt, list(recipe.milestones), gamma=recipe.factor)
    elif lr is None and recipe.schedule == "cosine":
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=recipe.epochs)
    steps = math.ceil(len(data) / recipe.batch_size)
    done = 0
    for epoch in range(recipe.epochs):
        order = torch.as_tensor(streams.generator(seed, "order", level, epoch).permutation(len(data)))
        for batch in order.split(recipe.batch_size):
            done += 1
            if done <= begin:
                continue
            net.train()
            torch.manual_seed(streams.seed(seed, "dropout", level, done - 1))
            opt.zero_grad()
            cross_entropy(net(data.inputs[batch]), data.labels[batch]).backward()  # type: ignore[no-untyped-call]
            opt.step()
            with torch.no_grad():
                for name, mask in masks.items():
                    weight = net.get_parameter(name)
                    for tensor in (weight, *opt.state[weight].values()):
                        if isinstance(tensor, Tensor) and tensor.shape == mask.shape:
                            tensor.mul_(mask)
            if done == until:
                return
        if scheduler is not None:
            if (epoch + 1) * steps <= begin:
                opt.step()  # nothing has a gradient yet: only so that torch does not complain about the order
            scheduler.step()


STEP: dict[str, Any] = {"schedule": "step", "milestones": (1, 3)}
COSINE: dict[str, Any] = {"schedule": "cosine"}
MOMENTUM: dict[str, Any] = {"momentum": 0.9, "weight_decay": 5e-3}
ADAM: dict[str, Any] = {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.02}

# model, recipe, sparsity, first step, constant rate. The last batch of 16 or 8 is short (4), 13 divides the examples.
CONFIGURATIONS: list[tuple[str, dict[str, Any], float, int, float | None]] = [
    ("mlp", {}, 0.0, 0, None),
    ("mlp", {}, 0.5, 0, None),
    ("mlp", {}, 0.95, 0, None),
    ("mlp", {"momentum": 0.9}, 0.5, 0, None),
    ("mlp", {"weight_decay": 0.01}, 0.5, 0, None),
    ("mlp", {**MOMENTUM, **STEP}, 0.0, 0, None),
    ("mlp", {**MOMENTUM, **STEP}, 0.95, 0, None),
    ("mlp", {**MOMENTUM, **COSINE}, 0.5, 0, None),
    ("mlp", {**ADAM}, 0.0, 0, None),
    ("mlp", {**ADAM}, 0.5, 0, None),
    ("mlp", {**ADAM, **STEP}, 0.95, 0, None),
    ("mlp", {**ADAM, **COSINE}, 0.5, 0, None),
    ("mlp", {"batch_size": 8}, 0.5, 0, None),
    ("mlp", {"batch_size": 8, **MOMENTUM}, 0.5, 3, None),
    ("mlp", {"batch_size": 64, **MOMENTUM}, 0.5, 0, None),
    ("mlp", {"batch_size": 1, "epochs": 2, "lr": 0.01}, 0.5, 0, None),
    ("mlp", {"batch_size": 13, **COSINE}, 0.5, 9, None),
    ("mlp", {"batch_size": 13, **ADAM, **STEP}, 0.5, 4, None),
    ("mlp", {**MOMENTUM, **STEP}, 0.5, 0, 0.003),
    ("mlp", {**MOMENTUM, **STEP}, 0.5, 10, 0.003),
    ("lenet-300-100", {}, 0.0, 0, None),
    ("lenet-300-100", {**MOMENTUM, **STEP}, 0.5, 5, None),
    ("lenet-300-100", {**ADAM, **COSINE}, 0.95, 0, None),
    ("small-cnn", {}, 0.0, 0, None),
    ("small-cnn", {**MOMENTUM, **COSINE}, 0.5, 0, None),
    ("small-cnn", {**MOMENTUM}, 0.95, 6, None),
    ("small-cnn", {**ADAM, **STEP}, 0.5, 0, None),
    ("dropout", {}, 0.0, 0, None),
    ("dropout", {**MOMENTUM, **STEP}, 0.5, 0, None),
    ("dropout", {**MOMENTUM, **COSINE}, 0.5, 7, None),
    ("dropout", {**ADAM}, 0.95, 2, None),
    ("dropout", {"batch_size": 8, **ADAM, **COSINE}, 0.5, 0, 0.002),
    ("mlp", {**MOMENTUM, "decay_by": {"*.bias": 0.0}}, 0.5, 0, None),
    ("mlp", {"decay_by": {"*.bias": 0.1, "output.weight": 0.0}, "weight_decay": 0.03}, 0.5, 4, None),
    ("small-cnn", {**ADAM, "decay_by": {"*.bias": 0.0, "output.weight": 0.5}}, 0.5, 0, None),
]


def identical(ours: nn.Module, theirs: nn.Module) -> bool:
    """Equal state_dicts, bit for bit (so that 0.0 and -0.0 differ)."""
    pairs = [(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items()]
    return all(torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)) for a, b in pairs)


def drain(net: nn.Module, data: Split, recipe: Recipe, **kwargs: Any) -> list[Moment]:
    return list(fit(net, data, recipe, **{"seed": 0, "level": 0, "masks": {}, **kwargs}))


@pytest.mark.parametrize(("model", "fields", "sparsity", "begin", "lr"), CONFIGURATIONS)
def test_weights_equal_those_of_a_plain_loop_bit_for_bit(
    model: str, fields: dict[str, Any], sparsity: float, begin: int, lr: float | None
) -> None:
    recipe = Recipe(**{"lr": 0.05, "epochs": 4, "batch_size": 16, **fields})
    data, ours = examples(), network(model)
    masks = random_masks(ours, sparsity)
    theirs, start = copy.deepcopy(ours), copy.deepcopy(ours)
    moments = list(fit(ours, data, recipe, seed=11, level=2, masks=masks, begin=begin, lr=lr))
    plain(theirs, data, recipe, seed=11, level=2, masks=masks, begin=begin, lr=lr)
    for name, mask in masks.items():
        a, b = ours.get_parameter(name), theirs.get_parameter(name)
        assert torch.equal(a[mask].view(torch.int32), b[mask].view(torch.int32)), name
        assert not a[~mask].any(), name
    assert not identical(ours, start)
    for name, value in ours.state_dict().items():
        assert name in masks or torch.equal(value, theirs.state_dict()[name]), name
    steps = math.ceil(N / recipe.batch_size)
    assert [m.epoch for m in moments] == list(range(begin // steps + 1, recipe.epochs + 1))
    assert [m.step for m in moments] == [steps * m.epoch for m in moments]


def test_the_oracle_would_notice_another_order_another_level_or_dropout_that_is_not_the_documented_stream() -> None:
    recipe, data = Recipe(epochs=2, batch_size=16), examples()
    for model, seed, level in (("mlp", 1, 0), ("mlp", 0, 1), ("dropout", 1, 0)):
        ours, theirs = network(model), network(model)
        drain(ours, data, recipe)
        plain(theirs, data, recipe, seed, level, {})
        assert not identical(ours, theirs)


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 7},
        {"epochs": 9, "schedule": "step", "milestones": (2, 3, 7), "factor": 0.3},
        {"epochs": 160, "schedule": "step", "milestones": (80, 120)},
        {"epochs": 1, "schedule": "cosine"},
        {"epochs": 50, "schedule": "cosine", "lr": 0.07},
    ],
)
@pytest.mark.parametrize("begin", [0, 1, 9])
def test_learning_rates_are_those_of_torchs_schedulers_at_every_epoch(fields: dict[str, Any], begin: int) -> None:
    recipe = Recipe(batch_size=26, **fields)  # 2 steps an epoch
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler: Any = {
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(opt, factor=1.0),
        "step": lambda: torch.optim.lr_scheduler.MultiStepLR(opt, list(recipe.milestones), recipe.factor),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(opt, recipe.epochs),
    }[recipe.schedule]()
    expected = []
    for _ in range(recipe.epochs):
        expected.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    assert rates(recipe) == expected
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(64, K))
    moments = drain(tiny, examples(), recipe, begin=begin)
    assert [(m.epoch, m.lr) for m in moments] == list(enumerate(expected, start=1))[begin // 2 :]


def test_step_and_cosine_follow_their_formulas() -> None:
    steps = rates(Recipe(lr=0.1, epochs=160, schedule="step", milestones=(80, 120)))
    assert steps[79] == 0.1
    assert steps[80] == pytest.approx(0.01)
    assert steps[119] == pytest.approx(0.01)
    assert steps[120] == pytest.approx(0.001)
    cosine = rates(Recipe(lr=0.1, epochs=40, schedule="cosine"))
    assert cosine == pytest.approx([0.05 * (1 + math.cos(math.pi * e / 40)) for e in range(40)])
    assert all(a > b for a, b in pairwise(cosine))


def test_nothing_is_trained_until_the_next_moment_is_asked_for() -> None:
    recipe, data, net = Recipe(epochs=3, batch_size=16, momentum=0.9), examples(), network("mlp")
    moments = fit(net, data, recipe, seed=0, level=0, masks={})
    untouched = network("mlp")
    assert identical(net, untouched)
    for epoch in (1, 2, 3):
        assert next(moments).epoch == epoch
        torch.manual_seed(epoch)  # what the caller does in between has no influence
        torch.rand(7)
        net.eval()
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, 1e9)
        theirs = network("mlp")
        plain(theirs, data, recipe, 0, 0, {}, until=4 * epoch)
        assert identical(net, theirs)
    with pytest.raises(StopIteration):
        next(moments)


def test_leaving_the_loop_leaves_the_network_of_that_epoch() -> None:
    recipe, data, net, theirs = Recipe(epochs=5, batch_size=16), examples(), network("small-cnn"), network("small-cnn")
    for moment in fit(net, data, recipe, seed=0, level=0, masks={}):
        if moment.epoch == 2:
            break
    plain(theirs, data, recipe, 0, 0, {}, until=8)
    assert identical(net, theirs)


@pytest.mark.parametrize("pause", [1, 3, 4, 5, 8, 12])
@pytest.mark.parametrize("model", ["mlp", "dropout"])
def test_a_pause_holds_the_weights_of_exactly_that_step_and_changes_nothing(pause: int, model: str) -> None:
    recipe, data = Recipe(epochs=3, batch_size=16, **MOMENTUM), examples()  # 4 steps an epoch
    net, at, end = network(model), network(model), network(model)
    seen = []
    for moment in fit(net, data, recipe, seed=0, level=0, masks={}, pause_at=pause):
        if moment.running_loss is None:
            seen.append(moment)
            plain(at, data, recipe, 0, 0, {}, until=pause)
            assert identical(net, at)
    assert seen == [Moment(pause, (pause - 1) // 4 + 1, 0.1, None)]
    plain(end, data, recipe, 0, 0, {})
    assert identical(net, end)


def test_the_running_loss_is_the_mean_of_the_epochs_losses() -> None:
    seen: list[float] = []

    def objective(batch: Batch) -> Tensor:
        loss = cross_entropy(batch.network(batch.inputs), batch.labels)
        seen.append(loss.item())
        return loss

    moments = drain(network("mlp"), examples(), Recipe(epochs=2, batch_size=16), begin=2, objective=objective)
    means = [sum(seen[:2]) / 2, sum(seen[2:]) / 4]
    assert [m.running_loss for m in moments] == pytest.approx(means)


def test_an_objective_sees_every_example_once_an_epoch_with_its_own_label_and_place() -> None:
    data, places = examples(), []

    def objective(batch: Batch) -> Tensor:
        assert torch.equal(batch.inputs, data.inputs[batch.index])
        assert torch.equal(batch.labels, data.labels[batch.index])
        places.append(batch.index)
        return cross_entropy(batch.network(batch.inputs), batch.labels)

    drain(network("mlp"), data, Recipe(epochs=2, batch_size=16), objective=objective)
    assert [len(p) for p in places] == [16, 16, 16, 4] * 2
    first, second = torch.cat(places[:4]), torch.cat(places[4:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(N))
    assert not torch.equal(first, second)


def blow_up_at(step: int, value: float) -> Callable[[Batch], Tensor]:
    calls = iter(range(1, 10**6))

    def objective(batch: Batch) -> Tensor:
        loss = cross_entropy(batch.network(batch.inputs), batch.labels)
        return loss * value if next(calls) == step else loss

    return objective


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (4, 1), (5, 2), (11, 3)])
def test_a_loss_that_is_not_finite_ends_training_with_its_step_and_keeps_the_epochs_before(
    value: float, step: int, epoch: int
) -> None:
    recipe = Recipe(epochs=3, batch_size=16)
    moments = fit(network("mlp"), examples(), recipe, seed=0, level=0, masks={}, objective=blow_up_at(step, value))
    assert [next(moments).epoch for _ in range(epoch - 1)] == list(range(1, epoch))
    with pytest.raises(Diverged) as stop:
        next(moments)
    assert (stop.value.epoch, stop.value.step) == (epoch, step)
    assert not math.isfinite(stop.value.loss)


def test_a_rate_far_too_high_diverges_at_the_step_at_which_the_plain_loop_does() -> None:
    recipe, data = Recipe(epochs=30, batch_size=16, lr=1e6), examples()
    with pytest.raises(Diverged) as stop:
        drain(network("mlp"), data, recipe)
    losses: list[float] = []

    def watched(batch: Batch) -> Tensor:
        loss = cross_entropy(batch.network(batch.inputs), batch.labels)
        losses.append(loss.item())
        return loss

    with pytest.raises(Diverged):
        drain(network("mlp"), data, recipe, objective=watched)
    first = next(i for i, loss in enumerate(losses, start=1) if not math.isfinite(loss))
    assert (stop.value.step, stop.value.epoch) == (first, (first - 1) // 4 + 1)
    theirs = network("mlp")
    plain(theirs, data, recipe, 0, 0, {}, until=first - 1)
    order = torch.as_tensor(streams.generator(0, "order", 0, (first - 1) // 4).permutation(N))
    batch = order.split(16)[(first - 1) % 4]
    with torch.no_grad():
        assert not math.isfinite(float(cross_entropy(theirs(data.inputs[batch]), data.labels[batch])))


def test_training_building_and_measuring_leave_the_callers_random_numbers_alone() -> None:
    data, net = examples(), network("dropout")
    torch.manual_seed(99)
    expected = torch.rand(5)
    torch.manual_seed(99)
    network("lenet-300-100")
    moments = fit(net, data, Recipe(epochs=2, batch_size=16), seed=0, level=0, masks={}, pause_at=3)
    for _ in moments:
        evaluate(net, Dataset(data, None, data, ("a", "b", "c"), ""))
    assert torch.equal(torch.rand(5), expected)


def test_an_error_inside_a_step_gives_the_callers_random_numbers_back() -> None:
    def broken(batch: Batch) -> Tensor:
        raise KeyError(str(torch.rand(1) + batch.labels.sum()))

    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        drain(network("mlp"), examples(), Recipe(epochs=1), objective=broken)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("schedule", [{}, STEP, COSINE], ids=["constant", "step", "cosine"])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_warm_up_has_in_each_epoch_the_mean_rate_of_openlths(schedule: dict[str, Any], steps: int) -> None:
    recipe = Recipe(epochs=8, lr=0.4, **schedule)
    warm = 5

    def openlth(iteration: int) -> float:
        """The factor by which its training/optimizers.py multiplies the rate."""
        return min(1.0, iteration / (warm * steps))

    mean = [sum(openlth(e * steps + i) for i in range(steps)) / steps for e in range(8)]
    found = rates(recipe.model_copy(update={"warmup": warm}))
    for epoch, (rate, full, factor) in enumerate(zip(found, rates(recipe), mean, strict=True)):
        if epoch < warm:  # theirs is that of a step's beginning, ours that of its middle
            assert rate == pytest.approx(full * (factor + 0.5 / (warm * steps)))
        else:
            assert rate == full


def test_a_warm_up_is_trained_and_overridden_by_a_constant_rate() -> None:
    data, recipe = examples(), Recipe(epochs=4, batch_size=26, lr=0.2, warmup=2)
    assert [m.lr for m in drain(network("mlp"), data, recipe)] == pytest.approx([0.05, 0.15, 0.2, 0.2])
    assert [m.lr for m in drain(network("mlp"), data, recipe, lr=0.01)] == [0.01] * 4
    ours, first, second = network("mlp"), network("mlp"), network("mlp")
    next(fit(ours, data, recipe, seed=0, level=0, masks={}))
    plain(first, data, Recipe(epochs=1, batch_size=26, lr=0.05), 0, 0, {})
    plain(second, data, Recipe(epochs=1, batch_size=26, lr=0.2), 0, 0, {})
    assert identical(ours, first)
    assert not identical(ours, second)


@pytest.mark.parametrize("fields", [{}, {"momentum": 0.9}, MOMENTUM])
def test_momentum_is_never_nesterovs(fields: dict[str, Any]) -> None:
    recipe, net = Recipe(**fields), network("mlp")
    assert all(group["nesterov"] is False for group in optimiser(net, recipe).param_groups)
    trained = dict(net.named_parameters())
    on_gpu = gpu_step._optimiser(trained, recipe, torch.tensor(0.1))
    assert all(group["nesterov"] is False for group in on_gpu.param_groups)


def test_adamw_and_its_cosine_begin_anew_at_every_level(
    tiny: dict[str, Any], tmp_path: Path, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the ViT paper trains: the last weights go on, the schedule and the moments start again."""
    made: list[torch.optim.Optimizer] = []
    module = sys.modules["prunephase.engine.plain"]
    original = module.optimiser

    def remembered(*args: Any) -> torch.optim.Optimizer:
        made.append(original(*args))
        assert not made[-1].state
        return made[-1]

    monkeypatch.setattr(module, "optimiser", remembered)
    monkeypatch.setattr(sys.modules["prunephase.engine.native.chain"].Chain, "fits", lambda _job: False)
    monkeypatch.setattr(sys.modules["prunephase.engine.takeover"], "crossover", lambda _key, _race: 0.0)
    recipe = {"epochs": 4, "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.03, "schedule": "cosine"}
    fields = {**tiny, "recipe": recipe, "restart": {"mode": "lr-rewind"}, "pruning": {"levels": 2}}
    assert train(fields, tmp_path).code == 0
    (trial,) = study.parse(fields).trials
    cosine = [0.005 * (1 + math.cos(math.pi * e / 4)) for e in range(4)]
    records = Store(tmp_path).levels(trial)
    assert len(made) == len(records) == 3
    for record in records:
        assert record.body["epochs"]["lr"] == pytest.approx(cosine)
    assert all(type(one) is torch.optim.AdamW for one in made)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"*.bais": 0.0}, r"decay_by: '\*.bais' matches no parameter; the parameters are hidden1.weight, hidden1.bias"),
        ({"*": 0.1, "*.bias": 0.0}, r"'\*' and '\*.bias' fit hidden1.bias, with unlike decays"),
    ],
)
def test_decays_that_fit_nothing_or_contradict_each_other_are_refused(
    chosen: dict[str, float], expected: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    (trial,) = study.parse({**tiny, "recipe": {**tiny["recipe"], "decay_by": chosen}}).trials
    with pytest.raises(UserError, match=expected):
        Bench(trial, Site(tmp_path)).check()


def test_patterns_that_overlap_and_agree_are_taken(tiny: dict[str, Any], tmp_path: Path) -> None:
    chosen = {"output.*": 0.0, "*.bias": 0.0}
    (trial,) = study.parse({**tiny, "recipe": {**tiny["recipe"], "decay_by": chosen}}).trials
    Bench(trial, Site(tmp_path)).check()


@pytest.mark.parametrize("fields", [{"momentum": 0.9}, MOMENTUM, ADAM], ids=["momentum", "decay", "adamw"])
def test_the_optimiser_holds_exact_zeros_for_every_pruned_weight(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.optim.Optimizer] = []
    module = sys.modules["prunephase.engine.plain"]
    original = module.optimiser

    def remembered(*args: Any) -> torch.optim.Optimizer:
        made.append(original(*args))
        return made[-1]

    monkeypatch.setattr(module, "optimiser", remembered)
    net = network("small-cnn")
    masks = random_masks(net, 0.7)
    for _ in fit(net, examples(), Recipe(**{"epochs": 3, "batch_size": 16, **fields}), seed=0, level=1, masks=masks):
        for name, mask in masks.items():
            weight = net.get_parameter(name)
            state = [t for t in made[0].state[weight].values() if isinstance(t, Tensor) and t.shape == mask.shape]
            assert len(state) == (2 if fields is ADAM else 1)
            assert all(not t[~mask].any() and t[mask].any() for t in (weight, *state))
    assert len(made) == 1
