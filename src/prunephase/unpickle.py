"""The child process that reads a pickle of torch's for `checkpoint`: within limits, and back as safetensors.

    python -P -m prunephase.unpickle < FILE.pt > FILE.safetensors

torch's restricted unpickler builds tensors, numpy arrays, numbers and lists of them, and calls nothing else that the
file names. What is wrong is the last line on stderr, with exit code 2. On Windows there are no limits but the parent's
patience.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

SAFE = (2, 10)  # before it, torch's restricted unpickler could be made to run code (CVE-2025-32434, CVE-2026-24747)
MEMBERS = 20_000  # of an archive, which has one for each tensor
SECONDS = 30  # of CPU, and one more for every PACE bytes
PACE = 2**25
SPARE = 2**29  # bytes of memory beside the file's own, of which there are up to COPIES
COPIES = 8
WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which training scripts keep it beside other things


class Refused(Exception):
    """What is wrong with the file, in a line."""


def main(file: BinaryIO, result: BinaryIO) -> int:
    """Read `file`, write `result`; gives the exit code."""
    size = os.fstat(file.fileno()).st_size
    torch.set_num_threads(1)  # each maps memory of its own
    limit(size)
    try:
        data = save(arrays(file, size))
    except Refused as problem:
        print(problem, file=sys.stderr)
        return 2
    except MemoryError:
        print("needs far more memory than its size", file=sys.stderr)
        return 2
    except Exception as problem:  # torch explains a pickle that it refuses on a page, and others fail in many ways
        asked = re.search(r"GLOBAL ([\w.]{1,80})", str(problem))
        what = f"asks for {asked[1]}, which is not run" if asked else f"cannot be read ({type(problem).__name__})"
        print(f"holds more than plain tensors, or is damaged: {what}", file=sys.stderr)
        return 2
    result.write(data)
    result.flush()
    return 0


def limit(size: int) -> None:
    """Bound what this process may use from here on, for a file of `size` bytes."""
    with suppress(ImportError):  # Windows
        import resource

        with suppress(OSError):  # elsewhere than on Linux it is not known how much torch alone has mapped
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            _lower(resource.RLIMIT_AS, mapped + SPARE + COPIES * size)
        _lower(resource.RLIMIT_CPU, math.ceil(time.process_time()) + SECONDS + size // PACE)
        _lower(resource.RLIMIT_FSIZE, 2 * size + PACE)
        _lower(resource.RLIMIT_CORE, 0)


def _lower(what: int, most: int) -> None:
    import resource

    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def arrays(file: BinaryIO, size: int) -> dict[str, Tensor]:
    """The tensors by name that a file of `size` bytes holds. Raises Refused, or whatever torch raises."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE:
        raise Refused(
            f"torch {torch.__version__} can be made to run code by such a file; install torch >= 2.10, or convert it "
            "to safetensors elsewhere"
        )
    if file.read(4) == b"PK\x03\x04":
        _sound(file, size)
    file.seek(0)
    with torch.serialization.safe_globals(_numbers()):
        found = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(found, dict):
        found = next((found[name] for name in WRAPPERS if isinstance(found.get(name), dict)), found)
    if not isinstance(found, dict):
        raise Refused(f"holds a {type(found).__name__}, not a dict of tensors by name")
    if not all(isinstance(name, str) for name in found):
        raise Refused("holds a dict whose keys are not names")
    claimed = sum(value.numel() * value.element_size() for value in found.values() if isinstance(value, Tensor))
    if claimed > 2 * size:  # twice, as a tensor may stand under two names
        raise Refused(f"its tensors claim {claimed:,} bytes, and it has {size:,}")
    return {name: _plain(value, ascii(name)[1:-1][:80]) for name, value in found.items()}


def _sound(file: BinaryIO, size: int) -> None:
    """Refuse a zip archive that torch did not write, or that changed since."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MEMBERS or max(Counter(member.filename for member in members).values(), default=0) > 1:
            raise Refused("is an archive with too many members, or two of one name")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise Refused("is an archive with compressed members, which torch.save does not write")
        if sum(member.file_size for member in members) > size:
            raise Refused(f"is an archive whose members claim more than its {size:,} bytes")
        if (damaged := archive.testzip()) is not None:
            raise Refused(f"is damaged at {ascii(damaged)[:80]}")


def _plain(value: Any, name: str) -> Tensor:
    """A tensor of its own memory, from one, from an array or from a list of numbers."""
    if isinstance(value, (list, np.ndarray)):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise Refused(f"holds {array.dtype} under {name}, not numbers")
        value = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))
    if not isinstance(value, Tensor):
        raise Refused(f"holds {type(value).__name__} under {name}, not a tensor")
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise Refused(f"holds a sparse, quantised or meta tensor under {name}, not a plain one")
    reach = 1
    for stride, count in sorted((s, n) for s, n in zip(value.stride(), value.shape, strict=True) if n > 1):
        if stride < reach:
            raise Refused(f"holds a tensor under {name} that shows one number in several places")
        reach += stride * (count - 1)
    return value.detach().resolve_conj().clone(memory_format=torch.contiguous_format)


def _numbers() -> list[Any]:
    """What the pickle of a numpy array of numbers calls, under the names of numpy 1 and 2; none of it runs code."""
    reconstruct = np.zeros(0).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"]
    return [
        *((reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        *(np.ndarray, np.dtype, *kinds),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer, sys.stdout.buffer))
