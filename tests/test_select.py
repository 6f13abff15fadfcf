"""Selection: held-out noisy labels choose, the correction inverts the noise, the interval holds the truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from prunephase import cli
from prunephase.analysis.select import choose, corrected, select, wilson
from prunephase.analysis.statistics import interval
from prunephase.errors import UserError

CLEAN = np.array([0.80, 0.78, 0.72, 0.76, 0.86, 0.90, 0.89, 0.60])  # dip at level 2, peak at 5
CLASSES, RATE, EXAMPLES = 10, 0.3, 4_000


def symmetric(rate: float = RATE) -> list[list[float] | None]:
    return [[1 - rate if i == j else rate / (CLASSES - 1) for j in range(CLASSES)] for i in range(CLASSES)]


def noisy(clean: Any, rate: float = RATE) -> Any:
    """Chance that a prediction right with chance `clean` agrees with a label flipped with chance `rate`."""
    return clean * (1 - rate) + (1 - clean) * rate / (CLASSES - 1)


def table(validation: np.ndarray[Any, Any], test: np.ndarray[Any, Any], **fixed: Any) -> pl.DataFrame:
    """Accuracies [S, L] as a level table."""
    return pl.DataFrame(
        {"trial": f"t{s}", "seed": s, "level": i, "sparsity": 1 - 0.8**i, "status": "ok", "test_accuracy": float(t),
         "validation_accuracy": float(v), **fixed}
        for s, (vs, ts) in enumerate(zip(validation, test, strict=True))
        for i, (v, t) in enumerate(zip(vs, ts, strict=True))
    )  # fmt: skip


def cards(seeds: int, examples: int = EXAMPLES, rate: float = RATE) -> dict[str, dict[str, Any]]:
    card = {"train": {"n": 9_000, "realised": rate, "transition": symmetric(rate)}, "validation": {"n": examples}}
    return {f"t{seed}": card for seed in range(seeds)}


def drawn(seeds: int, chance: np.random.Generator) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Noisy validation accuracies of `EXAMPLES` draws, and true accuracies. [S, L]."""
    clean = np.broadcast_to(CLEAN, (seeds, len(CLEAN)))
    return chance.binomial(EXAMPLES, noisy(clean)) / EXAMPLES, clean


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.8])
def test_the_correction_inverts_symmetric_noise(rate: float) -> None:
    assert corrected(noisy(CLEAN, rate), symmetric(rate)) == pytest.approx(CLEAN, abs=1e-12)


def test_the_correction_of_simulated_labels_finds_the_true_accuracy() -> None:
    chance, n = np.random.default_rng(0), 200_000
    truth = chance.integers(CLASSES, size=n)
    given = np.where(chance.random(n) < RATE, (truth + chance.integers(1, CLASSES, n)) % CLASSES, truth)
    # wrong predictions all fall on the next class: where the noise is symmetric this may be
    said = np.where(chance.random(n) < 0.75, truth, (truth + 1) % CLASSES)
    counts = [np.bincount(given[truth == c], minlength=CLASSES) for c in range(CLASSES)]
    matrix = [list(count / count.sum()) for count in counts]
    assert corrected(float((said == given).mean()), matrix) == pytest.approx((said == truth).mean(), abs=0.01)


def test_pairflip_and_errors_along_the_pairs_are_what_it_overrates() -> None:
    matrix = [[0.7 if i == j else 0.3 * (j == (i + 1) % CLASSES) for j in range(CLASSES)] for i in range(CLASSES)]
    along = 0.8 * 0.7 + 0.2 * 0.3  # noisy accuracy where every error is a class's pair
    assert corrected(along, matrix) == pytest.approx(0.88)


@pytest.mark.parametrize("rate", [0.9, 0.95])
def test_labels_without_information_are_refused(rate: float) -> None:
    with pytest.raises(UserError, match="nothing is left to correct with"):
        corrected(0.1, symmetric(rate))


def test_the_one_standard_error_rule_takes_the_smaller_model() -> None:
    accuracies = np.array([0.70, 0.69, 0.60, 0.699, 0.698, 0.65])
    assert choose(accuracies, 0.0, "one-se") == 0
    assert choose(accuracies, 0.0015, "one-se") == 3
    assert choose(accuracies, 0.0025, "one-se") == 4
    assert choose(accuracies, 0.0025, "best") == 0
    assert choose(np.full(4, 0.5), 0.0, "best") == 3  # of equals the sparsest


def test_the_best_level_of_the_mean_curve_is_taken_and_its_regret_is_known() -> None:
    validation, test = drawn(4, np.random.default_rng(1))
    (found,) = select(table(validation, test), "best", cards=cards(4), clean=True)
    assert found.level == 5
    assert found.trial == f"t{validation[:, 5].argmax()}"
    assert found.regret.per_seed == (0.0, 0.0, 0.0, 0.0)
    assert found.expected.value == pytest.approx(0.9, abs=0.03)
    (noisy_only,) = select(table(validation, test), "best", cards=cards(4))
    assert noisy_only.expected.value == pytest.approx(validation[:, 5].mean())
    assert not noisy_only.clean


def test_the_test_set_chooses_nothing() -> None:
    validation, test = drawn(3, np.random.default_rng(2))
    (found,) = select(table(validation, test), cards=cards(3))
    (other,) = select(table(validation, test[:, ::-1]), cards=cards(3))
    assert (found.level, found.trial, found.expected) == (other.level, other.trial, other.expected)
    assert [one.level for one in found.own] == [one.level for one in other.own]
    assert found.regret != other.regret


def test_the_interval_of_three_seeds_holds_the_true_accuracy_of_a_level_fixed_beforehand() -> None:
    # One level stands far above the others, so that the choice cannot be wrong and adds no optimism.
    chance, held = np.random.default_rng(3), 0
    truth = np.array([0.5, 0.85, 0.5])
    for _ in range(200):
        validation = chance.binomial(500, noisy(truth), size=(3, 3)) / 500
        (found,) = select(table(validation, np.tile(truth, (3, 1))), "best", cards=cards(3, 500), clean=True)
        assert found.expected.low is not None
        assert found.expected.high is not None
        held += found.expected.low <= 0.85 <= found.expected.high
    assert held >= 184  # at 95 % fewer than 184 has a chance of 1 %


def test_the_interval_of_one_seed_is_wilsons_corrected() -> None:
    validation, test = drawn(1, np.random.default_rng(4))
    (found,) = select(table(validation, test), "best", cards=cards(1), clean=True)
    expected = corrected(np.array(wilson(float(validation[0, 5]), EXAMPLES)), symmetric())
    assert (found.expected.low, found.expected.high) == pytest.approx(tuple(expected))
    assert found.own[0].expected == found.expected


def test_wilson_agrees_with_scipy() -> None:
    from scipy.stats import binomtest

    for hits in (0, 17, 80, 100):
        said = binomtest(hits, 100).proportion_ci(method="wilson")
        assert wilson(hits / 100, 100) == pytest.approx((said.low, said.high))


def test_more_seeds_narrow_the_interval_but_not_below_that_of_the_shared_examples() -> None:
    chance = np.random.default_rng(4)
    widths = []
    for seeds in (3, 40):
        validation, test = drawn(seeds, chance)
        (found,) = select(table(validation, test), "best", cards=cards(seeds))
        assert found.expected.low is not None
        assert found.expected.high is not None
        widths.append(found.expected.high - found.expected.low)
    low, high = wilson(float(validation[:, 5].mean()), EXAMPLES)
    assert high - low <= widths[1] < widths[0]


def test_seeds_that_differ_widen_the_interval() -> None:
    validation, test = np.array([[0.5, 0.60], [0.5, 0.70], [0.5, 0.80]]), np.full((3, 2), 0.9)
    (found,) = select(table(validation, test), "best", cards=cards(3, 10**9))
    low, high = interval(np.array([0.60, 0.70, 0.80])) or (0.0, 0.0)
    assert (found.expected.low, found.expected.high) == pytest.approx((low, high), abs=1e-3)


def test_without_validation_or_card_it_says_what_to_do() -> None:
    validation, test = drawn(2, np.random.default_rng(5))
    frame = table(validation, test)
    with pytest.raises(UserError, match=r"data\.validation"):
        select(frame.drop("validation_accuracy"))
    with pytest.raises(UserError, match="without --clean"):
        select(frame, clean=True)
    (found,) = select(frame)
    assert found.expected.low is None  # of an unknown number of examples


def test_the_command_says_which_model_to_take(
    tiny: dict[str, Any], study_file: Callable[..., Path], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(study_file(tiny))
    assert cli.main(["select", study, "--store", str(finished), "--clean", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["selections"][0]
    assert said["clean"]
    assert said["trial"] in {path.name for path in (finished / "trials").iterdir()}
    assert said["expected"]["low"] <= said["expected"]["value"] <= said["expected"]["high"]
    assert cli.main(["select", study, "--store", str(finished)]) == 0
    assert f"Take level {said['level']} of trial {said['trial']}" in capsys.readouterr().out
    assert cli.main(["select", study, "--store", str(finished), "--rule", "worst"]) == 2
