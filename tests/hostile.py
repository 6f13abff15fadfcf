"""Hostile and broken files of weights, each of which must be refused: in one line, within bounds, with nothing run.

python tests/hostile.py FOLDER      write them all, to look at
"""

# ruff: noqa: E501 (pickles by hand)

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

# Of the network of `campaign.STUDY`: an mlp of 16 hidden units on digits.
FITS = {
    "hidden1.weight": torch.linspace(-1, 1, 16 * 64).reshape(16, 64),
    "hidden1.bias": torch.zeros(16),
    "output.weight": torch.linspace(-1, 1, 160).reshape(10, 16),
    "output.bias": torch.zeros(10),
}
FIRST = "hidden1.weight"
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
LEGACY += pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)


class Calls:
    """Pickles as a call of `function`, and a state for what it gives."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self) -> Any:
        made = (self.function, self.arguments)
        return made if self.state is None else (*made, self.state)


def payloads(canary: Path) -> dict[str, bytes]:
    """Pickles that run code where a plain unpickler reads them: each would make the file `canary`."""
    touch, python = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    text = touch.encode()
    calls: dict[str, Any] = {
        "reduce-os-system": Calls(os.system, touch),
        "reduce-eval": Calls(eval, python),
        "reduce-exec": Calls(exec, python),
        "reduce-open": Calls(open, str(canary), "w"),
        "reduce-popen": Calls(subprocess.Popen, ["touch", str(canary)]),
        "reduce-getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "reduce-pickle-loads": Calls(pickle.loads, pickle.dumps(Calls(os.system, touch))),
        "reduce-torch-load": Calls(torch.load, str(canary), "cpu"),
        "reduce-path-touch": Calls(Path.touch, canary),
        "reduce-rmtree": Calls(shutil.rmtree, str(canary.parent / "victim")),
        "reduce-load-from-bytes": Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(os.system, touch))),
        "reduce-from-type": Calls(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (touch,), None),
        "reduce-parameter": Calls(torch._utils._rebuild_parameter, Calls(os.system, touch), True, OrderedDict()),
        "in-a-dict": {FIRST: Calls(os.system, touch)},
        "in-a-key": {Calls(os.system, touch): 1},
        "in-an-array": {FIRST: np.array([Calls(os.system, touch)], dtype=object)},
        "in-a-state-dict": {"state_dict": {**FITS, FIRST: Calls(os.system, touch)}},
        "in-a-state": Calls(OrderedDict, state={"__class__": Calls(os.system, touch)}),
        "module": torch.nn.Linear(2, 2),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {name: _pickled(value) for name, value in calls.items()}
    return found | {
        "global-reduce": b"cposix\nsystem\n(S'" + text + b"'\ntR.",
        "inst": b"(S'" + text + b"'\niposix\nsystem\n.",
        "obj": b"(cposix\nsystem\nS'" + text + b"'\no.",
        "newobj": b"\x80\x02cbuiltins\neval\n(S'" + python.replace("'", '"').encode() + b"'\nt\x81.",
        "stack-global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c" + bytes([len(text)]) + text + b"\x85R.",
        "stack-global-dotted": b"\x80\x04\x8c\x0ctorch.serial\x8c\x09os.system\x93\x8c" + bytes([len(text)]) + text + b"\x85R.",
        "build-dict": b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemscposix\nsystem\nsb.",
        "build-parameter": b"\x80\x02ctorch.nn.parameter\nParameter\n)\x81}X\x04\x00\x00\x00datacposix\nsystem\nsb.",
        "extension": b"\x80\x02\x82\x01)R.",
        "setitem-on-a-list": b"\x80\x02]K\x00cposix\nsystem\ns.",
    }  # fmt: skip


def _pickled(value: Any) -> bytes:
    """`value` by torch's rules, without its storages."""
    file = io.BytesIO()
    torch.save(value, file)
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def torch_zip(data: bytes, **more: bytes) -> bytes:
    """An archive as torch.save makes them, around a pickle."""
    return zipped({"archive/data.pkl": data, "archive/byteorder": b"little", "archive/version": b"3\n", **more})


def legacy(data: bytes) -> bytes:
    """A file as torch.save made them before it wrote archives."""
    return LEGACY + data + pickle.dumps([], 2)


def saved(value: Any, *, zipfile: bool = True) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipfile)
    return file.getvalue()


def view(storage: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Calls:
    """A tensor that shows `storage` numbers by a size and strides of one's own."""
    held = torch.zeros(storage)._typed_storage()
    return Calls(torch._utils._rebuild_tensor_v2, held, offset, size, stride, False, OrderedDict())


def header(fields: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with a header of one's own."""
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(start: int = 0, end: int = 8, shape: Any = (2,), dtype: str = "F32") -> dict[str, Any]:
    """An entry of such a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def pickles(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Files that end in .pt or .pth."""
    for name, data in payloads(canary).items():
        yield f"{name}-zip.pt", torch_zip(data)
        yield f"{name}-old.pth", legacy(data)
    call = payloads(canary)["reduce-os-system"]
    yield "bare-pickle.pt", call
    yield "pickle-in-a-pickle.pt", legacy(pickle.dumps({FIRST: saved({FIRST: Calls(os.system, f"touch {canary}")})}))
    yield "zip-in-a-zip.pt", torch_zip(torch_zip(call))
    yield "torchscript.pt", torch_zip(call, **{"archive/constants.pkl": call, "archive/code/x.py": b"import os"})
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for member in ("sys_info", "storages", "tensors", "pickle", "../canary"):
            about = tarfile.TarInfo(member)
            about.size = len(call)
            archive.addfile(about, io.BytesIO(call))
    yield "tar.pt", tar.getvalue()

    fits = saved(FITS)
    yield "truncated.pt", fits[: len(fits) // 2]
    yield "without-its-end.pt", fits[:-10]
    yield "flipped-bit.pt", bytes(b ^ (i == fits.index(FITS[FIRST].numpy().tobytes())) for i, b in enumerate(fits))
    yield "wrong-magic.pt", b"XX" + fits[2:]
    yield "text.pt", b"weights"
    yield "zeros.pt", bytes(10_000)
    yield "empty-archive.pt", b"PK\x05\x06" + bytes(18)
    yield "no-pickle.pt", zipped({"archive/version": b"3\n"})
    yield "bomb-deflated.pt", zipped({"a/data.pkl": call, "a/data/0": bytes(2**26)}, zipfile.ZIP_DEFLATED)
    yield "bomb-lzma.pt", zipped({"a/data.pkl": call, "a/data/0": bytes(2**24)}, zipfile.ZIP_LZMA)
    kernel = torch_zip(call)
    yield "bomb-claims.pt", kernel.replace(struct.pack("<II", len(call), len(call)), struct.pack("<II", 2**31, 2**31))
    yield "many-members.pt", zipped({f"archive/data/{i}": b"" for i in range(20_001)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twice = io.BytesIO()
        with zipfile.ZipFile(twice, "w") as archive:
            for _ in range(2):
                archive.writestr("archive/data.pkl", call)
    yield "two-of-one-name.pt", twice.getvalue()
    for name in ("../../canary", "/tmp/canary", "archive/../../canary", "C:\\canary", "archive\\..\\canary"):
        slug = "".join(c if c.isalnum() else "-" for c in name)
        yield f"path{slug}.pt", zipped({name: call, f"{name}/data.pkl": call, "archive/version": b"3\n"})
    with zipfile.ZipFile(sneaky := io.BytesIO(saved({"extra": FITS[FIRST]})), "a") as archive:
        archive.writestr("../../canary", call)
        archive.writestr(str(canary), call)
    yield "path-beside-tensors.pt", sneaky.getvalue()
    link = zipfile.ZipInfo("archive/data.pkl")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    linked = io.BytesIO()
    with zipfile.ZipFile(linked, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    yield "link-member.pt", linked.getvalue()

    yield "stride-0.pt", saved({FIRST: torch.zeros(1).expand(10**6, 10**6)})
    yield "stride-0-old.pth", saved({FIRST: torch.zeros(1).expand(2**20, 2**20)}, zipfile=False)
    yield "overlapping.pt", saved({FIRST: torch.zeros(40).as_strided((16, 8), (2, 1))})
    yield "aliases.pt", saved({f"t{i}": FITS[FIRST] for i in range(1_000)})
    yield "beyond-its-storage.pt", saved({FIRST: view(4, 0, (10**9,), (1,))})
    yield "beyond-by-offset.pt", saved({FIRST: view(4, 10**12, (4,), (1,))})
    yield "negative-stride.pt", saved({FIRST: view(4, 3, (4,), (-1,))})
    yield "negative-size.pt", saved({FIRST: view(4, 0, (-4,), (1,))})
    yield "overflowing-size.pt", saved({FIRST: view(4, 0, (2**62, 2**62), (0, 0))})
    yield "meta.pt", saved({FIRST: torch.zeros(10**6, 10**6, device="meta")})
    yield "sparse.pt", saved({FIRST: torch.zeros(16, 64).to_sparse()})
    yield "sparse-of-terabytes.pt", saved({FIRST: torch.zeros(1, 1).to_sparse().sparse_resize_((10**6, 10**6), 2, 0)})
    yield "bytearray.pt", torch_zip(_pickled(Calls(bytearray, 2**40)))
    yield "bytearray-old.pth", legacy(_pickled(Calls(bytearray, 2**40)))
    reconstruct = np.zeros(0).__reduce__()[0]
    yield "array-of-terabytes.pt", torch_zip(_pickled({FIRST: Calls(reconstruct, np.ndarray, (2**40,), b"d")}))
    storage = ("storage", torch.FloatStorage, "0", "cpu", 2**40)
    yield "storage-of-terabytes.pth", LEGACY + _persistent(storage) + pickle.dumps(["0"], 2) + struct.pack("<q", 2**40)
    yield "storage-missing.pt", torch_zip(_persistent(storage))
    yield (
        "storage-short.pt",
        torch_zip(_persistent(("storage", torch.FloatStorage, "0", "cpu", 100)), **{"archive/data/0": b"1234"}),
    )
    yield "nested.pt", torch_zip(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")
    yield "nested-key.pt", torch_zip(b"\x80\x02}" + b")" + b"\x85" * 10**5 + b"K\x01s.")
    yield "long-number.pt", torch_zip(b"\x80\x02I" + b"9" * 10**5 + b"\n.")
    yield "memo.pt", torch_zip(b"\x80\x02" + b"r" + struct.pack("<I", 2**31) + b".")
    yield "no-stop.pt", torch_zip(b"\x80\x02}")
    yield "a-list.pt", saved([FITS[FIRST]])
    yield "a-tensor.pt", saved(FITS[FIRST])
    yield "numbered.pt", saved({1: FITS[FIRST]})
    yield "words.pt", saved({FIRST: "words"})
    yield "list-of-words.pt", saved({FIRST: ["a", "b"]})
    yield "nothing.pt", saved({})
    yield "nothing-but-epoch.pt", saved({"epoch": 3})
    yield "deeper.pt", saved({"state_dict": {"state_dict": FITS}})


def _persistent(storage: tuple[Any, ...]) -> bytes:
    """The pickle of a dict of one tensor in `storage`, which need not exist."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return storage if thing == "here" else None

    file = io.BytesIO()
    rebuilt = Calls(torch._utils._rebuild_tensor_v2, "here", 0, (4,), (1,), False, OrderedDict())
    Pickler(file, 2).dump({FIRST: rebuilt})
    return file.getvalue()


def safetensors() -> Iterator[tuple[str, bytes]]:
    """Files that end in .safetensors."""
    fits = save(FITS)
    yield "empty", b""
    yield "truncated", fits[:-7]
    yield "longer", fits + b"more"
    yield "only-a-length", fits[:8]
    yield "pickle-inside", pickle.dumps({FIRST: 1})
    yield "zip-inside", saved(FITS)
    yield "zeros", bytes(10_000)
    yield "text", b"weights of a network"
    yield "length-of-all", header({}, length=2**64 - 1)
    yield "length-of-gigabytes", header({}, length=2**30)
    yield "length-beyond", header({}, length=100)
    yield "long-header", header(b"{}" + b" " * 2**24)
    yield "no-json", header(b"weights!")
    yield "no-object", header([1, 2])
    yield "deep-json", header(b"[" * 100_000)
    yield "deep-json-in-it", header(b'{"a":' * 100_000)
    yield "not-utf8", header(b'{"\xff\xfe": 1}')
    yield "nan-json", header(b'{"a": NaN}')
    yield (
        "long-number",
        header(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5_000 + b'], "data_offsets": [0, 8]}}', bytes(8)),
    )
    yield "overlap", header({"a": one(), "b": one(4, 12)}, bytes(12))
    yield "alias", header({"a": one(), "b": one()}, bytes(8))
    yield "hole", header({"a": one(0, 8), "b": one(12, 20)}, bytes(20))
    yield "beyond", header({"a": one(0, 2**40, (2**38,))}, bytes(8))
    yield "backwards", header({"a": one(8, 0)}, bytes(8))
    yield "negative", header({"a": one(-8, 0)}, bytes(8))
    yield "overflow", header({"a": one(0, 8, (2**62, 2**62))}, bytes(8))
    yield "negative-shape", header({"a": one(0, 8, (-1, -2))}, bytes(8))
    yield "other-shape", header({"a": one(0, 8, (3,))}, bytes(8))
    yield "other-kind", header({"a": one(dtype="OBJECT")}, bytes(8))
    yield "metadata", header({"__metadata__": {"a": {"b": 1}}})
    yield "same-name", header(b'{"a": %b, "a": %b}' % ((json.dumps(one()).encode(),) * 2), bytes(8))
    yield "odd-names", header({"\x00\x1b[2J\nprunephase: fine\u202e": one()}, bytes(8))
    yield "long-names", header({"n" * 10**6: one()}, bytes(8))
    yield "many", header({f"t{i}": one(0, 0, (0,)) for i in range(20_000)})


def misfits() -> Iterator[tuple[str, bytes]]:
    """Sound files of tensors that are not those of the network."""
    changed: dict[str, dict[str, Tensor]] = {
        "lacks": {name: value for name, value in FITS.items() if name != FIRST},
        "more": {**FITS, "extra": torch.zeros(1)},
        "other-model": {"conv1.weight": torch.zeros(8, 1, 3, 3), "conv1.bias": torch.zeros(8)},
        "prefixed": {f"module.{name}": value for name, value in FITS.items()},
        "wider": {**FITS, FIRST: torch.zeros(17, 64)},
        "flat": {**FITS, FIRST: FITS[FIRST].flatten()},
        "half": {name: value.half() for name, value in FITS.items()},
        "double": {name: value.double() for name, value in FITS.items()},
        "whole": {**FITS, FIRST: torch.zeros(16, 64, dtype=torch.int64)},
        "nan": {**FITS, FIRST: FITS[FIRST].clone().fill_(float("nan"))},
        "inf": {**FITS, "output.bias": torch.full((10,), float("-inf"))},
        "masked-bias": _masked("output.bias", torch.ones(10)),
        "mask-of-halves": _masked(FIRST, torch.full((16, 64), 0.5)),
        "mask-of-nan": _masked(FIRST, torch.full((16, 64), float("nan"))),
        "mask-of-another": _masked(FIRST, torch.ones(64, 16)),
        "mask-alone": {**FITS, f"{FIRST}_mask": torch.ones(16, 64)},
        "mask-of-all": _masked(FIRST, torch.zeros(16, 64), _masked("output.weight", torch.zeros(10, 16))),
        "parametrized": _renamed(FIRST, "hidden1.parametrizations.weight.original"),
        "weight-norm": _renamed(FIRST, "hidden1.parametrizations.weight.original1"),
    }
    for name, tensors in changed.items():
        yield f"{name}.safetensors", save({key: value.clone() for key, value in tensors.items()})
    yield "lacks.pt", saved(changed["lacks"])
    yield "nan.pth", saved(changed["nan"], zipfile=False)


def _masked(name: str, mask: Tensor, others: dict[str, Tensor] = FITS) -> dict[str, Tensor]:
    rest = {key: value for key, value in others.items() if key != name}
    return {**rest, f"{name}_orig": FITS[name], f"{name}_mask": mask}


def _renamed(name: str, other: str) -> dict[str, Tensor]:
    return {other if key == name else key: value for key, value in FITS.items()}


def places(folder: Path) -> Iterator[str]:
    """Names that are no files of weights at all; made in `folder`."""
    (folder / "folder.safetensors").mkdir()
    (folder / "folder.pt").mkdir()
    os.mkfifo(folder / "fifo.safetensors")
    os.mkfifo(folder / "fifo.pt")
    (folder / "zero.safetensors").symlink_to("/dev/zero")
    (folder / "zero.pt").symlink_to("/dev/zero")
    (folder / "memory.pt").symlink_to("/proc/self/mem")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "nowhere.pt").symlink_to("gone.pt")
    (folder / "words.bin").write_bytes(save(FITS))
    (folder / "bare").write_bytes(save(FITS))
    with (folder / "holes.safetensors").open("wb") as holes:
        holes.truncate(2**41)
    with (folder / "holes.pt").open("wb") as holes:
        holes.truncate(2**26)
    yield from ("folder.safetensors", "folder.pt", "fifo.safetensors", "fifo.pt", "zero.safetensors", "zero.pt")
    yield from ("memory.pt", "loop.safetensors", "nowhere.pt", "missing.pt", "words.bin", "bare", "holes.safetensors")
    yield from ("holes.pt", "fine.safetensors/x.pt", "nul\0.pt", "new\nline.pt", f"{'x' * 4_000}.pt", "~/x.pt", "")
    if os.geteuid():  # root may read everything
        (folder / "secret.pt").write_bytes(saved(FITS))
        (folder / "secret.pt").chmod(0)
        yield "secret.pt"


def corpus(folder: Path, canary: Path) -> list[str]:
    """Write every file into `folder`; gives their names. Nothing may ever make the file `canary`."""
    found = [*pickles(canary), *misfits(), *((f"{name}.safetensors", data) for name, data in safetensors())]
    names = [name for name, _ in found]
    for name, data in found:
        (folder / name).write_bytes(data)
    (folder / "fine.safetensors").write_bytes(save(FITS))
    names += places(folder)
    assert len(set(names)) == len(names)
    return names


def forked(file: BinaryIO, result: BinaryIO) -> tuple[int, bytes]:
    """What `checkpoint._child` gives, from a copy of this process, which has imported torch already."""
    from prunephase import unpickle

    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.dup2(writing, 2)
            sys.stderr = builtins.open(2, "w", closefd=False)  # noqa: SIM115
            code = unpickle.main(file, result)
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with builtins.open(reading, "rb") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir()
    print("\n".join(map(repr, corpus(place, place.resolve() / "canary"))))
