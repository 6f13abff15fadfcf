"""The detector: where the phases lie, and how sure we are. The full campaign is benchmarks/detector.py."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from prunephase.analysis import Group, phases

DEVELOPMENT = 1  # seed of the curves here; the campaign judges on others


@pytest.fixture(scope="module")
def campaign() -> ModuleType:
    spec = spec_from_file_location("detector_campaign", Path(__file__).parents[1] / "benchmarks" / "detector.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def group(test: np.ndarray, train: np.ndarray | None = None) -> Group:
    seeds, levels = test.shape
    return Group({}, np.arange(levels), 1 - 0.8 ** np.arange(levels), test, train, tuple(range(seeds)))


def bumpy(seeds: int = 5, depth: float = 0.05, sd: float = 0.008, seed: int = 0) -> np.ndarray:
    """Light to level 6, dip at 10, peak at 16, collapse from 21. [S, 25]"""
    x = np.arange(25.0)
    mean = 0.8 - depth * np.exp(-(((x - 10) / 2) ** 2)) + 0.06 * np.exp(-(((x - 16) / 3) ** 2))
    mean -= 0.1 * np.clip(x - 20, 0, None)
    return mean + sd * np.random.default_rng(seed).standard_normal((seeds, 25))


def test_a_clear_dip_is_present_with_its_phases() -> None:
    found = phases(group(bumpy()))
    assert (found.verdict, found.n, found.p_value) == ("present", 5, 0.001)
    assert found.dip is not None
    assert found.peak is not None
    assert abs(found.dip.level - 10) <= 1
    assert abs(found.peak.level - 16) <= 1
    assert list(found.phases) == ["light", "critical", "sweet", "collapsed"]
    ends = [(span.start, span.end) for span in found.phases.values()]
    assert ends[0][0] == 0
    assert ends[-1][1] == 24
    assert all(before[1] + 1 == after[0] for before, after in pairwise(ends))
    assert found.phases["critical"].start <= found.dip.level <= found.phases["critical"].end
    assert found.phases["sweet"].start <= found.peak.level <= found.phases["sweet"].end
    assert found.sentence.startswith("Sparse double descent is present (p = 0.001, 5 seeds): accuracy falls from ")


def test_a_dip_in_the_seeds_of_a_falling_curve_is_found_too() -> None:
    falling = bumpy() - 0.004 * np.arange(25)
    assert phases(group(falling)).verdict == "present"


def test_no_false_alarms_on_curves_without_a_dip(campaign: ModuleType) -> None:
    curves = [case for case in campaign.cases(20) if case.part == "alarms" and case.seeds in (3, 5)]
    p = np.array([campaign.p_value(case, DEVELOPMENT, i) for case in curves for i in range(case.curves)])
    assert len(p) == 200
    assert (p <= 0.05).sum() <= binom.ppf(0.999, len(p), 0.05)
    assert len(np.unique(p)) > 50


def test_a_dip_of_three_standard_errors_is_found_with_five_seeds(campaign: ModuleType) -> None:
    (case,) = [c for c in campaign.cases(200) if (c.part, c.name, c.seeds) == ("power", "7 levels, independent", 5)]
    p = np.array([campaign.p_value(case, DEVELOPMENT, i) for i in range(case.curves)])
    assert (p <= 0.05).sum() >= binom.ppf(0.001, len(p), 0.9)


def test_one_and_two_seeds_are_underpowered_however_deep_the_dip() -> None:
    one, two = phases(group(bumpy(1))), phases(group(bumpy(2)))
    assert (one.verdict, one.p_value) == ("underpowered", None)
    assert (two.verdict, two.p_value) == ("underpowered", 0.001)
    for found in (one, two):
        assert found.dip is not None
        assert set(found.phases) == {"light", "critical", "sweet", "collapsed"}
        assert "candidate only" in found.sentence
    assert one.dip is not None
    assert one.dip.levels is None


def test_without_a_dip_the_verdict_depends_on_what_would_have_been_found() -> None:
    generator = np.random.default_rng(4)
    quiet = phases(group(0.8 + 0.003 * generator.standard_normal((5, 25))))
    noisy = phases(group(0.8 + 0.05 * generator.standard_normal((5, 25))))
    assert quiet.verdict == "not shown"
    assert quiet.power is not None
    assert quiet.power >= 0.9
    assert noisy.verdict == "underpowered"
    assert noisy.n_needed is None or noisy.n_needed > 5
    assert noisy.power is not None
    assert noisy.power < 0.9


def test_a_falling_curve_has_neither_dip_nor_peak() -> None:
    x = np.arange(25.0)
    for mean in (0.9 - 0.02 * x, 0.9 - 0.7 / (1 + np.exp(-(x - 20)))):
        found = phases(group(mean[None]))
        assert (found.dip, found.peak, found.severity) == (None, None, None)
        assert list(found.phases) == ["light", "collapsed"]
        assert "no interior dip" in found.sentence


@pytest.mark.parametrize("mean", [np.full(25, 0.8), 0.5 + 0.01 * np.arange(25.0)])
def test_a_constant_or_rising_curve_is_light_throughout(mean: np.ndarray) -> None:
    for seeds in (1, 5):
        found = phases(group(np.tile(mean, (seeds, 1))))
        assert (found.dip, list(found.phases), found.p_value) == (None, ["light"], None)


def test_copies_of_one_seed_are_no_evidence() -> None:
    found = phases(group(np.tile(bumpy(1), (5, 1))))
    assert (found.verdict, found.p_value) == ("underpowered", None)
    assert "no spread" in found.sentence


def test_missing_levels_and_seeds_are_left_out_and_counted() -> None:
    values = bumpy()
    values[:, 7] = np.nan
    values[2, 15:] = np.nan
    values[4] = np.nan
    found = phases(group(values))
    assert (found.verdict, found.n, found.missing) == ("present", 4, 25 + 4 - 1 + 10 + 1)
    assert found.dip is not None
    assert abs(found.dip.level - 10) <= 1


def test_accuracies_at_the_ceiling_do_no_harm() -> None:
    values = np.minimum(1.0, bumpy() + 0.2)
    found = phases(group(values))
    assert found.verdict == "present"


@pytest.mark.parametrize("levels", [3, 4, 7, 60])
def test_short_and_long_ladders_work(levels: int) -> None:
    values = 0.8 + 0.01 * np.random.default_rng(levels).standard_normal((3, levels))
    found = phases(group(values))
    assert sum(span.end - span.start + 1 for span in found.phases.values()) == levels


@pytest.mark.parametrize(("levels", "phase"), [(0, []), (1, ["light"]), (2, ["light"])])
def test_a_study_that_has_only_begun_is_underpowered(levels: int, phase: list[str]) -> None:
    values = np.full((3, 9), np.nan)
    values[:, :levels] = 0.8
    found = phases(group(values))
    assert (found.verdict, found.dip, list(found.phases)) == ("underpowered", None, phase)
    assert f"only {levels} of the levels" in found.sentence


def test_the_threshold_is_the_first_level_below_99_percent_of_the_dense_train_accuracy() -> None:
    train = np.tile(np.clip(1 - 0.02 * np.clip(np.arange(25.0) - 8, 0, None), 0, 1), (5, 1))
    found = phases(group(bumpy(), train))
    assert found.threshold is not None
    assert (found.threshold.level, found.threshold.levels) == (9, (9, 9))
    assert phases(group(bumpy())).threshold is None


def test_levels_keep_their_own_numbers() -> None:
    base = group(bumpy())
    shifted = Group({}, base.levels * 2 + 3, base.sparsity, base.test, None, base.seeds)
    one, other = phases(base), phases(shifted)
    assert one.dip is not None
    assert other.dip is not None
    assert other.dip.level == 2 * one.dip.level + 3
    assert other.phases["sweet"].start == 2 * one.phases["sweet"].start + 3


def test_the_json_has_the_published_shape() -> None:
    values = json.loads(json.dumps(phases(group(bumpy())).as_json(), allow_nan=False))
    assert set(values) >= {"verdict", "p_value", "n", "dip", "peak", "phases", "severity", "threshold", "sentence"}
    assert set(values["dip"]) == {"level", "sparsity", "value", "levels"}
    assert set(values["phases"]) == {"light", "critical", "sweet", "collapsed"}
    assert all(len(span) == 2 for span in values["phases"].values())
    falling = phases(group(0.9 - 0.02 * np.arange(25.0)[None])).as_json()
    assert falling["dip"] is None
    assert falling["phases"]["sweet"] is None


def test_the_same_curve_gets_the_same_answer() -> None:
    assert phases(group(bumpy())) == phases(group(bumpy()))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 1.1), st.floats(-0.1, 0.1))
def test_scale_and_offset_of_accuracy_move_neither_dip_nor_p_value(seed: int, scale: float, offset: float) -> None:
    values = bumpy(4, depth=0.01, seed=seed)
    one, other = phases(group(values)), phases(group(scale * values + offset))
    assert one.p_value == other.p_value
    assert (one.dip is None) == (other.dip is None)
    if one.dip and other.dip and one.peak and other.peak:
        assert (one.dip.level, one.dip.levels) == (other.dip.level, other.dip.levels)
        assert (one.peak.level, one.peak.levels) == (other.peak.level, other.peak.levels)
        assert one.phases == other.phases


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(5)))
def test_the_numbers_of_the_seeds_do_not_matter(order: list[int]) -> None:
    values = bumpy(depth=0.015, seed=5)
    assert phases(group(values)) == phases(group(values[order]))
