"""Label noise: exact rates, the right transitions, and independence of place and seed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prunephase import sections
from prunephase.data import Dataset, Split, load
from prunephase.errors import UserError
from prunephase.noise import NOISES, Card, corrupt

RATED = ("uniform-relabel", "symmetric-flip", "asymmetric", "pairflip")
SHARED = Path(__file__).parents[2] / "shared" / "data"


def split(labels: np.ndarray, truth: np.ndarray | None = None, start: int = 0) -> Split:
    given = torch.tensor(labels, dtype=torch.int64)
    true = given if truth is None else torch.tensor(truth)
    places = torch.arange(start, start + len(labels))
    return Split(torch.zeros(len(labels), 1), given, true, given != true, places)


def dataset(labels: np.ndarray, classes: int, held: np.ndarray | None = None) -> Dataset:
    validation = None if held is None else split(held, start=len(labels))
    names = tuple(str(c) for c in range(classes))
    return Dataset(split(labels), validation, split(np.arange(classes)), names, "")


def spec(kind: str, rate: float, count: str = "exact", classes: int = 10, seed: int | None = None) -> sections.Noise:
    to = {str(c): (c * 3 + 1) % classes for c in range(classes // 2) if (c * 3 + 1) % classes != c} or {"0": 1}
    return sections.Noise(kind=kind, rate=rate, count=count, seed=seed, map=to if kind == "asymmetric" else None)  # type: ignore[arg-type]


def noisy(labels: np.ndarray, noise: sections.Noise, classes: int = 10, seed: int = 0) -> tuple[Dataset, Card]:
    return corrupt(dataset(labels, classes), noise, source="npz", seed=seed)


BALANCED = np.arange(10_000) % 10


def test_every_kind_that_a_trial_may_name_is_there() -> None:
    assert tuple(NOISES) == sections.NOISES


@pytest.mark.parametrize("kind", RATED)
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.333, 1.0])
def test_exact_selects_exactly_the_rounded_share_and_only_those_can_change(kind: str, rate: float) -> None:
    data, card = noisy(BALANCED, spec(kind, rate))
    eligible = 10_000 if kind != "asymmetric" else 1000 * len(spec(kind, rate).map or ())
    selected = data.train.permuted
    assert int(selected.sum()) == round(rate * eligible)
    assert not (data.train.labels != data.train.truth)[~selected].any()
    assert card.train.selected == round(rate * eligible) / 10_000
    if kind != "uniform-relabel":
        assert torch.equal(selected, data.train.labels != data.train.truth)


@pytest.mark.parametrize("kind", RATED)
def test_per_sample_counts_vary_as_a_binomial_does_and_exact_ones_do_not(kind: str) -> None:
    labels = np.zeros(2000, int)  # class 0 is in every map
    counts = {
        count: [int(noisy(labels, spec(kind, 0.3, count), seed=s)[0].train.permuted.sum()) for s in range(100)]
        for count in ("exact", "per-sample")
    }
    assert set(counts["exact"]) == {600}
    assert 15 < np.std(counts["per-sample"]) < 26  # expected 20.5, standard error 1.5
    assert abs(np.mean(counts["per-sample"]) - 600) < 9  # standard error 2.05


@pytest.mark.parametrize("kind", RATED)
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.333, 1.0])
def test_first_selects_the_first_eligible_examples_in_the_order_of_the_split(kind: str, rate: float) -> None:
    labels = np.random.default_rng(0).permutation(BALANCED)
    mapped = [int(c) for c in spec(kind, rate).map or range(10)]
    eligible = np.flatnonzero(np.isin(labels, mapped))
    for seed in (0, 1):
        train = noisy(labels, spec(kind, rate, "first"), seed=seed)[0].train
        assert np.flatnonzero(train.permuted).tolist() == eligible[: round(rate * len(eligible))].tolist()


def test_first_with_a_wrong_class_is_the_noise_of_dsd2s_code() -> None:
    """papers.md 2.1 item 2: `for i in range(int(eps * N)): while label == truth: label = draw()`."""
    data = dataset(BALANCED, 10, BALANCED[:100])
    (one, card), (two, _) = (corrupt(data, spec("symmetric-flip", 0.1, "first"), source="npz", seed=s) for s in (0, 1))
    assert card.flipped == [*range(1000), *range(10_000, 10_010)]  # those held out are corrupted apart
    assert card.count == "first"
    assert card.train.realised == 0.1
    assert not torch.equal(one.train.labels, two.train.labels)
    by_label = np.bincount((one.train.labels - one.train.truth)[:1000].numpy() % 10, minlength=10)
    assert by_label[0] == 0
    assert stats.chisquare(by_label[1:]).pvalue > 1e-3


def expected(kind: str, rate: float, classes: int) -> np.ndarray:
    keep = np.eye(classes) * (1 - rate)
    if kind == "uniform-relabel":
        return keep + rate / classes
    if kind == "symmetric-flip":
        return keep + rate / (classes - 1) * (1 - np.eye(classes))
    if kind == "pairflip":
        return keep + rate * np.roll(np.eye(classes), 1, axis=1)
    pairs = spec(kind, rate, classes=classes).map
    to = {int(c): t for c, t in pairs.items()} if isinstance(pairs, dict) else {}
    return np.array(
        [np.eye(classes)[c] if c not in to else keep[c] + rate * np.eye(classes)[to[c]] for c in range(classes)]
    )


@pytest.mark.parametrize("kind", RATED)
def test_transitions_of_a_million_draws_are_those_of_the_definition(kind: str) -> None:
    data, card = noisy(np.arange(1_000_000) % 10, spec(kind, 0.4, "per-sample"))
    matrix = np.array(card.train.transition)
    wanted = expected(kind, 0.4, 10)
    assert (matrix[wanted == 0] == 0).all()
    for row, shares in zip(matrix, wanted, strict=True):
        possible = shares > 0
        if possible.sum() == 1:  # one cell of 1: nothing left to vary
            continue
        assert stats.chisquare(row[possible] * 100_000, shares[possible] * 100_000).pvalue > 1e-4
    again = np.zeros((10, 10))
    np.add.at(again, (data.train.truth.numpy(), data.train.labels.numpy()), 1e-5)
    assert np.allclose(again, matrix)


def test_uniform_relabel_realises_its_rate_times_one_minus_one_in_k() -> None:
    _, card = noisy(np.arange(200_000) % 10, spec("uniform-relabel", 0.5))
    assert card.train.realised == pytest.approx(0.45, abs=0.0025)  # standard error of hits 0.0005
    assert card.train.selected == 0.5


@pytest.mark.parametrize("kind", RATED)
@pytest.mark.parametrize("count", ["exact", "per-sample", "first"])
def test_patterns_of_one_seed_nest_across_rates_with_their_labels(kind: str, count: str) -> None:
    splits = [noisy(BALANCED, spec(kind, rate, count))[0].train for rate in (0.0, 0.1, 0.2, 0.4, 0.8, 1.0)]
    for lower, higher in pairwise(splits):
        assert not (lower.permuted & ~higher.permuted).any()
        assert higher.permuted.sum() > lower.permuted.sum()
        assert torch.equal(lower.labels[lower.permuted], higher.labels[lower.permuted])


@pytest.mark.parametrize("count", ["exact", "per-sample"])
def test_places_of_the_selected_are_uniform(count: str) -> None:
    data, _ = noisy(np.arange(50_000) % 10, spec("symmetric-flip", 0.2, count))
    places = np.flatnonzero(data.train.permuted.numpy()) / 50_000
    assert stats.kstest(places, "uniform").pvalue > 1e-3
    by_class = np.bincount(data.train.truth[data.train.permuted].numpy())
    assert stats.chisquare(by_class).pvalue > 1e-3


@pytest.mark.parametrize("count", ["exact", "per-sample"])
def test_neighbouring_seeds_are_uncorrelated_at_every_lag(count: str) -> None:
    n, seeds = 40_000, 20
    masks = [
        noisy(np.zeros(n, int), spec("symmetric-flip", 0.2, count), seed=s)[0].train.permuted.numpy()
        for s in range(seeds)
    ]
    standard = np.array([(m - m.mean()) / m.std() for m in masks.copy()])
    for lag in (0, 1, 2):
        z = standard @ np.roll(standard, lag, axis=1).T / np.sqrt(n)
        if lag == 0:
            np.fill_diagonal(z, 0)
        assert np.abs(z).max() < 4.5


def test_the_noise_seed_fixes_the_pattern_and_else_the_trial_decides() -> None:
    fixed = [noisy(BALANCED, spec("symmetric-flip", 0.2, seed=0), seed=s)[1] for s in (1, 2)]
    free = [noisy(BALANCED, spec("symmetric-flip", 0.2), seed=s)[1] for s in (0, 1)]
    assert fixed[0] == fixed[1] == free[0] != free[1]
    assert (free[1].seed, fixed[1].seed) == (1, 0)


def test_training_and_validation_are_corrupted_apart_and_test_never() -> None:
    data = dataset(BALANCED, 10, BALANCED[:1000])
    after, card = corrupt(data, spec("symmetric-flip", 0.25), source="npz", seed=0)
    assert after.validation is not None
    assert card.validation is not None
    assert int(after.train.permuted.sum()) == 2500
    assert int(after.validation.permuted.sum()) == 250
    twins, _ = corrupt(dataset(BALANCED, 10, BALANCED), spec("symmetric-flip", 0.25), source="npz", seed=0)
    assert twins.validation is not None
    assert not torch.equal(twins.train.permuted, twins.validation.permuted)
    assert after.test is data.test
    assert torch.equal(data.train.labels, data.train.truth)
    alone, _ = corrupt(dataset(BALANCED, 10), spec("symmetric-flip", 0.25), source="npz", seed=0)
    assert torch.equal(alone.train.labels, after.train.labels)
    wrong = torch.cat([s.index[s.labels != s.truth] for s in (after.train, after.validation)])
    assert card.flipped == wrong.tolist()
    assert len(card.train.chosen) == 2500


@pytest.mark.parametrize("kind", RATED)
def test_rate_zero_is_no_noise(kind: str) -> None:
    data, card = noisy(BALANCED, spec(kind, 0.0))
    clean, none = noisy(BALANCED, sections.Noise())
    assert torch.equal(data.train.labels, clean.train.labels)
    assert not data.train.permuted.any()
    assert card.train == none.train


def test_two_classes_at_rate_one_are_swapped() -> None:
    data, card = noisy(BALANCED % 2, spec("symmetric-flip", 1.0, classes=2), classes=2)
    assert torch.equal(data.train.labels, 1 - data.train.truth)
    assert card.train.transition == ((0.0, 1.0), (1.0, 0.0))


@settings(max_examples=60)
@given(st.data(), st.sampled_from(RATED), st.sampled_from(["exact", "per-sample"]), st.floats(0, 1), st.integers(0, 9))
def test_labels_stay_legal_and_the_card_agrees_with_them(
    data: st.DataObject, kind: str, count: str, rate: float, seed: int
) -> None:
    classes = data.draw(st.integers(2, 6))
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=40)))
    after, card = noisy(labels, spec(kind, rate, count, classes), classes, seed)
    train = after.train
    assert bool(((train.labels >= 0) & (train.labels < classes)).all())
    assert torch.equal(train.truth, torch.tensor(labels))
    assert card.train.n == len(labels)
    assert card.train.realised == float((train.labels != train.truth).double().mean())
    assert list(card.train.flipped) == torch.nonzero(train.labels != train.truth).flatten().tolist()
    assert [row is None for row in card.train.transition] == [c not in labels for c in range(classes)]
    assert all(abs(sum(row) - 1) < 1e-12 for row in card.train.transition if row is not None)
    assert noisy(labels, spec(kind, rate, count, classes), classes, seed)[1] == card


def test_the_card_is_json_without_the_lists_of_examples() -> None:
    _, card = corrupt(dataset(np.zeros(10, int), 2, np.ones(4, int)), spec("pairflip", 0.5), source="npz", seed=7)
    fields = json.loads(json.dumps(card.as_json(), allow_nan=False))
    assert fields == card.as_json()
    assert {k: fields[k] for k in ("kind", "count", "nominal", "seed", "classes")} == {
        "kind": "pairflip", "count": "exact", "nominal": 0.5, "seed": 7, "classes": 2,
    }  # fmt: skip
    assert fields["train"]["transition"] == [[0.5, 0.5], None]
    assert fields["validation"]["transition"] == [None, [0.5, 0.5]]
    assert set(fields["train"]) == {"n", "realised", "selected", "transition", "labels_sha256"}


def test_no_noise_on_data_that_bring_truth_is_a_card_of_what_was_given() -> None:
    truth = BALANCED
    labels = np.where(np.arange(10_000) < 1500, (truth + 1) % 10, truth)
    data = Dataset(split(labels, truth), None, split(np.arange(10)), tuple("0123456789"), "")
    after, card = corrupt(data, sections.Noise(), source="npz", seed=0)
    assert (card.kind, card.count, card.nominal, card.seed) == ("given", None, None, None)
    assert card.train.realised == 0.15
    assert torch.equal(after.train.permuted, data.train.permuted)
    with pytest.raises(UserError, match="1500 labels of the data differ from the true ones already"):
        corrupt(data, spec("pairflip", 0.1), source="npz", seed=0)


def test_the_maps_of_he_et_al_are_used_for_mnist_and_cifar10() -> None:
    for source, pairs in {
        "mnist": {2: 7, 3: 8, 5: 6, 6: 5},
        "cifar10": {2: 0, 4: 7, 9: 1, 3: 5, 5: 3},
    }.items():
        after, _ = corrupt(dataset(BALANCED, 10), sections.Noise(kind="asymmetric", rate=1.0), source=source, seed=0)
        assert after.train.labels[:10].tolist() == [pairs.get(c, c) for c in range(10)]


@pytest.mark.parametrize(
    ("to", "said"),
    [(None, "no map is known for data.source = 'npz'"), ({"2": 10}, "2 -> 10, but the classes are 0..9"),
     ({"11": 0}, "11 -> 0, but"), ({"3": 3}, "changes nothing"), ({}, "is empty")],
)  # fmt: skip
def test_maps_that_do_not_fit_are_named(to: dict[str, int] | None, said: str) -> None:
    with pytest.raises(UserError, match=said) as e:
        noisy(BALANCED, sections.Noise(kind="asymmetric", rate=0.5, map=to))
    assert "\n" not in str(e.value)


# The superclass of each of CIFAR-100's fine classes, as its binary files give them.
COARSE = np.array(
    [4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10,
     12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16,
     12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14,
     13]
)  # fmt: skip
HUNDRED = np.arange(10_000) % 100


def moves(source: str, classes: int, to: str | None = None) -> np.ndarray:
    """The class that each class becomes at rate 1."""
    noise = sections.Noise(kind="asymmetric", rate=1.0, map=to)  # type: ignore[arg-type]
    return corrupt(dataset(np.arange(classes), classes), noise, source=source, seed=0)[0].train.labels.numpy()


def test_cifar100_goes_to_the_next_class_of_its_true_superclass_cyclically() -> None:
    to = moves("cifar100", 100)
    assert (COARSE[to] == COARSE).all()
    for group in range(20):
        members = np.flatnonzero(group == COARSE)
        assert to[members].tolist() == np.roll(members, -1).tolist()


def test_trap_20_block5_is_the_map_of_he_et_als_code_and_not_that_of_the_superclasses() -> None:
    to = moves("cifar100", 100, "block5")
    assert to.tolist() == [5 * k + (i + 1) % 5 for k in range(20) for i in range(5)]
    assert np.mean(COARSE[to] == COARSE) < 0.1
    assert moves("npz", 5, "block5").tolist() == [1, 2, 3, 4, 0]
    with pytest.raises(UserError, match="block5': 12 classes are not blocks of five"):
        moves("npz", 12, "block5")


@pytest.mark.parametrize(
    ("source", "kind", "to", "wrong"),
    [("cifar10", "asymmetric", None, 0.5), ("mnist", "asymmetric", None, 0.4), ("cifar100", "asymmetric", None, 1.0),
     ("cifar100", "asymmetric", "block5", 1.0), ("cifar100", "pairflip", None, 1.0), ("cifar10", "pairflip", None, 1.0),
     ("cifar10", "symmetric-flip", None, 1.0)],
)  # fmt: skip
@pytest.mark.parametrize("rate", [0.2, 0.4])
@pytest.mark.parametrize("count", ["exact", "first"])
def test_on_balanced_labels_the_papers_noise_corrupts_its_nominal_share_of_the_eligible(
    source: str, kind: str, to: Any, wrong: float, rate: float, count: Any
) -> None:
    labels, classes = (HUNDRED, 100) if source == "cifar100" else (BALANCED, 10)
    noise = sections.Noise(kind=kind, rate=rate, count=count, map=to)
    _, card = corrupt(dataset(labels, classes), noise, source=source, seed=0)
    assert card.train.realised == pytest.approx(wrong * rate, abs=1e-12)


@pytest.mark.parametrize(("classes", "labels"), [(10, BALANCED), (100, HUNDRED)])
def test_uniform_relabel_corrupts_one_in_k_less_than_its_rate(classes: int, labels: np.ndarray) -> None:
    shares = [noisy(labels, spec("uniform-relabel", 0.4), classes, s)[1].train.realised for s in range(20)]
    error = np.sqrt(0.4 / classes * (1 - 1 / classes) / 10_000 / 20)
    assert np.mean(shares) == pytest.approx(0.4 * (1 - 1 / classes), abs=4 * error)


LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])
GIVEN = np.array([0, 1, 1, 0, 1, 2, 2, 1])


def human(path: Path, key: str | None = None, data: Dataset | None = None) -> tuple[Dataset, Card]:
    noise = sections.Noise(kind="human", path=str(path), key=key)
    return corrupt(data or dataset(LABELS[:5], 3, LABELS[5:]), noise, source="npz", seed=0)


def write_npy(path: Path) -> None:
    np.save(path, GIVEN)


WRITERS: dict[str, Callable[[Path], object]] = {
    "labels.npz": lambda path: np.savez(path, worse=GIVEN, clean_label=LABELS),
    "labels.npy": write_npy,
    "labels.txt": lambda path: path.write_text("\n".join(map(str, GIVEN))),
    "labels.csv": lambda path: path.write_text("worse\n" + "\n".join(map(str, GIVEN))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_labels_of_people_are_read_in_the_order_of_the_training_set(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    after, card = human(tmp_path / name)
    assert after.validation is not None
    assert after.train.labels.tolist() == GIVEN[:5].tolist()
    assert after.validation.labels.tolist() == GIVEN[5:].tolist()
    assert card.flipped == [2, 6]
    assert (card.kind, card.nominal, card.seed) == ("human", None, None)


def test_files_of_labels_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"

    def fails(said: str, where: Path = path, key: str | None = None) -> None:
        with pytest.raises(UserError, match=said) as e:
            human(where, key)
        assert "\n" not in str(e.value)

    fails("no such file")
    np.savez(path, worse=GIVEN, better=LABELS)
    fails("holds worse, better; say which with noise.key")
    fails("holds no 'wors'; did you mean 'worse'", key="wors")
    np.savez(path, worse=GIVEN[:-1])
    fails("7 labels, but the training set has 8 examples")
    np.savez(path, worse=GIVEN + 1)
    fails("label 3 at index 5, but the classes are 0..2")
    np.savez(path, worse=GIVEN - 1)
    fails("label -1 at index 0")
    np.savez(path, worse=GIVEN, clean_label=LABELS[::-1])
    fails("clean_label differs from the data at index 0")
    np.savez(path, worse=GIVEN, clean_label=LABELS[:4])
    fails(r"clean_label differs from the data in number \(4\)")
    path.write_bytes(b"not a zip")
    fails("is not an npz archive")
    (tmp_path / "a.txt").write_text("cat\ndog\n")
    fails("is not a txt file of labels", tmp_path / "a.txt")
    (tmp_path / "a.pkl").write_text("x")
    fails("'.pkl' is no file of labels", tmp_path / "a.pkl")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mynoise.py").write_text(
        "import numpy as np\n"
        "def first(labels, classes, generator):\n    labels[:3] = (labels[:3] + 1) % classes\n    return labels\n"
        "def floats(labels, classes, generator):\n    return labels + 0.5\n"
        "def beyond(labels, classes, generator):\n    return labels + classes\n"
        "def broken(labels, classes, generator):\n    raise KeyError('x')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mynoise", raising=False)
    return "mynoise"


def test_a_function_of_the_users_makes_the_labels(plugin: str) -> None:
    data = dataset(BALANCED, 10)
    after, card = corrupt(data, sections.Noise(kind=f"{plugin}:first"), source="npz", seed=0, plugins=[plugin])
    assert card.flipped == [0, 1, 2]
    assert after.train.permuted[:3].all()
    assert (card.kind, card.nominal, card.seed) == ("mynoise:first", None, 0)
    assert torch.equal(data.train.labels, data.train.truth)
    for name, said in {
        "floats": "returned float64",
        "beyond": "outside 0..9",
        "broken": "failed with KeyError",
    }.items():
        with pytest.raises(UserError, match=said):
            corrupt(data, sections.Noise(kind=f"{plugin}:{name}"), source="npz", seed=0, plugins=[plugin])
    with pytest.raises(UserError, match="--plugins mynoise"):
        corrupt(data, sections.Noise(kind=f"{plugin}:first"), source="npz", seed=0)


def test_a_fifth_of_mnist_relabelled_makes_eighteen_percent_wrong() -> None:
    folder = Path(os.environ.get("PRUNEPHASE_DATA", SHARED))
    if not (folder / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs MNIST: name its folder with PRUNEPHASE_DATA")
    data = load(sections.Data(source="mnist", validation=0.0), home=folder)
    _, card = corrupt(data, sections.Noise(kind="uniform-relabel", rate=0.2), source="mnist", seed=0)
    assert card.train.selected == 0.2
    assert card.train.realised == pytest.approx(0.18, abs=0.002)  # standard error 0.0005


SETS = {
    "aggre_label": 0.0901,
    "random_label1": 0.1723,
    "random_label2": 0.1812,
    "random_label3": 0.1764,
    "worse_label": 0.4021,
}


@pytest.mark.parametrize(("key", "rate"), SETS.items())
def test_the_human_labels_of_cifar10n_are_found_by_name_and_as_wrong_as_published(key: str, rate: float) -> None:
    folder = Path(os.environ.get("PRUNEPHASE_DATA", SHARED))
    if not (folder / "cifar10n.npz").is_file():
        pytest.skip("needs cifar10n.npz: name its folder with PRUNEPHASE_DATA")
    data = dataset(np.load(folder / "cifar10n.npz")["clean_label"], 10)
    _, card = corrupt(data, sections.Noise(kind="human", key=key), source="cifar10", seed=0, home=folder)
    assert card.train.realised == pytest.approx(rate, abs=5e-5)
    assert (card.kind, card.count, card.nominal, card.seed) == ("human", None, None, None)


@pytest.mark.parametrize(("source", "name"), [("cifar10", "cifar10n.npz"), ("cifar100", "cifar100n.npz")])
def test_human_labels_without_a_path_are_those_of_cifar_n_in_the_data_folder(
    source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, noise = dataset(LABELS[:5], 3, LABELS[5:]), sections.Noise(kind="human", key="worse_label")
    np.savez(tmp_path / name, worse_label=GIVEN, clean_label=LABELS)
    assert corrupt(data, noise, source=source, seed=0, home=tmp_path)[1].flipped == [2, 6]
    monkeypatch.setenv("PRUNEPHASE_DATA", str(tmp_path))
    assert corrupt(data, noise, source=source, seed=0)[1].flipped == [2, 6]

    def fails(said: str, of: str, key: str) -> None:
        with pytest.raises(UserError, match=said) as e:
            corrupt(data, sections.Noise(kind="human", key=key), source=of, seed=0)
        assert "\n" not in str(e.value)

    fails("holds no 'worst_label'; did you mean 'worse_label'", source, "worst_label")
    fails("noise.kind = 'human': data.source = 'digits' has no human labels", "digits", "worse_label")
    np.savez(tmp_path / name, worse_label=GIVEN, clean_label=GIVEN)
    fails("clean_label differs from the data at index 2", source, "worse_label")
    (tmp_path / name).unlink()
    fails("noise.kind = 'human': .*noisylabels.com.*noise.path", source, "worse_label")
