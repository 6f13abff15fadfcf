"""The disk: files that appear complete or not at all, and refusals in one line."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prunephase.errors import StorageError


def read(path: Path) -> bytes | None:
    """What `path` holds; None where there is no such file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise StorageError(f"{path}: cannot be read: {problem.strerror}") from None


def write(path: Path, data: bytes, scratch: Path, *, durable: bool = True) -> None:
    """Put `data` under the name `path`: written in `scratch`, a folder of the same file system, synced and renamed.

    Not `durable`: not synced, for what may be lost with the power and is then as if never written.
    """
    write_parts(path, (data,), scratch, durable=durable)


def write_parts(path: Path, parts: Iterable[bytes], scratch: Path, *, durable: bool = True) -> None:
    """As `write`, of what is too large to be held at once; a part is asked for when those before it are written."""
    with refusals(path):
        temporary = scratch_name(scratch, secrets.token_hex(8))
        make_folder(temporary.parent)
        make_folder(path.parent)
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
        try:
            try:
                for part in parts:
                    view = memoryview(part)
                    while view:
                        view = view[os.write(handle, view) :]
                if durable:
                    os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # what could not be written is the news, not what could not be removed
                os.unlink(temporary)
            raise
        if durable:
            sync_folder(path.parent)


def cache_folder() -> Path:
    """Where what can be made again is kept: PRUNEPHASE_CACHE, or the platform's place for it."""
    if chosen := os.environ.get("PRUNEPHASE_CACHE"):
        return Path(chosen)
    import pooch  # knows the places of all platforms

    return Path(pooch.os_cache("prunephase"))


def move(path: Path, target: Path) -> None:
    """Give a file another name, for good; nothing happens where it is not there."""
    with refusals(path):
        make_folder(target.parent)
        if path.exists():
            os.rename(path, target)
            sync_folder(path.parent)
            sync_folder(target.parent)


def scratch_name(scratch: Path, name: str) -> Path:
    """A name in `scratch` that says whose it is."""
    return scratch / f"{machine()}-{os.getpid()}-{name}"


def sweep(scratch: Path) -> None:
    """Remove what killed writers of this machine left in `scratch`; living ones may be writing for another study."""
    for path in scratch.glob(f"{machine()}-*"):
        if not _alive(int(path.name.split("-")[1])):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; somebody else may do so too."""
    with refusals(path), suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            os.unlink(path)


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Refusals of the disk as one line that says what to do."""
    try:
        yield
    except OSError as problem:
        remedy = {
            errno.ENOSPC: "free some space",
            errno.EDQUOT: "raise your quota or free some space",
            errno.EROFS: "make it writable",
            errno.EACCES: "make it writable for you",
            errno.EPERM: "make it writable for you",
        }.get(problem.errno or 0, "check the disk")
        raise StorageError(
            f"{path}: cannot be written: {problem.strerror}; {remedy} and run the same command again "
            "(finished levels are safe)"
        ) from None


def make_folder(folder: Path) -> None:
    """Make `folder` and see to it that every new name in its path is on the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):  # another process made it; a file of that name is found by the next step
        os.mkdir(folder)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """See to it that the names in `folder` are on the disk."""
    if os.name == "nt":  # a folder cannot be opened there; the rename is durable by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def machine() -> str:
    """This machine in the name of a temporary file: a process number means nothing on another one."""
    return re.sub("[^A-Za-z0-9]", "", socket.gethostname())[:40] or "host"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
