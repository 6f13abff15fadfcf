"""The section [stop] of a study: by which rule its ladders end by themselves. No trial changes by it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from prunephase.sections import Frozen

PATIENT = ("patience", "entropy", "noisy-validation")  # rules that wait


class Stop(Frozen):
    """When a ladder ends before its last level; the levels that are trained stay the same, byte for byte.

    >>> Stop(rule="entropy").patience is None
    True
    """

    rule: Literal["whole-ladder", "patience", "entropy", "clean-share", "noisy-validation", "label-wave"] = Field(
        "whole-ladder",
        description="whole-ladder: never | patience | entropy | clean-share | noisy-validation | label-wave: "
        "docs/stops.md",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="patience, entropy, noisy-validation: levels to wait for a new best; default: the rule's own",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Stop:
        if self.patience is not None and self.rule not in PATIENT:
            raise ValueError(f"patience belongs to rule = {' or '.join(map(repr, PATIENT))}, not '{self.rule}'")
        return self

    @property
    def drives(self) -> bool:
        """Whether any ladder can end by it."""
        return self.rule != "whole-ladder"


NEVER = Stop()
