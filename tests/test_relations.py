"""Relations: a signal that turns at a known level is found there, and nothing is said that the seeds do not show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from scipy import stats

from prunephase.analysis import curve, phases
from prunephase.analysis.relations import Relation, relations

DIP, PEAK, LEVELS = 6, 12, 18
Course = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def hill(at: float, width: float = 3.0, noise: float = 0.0) -> Course:
    return lambda level, chance: np.exp(-(((level - at) / width) ** 2)) + chance.normal(0, noise, len(level))


def ladder(seeds: int = 5, **signals: Course) -> pl.DataFrame:
    """A curve with its dip at level 6 and its peak at level 12, and signals beside it."""
    level = np.arange(LEVELS, dtype=float)
    test = 0.8 - 0.1 * np.exp(-(((level - DIP) / 2) ** 2)) + 0.06 * np.exp(-(((level - PEAK) / 2) ** 2))
    train = np.where(level < 4, 1.0, 1.0 - 0.03 * (level - 3))
    rows = []
    for seed in range(seeds):
        chance = np.random.default_rng(seed)
        shown = test + chance.normal(0, 0.001, LEVELS) - 0.2 * (level == LEVELS - 1)
        drawn = {name: course(level, chance) for name, course in signals.items()}
        for i in range(LEVELS):
            values = {name: float(values[i]) for name, values in drawn.items()}
            row = {"seed": seed, "level": i, "sparsity": 1 - 0.8**i, "test_accuracy": float(shown[i])}
            rows.append({**row, "train_accuracy": float(train[i]), **values})
    return pl.DataFrame(rows)


def only(found: list[Relation], signal: str, turn: str) -> Relation:
    (one,) = [each for each in found if (each.signal, each.turn) == (signal, turn)]
    return one


def test_the_made_up_curve_turns_where_it_should() -> None:
    (group,) = curve(ladder(), by=()).groups()
    said = phases(group)
    assert said.dip is not None
    assert said.peak is not None
    assert (said.dip.level, said.peak.level) == (DIP, PEAK)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_turn_is_found_where_it_was_put(noise: float) -> None:
    level = lambda at: hill(at, noise=noise)  # noqa: E731
    rows = ladder(at_dip=level(DIP), at_peak=level(PEAK), between=level((DIP + PEAK) / 2), late=level(16))
    found = relations(rows, ["at_dip", "at_peak", "between", "late"])
    where = {name: only(found, name, "highest") for name in ("at_dip", "at_peak", "between", "late")}
    assert {name: one.near for name, one in where.items()} == {
        "at_dip": "dip",
        "at_peak": "peak",
        "between": "neither",
        "late": "neither",
    }
    assert where["at_dip"].level.mean == pytest.approx(DIP, abs=0.7)
    assert where["late"].from_dip.mean == pytest.approx(16 - DIP, abs=0.7)
    assert where["late"].from_peak.mean == pytest.approx(16 - PEAK, abs=0.7)
    assert where["late"].seeds == where["late"].level.n == 5


def test_a_lowest_point_is_a_turn_too() -> None:
    found = relations(ladder(valley=lambda level, _: (level - PEAK) ** 2), ["valley"])
    assert [(one.turn, one.near, one.level.per_seed) for one in found] == [("lowest", "peak", (12.0,) * 5)]


def test_what_rises_or_stays_has_no_turn() -> None:
    flat = {
        "rising": lambda level, _: level,
        "still": lambda level, _: 0 * level,
        "to_the_top": lambda level, _: np.minimum(level, PEAK),
        "from_the_top": lambda level, _: -np.maximum(level, DIP),
    }
    assert relations(ladder(**flat), list(flat)) == []


def test_levels_that_tie_give_their_middle() -> None:
    found = relations(ladder(mesa=lambda level, _: ((level >= 5) & (level <= 8)).astype(float)), ["mesa"])
    assert only(found, "mesa", "highest").level.mean == 6.5


def test_an_interval_is_that_of_student() -> None:
    # Each seed turns at its own level.
    places = [5, 6, 6, 7, 8]
    rows = ladder(own=hill(0)).with_columns(
        own=-((pl.col("level") - pl.col("seed").replace_strict(dict(enumerate(places)))) ** 2)
    )
    one = only(relations(rows, ["own"]), "own", "highest")
    assert one.level.per_seed == tuple(map(float, places))
    low, high = stats.t.interval(0.95, 4, loc=np.mean(places), scale=stats.sem(places))
    assert one.level.interval == pytest.approx((low, high))
    assert one.from_dip.interval == pytest.approx((low - DIP, high - DIP))
    assert one.near == ("dip" if low - DIP >= -2 and high - DIP <= 2 else "underpowered")


def test_seeds_that_disagree_are_underpowered_and_those_that_do_not_turn_are_told() -> None:
    places = {0: 2, 1: 6, 2: 6, 3: 9, 4: 13}
    spread = ladder(own=hill(0)).with_columns(own=-((pl.col("level") - pl.col("seed").replace_strict(places)) ** 2))
    assert only(relations(spread, ["own"]), "own", "highest").near == "underpowered"
    # Surely not at the peak, perhaps at the dip.
    places = {0: 6, 1: 6, 2: 8, 3: 9, 4: 9}
    late = ladder(own=hill(0)).with_columns(own=-((pl.col("level") - pl.col("seed").replace_strict(places)) ** 2))
    one = only(relations(late, ["own"]), "own", "highest")
    assert one.from_dip.interval is not None
    assert one.from_peak.interval is not None
    assert (one.from_dip.interval[0] < 2 < one.from_dip.interval[1], one.from_peak.interval[1] < -2) == (True, True)
    assert one.near == "underpowered"
    some = ladder(own=hill(DIP)).with_columns(
        own=pl.when(pl.col("seed") < 2).then(pl.col("level").cast(pl.Float64)).otherwise(pl.col("own"))
    )
    one = only(relations(some, ["own"]), "own", "highest")
    assert (one.near, one.level.n, one.seeds) == ("mixed", 3, 5)


@pytest.mark.parametrize(("seeds", "near"), [(1, "underpowered"), (2, "underpowered"), (3, "dip")])
def test_fewer_than_three_seeds_say_nothing(seeds: int, near: str) -> None:
    found = relations(ladder(seeds, signal=hill(DIP)), ["signal"])
    assert only(found, "signal", "highest").near == near


def test_levels_that_were_not_asked_are_left_out() -> None:
    rows = ladder(signal=hill(DIP))
    held = rows.with_columns(signal=pl.when(pl.col("level") % 2 == 0).then(pl.col("signal")))
    assert only(relations(held, ["signal"]), "signal", "highest").near == "dip"
    few = rows.with_columns(signal=pl.when(pl.col("level").is_in([0, 6, 12, 17])).then(pl.col("signal")))
    assert relations(few, ["signal"]) == []
    one_seed = rows.with_columns(signal=pl.when(pl.col("seed") > 0).then(pl.col("signal")))
    one = only(relations(one_seed, ["signal"]), "signal", "highest")
    assert (one.seeds, one.level.n, one.level.per_seed[0]) == (4, 4, None)


def test_the_correlation_is_that_from_the_threshold_on() -> None:
    # With test accuracy before the threshold (level 4: train accuracy first below 99 %), against it after.
    rows = ladder().with_columns(
        signal=pl.when(pl.col("level") < 4).then(100 + pl.col("test_accuracy")).otherwise(-pl.col("test_accuracy"))
    )
    one = relations(rows, ["signal"])[0]
    assert one.correlation.per_seed == pytest.approx((-1.0,) * 5)
    blind = relations(rows.drop("train_accuracy"), ["signal"])[0]
    assert blind.correlation.n == 0


def test_a_curve_without_a_dip_has_no_relations() -> None:
    rows = ladder(signal=hill(DIP)).with_columns(test_accuracy=0.9 - 0.01 * pl.col("level"))
    assert relations(rows, ["signal"]) == []
