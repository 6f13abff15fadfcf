"""Data that several processes read: what was published is what comes back, and nobody holds a copy of it."""

# N examples, C channels, H height, W width.

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prunephase import data, execute, runs, study
from prunephase.bench import Bench, Site
from prunephase.data import Arrays, Codes, Dataset, Split
from prunephase.errors import StorageError
from prunephase.sections import Data, Noise
from prunephase.store import Store
from prunephase.trial import Trial

PLUGIN = frozenset({__name__})


def examples(kind: str, default: bool = False, noisy: bool = False) -> Arrays:
    """A user's data: 90 random examples of three classes, with constants of their own, or noisy labels, where asked."""
    draw = np.random.default_rng(1)
    shape = {"N": (5,), "NHW": (6, 4), "NCHW": (3, 6, 4), "float": (6, 4)}[kind]
    inputs: Any = draw.integers(0, 256, (90, *shape), np.uint8)
    if kind == "NCHW":
        inputs[:, 1] //= 3  # channels that are not alike
        inputs[:, 2, 0, 0] = 255
    if kind == "float":
        inputs = inputs / np.float32(255)
    labels = np.arange(90) % 3
    truth = np.where(np.arange(90) % 7 == 0, 0, labels) if noisy else None
    constants = {"mean": 0.1307, "deviation": 0.3081} if default else {}
    return Arrays(inputs, labels, truth=truth, **constants)  # type: ignore[arg-type]


def spec(kind: str = "NHW", *, default: bool = False, noisy: bool = False, **more: Any) -> Data:
    return Data(source=f"{__name__}:examples", kwargs={"kind": kind, "default": default, "noisy": noisy}, **more)


def tensors(split: Split) -> dict[str, Tensor]:
    """Every tensor of a split, by name."""
    found = {f.name: getattr(split, f.name) for f in fields(Split)}
    codes = found.pop("codes")
    return found | ({f"codes.{f.name}": getattr(codes, f.name) for f in fields(Codes)} if codes else {})


def same(ours: Dataset, theirs: Dataset) -> None:
    assert ours.splits.keys() == theirs.splits.keys()
    for f in fields(Dataset):
        mine, other = getattr(ours, f.name), getattr(theirs, f.name)
        if isinstance(mine, Tensor):
            assert torch.equal(mine, other), f.name
        elif f.name not in ("train", "validation", "test"):
            assert mine == other, f.name
    for name, split in ours.splits.items():
        parts, others = tensors(split), tensors(theirs.splits[name])
        assert parts.keys() == others.keys()
        for part, value in parts.items():
            assert value.dtype == others[part].dtype
            assert value.is_contiguous()
            assert torch.equal(value, others[part]), (name, part)


# -- there and back


@pytest.mark.parametrize("validation", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["N", "NHW", "NCHW", "float"])
def test_what_was_published_comes_back(kind: str, validation: float, tmp_path: Path) -> None:
    wanted = spec(kind, noisy=True, validation=validation)
    loaded = data.load(wanted, PLUGIN)
    assert (loaded.train.codes is None) is (kind == "float")
    assert not torch.equal(loaded.train.labels, loaded.train.truth)
    data.publish(wanted, loaded, tmp_path)
    same(data.obtain(wanted, folder=tmp_path), loaded)  # no plugin is asked


def test_what_was_not_published_is_loaded(tmp_path: Path) -> None:
    data.publish(spec("N"), data.load(spec("N"), PLUGIN), tmp_path)
    assert data.obtain(spec("NHW"), PLUGIN, tmp_path).input_shape == (1, 6, 4)
    assert data.obtain(spec("N", validation=0.3), PLUGIN, tmp_path).validation is not None
    assert data.obtain(spec("N"), PLUGIN).input_shape == data.obtain(spec("N"), folder=tmp_path).input_shape == (5,)
    assert len(list(tmp_path.iterdir())) == 1


# -- no copies

READER = """
import sys
from pathlib import Path
from prunephase.bench import Bench, Site
from prunephase.sections import Data, Noise
from prunephase.trial import Trial

def private():  # MiB that are this process's own ("Private_Dirty" counts pages of a file, too, until they are synced)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024

where = Path(sys.argv[1])
trial = Trial(data=Data(source="npz", path="published"), noise=Noise(kind="symmetric-flip", rate=0.2))
import torch
torch.ones(300, 300) @ torch.ones(300, 300)  # what a first product takes
before = private()
bench = Bench(trial, Site(where, shared=where))
read = sum(float(split.inputs.sum()) for split in bench.data.splits.values())
network = bench.network()
network(bench.data.train.inputs[:128]).sum().backward()
assert bench.data.train.inputs.shape == (50_000, 1, 28, 28), bench.data.train.inputs.shape
assert (bench.data.train.labels != bench.data.train.truth).any()
taken = private() - before
copied = bench.data.train.inputs.clone()
print(taken, private() - before, read)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_worker_holds_no_copy_of_the_data(tmp_path: Path) -> None:
    def split(count: int) -> Split:
        labels = torch.arange(count) % 10
        return Split(
            torch.rand(count, 1, 28, 28), labels, labels.clone(), torch.zeros(count, dtype=torch.bool), labels.clone()
        )

    mnist = Dataset(split(50_000), split(5_000), split(10_000), tuple("0123456789"), "0" * 64, 60_000)
    data.publish(Data(source="npz", path="published"), mnist, tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    taken, copied, read = map(float, done.stdout.split())
    assert read == pytest.approx(sum(float(s.inputs.sum()) for s in mnist.splits.values()), rel=1e-6)
    assert taken < 30  # MiB: labels, a network of 266,200 weights and its gradients; the inputs are 194
    assert copied - taken > 140  # so it would have been seen


def test_noise_leaves_the_inputs_where_they_are(tmp_path: Path) -> None:
    wanted = spec("NHW")
    data.publish(wanted, data.load(wanted, PLUGIN), tmp_path)
    noisy = Trial(data=wanted, noise=Noise(kind="symmetric-flip", rate=0.5))
    bench = Bench(noisy, Site(tmp_path, shared=tmp_path))
    for name, split in bench.data.splits.items():
        clean = bench.clean.splits[name]
        assert split.inputs.data_ptr() == clean.inputs.data_ptr()
        assert split.codes is clean.codes is not None
    assert not torch.equal(bench.data.train.labels, bench.clean.train.labels)


# -- the scratch folder


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many published files there are whenever a trial obtains its data from them."""
    found: list[int] = []
    obtain = data.obtain

    def counted(wanted: Data, plugins: Any = (), folder: Path | None = None) -> Dataset:
        if folder is not None and folder.exists():
            found.append(len(list(folder.iterdir())))
        return obtain(wanted, plugins, folder)

    monkeypatch.setattr(data, "obtain", counted)
    return found


def test_data_are_published_once_and_gone_with_the_run(
    tiny: dict[str, Any], train: Callable[..., Any], seen: list[int], tmp_path: Path
) -> None:
    grid = {"data.train": [100, 110], "noise.rate": [0.1, 0.2]}
    assert train({**tiny, "grid": grid, "pruning": {"levels": 0}}, tmp_path).code == 0
    assert seen == [2] * 4
    assert list((tmp_path / "tmp").iterdir()) == []


def raises(*_: Any) -> Any:
    raise RuntimeError("executor")
    yield


def leaves(*_: Any) -> Any:
    raise KeyboardInterrupt
    yield


@pytest.mark.parametrize("executor", [raises, leaves])
def test_data_are_gone_after_a_run_that_fails(
    executor: Any, tiny: dict[str, Any], train: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        train(tiny, tmp_path, executor=executor)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_data_are_gone_after_a_trial_that_fails(
    tiny: dict[str, Any], train: Callable[..., Any], tmp_path: Path
) -> None:
    with Store(tmp_path).lock(study.parse(tiny).trials[0].digest()):
        assert train(tiny, tmp_path).failed
    assert list((tmp_path / "tmp").iterdir()) == []


def dies(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
    yield


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_a_killed_run_published_is_swept_by_the_next(
    tiny: dict[str, Any], train: Callable[..., Any], tmp_path: Path
) -> None:
    train(tiny, tmp_path / "whole")  # what is imported late, before the fork
    store = tmp_path / "runs"
    child = os.fork()
    if child == 0:
        runs.train(study.parse(tiny), store, workers=1, executor=dies)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    (left,) = (store / "tmp").iterdir()
    assert len(list(left.iterdir())) == 1
    of_the_living = store / "tmp" / left.name.replace(str(child), str(os.getppid()))
    of_the_living.mkdir()  # another study is being trained into the same store
    assert train(tiny, store).code == 0
    assert list((store / "tmp").iterdir()) == [of_the_living]


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and limits the size of files")
def test_a_disk_that_takes_no_more_data_is_no_fault_of_ours(
    tiny: dict[str, Any], train: Callable[..., Any], tmp_path: Path
) -> None:
    import resource

    train(tiny, tmp_path / "whole")  # as above
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            runs.train(study.parse(tiny), tmp_path / "runs", workers=1)
        except StorageError as problem:
            os._exit(5 if "(finished levels are safe)" in str(problem) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    assert list((tmp_path / "runs" / "tmp").iterdir()) == []


def test_workers_obtain_what_their_parent_published(
    tiny: dict[str, Any], train: Callable[..., Any], tmp_path: Path
) -> None:
    """Nothing is loaded after the check: the file that data came from may be gone by then."""
    path = tmp_path / "data.npz"
    draw = np.random.default_rng(0)
    np.savez(path, x=draw.normal(size=(200, 5)), y=np.arange(200) % 3)

    def without(work: Any, groups: Any, workers: int) -> Any:
        path.unlink()
        yield from execute.map(work, groups, workers)

    fields = {**tiny, "data": {"source": "npz", "path": str(path)}}
    assert train(fields, tmp_path / "runs", executor=without).code == 0


# -- codes


def restored(split: Split) -> tuple[Tensor, Tensor]:
    """What the codes say the inputs are, and by how much float32 may have rounded it: [N, F] both."""
    codes = split.codes
    assert codes is not None
    assert (codes.values.dtype, codes.scale.dtype, codes.shift.dtype) == (torch.uint8, torch.float32, torch.float32)
    values = codes.values.float()
    rounding = torch.finfo(torch.float32).eps * ((values * codes.scale).abs() + codes.shift.abs())
    return values * codes.scale + codes.shift, rounding


@pytest.mark.parametrize("normalise", ["none", "train", "default", "own constants"])
@pytest.mark.parametrize("kind", ["N", "NHW", "NCHW"])
def test_codes_are_the_inputs(kind: str, normalise: str) -> None:
    own = normalise == "own constants"
    loaded = data.load(spec(kind, default=own, normalise="default" if own else normalise, validation=0.2), PLUGIN)
    raw = torch.from_numpy(examples(kind).inputs)
    for split in loaded.splits.values():
        assert split.codes is not None
        assert torch.equal(split.codes.values, raw[split.index].flatten(1))
        found, rounding = restored(split)
        inputs = split.inputs.flatten(1)
        assert ((found - inputs).abs() <= rounding).all()
        assert inputs.std() > 0.1  # and that says something
    codes = loaded.train.codes
    assert codes is not None
    pairs = torch.stack([codes.scale, codes.shift], 1).unique(dim=0)
    constants = 1 if normalise == "none" or own else {"N": 5, "NHW": 1, "NCHW": 3}[kind]
    assert len(pairs) == constants
    if normalise == "none":
        assert pairs.tolist() == [[1.0 if kind == "N" else float(np.float32(1 / 255)), 0.0]]


def test_mnist_has_its_codes() -> None:
    if not os.environ.get("PRUNEPHASE_DATA"):
        pytest.skip("needs MNIST in PRUNEPHASE_DATA")
    loaded = data.load(Data(source="mnist", train=500, validation=0.01))
    found, rounding = restored(loaded.train)
    assert ((found - loaded.train.inputs.flatten(1)).abs() <= rounding).all()


def test_inputs_that_were_no_bytes_have_no_codes() -> None:
    for loaded in (data.load(spec("float"), PLUGIN), data.load(Data(source="digits"))):
        assert [split.codes for split in loaded.splits.values()] == [None] * 3
