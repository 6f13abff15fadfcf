"""Memorisation and calibration: recounted by NumPy from the network's weights, and on cases worked by hand."""

# N examples, K classes.

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from measured import Moody, dataset, row, snapshot, untouched
from prunephase import models
from prunephase.data import Dataset, Split
from prunephase.measure import evaluate
from prunephase.measure.calibration import bin_of, calibration, harm
from prunephase.measure.changes import changes
from prunephase.measure.distance import distance
from prunephase.measure.entropy import entropy
from prunephase.measure.finding import Finding
from prunephase.measure.histograms import histograms
from prunephase.measure.memorisation import forgetting, forgotten_at, memorisation
from prunephase.measure.structure import structure
from prunephase.sections import Model


def mlp() -> nn.Module:
    return models.build(Model(name="mlp", kwargs={"widths": [8]}), (6,), 4, 0)


def chances(net: nn.Module, of: Split) -> np.ndarray:
    """[N, K], by numpy alone."""
    x = of.inputs.numpy().astype(np.float64)
    w = {n: p.detach().numpy().astype(np.float64) for n, p in net.named_parameters()}
    hidden = np.maximum(x @ w["hidden1.weight"].T + w["hidden1.bias"], 0)
    z = hidden @ w["output.weight"].T + w["output.bias"]
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def bits(finding: Finding, name: str, count: int) -> np.ndarray:
    return np.unpackbits(finding.arrays[name], count=count).astype(bool)


class Says(nn.Module):
    """Gives logits that the first features of an example hold."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :4]


def test_accuracy_and_loss_of_every_subset_are_those_of_a_recount_from_the_predictions() -> None:
    data, net = dataset(), mlp()
    train, test = data.train, data.test
    found = memorisation(snapshot(net, data))
    p, q = chances(net, train), chances(net, test)
    labels, truth, moved = train.labels.numpy(), train.truth.numpy(), train.permuted.numpy()
    n = np.arange(len(train))
    given, true = -np.log(p[n, labels]), -np.log(p[n, truth])
    wrong = labels != truth
    assert 0 < wrong.sum() < moved.sum()  # some draws hit the true class
    every = np.ones(len(train), bool)
    for part, guess, answer, losses in (
        *(("train", p[every], labels[every], given[every]), ("permuted", p[moved], labels[moved], given[moved])),
        *(("unpermuted", p[~moved], labels[~moved], given[~moved]), ("restored", p[moved], truth[moved], true[moved])),
        ("test", q, test.labels.numpy(), -np.log(q[np.arange(len(q)), test.labels.numpy()])),
        *(
            ("wrong_labels", p[wrong], labels[wrong], given[wrong]),
            ("right_labels", p[~wrong], labels[~wrong], given[~wrong]),
        ),
    ):
        assert row(found, part)["examples"] == len(answer), part
        assert row(found, part)["accuracy"] == (guess.argmax(1) == answer).mean(), part
        assert row(found, part)["loss"] == pytest.approx(losses.mean(), rel=1e-5), part
        assert row(found, "network")[f"{part}_accuracy"] == row(found, part)["accuracy"]
    share = given[wrong].sum() / given.sum()
    assert row(found, "network")["wrong_labels_loss_share"] == pytest.approx(share, rel=1e-5)
    assert row(found, "network")["right_labels_loss_share"] == pytest.approx(1 - share, rel=1e-5)
    np.testing.assert_array_equal(bits(found, "train_given", len(train)), p.argmax(1) == labels)
    np.testing.assert_array_equal(bits(found, "train_true", len(train)), p.argmax(1) == truth)
    np.testing.assert_array_equal(bits(found, "test", len(test)), q.argmax(1) == test.labels.numpy())
    np.testing.assert_array_equal(bits(found, "permuted", len(train)), moved)
    np.testing.assert_array_equal(bits(found, "wrong", len(train)), wrong)
    np.testing.assert_array_equal(found.arrays["guess"], p.argmax(1))
    np.testing.assert_allclose(found.arrays["chance"], p[n, labels], rtol=1e-3, atol=1e-7)


def test_memorisation_agrees_with_what_was_measured_while_training() -> None:
    data, net = dataset(), mlp()
    now, then = row(memorisation(snapshot(net, data)), "network"), evaluate(net, data)
    for name in ("train", "permuted", "unpermuted", "restored", "test"):
        assert now[f"{name}_accuracy"] == then[f"{name}_accuracy"]
    assert now["train_loss"] == pytest.approx(then["train_loss"], rel=1e-6)


def test_clean_data_have_no_share_of_wrong_labels() -> None:
    data = dataset()
    clean = replace(data.train, labels=data.train.truth, permuted=torch.zeros(len(data.train), dtype=torch.bool))
    found = row(memorisation(snapshot(mlp(), replace(data, train=clean))), "network")
    assert found["permuted_accuracy"] is found["restored_loss"] is found["wrong_labels_loss"] is None
    assert (found["wrong_labels_loss_share"], found["right_labels_loss_share"]) == (0.0, 1.0)


def ledger(fitted: list[int], wrong: list[int]) -> Finding:
    one = {"part": "train", "examples": len(fitted)}
    names = {"train_given": fitted, "permuted": wrong, "wrong": wrong}
    return Finding([one], {name: np.packbits(np.array(values, bool)) for name, values in names.items()})


def test_an_example_is_forgotten_where_no_later_level_fits_it() -> None:
    #           kept  lost at .4  lost, found, lost  never  lost and found  only at the end  (nine: more than a byte)
    levels = {
        0.0: [1, 1, 1, 0, 1, 0, 1, 1, 1],
        0.2: [1, 1, 0, 0, 0, 0, 1, 1, 1],
        0.4: [1, 0, 1, 0, 0, 0, 1, 1, 0],
        0.6: [1, 0, 0, 0, 1, 1, 1, 1, 0],
    }
    wrong = [0, 1, 1, 1, 0, 0, 0, 0, 1]
    found = forgetting({s: ledger(levels[s], wrong) for s in (0.4, 0.0, 0.6, 0.2)})  # in any order
    inf = np.inf
    assert found.arrays["first_forgotten"].tolist() == [inf, 0.4, 0.2, inf, 0.2, inf, inf, inf, 0.4]
    assert found.arrays["forgotten"].tolist() == [inf, 0.4, 0.6, 0.0, inf, inf, inf, inf, 0.4]
    noisy, clean = row(found, "wrong_labels"), row(found, "right_labels")
    assert (noisy["examples"], noisy["never_fitted"], noisy["fitted_to_the_end"]) == (4, 0.25, 0.0)
    assert (noisy["forgotten"], clean["forgotten"], clean["fitted_to_the_end"]) == (0.4, None, 1.0)
    assert row(found, "network")["fitted_to_the_end"] == pytest.approx(5 / 9)


def test_forgetting_equals_a_loop_over_examples_and_levels() -> None:
    draw = np.random.default_rng(0)
    fitted, sparsities = draw.random((6, 200)) < 0.6, np.array([0.0, 0.2, 0.36, 0.5, 0.6, 0.7])
    first, forgotten = forgotten_at(fitted, sparsities)
    for n in range(200):
        column = fitted[:, n].tolist()
        lost = [s for s, before, now in zip(sparsities[1:], column, column[1:], strict=False) if before and not now]
        assert first[n] == min(lost, default=np.inf)
        gone = [s for i, s in enumerate(sparsities) if not any(column[i:])]
        assert forgotten[n] == min(gone, default=np.inf)


def test_calibration_equals_a_recount_bin_by_bin() -> None:
    data, net = dataset(tests=3_333), mlp()
    found = calibration(snapshot(net, data))
    p, labels = chances(net, data.test), data.test.labels.numpy()
    n, right, sure = len(labels), p.argmax(1) == labels, p.max(1)
    ece = 0.0
    for b in range(15):
        of = (sure > b / 15) & (sure <= (b + 1) / 15)
        line = row(found, f"bin {b + 1}")
        assert line["examples"] == of.sum()
        if of.any():
            assert line["accuracy"] == right[of].mean()
            assert line["confidence"] == pytest.approx(sure[of].mean(), rel=1e-5)
            ece += of.mean() * abs(right[of].mean() - sure[of].mean())
    assert np.count_nonzero([row(found, f"bin {b + 1}")["examples"] for b in range(15)]) > 5
    onehot = np.eye(4)[labels]
    said = row(found, "network")
    assert said["ece"] == pytest.approx(ece, rel=1e-5)
    assert said["nll"] == pytest.approx(-np.log(p[np.arange(n), labels]).mean(), rel=1e-5)
    assert said["brier"] == pytest.approx(((p - onehot) ** 2).sum(1).mean(), rel=1e-5)
    assert said["overconfidence"] == pytest.approx(sure.mean() - right.mean(), abs=1e-6)
    for k, name in enumerate(data.classes):
        assert row(found, name)["accuracy"] == right[labels == k].mean()
    np.testing.assert_array_equal(found.arrays["guess"], p.argmax(1))


def test_a_bin_holds_its_upper_end() -> None:
    ends = np.arange(1, 16) / 15
    assert bin_of(ends).tolist() == list(range(15))
    assert bin_of(np.nextafter(ends[:-1], 1)).tolist() == list(range(1, 15))


def sayings(logits: list[list[float]], labels: list[int]) -> Dataset:
    data, count = dataset(), len(labels)
    answers = torch.tensor(labels)
    still = torch.zeros(count, dtype=torch.bool)
    inputs = torch.tensor(logits, dtype=torch.float64)
    return replace(data, test=Split(inputs, answers, answers, still, torch.arange(count) + 10))


def test_ece_nll_and_brier_of_four_examples_worked_by_hand() -> None:
    sure, half, none = [0.0, -1e9, -1e9, -1e9], [0.0, 0.0, -1e9, -1e9], [0.0, 0.0, 0.0, 0.0]
    found = row(calibration(snapshot(Says(), sayings([sure, half, half, none], [0, 0, 1, 3]))), "network")
    # Confidence 1 and right; 1/2 twice, right once (a tie says class 0); 1/4 and wrong.
    assert found["accuracy"] == 0.5
    assert found["ece"] == pytest.approx((0 + 0 + 0.25) / 4)
    assert found["nll"] == pytest.approx(np.log([1, 2, 2, 4]).mean())
    assert found["brier"] == pytest.approx((0 + 0.5 + 0.5 + 0.75) / 4)


def test_prediction_changes_are_those_of_a_recount_and_all_at_the_dense_level() -> None:
    data, net, other = dataset(), mlp(), mlp()
    with torch.no_grad():
        other.get_parameter("output.weight").neg_()
    moved = chances(net, data.train).argmax(1) != chances(other, data.train).argmax(1)
    assert 0 < moved.sum() < len(moved)
    found = changes(replace(snapshot(net, data), before=lambda: snapshot(other, data)))
    permuted = data.train.permuted.numpy()
    for part, of in (("network", np.full(len(moved), True)), ("permuted", permuted), ("unpermuted", ~permuted)):
        assert row(found, part)["changed"] == moved[of].sum()
        assert row(found, part)["share"] == pytest.approx(moved[of].mean())
    dense = changes(replace(snapshot(net, data), level=0))
    assert row(dense, "network")["changed"] == row(dense, "network")["examples"] == len(moved)
    assert row(changes(snapshot(net, data)), "network")["changed"] is None  # the level before was not trained


def test_a_perfectly_calibrated_network_has_no_calibration_error() -> None:
    four_in_five = np.log([0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3]).tolist()
    found = row(calibration(snapshot(Says(), sayings([four_in_five] * 10, [0] * 8 + [1, 2]))), "network")
    assert found["ece"] == pytest.approx(0, abs=1e-12)
    wrong = row(calibration(snapshot(Says(), sayings([[40.0, 0, 0, 0]] * 10, [1] * 10))), "network")
    assert (wrong["ece"], wrong["brier"], wrong["overconfidence"]) == pytest.approx((1, 2, 1))


def test_harm_counts_the_examples_that_flip_and_the_class_that_pays() -> None:
    sure = np.eye(4) * 9
    labels = [0, 0, 1, 1, 2, 3]
    before = calibration(snapshot(Says(), sayings(sure[[0, 0, 1, 1, 0, 0]].tolist(), labels)))
    after = calibration(snapshot(Says(), sayings(sure[[0, 1, 3, 3, 2, 1]].tolist(), labels)))
    found = harm(before, after)
    whole = row(found, "network")
    assert (whole["lost"], whole["won"], whole["changed"]) == (3 / 6, 1 / 6, 5 / 6)
    assert found.arrays["lost"].tolist() == [11, 12, 13]
    assert found.arrays["won"].tolist() == [14]
    assert found.arrays["changed"].tolist() == [11, 12, 13, 14, 15]
    assert [row(found, name)["change"] for name in ("ant", "bee", "cow", "dog")] == [-0.5, -1.0, 1.0, 0.0]
    assert (whole["worst_class"], whole["worst_change"]) == ("bee", -1.0)
    assert whole["change"] == pytest.approx(-2 / 6)


@pytest.mark.parametrize("diagnosis", [memorisation, calibration, distance, entropy, structure, histograms])
@pytest.mark.parametrize("training", [True, False])
def test_a_diagnosis_changes_nothing_that_it_looks_at(diagnosis: Any, training: bool) -> None:
    net = Moody().train(training)
    net.frozen.eval()
    net.first.bias.requires_grad_(False)
    net.out.weight.grad = torch.ones(4, 5)
    masks = {"first.weight": torch.rand(5, 6) > 0.5}
    seen = snapshot(net, dataset(count=300), masks)
    with untouched(seen):
        first = diagnosis(seen)
    torch.manual_seed(99)
    again = diagnosis(seen)  # the same, though the network draws
    assert again.rows == first.rows
    assert again.arrays.keys() == first.arrays.keys()
    assert all(np.array_equal(again.arrays[name], a) for name, a in first.arrays.items())
    assert first.rows[0]["part"] == "network"
    json.dumps([dict(r) for r in first.rows], allow_nan=False)
    assert all(isinstance(a, np.ndarray) for a in first.arrays.values())
