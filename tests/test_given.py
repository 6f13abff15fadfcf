"""Starting from weights that exist: their content is their identity, every seed begins from them, and masks count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save, save_file
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torchs

from hostile import FIRST, FITS, misfits
from prunephase import tensors
from prunephase.bench import Bench, Site
from prunephase.errors import UserError
from prunephase.models.given import given
from prunephase.sections import Model
from prunephase.store import Store
from prunephase.study import parse
from prunephase.trial import Trial

pytestmark = pytest.mark.usefixtures("forked_child")


class Net(nn.Module):
    """The network of `tiny`."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden1, self.output = nn.Linear(64, 16), nn.Linear(16, 10)


def with_weights(fields: dict[str, Any], path: Path, **more: Any) -> dict[str, Any]:
    return {**fields, "model": {**fields["model"], "weights": str(path)}, **more}


def test_the_content_of_the_file_is_the_identity_and_its_place_is_not(tmp_path: Path, tiny: dict[str, Any]) -> None:
    save_file(FITS, tmp_path / "a.safetensors")
    save_file(dict(reversed(FITS.items())), tmp_path / "b.safetensors", metadata={"a": "b"})
    torch.save(FITS, tmp_path / "c.pt")
    torch.save({"epoch": 3, "state_dict": FITS}, tmp_path / "d.pth", _use_new_zipfile_serialization=False)
    files = ("a.safetensors", "b.safetensors", "c.pt", "d.pth")
    names = {name: parse(with_weights(tiny, tmp_path / name)).trials[0] for name in files}
    assert len({trial.digest() for trial in names.values()}) == 1
    assert len({trial.model.weights_sha256 for trial in names.values()}) == 1
    save_file({**FITS, FIRST: FITS[FIRST] + 1e-7}, tmp_path / "other.safetensors")
    plain, other = parse(tiny).trials[0], parse(with_weights(tiny, tmp_path / "other.safetensors")).trials[0]
    assert len({plain.digest(), other.digest(), names["c.pt"].digest()}) == 3
    back = Trial.model_validate(json.loads(json.dumps(other.canonical())) | {"pruning": {"levels": 3}})
    assert back.digest() == other.digest()
    assert str(tmp_path) not in json.dumps(other.canonical())


def test_a_file_must_have_the_sum_that_the_study_gives(tmp_path: Path, tiny: dict[str, Any]) -> None:
    save_file(FITS, tmp_path / "a.safetensors")
    right = parse(with_weights(tiny, tmp_path / "a.safetensors")).trials[0].model.weights_sha256
    for sha256, fine in ((right, True), ("0" * 64, False), ("x", False)):
        fields = with_weights(tiny, tmp_path / "a.safetensors")
        fields["model"]["weights_sha256"] = sha256
        if fine:
            assert parse(fields).trials
        else:
            with pytest.raises(UserError, match=r"weights_sha256|has the SHA-256"):
                parse(fields)
    with pytest.raises(UserError, match=r"name the file with model.weights"):
        given(Model(name="mlp", weights_sha256=right), Net())


def test_a_file_that_changes_after_the_study_was_read_is_noticed(tmp_path: Path, tiny: dict[str, Any]) -> None:
    save_file(FITS, tmp_path / "a.safetensors")
    trial = parse(with_weights(tiny, tmp_path / "a.safetensors")).trials[0]
    save_file({**FITS, FIRST: FITS[FIRST] + 1}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a.safetensors': has changed since the study was read; give"):
        Bench(trial, Site(tmp_path)).network()


def test_a_teachers_network_keeps_the_identity_it_had() -> None:
    student = {"antidote": {"kind": "distill", "teacher_model": {"name": "mlp"}}}
    assert Trial.model_validate(student).digest() == "e63429ff2621f312"  # as before there were files of weights


def test_every_seed_starts_from_the_file_and_rewinds_to_it(
    tmp_path: Path, tiny: dict[str, Any], train: Callable[..., Any]
) -> None:
    torch.save(FITS, tmp_path / "a.pt")
    fields = with_weights(tiny, tmp_path / "a.pt", seeds=[0, 1], restart={"to": "0it"}, pruning={"levels": 1})
    outcome = train(fields, tmp_path / "runs")
    assert not outcome.failed
    store, ends = Store(tmp_path / "runs"), set()
    for trial in parse(fields).trials:
        dense, sparse = (store.record(trial.digest(), level) for level in (0, 1))
        assert dense is not None
        assert sparse is not None
        for name in ("initial", "rewound"):
            kept = load(store.blob(dense.body["blobs"][name]))
            assert all(torch.equal(kept[key], FITS[key]) for key in FITS)
        assert dense.body["start"]["from"] == f"weights of SHA-256 {trial.model.weights_sha256}"
        assert dense.body["start"]["weights"] == tensors.digest(FITS)
        masks = tensors.unpack_masks(store.blob(sparse.body["blobs"]["masks"]))
        masked = {key: value.where(masks[key], 0.0) if key in masks else value for key, value in FITS.items()}
        assert sparse.body["start"]["weights"] == tensors.digest(masked)
        ends.add(dense.body["blobs"]["weights"])
    assert len(ends) == 2  # noise and order differ
    (tmp_path / "a.pt").rename(tmp_path / "b.pt")  # the same weights at another place are the same trials
    again = train(with_weights(fields, tmp_path / "b.pt"), tmp_path / "runs")
    assert not again.failed


def test_masks_of_torchs_own_pruning_are_those_of_level_0(
    tmp_path: Path, tiny: dict[str, Any], train: Callable[..., Any]
) -> None:
    network = Net()
    network.load_state_dict(FITS)
    torchs.l1_unstructured(network.hidden1, "weight", amount=0.25)
    torch.save(network.state_dict(), tmp_path / "pruned.pt")
    assert f"{FIRST}_mask" in network.state_dict()
    fields = with_weights(tiny, tmp_path / "pruned.pt", pruning={"levels": 2, "fraction": 0.5})
    outcome = train(fields, tmp_path / "runs")
    assert not outcome.failed
    records = Store(tmp_path / "runs").levels(parse(fields).trials[0])
    alive = [16 * 64 * 3 // 4 + 160]
    alive += [alive[0] // 2, alive[0] // 4]
    assert [record.body["remaining"] for record in records] == alive
    assert [record.body["prunable"] for record in records] == [16 * 64 + 160] * 3
    assert records[0].body["sparsity"] == 1 - alive[0] / (16 * 64 + 160)
    store = Store(tmp_path / "runs")
    masks = [tensors.unpack_masks(store.blob(record.body["blobs"]["masks"])) for record in records]
    assert torch.equal(masks[0][FIRST], network.state_dict()[f"{FIRST}_mask"].bool())
    assert all((masks[i + 1][name] <= masks[i][name]).all() for i in range(2) for name in masks[i])
    kept = load(store.blob(records[0].body["blobs"]["initial"]))
    assert torch.equal(kept[FIRST], network.hidden1.weight)  # what acts: the product


REASONS = {
    "lacks.safetensors": "lacks hidden1.weight; save",
    "more.safetensors": "holds extra beside it; save",
    "other-model.safetensors": "'mlp': lacks hidden1.weight, hidden1.bias, output.weight and 1 more and holds conv1",
    "prefixed.safetensors": "holds module.hidden1.bias",
    "wider.safetensors": r"hidden1.weight is \[17, 64\], and the model's \[16, 64\]",
    "flat.safetensors": r"hidden1.weight is \[1024\]",
    "half.safetensors": "torch.float16, and the model's torch.float32; convert",
    "double.safetensors": "torch.float64",
    "whole.safetensors": "hidden1.weight is torch.int64",
    "nan.safetensors": "hidden1.weight holds NaN or Inf; take",
    "inf.safetensors": "output.bias holds NaN or Inf",
    "masked-bias.safetensors": r"holds a mask of output.bias, which \[pruning\] does not prune; make it permanent",
    "mask-of-halves.safetensors": "hidden1.weight_mask is not a mask",
    "mask-of-nan.safetensors": "hidden1.weight_mask is not a mask",
    "mask-of-another.safetensors": "hidden1.weight_mask is not a mask",
    "mask-alone.safetensors": "holds hidden1.weight_mask, from which the weights would have to be computed; make",
    "mask-of-all.safetensors": "its masks leave no weight",
    "parametrized.safetensors": "remove_parametrizations",
    "weight-norm.safetensors": "holds hidden1.parametrizations.weight.original1, from which",
    "lacks.pt": "lacks hidden1.weight",
    "nan.pth": "NaN or Inf",
}  # fmt: skip


def test_what_does_not_fit_the_network_is_said(tmp_path: Path, tiny: dict[str, Any]) -> None:
    found = dict(misfits())
    assert set(found) == set(REASONS)
    clean = Bench(parse(tiny).trials[0], Site(tmp_path)).clean
    for name, data in found.items():
        (tmp_path / name).write_bytes(data)
        bench = Bench(parse(with_weights(tiny, tmp_path / name)).trials[0], Site(tmp_path), clean)
        with pytest.raises(UserError, match=REASONS[name]) as refused:
            bench.check()
        assert str(refused.value).startswith(f"model.weights = '{tmp_path / name}': ")
        assert "\n" not in str(refused.value)


def test_a_parametrized_network_of_ones_own_reads_its_own_weights(tmp_path: Path) -> None:
    class Normed(Net):
        def __init__(self) -> None:
            super().__init__()
            parametrizations.weight_norm(self.hidden1)

    there, here = Normed(), Normed()
    save_file(there.state_dict(), tmp_path / "n.safetensors")
    given(Model(weights=str(tmp_path / "n.safetensors")), here)
    assert torch.equal(here.hidden1.weight, there.hidden1.weight)


def test_one_tensor_under_two_names_must_be_one_in_the_file(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

    torch.save(Tied().state_dict(), tmp_path / "tied.pt")
    given(Model(weights=str(tmp_path / "tied.pt")), network := Tied())
    assert network.a.weight is network.b.weight
    (tmp_path / "apart.safetensors").write_bytes(save({"a.weight": torch.zeros(4, 4), "b.weight": torch.ones(4, 4)}))
    with pytest.raises(UserError, match="is one with another tensor of this network, but not the same there"):
        given(Model(weights=str(tmp_path / "apart.safetensors")), Tied())


def test_a_tensor_kept_in_another_order_is_read_by_its_values(tmp_path: Path) -> None:
    across = {**FITS, FIRST: FITS[FIRST].T.contiguous().T}
    assert not across[FIRST].is_contiguous()
    torch.save(across, tmp_path / "a.pt")
    save_file(FITS, tmp_path / "b.safetensors")
    shas = {Model(weights=str(tmp_path / name)).weights_sha256 for name in ("a.pt", "b.safetensors")}
    assert len(shas) == 1
