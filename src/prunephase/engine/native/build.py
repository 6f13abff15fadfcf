"""kernels.c, compiled once by the machine's C compiler and kept in a cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from ctypes import POINTER, c_double, c_float, c_int32, c_int64
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from prunephase.disk import cache_folder
from prunephase.engine.native import layout

SOURCE = Path(__file__).with_name("kernels.c")
# Sums stay in the order they are written in (no -ffast-math); a product and a sum may become one instruction.
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
NATIVE = ("-march=native", "-mcpu=native")  # x86 and ARM compilers do not all know the same one
PATIENCE = 300  # seconds for the compiler


@dataclass(frozen=True)
class Library:
    """The compiled kernels. identity: 16 hex of source, compiler and CPU; tile: examples that are worked on at once."""

    identity: str
    tile: int
    functions: ctypes.CDLL


@dataclass(frozen=True)
class Built:
    """A library, or the reason why there is none, in one line."""

    library: Library | None
    reason: str


def library() -> Library | None:
    """The kernels, compiled at the first call that finds none in the cache; None where that is not possible."""
    return built().library


def reason() -> str:
    """Why `library()` is None, in one line; empty where it is not."""
    return built().reason


@cache
def built() -> Built:
    """What came of compiling, once per process."""
    try:
        return Built(_library(), "")
    except (OSError, subprocess.SubprocessError, _Unusable) as problem:
        return Built(None, " ".join(str(problem).split()))


class _Unusable(Exception):
    """No kernels on this machine."""


def _library() -> Library:
    compiler = _compiler()
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=False, timeout=PATIENCE).stdout
    parts = (SOURCE.read_bytes(), " ".join((*FLAGS, *NATIVE)).encode(), version, _processor().encode())
    key = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    path = folder() / f"kernels-{key[:32]}.so"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _compile(compiler, path)
        except OSError as problem:
            raise _Unusable(f"{path.parent} is not writable ({problem.strerror}); set PRUNEPHASE_CACHE") from None
    functions = _typed(ctypes.CDLL(str(path)))
    found = Library(key[:16], functions.prunephase_tile(), functions)
    if not _multiplies(found):
        raise _Unusable(f"{path} computes wrong numbers; delete it, and try another compiler with CC=...")
    return found


def _compiler() -> list[str]:
    """The command of the compiler: CC, which may hold arguments, or the first that is installed."""
    wanted = os.environ.get("CC", "")
    for words in [shlex.split(wanted)] if wanted.strip() else [["cc"], ["gcc"], ["clang"]]:
        if found := shutil.which(words[0]):
            return [found, *words[1:]]
    raise _Unusable(f"no C compiler ({f'CC={wanted}' if wanted else 'cc, gcc, clang'}); install gcc or clang")


def folder() -> Path:
    """Where the compiled kernels are kept."""
    return cache_folder()


def _processor() -> str:
    """What the compiler's "native" depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n")[0].splitlines()
    except OSError:
        return f"{sys.platform} {platform.machine()} {platform.processor()}"
    named = ("model name", "flags", "Features", "CPU part", "CPU implementer", "isa")
    return "\n".join(line for line in lines if line.split("\t")[0].split(":")[0].strip() in named)


def _compile(compiler: list[str], path: Path) -> None:
    """Into a file of its own, then renamed: of two processes that compile at once, either may win."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".so.tmp")
    os.close(handle)
    try:
        for native in NATIVE:
            command = [*compiler, *FLAGS, native, "-o", name, str(SOURCE), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
            if done.returncode == 0:
                with open(name, "rb") as written:  # a name must never stand for half a library
                    os.fsync(written.fileno())
                os.replace(name, path)
                return
        said = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
        raise _Unusable(f"{' '.join(compiler)} does not compile the kernels: {said}")
    finally:
        Path(name).unlink(missing_ok=True)


def _typed(functions: ctypes.CDLL) -> ctypes.CDLL:
    f, chain, examples = functions, POINTER(layout.CChain), POINTER(layout.CExamples)
    f.prunephase_tile.argtypes, f.prunephase_tile.restype = [], c_int32
    f.prunephase_train.argtypes = [chain, examples, POINTER(c_int64), c_int64, c_int64]
    f.prunephase_train.argtypes += [POINTER(layout.CGoal), POINTER(layout.CRule), POINTER(c_double)]
    f.prunephase_train.restype = None
    f.prunephase_evaluate.argtypes = [chain, examples, c_int64, c_int64, POINTER(c_int64)]
    f.prunephase_evaluate.restype = c_double
    layer, ints, floats = POINTER(layout.CLayer), POINTER(c_int32), POINTER(c_float)
    f.prunephase_linear_forward.argtypes = [layer, ints, c_int32, ints, floats, c_int64, c_int64, floats, floats]
    f.prunephase_linear_forward.restype = None
    f.prunephase_linear_backward.argtypes = [layer, ints, c_int32, ints, floats, floats, c_int64, c_int64]
    f.prunephase_linear_backward.argtypes += [floats, floats, floats]
    f.prunephase_linear_backward.restype = None
    return functions


def _multiplies(found: Library) -> bool:
    """Whether a small sparse product comes out right: a compiler's error would show here, not in somebody's results."""
    random = np.random.default_rng(0)
    mask = random.random((9, 21)) < 0.5
    weight, x = random.standard_normal((9, 21), np.float32) * mask, random.standard_normal((5, 21), np.float32)
    layer = layout.Sparse(layout.Pattern(mask), found.tile, bias=False, moments=0)
    layer.weight[:] = weight.ravel()[layer.pattern.place]
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    return bool(np.allclose(layer.outputs_of(found.functions, x), expected, rtol=1e-5, atol=1e-5))
