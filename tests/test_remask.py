"""Re-masking: how many weights stay is kept exactly, which ones is chance, and a ladder of it can be repeated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from campaign import tree
from prunephase import models, prune, runs, streams, study, tensors
from prunephase.errors import Exit, UserError
from prunephase.prune.remask import spread
from prunephase.sections import Pruning
from prunephase.store import Store
from prunephase.trial import Trial

HOWS = ("layer", "global", "even")
CONTROLS = (*((how, "rewind") for how in HOWS), ("layer", "re-init"))
Masks = dict[str, Tensor]


def masks(*layers: tuple[int, int], width: int = 1) -> Masks:
    """Layers of (size, survivors); the first ones survive."""
    return {f"layer{i}": (torch.arange(n) < k).view(width, -1) for i, (n, k) in enumerate(layers)}


def counts(of: Mapping[str, Tensor]) -> list[int]:
    return [int(mask.sum()) for mask in of.values()]


layers = st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1)).map(lambda x: (x[0], round(x[0] * x[1]))), min_size=1)


@given(layers, st.sampled_from(HOWS), st.integers(0, 5), st.integers(1, 40))
def test_names_shapes_and_the_total_stay_and_what_belongs_to_its_kind(
    of: list[tuple[int, int]], how: Any, seed: int, level: int
) -> None:
    before = masks(*of)
    after = prune.remask(before, how, seed, level)
    assert [(n, m.shape, m.dtype) for n, m in after.items()] == [(n, m.shape, m.dtype) for n, m in before.items()]
    assert sum(counts(after)) == sum(counts(before))
    if how == "layer":
        assert counts(after) == counts(before)
    if how == "even":
        density = sum(counts(before)) / sum(n for n, _ in of)
        assert all(abs(k - density * n) < 1 for k, (n, _) in zip(counts(after), of, strict=True))


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=6), st.floats(0, 1))
def test_even_counts_are_the_quotas_rounded_so_that_the_largest_remainders_go_up(
    sizes: list[int], density: float
) -> None:
    named = {str(i): n for i, n in enumerate(sizes)}
    total = round(density * sum(sizes))
    shared = spread(named, total)
    assert sum(shared.values()) == total
    up = [k - n * total // sum(sizes) for k, n in zip(shared.values(), sizes, strict=True)]
    rests = [n * total % sum(sizes) for n in sizes]
    assert set(up) <= {0, 1}
    raised, left = ([r for r, u in zip(rests, up, strict=True) if u == v] for v in (1, 0))
    assert min(raised, default=math.inf) >= max(left, default=0)


def test_where_remainders_tie_the_first_layers_go_up() -> None:
    assert list(spread({"a": 10, "b": 10, "c": 10}, 16).values()) == [6, 5, 5]


@pytest.mark.parametrize("how", HOWS)
def test_the_draws_are_those_of_the_named_stream(how: Any) -> None:
    before = masks((12, 3), (20, 15), (8, 1), width=2)
    after = prune.remask(before, how, 3, 7)
    if how == "global":
        flat = torch.cat([m.flatten() for m in before.values()]).numpy()
        flat = streams.generator(3, "score", "remask", 7).permutation(flat)
        assert torch.cat([m.flatten() for m in after.values()]).tolist() == flat.tolist()
        return
    keep = {"layer": (3, 15, 1), "even": (6, 9, 4)}[how]  # 19 of 40: quotas 5.7, 9.5, 3.8
    for (name, mask), k in zip(after.items(), keep, strict=True):
        flat = streams.generator(3, "score", "remask", 7, name).permutation(np.arange(mask.numel()) < k)
        assert mask.flatten().tolist() == flat.tolist()


@pytest.mark.parametrize("how", HOWS)
def test_every_weight_is_as_likely_to_stay_as_its_kind_says_at_any_seed_and_level(how: Any) -> None:
    before = masks((30, 3), (20, 15))
    draws = [prune.remask(before, how, seed, level) for seed in range(40) for level in range(1, 51)]
    stays = torch.stack([torch.cat([m.flatten() for m in draw.values()]) for draw in draws]).double().mean(0).numpy()
    wanted = {"layer": [0.1] * 30 + [0.75] * 20, "global": [0.36] * 50, "even": [11 / 30] * 30 + [7 / 20] * 20}[how]
    z = (stays - wanted) / np.sqrt(np.array(wanted) * (1 - np.array(wanted)) / len(draws))
    assert np.abs(z).max() < 4.5


def test_global_shuffles_leave_hypergeometric_counts_in_each_layer() -> None:
    first = np.array([counts(prune.remask(masks((30, 3), (20, 15)), "global", seed, 1))[0] for seed in range(2000)])
    law = stats.hypergeom(50, 18, 30)
    values = np.arange(8, 15)  # the tails together
    seen = [np.sum(first <= 7), *(np.sum(first == v) for v in values), np.sum(first >= 15)]
    wanted = np.array([law.cdf(7), *law.pmf(values), law.sf(14)]) * 2000
    assert stats.chisquare(seen, wanted).pvalue > 1e-3


def test_seeds_levels_and_layers_are_shuffled_apart() -> None:
    before = masks((4000, 2000), (4000, 2000))
    draws = [m for s, k in ((0, 1), (0, 2), (1, 1)) for m in prune.remask(before, "layer", s, k).values()]
    standard = np.array([m.flatten().numpy() * 2.0 - 1 for m in draws])
    z = standard @ standard.T / np.sqrt(4000)
    np.fill_diagonal(z, 0)
    assert np.abs(z).max() < 4.5


@pytest.mark.parametrize("how", ["global", "even"])
def test_a_shuffle_that_breaks_the_counts_of_the_layers_is_refused_in_one_line(how: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"remask = '\w+': with scope = 'layer' every layer keeps its own") as e:
        prune.budgets({"a": 100}, Pruning(scope="layer", remask=how, levels=2))
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="scope = 'layer'"):
        runs.run([trial({}, how, scope="layer")], tmp_path / "runs", workers=1)
    assert not (tmp_path / "runs").exists()


def trial(base: dict[str, Any], how: str, mode: str = "rewind", **pruning: Any) -> Trial:
    fields = {k: v for k, v in base.items() if k not in ("name", "seeds")}
    pruning = {"levels": 3, **fields.get("pruning", {}), "remask": how, **pruning}
    return Trial.model_validate({**fields, "pruning": pruning, "restart": {"mode": mode, "to": "2it"}})


def masks_of(store: Store, of: Trial) -> list[Masks]:
    return [tensors.unpack_masks(store.blob(r.body["blobs"]["masks"])) for r in store.levels(of)]


def trained(trials: list[Trial], folder: Path, **more: Any) -> Store:
    outcome = runs.train(study.Study("controls", tuple(trials)), folder, **{"workers": 1, **more})
    assert outcome.code == 0, outcome.failed
    return Store(folder)


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[tuple[str, str], Trial]]:
    """Every control of one small ladder, trained."""
    from campaign import STUDY

    of = {(how, mode): trial(STUDY, how, mode) for how, mode in CONTROLS}
    return trained(list(of.values()), tmp_path_factory.mktemp("controls") / "runs"), of


@pytest.mark.parametrize(("how", "mode"), CONTROLS)
def test_a_control_trains_the_shuffled_masks_of_the_finished_ladder(how: Any, mode: str, controls: Any) -> None:
    store, of = controls
    mine = of[how, mode]
    source = mine.source_trial()
    assert source is not None
    assert (source.pruning.remask, source.restart.mode, source.source_trial()) == ("none", "rewind", None)
    dense = store.levels(source)[0].body["blobs"]
    start = (
        tensors.unpack_weights(store.blob(dense["rewound"]), {})
        if mode == "rewind"
        else dict(models.build(mine.model, (1, 8, 8), 10, 0, "re-init").state_dict())
    )
    ladder = list(zip(store.levels(mine), store.levels(source), strict=True))
    assert len(ladder) == 4
    theirs = masks_of(store, source)
    for level, (own, other) in list(enumerate(ladder))[1:]:
        expected = prune.remask(theirs[level], how, 0, level)
        assert store.blob(own.body["blobs"]["masks"]) == tensors.pack_masks(expected)
        assert own.body["blobs"]["masks"] != other.body["blobs"]["masks"]
        assert own.body["masks_from"] == other.seal
        assert own.body["remaining"] == other.body["remaining"] == sum(k for k, _ in own.body["layers"].values())
        assert own.body["parent"] == ladder[0][0].seal
        began = {n: torch.where(expected[n], w, 0.0) if n in expected else w for n, w in start.items()}
        assert own.body["start"]["weights"] == tensors.digest(began)
        assert own.body["start"]["step"] == (2 if mode == "rewind" else 0)
        living = tensors.unpack_weights(store.blob(own.body["blobs"]["weights"]), expected)
        assert not any(living[n][~m].any() for n, m in expected.items())


def test_a_ladder_per_layer_is_shuffled_within_its_layers(tiny: dict[str, Any], tmp_path: Path) -> None:
    mine = trial(tiny, "layer", scope="layer")
    store = trained([mine], tmp_path)
    for own, other in zip(store.levels(mine), store.levels(mine.source_trial() or mine), strict=True):
        assert own.body["layers"] == other.body["layers"]


@pytest.mark.slow
def test_a_control_comes_out_the_same_interrupted_repeated_or_on_several_workers(controls: Any, tmp_path: Path) -> None:
    whole, of = controls
    trials = list(of.values())
    again = trained(trials, tmp_path / "again", workers=2)
    assert tree(again.folder) == tree(whole.folder)
    for mine, level in zip(trials, (1, 3, 2, 3), strict=True):
        again.set_aside(mine.digest(), level)
    assert sum(map(again.missing, trials)) == 4
    assert tree(trained(trials, tmp_path / "again").folder) == tree(whole.folder)


def test_a_mask_with_another_count_is_our_fault_and_ends_the_trial(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = prune.remask
    # `global` keeps the total, but not the counts that scope = "layer" asks for.
    monkeypatch.setattr(prune, "remask", lambda found, _how, seed, level: real(found, "global", seed, level))
    outcome = runs.train(study.Study("spoiled", (trial(tiny, "layer", scope="layer"),)), tmp_path, workers=1)
    assert outcome.codes == {Exit.BUG}
    assert "agreed number of survivors" in next(iter(outcome.failed.values()))
