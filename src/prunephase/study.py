"""A study: a base trial, seeds, and a grid of changed fields; a TOML file or a few lines of Python."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from prunephase.errors import UserError, nearest
from prunephase.expansion import (
    VARIED,
    altered,
    arms_of,
    axes_of,
    changed,
    check_path,
    combinations,
    merged,
    paths,
    problems_of,
    section_of,
    short,
    stop_of,
    validated,
)
from prunephase.stop import NEVER, Stop
from prunephase.trial import Trial, canonical_json

MAX_BYTES = 1_000_000  # a study file is read whole; a larger one is a mistake or an attack
MAX_DEPTH = 16
MAX_TRIALS = 100_000
STUDY_FIELDS = ("name", "seeds", "extends", "grid", "arms", "scales", "stop", *VARIED)


@dataclass(frozen=True)
class Study:
    """A named list of trials, in the order in which arms and grid were written, seeds innermost.

    arms: the name of each trial's arm; empty where the study has none. It is no part of a trial, nor of its digest.
    stop: by which rule their ladders end by themselves; it changes no trial and no level.
    """

    name: str
    trials: tuple[Trial, ...]
    arms: tuple[str, ...] = ()
    stop: Stop = NEVER

    def digest(self) -> str:
        """16 hex digits over the set of trials; the name does not matter."""
        return hashlib.sha256("".join(sorted(t.digest() for t in self.trials)).encode()).hexdigest()[:16]

    def only(self, arm: str) -> Study:
        """The trials of one arm. Raises UserError where there is no arm of that name."""
        if arm not in self.arms:
            known = nearest(arm, dict.fromkeys(self.arms)) if self.arms else "the study has no arms"
            raise UserError(f"--arm {short(arm)}: no such arm in '{self.name}'; {known}")
        trials = tuple(trial for trial, name in zip(self.trials, self.arms, strict=True) if name == arm)
        return Study(f"{self.name}, {arm}", trials, stop=self.stop)

    def shard(self, index: int, of: int) -> Study:
        """Part `index` (from 1) of `of` parts of about the same work: each trial in one of them, whoever asks.

        Trials that share a dense level or build on one another stay together; so parts may be empty.
        """
        families: dict[bytes, list[int]] = {}
        for place, trial in enumerate(self.trials):
            families.setdefault(family(trial.teacher_trial() or trial), []).append(place)

        def work(places: list[int]) -> int:
            return sum((t.pruning.levels + 1) * t.recipe.epochs for t in map(self.trials.__getitem__, places))

        parts = [(0, part) for part in range(1, of + 1)]
        chosen: list[int] = []
        for places in sorted(families.values(), key=work, reverse=True):  # the longest first, to the least laden part
            load, part = heapq.heappop(parts)
            heapq.heappush(parts, (load + work(places), part))
            chosen += places if part == index else []
        chosen.sort()
        trials = tuple(self.trials[place] for place in chosen)
        arms = tuple(self.arms[place] for place in chosen if self.arms)
        return Study(f"{self.name} (shard {index} of {of})", trials, arms, self.stop)


def family(trial: Trial) -> bytes:
    """What decides a trial's dense level: trials that agree in it share that level, or build on one another."""
    return canonical_json(trial.dense())


def load(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file, or a preset by its name (`preset:demo`), with `--set`-like overrides such as "noise.rate=0.4".

    `preset:NAME:small` is the preset with the changes that its table [scales.small] names, above all a shorter recipe.

    Raises UserError with one line per bad field: path, value, what is allowed.
    """
    origin = str(path)
    return overridden(read(origin), overrides, origin)


def overridden(fields: dict[str, Any], overrides: Sequence[str], origin: str = "study") -> Study:
    """A study from nested fields, changed by `--set`-like overrides first; `fields` is changed in place."""
    for text in overrides:
        dotted, value = _override(text)
        _set(fields, dotted, value, origin="--set")
    return parse(fields, origin)


def parse(fields: Mapping[str, Any], origin: str = "study") -> Study:
    """A study from nested fields, as a TOML file gives them (after `extends`). `origin` begins every error line."""
    problems: list[str] = [
        f"{key}: unknown field; {nearest(key, STUDY_FIELDS)}" for key in fields if key not in STUDY_FIELDS
    ]
    name = fields.get("name", "study")
    if not isinstance(name, str) or not name.strip() or len(name) > 200 or any(ord(c) < 32 for c in name):
        problems.append(f"name = {short(name)}: expected a line of text, at most 200 characters")
    seeds = fields.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or any(type(s) is not int or s < 0 for s in seeds):
        problems.append(f"seeds = {short(seeds)}: expected a list of whole numbers from 0, such as [0, 1, 2]")
        seeds = [0]
    elif len(set(seeds)) < len(seeds):
        problems.append(f"seeds = {short(seeds)}: a seed stands twice; every replicate needs its own")
    axes = axes_of(fields.get("grid", {}), problems)
    if not isinstance(scales := fields.get("scales", {}), dict) or any(
        not isinstance(v, dict) for v in scales.values()
    ):
        problems.append(f"scales = {short(scales)}: expected tables of changed fields, such as [scales.small]")
    stop = stop_of(fields.get("stop", {}), problems)
    arms = arms_of(fields.get("arms", {}), problems)
    base = {k: v for k, v in fields.items() if k in Trial.model_fields and k != "seed"}
    size = max(1, len(arms)) * len(seeds) * math.prod(len(values) for values in axes.values())
    if size > MAX_TRIALS:
        raise UserError(f"{origin}: grid: {size:,} trials; at most {MAX_TRIALS:,}")
    crossed = combinations(base, axes)
    common = [problem for held in crossed for problem in problems_of(held)]
    problems += common
    made = [(arm, altered(held, changes)) for arm, changes in (arms or {"": {}}).items() for held in crossed]
    problems += [f"arms.{arm}: {text}" for arm, held in made for text in problems_of(held) if text not in common]
    trials = validated([{**held, "seed": seed} for _, held in made for seed in seeds], problems, origin)
    return Study(name, trials, tuple(arm for arm, _ in made for _ in seeds) if arms else (), stop)


def grid(base: Trial, **axes: Any) -> list[Trial]:
    """Trials from every combination of values; a double underscore stands for the dot of a path.

    >>> trials = grid(Trial(), noise={"kind": "pairflip"}, noise__rate=[0.2, 0.4], seed=range(2))
    >>> [(t.noise.rate, t.seed) for t in trials]
    [(0.2, 0), (0.2, 1), (0.4, 0), (0.4, 1)]

    Raises UserError for a path that does not exist or a value that is not allowed.
    """
    axes = {k.replace("__", "."): _as_values(v) for k, v in axes.items()}
    problems: list[str] = []
    for path in axes:
        check_path(path, (*Trial.model_fields,), "grid", problems)
    if problems:
        raise UserError("\n".join(problems))
    crossed = combinations(base.model_dump(mode="json"), axes)
    return list(validated(crossed, [text for held in crossed for text in problems_of(held)], "grid"))


def preset(name: str) -> Trial:
    """The base trial of a published setting, with its first seed; NAME:small for its small scale.

    >>> preset("he2022-mnist").recipe.epochs
    200
    """
    fields = {k: v for k, v in read(f"preset:{name}").items() if k not in ("grid", "arms")}
    return parse(fields, f"preset:{name}").trials[0]


def presets() -> dict[str, str]:
    """Names of the presets, each with the first comment line of its file."""
    return {name: (_preset_file(name).splitlines() or [""])[0].lstrip("# ") for name in _preset_names()}


def preset_text(name: str) -> str:
    """A preset as a study file that stands alone: its comments, and every field that it and its parents set.

    NAME:small gives the small scale. Raises UserError for an unknown name.
    """
    bare, _, scale = name.partition(":")
    own = _preset_file(bare)
    fields = read(f"preset:{name}")
    scales = fields.pop("scales", {})
    about = "".join(f"{line}\n" for line in itertools.takewhile(lambda line: line.startswith("#"), own.splitlines()))
    if scale:
        about += f"# At its {scale} scale.\n"
    elif scales:
        about += "".join(f"# `prunephase run preset:{name}:{s}` runs it at its {s} scale.\n" for s in scales)
    return about + _written(fields)


def read(origin: str) -> dict[str, Any]:
    """The fields of a file or preset with everything that it extends, at the scale that its name asks for."""
    return _read(origin, ())


def _at_scale(origin: str, fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` with the changes, dotted or nested, of the scale in `preset:NAME:SCALE`."""
    scale = origin.removeprefix("preset:").partition(":")[2] if origin.startswith("preset:") else ""
    if not scale:
        return fields
    known = fields.pop("scales", {})
    if scale not in known:
        remedy = nearest(scale, known) if known else "it has only the full one"
        raise UserError(f"{origin}: no scale '{scale}'; {remedy}")
    return altered(fields, known[scale])


def _preset_names() -> list[str]:
    folder = resources.files("prunephase.presets")
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def _preset_file(name: str) -> str:
    if name not in (names := _preset_names()):
        raise UserError(f"preset '{name}': unknown; {nearest(name, names)}")
    return resources.files("prunephase.presets").joinpath(f"{name}.toml").read_text("utf-8")


def _written(fields: Mapping[str, Any]) -> str:
    """Nested fields as a TOML file, each with what it means."""
    lines = [f"{key} = {_toml(fields[key])}" for key in ("name", "seeds") if key in fields]
    for section in (*Trial.model_fields, "stop"):
        model, values = section_of(section), fields.get(section)
        if model is not None and isinstance(values, dict):
            lines += ["", f"[{section}]"]
            for key, value in values.items():
                described = model.model_fields[key].description if key in model.model_fields else None
                lines.append(f"{key} = {_toml(value)}" + (f"  # {described}" if described else ""))
    if fields.get("grid"):
        axes = paths(fields["grid"])
        lines += ["", "[grid]  # the study is the product of all lines"]
        lines += [f'"{path}" = {_toml(values)}' for path, values in axes.items()]
    for arm, changes in fields.get("arms", {}).items():
        lines += ["", f"[arms.{json.dumps(arm)}]", *(f"{json.dumps(k)} = {_toml(v)}" for k, v in changes.items())]
    return "\n".join(lines) + "\n"


def schema() -> str:
    """A reference of every field of a study file: path, type, default, meaning."""
    lines = [
        "name              text; 'study' by default",
        "seeds             list of whole numbers, one replicate each; [0] by default",
        "extends           'preset:NAME' or a file whose fields this one changes",
        '[grid]            "section.field" = [values]; the study is the product of all lines',
        "[arms.NAME]       changed fields of one arm, which come last; the study has each arm with the whole grid",
        "[scales.small]    changed fields, taken where the preset is named preset:NAME:small",
    ]
    for section in (*Trial.model_fields, "stop"):
        if (model := section_of(section)) is None:
            continue
        lines += ["", f"[{section}]  {(model.__doc__ or '').splitlines()[0]}"]
        for name, field in model.model_fields.items():
            default = "no default" if field.is_required() else _toml(field.get_default())
            lines.append(f"{name:<17} {default:<18} {field.description}")
    return "\n".join(lines) + "\n"


def _read(origin: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a file with everything it extends merged beneath them."""
    if origin in seen:
        raise UserError(f"{seen[0]}: extends itself ({' -> '.join((*seen, origin))})")
    if origin.startswith("preset:"):
        text, folder = _preset_file(origin.split(":")[1]), None
    else:
        text, folder = _text(Path(origin)), Path(origin).parent
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise UserError(f"{origin}: not a TOML file: {' '.join(str(problem).split())}") from None
    except RecursionError:
        raise UserError(f"{origin}: nested too deeply; at most {MAX_DEPTH} deep") from None
    if _depth(fields) > MAX_DEPTH:
        raise UserError(f"{origin}: nested more than {MAX_DEPTH} deep")
    parent = fields.pop("extends", None)
    if parent is None:
        return _at_scale(origin, fields)
    if not isinstance(parent, str):
        raise UserError(f"{origin}: extends = {short(parent)}: expected 'preset:NAME' or the path of a file")
    if not parent.startswith("preset:") and folder is not None:
        parent = str(folder / parent)
    return _at_scale(origin, merged(_read(parent, (*seen, origin)), fields))


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; expected a study file (TOML)")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # a device or a pipe has no size to ask for, and may never end
        if len(data) > MAX_BYTES:
            raise UserError(f"{path}: more than {MAX_BYTES:,} bytes; expected a study file (TOML)")
        if not data.strip():
            raise UserError(f"{path}: is empty; expected a study file (TOML), such as `prunephase init` gives")
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; expected a study file (TOML)") from None
    except (OSError, ValueError) as problem:
        hint = f"; a preset is named preset:{path}" if str(path) in presets() else ""
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise UserError(f"{short(str(path))}: cannot be read: {reason}{hint}") from None


def _override(text: str) -> tuple[str, Any]:
    dotted, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {short(text)}: expected path=value, such as noise.rate=0.4")
    try:
        return dotted.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return dotted.strip(), value.strip()  # a bare word is a string, as a shell user expects


def _set(fields: dict[str, Any], dotted: str, value: Any, origin: str) -> None:
    problems: list[str] = []
    check_path(dotted, STUDY_FIELDS, origin, problems)
    if problems:
        raise UserError(problems[0])
    axes = fields.get("grid")
    if isinstance(axes, dict):  # what is set by hand is no longer varied
        fields["grid"] = {path: values for path, values in paths(axes).items() if path != dotted}
    fields.update(changed(fields, {dotted: value}))


def _as_values(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping, BaseModel)) or not isinstance(value, Iterable):
        value = [value]
    return [v.model_dump(mode="json") if isinstance(v, BaseModel) else v for v in value]


def _depth(value: Any) -> int:
    stack, deepest = [(value, 1)], 1
    while stack:
        item, depth = stack.pop()
        deepest = max(deepest, depth)
        children = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        stack += [(child, depth + 1) for child in children]
    return deepest


def _toml(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
