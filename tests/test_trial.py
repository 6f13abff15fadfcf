"""A trial: everything that decides a result, and a digest that says so."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from prunephase import noise, sections
from prunephase.data.load import SOURCES
from prunephase.models import FAMILY as MODELS
from prunephase.prune.criteria import FAMILY as CRITERIA
from prunephase.study import schema
from prunephase.trial import Trial, canonical_json

# Whoever changes a default changes the meaning of every stored trial: that must not happen by accident.
PINNED: dict[str, dict[str, Any]] = {
    "6ce319039cf55635": {},
    "2149ed6a0c6b19db": {"seed": 1},
    "97207c6a1be8dec2": {
        "data": {"source": "mnist", "validation": 0.0},
        "noise": {"kind": "uniform-relabel", "rate": 0.2},
        "pruning": {"exclude": ["output"]},
    },
    "e55e9f63f6fecf0e": {
        "model": {"name": "mlp", "kwargs": {"widths": [8, 4]}},
        "recipe": {"optimizer": "adamw", "lr": 0.001, "schedule": "step", "milestones": [3], "epochs": 5},
        "restart": {"mode": "re-init", "to": "2ep", "start_at": "rewind"},
    },
}


def kinds_of_sections() -> dict[str, type[BaseModel]]:
    found = {name: field.annotation for name, field in Trial.model_fields.items()}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


@pytest.mark.parametrize("digest", PINNED)
def test_digests_are_pinned(digest: str) -> None:
    assert Trial.model_validate(PINNED[digest]).digest() == digest


def test_the_names_a_study_may_use_are_those_of_the_families() -> None:
    assert tuple(SOURCES) == sections.SOURCES
    assert tuple(MODELS) == sections.MODELS
    assert tuple(CRITERIA) == sections.CRITERIA
    assert tuple(noise.NOISES) == sections.NOISES
    assert set(sections.VERIFIED_SOURCES) <= set(sections.SOURCES)


def shuffled(value: Any, draw: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    draw.shuffle(keys)
    return {key: shuffled(value[key], draw) for key in keys}


def test_the_order_of_fields_does_not_change_a_digest() -> None:
    for seed, fields in enumerate(PINNED.values()):
        whole = Trial.model_validate(fields).model_dump(mode="json")
        whole["model"]["kwargs"] = {"widths": [1], "b": {"d": 1, "c": 2}, "a": None}
        expected = Trial.model_validate(whole).digest()
        for _ in range(5):
            assert Trial.model_validate(shuffled(whole, random.Random(seed))).digest() == expected


def test_every_field_but_the_depth_of_the_ladder_changes_the_digest() -> None:
    other: dict[str, Any] = {
        "data.source": "mnist", "data.path": "x", "data.kwargs": {"a": 1}, "data.train": 7, "data.validation": 0.3,
        "data.test": 0.3, "data.normalise": "none", "data.label": "l", "data.truth": "t", "data.size": 3,
        "data.seed": 1, "data.crop": 5,
        "noise.kind": "pairflip", "noise.rate": 0.3, "noise.count": "per-sample", "noise.map": {"1": 2},
        "noise.path": "x", "noise.key": "k", "noise.seed": 5, "model.name": "mlp", "model.kwargs": {"a": 1},
        "model.init": "he-code", "model.weights": "x", "model.weights_sha256": "0" * 64,
        "recipe.optimizer": "adamw", "recipe.lr": 0.3, "recipe.momentum": 0.5, "recipe.weight_decay": 0.1,
        "recipe.batch_size": 3, "recipe.epochs": 3, "recipe.schedule": "cosine", "recipe.milestones": (3,),
        "recipe.factor": 0.5, "recipe.precision": "bfloat16", "recipe.warmup": 1, "recipe.augment": ("flip",),
        "recipe.decay_by": {"a": 0.1},
        "pruning.criterion": "random", "pruning.fraction": 0.3, "pruning.levels": 3,
        "pruning.scope": "layer", "pruning.ladder": "one-shot", "pruning.include": ("a",), "pruning.exclude": ("a",),
        "pruning.batches": 2, "pruning.score_mode": "train", "pruning.count_ignored": True,
        "pruning.remask": "even", "pruning.steps": (2,), "pruning.parameters": ("a",), "pruning.floor": {"a": 2.0},
        "antidote.kind": "gce", "antidote.alpha": 0.3, "antidote.beta": 0.3, "antidote.temperature": 3.0,
        "antidote.strength": 0.3, "antidote.q": 0.3, "antidote.teacher": "6ce319039cf55635:3",
        "antidote.teacher_model": sections.Model(name="mlp"), "antidote.teacher_force": True,
            "antidote.kwargs": {"a": 1},
        "restart.mode": "scratch", "restart.to": "3it", "restart.lr": 0.5, "restart.start_at": "rewind",
    }  # fmt: skip
    paths = {f"{section}.{field}" for section, kind in kinds_of_sections().items() for field in kind.model_fields}
    assert paths == set(other)
    base = Trial.model_validate({"data": {"source": "npz", "path": "data.npz"}})
    digests = {base.digest(), base.model_copy(update={"seed": 9}).digest()}
    for path, value in other.items():
        section, field = path.split(".")
        changed = getattr(base, section).model_copy(update={field: value})  # without the rules between fields
        digests.add(base.model_copy(update={section: changed}).digest())
    assert len(digests) == len(other)  # pruning.levels and model.weights change nothing


def test_where_verified_data_lie_is_not_part_of_a_trials_identity() -> None:
    def digest(source: str, path: str) -> str:
        return Trial.model_validate({"data": {"source": source, "path": path}}).digest()

    assert digest("mnist", "here") == digest("mnist", "there")
    assert digest("npz", "here") != digest("npz", "there")


def test_a_whole_number_means_the_same_as_its_fraction() -> None:
    assert (
        Trial.model_validate({"recipe": {"lr": 1}}).digest() == Trial.model_validate({"recipe": {"lr": 1.0}}).digest()
    )


def test_a_trial_comes_back_from_its_json() -> None:
    for fields in PINNED.values():
        t = Trial.model_validate(fields)
        assert Trial.model_validate(json.loads(canonical_json(t.canonical()))) == t
        assert Trial.model_validate(json.loads(canonical_json(t.canonical()))).digest() == t.digest()


def test_flat_has_one_entry_for_every_field() -> None:
    expected = {
        f"{section}.{field}" for section, kind in kinds_of_sections().items() for field in kind.model_fields
    } | {"seed"}
    assert set(Trial().flat()) == expected


def test_the_schema_names_every_section_and_every_field_with_its_default() -> None:
    text = schema()
    for section, kind in kinds_of_sections().items():
        part = text.split(f"[{section}]")[1].split("\n\n")[0]
        for name, field in kind.model_fields.items():
            line = next(line for line in part.splitlines() if line.startswith(name + " "))
            assert field.description
            assert field.description.splitlines()[0] in line
    assert all(word in text for word in ("name", "seeds", "extends", "[grid]"))


def test_a_trial_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Trial().seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Trial().recipe.lr = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "value", [math.nan, [1, math.inf], {"a": {1: 2}}, object(), {"when": json}, b"x"], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("section", ["data", "model"])
def test_arguments_that_json_would_change_are_refused(section: str, value: Any) -> None:
    with pytest.raises(ValidationError, match="is not a finite number, text"):
        Trial.model_validate({section: {**({"source": "m:f"} if section == "data" else {}), "kwargs": {"x": value}}})


def test_a_tuple_among_the_arguments_is_a_list() -> None:
    a, b = (Trial.model_validate({"model": {"name": "mlp", "kwargs": {"widths": w}}}) for w in ((3, 4), [3, 4]))
    assert a == b
    assert a.digest() == b.digest()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"restart": {"mode": "rewind", "lr": 0.1}}, "lr belongs to mode = 'finetune'"),
        ({"restart": {"start_at": "rewind"}}, "start_at belongs to mode = 're-init'"),
        ({"recipe": {"schedule": "step"}}, "belong together"),
        ({"recipe": {"milestones": [3]}}, "belong together"),
        ({"recipe": {"schedule": "step", "milestones": [200]}}, "rising epochs between 1 and 199"),
        ({"recipe": {"schedule": "step", "milestones": [9, 3]}}, "rising epochs"),
        ({"recipe": {"optimizer": "adamw", "momentum": 0.5}}, "momentum belongs to optimizer = 'sgd'"),
        ({"noise": {"rate": 0.2}}, "rate > 0 but kind = 'none'"),
        ({"noise": {"kind": "human"}}, "needs path"),
        ({"noise": {"kind": "pairflip", "map": {"1": 2}}}, "map belongs to kind = 'asymmetric'"),
        ({"noise": {"kind": "asymmetric", "map": {"a": 2}}}, "classes are numbers from 0"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Trial.model_validate(fields)


def test_re_init_builds_on_the_rewind_ladder_of_the_same_trial() -> None:
    t = Trial.model_validate({"restart": {"mode": "re-init", "to": "3it", "start_at": "rewind"}, "seed": 4})
    source = t.source_trial()
    assert source == Trial.model_validate({"restart": {"mode": "rewind", "to": "3it"}, "seed": 4})
    assert source is not None
    assert source.source_trial() is None
