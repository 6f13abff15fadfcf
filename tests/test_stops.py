"""Stop rules: each ends where its definition says, on rows so far alone; the replay counts what it saves and costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from prunephase import cli
from prunephase.analysis.replay import Replay, replay
from prunephase.analysis.stops import (
    RULES,
    CleanShare,
    EntropyGated,
    LabelWave,
    NoisyValidation,
    Patience,
    Rows,
    Rule,
    descend,
    lacking,
)
from prunephase.reports.series import complete, series
from prunephase.reports.stops import stops

Floats = NDArray[np.float64]
LEVELS = 24
DIP, PEAK = 9, 17
WRONG = 0.3


def story() -> dict[str, Floats]:
    """A ladder with a dip at level 9 and a peak at 17: memorisation is lost from 7 on, the units freeze from 10 on."""
    level = np.arange(LEVELS)
    test = np.interp(level, [0, 2, DIP, PEAK, 20, 23], [0.80, 0.81, 0.70, 0.88, 0.80, 0.30])
    train = np.interp(level, [0, 6, PEAK, 23], [1.0, 1.0, 0.70, 0.25])
    entropy = np.interp(level, [0, 9, 10, 23], [0.6, 0.62, 0.58, 0.1])
    changes = np.interp(level, [0, 1, 4, 12, 23], [1000, 40, 10, 300, 200])
    validation = test * (1 - WRONG) + 0.02
    return {"test": test, "train": train, "entropy": entropy, "changes": changes, "validation": validation}


def rows(**changed: Any) -> Rows:
    return Rows(**{**story(), "examples": 10_000, "wrong": WRONG, **changed})


def table(seeds: int = 3, **fixed: Any) -> tuple[pl.DataFrame, dict[str, dict[str, Any]]]:
    """The same story as a level table, and noise cards."""
    told = story()
    names = {name: f"{name}_accuracy" for name in ("validation", "train", "test")}
    names |= {"entropy": "entropy_mean", "changes": "changes_changed"}
    held = [
        {
            "trial": f"t{seed}",
            "seed": seed,
            "level": i,
            "sparsity": 1 - 0.8**i,
            "status": "ok",
            "epochs": 5,
            **{names[name]: float(values[i]) for name, values in told.items()},
            **fixed,
        }
        for seed in range(seeds)
        for i in range(LEVELS)
    ]
    # a little of each seed's own, the same at all levels but one
    frame = pl.DataFrame(held).with_columns(
        test_accuracy=pl.col("test_accuracy") + 0.001 * pl.col("seed") + 0.002 * (pl.col("level") * pl.col("seed") % 3)
    )
    card = {"train": {"n": 9_000, "realised": WRONG}, "validation": {"n": 1_000, "realised": WRONG}}
    return frame, {f"t{seed}": card for seed in range(seeds)}


def named(found: Replay, name: str) -> Any:
    return next(rule for rule in found.rules if rule.rule == name)


@pytest.mark.parametrize(
    ("rule", "last", "chosen"),
    [
        (Patience(3), 5, 2),
        (Patience(9), 11, 2),
        (EntropyGated(), PEAK + 3, PEAK),
        (CleanShare(), PEAK, PEAK),
        (NoisyValidation(8), 10, 2),
        (NoisyValidation(12), LEVELS - 1, PEAK),
        (LabelWave(), 5, 4),  # means of two: 25 at level 3, 15 at 4, 28 at 5
        (RULES["whole-ladder"], LEVELS - 1, PEAK),
        (RULES["oracle"], LEVELS - 1, PEAK),
    ],
)
def test_a_rule_ends_where_its_definition_says(rule: Rule, last: int, chosen: int) -> None:
    ended, said = descend(rule, rows())
    assert (ended, said.chosen) == (last, chosen)


@pytest.mark.parametrize("name", RULES)
def test_what_comes_later_changes_no_decision(name: str) -> None:
    known, future = rows(), rows()
    for column in ("validation", "train", "entropy", "changes", "test"):
        getattr(future, column)[13:] = np.linspace(0.9, 0.1, LEVELS - 13)
    for level in range(13):
        assert RULES[name](known.until(level)) == RULES[name](future.until(level))


@pytest.mark.parametrize("name", [name for name in RULES if name != "oracle"])
def test_no_rule_but_the_oracle_looks_at_the_test_set(name: str) -> None:
    hidden = rows(test=np.full(LEVELS, np.nan))
    assert descend(RULES[name], hidden) == descend(RULES[name], rows())


def test_the_entropy_gate_needs_both_signals() -> None:
    rule = EntropyGated()
    assert rule.armed(rows()) == 10
    assert rule.armed(rows(entropy=np.full(LEVELS, 0.6))) is None
    assert rule.armed(rows(train=np.ones(LEVELS))) is None
    assert rule.armed(rows(entropy=np.linspace(0.6, 0.1, LEVELS))) == 7  # then train accuracy is the later one
    ended, said = descend(rule, rows(entropy=np.full(LEVELS, 0.6)))
    assert not said.stop
    assert ended == LEVELS - 1


def test_armed_within_the_descent_the_gate_waits_for_a_rise() -> None:
    early = rows(train=np.linspace(1.0, 0.2, LEVELS), entropy=np.linspace(0.6, 0.1, LEVELS))
    assert EntropyGated().armed(early) == 2
    assert descend(EntropyGated(), early)[0] == PEAK + 3
    only_falls = rows(
        validation=np.linspace(0.8, 0.1, LEVELS),
        train=np.linspace(1.0, 0.2, LEVELS),
        entropy=np.linspace(0.6, 0.1, LEVELS),
    )
    assert not descend(EntropyGated(), only_falls)[1].stop
    assert descend(Patience(), only_falls)[0] == 3


def test_label_wave_waits_for_the_moving_average_and_never_ends_what_only_falls() -> None:
    assert not descend(LabelWave(), rows(changes=np.linspace(1000, 0, LEVELS)))[1].stop
    once = np.linspace(1000, 0, LEVELS)
    once[7] += 30  # a bump of one level that the mean of two still falls over
    assert not descend(LabelWave(), rows(changes=once))[1].stop
    once[7] += 100
    assert descend(LabelWave(), rows(changes=once))[0] == 7


def test_a_rise_within_one_standard_error_is_none() -> None:
    flat = np.full(LEVELS, 0.5)
    flat[12] = 0.52
    frozen = {"train": np.linspace(1.0, 0.2, LEVELS), "entropy": np.linspace(0.6, 0.1, LEVELS), "validation": flat}
    assert not descend(EntropyGated(), rows(**frozen, examples=100))[1].stop  # one standard error is 5 points
    assert descend(EntropyGated(), rows(**frozen, examples=10_000))[0] == 15  # half a point


def test_of_equal_validation_accuracies_the_sparsest_is_taken() -> None:
    equal = rows(validation=np.full(LEVELS, 0.6))
    assert descend(RULES["whole-ladder"], equal)[1].chosen == LEVELS - 1


def test_the_clean_share_that_is_never_reached_ends_nothing() -> None:
    ended, said = descend(CleanShare(), rows(train=np.ones(LEVELS)))
    assert not said.stop
    assert ended == said.chosen == LEVELS - 1


@pytest.mark.parametrize("wrong", [None, 0.0])
def test_the_clean_share_is_not_asked_where_it_is_unknown(wrong: float | None) -> None:
    assert "wrong" in (lacking(CleanShare(), rows(wrong=wrong)) or "")


def test_the_replay_counts_savings_regret_and_false_stops() -> None:
    frame, cards = table()
    (found,) = replay(frame, cards=cards)
    assert found.found.dip is not None
    assert found.found.peak is not None
    assert (found.found.dip.level, found.found.peak.level) == (DIP, PEAK)
    patience, entropy, oracle = (named(found, name) for name in ("patience", "entropy", "oracle"))
    for seed, one in enumerate(patience.outcomes):
        curve = frame.filter(pl.col("seed") == seed).sort("level")["test_accuracy"].to_numpy()
        assert (one.stop_level, one.chosen_level, one.trainings, one.trainings_saved) == (5, 2, 6, LEVELS - 6)
        assert one.epochs_saved == 5 * (LEVELS - 6)
        assert one.test == curve[2]
        assert one.regret == pytest.approx(curve.max() - curve[2])
        assert one.inside
        assert one.costly
    assert patience.false_stops == 3
    assert entropy.false_stops == 0
    assert entropy.fact("regret").mean < 0.005 < patience.fact("regret").mean
    assert oracle.fact("regret").per_seed == (0.0, 0.0, 0.0)
    assert [rule.rule for rule in found.rules if rule.oracle] == ["oracle"]


def test_where_there_is_no_dip_no_stop_is_false() -> None:
    frame, cards = table()
    falling = frame.with_columns(test_accuracy=0.9 - 0.01 * pl.col("level") + 0.0001 * pl.col("seed"))
    (found,) = replay(falling, cards=cards)
    assert found.found.dip is None
    assert named(found, "patience").false_stops is None


def test_a_rule_without_its_column_says_what_to_do() -> None:
    frame, cards = table()
    (found,) = replay(frame.drop("entropy_mean"), cards=cards)
    assert "prunephase diagnose" in named(found, "entropy").why_not
    assert len(named(found, "patience").outcomes) == 3
    (found,) = replay(frame)  # no noise cards
    assert named(found, "clean-share").why_not


def test_an_unfinished_ladder_is_left_out_and_a_diverged_one_ends_there() -> None:
    frame, cards = table(4)
    cut = frame.filter(~((pl.col("seed") == 1) & (pl.col("level") > 15)))
    last = (pl.col("seed") == 2) & (pl.col("level") == 15)
    cut = cut.filter(~((pl.col("seed") == 2) & (pl.col("level") > 15))).with_columns(
        status=pl.when(last).then(pl.lit("diverged")).otherwise(pl.col("status")),
        test_accuracy=pl.when(last).then(None).otherwise(pl.col("test_accuracy")),
    )
    (found,) = replay(cut, cards=cards)
    assert found.unfinished == (1,)
    assert found.seeds == (0, 2, 3)
    assert {one.seed: one.trainings for one in named(found, "whole-ladder").outcomes} == {0: LEVELS, 2: 15, 3: LEVELS}


def test_curves_are_replayed_one_by_one() -> None:
    parts = []
    for rate in (0.2, 0.4):
        parts.append(table(**{"noise.rate": rate})[0])
    found = replay(pl.concat(parts), cards=table()[1])
    assert [dict(one.key) for one in found] == [{"noise.rate": 0.2}, {"noise.rate": 0.4}]
    assert all(one.seeds == (0, 1, 2) for one in found)


def test_the_command_gives_the_table_and_json(
    tiny: dict[str, Any], study_file: Callable[..., Path], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(study_file(tiny))
    assert cli.main(["stops", study, "--store", str(finished), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    rules = {rule["rule"]: rule for rule in said["groups"][0]["rules"]}
    assert set(rules) == set(RULES)
    assert "diagnose" in rules["entropy"]["why_not"]
    assert rules["oracle"]["regret"]["mean"] == 0.0
    assert rules["whole-ladder"]["trainings"]["mean"] == said["groups"][0]["levels"]
    assert cli.main(["stops", study, "--store", str(finished)]) == 0
    words = capsys.readouterr().out
    assert "whole-ladder" in words
    assert "oracle is chosen on test" in words


def test_the_report_says_what_each_rule_forfeits() -> None:
    frame, cards = table()
    (section,) = stops(series(complete(frame)), cards)
    (found,) = replay(frame, cards=cards)
    patience, entropy = named(found, "patience"), named(found, "entropy")
    others = [named(found, name).fact("regret").mean for name in ("clean-share", "noisy-validation", "label-wave")]
    assert entropy.fact("regret").mean <= min(others)
    assert f"Patience forfeits {100 * patience.fact('regret').mean:.1f} points after 6.0 of 24" in section.finding
    assert "stops falsely in 3 of 3" in section.finding
    assert "entropy forfeits" in section.finding
    assert "noisy-validation forfeits" not in section.finding
    (shown,) = section.tables
    assert [row[0] for row in shown.rows] == [*list(RULES)[:-1], "oracle (selected on test)"]
    assert {row[1] for row in shown.rows} == {"3"}
    assert shown.rows[0][-1] == "3 of 3"
    regret = patience.fact("regret")
    assert shown.rows[0][5].startswith(f"{100 * regret.mean:.1f} points")
    assert f"{100 * regret.interval[0]:.1f} to {100 * regret.interval[1]:.1f}" in shown.rows[0][5]


def test_the_report_is_silent_without_a_validation_split_or_a_finished_ladder() -> None:
    frame, cards = table()
    bare = frame.drop("validation_accuracy", "entropy_mean", "changes_changed")
    assert stops(series(complete(bare)), {}) == []
    begun = frame.filter((pl.col("level") < 5) | (pl.col("seed") == 0)).filter(pl.col("seed") > 0)
    assert stops(series(complete(begun)), cards)[0].tables  # the shorter ladder is the whole one then
    ragged = frame.filter(pl.col("level") != 3 + pl.col("seed"))
    assert stops(series(complete(ragged)), cards) == []
