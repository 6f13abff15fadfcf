"""Checkpoints: files of tensors by name, read without running anything that they hold.

A safetensors file is read here. A pickle of torch's (.pt, .pth) is read by `unpickle`, a child process with limits on
memory and time, and kept in the cache folder as the safetensors file that came back.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from prunephase import disk
from prunephase.errors import StorageError

LARGEST = 2**31  # bytes of a file
HEADER = 2**24  # bytes of the header of a safetensors file: 100,000 tensors
PATIENCE = 300.0  # seconds that a child may take
PICKLES = (".pt", ".pth")
MADE_BY = 1  # raised where `unpickle` gives something else for the same file
SEAL = hashlib.sha256().digest_size  # what is kept ends with the SHA-256 of all before


def read(path: str | Path) -> bytes:
    """The tensors of a .safetensors, .pt or .pth file, as the content of a safetensors file. Nothing is executed.

    Takes memory for a few copies of the file, which may have 2 GiB. Raises ValueError, which says in a line what is
    wrong with the file.
    """
    kind = Path(path).suffix.lower()
    if kind not in (".safetensors", *PICKLES):
        raise ValueError(f"ends in {kind[:20]!r}, none of .safetensors, .pt, .pth")
    with _opened(path) as file:
        return _converted(file) if kind in PICKLES else _checked(file)


def folder() -> Path:
    """Where what children gave back is kept."""
    return disk.cache_folder() / "tensors"


def content(data: bytes) -> str:
    """SHA-256 over names, kinds of number, shapes and values: the same however, and in whatever order, they are kept.

    data: as `read` gives it.
    """
    from safetensors import deserialize

    total = hashlib.sha256()
    found = deserialize(data)  # type: ignore[no-untyped-call]
    for name, tensor in sorted(found, key=lambda named: named[0]):
        total.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
        total.update(tensor["data"])
    return total.hexdigest()


def content_of(path: str | Path) -> str:
    """`content` of a file; one that stands unchanged is not read again. Raises ValueError as `read` does."""
    state: tuple[int, ...] = ()
    with suppress(OSError, ValueError):  # `read` says it better
        found = os.stat(path)
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    digest, problem = _known(str(path), state)
    if problem:
        raise ValueError(problem)
    return digest


@lru_cache(maxsize=64)
def _known(path: str, _state: tuple[int, ...]) -> tuple[str, str]:
    """The digest, or what is wrong."""
    try:
        return content(read(path)), ""
    except ValueError as problem:
        return "", str(problem)


@contextmanager
def _opened(path: str | Path) -> Iterator[BufferedReader]:
    """A regular file of a size that can be meant; no pipe is waited for and no device is read."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as problem:
        raise ValueError(f"cannot be read ({problem.strerror})") from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"is a {'folder' if stat.S_ISDIR(found.st_mode) else 'device or pipe'}, not a file")
        if not 0 < found.st_size <= LARGEST:
            raise ValueError(f"has {found.st_size:,} bytes, of at most {LARGEST:,}" if found.st_size else "is empty")
        with os.fdopen(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


def _checked(file: BinaryIO) -> bytes:
    """The content of a safetensors file, found sound."""
    from safetensors import SafetensorError, deserialize

    size = os.fstat(file.fileno()).st_size
    header = int.from_bytes(file.read(8), "little")
    if not 2 <= header <= min(HEADER, size - 8):
        raise ValueError(f"is no safetensors file: its header would have {header:,} bytes")
    file.seek(0)
    data = file.read(size)
    try:
        deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as problem:
        raise ValueError(f"is no safetensors file ({' '.join(str(problem).split())[:80]!r})") from None
    return data


def _converted(file: BufferedReader) -> bytes:
    """The tensors of a pickle of torch's, from the cache folder or from a child process."""
    path = folder() / f"{hashlib.file_digest(file, 'sha256').hexdigest()}-{MADE_BY}.bin"
    with suppress(StorageError):
        kept = disk.read(path) or b""
        if hashlib.sha256(kept[:-SEAL]).digest() == kept[-SEAL:]:
            return kept[:-SEAL]
    file.seek(0)
    with tempfile.TemporaryFile() as result:
        _unpickled(file, result)
        result.seek(0)
        data = _checked(result)
    with suppress(StorageError):  # a cache that may not be written: the child is asked again
        disk.write_parts(path, (data, hashlib.sha256(data).digest()), folder(), durable=False)
    return data


def _unpickled(file: BinaryIO, result: BinaryIO) -> None:
    """Have a child read `file` and write `result`."""
    try:
        code, said = _child(file, result)
    except subprocess.TimeoutExpired:
        raise ValueError(f"took more than {PATIENCE:.0f} s to read") from None
    last = (said.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    why = "".join(c if c.isprintable() else "?" for c in last)[:200]
    if code == 2:
        raise ValueError(why)
    if code:  # a signal, most likely of a limit
        raise ValueError(f"could not be read within limits of memory and time (exit code {code}: {why[:80]})")


def _child(file: BinaryIO, result: BinaryIO) -> tuple[int, bytes]:
    """Its exit code, and what it says on stderr."""
    # -P: no module is imported from the folder in which the user, and perhaps the file, happens to be.
    command = [sys.executable, "-P", "-m", "prunephase.unpickle"]
    ended = subprocess.run(command, stdin=file, stdout=result, stderr=subprocess.PIPE, timeout=PATIENCE)
    return ended.returncode, ended.stderr
