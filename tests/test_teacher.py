"""Teachers: chosen by validation, found in the store, never touched, recorded; refused where they know other data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from campaign import STUDY, tree
from prunephase import plan, runs, study, teacher
from prunephase.antidotes import Asked, Distilled, Remembered
from prunephase.bench import Bench, Site
from prunephase.engine import Batch, team
from prunephase.errors import Exit, IncompatibleError, UserError
from prunephase.execute.shipping import everything
from prunephase.revive import again
from prunephase.store import Record, Store
from prunephase.task import Task
from prunephase.trial import Trial

Fields = dict[str, Any]
Train = Callable[..., Any]


@pytest.fixture
def small(tiny: Fields) -> Fields:
    """The small study with validation examples enough to choose by, and two epochs."""
    return {**tiny, "data": {**tiny["data"], "validation": 0.1}, "recipe": {**tiny["recipe"], "epochs": 2}}


def taught(fields: Fields, by: str = "sparse", **more: Any) -> Fields:
    return {**fields, "antidote": {"kind": "distill", "teacher": by, **more}}


def only(fields: Fields) -> Trial:
    (trial,) = study.parse(fields).trials
    return trial


@pytest.fixture(scope="module")
def vanilla(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the small study's ladder without an antidote is finished. Copy it before you change it."""
    fields = {**STUDY, "data": {**STUDY["data"], "validation": 0.1}, "recipe": {**STUDY["recipe"], "epochs": 2}}
    store = tmp_path_factory.mktemp("vanilla") / "runs"
    assert runs.train(study.parse(fields), store, workers=1).code == 0
    return store


@pytest.fixture
def store(vanilla: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vanilla, tmp_path / "runs"))


def last(record: Record, column: str) -> float:
    value: float = record.body["epochs"][column][-1]
    return value


# -- who teaches


@pytest.mark.parametrize(("by", "column"), [("sparse", "validation_accuracy"), ("oracle", "test_accuracy")])
def test_the_teacher_is_the_best_sparse_level_of_the_ladder_without_antidote(
    by: str, column: str, small: Fields, store: Path, train: Train
) -> None:
    assert train(taught(small, by), store).code == 0
    ladder = Store(store).levels(only(small))[1:]
    highest = max(last(r, column) for r in ladder)
    expected = [r for r in ladder if last(r, column) == highest][-1]
    chosen_on = "validation" if by == "sparse" else "test (oracle)"
    name = {"trial": only(small).digest(), "level": expected.body["level"], "seal": expected.seal}
    levels = Store(store).levels(only(taught(small, by)))
    assert len(levels) == 4
    assert [r.body["teacher"] for r in levels] == [{**name, "chosen_on": chosen_on}] * 4
    assert levels[0].body["numerics"]["strategy"].endswith(", objective Distilled")


def test_of_equal_levels_the_sparsest_teaches(store: Path, small: Fields, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.levels

    def levelled(self: Store, trial: Trial) -> list[Record]:
        found = real(self, trial)
        for record in found:
            record.body["epochs"]["validation_accuracy"] = [0.5]
        return found

    monkeypatch.setattr(Store, "levels", levelled)
    found = teacher.find(Store(store), only(taught(small)))
    assert found is not None
    assert found.record.body["level"] == 3


def test_the_ladder_that_teaches_is_trained_first(small: Fields, tmp_path: Path, train: Train) -> None:
    (first,), (second,) = runs.waves([only(taught(small))])
    assert (first, second) == (only(small), only(taught(small)))
    assert train(taught(small), tmp_path).code == 0
    assert Store(tmp_path).missing(only(small)) == 0
    assert {t.digest() for t in (first, second)} == set(Store(tmp_path).trials())


def test_a_dense_teacher_costs_one_level(small: Fields, tmp_path: Path, train: Train) -> None:
    assert train(taught(small, "dense"), tmp_path).code == 0
    (record,) = Store(tmp_path).levels(only(small))
    assert Store(tmp_path).levels(only(taught(small, "dense")))[2].body["teacher"] == {
        "trial": only(small).digest(), "level": 0, "seal": record.seal, "chosen_on": "dense",
    }  # fmt: skip


def test_waves_go_as_deep_as_trials_build_on_one_another(small: Fields) -> None:
    ticket = only(taught({**small, "restart": {"mode": "re-init"}}))
    waves = [[(t.restart.mode, t.antidote.kind) for t in wave] for wave in runs.waves([ticket])]
    # its masks: from the rewind ladder that is taught alike; its teacher: from the re-initialised one that is not
    assert waves[0] == [("rewind", "none")]
    assert sorted(waves[1]) == [("re-init", "none"), ("rewind", "distill")]
    assert waves[2] == [("re-init", "distill")]
    assert len(waves) == 3


def test_a_student_that_is_asked_for_less_deep_asks_its_ladder_for_no_more(small: Fields) -> None:
    shallow = {**small, "pruning": {**small["pruning"], "levels": 2}}
    trials = [only(taught(shallow)), only(small), only(taught(small, "dense"))]
    first, second = runs.waves(trials)
    assert [t.pruning.levels for t in first] == [3]
    assert len(second) == 2


def test_depth_is_part_of_what_a_trial_is_where_its_teacher_is_chosen_by_it(small: Fields) -> None:
    deep = {**small, "pruning": {**small["pruning"], "levels": 5}}
    assert only(small).digest() == only(deep).digest()
    assert only(taught(small, "dense")).digest() == only(taught(deep, "dense")).digest()
    assert only(taught(small)).digest() != only(taught(deep)).digest()


def test_a_student_of_a_shallow_ladder_never_hears_of_deeper_levels(small: Fields, store: Path) -> None:
    shallow = {**small, "pruning": {**small["pruning"], "levels": 1}}
    found = teacher.find(Store(store), only(taught(shallow)))
    assert found is not None
    assert found.record.body["level"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {"validation": 0.0}}, "chosen by validation"),
        ({"pruning": {"levels": 0}}, "chosen among sparse levels"),
    ],
)
def test_what_cannot_be_chosen_is_refused_at_once(change: Fields, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Trial.model_validate({**change, "antidote": {"kind": "distill"}})


# -- a teacher that is named


def named(level: int, fields: Fields) -> str:
    return f"{only(fields).digest()}:{level}"


def test_a_stored_level_of_another_architecture_teaches(small: Fields, store: Path, train: Train) -> None:
    student = taught({**small, "model": {"name": "small-cnn"}}, named(2, small))
    assert train(student, store).code == 0
    said = Store(store).levels(only(student))[0].body["teacher"]
    assert (said["trial"], said["level"], said["chosen_on"]) == (only(small).digest(), 2, "named")


def test_a_teacher_of_another_architecture_is_chosen_from_its_own_ladder(
    small: Fields, tmp_path: Path, train: Train
) -> None:
    student = taught(small, teacher_model={"name": "mlp", "kwargs": {"widths": [20]}})
    assert train(student, tmp_path).code == 0
    mentor = only({**small, "model": {"name": "mlp", "kwargs": {"widths": [20]}}})
    assert Store(tmp_path).missing(mentor) == 0
    assert Store(tmp_path).levels(only(student))[0].body["teacher"]["trial"] == mentor.digest()


def refused(fields: Fields, store: Path) -> str:
    with pytest.raises(UserError) as problem:
        runs.train(study.parse(fields), store, workers=1)
    return str(problem.value)


def test_a_teacher_of_another_noise_pattern_is_refused_unless_forced(small: Fields, store: Path, train: Train) -> None:
    other = {**small, "seeds": [1]}
    before = tree(store)
    assert "another noise pattern" in refused(taught(other, named(2, small)), store)
    # the seeds of one study are not waved through by the first of them
    assert "another noise pattern" in refused(taught({**small, "seeds": [0, 1]}, named(2, small)), store)
    assert tree(store) == before
    assert train(taught(other, named(2, small), teacher_force=True), store).code == 0
    fixed = {**small, "noise": {**small["noise"], "seed": 0}, "seeds": [1]}  # the pattern of the teacher's seed
    assert train(taught(fixed, named(2, small)), store).code == 0


def test_a_teacher_of_other_data_is_refused_unless_forced(small: Fields, store: Path, train: Train) -> None:
    other = {**small, "data": {**small["data"], "train": 110}}
    assert "other data" in refused(taught(other, named(2, small)), store)
    other = {**small, "data": {**small["data"], "normalise": "none"}}
    assert "other data" in refused(taught(other, named(2, small)), store)
    assert train(taught(other, named(2, small), teacher_force=True), store).code == 0


def test_a_teacher_of_other_classes_or_shapes_is_always_refused(small: Fields, store: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    inputs, labels = draw.random((200, 8, 8)).astype(np.float32), draw.integers(0, 3, 200)
    np.savez(tmp_path / "three.npz", x=inputs, y=labels)
    data = {"source": "npz", "path": str(tmp_path / "three.npz"), "train": 100, "validation": 0.1}
    assert "of 10 classes" in refused(taught({**small, "data": data}, named(2, small), teacher_force=True), store)


def test_a_teacher_that_nobody_trained_is_an_error_before_anything_is_spent(small: Fields, store: Path) -> None:
    before = tree(store)
    assert "no such finished level" in refused(taught(small, named(7, small)), store)
    assert "no such finished level" in refused(taught(small, "0123456789abcdef:1"), store)
    assert tree(store) == before


# -- what teaching leaves as it was


def test_no_byte_of_the_teacher_changes(small: Fields, store: Path, train: Train) -> None:
    before = {name: data for name, data in tree(store).items() if name.startswith(("trials", "objects", "facts"))}
    for by in ("sparse", "dense"):
        assert train(taught(small, by), store).code == 0
    after = tree(store)
    assert {name: after[name] for name in before} == before


def test_a_student_made_again_is_the_same_to_the_byte(small: Fields, store: Path, train: Train) -> None:
    assert train(taught(small), store).code == 0
    before, mine = tree(store), Store(store)
    for level in (0, 2):
        mine.set_aside(only(taught(small)).digest(), level)
    assert train(taught(small), store).code == 0
    after = tree(store)
    own = f"trials/{only(taught(small)).digest()}"
    assert {n: d for n, d in after.items() if n.startswith(own)} == {
        n: d for n, d in before.items() if n.startswith(own)
    }


def test_levels_of_one_ladder_have_one_teacher(
    small: Fields, store: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(taught(small), store).code == 0
    Store(store).set_aside(only(taught(small)).digest(), 2)
    real = teacher.best
    monkeypatch.setattr(teacher, "best", lambda s, t, split: [r for r in s.levels(t) if r != real(s, t, split)][1])
    outcome = train(taught(small), store)
    assert outcome.code == Exit.INCOMPATIBLE
    assert "taught by another level" in outcome.failed[only(taught(small)).digest()]
    with pytest.raises(IncompatibleError, match="another level"):
        again(Store(store), only(taught(small)), 1, Bench(only(taught(small)), Site(store)))


def test_a_finished_level_can_be_trained_once_more_for_a_diagnosis(small: Fields, store: Path, train: Train) -> None:
    assert train(taught(small), store).code == 0
    trial = only(taught(small))
    for level in (0, 2):
        job = again(Store(store), trial, level, Bench(trial, Site(store)))
        assert isinstance(job.objective, Distilled)
        list(team([job]).moments())
        _, weights = teacher.trained_state(Store(store), Store(store).levels(trial)[level])
        assert all(torch.equal(weights[name], value) for name, value in job.network.state_dict().items())


# -- what is asked of the teacher


def test_the_teacher_is_asked_once_unless_images_are_augmented(small: Fields, store: Path, train: Train) -> None:
    def goal(fields: Fields) -> tuple[Distilled, Bench]:
        trial = only(fields)
        bench = Bench(trial, Site(store))
        found = teacher.objective(Store(store), bench, bench.network(), teacher.find(Store(store), trial))
        assert isinstance(found, Distilled)
        return found, bench

    once, bench = goal(taught(small))
    assert isinstance(once.teacher, Remembered)
    images = {**small, "model": {"name": "small-cnn"}, "recipe": {**small["recipe"], "augment": ["flip"]}}
    assert train(taught(images, named(2, small)), store).code == 0
    each, _ = goal(taught(images, named(2, small)))
    assert isinstance(each.teacher, Asked)
    assert not any(module.training for module in each.teacher.network.modules())
    assert not any(p.requires_grad for p in each.teacher.network.parameters())
    # and both say what the network of that level says
    found = teacher.find(Store(store), only(taught(small, named(2, small))))
    assert found is not None
    network, split = teacher.revived(Store(store), bench, found), bench.data.train
    chosen = torch.tensor([5, 3, 99])
    batch = Batch(network, split.inputs[chosen], split.labels[chosen], chosen)
    twice, _ = goal(taught(small, named(2, small)))
    assert torch.allclose(twice.teacher(batch), each.teacher(batch), atol=1e-6)
    assert float(twice.teacher(batch).abs().max()) > 0.01


# -- together with everything else


def test_students_with_one_teacher_share_their_dense_level_and_others_do_not(
    small: Fields, store: Path, train: Train
) -> None:
    def key(fields: Fields) -> str:
        assert train(fields, store).code == 0
        name: str = Store(store).levels(only(fields))[0].body["training"]
        return name

    layers = {**small, "pruning": {**small["pruning"], "scope": "layer"}}
    assert key(taught(small, "dense")) == key(taught(layers, "dense"))
    assert len({key(taught(small, named(level, small))) for level in (1, 2, 3)} | {key(small)}) == 4
    grid = {**taught(small, "dense"), "grid": {"pruning.scope": ["global", "layer"]}}
    one, two = study.parse(grid).trials
    assert sorted(runs.families([one, two]).values()) == [0, 1]
    grid = {**taught(small), "grid": {"pruning.scope": ["global", "layer"]}}
    one, two = study.parse(grid).trials
    assert sorted(runs.families([one, two]).values()) == [0, 0]  # each has a teacher of its own ladder


def test_a_training_is_named_by_what_its_teacher_is_and_not_only_by_how_it_was_chosen(
    small: Fields, store: Path, tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other"))
    assert train(taught(small), store).code == 0
    real = teacher.best
    monkeypatch.setattr(teacher, "best", lambda s, t, split: [r for r in s.levels(t) if r != real(s, t, split)][1])
    assert train(taught(small), other).code == 0
    one, two = (Store(place).levels(only(taught(small)))[0].body["training"] for place in (store, other))
    assert one != two


def test_a_student_fails_with_the_ladder_of_its_teacher(small: Fields, tmp_path: Path, train: Train) -> None:
    fields = taught({**small, "recipe": {**small["recipe"], "lr": 1e30}})
    outcome = train(fields, tmp_path)
    assert outcome.code == Exit.PARTIAL
    assert "takes its teacher from" in outcome.failed[only(fields).digest()]


def test_a_plan_counts_the_ladder_that_teaches(small: Fields, tmp_path: Path) -> None:
    site = Site(tmp_path / "runs")
    alone = plan.estimate(study.parse(small), site, 1)
    both = plan.estimate(study.parse(taught(small)), site, 1)
    assert (both.trials, both.trainings, both.epochs) == (2, 2 * alone.trainings, 2 * alone.epochs)
    assert both.macs == 2 * alone.macs
    dense = plan.estimate(study.parse(taught(small, "dense")), site, 1)
    assert dense.trainings == alone.trainings + 1
    assert not (tmp_path / "runs").exists()


def test_shards_keep_a_student_with_its_teacher(small: Fields) -> None:
    kinds = [{"kind": "none"}, {"kind": "distill"}, {"kind": "distill", "teacher": "dense"}]
    whole = study.parse({**small, "seeds": [0, 1, 2], "grid": {"antidote": kinds}})
    for index in (1, 2, 3):
        part = whole.shard(index, 3).trials
        assert len(part) == 3
        assert len({t.seed for t in part}) == 1


@pytest.mark.parametrize("by", ["sparse", "dense", "named"])
def test_a_worker_far_away_is_sent_the_teacher(by: str, small: Fields, store: Path, tmp_path: Path) -> None:
    trial = only(taught(small, named(2, small) if by == "named" else by))
    parcel, notes = everything(Store(store), [Task(trial)], {})
    assert not notes
    there = Store(tmp_path / "there")
    parcel.unpack(there)
    here = teacher.find(Store(store), trial)
    assert here is not None
    assert teacher.find(there, trial) == here
    bench = Bench(trial, Site(there.folder))
    teacher.objective(there, bench, bench.network(), here)  # with all that it is made from
