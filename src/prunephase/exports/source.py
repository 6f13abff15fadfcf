"""The source of an architecture on its own: one module that imports torch and the standard library, nothing else."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch.nn

from prunephase.models import checks, init


def source(
    factory: Callable[..., torch.nn.Module], shape: Sequence[int], classes: int, arguments: dict[str, Any], title: str
) -> str:
    """Text of a module with `build()`, which makes the network of one of our factories as it was made here.

    It is cut out of our own modules: what the factory uses, word for word, and none of their imports of ours.
    title: its first line.
    """
    places = [_Source(module) for module in (checks, init, inspect.getmodule(factory)) if module is not None]
    wanted, todo = set[str](), [factory.__name__]
    while todo:
        name = todo.pop()
        wanted.add(name)
        for place in places:
            if name in place.parts:
                todo += [used for used in place.uses(name) if used not in wanted]
    imports = {line for place in places for line in place.imports(wanted)}
    parts = [text for place in places for name, text in place.parts.items() if name in wanted]
    given = "".join(f", {name}={value!r}" for name, value in arguments.items())
    build = f"def build() -> nn.Module:\n    return {factory.__name__}({tuple(shape)!r}, {classes}{given})"
    head = "\n".join(("from __future__ import annotations\n", *sorted(imports)))
    return "\n\n\n".join((f"{title}\n\n{head}", *parts, build)) + "\n"


class _Source:
    """A module's text in parts: {name at its top level: how it is defined}."""

    def __init__(self, module: ModuleType) -> None:
        self._text = inspect.getsource(module)
        self._lines = self._text.splitlines()
        self.parts: dict[str, str] = {}
        self._nodes: dict[str, ast.stmt] = {}
        self._imports: list[ast.Import | ast.ImportFrom] = []
        for node in ast.parse(self._text).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._imports.append(node)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self._keep(node.name, node)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._keep(node.targets[0].id, node)

    def _keep(self, name: str, node: ast.stmt) -> None:
        self._nodes[name] = node
        self.parts[name] = "\n".join(self._lines[node.lineno - 1 : node.end_lineno])

    def uses(self, name: str) -> set[str]:
        """Every name that the definition of `name` mentions."""
        return {node.id for node in ast.walk(self._nodes[name]) if isinstance(node, ast.Name)}

    def imports(self, wanted: set[str]) -> set[str]:
        """The lines that import, from elsewhere than here, what the wanted parts mention."""
        used = {name for part in wanted & self.parts.keys() for name in self.uses(part)}
        lines = set()
        for node in self._imports:
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module is not None and (module == "__future__" or module.split(".")[0] == "prunephase"):
                continue
            for alias in node.names:
                if (alias.asname or alias.name).split(".")[0] in used:
                    what = ast.unparse(ast.alias(alias.name, alias.asname))
                    lines.add(f"import {what}" if module is None else f"from {module} import {what}")
        return lines
