"""Carbon: codecarbon's estimate is a fact of a run, whose results it cannot touch, and which it cannot stop."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from campaign import tree
from prunephase import cli, study
from prunephase.carbon import check, estimates, followed
from prunephase.errors import UserError
from prunephase.events import LevelDone
from prunephase.merge import merge
from prunephase.store import Store

Pretend = Callable[..., dict[str, Any]]


@pytest.fixture
def codecarbon(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """`codecarbon(start=..., stop=...)` puts one of our own in its place; what it is called with is returned."""

    def pretend(start: Exception | None = None, stop: Exception | None = None) -> dict[str, Any]:
        asked: dict[str, Any] = {}

        class Tracker:
            final_emissions_data = SimpleNamespace(
                energy_consumed=0.25, emissions=0.095, codecarbon_version="3.9", tracking_mode="process", cpu_model="X"
            )

            def __init__(self, **how: Any) -> None:
                asked.update(how)

            def start(self) -> None:
                if start:
                    raise start

            def stop(self) -> None:
                if stop:
                    raise stop

        module, data = ModuleType("codecarbon"), ModuleType("codecarbon.input")
        module.OfflineEmissionsTracker = Tracker  # type: ignore[attr-defined]
        data.DataSource = lambda: SimpleNamespace(get_global_energy_mix_data=lambda: {"DEU": {}, "FRA": {}})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "codecarbon", module)
        monkeypatch.setitem(sys.modules, "codecarbon.input", data)
        return asked

    return pretend


def seals(store: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(store).items() if name.startswith(("trials/", "objects/"))}


def test_the_estimate_is_kept_as_a_fact_and_results_are_untouched(
    tiny: dict[str, Any], study_file: Callable[..., Path], finished: Path, tmp_path: Path, codecarbon: Pretend,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked, name, store = codecarbon(), str(study_file(tiny)), tmp_path / "runs"
    assert cli.main(["run", name, "--store", str(store), "--workers", "1", "--carbon", "DEU"]) == 0
    assert asked["country_iso_code"] == "DEU"
    assert not asked["save_to_file"]
    assert not asked["save_to_api"]
    assert seals(store) == seals(finished)
    (trial,) = study.parse(tiny).trials
    (fact,) = estimates(Store(store), [trial])
    assert (fact["kwh"], fact["grams_co2e"], fact["country"]) == (0.25, 95.0, "DEU")
    assert fact["trained"] == {trial.digest(): 4}
    capsys.readouterr()
    assert cli.main(["cost", name, "--store", str(store), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["codecarbon"] == [fact]
    # a run that trains nothing has nothing to tell; another store takes the fact along
    assert cli.main(["run", name, "--store", str(store), "--workers", "1", "--carbon", "DEU"]) == 0
    merge(tmp_path / "all", [store])
    assert list(Store(tmp_path / "all").runs().values()) == [fact]
    assert estimates(Store(store), []) == []


@pytest.mark.parametrize("faults", [{"start": RuntimeError("no RAPL")}, {"stop": OSError("gone")}])
def test_a_fault_of_codecarbon_is_a_line_and_ends_nothing(
    faults: dict[str, Exception], tiny: dict[str, Any], study_file: Callable[..., Path], tmp_path: Path,
    codecarbon: Pretend, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    codecarbon(**faults)
    arguments = ["run", str(study_file(tiny)), "--store", str(tmp_path / "runs"), "--workers", "1", "--carbon", "DEU"]
    assert cli.main(arguments) == 0
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "codecarbon" in one]
    assert str(next(iter(faults.values()))) in line
    assert Store(tmp_path / "runs").runs() == {}


def test_without_codecarbon_the_run_goes_on_and_says_what_to_install(
    tiny: dict[str, Any], study_file: Callable[..., Path], finished: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    arguments = ["run", str(study_file(tiny)), "--store", str(finished), "--workers", "1", "--carbon", "DEU"]
    assert cli.main([*arguments, "-o", str(finished.parent / "page.html")]) == 0
    assert 'pip install "prunephase[carbon]"' in capsys.readouterr().err


@pytest.mark.parametrize("country", ["Germany", "deu", "DE", "", "GER"])
def test_a_country_that_is_none_is_refused_before_anything_is_trained(country: str, codecarbon: Pretend) -> None:
    codecarbon()
    with pytest.raises(UserError, match="as DEU"):
        check(country)
    check("FRA")


def test_a_cluster_is_out_of_its_sight(
    tiny: dict[str, Any], study_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(study_file(tiny)), "--on", "ray", "--carbon", "DEU"]) == 2
    assert "sees this machine alone" in capsys.readouterr().err


def test_a_fact_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "facts" / "runs"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text("[]")
    Store(tmp_path).put_run("c", {"kwh": 1.0})
    assert Store(tmp_path).runs() == {"c": {"kwh": 1.0}}


def test_codecarbon_itself_starts_and_stops(tiny: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("codecarbon")
    told: list[Any] = []
    whole = study.parse(tiny)
    with followed(whole, Store(tmp_path), "DEU", lambda _, event: told.append(event)) as observe:
        observe(whole.trials[0], LevelDone(whole.trials[0].digest(), 0, 0.0, 1, "ok", {}, cached=False))
    assert len(told) == 1
    (fact,) = Store(tmp_path).runs().values()
    assert fact["kwh"] >= 0
