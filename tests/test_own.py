"""A network, data, loss and metric of the user's own: whatever torch can train goes down the ladder unharmed."""

# N examples, T tokens of a sequence, K classes.

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunephase import data, runs, sections, tensors
from prunephase.antidotes import Given, distillation
from prunephase.engine import Batch, Objective
from prunephase.errors import IncompatibleError, UserError
from prunephase.store import Store
from prunephase.trial import Trial, remaining_weights

N, T, WORDS, K = 60, 6, 12, 3
SHAPED = dict[str, np.ndarray[Any, Any]]


def tokens(kind: str = "int64") -> SHAPED:
    """Sequences whose class is the word that stands first, of K."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, WORDS, (N, T))
    return {"x": x.astype(kind), "y": x[:, 0] % K}


def series() -> SHAPED:
    draw = np.random.default_rng(1)
    return {"x": draw.normal(size=(N, T, 2)).astype(np.float32), "y": np.arange(N) % K}


def pixels() -> SHAPED:
    draw = np.random.default_rng(2)
    return {"x": draw.integers(0, 256, (N, 2, 5, 5)).astype(np.uint8), "y": np.arange(N) % K}


class Tied(nn.Module):
    """Words are read and written by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.mix, self.write = nn.Embedding(WORDS, 5), nn.Linear(5, 5), nn.Linear(5, WORDS, bias=False)
        self.write.weight = self.read.weight
        self.out = nn.Linear(WORDS, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.write(torch.relu(self.mix(self.read(x).mean(1)))))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.out = nn.Linear(8, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.embed(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: str, features: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 4) if features == 0 else nn.Identity()
        self.core = getattr(nn, kind)(features or 4, 5, batch_first=True, bidirectional=True, num_layers=2)
        self.out = nn.Linear(10, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(self.embed(x))[0][:, -1])


class Windows(nn.Module):
    """Convolutions over words: weights of four axes, inputs of two."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv, self.out = nn.Embedding(WORDS, 4), nn.Conv2d(1, 5, (2, 4)), nn.Linear(5, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(self.embed(x).unsqueeze(1)).relu().amax((2, 3)))


class Seeing(nn.Module):
    """Takes images of bytes as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 4, 3), nn.Linear(4, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x / 255).relu().mean((2, 3)))


class Frozen(nn.Module):
    """A body that was trained elsewhere, with BatchNorm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 4)
        self.body = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU()).requires_grad_(False)
        self.head = nn.Linear(6, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x).mT).mean(2))


class Inner(nn.Module):
    """Takes a dict, gives a tuple, and multiplies by a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = nn.Parameter(torch.randn(8, 6) / 3)
        self.words, self.norm = nn.Embedding(WORDS, 4), nn.LayerNorm(6)
        self.out = nn.Parameter(torch.randn(6, K) / 3)

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, None]:
        both = torch.cat([self.words(given["first"]), self.words(given["rest"]).mean(1)], 1)
        return self.norm(both @ self.mixer).relu() @ self.out, None


class Adapter(nn.Module):
    """What a network with several inputs needs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner({"first": x[:, 0], "rest": x[:, 1:]})[0]


def network(_shape: tuple[int, ...], _classes: int, kind: str, **kwargs: Any) -> nn.Module:
    kinds: dict[str, Any] = {"tied": Tied, "attending": Attending, "frozen": Frozen, "adapter": Adapter}
    kinds |= {"windows": Windows, "seeing": Seeing}
    return kinds[kind]() if kind in kinds else Recurrent(kind, **kwargs)


def trial(kind: str, source: str = "tokens", pruning: dict[str, Any] | None = None, **fields: Any) -> Trial:
    kwargs, recipe = fields.pop("kwargs", {}), fields.pop("recipe", {})
    return Trial.model_validate(
        {
            "data": {"source": f"test_own:{source}", "normalise": "keep", **fields.pop("data", {})},
            "model": {"name": "test_own:network", "kwargs": {"kind": kind, **kwargs}},
            "recipe": {"epochs": 2, "batch_size": 16, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, **recipe},
            "pruning": {"levels": 3, "fraction": 0.4, **(pruning or {})},
            **fields,
        }
    )


PRUNED: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "tied": ({}, {}, ["read.weight", "mix.weight", "out.weight"]),
    "attending": ({}, {}, [f"layer.{name}.weight" for name in ("self_attn.out_proj", "linear1", "linear2")]
                  + ["layer.self_attn.in_proj_weight", "out.weight"]),
    "LSTM": ({"kwargs": {"features": 0}}, {}, [*(f"core.weight_{kind}_l{layer}{way}" for layer in (0, 1)
             for way in ("", "_reverse") for kind in ("ih", "hh")), "out.weight"]),
    "GRU": ({"kwargs": {"features": 2}, "source": "series"}, {"include": ["core.weight_hh_*"]},
            [f"core.weight_hh_l{layer}{way}" for layer in (0, 1) for way in ("", "_reverse")]),
    "windows": ({}, {}, ["conv.weight", "out.weight"]),
    "seeing": ({"source": "pixels"}, {}, ["conv.weight", "out.weight"]),
    "frozen": ({}, {}, ["head.weight"]),
    "adapter": ({}, {"parameters": ["inner.mixer", "inner.words.weight"]}, ["inner.mixer", "inner.words.weight"]),
}  # fmt: skip


@pytest.mark.parametrize("criterion", ["magnitude", "gradient"])
@pytest.mark.parametrize("kind", PRUNED)
def test_any_network_is_pruned_to_the_agreed_count_and_keeps_its_ties_and_its_frozen_parts(
    kind: str, criterion: str, tmp_path: Path
) -> None:
    more, pruning, names = PRUNED[kind]
    one = trial(kind, pruning={**pruning, "criterion": criterion}, **more)
    runs.run([one], tmp_path, workers=1, plugins=["test_own"])
    store = Store(tmp_path)
    records = store.levels(one)
    assert [record.body["status"] for record in records] == ["ok"] * 4
    counts = remaining_weights(records[0].body["prunable"], 0.4, 3)
    initial = tensors.unpack_weights(store.blob(records[0].body["blobs"]["initial"]), {})
    before: dict[str, Tensor] = {}
    for record, count in zip(records, counts, strict=True):
        masks = tensors.unpack_masks(store.blob(record.body["blobs"]["masks"]))
        weights = tensors.unpack_weights(store.blob(record.body["blobs"]["weights"]), masks)
        assert set(masks) == set(names)
        assert sum(int(mask.sum()) for mask in masks.values()) == record.body["remaining"] == count
        assert all((~mask | before.get(name, mask)).all() for name, mask in masks.items())  # nothing comes back
        assert all(weights[name][~mask].count_nonzero() == 0 for name, mask in masks.items())
        assert any(not torch.equal(weights[name], initial[name]) for name in names)
        if kind == "tied":
            assert torch.equal(weights["read.weight"], weights["write.weight"])
        if kind == "frozen":
            frozen = [n for n in weights if n.startswith("body") and "running" not in n and "num_batches" not in n]
            assert all(torch.equal(weights[name], initial[name]) for name in frozen)
        before = masks


def test_layers_computed_by_the_native_kernels_learn_what_torch_teaches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(kind: str, native: bool) -> dict[str, Tensor]:
        monkeypatch.setattr("prunephase.engine.takeover.crossover", lambda *_: 1.0 if native else -1.0)
        monkeypatch.setattr(sys.modules["prunephase.engine.team"], "WORTH", 0.05 if native else 2.0)  # dead channels
        place = tmp_path / f"{kind}{native}"
        one = trial(kind)
        runs.run([one], place, workers=1, plugins=["test_own"])
        record = Store(place).levels(one)[-1]
        assert ("native" in record.body["numerics"]["strategy"]) == native
        masks = tensors.unpack_masks(Store(place).blob(record.body["blobs"]["masks"]))
        return tensors.unpack_weights(Store(place).blob(record.body["blobs"]["weights"]), masks)

    for kind in ("tied", "attending"):
        ours, theirs = trained(kind, native=True), trained(kind, native=False)
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


@pytest.mark.parametrize("kind", ["int64", "int32", "int8", "uint8", "uint16", "bool", "float64", "float16", ">i4"])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4)])
def test_inputs_that_are_kept_are_what_came(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 2 if kind == "bool" else 100, (N, *shape)).astype(kind)
    np.savez(tmp_path / "some.npz", x=x, y=np.arange(N) % K)
    spec = sections.Data(source="npz", path=str(tmp_path / "some.npz"), normalise="keep")
    loaded = data.load(spec)
    data.publish(spec, loaded, tmp_path / "shared")
    for found in (loaded, data.obtain(spec, folder=tmp_path / "shared")):
        for split in found.splits.values():
            assert np.array_equal(split.inputs.numpy(), x[split.index.numpy()])
            assert split.codes is None
        assert found.dtype == {"uint16": torch.int64, ">i4": torch.int32}.get(kind, getattr(torch, kind, None))
        assert found.input_shape == shape
        assert found.black is None


def refused(one: Trial, words: str, tmp_path: Path, plugins: tuple[str, ...] = ("test_own",)) -> None:
    with pytest.raises(UserError, match=words) as error:
        runs.run([one], tmp_path, workers=1, plugins=plugins)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "trials").exists()


def bare(_shape: tuple[int, ...], _classes: int) -> nn.Module:
    return Attending().requires_grad_(False)


def huge() -> SHAPED:
    return {"x": np.full((N, T), 2**63, np.uint64), "y": np.arange(N) % K}


def rare() -> SHAPED:
    found = tokens()
    found["x"][7, 3] = WORDS
    return found


def test_what_a_network_cannot_read_is_said_in_one_line(tmp_path: Path) -> None:
    refused(
        trial("tied", data={"normalise": "default"}), "tokens stay whole numbers with data.normalise = 'keep'", tmp_path
    )
    refused(trial("tied", source="rare"), r"fails on an example of the data, whose numbers go from 0 to 12", tmp_path)
    refused(trial("tied", source="huge"), "beyond int64", tmp_path)
    refused(trial("adapter"), "no prunable weights; .*name others in pruning.parameters", tmp_path)
    refused(trial("adapter", pruning={"parameters": ["inner.mixr"]}), "'inner.mixr' matches no parameter", tmp_path)
    refused(trial("tied", model={"name": "test_own:bare"}), "every parameter is frozen", tmp_path)
    flipped = {"source": "pixels", "recipe": {"augment": ["flip"]}}
    refused(
        trial("seeing", **flipped), "data.normalise = 'keep' leaves them torch.uint8; leave one of them out", tmp_path
    )


WIDTH = [4]


def wide(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(shape[0] * shape[1], WIDTH[0]), nn.ReLU(), nn.Linear(WIDTH[0], classes)
    )


def test_levels_of_a_network_whose_code_has_changed_are_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(levels: int) -> None:
        one = trial("wide", source="series", model={"name": "test_own:wide"}, pruning={"levels": levels})
        runs.run([one], tmp_path, workers=1, plugins=["test_own"])

    run(1)
    monkeypatch.setattr("test_own.WIDTH", [5])
    with pytest.raises(IncompatibleError, match=r"network has changed since it began \(1.weight: 48 -> 60 weights"):
        run(2)


def same(given: Given) -> Objective:
    """Cross-entropy by another name."""
    assert isinstance(given, Given)
    return lambda batch: nn.functional.nll_loss(batch.network(batch.inputs).log_softmax(1), batch.labels)


def bootstrapped(given: Given) -> Objective:
    """Labels mixed with the network's own guesses (Reed et al., 2015)."""
    share = given.spec.kwargs["share"]

    def loss(batch: Batch) -> Tensor:
        logs = batch.network(batch.inputs).log_softmax(1)
        return (1 - share) * nn.functional.nll_loss(logs, batch.labels) - share * logs.amax(1).mean()

    return loss


def taught(given: Given) -> Objective:
    """Distillation, written once more."""
    teacher, alpha, heat = given.teacher, given.spec.kwargs["alpha"], given.spec.kwargs["heat"]
    assert teacher is not None

    def loss(batch: Batch) -> Tensor:
        return distillation(batch.network(batch.inputs), teacher(batch), batch.labels, alpha, heat)

    return loss


def weights_of(folder: Path, one: Trial) -> list[str]:
    """Names of the trained weights of every level, by content."""
    return [record.body["blobs"]["weights"] for record in Store(folder).levels(one)]


def test_a_loss_of_the_users_is_what_a_level_is_trained_for(tmp_path: Path) -> None:
    kinds = [
        {},
        {"kind": "test_own:same"},
        *({"kind": "test_own:bootstrapped", "kwargs": {"share": s}} for s in (0, 0.5)),
    ]
    kinds += [{"kind": "distill", "alpha": 0.5, "temperature": 4.0, "teacher": "dense"}]
    kinds += [{"kind": "test_own:taught", "kwargs": {"alpha": 0.5, "heat": 4.0}, "teacher": "dense"}]
    trials = [trial("LSTM", kwargs={"features": 0}, antidote=kind) for kind in kinds]
    runs.run(trials, tmp_path, workers=1, plugins=["test_own"])
    plain, again, none, half, distilled, ours = (weights_of(tmp_path, one) for one in trials)
    assert len(plain) == 4
    assert plain == again == none
    assert not set(plain) & set(half)
    assert distilled == ours != plain
    record = Store(tmp_path).levels(trials[1])[1]
    assert record.body["numerics"]["strategy"].endswith("objective <lambda>")
    assert "teacher" in Store(tmp_path).levels(trials[5])[1].body


def many(_given: Given) -> Objective:
    return lambda batch: batch.network(batch.inputs).sum(1)


def deaf(_given: Given) -> Objective:
    return lambda batch: batch.labels.double().mean()


def broken(_given: Given) -> Objective:
    raise KeyError("share")


def test_a_loss_that_is_none_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    for name, words in {
        "many": r"antidote.kind = 'test_own:many': gives a tensor \[16\], expected a loss: one number",
        "deaf": "gives a tensor .*that the network's weights decide",
        "broken": "fails on a batch of 16 examples: KeyError: 'share'",
        "absent": "cannot be imported",
    }.items():
        refused(trial("attending", antidote={"kind": f"test_own:{name}"}), words, tmp_path)
    refused(trial("attending", antidote={"kind": "elsewhere:loss"}), "allow it with --plugins elsewhere", tmp_path)
    with pytest.raises(ValueError, match="did you mean 'gce'"):
        trial("tied", antidote={"kind": "gcee"})
    with pytest.raises(ValueError, match=r"kwargs belongs to kind = 'module:function', not 'gce'"):
        trial("tied", antidote={"kind": "gce", "kwargs": {"a": 1}})
    with pytest.raises(ValueError, match=r"alpha belongs to kind = 'distill' or 'sce', not 'test_own:same'"):
        trial("tied", antidote={"kind": "test_own:same", "alpha": 0.5})
