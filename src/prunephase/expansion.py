"""Expansion: from the nested fields of a study to its trials, arm by arm; every bad field is named."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from prunephase.errors import UserError, nearest
from prunephase.stop import NEVER, Stop
from prunephase.trial import Trial

ARM_NAME = re.compile(r"[A-Za-z0-9][\w .+-]{0,39}", re.ASCII)  # it stands in tables and file names
VARIED = tuple(field for field in Trial.model_fields if field != "seed")
Fields = Mapping[str, Any]


def combinations(base: Fields, axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """`base` with every combination of values, in the order in which the axes are written, the last innermost.

    >>> combinations({"seed": 3}, {"noise.rate": [0.2, 0.4]})
    [{'seed': 3, 'noise': {'rate': 0.2}}, {'seed': 3, 'noise': {'rate': 0.4}}]
    """
    return [changed(base, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


def validated(fields: Sequence[Fields], problems: list[str], origin: str) -> tuple[Trial, ...]:
    """The trials of these fields. Raises UserError with all `problems`, a line each, or where two trials are the same.

    >>> [trial.noise.rate for trial in validated([{"noise": {"kind": "pairflip", "rate": 0.2}}], [], "grid")]
    [0.2]
    """
    if problems:
        raise UserError("\n".join(f"{origin}: {problem}" for problem in dict.fromkeys(problems)))
    trials = tuple(Trial.model_validate(held) for held in fields)
    seen: set[str] = set()
    for trial in trials:
        if (digest := trial.digest()) in seen:
            raise UserError(
                f"{origin}: grid: two combinations give the same trial (seed {trial.seed}); remove a value, or an arm"
            )
        seen.add(digest)
    return trials


def axes_of(raw: Any, problems: list[str]) -> dict[str, list[Any]]:
    """[grid] as {dotted path: values}; `noise.rate = [...]` without quotes nests in TOML and means the same."""
    if not isinstance(raw, dict):
        problems.append(f'grid = {short(raw)}: expected a table, such as [grid] and "noise.rate" = [0.2, 0.4]')
        return {}
    axes = {}
    for dotted, values in paths(raw).items():
        if dotted == "seed":
            problems.append("grid.seed: write seeds = [...] at the top instead")
        elif check_path(dotted, VARIED, "grid", problems):
            if not isinstance(values, list) or not values:
                problems.append(f'grid."{dotted}" = {short(values)}: expected a list of values')
            else:
                axes[dotted] = values
    return axes


def arms_of(raw: Any, problems: list[str]) -> dict[str, dict[str, Any]]:
    """[arms.NAME] as {name: changes, dotted or nested}."""
    if not isinstance(raw, dict) or any(not isinstance(changes, dict) for changes in raw.values()):
        problems.append(f"arms = {short(raw)}: expected tables of changed fields, such as [arms.l2]")
        return {}
    for name, changes in raw.items():
        if not ARM_NAME.fullmatch(name):
            problems.append(f"arms.{short(name)}: expected a name of at most 40 letters, digits, blanks and _ . + -")
        if "seed" in changes:
            problems.append(f"arms.{short(name)}: seed: all arms have the same; write seeds = [...] at the top")
    return raw


def stop_of(raw: Any, problems: list[str]) -> Stop:
    """[stop] as values; one line per bad field goes to `problems`."""
    try:
        return Stop.model_validate(raw)
    except ValidationError as refused:
        errors = refused.errors(include_url=False)
        problems += [_problem({**error, "loc": ("stop", *error["loc"])}) for error in errors]
        return NEVER


def section_of(name: str) -> type[BaseModel] | None:
    """What a section of a study file holds; None where `name` is no section."""
    if name == "stop":
        return Stop
    info = Trial.model_fields.get(name)
    model = None if info is None else info.annotation
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def paths(tables: Fields) -> dict[str, Any]:
    """Nested tables as one of dotted paths.

    >>> paths({"noise": {"rate": [0.2]}, "recipe.lr": [0.1]})
    {'noise.rate': [0.2], 'recipe.lr': [0.1]}
    """
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        inner = {f"{key}.{k}": v for k, v in paths(value).items()} if isinstance(value, dict) else {}
        flat |= inner or {key: value}
    return flat


def check_path(dotted: str, sections: Sequence[str], origin: str, problems: list[str]) -> bool:
    """Whether a dotted path exists in one of `sections`; else a line is added to `problems`."""
    section, _, field = dotted.partition(".")
    if section not in sections:
        problems.append(f"{origin}: '{dotted}': unknown field; {nearest(section, sections)}")
        return False
    model = section_of(section)
    known = {} if model is None else model.model_fields
    if field and section not in ("grid", "arms") and field.partition(".")[0] not in known:
        problems.append(f"{origin}: '{dotted}': unknown field; {nearest(field, known)}")
        return False
    return True


def changed(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested `fields` with dotted paths set; a table given for a section is merged into it.

    >>> changed({"noise": {"kind": "pairflip"}}, {"noise.rate": 0.2, "model": {"name": "mlp"}})
    {'noise': {'kind': 'pairflip', 'rate': 0.2}, 'model': {'name': 'mlp'}}
    """
    result = dict(fields)
    for dotted, value in changes.items():
        head, _, rest = dotted.partition(".")
        if rest:
            inner = result.get(head)
            result[head] = changed(inner if isinstance(inner, dict) else {}, {rest: value})
        elif isinstance(value, dict) and isinstance(result.get(head), dict):
            result[head] = {**result[head], **value}
        else:
            result[head] = value
    return result


def merged(below: Fields, above: Fields) -> dict[str, Any]:
    """Nested `below` with every value that `above` has; arguments of a model and maps of noise are replaced whole."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict) and key not in ("map", "kwargs")
        result[key] = merged(result[key], value) if both else value
    return result


def altered(fields: Fields, changes: Fields) -> dict[str, Any]:
    """`fields` with changes that are dotted or nested, as a table of a study file has them.

    >>> altered({"recipe": {"lr": 0.1, "epochs": 9}}, {"recipe.lr": 0.2, "noise": {"kind": "none"}})
    {'recipe': {'lr': 0.2, 'epochs': 9}, 'noise': {'kind': 'none'}}
    """
    result = dict(fields)
    for key, value in changes.items():
        result = changed(result, {key: value}) if "." in key else merged(result, {key: value})
    return result


def problems_of(fields: Mapping[str, Any]) -> list[str]:
    """One line per bad field of a trial: path, value, what is allowed."""
    try:
        Trial.model_validate(fields)
    except ValidationError as refused:
        return [_problem(error) for error in refused.errors(include_url=False)]
    return []


def short(value: Any) -> str:
    """`value` on one line, control characters escaped, cut at 60 characters."""
    text = repr(value) if not isinstance(value, str) else ascii(value) if not value.isprintable() else f"'{value}'"
    return text if len(text) <= 60 else text[:57] + "..."


def _problem(error: Any) -> str:
    path, value = ".".join(map(str, error["loc"])), error["input"]
    kind, message = error["type"], error["msg"]
    if kind == "extra_forbidden":
        known = (section_of(str(error["loc"][0])) or Trial).model_fields
        return f"{path}: unknown field; {nearest(str(error['loc'][-1]), known)}"
    if kind == "literal_error":
        allowed = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{path} = {short(value)}: {nearest(str(value), allowed)}"
    message = message.removeprefix("Value error, ").replace("Input should", "should")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        message = f"should be a table, written [{path}]"
    if kind == "value_error" and isinstance(value, dict):
        return f"{path}: {message}"
    return f"{path} = {short(value)}: {message}"
