"""Ray: a real cluster of two nodes on this machine, of which one dies.

python tests/test_ray.py 20      the campaign: a node killed at a random moment, 20 times each way; prints a table
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from campaign import STUDY, tree
from prunephase import cli, runs, study, table
from prunephase.errors import UserError
from prunephase.events import LevelDone
from prunephase.execute import Retried, shipping
from prunephase.execute import ray as cluster
from prunephase.store import Store
from prunephase.task import Finished, Task

FIELDS: dict[str, Any] = {**copy.deepcopy(STUDY), "seeds": [0, 1, 2, 3]}
FIELDS["recipe"] = {**FIELDS["recipe"], "epochs": 60}
WAYS = ("shared", "shipped")
MEMORY = 80 * 2**20


@contextmanager
def joined() -> Iterator[tuple[Any, Any]]:
    """A cluster on this machine whose head has one core, and the executor on it; nodes are to come and go."""
    for name, value in {**cluster.QUIET, **cluster.LOOPBACK}.items():
        os.environ.setdefault(name, value)
    from ray.cluster_utils import Cluster

    # A node is dead after 1 s of silence instead of 15.
    soon = {"health_check_period_ms": 200, "health_check_failure_threshold": 5, "health_check_initial_delay_ms": 0}
    size = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": MEMORY}
    nodes = Cluster(initialize_head=True, head_node_args={**size, "_system_config": soon})
    try:
        with cluster.cluster(nodes.address) as executor:  # before there is another node that it could join on
            yield nodes, executor
    finally:
        nodes.shutdown()


def living() -> list[str]:
    import ray

    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


@pytest.fixture(scope="module")
def here() -> Iterator[tuple[Any, Any]]:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "prunephase[ray]"')
    with joined() as found:
        yield found


@contextmanager
def unseen(self: Any, real: Callable[..., Any] = cluster._Run.ready) -> Iterator[None]:
    """A run whose workers look for the driver's folder where it is not."""
    with real(self):
        mark = self.order.mark
        self.order = replace(self.order, mark=mark.with_name("elsewhere"))
        yield
        self.order = replace(self.order, mark=mark)


def warm() -> None:
    """Have a worker on every node that has all its imports behind it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    looks, nothing = ray.remote(cluster._sees), SimpleNamespace(mark=Path("nothing"))
    places = [NodeAffinitySchedulingStrategy(name, soft=False) for name in living()]
    ray.get([looks.options(num_cpus=1, scheduling_strategy=place).remote(nothing) for place in places])


def one_node_dies(here: tuple[Any, Any], store: Path, way: str, after: int, delay: float) -> dict[str, Any]:
    """Run the study on two nodes, one of which is killed `delay` seconds after `after` levels; what was said."""
    nodes, executor = here
    trials = study.parse(FIELDS).trials
    executor.blind = False
    second = nodes.add_node(num_cpus=1, object_store_memory=MEMORY)
    warm()
    acknowledged: dict[tuple[str, int], str] = {}
    said: Counter[tuple[str, int]] = Counter()
    retried: list[str] = []
    killer = threading.Timer(delay, nodes.remove_node, (second, False))

    def observe(_trial: Any, event: Any) -> None:
        if getattr(event, "cached", True) is False:
            place = event.trial, event.level
            record = Store(store).record(*place)
            assert record is not None, "acknowledged, but not there"
            acknowledged[place] = record.seal
            said[place] += 1
        if isinstance(event, Retried):
            retried.append(event.text)
        if len(acknowledged) >= after and not killer.is_alive() and not killer.finished.is_set():
            killer.start()

    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        if way == "shipped":
            patch.setattr(cluster._Run, "ready", unseen)
        outcome = runs.train(study.parse(FIELDS), store, workers=2, observe=observe, executor=executor.map)
    seconds = time.monotonic() - began
    killer.join()
    while len(living()) > 1:
        time.sleep(0.1)
    seals = {(r.body["trial"], r.body["level"]): r.seal for trial in trials for r in Store(store).levels(trial)}
    return {
        "code": outcome.code,
        "lost": [place for place, seal in acknowledged.items() if seals.get(place) != seal],
        "twice": [place for place, count in said.items() if count != 1],
        "levels": len(acknowledged),
        "retried": retried,
        "blind": executor.blind,
        "seconds": round(seconds, 1),
    }


def table_of(store: Path) -> str:
    return table.levels(Store(store), study.parse(FIELDS).trials).write_csv()


# -- what needs no cluster


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'pip install "prunephase\[ray\]"'), cluster.cluster():
        pass


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "127.0.0.1:9", "nonsense", "auto", "[::1]:99999"])
def test_an_address_where_no_cluster_is_is_refused_at_once(address: str) -> None:
    with pytest.raises(UserError, match="--ray-address"), cluster.cluster(address):
        pass


def test_an_address_belongs_to_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "preset:demo", "--store", str(tmp_path / "runs"), "--ray-address", "head:6379"]) == 2
    assert "belongs to --on ray" in capsys.readouterr().err


def test_ray_deals_out_the_gpus() -> None:
    with pytest.raises(UserError, match="write --device cuda"):
        cluster.Cluster().workers("cuda:1")


@pytest.fixture
def one(tiny: dict[str, Any]) -> list[Task]:
    return [Task(trial) for trial in study.parse(tiny).trials]


def test_all_that_a_store_has_of_a_trial_is_shipped(finished: Path, one: list[Task], tmp_path: Path) -> None:
    parcel, notes = shipping.everything(Store(finished), one, {})
    parcel.unpack(Store(tmp_path))
    assert (tree(tmp_path), notes) == (tree(finished), [])
    assert {p.name for p in (tmp_path / "hints").rglob("*")} == {p.name for p in (finished / "hints").rglob("*")}


def test_what_is_damaged_is_not_shipped_but_set_aside(finished: Path, one: list[Task], tmp_path: Path) -> None:
    store = Store(shutil.copytree(finished, tmp_path / "runs"))
    name = one[0].trial.digest()
    record = store.record(name, 2)
    assert record is not None
    damaged = store.folder / "objects" / record.body["blobs"]["weights"][:2] / record.body["blobs"]["weights"][2:]
    damaged.write_bytes(b"nonsense")
    parcel, notes = shipping.everything(store, one, {})
    assert [r.body["level"] for r in parcel.records] == [None, 0, 1, 3]
    assert len(notes) == 1
    assert not damaged.exists()
    assert list((store.folder / "quarantine").iterdir())


def test_only_what_is_new_comes_back(finished: Path, one: list[Task]) -> None:
    store, name = Store(finished), one[0].trial.digest()
    known: set[str] = set()
    first, again = (shipping.news(store, LevelDone(name, 1, 0.2, 1, "ok", {}, False), known) for _ in range(2))
    assert [r.body["level"] for r in first.records] == [None, 1]
    assert set(first.blobs) == {d for r in first.records for d in r.body["blobs"].values()}
    assert (list(again.records), again.blobs) == ([], {})


def test_a_dense_level_that_a_relative_has_trained_goes_along(
    tiny: dict[str, Any], finished: Path, tmp_path: Path, train: Callable[..., Any]
) -> None:
    other = {**tiny, "pruning": {**tiny["pruning"], "criterion": "random"}}
    trials = [study.parse(fields).trials[0] for fields in (tiny, other)]
    parcel, _ = shipping.everything(Store(finished), [Task(trials[1])], shipping.relatives(trials))
    assert [(r.body["trial"], r.body["level"]) for r in parcel.records] == [(trials[0].digest(), 0)]
    parcel.unpack(Store(tmp_path / "there"))
    said: list[Any] = []
    train(other, tmp_path / "there", observe=lambda _trial, event: said.append(event))
    assert [e.shared for e in said if isinstance(e, LevelDone)] == [True, False, False, False]


# -- on a cluster


def test_a_node_that_dies_costs_no_acknowledged_level(
    here: tuple[Any, Any], tmp_path: Path, train: Callable[..., Any]
) -> None:
    assert train(FIELDS, tmp_path / "local").code == 0
    for way in WAYS:
        store = tmp_path / way
        found = one_node_dies(here, store, way, after=3, delay=0.0)
        assert (found["code"], found["lost"], found["twice"], found["levels"]) == (0, [], [], 16)
        assert found["blind"] == (way == "shipped")
        # Whether the node had a task in hand when it died is chance; what it had is begun again.
        line = "its worker died (NodeDiedError); another goes on after the last finished level"
        assert set(found["retried"]) <= {line}
        assert table_of(store) == table_of(tmp_path / "local")
        assert tree(store) == tree(tmp_path / "local")
        assert not list((store / "tmp").iterdir())


@pytest.mark.slow
def test_a_killed_worker_is_replaced(here: tuple[Any, Any], tmp_path: Path, train: Callable[..., Any]) -> None:
    said: list[str] = []
    place = Store(tmp_path / "runs")

    def observe(trial: Any, event: Any) -> None:
        if getattr(event, "level", None) == 1 and isinstance(event, LevelDone) and not said:
            os.kill(place.facts(trial.digest(), 1)["pid"], signal.SIGKILL)
            said.append("killed")
        if isinstance(event, Retried):
            said.append(event.text)

    fields = {**FIELDS, "seeds": [0, 1]}
    assert train(fields, tmp_path / "runs", observe=observe, executor=here[1].map).code == 0
    assert said == ["killed", "its worker died (WorkerCrashedError); another goes on after the last finished level"]
    assert train(fields, tmp_path / "local").code == 0
    assert tree(tmp_path / "runs") == tree(tmp_path / "local")


@pytest.mark.slow
def test_shipped_work_goes_on_where_another_run_ended(
    here: tuple[Any, Any], tmp_path: Path, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow = {**FIELDS, "seeds": [0], "pruning": {"levels": 1}}
    deep = {**shallow, "pruning": {"levels": 3}}
    assert train(shallow, tmp_path / "runs").code == 0
    monkeypatch.setattr(cluster._Run, "ready", unseen)
    new: list[int] = []

    def observe(_trial: Any, event: Any) -> None:
        if isinstance(event, LevelDone) and not event.cached:
            new.append(event.level)

    assert train(deep, tmp_path / "runs", observe=observe, executor=here[1].map).code == 0
    assert new == [2, 3]
    assert train(deep, tmp_path / "local").code == 0
    assert tree(tmp_path / "runs") == tree(tmp_path / "local")


@pytest.mark.slow
def test_a_trial_that_somebody_holds_is_tried_again(
    here: tuple[Any, Any], tmp_path: Path, train: Callable[..., Any]
) -> None:
    here[1].blind = False
    fields, said = {**FIELDS, "seeds": [0]}, list[Any]()
    holding = ExitStack()
    holding.enter_context(Store(tmp_path / "runs").lock(study.parse(fields).trials[0].digest()))

    def observe(_trial: Any, event: Any) -> None:
        said.append(event)
        if isinstance(event, Retried):
            holding.close()

    assert train(fields, tmp_path / "runs", observe=observe, executor=here[1].map).code == 0
    assert "trying again" in said[0].text
    assert said[-1] == Finished()


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused(
    here: tuple[Any, Any], tmp_path: Path, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "__version__", "0.0.9")
    outcome = train({**FIELDS, "seeds": [0]}, tmp_path / "runs", executor=here[1].map)
    assert (outcome.code, len(outcome.failed)) == (3, 1)
    assert "the driver 0.0.9; install the same" in next(iter(outcome.failed.values()))


def command(file: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    """`prunephase run --on ray` on a cluster of its own, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "prunephase", "run", str(file), "--store", str(store), "--on", "ray", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=file.parent,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_on_its_own_cluster_stdout_holds_the_answer_and_plugins_are_found(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    source = "def scores(s):\n    return {k: s.network.get_parameter(k).detach().abs() for k in s.masks}\n"
    (tmp_path / "mine.py").write_text(source)
    fields = {**FIELDS, "seeds": [0, 1], "pruning": {"levels": 2, "criterion": "mine:scores"}}
    process = command(study_file(fields), tmp_path / "runs", "--json", "--plugins", "mine")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["failed"] == {}
    assert len(out.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_or_killed_driver_leaves_no_process_and_the_next_run_goes_on(
    number: signal.Signals,
    study_file: Callable[..., Path],
    tmp_path: Path,
    train: Callable[..., Any],
) -> None:
    fields = {**FIELDS, "seeds": [0, 1], "recipe": {**FIELDS["recipe"], "epochs": 400}}
    store = tmp_path / "runs"
    process = command(study_file(fields), store, "--quiet")
    while not list(store.glob("trials/*/level-*.json")):
        assert process.poll() is None
        time.sleep(0.1)
    assert len(session(process.pid)) > 3
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    lines = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert len(lines) == (number != signal.SIGKILL)
    limit = time.monotonic() + 150  # Ray's agents look every so often whether their node lives
    while session(process.pid):
        assert time.monotonic() < limit
        time.sleep(0.5)
    assert train(fields, store).code == 0
    assert train(fields, tmp_path / "local").code == 0
    assert tree(store) == tree(tmp_path / "local")


def session(leader: int) -> list[str]:
    """The processes of a session."""
    found = subprocess.run(["ps", "-ewwo", "sid,pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if line.split()[0] == str(leader)]


@pytest.mark.slow
def test_a_node_killed_at_random_moments_20_times_each_way(here: tuple[Any, Any]) -> None:
    assert campaign(20, here) == 0


def campaign(times: int, here: tuple[Any, Any]) -> int:
    """Kill a node at random moments, both ways; a line each, and how many were right."""
    draw, good = random.Random(0), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "local"
        assert runs.train(study.parse(FIELDS), local, workers=1).code == 0
        for i in range(times):
            for way in WAYS:
                store = Path(folder) / f"{way}{i}"
                after, delay = draw.randrange(15), draw.uniform(0, 0.5)
                found = one_node_dies(here, store, way, after, delay)
                same = table_of(store) == table_of(local) and tree(store) == tree(local)
                right = same and found["code"] == 0 and not found["lost"] and not found["twice"]
                good[way] += right and found["blind"] == (way == "shipped")
                good[f"{way}, of which it interrupted a group"] += bool(found["retried"])
                print(json.dumps({"way": way, "after": after, "delay": round(delay, 2), "same": same, **found}))
    print(f"of {times} each: {json.dumps(good)}")
    return 0 if all(good[way] == times for way in WAYS) else 1


if __name__ == "__main__":
    with joined() as cluster_here:
        code = campaign(int(sys.argv[1]), cluster_here)
    sys.exit(code)
