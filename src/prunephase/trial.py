"""A trial: everything that decides a result. Frozen; its digest is its name."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from pydantic import Field, model_validator

from prunephase.sections import (
    LATER,
    VERIFIED_SOURCES,
    Antidote,
    Data,
    Frozen,
    Model,
    Noise,
    Pruning,
    Recipe,
    Restart,
)


class Trial(Frozen):
    """One network down the ladder of sparsities.

    >>> Trial(seed=3).digest() == Trial(seed=3).digest() != Trial(seed=4).digest()
    True
    """

    data: Data = Data()
    noise: Noise = Noise()
    model: Model = Model()
    recipe: Recipe = Recipe()
    pruning: Pruning = Pruning()
    restart: Restart = Restart()
    antidote: Antidote = Antidote()
    seed: int = Field(0, ge=0, description="seed of the replicate: weights, order, noise, scores")

    @model_validator(mode="after")
    def _consistent(self) -> Trial:
        if self.pruning.remask != "none" and self.restart.mode not in ("rewind", "re-init"):
            raise ValueError(f"pruning.remask needs restart.mode = 'rewind' or 're-init', not '{self.restart.mode}'")
        if self.antidote.chooses and self.pruning.levels == 0:
            raise ValueError(f"antidote.teacher = '{self.antidote.teacher}': chosen among sparse levels; levels = 0")
        if self.antidote.chooses and self.antidote.teacher == "sparse" and self.data.validation == 0:
            raise ValueError("antidote.teacher = 'sparse': chosen by validation accuracy, but data.validation = 0")
        return self

    def canonical(self) -> dict[str, Any]:
        """Every field that decides the numbers of a level, as JSON values.

        How deep the ladder goes is none of them, so that going deeper later trains only what is new; unless a teacher
        is chosen among its levels.
        """
        fields = self._fields()
        if not self.antidote.chooses:
            del fields["pruning"]["levels"]
        fields["model"]["weights"] = None  # where they lie; what they are is weights_sha256
        if (teacher := fields["antidote"]["teacher_model"]) is not None:
            del teacher["weights"]
            if teacher["weights_sha256"] is None:
                del teacher["weights_sha256"]
        for section, values in LATER.items():
            for name, value in values.items():
                if fields[section][name] == value:
                    del fields[section][name]
        return fields

    def dense(self) -> dict[str, Any]:
        """The fields that decide how a network is trained, wherever it starts: all but pruning and restart.

        Where a teacher is chosen from a ladder, that ladder is one of them.
        """
        fields = {name: value for name, value in self.canonical().items() if name not in ("pruning", "restart")}
        teacher = self.teacher_trial() if self.antidote.chooses else None
        return fields if teacher is None else {**fields, "teacher": [teacher.digest(), self.pruning.levels]}

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = self.model_dump(mode="json")
        if self.data.source in VERIFIED_SOURCES:
            fields["data"]["path"] = None
        return fields

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: the trial's name in the store."""
        return hashlib.sha256(canonical_json(self.canonical())).hexdigest()[:16]

    def flat(self) -> dict[str, Any]:
        """The fields as one row of dotted names: {"noise.rate": 0.2, ...}."""
        row: dict[str, Any] = {}
        for section, value in self._fields().items():
            row |= {f"{section}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {section: value}
        if row["model.weights"] is not None:  # one name for them: curves are told apart by what differs
            row["model.weights_sha256"] = None
        return row

    @property
    def side_by_side(self) -> bool:
        """Whether every sparse level builds on the dense one alone: on no other level's weights, and no mask needs one.

        One-shot ladders, random scores with rewinding or new starts, and masks taken from another ladder.
        """
        random = self.pruning.criterion == "random" and self.restart.mode in ("rewind", "scratch")
        return random or self.pruning.ladder == "one-shot" or self.source_trial() is not None

    def builds_on(self, level: int) -> int | None:
        """The level that `level` begins from; None for the dense one."""
        return None if level == 0 else 0 if self.side_by_side else level - 1

    def needs(self) -> dict[str, Trial]:
        """The trials whose ladders must be finished first, by what is taken from them: masks, teacher."""
        found = {"masks": self.source_trial(), "teacher": self.teacher_trial()}
        return {what: trial for what, trial in found.items() if trial is not None}

    def teacher_trial(self) -> Trial | None:
        """The trial that the teacher is a level of: this one without its antidote. None where there is none to train.

        A dense teacher needs its level 0 alone.
        """
        if not self.antidote.teaches or self.antidote.stored is not None:
            return None
        levels = 0 if self.antidote.teacher == "dense" else self.pruning.levels
        return self.model_copy(
            update={
                "antidote": Antidote(),
                "model": self.antidote.teacher_model or self.model,
                "pruning": self.pruning.model_copy(update={"levels": levels}),
            }
        )

    def source_trial(self) -> Trial | None:
        """The trial that masks come from: re-init and remask take them from the rewind ladder."""
        if self.restart.mode != "re-init" and self.pruning.remask == "none":
            return None
        pruning = self.pruning.model_copy(update={"remask": "none"})
        return self.model_copy(update={"pruning": pruning, "restart": Restart(mode="rewind", to=self.restart.to)})


def canonical_json(value: Any) -> bytes:
    """The one spelling of a value: sorted keys, no spaces, shortest floats, no NaN.

    >>> canonical_json({"b": 1.0, "a": [None, True]})
    b'{"a":[null,true],"b":1.0}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def remaining_weights(prunable: int, fraction: float, levels: int, ignored: int = 0) -> list[int]:
    """Weights left at levels 0..levels: each round removes round(fraction * remaining), as torch.nn.utils.prune does.

    `ignored` weights are never pruned but counted in the fraction (`count_ignored`). With them the arithmetic is that
    of He et al.'s code, which removes one more than the fraction, rounded up: the threshold itself goes too.
    The list is shorter than levels + 1 where nothing is left to remove.

    >>> remaining_weights(10, 0.2, 3)
    [10, 8, 6, 5]
    >>> remaining_weights(265_200, 0.2, 30, ignored=1_000)[24:]
    [250]
    """
    counts = [prunable]
    for _ in range(levels):
        share = fraction * (counts[-1] + ignored)
        remove = math.ceil(share) + 1 if ignored else round(share)
        if remove < 1 or remove >= counts[-1]:
            break
        counts.append(counts[-1] - remove)
    return counts


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Optimiser steps of one epoch; the last batch may be short."""
    return math.ceil(examples / batch_size)
