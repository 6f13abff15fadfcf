"""The forms in which a network leaves the program; each is read back from its file and compared with the network."""

# N examples, K classes.

from __future__ import annotations

import copy
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from prunephase.errors import PrunephaseError
from prunephase.exports.reader import read

CLOSE = 1e-5  # of the largest logit: what other arithmetic may change
Run = Callable[[Tensor], Tensor]  # inputs [N, ...] -> logits [N, K]


@dataclass(frozen=True)
class Form:
    """A file that was read back. difference: the largest between its logits and the network's; 0.0: bit for bit."""

    path: str
    says: str
    difference: float


class NotWritten(Exception):
    """A form that this network or this installation cannot have; the text says why."""


@dataclass(frozen=True)
class Model:
    """What is written. fresh: another network of its kind; inputs: real ones, [N, ...], on which a file is compared.

    about: texts that travel in the metadata of every file.
    """

    network: nn.Module
    masks: Mapping[str, Tensor]
    fresh: Callable[[], nn.Module]
    inputs: Tensor
    about: Mapping[str, str]

    @property
    def batch(self) -> Any:
        """The number of examples is open."""
        return ({0: torch.export.Dim("batch")},)

    @property
    def example(self) -> Tensor:
        """Two blank inputs: a program is traced with them, and nobody's data travel in it."""
        return torch.zeros_like(self.inputs[:1]).repeat(2, *[1] * (self.inputs.ndim - 1))


def weights(folder: Path, model: Model) -> Form:
    """model.safetensors: a plain state_dict, with zeros where weights were pruned."""
    state = _state(model)
    put(folder / "model.safetensors", save(state, dict(model.about)))
    return _weights(folder, model, state, load_file, "state_dict")


def sparse(folder: Path, model: Model) -> Form:
    """model.safetensors: the weights that are left, and a bit for each, as `reader` takes them."""
    state = _state(model)
    put(folder / "model.safetensors", save(packed(state, model.masks), dict(model.about)))
    return _weights(folder, model, state, read, "values and one bit per weight, read by read.py")


def packed(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict as `reader.read` takes it: pruned tensors as values, mask bits and shape, the others as they are."""
    found = {}
    for name, value in state.items():
        if name not in masks:
            found[f"dense/{name}"] = value
            continue
        mask = masks[name].cpu()
        found[f"values/{name}"] = value[mask]
        found[f"mask/{name}"] = torch.from_numpy(np.packbits(mask.numpy()))
        found[f"shape/{name}"] = torch.tensor(mask.shape)
    return found


def program(folder: Path, model: Model) -> Form:
    """model.pt2: a torch.export program for any number of examples. Raises NotWritten where torch cannot make it."""
    path, data = folder / "model.pt2", io.BytesIO()
    try:
        with _quiet():
            made = torch.export.export(model.network, (model.example,), dynamic_shapes=model.batch)
            torch.export.save(made, data, extra_files=dict(model.about))
    except Exception as problem:  # what torch cannot trace in a user's network comes as many kinds of errors
        raise NotWritten(f"torch.export cannot write this network ({_line(problem)})") from None
    put(path, data.getvalue())
    with _quiet():
        back = torch.export.load(path).module()
    return _compared(path, partial(logits, back), model, "torch.export program, needs no source", CLOSE)


def onnx(folder: Path, model: Model) -> tuple[Form, Run]:
    """model.onnx, for any number of examples, and how onnxruntime runs it. Raises NotWritten."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch needs it
    except ImportError:
        raise NotWritten('ONNX is not installed; pip install "prunephase[onnx]"') from None
    path = folder / "model.onnx"
    try:
        with _quiet():
            names: dict[str, Any] = {"input_names": ["input"], "output_names": ["logits"], "verbose": False}
            made = torch.onnx.export(model.network, (model.example,), dynamo=True, dynamic_shapes=model.batch, **names)
            assert made is not None
            made.model.metadata_props.update(model.about)
            data = made.model_proto.SerializeToString()
    except Exception as problem:
        raise NotWritten(f"torch.onnx cannot write this network ({_line(problem)})") from None
    put(path, data)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

    def run(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])

    return _compared(path, run, model, "ONNX, for onnxruntime and others", CLOSE), run


@torch.no_grad()
def logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """What a network says, in float32. [N, ...] -> [N, K]"""
    return network(inputs)  # type: ignore[no-any-return]


def compared(path: str, said: Tensor, wanted: Tensor, tolerance: float) -> float:
    """The largest difference of two sets of logits. Raises PrunephaseError where it is more than allowed.

    tolerance: share of the largest logit that is wanted (at least of 1); 0: bit for bit.
    """
    equal = _identical(said, wanted)
    alike = said.shape == wanted.shape and said.dtype == wanted.dtype
    difference = 0.0 if equal else float((said.double() - wanted.double()).abs().max()) if alike else math.inf
    allowed = tolerance * max(1.0, float(wanted.abs().max()))
    if not equal and (tolerance == 0 or not difference <= allowed):
        raise PrunephaseError(
            f"{path}: gives other logits than the network in memory (largest difference {difference:.2g}, allowed "
            f"{allowed:.2g}); nothing was exported"
        )
    return difference


def blank(network: nn.Module) -> nn.Module:
    """A copy that has forgotten every number of its state."""
    twin = copy.deepcopy(network)
    for value in twin.state_dict().values():
        value.zero_()
    return twin


def put(path: Path, data: bytes) -> None:
    """Write a file, on the disk before this returns. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _state(model: Model) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone().contiguous() for name, value in model.network.state_dict().items()}


def _weights(
    folder: Path, model: Model, state: Mapping[str, Tensor], reader: Callable[[str], dict[str, Tensor]], says: str
) -> Form:
    """Read weights back, into the network of the model.py beside them where there is one, else into a fresh one."""
    path, source = folder / "model.safetensors", folder / "model.py"
    found = reader(str(path))
    if found.keys() != state.keys() or not all(_identical(state[name], found[name]) for name in state):
        raise PrunephaseError(
            f"{_short(path)}: does not give back the weights it was written from; nothing was exported"
        )
    network = _built(source) if source.exists() else model.fresh()
    network.load_state_dict(found)
    return _compared(path, partial(logits, network.eval()), model, says, 0.0)


def _compared(path: Path, run: Run, model: Model, says: str, tolerance: float) -> Form:
    wanted = logits(model.network, model.inputs)
    difference = compared(_short(path), run(model.inputs), wanted, tolerance)
    # A program may have learnt how many examples there are.
    compared(_short(path), run(model.inputs[:1]), logits(model.network, model.inputs[:1]), tolerance)
    return Form(_short(path), says, difference)


def _built(source: Path) -> nn.Module:
    spec = spec_from_file_location("exported_model", source)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build()  # type: ignore[no-any-return]


def _identical(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, so that NaN equals itself and 0 is not -0."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool((one.contiguous().flatten().view(torch.uint8) == other.contiguous().flatten().view(torch.uint8)).all())


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:120]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves what torch's exporters tell their own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
