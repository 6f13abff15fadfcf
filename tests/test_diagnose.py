"""Diagnosing finished levels: what is made, kept, made again, and never touched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign import tree
from prunephase import diagnose as diagnosing
from prunephase import study, table
from prunephase.diagnoses import DIAGNOSES, Diagnosis, chosen
from prunephase.errors import UserError
from prunephase.measure.finding import Finding
from prunephase.store import Store
from prunephase.tensors import unpack_arrays

SEEN: list[tuple[int, int]] = []


def norm(snapshot: Any) -> Finding:
    """A user's own: the norm of all weights, and the mask of the first layer as a by-product."""
    SEEN.append((snapshot.trial.seed, snapshot.level))
    total = sum(w.detach().double().square().sum().item() for w in snapshot.network.parameters())
    name, mask = next(iter(snapshot.masks.items()))
    return Finding([{"part": "network", "norm": total**0.5, "kept": int(mask.sum())}], {name: mask.cpu().numpy()})


def rows(snapshot: Any) -> list[dict[str, Any]]:
    return [{"part": "network", "level": snapshot.level}]


OWN = Diagnosis("test_diagnose:norm", "test_diagnose:norm", "norm", "", "")


@pytest.fixture
def finished(tiny: dict[str, Any], tmp_path: Path, train: Any) -> tuple[study.Study, Path]:
    assert train(tiny, tmp_path / "runs").code == 0
    return study.parse(tiny), tmp_path / "runs"


def made(chosen_study: study.Study, store: Path, *diagnoses: Diagnosis, **more: Any) -> diagnosing.Outcome:
    kinds = diagnoses or [OWN]
    asked = diagnosing.wanted(chosen_study, store, kinds, more.pop("levels", ()))
    return diagnosing.diagnose(asked, store, kinds, **{"workers": 1, "plugins": ["test_diagnose"], **more})


def test_every_level_is_diagnosed_once_and_no_record_is_touched(finished: tuple[study.Study, Path]) -> None:
    chosen_study, store = finished
    before = tree(store)
    SEEN.clear()
    (trial,) = chosen_study.trials
    count = trial.pruning.levels + 1
    outcome = made(chosen_study, store)
    assert (outcome.made, outcome.cached, outcome.failed) == (count, 0, {})
    assert sorted(SEEN) == [(trial.seed, level) for level in range(count)]
    after = tree(store)
    assert {path: after[path] for path in before} == before
    assert made(chosen_study, store).cached == count
    assert len(SEEN) == count


def test_a_finding_says_what_the_level_is(finished: tuple[study.Study, Path]) -> None:
    chosen_study, store = finished
    made(chosen_study, store)
    (trial,) = chosen_study.trials
    place = Store(store)
    for record in place.levels(trial):
        finding = place.finding(trial.digest(), record.body["level"], OWN.name)
        assert finding is not None
        assert finding.body["parent"] == record.seal
        arrays = unpack_arrays(place.blob(finding.body["blobs"]["arrays"]))
        (name,) = arrays
        assert int(arrays[name].sum()) == record.body["layers"][name][0] == finding.body["rows"][0]["kept"]


def test_a_damaged_finding_or_blob_is_found_and_made_again(finished: tuple[study.Study, Path]) -> None:
    chosen_study, store = finished
    made(chosen_study, store)
    intact = tree(store)
    paths = sorted((store / "findings").rglob("*.json"))
    paths[0].write_bytes(paths[0].read_bytes().replace(b'"norm"', b'"nerm"'))
    blob = json.loads(paths[1].read_bytes())["record"]["blobs"]["arrays"]
    (store / "objects" / blob[:2] / blob[2:]).write_bytes(b"")
    assert len(Store(store).damages()) == 2
    assert made(chosen_study, store).made == 2
    assert tree(store) == intact
    assert Store(store).damages() == []


def test_a_new_meaning_is_diagnosed_again(finished: tuple[study.Study, Path]) -> None:
    chosen_study, store = finished
    made(chosen_study, store)
    newer = Diagnosis(OWN.name, OWN.function, "norm", "", "", version=2)
    assert made(chosen_study, store, newer).cached == 0
    assert made(chosen_study, store, newer).made == 0


@pytest.mark.slow
def test_two_workers_find_what_one_finds(finished: tuple[study.Study, Path]) -> None:
    chosen_study, store = finished
    distance = DIAGNOSES["distance"]
    made(chosen_study, store, distance, workers=2)
    two = {path: data for path, data in tree(store).items() if "findings" in str(path)}
    for path in (store / "findings").rglob("*.json"):
        path.unlink()
    made(chosen_study, store, distance, workers=1)
    assert {path: data for path, data in tree(store).items() if "findings" in str(path)} == two != {}


def test_levels_are_chosen_by_number_role_or_all(finished: tuple[study.Study, Path]) -> None:
    chosen_study, store = finished
    assert made(chosen_study, store, levels=["2", "dense"]).made == 2
    assert made(chosen_study, store, levels=["last"]).made == 1
    assert made(chosen_study, store, levels=["all"]).cached == 3
    with pytest.raises(UserError, match="--levels deepest: expected numbers"):
        made(chosen_study, store, levels=["deepest"])


def test_a_level_that_is_made_again_is_diagnosed_again(
    finished: tuple[study.Study, Path], tiny: dict[str, Any], train: Any
) -> None:
    chosen_study, store = finished
    made(chosen_study, store)
    (trial,) = chosen_study.trials
    (store / "trials" / trial.digest() / "level-002.json").unlink()
    assert train(tiny, store).code == 0
    assert made(chosen_study, store).made == 0  # the same bytes again, so the same seal


def test_what_a_diagnosis_needs_comes_before_it() -> None:
    names = [diagnosis.name for diagnosis in chosen(["interpolation"])]
    assert names == ["redense", "interpolation"]
    assert [diagnosis.name for diagnosis in chosen([])] == list(DIAGNOSES)
    assert [diagnosis.name for diagnosis in chosen(["landscape", "distance"])] == ["distance", "landscape"]
    for place, diagnosis in enumerate(DIAGNOSES.values()):
        assert all(list(DIAGNOSES).index(name) < place for name in diagnosis.takes)


def test_findings_of_several_levels_are_made_from_those_of_each(finished: tuple[study.Study, Path]) -> None:
    chosen_study, store = finished
    (trial,) = chosen_study.trials
    kinds, place = chosen(["forgetting", "harm"]), Store(store)
    assert [kind.name for kind in kinds] == ["memorisation", "forgetting", "calibration", "harm"]
    levels = trial.pruning.levels + 1
    assert made(chosen_study, store, *kinds).made == 2 * levels + 1 + (levels - 1)
    assert made(chosen_study, store, *kinds).made == 0
    ladder, harm = place.finding(trial.digest(), 0, "forgetting"), place.finding(trial.digest(), 2, "harm")
    assert ladder is not None
    assert harm is not None
    assert len(ladder.body["takes"]) == levels
    assert set(harm.body["takes"]) == {"calibration 0", "calibration 2"}
    forgotten = unpack_arrays(place.blob(ladder.body["blobs"]["arrays"]))["forgotten"]
    fitted = []
    for level in range(levels):
        below = place.finding(trial.digest(), level, "memorisation")
        assert below is not None
        bits = unpack_arrays(place.blob(below.body["blobs"]["arrays"]))["train_given"]
        fitted.append(np.unpackbits(bits, count=len(forgotten)).astype(bool))
    assert (np.isinf(forgotten) == fitted[-1]).all()


@pytest.mark.parametrize("restart", [{}, {"mode": "finetune"}, {"mode": "scratch"}, {"mode": "lr-rewind", "to": "3it"}])
def test_the_ledger_repeats_the_very_training(
    tiny: dict[str, Any], tmp_path: Path, train: Any, restart: dict[str, Any]
) -> None:
    fields = {**tiny, "restart": restart, "recipe": {**tiny.get("recipe", {}), "epochs": 2}}
    assert train(fields, tmp_path / "runs").code == 0
    whole = study.parse(fields)
    made(whole, tmp_path / "runs", DIAGNOSES["ledger"], levels=["0", "2"])
    (trial,), place = whole.trials, Store(tmp_path / "runs")
    for level in (0, 2):
        record, finding = place.record(trial.digest(), level), place.finding(trial.digest(), level, "ledger")
        assert record is not None
        assert finding is not None
        assert finding.body["rows"][0]["repeated"] is True
        bits = unpack_arrays(place.blob(finding.body["blobs"]["arrays"]))["train_given"]
        count = finding.body["rows"][0]["examples"]
        shares = np.unpackbits(bits, axis=1, count=count).mean(axis=1)
        assert np.allclose(shares, record.body["epochs"]["train_accuracy"][-len(shares) :], atol=1e-12)
        told, tests = finding.body["rows"][0], record.body["epochs"]["test_accuracy"]
        assert told["label_wave_test_accuracy"] == tests[told["label_wave_epoch"] - 1 - len(shares)]
        assert told["test_accuracy"] == tests[-1]
        changed = unpack_arrays(place.blob(finding.body["blobs"]["arrays"]))["changed"]
        fitted = np.unpackbits(bits, axis=1, count=count).astype(bool)
        assert changed[0] == count
        assert (changed[1:] >= (fitted[1:] != fitted[:-1]).sum(axis=1)).all()
    with pytest.raises(UserError, match="did you mean 'entropy'"):
        chosen(["entropi"])
    with pytest.raises(UserError, match="allow it with --plugins mine"):
        chosen(["mine:norm"])


def test_headlines_become_columns_of_the_table(finished: tuple[study.Study, Path]) -> None:
    chosen_study, store = finished
    made(chosen_study, store, levels=["0", "1"])
    frame = table.levels(Store(store), chosen_study.trials)
    assert frame["norm_norm"].is_not_null().to_list() == [True, True, *[False] * (frame.height - 2)]
    arrays = np.array(frame["norm_kept"].drop_nulls())
    assert arrays[0] > arrays[1]


def survivors(snapshot: Any) -> dict[str, float]:
    return {"share": float(np.mean([mask.float().mean() for mask in snapshot.masks.values()]))}


def raw(snapshot: Any) -> Any:
    return {"loss": next(snapshot.network.parameters()).sum()}


def endless(_snapshot: Any) -> Any:
    return [{"part": "network", "loss": float("inf")}]


def nothing(_snapshot: Any) -> Any:
    return None


def partless(_snapshot: Any) -> Any:
    return [{"loss": 1.0}]


def test_a_metric_of_the_users_gives_numbers_by_name(finished: tuple[study.Study, Path]) -> None:
    chosen_study, store = finished

    def ask(name: str) -> diagnosing.Outcome:
        kinds = chosen([f"test_diagnose:{name}"], {"test_diagnose"})
        asked = diagnosing.wanted(chosen_study, store, kinds, ["0", "1"])
        return diagnosing.diagnose(asked, store, kinds, workers=1, plugins=["test_diagnose"])

    assert ask("survivors").made == 2
    assert ask("survivors").cached == 2
    shares = table.levels(Store(store), chosen_study.trials)["survivors_share"].drop_nulls().to_list()
    assert shares[0] == 1.0 > shares[1]
    for name, words in {
        "raw": "loss = tensor.*: expected a finite number, .*; write float",
        "endless": "loss = inf: expected a finite number",
        "nothing": "gave NoneType, expected numbers by name",
        "partless": "gave list, expected numbers by name, or rows with a 'part' each",
    }.items():
        (problem,) = ask(name).failed.values()
        assert re.match(f"--only test_diagnose:{name}: {words}", problem)
