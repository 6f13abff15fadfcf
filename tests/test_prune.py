"""Pruning: masks as torch.nn.utils.prune makes them, exact counts, and the traps of the papers' code."""

# P prunable weights of one network.

from __future__ import annotations

import copy
import itertools
import math
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune as torch_prune

from prunephase import models, prune, streams
from prunephase.data import Dataset, Split
from prunephase.engine import fit
from prunephase.errors import UserError
from prunephase.prune.masks import keep_top
from prunephase.sections import Model, Pruning, Recipe
from prunephase.snapshot import Snapshot
from prunephase.trial import Trial, remaining_weights

Masks = dict[str, Tensor]


def whole(network: nn.Module, spec: Pruning | None = None) -> Masks:
    """Masks of level 0: everything lives."""
    chosen, _ = prune.prunable(network, spec or Pruning())
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in chosen.items()}


def sizes(masks: Masks) -> dict[str, int]:
    return {name: mask.numel() for name, mask in masks.items()}


def alive(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def examples(count: int, shape: tuple[int, ...], classes: int, seed: int = 0) -> Split:
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=draws)
    inputs = torch.randn(count, *shape, generator=draws)
    return Split(inputs, labels, labels, torch.zeros(count, dtype=torch.bool), torch.arange(count))


def snapshot(network: nn.Module, masks: Masks, split: Split | None = None, level: int = 0, **fields: Any) -> Snapshot:
    split = examples(40, (6,), 3) if split is None else split
    data = Dataset(split, None, split, ("a", "b", "c"), "")
    return Snapshot(Trial.model_validate(fields), level, network, masks, network.state_dict(), data)


def random_network(draw: random.Random) -> nn.Module:
    """A few Linear and Conv layers of random widths; no two magnitudes are equal, so that no order is left open."""
    layers: list[nn.Module] = []
    if draw.random() < 0.5:
        channels = [draw.randint(1, 4) for _ in range(draw.randint(2, 4))]
        kernel, dimensions = draw.choice([1, 3]), draw.choice([nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d])
        layers += [dimensions(a, b, kernel, bias=draw.random() < 0.5) for a, b in pairwise(channels)]
        layers.append(nn.BatchNorm2d(channels[-1]))
    widths = [draw.randint(1, 14) for _ in range(draw.randint(2, 5))]
    layers += [nn.Linear(a, b) for a, b in pairwise(widths)]
    network = nn.Sequential(*layers)
    weights = [m.weight for m in network if not isinstance(m, nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(draw.randrange(2**40))
    total = sum(w.numel() for w in weights)
    values = (torch.randperm(total, generator=generator) + 1.0) / total
    values *= torch.randint(0, 2, (total,), generator=generator) * 2 - 1
    with torch.no_grad():
        for weight, part in zip(weights, values.split([w.numel() for w in weights]), strict=True):
            weight.copy_(part.view_as(weight))
    return network


def shaken(network: nn.Module, generator: torch.Generator) -> None:
    """Stands for training: other magnitudes, still all different, pruned weights left as they are."""
    weights = [m.weight for m in network if not isinstance(m, nn.BatchNorm2d)]
    flat = torch.cat([w.detach().abs().flatten() for w in weights])
    flat = flat[torch.randperm(len(flat), generator=generator)]
    with torch.no_grad():
        for weight, part in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
            weight.copy_(part.view_as(weight))


@pytest.mark.parametrize("batch", range(8))
def test_masks_equal_torchs_global_pruning_over_30_levels_on_200_random_networks(batch: int) -> None:
    compared = 0
    for index in range(25):
        draw = random.Random(1000 * batch + index)
        ours = random_network(draw)
        fraction = draw.choice([0.2, 0.2, 0.1, 0.5, draw.uniform(0.02, 0.6)])
        masks = whole(ours)
        reach = len(remaining_weights(alive(masks), fraction, 30)) - 1
        budgets = prune.budgets(sizes(masks), Pruning(fraction=fraction, levels=reach))
        theirs = copy.deepcopy(ours)
        layers = [m for m in theirs if not isinstance(m, nn.BatchNorm2d)]
        for level in range(1, reach + 1):
            if index % 2:
                shaken(ours, torch.Generator().manual_seed(level))
                for layer, mine in zip(theirs, ours, strict=True):
                    if layer in layers:
                        name = "weight_orig" if level > 1 else "weight"
                        getattr(layer, name).data.copy_(mine.weight)
                        for hook in layer._forward_pre_hooks.values():  # torch's `weight` follows at a forward
                            hook(layer, None)
            torch_prune.global_unstructured(
                [(layer, "weight") for layer in layers], pruning_method=torch_prune.L1Unstructured, amount=fraction
            )
            masks = prune.select(prune.scores(snapshot(ours, masks)), masks, budgets[level])
            expected = [layer.weight_mask.bool() for layer in layers]
            assert all(torch.equal(m, e) for m, e in zip(masks.values(), expected, strict=True)), (index, level)
            compared += 1
    assert compared > 200


@pytest.mark.parametrize("batch", range(2))
def test_layer_scope_equals_torchs_pruning_of_each_layer(batch: int) -> None:
    compared = 0
    for index in range(25):
        draw = random.Random(5000 + 1000 * batch + index)
        ours = random_network(draw)
        fraction = draw.uniform(0.05, 0.5)
        masks = whole(ours)
        reach = min(len(remaining_weights(size, fraction, 30)) - 1 for size in sizes(masks).values())
        budgets = prune.budgets(sizes(masks), Pruning(fraction=fraction, levels=reach, scope="layer"))
        theirs = copy.deepcopy(ours)
        layers = [m for m in theirs if not isinstance(m, nn.BatchNorm2d)]
        for level in range(1, reach + 1):
            for layer in layers:
                torch_prune.l1_unstructured(layer, "weight", fraction)
            masks = prune.select(prune.scores(snapshot(ours, masks)), masks, budgets[level])
            assert all(torch.equal(m, la.weight_mask.bool()) for m, la in zip(masks.values(), layers, strict=True))
            compared += 1
    assert compared > 25


NUMBERS = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, 1e-45, -1e-45, 1e-40, math.inf])


@given(st.lists(st.tuples(NUMBERS, st.booleans()), min_size=1, max_size=60), st.data())
def test_exactly_k_survive_and_ties_go_to_the_lower_index(cells: list[tuple[float, bool]], data: Any) -> None:
    scores, living = torch.tensor([c[0] for c in cells]), torch.tensor([c[1] for c in cells])
    keep = data.draw(st.integers(0, int(living.sum())))
    order = sorted(living.nonzero().flatten().tolist(), key=lambda i: (-scores[i].item(), i))
    expected = torch.zeros(len(cells), dtype=torch.bool)
    expected[order[:keep]] = True
    assert torch.equal(keep_top(scores, living, keep), expected)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 1e-45, 1e-39, -3.0, math.inf, -math.inf])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_where_all_scores_are_equal_the_first_weights_stay(value: float, scope: Any) -> None:
    masks = {"b": torch.ones(3, 4, dtype=torch.bool), "a": torch.ones(5, dtype=torch.bool)}
    scores = {name: torch.full(mask.shape, value) for name, mask in masks.items()}
    budget = prune.budgets(sizes(masks), Pruning(fraction=0.4, levels=1, scope=scope))[1]
    kept = prune.select(scores, masks, budget)
    flat = [kept["b"].flatten().tolist(), kept["a"].tolist()]
    if scope == "global":
        assert flat == [[True] * 10 + [False] * 2, [False] * 5]
    else:
        assert flat == [[True] * 7 + [False] * 5, [True] * 3 + [False] * 2]


def test_zero_and_minus_zero_tie_and_denormals_beat_them() -> None:
    scores = torch.tensor([-0.0, 0.0, 1e-45, -0.0, 0.0])
    assert keep_top(scores, torch.ones(5, dtype=torch.bool), 3).tolist() == [True, True, True, False, False]


def test_a_large_tensor_of_ties_is_still_cut_exactly() -> None:
    scores = torch.randint(0, 3, (100_000,), generator=torch.Generator().manual_seed(0)).float()
    kept = keep_top(scores, torch.ones(100_000, dtype=torch.bool), 54_321)
    values, places = scores.numpy(), np.arange(100_000)
    assert set(kept.nonzero().flatten().tolist()) == set(np.lexsort((places, -values))[:54_321].tolist())


def test_a_living_score_that_is_not_a_number_is_an_error_a_pruned_one_does_not_matter() -> None:
    scores = torch.tensor([1.0, math.nan, 2.0])
    with pytest.raises(ValueError, match="NaN"):
        keep_top(scores, torch.tensor([True, True, True]), 1)
    assert keep_top(scores, torch.tensor([True, False, True]), 1).tolist() == [False, False, True]
    with pytest.raises(ValueError, match="3 weights to keep, 2 alive"):
        keep_top(scores, torch.tensor([True, False, True]), 3)


def test_a_network_with_a_weight_that_is_not_a_number_is_refused_with_layer_and_level() -> None:
    network = nn.Sequential(nn.Linear(6, 3))
    network[0].weight.data[1, 2] = math.nan
    with pytest.raises(UserError, match=r"magnitude.*0\.weight is NaN at level 4") as error:
        prune.scores(snapshot(network, whole(network), level=4))
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.6), st.booleans(), st.integers(-20, 20))
def test_masks_are_nested_and_do_not_notice_sign_or_scale(seed: int, fraction: float, layer: bool, scale: int) -> None:
    network = random_network(random.Random(seed))
    masks = whole(network)
    spec = Pruning(fraction=fraction, levels=0, scope="layer" if layer else "global")
    groups = list(sizes(masks).values()) if layer else [alive(masks)]
    reach = min(len(remaining_weights(size, fraction, 6)) - 1 for size in groups)
    budgets = prune.budgets(sizes(masks), spec.model_copy(update={"levels": reach}))
    changed = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in changed.parameters():
            p.mul_((torch.randint(0, 2, p.shape, generator=generator) * 2 - 1) * 2.0**scale)
    for level in range(1, reach + 1):
        following = prune.select(prune.scores(snapshot(network, masks)), masks, budgets[level])
        other = prune.select(prune.scores(snapshot(changed, masks)), masks, budgets[level])
        assert all(torch.equal(following[n], other[n]) for n in masks)
        assert all(not (following[n] & ~masks[n]).any() for n in masks)
        assert alive(following) == sum(budgets[level].values())
        masks = following


@pytest.mark.parametrize(
    "fields",
    [
        {"momentum": 0.9},
        {"weight_decay": 0.01},
        {"momentum": 0.9, "weight_decay": 0.01},
        {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
    ],
    ids=["momentum", "decay", "both", "adamw"],
)
@pytest.mark.parametrize("criterion", ["magnitude", "gradient", "random"])
def test_no_pruned_weight_ever_comes_back(fields: dict[str, Any], criterion: str) -> None:
    split = examples(40, (1, 8, 8), 3)
    network = models.build(Model(name="small-cnn", kwargs={"channels": [3, 4]}), (1, 8, 8), 3, 0)
    masks = whole(network)
    budgets = prune.budgets(sizes(masks), Pruning(fraction=0.3, levels=5))
    recipe = Recipe(**{"epochs": 2, "batch_size": 16, "lr": 0.05, **fields})
    for level in range(6):
        if level:
            kwargs: dict[str, Any] = {"pruning": {"criterion": criterion}}
            masks = prune.select(prune.scores(snapshot(network, masks, split, level, **kwargs)), masks, budgets[level])
            prune.zero_pruned(network, masks)
        for _ in fit(network, split, recipe, seed=0, level=level, masks=masks):
            assert prune.leaked(network, masks) == 0
        assert alive(masks) == sum(budgets[level].values())
        assert sum(int(network.get_parameter(n).count_nonzero()) for n in masks) <= alive(masks)


def test_leaked_counts_what_it_says() -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    masks = {"0.weight": torch.tensor([[True, False, False], [True, True, False]])}
    assert prune.leaked(network, masks) == 3
    prune.zero_pruned(network, masks)
    assert prune.leaked(network, masks) == 0
    assert int(network[0].weight.count_nonzero()) == 3


# The traps of the papers' released code, by their number in our notes.


def test_trap_25_a_round_prunes_exactly_the_fraction_and_gradient_scores_work_per_layer() -> None:
    network = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))
    masks = whole(network)
    budgets = prune.budgets(sizes(masks), Pruning(fraction=0.2, levels=3))
    assert [b[""] for b in budgets] == [90, 72, 58, 46]
    layered = prune.budgets(sizes(masks), Pruning(fraction=0.2, levels=3, scope="layer"))
    assert layered[1] == {"0.weight": 48, "2.weight": 24}
    found = prune.scores(snapshot(network, masks, pruning={"criterion": "gradient", "scope": "layer"}))
    following = prune.select(found, masks, layered[1])
    assert {n: int(m.sum()) for n, m in following.items()} == layered[1]
    for name, mask in following.items():
        assert found[name][mask].min() >= found[name][~mask].max()


def test_trap_26_weights_that_are_never_pruned_do_not_count() -> None:
    network = models.build(Model(), (1, 28, 28), 10, 0)
    chosen, ignored = prune.prunable(network, Pruning(exclude=("output",)))
    numbers = {name: weight.numel() for name, weight in chosen.items()}
    assert numbers == {"hidden1.weight": 235_200, "hidden2.weight": 30_000}
    assert ignored == 1_000
    budgets = prune.budgets(numbers, Pruning(exclude=("output",), levels=24), ignored)
    assert [budgets[i][""] for i in (0, 1, 24)] == [265_200, 212_160, 1_253]
    assert all(abs(b[""] - 265_200 * 0.8**i) < 3 for i, b in enumerate(budgets))


def test_trap_26_count_ignored_gives_the_arithmetic_of_the_papers_code_and_ends_where_it_did() -> None:
    numbers, spec = {"hidden1.weight": 235_200, "hidden2.weight": 30_000}, Pruning(count_ignored=True, levels=24)
    budgets = [b[""] for b in prune.budgets(numbers, spec, 1_000)]
    # The code's own lines: ceil of the fraction of all, and everything up to and including the threshold goes.
    total = 266_200
    for count in budgets:
        assert count + 1_000 == total
        total -= math.ceil(0.2 * total) + 1
    assert budgets[24] + 1_000 == 1_250
    with pytest.raises(UserError, match=r"pruning\.levels = 25: more levels than weights; .* at most 24") as error:
        prune.budgets(numbers, spec.model_copy(update={"levels": 25}), 1_000)
    assert "\n" not in str(error.value)


class Normed(nn.Module):
    """BatchNorm and dropout: a network that is another one in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x)).relu()))  # type: ignore[no-any-return]


def normed(seed: int = 0) -> Normed:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Normed()
        network.train()
        network(torch.randn(50, 6) * 2 + 1)  # statistics that are not the initial ones
    return network


@pytest.mark.parametrize(("batches", "size", "used"), [(1, 16, 16), (2, 16, 32), (5, 16, 40), (3, 100, 40)])
def test_trap_27_the_gradient_score_is_g_times_w_on_n_batches_of_random_examples(
    batches: int, size: int, used: int
) -> None:
    network, split = normed(), examples(40, (6,), 3)
    fields = {"pruning": {"criterion": "gradient", "batches": batches}, "recipe": {"batch_size": size}, "seed": 5}
    found = prune.scores(snapshot(network, whole(network), split, 2, **fields))
    chosen = torch.as_tensor(streams.generator(5, "score", 2, "batches").permutation(40)[:used])
    network.eval()
    loss = cross_entropy(network(split.inputs[chosen]), split.labels[chosen])
    weights = [network.first.weight, network.last.weight]
    for weight, slope, name in zip(weights, torch.autograd.grad(loss, weights), found, strict=True):
        torch.testing.assert_close(found[name], (slope * weight).abs().detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("training", [True, False])
def test_trap_27_scoring_changes_neither_the_network_nor_the_callers_random_numbers(mode: str, training: bool) -> None:
    network = normed().train(training)
    network.first.weight.grad = torch.ones(8, 6)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    prune.scores(snapshot(network, whole(network), pruning={"criterion": "gradient", "score_mode": mode}))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network.first.weight.grad, torch.ones(8, 6))
    assert network.last.weight.grad is None
    assert all(m.training == training for m in network.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_trap_27_the_mode_of_scoring_is_the_trials_and_its_draws_follow_seed_and_level() -> None:
    def score(mode: str, seed: int = 0, level: int = 1) -> Tensor:
        torch.rand(3)  # what happened before has no influence
        network, fields = normed(), {"pruning": {"criterion": "gradient", "score_mode": mode}, "seed": seed}
        return prune.scores(snapshot(network, whole(network), None, level, **fields))["first.weight"]

    assert torch.equal(score("eval"), score("eval"))
    assert torch.equal(score("train"), score("train"))
    assert not torch.equal(score("eval"), score("train"))
    for mode in ("eval", "train"):
        assert not torch.equal(score(mode), score(mode, seed=1))
        assert not torch.equal(score(mode), score(mode, level=2))


def random_scores(masks: Masks, level: int, seed: int) -> dict[str, Tensor]:
    found = prune.scores(
        snapshot(nn.Sequential(), masks, level=level, seed=seed, pruning={"criterion": "random"})  # needs no weights
    )
    return dict(found)


def test_trap_28_random_scores_are_uniform_and_independent_across_tensors_levels_and_seeds() -> None:
    masks = {name: torch.ones(200, 100, dtype=torch.bool) for name in ("a", "b", "c")}
    drawn = [random_scores(masks, level, seed)[n].flatten() for seed in (0, 1) for level in (0, 1, 2) for n in masks]
    correlations = torch.corrcoef(torch.stack(drawn))[tuple(np.triu_indices(len(drawn), 1))]
    assert correlations.abs().max() < 4.5 / math.sqrt(20_000)
    assert all(stats.kstest(d.numpy(), "uniform").pvalue > 1e-4 for d in drawn)


def test_trap_28_random_masks_leave_hypergeometric_counts_in_each_layer() -> None:
    masks = {"a": torch.ones(60, dtype=torch.bool), "b": torch.ones(140, dtype=torch.bool)}
    counts = [int(prune.select(random_scores(masks, 1, seed), masks, {"": 80})["a"].sum()) for seed in range(1_000)]
    law = stats.hypergeom(200, 60, 80)
    assert abs(np.mean(counts) - law.mean()) < 4.5 * law.std() / math.sqrt(1_000)
    assert 0.8 < np.var(counts) / law.var() < 1.25


def test_trap_28_the_masks_of_two_levels_are_not_prefixes_of_one_draw() -> None:
    masks = {"a": torch.ones(10_000, dtype=torch.bool)}
    first = prune.select(random_scores(masks, 1, 0), masks, {"": 8_000})
    nested = prune.select(random_scores(first, 2, 0), first, {"": 6_400})
    same_draw = prune.select(random_scores(first, 1, 0), first, {"": 6_400})
    overlap = int((nested["a"] & same_draw["a"]).sum())
    law = stats.hypergeom(8_000, 6_400, 6_400)
    assert abs(overlap - law.mean()) < 4.5 * law.std()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.two(self.one(x)))  # type: ignore[no-any-return]


def test_a_weight_used_twice_counts_once_and_is_pruned_in_both_places() -> None:
    network = Tied()
    masks = whole(network)
    assert sizes(masks) == {"one.weight": 36, "out.weight": 18}
    masks = prune.select(prune.scores(snapshot(network, masks)), masks, {"": 20})
    prune.zero_pruned(network, masks)
    for _ in fit(network, examples(40, (6,), 3), Recipe(epochs=2, momentum=0.9), seed=0, level=1, masks=masks):
        assert prune.leaked(network, masks) == 0
        assert torch.equal(network.one.weight, network.two.weight)
        assert network.one.weight.count_nonzero() + network.out.weight.count_nonzero() <= 20


def test_only_weights_of_linear_and_convolutional_layers_are_pruned() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Embedding(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert list(prune.prunable(network, Pruning())[0]) == ["0.weight", "4.weight"]


def test_patterns_choose_layers_by_name() -> None:
    network = models.build(Model(name="mlp", kwargs={"widths": [5, 4, 3]}), (6,), 3, 0)

    def names(**fields: Any) -> list[str]:
        chosen, left_out = prune.prunable(network, Pruning(**fields))
        assert sum(w.numel() for w in chosen.values()) + left_out == 30 + 20 + 12 + 9
        return list(chosen)

    assert names() == ["hidden1.weight", "hidden2.weight", "hidden3.weight", "output.weight"]
    assert names(exclude=["output"]) == ["hidden1.weight", "hidden2.weight", "hidden3.weight"]
    assert names(include=["hidden?"], exclude=["*2"]) == ["hidden1.weight", "hidden3.weight"]


@pytest.mark.parametrize(
    ("network", "fields", "words"),
    [
        (nn.Sequential(nn.Flatten()), {}, "no prunable weights"),
        (nn.Sequential(nn.BatchNorm1d(3)), {}, "no prunable weights"),
        (nn.Sequential(nn.Linear(3, 2)), {"exclude": ["*"]}, "no prunable weights left"),
        (nn.Sequential(nn.Linear(3, 2)), {"exclude": ["outptu"]}, "'outptu' matches no layer; the layers are 0"),
        (nn.Sequential(nn.Linear(3, 2)), {"include": ["conv*"]}, r"pruning\.include: 'conv\*' matches no layer"),
    ],
)
def test_a_network_that_cannot_be_pruned_is_refused_in_one_line(
    network: nn.Module, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as error:
        prune.prunable(network, Pruning(**fields))
    assert "\n" not in str(error.value)


def test_more_levels_than_weights_are_refused_in_one_line_that_says_how_many_there_can_be() -> None:
    for scope in ("global", "layer"):
        spec = Pruning(levels=30, scope=scope)
        with pytest.raises(UserError, match=r"pruning\.levels = 30: more levels than weights; .*at most \d+") as error:
            prune.budgets({"small": 12, "large": 40}, spec)
        assert "\n" not in str(error.value)
        most = int(str(error.value).rsplit(" ", 1)[1])
        budgets = prune.budgets({"small": 12, "large": 40}, spec.model_copy(update={"levels": most}))
        assert all(min(b.values()) >= 1 for b in budgets)
        assert all(sum(a.values()) > sum(b.values()) for a, b in pairwise(budgets))
        with pytest.raises(UserError):
            prune.budgets({"small": 12, "large": 40}, spec.model_copy(update={"levels": most + 1}))


def no_scores(_snapshot: Snapshot) -> dict[str, Tensor]:
    return {}


def wrong_shape(snapshot: Snapshot) -> dict[str, Tensor]:
    return {name: torch.zeros(3) for name in snapshot.masks}


def noise_of_torch(snapshot: Snapshot) -> dict[str, Tensor]:
    return {name: torch.rand(mask.shape) for name, mask in snapshot.masks.items()}


@pytest.mark.parametrize("name", ["no_scores", "wrong_shape"])
def test_a_criterion_of_the_user_that_gives_something_else_is_refused(name: str) -> None:
    network = nn.Sequential(nn.Linear(6, 3))
    seen = snapshot(network, whole(network), pruning={"criterion": f"test_prune:{name}"})
    with pytest.raises(UserError, match=r"gave no scores of shape \[3, 6\] for 0.weight"):
        prune.scores(seen, {"test_prune"})
    with pytest.raises(UserError, match="--plugins test_prune"):
        prune.scores(seen)


def test_what_a_criterion_of_the_user_draws_from_torch_follows_seed_and_level() -> None:
    network = nn.Sequential(nn.Linear(6, 3))

    def score(seed: int, level: int) -> Tensor:
        fields = {"seed": seed, "pruning": {"criterion": "test_prune:noise_of_torch"}}
        return prune.scores(snapshot(network, whole(network), None, level, **fields), {"test_prune"})["0.weight"]

    torch.manual_seed(1)
    first = score(0, 1)
    torch.manual_seed(2)
    assert torch.equal(score(0, 1), first)
    assert not torch.equal(score(1, 1), first)
    assert not torch.equal(score(0, 2), first)


def test_floors_leave_the_best_total_score_that_they_allow() -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(30):
        scores = {"a": torch.randn(2, 3, generator=draw), "b": torch.randn(5, generator=draw)}
        masks = {"a": torch.rand(2, 3, generator=draw) < 0.8, "b": torch.rand(5, generator=draw) < 0.8}
        living = [(name, i) for name, mask in masks.items() for i in mask.flatten().nonzero().flatten().tolist()]
        floors = {name: min(2, int(mask.sum())) for name, mask in masks.items()}
        keep = sum(floors.values()) + (len(living) - sum(floors.values())) // 2
        chosen = prune.select(scores, masks, {"": keep}, floors)
        assert alive(chosen) == keep
        assert all((~chosen[name] | masks[name]).all() and chosen[name].sum() >= floors[name] for name in masks)
        best = max(
            sum(float(scores[name].flatten()[i]) for name, i in some)
            for some in itertools.combinations(living, keep)
            if all(sum(name == layer for name, _ in some) >= least for layer, least in floors.items())
        )
        assert sum(float(scores[name][mask].sum()) for name, mask in chosen.items()) == pytest.approx(best)


def test_floors_are_shares_rounded_up_or_counts_of_the_layers_that_a_pattern_names() -> None:
    network = models.build(Model(name="mlp", kwargs={"widths": [10, 10]}), (10,), 3, 0)

    def floors(**floor: float) -> dict[str, int]:
        return prune.floors(network, Pruning(floor={name.replace("_", "*"): least for name, least in floor.items()}))

    assert floors(_=0.07) == {"hidden1.weight": 7, "hidden2.weight": 7, "output.weight": 3}
    assert floors(hidden_=1, output=200) == {"hidden1.weight": 1, "hidden2.weight": 1, "output.weight": 30}
    assert floors(_=0.1, hidden2=40) == {"hidden1.weight": 10, "hidden2.weight": 40, "output.weight": 3}  # the highest
    assert floors() == {}
    with pytest.raises(UserError, match=r"pruning\.floor: 'outptu' matches nothing that is pruned; that is hidden1, "):
        floors(outptu=3)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_floors_hold_down_the_ladder_and_budgets_stay_exact(scope: Any) -> None:
    network = models.build(Model(name="mlp", kwargs={"widths": [20, 10]}), (30,), 3, 0)
    spec = Pruning(fraction=0.5, levels=4, scope=scope, floor={"output": 20, "hidden1": 0.05})
    masks, floors = whole(network), prune.floors(network, spec)
    budgets = prune.budgets(sizes(masks), spec, 0, floors)
    if scope == "global":
        assert [b[""] for b in budgets] == remaining_weights(alive(masks), 0.5, 4)
    else:
        assert [b["output.weight"] for b in budgets] == [30, 20, 20, 20, 20]
        assert [b["hidden1.weight"] for b in budgets] == [600, 300, 150, 75, 37]
    for budget in budgets[1:]:
        masks = prune.select(prune.scores(snapshot(network, masks)), masks, budget, floors)
        assert alive(masks) == sum(budget.values())
        assert all(masks[name].sum() >= least for name, least in floors.items())


def test_floors_that_no_ladder_can_keep_are_refused_in_one_line() -> None:
    sizes, floors = {"a": 100, "b": 10}, {"a": 40, "b": 10}
    spec = Pruning(fraction=0.5, levels=3)
    with pytest.raises(UserError, match=r"level 2 has 27 .*pruning\.floor holds 50; .*at most 1 levels"):
        prune.budgets(sizes, spec, 0, floors)
    assert prune.budgets(sizes, spec.model_copy(update={"levels": 1}), 0, floors) == [{"": 110}, {"": 55}]
    with pytest.raises(UserError, match="at most 2 levels"):
        prune.budgets(sizes, spec.model_copy(update={"scope": "layer"}), 0, floors)
    with pytest.raises(UserError, match=r"pruning\.remask = 'even': spreads"):
        prune.budgets(sizes, spec.model_copy(update={"remask": "even"}), 0, floors)
    for wrong in (0.0, -1.0, 1.5):
        with pytest.raises(ValueError, match="shares between 0 and 1, or whole numbers"):
            Pruning(floor={"*": wrong})


def test_patterns_name_the_weights_of_a_layer_that_has_several_and_both_ends_of_a_tie() -> None:
    network = nn.ModuleDict({"core": nn.LSTM(3, 4), "read": nn.Linear(4, 5), "write": nn.Linear(4, 5)})
    network["write"].weight = network["read"].weight

    def names(**fields: Any) -> list[str]:
        return list(prune.prunable(network, Pruning(**fields))[0])

    assert names() == ["core.weight_ih_l0", "core.weight_hh_l0", "read.weight"]
    assert names(include=["core"]) == ["core.weight_ih_l0", "core.weight_hh_l0"]
    assert names(exclude=["core.weight_hh*"]) == ["core.weight_ih_l0", "read.weight"]
    assert names(include=["write"]) == ["read.weight"]
    assert names(exclude=["write"]) == ["core.weight_ih_l0", "core.weight_hh_l0"]
    assert names(include=["read"], parameters=["core.bias_ih*"]) == ["core.bias_ih_l0", "read.weight"]
    network["core"].requires_grad_(False)
    assert names() == ["read.weight"]
    assert names(parameters=["core.weight*"]) == ["core.weight_ih_l0", "core.weight_hh_l0", "read.weight"]
    with pytest.raises(UserError, match=r"pruning\.include: 'core' matches no layer"):
        names(include=["core"])
    with pytest.raises(UserError, match=r"pruning\.parameters: 'mixer' matches no parameter; the parameters are core"):
        names(parameters=["mixer"])
