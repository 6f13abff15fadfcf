"""The network is never altered: it can be copied, compiled, wrapped and averaged in the middle of a sweep."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prunephase import runs, tensors
from prunephase.antidotes import Given
from prunephase.engine import Batch, Objective
from prunephase.engine.native.build import library
from prunephase.snapshot import Snapshot
from prunephase.store import Store
from prunephase.trial import Trial

SEEN: list[nn.Module] = []


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch was built without gloo")
    place = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Net(nn.Module):
    """Convolutions, BatchNorm, a skip, a Linear layer that sparse kernels take, dropout."""

    def __init__(self, classes: int, drop: float = 0.1) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 6, 3, 2), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
        self.hidden, self.drop, self.out = nn.Linear(54, 16), nn.Dropout(drop), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.out(self.drop(self.hidden((x + self.second(x)).flatten(1)).relu()))


def plain(_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Net(classes)


def still(_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Without dropout, for which compiled code draws numbers of its own."""
    return Net(classes, drop=0.0)


def compiled(_shape: tuple[int, ...], classes: int) -> nn.Module:
    wrapped: nn.Module = torch.compile(Net(classes), backend="eager")
    return wrapped


def averaged(network: nn.Module) -> AveragedModel:
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))


def ema(given: Given) -> Objective:
    """Follows the weights step by step, and must find what was pruned at zero."""
    mean = averaged(given.network)
    SEEN.append(mean)

    def loss(batch: Batch) -> Tensor:
        mean.update_parameters(batch.network)
        return cross_entropy(batch.network(batch.inputs), batch.labels)

    return loss


def parallel(given: Given) -> Objective:
    wrapped = DistributedDataParallel(given.network)
    SEEN.append(wrapped)
    return lambda batch: cross_entropy(wrapped(batch.inputs), batch.labels)


def traced(given: Given) -> Objective:
    wrapped = torch.compile(given.network, backend="eager")
    return lambda batch: cross_entropy(wrapped(batch.inputs), batch.labels)


def fused(given: Given) -> Objective:
    wrapped = torch.compile(given.network)
    return lambda batch: cross_entropy(wrapped(batch.inputs), batch.labels)


def plainly(_given: Given) -> Objective:
    return lambda batch: cross_entropy(batch.network(batch.inputs), batch.labels)


def magnitude(snapshot: Snapshot) -> dict[str, Tensor]:
    """|w|, asked of copies, copies of copies, averages and wrappers, each of which is used as well."""
    inputs, twin = snapshot.data.train.inputs[:8], copy.deepcopy(copy.deepcopy(snapshot.network))
    wrapped = DistributedDataParallel(copy.deepcopy(snapshot.network))
    wrapped(inputs).sum().backward()
    mean = averaged(snapshot.network)
    mean.update_parameters(snapshot.network)
    mean(inputs)
    for network in (twin, wrapped.module, mean.module):
        for name, mask in snapshot.masks.items():
            assert torch.equal(network.get_parameter(name), snapshot.network.get_parameter(name))
            assert network.get_parameter(name)[~mask].count_nonzero() == 0
    return {name: twin.get_parameter(name).detach().abs() for name in snapshot.masks}


def trial(model: str = "plain", objective: str = "plainly", criterion: str = "magnitude") -> Trial:
    here = "test_own_wrapped"
    return Trial.model_validate(
        {
            "data": {"source": "digits", "train": 150},
            "noise": {"kind": "symmetric-flip", "rate": 0.2},
            "model": {"name": f"{here}:{model}"},
            "recipe": {"epochs": 2, "batch_size": 50, "lr": 0.05, "momentum": 0.9},
            "pruning": {"fraction": 0.6, "levels": 2, "criterion": criterion},
            "antidote": {"kind": f"{here}:{objective}"} if objective != "none" else {},
        }
    )


def went(one: Trial, folder: Path) -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]]:
    """What was measured, how many were left in each layer, and the weights of every level."""
    runs.run([one], folder, workers=1, plugins=["test_own_wrapped"])
    store, found = Store(folder), []
    for record in store.levels(one):
        masks = tensors.unpack_masks(store.blob(record.body["blobs"]["masks"]))
        weights = tensors.unpack_weights(store.blob(record.body["blobs"]["weights"]), masks)
        named = {name.removeprefix("_orig_mod."): weight for name, weight in weights.items()}
        layers = {name.removeprefix("_orig_mod."): count for name, count in record.body["layers"].items()}
        found.append((record.body["epochs"], layers, named))
    assert len(found) == 3
    return found


def same(ours: list[Any], theirs: list[Any]) -> None:
    for (epochs, layers, weights), (their_epochs, their_layers, their_weights) in zip(ours, theirs, strict=True):
        assert (epochs, layers) == (their_epochs, their_layers)
        assert all(torch.equal(weights[name], their_weights[name]) for name in their_weights)


@pytest.mark.parametrize(("objective", "native"), [("ema", True), ("ema", False), ("parallel", True), ("traced", True)])
def test_wrappers_change_no_number_of_the_ladder(
    objective: str, native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunephase.engine.takeover.crossover", lambda *_: 1.0 if native else -1.0)
    one = trial(objective=objective, criterion="test_own_wrapped:magnitude")
    SEEN.clear()
    same(went(one, tmp_path / "wrapped"), went(trial(), tmp_path / "plain"))
    store = Store(tmp_path / "wrapped")
    last = store.levels(one)[-1].body
    assert ("native hidden" in last["numerics"]["strategy"]) == (native and library() is not None)
    if isinstance(SEEN[-1] if SEEN else None, AveragedModel):
        masks = tensors.unpack_masks(store.blob(last["blobs"]["masks"]))
        assert all(SEEN[-1].module.get_parameter(name)[~mask].count_nonzero() == 0 for name, mask in masks.items())


@pytest.mark.slow
def test_a_network_that_is_compiled_to_native_code_learns_the_same_but_for_rounding(tmp_path: Path) -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    ours, theirs = went(trial("still", "fused"), tmp_path / "fused"), went(trial("still"), tmp_path / "plain")
    for (_, _, weights), (_, _, their_weights) in zip(ours, theirs, strict=True):
        assert all(torch.allclose(weights[name], weight, atol=1e-3) for name, weight in their_weights.items())


def test_a_model_that_comes_compiled_learns_the_same(tmp_path: Path) -> None:
    same(went(trial("compiled"), tmp_path / "compiled"), went(trial(), tmp_path / "plain"))
