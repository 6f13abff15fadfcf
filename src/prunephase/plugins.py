"""User code named `module:function`: imported only where the caller allowed that module."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Any

from prunephase.errors import UserError


def is_reference(name: str) -> bool:
    """Whether `name` has the form `module:function`."""
    module, colon, function = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in module.split(".")) and function.isidentifier()


def resolve(name: str, allowed: Collection[str], field: str) -> Callable[..., Any]:
    """Import the function that `name` (`module:function`) refers to.

    `allowed` holds top-level modules that the caller allowed (`--plugins`); `field` is the study field, for the error.
    Raises UserError where the module was not allowed, does not import, or has no such function.
    """
    module, _, function = name.partition(":")
    if module.split(".")[0] not in allowed:
        raise UserError(
            f"{field} = '{name}': names code of yours; allow it with --plugins {module.split('.')[0]} "
            "(nothing was imported)"
        )
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as problem:
        raise UserError(
            f"{field} = '{name}': cannot be imported ({problem}); run from the folder that holds it"
        ) from None
    if not callable(found):
        raise UserError(f"{field} = '{name}': is not a function")
    return found  # type: ignore[no-any-return]
