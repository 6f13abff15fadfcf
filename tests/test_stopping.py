"""A stop rule drives a run: the ladder ends where the replay says, with the bytes of the whole one."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from campaign import FaultyOs, forked, kill_at, tree
from prunephase import cli, cohort, runs, study, table
from prunephase import diagnose as diagnosing
from prunephase.analysis.replay import replay
from prunephase.analysis.stops import ORACLE, RULES, EntropyGated
from prunephase.bench import Site
from prunephase.diagnoses import DIAGNOSES
from prunephase.errors import UserError
from prunephase.events import Diagnosed, LevelDone
from prunephase.execute.shipping import everything, news
from prunephase.merge import merge
from prunephase.stop import PATIENT, Stop
from prunephase.stopping import Ending, check, driven, endings, view
from prunephase.store import Store
from prunephase.task import Task

DRIVING = sorted(set(RULES) - {ORACLE, "whole-ladder"})
# Rules that end this small ladder within its seven levels.
SETTINGS: dict[str, dict[str, Any]] = {
    name: {"rule": name, **({"patience": 1} if name in PATIENT else {})} for name in DRIVING
}


@pytest.fixture(scope="session")
def fields() -> dict[str, Any]:
    """A ladder of seven levels on digits whose accuracies move."""
    return {
        "name": "driven",
        "data": {"source": "digits", "train": 150, "validation": 0.3, "test": 0.2},
        "noise": {"kind": "symmetric-flip", "rate": 0.3},
        "model": {"name": "mlp", "kwargs": {"widths": [16]}},
        "recipe": {"epochs": 4, "batch_size": 16, "momentum": 0.9},
        "pruning": {"levels": 6, "fraction": 0.5},
    }


@pytest.fixture(scope="session")
def whole(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the whole ladder, every level diagnosed. Copy it before you change it."""
    store = tmp_path_factory.mktemp("whole") / "runs"
    assert runs.train(study.parse(fields), store, workers=1).code == 0
    diagnose(fields, store)
    return store


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entropy rule armed from the start: these networks are too small, and forget too soon, to arm it."""
    monkeypatch.setitem(RULES, "entropy", EntropyGated(train=2.0, entropy=2.0))


def diagnose(fields: dict[str, Any], store: Path) -> diagnosing.Outcome:
    kinds = [DIAGNOSES["entropy"], DIAGNOSES["changes"]]
    parsed = study.parse(fields)
    return diagnosing.diagnose(diagnosing.wanted(parsed, store, kinds), store, kinds, workers=1)


def replayed(fields: dict[str, Any], store: Path, stop: dict[str, Any]) -> Any:
    """What the replay says of the whole ladder."""
    from prunephase.stopping import rule_of

    trials = study.parse(fields).trials
    frame, cards = table.levels(Store(store), trials), table.cards(Store(store), trials)
    (one,) = replay(frame, {"it": rule_of(Stop(**stop))}, cards)
    return one.rules[0].outcomes[0]


def test_every_rule_but_the_oracle_can_drive_a_run() -> None:
    named = set(get_args(Stop.model_fields["rule"].annotation))
    assert named == set(RULES) - {ORACLE}
    assert {name for name, rule in RULES.items() if hasattr(rule, "patience")} == set(PATIENT)


@pytest.mark.parametrize("name", DRIVING)
def test_a_driven_ladder_ends_where_the_replay_says_with_the_bytes_of_the_whole_one(
    name: str, fields: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    stop = SETTINGS[name]
    parsed = study.parse({**fields, "stop": stop})
    (trial,) = parsed.trials
    assert runs.train(parsed, tmp_path / "runs", workers=1).code == 0
    said = replayed(fields, whole, stop)
    chain = Store(tmp_path / "runs").levels(trial)
    assert [record.body["level"] for record in chain] == list(range(said.stop_level + 1))
    mine, all_of_it = tree(tmp_path / "runs"), tree(whole)
    assert {path: all_of_it[path] for path in mine} == mine  # findings too, where the rule goes by them
    found = endings(tmp_path / "runs", parsed)
    early = said.early and said.stop_level < trial.pruning.levels
    assert [(one.level, one.chosen, one.last) for one in found] == [(said.stop_level, said.chosen_level, 6)] * early
    assert view(tmp_path / "runs", parsed).missing(trial) == 0
    assert Store(tmp_path / "runs").missing(trial) == said.trainings_saved


def test_every_rule_ends_this_ladder_early_and_not_all_at_one_level(fields: dict[str, Any], whole: Path) -> None:
    ends = {name: replayed(fields, whole, stop).stop_level for name, stop in SETTINGS.items()}
    assert max(ends.values()) < 6, ends
    assert len(set(ends.values())) > 2, ends


def test_what_a_driven_run_measured_is_not_measured_again(
    fields: dict[str, Any], tmp_path: Path, train: Callable[..., Any]
) -> None:
    assert train({**fields, "stop": SETTINGS["entropy"]}, tmp_path / "runs").code == 0
    before = tree(tmp_path / "runs")
    outcome = diagnose({**fields, "stop": SETTINGS["entropy"]}, tmp_path / "runs")
    levels = len(Store(tmp_path / "runs").levels(study.parse(fields).trials[0]))
    assert (outcome.made, outcome.cached) == (levels, levels)  # the prediction changes, and the entropy
    after = tree(tmp_path / "runs")
    assert {path: after[path] for path in before} == before


def test_a_store_with_the_whole_ladder_is_seen_up_to_the_end(
    fields: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "runs")
    stop = SETTINGS["patience"]
    parsed = study.parse({**fields, "stop": stop})
    said = replayed(fields, whole, stop)
    before = tree(tmp_path / "runs")
    frame = runs.run(parsed, tmp_path / "runs", workers=1)
    assert tree(tmp_path / "runs") == before
    assert frame["level"].to_list() == list(range(said.stop_level + 1))
    assert frame["ended"].to_list() == [level == said.stop_level for level in range(said.stop_level + 1)]
    # and without the rule the same store is the whole ladder
    assert runs.run(study.parse(fields), tmp_path / "runs", workers=1)["level"].to_list() == list(range(7))


def test_killed_anywhere_it_ends_at_the_same_level_with_the_same_bytes(fields: dict[str, Any], tmp_path: Path) -> None:
    driven_fields = {**fields, "stop": SETTINGS["entropy"]}
    once = forked(tmp_path / "whole", driven_fields, FaultyOs())
    assert once.code == 0
    operations = len(once.operations)
    for point in (*(operations * part // 4 for part in range(1, 4)), operations - 3):
        store = tmp_path / f"killed-{point}"
        assert forked(store, driven_fields, kill_at(point)).code is None
        again = forked(store, driven_fields, FaultyOs())
        assert again.code == 0
        assert tree(store) == tree(tmp_path / "whole")


def test_a_level_that_is_damaged_is_made_again_and_the_ladder_ends_where_it_ended(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    parsed = study.parse({**fields, "stop": SETTINGS["entropy"]})
    (trial,) = parsed.trials
    assert runs.train(parsed, tmp_path / "runs", workers=1).code == 0
    before = tree(tmp_path / "runs")
    records = tmp_path / "runs" / "trials" / trial.digest()
    for damaged in ("level-001.json", "trial.json"):
        (records / damaged).write_bytes(b"{}")
        shutil.rmtree(tmp_path / "runs" / "findings" / trial.digest() / "level-002")
        assert endings(tmp_path / "runs", parsed) == []
        assert view(tmp_path / "runs", parsed).missing(trial) > 0
        assert runs.train(parsed, tmp_path / "runs", workers=1).code == 0
        assert tree(tmp_path / "runs") == before
    assert endings(tmp_path / "runs", parsed) != []


def test_seeds_that_end_at_different_levels_are_one_curve_of_finished_ladders(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    parsed = study.parse({**fields, "seeds": [0, 1, 2], "stop": SETTINGS["patience"]})
    frame = runs.run(parsed, tmp_path / "runs", workers=1)
    assert frame.group_by("seed").max()["level"].n_unique() > 1
    (one,) = replay(frame, cards=table.cards(Store(tmp_path / "runs"), parsed.trials))
    assert one.unfinished == ()
    assert one.seeds == (0, 1, 2)


def test_levels_that_stand_side_by_side_go_down_in_order_under_a_rule(fields: dict[str, Any], tmp_path: Path) -> None:
    oneshot = {**fields, "pruning": {**fields["pruning"], "ladder": "one-shot"}}
    parsed = study.parse({**oneshot, "stop": SETTINGS["patience"]})
    (trial,) = parsed.trials
    assert trial.side_by_side
    (only,) = runs.tasks([trial], 4, together=False, stops=driven(parsed))
    assert only == [Task(trial, stop=parsed.stop)]
    assert len(runs.tasks([trial], 4, together=False)) == 4
    assert runs.train(parsed, tmp_path / "part", workers=1).code == 0
    assert runs.train(study.parse(oneshot), tmp_path / "whole", workers=1).code == 0
    said = replayed(oneshot, tmp_path / "whole", SETTINGS["patience"])
    mine, all_of_it = tree(tmp_path / "part"), tree(tmp_path / "whole")
    assert {path: all_of_it[path] for path in mine} == mine
    assert [record.body["level"] for record in Store(tmp_path / "part").levels(trial)] == list(
        range(said.stop_level + 1)
    )


def test_a_ladder_whose_masks_others_take_goes_to_its_end(fields: dict[str, Any], tmp_path: Path) -> None:
    both = {**fields, "grid": {"restart.mode": ["rewind", "re-init"]}, "stop": SETTINGS["patience"]}
    parsed = study.parse(both)
    rewind, reinit = parsed.trials
    assert set(driven(parsed)) == {reinit.digest()}
    assert runs.train(parsed, tmp_path, workers=1).code == 0
    assert len(Store(tmp_path).levels(rewind)) == 7
    assert view(tmp_path, parsed).missing(reinit) == 0


def test_the_rule_is_no_part_of_a_trial(fields: dict[str, Any]) -> None:
    plain, with_rule = study.parse(fields), study.parse({**fields, "stop": {"rule": "entropy"}})
    assert plain.trials == with_rule.trials
    assert plain.digest() == with_rule.digest()
    assert with_rule.shard(1, 1).stop == with_rule.stop


@pytest.mark.parametrize(
    ("stop", "says"),
    [
        ({"rule": "entrpy"}, "stop.rule = 'entrpy': did you mean 'entropy'"),
        ({"rul": "entropy"}, "stop.rul: unknown field; did you mean 'rule'"),
        ({"rule": "entropy", "patience": 0}, "stop.patience = 0: should be greater than or equal to 1"),
        ({"rule": "clean-share", "patience": 3}, "patience belongs to rule"),
        ("entropy", "should be a table, written [stop]"),
    ],
)
def test_a_stop_that_means_nothing_is_refused_in_one_line(fields: dict[str, Any], stop: Any, says: str) -> None:
    with pytest.raises(UserError) as refused:
        study.parse({**fields, "stop": stop})
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "stop", "says"),
    [
        ({"data": {"validation": 0}}, "patience", "data.validation = 0"),
        ({"noise": {"kind": "none", "rate": 0.0}}, "clean-share", "unknown or zero"),
        ({"antidote": {"kind": "distill"}}, "patience", "chosen among all levels"),
    ],
)
def test_a_rule_that_cannot_be_asked_is_refused_before_anything_is_spent(
    fields: dict[str, Any], changes: dict[str, Any], stop: str, says: str, tmp_path: Path
) -> None:
    changed = {**fields, **{k: {**fields.get(k, {}), **v} for k, v in changes.items()}, "stop": {"rule": stop}}
    with pytest.raises(UserError, match=says):
        runs.train(study.parse(changed), tmp_path / "runs", workers=1)
    assert not (tmp_path / "runs" / "trials").exists()
    check(Stop(), study.parse(changed).trials[0], {})


def test_findings_travel_with_a_ladder_and_into_a_merged_store(fields: dict[str, Any], tmp_path: Path) -> None:
    parsed = study.parse({**fields, "stop": SETTINGS["entropy"]})
    (trial,) = parsed.trials
    assert runs.train(parsed, tmp_path / "runs", workers=1).code == 0
    parcel, _ = everything(Store(tmp_path / "runs"), [Task(trial, stop=parsed.stop)], {})
    parcel.unpack(Store(tmp_path / "worker"))
    merge(tmp_path / "merged", [tmp_path / "runs"])
    assert endings(tmp_path / "runs", parsed)
    for place in ("worker", "merged"):
        assert tree(tmp_path / place) == tree(tmp_path / "runs")
        assert endings(tmp_path / place, parsed) == endings(tmp_path / "runs", parsed)


def test_what_happens_is_enough_to_follow_a_driven_ladder_in_another_store(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    parsed = study.parse({**fields, "stop": SETTINGS["entropy"]})
    (trial,) = parsed.trials
    task = pickle.loads(pickle.dumps(Task(trial, stop=parsed.stop)))
    assert task == Task(trial, stop=parsed.stop)
    here, there, known = Store(tmp_path / "worker"), Store(tmp_path / "driver"), set[str]()
    for _, event in cohort.descend([task], Site(here.folder)):
        if isinstance(event, LevelDone | Diagnosed):
            news(here, event, known).unpack(there)
    assert tree(there.folder) == tree(here.folder)
    assert endings(there.folder, parsed) == endings(here.folder, parsed) != []


def test_the_command_line_says_where_the_rule_ended_each_ladder(
    fields: dict[str, Any], whole: Path, study_file: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    file, store = str(study_file(fields)), tmp_path / "runs"
    said = replayed(fields, whole, SETTINGS["patience"])
    rule = ["--set", "stop.rule=patience", "--set", "stop.patience=1", "--store", str(store)]
    assert cli.main(["run", file, *rule, "--workers", "1"]) == 0
    words = capsys.readouterr()
    line = f"ended by patience at level {said.stop_level} of 6, takes level {said.chosen_level}"
    assert f"seed 0: {line}; {said.trainings_saved} trainings, {said.epochs_saved} epochs saved" in words.out
    assert f"ended 1 of 1 ladders, at level {said.stop_level}" in words.out
    assert f"ended by its stop rule, patience, at level {said.stop_level} of 6" in words.err
    (page,) = store.glob("*.html")
    assert "Where the ladders ended" in page.read_text("utf-8")
    assert "what lies deeper is known to nobody" in page.read_text("utf-8")
    assert cli.main(["status", file, *rule]) == 0
    out = capsys.readouterr().out
    assert "done" in out
    assert line in out
    assert cli.main(["status", file, "--store", str(store)]) == 0
    assert "waiting" in capsys.readouterr().out
    assert cli.main(["status", file, *rule, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["trials"]
    assert (row["state"], row["levels"], row["of"]) == ("done", said.stop_level + 1, said.stop_level + 1)
    assert row["ended"]["chosen"] == said.chosen_level
    assert cli.main(["run", file, *rule, "--workers", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["stop"], answer["ended"][0]["level"]) == ("patience", said.stop_level)
    assert cli.main(["plan", file, *rule]) == 0
    planned = capsys.readouterr().out
    assert "0 are still to be trained" in planned
    assert "at most: patience may end ladders sooner" in planned
    assert cli.main(["run", file, "--set", "stop.rule=entrpy"]) == 2
    assert "did you mean 'entropy'" in capsys.readouterr().err


def test_an_ending_says_what_it_saved() -> None:
    one = Ending("t", 0, "entropy", 27, 33, 24, 60)
    assert one.sentence == "ended by entropy at level 27 of 33, takes level 24; 6 trainings, 360 epochs saved"
