"""The published curves: dip and peak lie where the figures show them."""

# Percent, level i at sparsity 1 - 0.8^i, read off the figures: He et al., ICML 2022, Fig. 1 (20 % of the labels drawn
# again); Quetu and Tartaglione, AAAI 2024, Fig. 1 (vanilla). Written before the detector and never used to tune it.

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from prunephase.analysis import phases, read_curve


class Published(NamedTuple):
    test: list[float]
    train: list[float] | None
    dip: set[int]
    peak: set[int]
    threshold: int | None


def percents(text: str) -> list[float]:
    return [float(word) for word in text.split()]


CURVES = {
    "mnist": Published(
        test=percents(
            "83.4 83.5 82.9 82.3 82.2 81.8 81.6 80.9 80 78.6 76.6 77.4 81.6 85.7 88.6 91 92.7 94.1 94.9 "
            "95.3 95.3 95.1 94.5 92.7 86.6"
        ),
        train=percents(
            "100 100 100 100 100 100 100 100 100 99.8 95.4 91.1 86.7 84 82.3 81.4 80.6 80.2 80 79.7 79.4 "
            "78.8 78 76.5 70.9"
        ),
        dip={10},
        peak={19, 20},
        threshold=10,
    ),
    "cifar10": Published(
        test=percents(
            "83.3 83.2 83.4 83.5 83.2 83.4 82.7 82.7 82.5 82.2 82.1 81.6 81.4 81.6 81.2 80.7 80.3 79.4 78 "
            "80 84 86.1 87 87.6 87.6 87.2 87 86.1"
        ),
        train=percents(
            "100 100 100 100 100 100 100 100 99.9 99.9 99.9 99.9 99.8 99.8 99.8 99.7 99.5 99 96 88.8 84.7 "
            "82.6 81.5 80.3 79 78 76.8 75.3"
        ),
        dip={18},
        peak={23, 24},
        threshold=18,
    ),
    "cifar100": Published(
        test=percents(
            "60.5 60.8 60.9 61.2 61.2 61.2 61.2 60.9 60.8 61.2 61.1 60.6 60.3 59.5 58.8 57.6 54 55.3 56.8 "
            "58.6 59.3 59.8 59 58.2 55.8 54.8"
        ),
        train=percents(
            "100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 99.7 93.9 84.1 76.9 71.4 66.9 63.4 "
            "60.3 57.1 53.1 50.5"
        ),
        dip={16},
        peak={21},
        threshold=16,
    ),
    "dsd2-vanilla": Published(
        test=percents(
            "46.2 46.6 47 47.1 46.9 47.1 46.8 46.4 46.1 45.9 45.4 44.9 44.4 43.4 42.7 42.2 41.7 41.4 41.9 "
            "43.5 44.5 45.7 46.9 47.2 48.2 47.3 46.5 45.1 43.3"
        ),
        train=None,
        dip={17},
        peak={24},
        threshold=None,
    ),
}


def written(published: Published, folder: Path) -> Path:
    """The curve as a user would hand it in: percent, no seeds, no levels."""
    columns = {
        "sparsity": [100 * (1 - 0.8**level) for level in range(len(published.test))],
        "test_accuracy": published.test,
    }
    if published.train is not None:
        columns["train_accuracy"] = published.train
    path = folder / "curve.csv"
    pl.DataFrame(columns).write_csv(path)
    return path


def off(found: int, expected: set[int]) -> int:
    return min(abs(found - level) for level in expected)


@pytest.mark.parametrize("name", CURVES)
def test_dip_and_peak_lie_within_one_level_of_the_published_ones(name: str, tmp_path: Path) -> None:
    (group,) = read_curve(written(CURVES[name], tmp_path)).groups()
    found = phases(group)
    assert found.dip is not None
    assert found.peak is not None
    assert off(found.dip.level, CURVES[name].dip) <= 1
    assert off(found.peak.level, CURVES[name].peak) <= 1


@pytest.mark.parametrize("name", CURVES)
def test_one_published_curve_without_seeds_is_underpowered(name: str, tmp_path: Path) -> None:
    (group,) = read_curve(written(CURVES[name], tmp_path)).groups()
    found = phases(group)
    assert (found.verdict, found.p_value, found.n) == ("underpowered", None, 1)
    assert {"light", "critical", "sweet"} <= set(found.phases)


@pytest.mark.parametrize("name", CURVES)
def test_the_interpolation_threshold_is_where_train_accuracy_falls_below_99_percent_of_dense(
    name: str, tmp_path: Path
) -> None:
    (group,) = read_curve(written(CURVES[name], tmp_path)).groups()
    found = phases(group).threshold
    assert (found.level if found else None) == CURVES[name].threshold


def test_a_peak_below_the_dense_accuracy_is_still_a_peak(tmp_path: Path) -> None:
    (group,) = read_curve(written(CURVES["cifar100"], tmp_path)).groups()
    found = phases(group)
    assert found.peak is not None
    assert found.peak.value < group.test[0, 0]


def test_the_numbers_here_are_those_of_the_reference_file() -> None:
    path = Path(__file__).parents[2] / "shared" / "reference" / "refcurves.csv"
    if not path.exists():
        pytest.skip("refcurves.csv does not lie beside the checkout")
    table = pl.read_csv(path)
    names = {
        "mnist": "He22_Fig1_MNIST_LeNet300100_sym20",
        "cifar10": "He22_Fig1_CIFAR10_ResNet18_sym20",
        "cifar100": "He22_Fig1_CIFAR100_ResNet18_sym20",
        "dsd2-vanilla": "DSD2_Fig1_vanilla",
    }
    for name, long in names.items():
        rows = table.filter(pl.col("curve") == long)
        assert rows.filter(pl.col("metric").str.starts_with("test"))["value_pct"].to_list() == CURVES[name].test
        train = rows.filter(pl.col("metric") == "train_acc")["value_pct"].to_list()
        assert train == (CURVES[name].train or [])
