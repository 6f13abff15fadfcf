"""Cost: the papers' printed numbers from preset settings, four conventions by hand, the ledger of a finished store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from prunephase import cli, study
from prunephase.analysis.cost import (
    GRAMS_PER_KWH,
    WATTS,
    Cost,
    Network,
    Training,
    footprint,
    student,
    teacher,
    total,
)
from prunephase.cli.costs import KNOWN
from prunephase.errors import UserError
from prunephase.models.count import macs
from prunephase.spent import spent
from prunephase.store import Store
from prunephase.trial import Trial, canonical_json

# DSD2, figure 1: PFLOPs printed there, by the number of trainings (vanilla early stop; distilled; entropy; no stop).
PRINTED = {12: 19.54, 14: 22.79, 25: 40.70, 30: 48.84}


def counted(trial: Trial) -> dict[str, float]:
    shape, classes, _ = KNOWN[trial.data.source]
    return macs(canonical_json(trial.model.model_dump(include={"name", "kwargs"})), shape, classes)


@pytest.mark.parametrize(("trainings", "printed"), PRINTED.items())
def test_the_papers_convention_gives_dsd2s_printed_costs_from_the_presets_settings(
    trainings: int, printed: float
) -> None:
    trial = study.load("preset:dsd2-fig01").trials[0]
    assert (trial.model.name, trial.data.source, trial.recipe.epochs) == ("vgg-like", "cifar10", 160)
    examples = round(KNOWN["cifar10"][2] * (1 - trial.data.validation))
    assert examples == 50_000
    level = Training(Network(counted(trial)), examples, trial.recipe.epochs)
    assert total([student(level)] * trainings).papers / 1e15 == pytest.approx(printed, rel=0.02)


def test_lenets_multiply_accumulates_are_its_weights_module_by_module() -> None:
    trial = study.load("preset:he2022-mnist").trials[0]
    assert sorted(counted(trial).values(), reverse=True) == [784 * 300, 300 * 100, 100 * 10]


def test_the_attention_of_a_transformer_belongs_to_no_weight() -> None:
    own = counted(study.load("preset:vit2023-vit").trials[0])
    tokens, features, depth = 65, 512, 6
    assert {name: own[name] for name in own if name.endswith(".attention")} == {
        f"blocks.{block}.attention": 2 * tokens**2 * features for block in range(depth)
    }
    assert own["blocks.0.attention.qkv"] == tokens * features * 3 * features


def test_dsd2s_resnet_is_counted_as_their_code_has_it() -> None:
    own = counted(study.load("preset:dsd2-resnet18").trials[0])
    assert sum(own.values()) / 1e6 == pytest.approx(140.2, abs=0.1)


def test_four_conventions_by_hand() -> None:
    net = Network({"a": 100.0, "b": 20.0}, {"a": 0.25})  # b is not pruned: 120 dense, 45 sparse
    voice = Network({"c": 1_000.0}, {"c": 0.1})
    level = Training(net, examples=10, epochs=4, seconds=2.0, teacher=voice, heard=10.0)
    lesson = Training(voice, examples=10, epochs=4, seconds=3.0)
    cost = total([student(level), student(level), teacher(lesson)])
    trained, taught = 2 * 3 * 120 * 40, 3 * 1_000 * 40
    assert cost == Cost(
        papers=trained,
        with_teacher_training=trained + taught,
        with_teacher_forward=trained + taught + 2 * 10 * 1_000,
        sparsity_aware=2 * 3 * 45 * 40 + 3 * 100 * 40 + 2 * 10 * 100,
        seconds=7.0,
    )


def test_without_a_teacher_three_conventions_agree() -> None:
    cost = student(Training(Network({"a": 7.0}, {"a": 0.5}), 3, 2))
    assert cost.papers == cost.with_teacher_training == cost.with_teacher_forward == 2 * cost.sparsity_aware == 126.0


def test_the_ledger_of_a_store_counts_what_was_trained(tiny: dict[str, Any], finished: Path) -> None:
    trials, store = study.parse(tiny).trials, Store(finished)
    paid = spent(store, trials)
    head = store.record(trials[0].digest())
    assert head is not None
    weights = {name: size for name, (_, size) in store.levels(trials[0])[0].body["layers"].items()}
    for row, record in zip(paid.iter_rows(named=True), store.levels(trials[0]), strict=True):
        samples = head.body["data"]["train"] * len(record.body["epochs"]["epoch"])
        left = record.body["remaining"]  # of a network of linear layers every weight is one multiply-accumulate
        unpruned = row["papers"] / samples / 3 - sum(weights.values())
        assert unpruned >= 0
        assert row["sparsity_aware"] == pytest.approx(3 * samples * (left + unpruned))
        assert row["seconds"] == store.facts(trials[0].digest(), record.body["level"])["seconds"]
    assert paid["papers"].n_unique() == 1
    assert (paid["sparsity_aware"].diff().drop_nulls() < 0).all()


def taught(
    fields: dict[str, Any], finished: Path, place: Path, lesson: dict[str, Any], augment: list[str]
) -> tuple[Store, Trial, Trial]:
    """A store with a student of three epochs, made from the finished ladder as if a level of that had taught it."""
    shutil.copytree(finished, place)
    store, source = Store(place), study.parse(fields).trials[0]
    recipe = source.recipe.model_copy(update={"augment": tuple(augment)})
    pupil = source.model_copy(update={"seed": source.seed + 100, "recipe": recipe})
    head = store.record(source.digest())
    assert head is not None
    above = store.put_record(pupil.digest(), None, head.body)
    for record in store.levels(source):
        longer = {name: column * 3 for name, column in record.body["epochs"].items()}
        taught = {"parent": above.seal, "teacher": {"trial": source.digest(), "seal": "x", **lesson}, "epochs": longer}
        body = {**record.body, **taught, "training": f"own {record.body['level']}"}
        above = store.put_record(pupil.digest(), record.body["level"], body)
    return store, source, pupil


@pytest.mark.parametrize(("level", "on", "lessons"), [(2, "named", 3), (2, "validation", None), (0, "dense", 1)])
@pytest.mark.parametrize("augment", [[], ["flip"]])
def test_a_teacher_is_counted_as_far_as_it_was_needed(
    tiny: dict[str, Any], finished: Path, tmp_path: Path, level: int, on: str, lessons: int | None, augment: list[str]
) -> None:
    lesson = {"level": level, "chosen_on": on}
    store, source, pupil = taught(tiny, finished, tmp_path / "runs", lesson, augment)
    paid, alone = spent(store, [pupil]), spent(store, [source])
    whole = alone.height if lessons is None else lessons
    teachers, mine = paid.filter(role="teacher"), paid.filter(role="student")
    assert teachers["training"].to_list() == alone["training"].to_list()[:whole]
    assert teachers["papers"].sum() == 0
    assert teachers["with_teacher_training"].sum() == alone["papers"][:whole].sum()
    # one forward pass a third of a training's: of every example once, or in every epoch where images change
    asked = (mine["with_teacher_forward"] - mine["papers"]) / (alone["papers"] / 3)
    assert asked.to_list() == pytest.approx([3.0 if augment else 1.0] * mine.height)
    of_one = alone["sparsity_aware"][level] / alone["papers"][level]
    heard = mine["sparsity_aware"] - 3 * alone["sparsity_aware"]
    assert heard.to_list() == pytest.approx((of_one * asked * alone["papers"] / 3).to_list())


def test_a_store_without_the_teacher_says_so(tiny: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    store, source, pupil = taught(tiny, finished, tmp_path / "runs", {"level": 2, "chosen_on": "named"}, [])
    shutil.rmtree(tmp_path / "runs" / "trials" / source.digest())
    with pytest.raises(UserError, match="lacks the teacher"):
        spent(store, [pupil])


def test_the_command_prints_four_conventions_and_json(
    tiny: dict[str, Any], study_file: Callable[..., Path], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(study_file(tiny))
    assert cli.main(["cost", name, "--store", str(finished), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    paid = spent(Store(finished), study.parse(tiny).trials)
    assert said["total"]["papers"] == said["groups"][0]["total"]["papers"] == paid["papers"].sum()
    assert [row["level"] for row in said["groups"][0]["levels"]] == paid["level"].to_list()
    assert said["total"]["trainings"] == paid.height
    assert cli.main(["cost", name, "--store", str(finished)]) == 0
    words = capsys.readouterr().out
    assert all(name in words for name in ("papers", "with teacher training", "with teacher forward", "sparsity aware"))


def test_energy_is_estimated_once_for_every_training_on_a_core() -> None:
    rows = [
        ("student", "a", 3_600.0, "cpu"),  # ran here
        ("student", "a", 0.5, "cpu"),  # taken over by another trial
        ("teacher", "a", 3_600.0, "cpu"),  # and counted as a teacher's
        ("teacher", "b", 1_800.0, "cpu"),
        ("student", "c", 900.0, "cuda"),
        ("student", "d", 0.0, "cpu"),  # no time is known
    ]
    paid = pl.DataFrame(rows, schema=["role", "training", "seconds", "device"], orient="row")
    made = footprint(paid, watts=10.0, grams_per_kwh=400.0)
    assert (made.seconds, made.left_out) == (5_400.0, 2)
    assert made.kwh == pytest.approx(10 * 1.5 / 1_000)  # 1.5 hours of 10 W
    assert made.grams == pytest.approx(6.0)


def test_the_command_estimates_energy_and_says_so(
    tiny: dict[str, Any], study_file: Callable[..., Path], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["cost", str(study_file(tiny)), "--store", str(finished)]
    assert cli.main([*asked, "--watts", "100", "--grams-per-kwh", "0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    seconds = spent(Store(finished), study.parse(tiny).trials)["seconds"].sum()
    assert said["energy"]["label"] == "estimate"
    assert said["energy"]["kwh"] == pytest.approx(seconds * 100 / 3.6e6)
    assert said["energy"]["grams_co2e"] == 0
    # the stop rules of the front are those that validation alone can drive
    assert [one["rule"] for one in said["fronts"][0]["policies"]] == ["patience", "whole-ladder"]
    assert said["fronts"][0]["policies"][1]["papers"]["mean"] == said["total"]["papers"]
    assert cli.main(asked) == 0
    words = capsys.readouterr().out
    assert f"x {WATTS:g} W x {GRAMS_PER_KWH:g} g/kWh" in words
    assert "an estimate" in words
    assert cli.main([*asked, "--watts", "nan"]) == 2
    assert "--watts nan: expected" in capsys.readouterr().err
    assert cli.main(["cost", "--help"]) == 0
    helped = " ".join(capsys.readouterr().out.split())
    assert f"default: {WATTS:g}." in helped
    assert f"default: {GRAMS_PER_KWH:g}." in helped


def test_a_training_that_two_curves_share_counts_once_in_the_study(
    tiny: dict[str, Any], study_file: Callable[..., Path], train: Callable[..., Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tiny["grid"] = {"pruning.criterion": ["magnitude", "random"]}
    train(tiny, tmp_path / "runs")
    paid = spent(Store(tmp_path / "runs"), study.parse(tiny).trials)
    shared = paid.filter(pl.col("training").is_duplicated())
    assert shared["level"].unique().to_list() == [0]
    assert cli.main(["cost", str(study_file(tiny)), "--store", str(tmp_path / "runs"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    groups = sum(group["total"]["trainings"] for group in said["groups"])
    assert said["total"]["trainings"] == groups - shared.height // 2
