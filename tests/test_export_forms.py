"""Forms: what is read back is what was written, bit for bit, whatever the network and the sparsity."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunephase import models, prune
from prunephase.errors import PrunephaseError
from prunephase.exports import forms
from prunephase.exports.forms import Model, NotWritten, compared, logits
from prunephase.exports.latency import compressed, latencies
from prunephase.exports.reader import read
from prunephase.exports.source import source
from prunephase.sections import Model as Spec
from prunephase.sections import Pruning

K = 4
NETWORKS: dict[str, dict[str, Any]] = {
    "lenet-300-100": {},
    "small-cnn": {"channels": [4, 8]},
    "resnet18": {"width": 4},
    "vgg-like": {"delta": 2, "gamma": 2},
    "vit": {"dim": 16, "depth": 2, "heads": 2, "mlp_dim": 16},
}
WIDE: dict[str, dict[str, Any]] = {name: {} for name in NETWORKS} | {"resnet18": {"width": 16}}
SPARSITIES = (0.0, 0.9, 0.98, 0.995)


def model(name: str, sparsity: float, kwargs: dict[str, Any] | None = None) -> Model:
    """A network of random weights, of which random ones are pruned, with statistics of BatchNorm that are not blank."""
    side = 32 if name == "vgg-like" else 16  # as small as it may be
    shape = (1, 28, 28) if name == "lenet-300-100" else (3, side, side)
    spec = Spec(name=name, kwargs=NETWORKS[name] if kwargs is None else kwargs)
    network = models.build(spec, shape, K, 0).eval()
    draw = torch.Generator().manual_seed(1)
    for buffer in (b for b in network.buffers() if b.is_floating_point()):
        buffer.copy_(0.5 + torch.rand(buffer.shape, generator=draw))
    chosen, _ = prune.prunable(network, Pruning())
    masks = {name: torch.rand(weight.shape, generator=draw) >= sparsity for name, weight in chosen.items()}
    prune.zero_pruned(network, masks)
    inputs = torch.randn(20, *shape, generator=draw)
    return Model(
        network.requires_grad_(False), masks, lambda: models.build(spec, shape, K, 7), inputs, {"made_by": "us"}
    )


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_come_back_bit_for_bit(name: str, sparsity: float, tmp_path: Path) -> None:
    made = model(name, sparsity)
    found = [forms.weights(tmp_path / "dense", made), forms.sparse(tmp_path / "sparse", made)]
    assert [form.difference for form in found] == [0.0, 0.0]
    state = made.network.state_dict()
    for back in (
        load_file(tmp_path / "dense" / "model.safetensors"),
        read(str(tmp_path / "sparse" / "model.safetensors")),
    ):
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], state[key]) for key in state)


def test_the_bit_packed_file_costs_a_bit_a_weight_and_the_values_that_are_left(tmp_path: Path) -> None:
    made = model("lenet-300-100", 0.98)
    forms.sparse(tmp_path, made)
    kept = sum(int(mask.sum()) for mask in made.masks.values())
    bits = sum(-(-mask.numel() // 8) for mask in made.masks.values())
    rest = sum(v.numel() for name, v in made.network.state_dict().items() if name not in made.masks)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert 0 <= size - (4 * kept + bits + 4 * rest) < 2_000  # names and shapes


def test_a_weight_that_is_negative_zero_or_not_a_number_comes_back(tmp_path: Path) -> None:
    made = model("small-cnn", 0.5)
    name, mask = next(iter(made.masks.items()))
    weight = made.network.get_parameter(name)
    first, second = mask.nonzero()[:2]
    weight[tuple(first)], weight[tuple(second)] = -0.0, float("inf")
    packed = forms.packed(made.network.state_dict(), made.masks)
    save_file(packed, tmp_path / "odd.safetensors")
    back = read(str(tmp_path / "odd.safetensors"))[name]
    assert back[tuple(second)] == float("inf")
    assert torch.signbit(back[tuple(first)])
    assert not torch.signbit(back[~mask]).any()


def test_names_of_a_users_buffers_do_not_meet_ours(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask, self.layer = nn.Linear(6, 5), nn.Linear(5, K)
            self.register_buffer("values", torch.arange(3))
            self.register_buffer("odd/name", torch.ones(2, dtype=torch.bfloat16))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.mask(x).relu())  # type: ignore[no-any-return]

    network = Own().eval().requires_grad_(False)
    masks = {"mask.weight": torch.rand(5, 6) > 0.5}
    prune.zero_pruned(network, masks)
    found = forms.sparse(tmp_path, Model(network, masks, Own, torch.randn(3, 6), {}))
    assert found.difference == 0.0


def test_a_file_that_says_something_else_is_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("small-cnn", 0.9)

    def wrong(path: str) -> dict[str, Tensor]:
        return {name: value + 1e-7 * (value != 0) for name, value in load_file(path).items()}

    monkeypatch.setattr(forms, "load_file", wrong)
    with pytest.raises(
        PrunephaseError, match=r"model.safetensors: does not give back the weights.*nothing was exported"
    ):
        forms.weights(tmp_path, made)


def test_a_network_that_hides_something_from_its_state_is_no_export(tmp_path: Path) -> None:
    made = model("small-cnn", 0.9)
    stretched = nn.Sequential(made.network, nn.Softmax(1))

    def fresh() -> nn.Module:
        return nn.Sequential(made.fresh(), nn.Identity())

    with pytest.raises(PrunephaseError, match="gives other logits than the network in memory"):
        forms.weights(tmp_path, replace(made, network=stretched, fresh=fresh))


def test_logits_are_compared_bit_for_bit_or_by_the_largest() -> None:
    wanted = torch.tensor([[100.0, -1.0], [0.0, 3.0]])
    assert compared("x", wanted.clone(), wanted, 0.0) == 0.0
    assert compared("x", wanted + 5e-4, wanted, 1e-5) == pytest.approx(5e-4, rel=0.1)
    broken = (wanted + 2e-3, wanted * float("nan"), wanted[:1], wanted.double())
    for said, tolerance in ((wanted + 1e-5, 0.0), *((other, 1e-5) for other in broken)):
        with pytest.raises(PrunephaseError, match="gives other logits"):
            compared("x", said, wanted, tolerance)


BLOCKED = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("prunephase", "numpy", "scipy", "pydantic"):
            raise ModuleNotFoundError(name + " is not here", name=name)
sys.meta_path.insert(0, Wall())
sys.path.insert(0, "")
import os, warnings
warnings.simplefilter("ignore")
import torch
from safetensors.torch import load_file
for name in sys.argv[1:]:
    os.chdir(name)
    from model import build
    network = build().eval()
    network.load_state_dict(load_file("model.safetensors"))
    inputs = load_file("inputs.safetensors")
    print(os.path.basename(name), torch.equal(network(inputs["x"]), inputs["y"]))
    del sys.modules["model"]
"""


def test_every_architecture_loads_where_there_is_only_torch_and_safetensors(tmp_path: Path) -> None:
    for name in NETWORKS:
        made, folder = model(name, 0.9), tmp_path / name
        text = source(models.FAMILY[name], made.inputs.shape[1:], K, NETWORKS[name], '"""A model."""')
        forms.put(folder / "model.py", text.encode())
        assert forms.weights(folder, made).difference == 0.0
        save_file({"x": made.inputs, "y": logits(made.network, made.inputs)}, folder / "inputs.safetensors")
    folders = [str(tmp_path / name) for name in NETWORKS]
    done = subprocess.run([sys.executable, "-c", BLOCKED, *folders], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{name} True" for name in NETWORKS]


@pytest.mark.parametrize("name", sorted(models.FAMILY))
def test_the_source_of_an_architecture_stands_alone(name: str) -> None:
    kwargs = {**NETWORKS, "resnet101": {"width": 2}, "vgg16": {"width": 2}}.get(name, {})
    text = source(models.FAMILY[name], (3, 32, 32), K, kwargs, '"""A model."""')
    imported = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    known = {"__future__", "torch", "collections", "typing", "math", "itertools"}
    assert {line.split()[1].split(".")[0] for line in imported} <= known
    space: dict[str, Any] = {}
    exec(compile(text, name, "exec"), space)
    ours, theirs = models.FAMILY[name]((3, 32, 32), K, **kwargs), space["build"]()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert repr(ours) == repr(theirs)


def test_a_program_takes_any_number_of_examples_and_holds_none(tmp_path: Path) -> None:
    made = model("small-cnn", 0.98)
    found = forms.program(tmp_path, made)
    assert found.difference == 0.0
    back = torch.export.load(tmp_path / "model.pt2")
    assert not any(tensor.any() for tensor in back.example_inputs[0])  # type: ignore[index]
    assert torch.equal(back.module()(made.inputs[:7]), logits(made.network, made.inputs[:7]))


def test_a_network_that_cannot_be_traced_has_no_program(tmp_path: Path) -> None:
    class Branching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.sum()) > 0 else super().forward(-x)

    network = Branching(6, K).eval().requires_grad_(False)
    with pytest.raises(NotWritten, match=r"torch\.export cannot write this network"):
        forms.program(tmp_path, Model(network, {}, lambda: network, torch.randn(3, 6), {}))
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotWritten, match=r'ONNX is not installed; pip install "prunephase\[onnx\]"'):
        forms.onnx(tmp_path, model("small-cnn", 0.9))


@pytest.mark.parametrize("name", ["small-cnn", *(pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS)])
def test_onnx_says_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    made = model(name, 0.98)
    found, run = forms.onnx(tmp_path, made)
    assert found.difference <= 1e-5 * max(1.0, float(logits(made.network, made.inputs).abs().max()))
    assert torch.allclose(run(made.inputs[:3]), logits(made.network, made.inputs[:3]), atol=1e-4)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map["made_by"] == "us"


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_form_of_every_network_says_the_same(name: str, sparsity: float, tmp_path: Path) -> None:
    made = model(name, sparsity, WIDE[name])
    writers: tuple[Callable[..., Any], ...] = (forms.weights, forms.program)
    for write in writers:
        assert write(tmp_path / write.__name__, made).difference == 0.0
    assert forms.sparse(tmp_path / "sparse", made).difference == 0.0
    rows = compressed(made.network, made.masks)
    if rows is not None:
        compared("CSR", logits(rows, made.inputs), logits(made.network, made.inputs), 1e-5)


@pytest.mark.parametrize("name", ["lenet-300-100", "vit"])
def test_compressed_sparse_rows_say_the_same(name: str) -> None:
    made = model(name, 0.9)
    rows = compressed(made.network, made.masks)
    assert rows is not None
    assert compared("CSR", logits(rows, made.inputs), logits(made.network, made.inputs), 1e-5) >= 0


def test_there_are_no_sparse_rows_without_pruned_linear_layers() -> None:
    made = model("small-cnn", 0.9)
    assert compressed(made.network, {name: m for name, m in made.masks.items() if name != "output.weight"}) is None
    assert compressed(nn.Linear(3, 2), {"weight": torch.ones(2, 3, dtype=torch.bool)}) is None


def test_a_latency_has_its_spread_and_its_n() -> None:
    calls: list[int] = []

    def run(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        return batch

    found = latencies({"a": run, "b": lambda x: x}, torch.zeros(3, 2), (1, 5))
    assert [(one.form, one.batch) for one in found] == [("a", 1), ("b", 1), ("a", 5), ("b", 5)]
    assert all(one.n >= 11 and 0 <= one.low <= one.median <= one.high for one in found)
    assert set(calls) == {1, 5}
