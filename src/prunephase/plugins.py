"""User code named `module:function`: imported only where the caller allowed that module."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
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


def reference(function: Callable[..., Any]) -> str:
    """`module:function`, by which every process finds a function or class of the user's.

    One of the script that runs is named after its file, which is then imported once more, so what the script does
    belongs under `if __name__ == "__main__":`. Raises UserError for what cannot be imported by a name: a lambda, a
    method, a function within a function, one of a notebook.
    """
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if not (inspect.isfunction(function) or inspect.isclass(function)) or not name.isidentifier():
        raise UserError(f"'{name}': has no name to import it by; write a function at the top of a file of yours")
    return f"{_importable(sys.modules[function.__module__], name)}:{name}"


def names(plugins: Collection[str | ModuleType | Callable[..., Any]]) -> frozenset[str]:
    """Top-level modules that `plugins` allows: names, modules, or functions and classes in them."""
    found = {
        plugin if isinstance(plugin, str) else plugin.__name__ if isinstance(plugin, ModuleType) else reference(plugin)
        for plugin in plugins
    }
    return frozenset(name.partition(":")[0].partition(".")[0] for name in found)


def _importable(module: ModuleType, what: str) -> str:
    """The name of a module for other processes, where this one calls it __main__."""
    if module.__name__ != "__main__":
        return module.__name__
    if module.__spec__ is not None:  # python -m
        return module.__spec__.name
    stem = Path(getattr(module, "__file__", None) or "").stem
    if not stem.isidentifier():
        raise UserError(f"'{what}': is in no file that another process could import; move it into one, and import it")
    return stem
