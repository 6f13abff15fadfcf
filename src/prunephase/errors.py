"""What can go wrong, in one line each, and the exit code it leaves."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    BUG = 1
    USER = 2  # study file, arguments, data
    PARTIAL = 3  # finished, but some trials failed
    LOCKED = 4  # another process holds the study
    STORAGE = 5  # full, read-only, I/O
    DAMAGED = 6  # and not repairable
    INCOMPATIBLE = 7  # a resume that would mix unlike numbers
    INTERRUPTED = 130
    TERMINATED = 143


class PrunephaseError(Exception):
    """Anything we can explain. `str(error)` is what a person reads; `code` is the exit code."""

    code = Exit.BUG


class UserError(PrunephaseError):
    """A study file, an argument or data that cannot be used: what came, what was expected, what to do."""

    code = Exit.USER


class LockedError(PrunephaseError):
    """Another living process trains this."""

    code = Exit.LOCKED


class StorageError(PrunephaseError):
    """The disk is full, read-only or failing; nothing acknowledged is lost."""

    code = Exit.STORAGE


class DamagedError(PrunephaseError):
    """A stored file does not match its seal."""

    code = Exit.DAMAGED


class IncompatibleError(PrunephaseError):
    """Going on would mix results of unlike data or numerics."""

    code = Exit.INCOMPATIBLE


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A hint for a misspelt `word`: the nearest allowed one, then all of them.

    >>> nearest("magnitud", ["magnitude", "random"])
    "did you mean 'magnitude'? (one of: magnitude, random)"
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)
    listing = ", ".join(names)
    return f"did you mean '{close[0]}'? (one of: {listing})" if close else f"one of: {listing}"
