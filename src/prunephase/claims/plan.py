"""A plan: a paper's claims, the studies that test them, and what counts as an answer; fixed before anything is run."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import date
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prunephase import study
from prunephase.errors import UserError, nearest
from prunephase.expansion import changed
from prunephase.study import Study


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Base(Frozen):
    """A preset, and what is changed in it at each scale (dotted paths)."""

    preset: str
    scales: dict[str, dict[str, Any]]


class Variant(Frozen):
    """A study: a base with changed fields (dotted paths), for all seeds of the plan."""

    base: str
    changes: dict[str, Any] = {}


class Claim(Frozen):
    """One claim. says: in our words; place: where the paper says it; test, quantity: names in `judge`.

    least: the smallest effect of interest, in accuracy or levels; low, high: of test = "within".
    """

    id: str
    says: str
    place: str
    test: str
    studies: tuple[str, ...]
    quantity: str | None = None
    least: float = Field(gt=0)
    low: float | None = None
    high: float | None = None


class Untestable(Frozen):
    """A claim that this check leaves alone, and why."""

    id: str
    says: str
    place: str
    why: str


class Change(Frozen):
    """What was done to the plan and when; a change after a run says what the run had shown."""

    on: date
    what: str
    why: str


class Plan(Frozen):
    """A paper's claims. scales: name -> what it is; seeds: of every study; alpha: after Holm over the claims."""

    title: str
    source: str
    alpha: float = Field(gt=0, lt=0.5)
    seeds: tuple[int, ...] = Field(min_length=3)
    scales: dict[str, str]
    bases: dict[str, Base]
    studies: dict[str, Variant]
    claims: tuple[Claim, ...]
    untestable: tuple[Untestable, ...] = ()
    history: tuple[Change, ...] = Field(min_length=1)

    def study(self, name: str, scale: str) -> Study:
        """One of the plan's studies at a scale. Raises UserError for a scale that the plan has not."""
        if scale not in self.scales:
            raise UserError(f"--scale {scale}: unknown; {nearest(scale, self.scales)}")
        variant = self.studies[name]
        base = self.bases[variant.base]
        fields = changed(study.read(f"preset:{base.preset}"), base.scales[scale])
        own = {"name": name, "seeds": list(self.seeds), "grid": {}, "scales": {}}
        return study.parse(changed(fields, variant.changes) | own, f"claims, study {name}")

    def whole(self, scale: str) -> Study:
        """Every trial that the claims need, once."""
        trials = {t.digest(): t for name in self.needed for t in self.study(name, scale).trials}
        return Study(f"{self.title}, scale {scale}", tuple(trials.values()))

    @property
    def needed(self) -> Sequence[str]:
        """Names of the studies that some claim needs, in the order of the plan."""
        return [name for name in self.studies if any(name in claim.studies for claim in self.claims)]


def papers() -> list[str]:
    """Names of the papers that have a plan."""
    folder = resources.files("prunephase.claims")
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def load(paper: str) -> Plan:
    """The plan of a paper, by name. Raises UserError for an unknown one."""
    if paper not in (names := papers()):
        raise UserError(f"'{paper}': no claims known; {nearest(paper, names)}")
    text = resources.files("prunephase.claims").joinpath(f"{paper}.toml").read_text("utf-8")
    return Plan.model_validate(tomllib.loads(text))
