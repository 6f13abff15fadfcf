"""The check: train what a plan still lacks, judge its claims, say it in words."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunephase import runs, table
from prunephase.analysis import curve
from prunephase.analysis.compare import holm
from prunephase.claims.evidence import Evidence
from prunephase.claims.judge import TESTS, Found, Verdict, verdict
from prunephase.claims.plan import Claim, Plan, Untestable
from prunephase.runs import Observer, Outcome
from prunephase.store import Store
from prunephase.study import Study

NOTHING = Found(float("nan"), None, 0, None, "accuracy", "nothing was trained")


@dataclass(frozen=True)
class Answer:
    """A claim and what became of it. adjusted: p after Holm; seconds: of training, of all studies that it needs."""

    claim: Claim
    verdict: Verdict
    found: Found
    adjusted: float | None
    seconds: float


@dataclass(frozen=True)
class Result:
    """All answers of a plan at a scale. seconds: on the clock, this time; training: seconds of all its levels."""

    plan: Plan
    scale: str
    answers: tuple[Answer, ...]
    seconds: float
    training: float

    @property
    def untestable(self) -> Sequence[Untestable]:
        return self.plan.untestable

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, for `--json`."""
        return {
            "paper": self.plan.title,
            "scale": self.scale,
            "alpha": self.plan.alpha,
            "claims": [
                {
                    **{key: getattr(answer.claim, key) for key in ("id", "says", "place", "least")},
                    "verdict": answer.verdict,
                    **{k: v if v == v else None for k, v in asdict(answer.found).items() if k != "settled"},
                    "adjusted": answer.adjusted,
                    "seconds": answer.seconds,
                }
                for answer in self.answers
            ],
            "not_testable": [one.model_dump() for one in self.untestable],
            "seconds": self.seconds,
            "training_seconds": self.training,
        }


def check(
    plan: Plan,
    scale: str,
    store: str | Path,
    *,
    workers: int | None = None,
    device: str = "cpu",
    observe: Observer | None = None,
) -> tuple[Result, Outcome]:
    """Train what is missing and judge every claim; the outcome says what could not be trained.

    Raises as `runs.train` does, before anything is written where a study cannot be trained.
    """
    begun = time.monotonic()
    outcome = runs.train(plan.whole(scale), store, workers=workers, device=device, observe=observe)
    return evaluate(plan, scale, store, time.monotonic() - begun), outcome


def evaluate(plan: Plan, scale: str, store: str | Path, seconds: float = 0.0) -> Result:
    """Judge every claim by what the store holds."""
    place = Store(store)
    seen = {name: _evidence(place, plan.study(name, scale)) for name in plan.needed}
    found = []
    for claim in plan.claims:
        needed = [seen[name] for name in claim.studies]
        there = [one for one in needed if one is not None]
        found.append(TESTS[claim.test](there, claim) if len(there) == len(needed) else NOTHING)
    adjusted = holm([one.p for one in found])
    answers = tuple(
        Answer(
            claim,
            verdict(one, p, claim.least, plan.alpha),
            one,
            p,
            sum(e.seconds for name in dict.fromkeys(claim.studies) if (e := seen[name]) is not None),
        )
        for claim, one, p in zip(plan.claims, found, adjusted, strict=True)
    )
    return Result(plan, scale, answers, seconds, _training(place, plan.whole(scale)))


def _evidence(store: Store, study: Study) -> Evidence | None:
    """What the store holds of a study; None where that is nothing."""
    frame = table.levels(store, study.trials)
    if frame.is_empty():
        return None
    last, best = (curve(frame, y, by=()).groups()[0] for y in ("test_accuracy", "oracle_test_accuracy"))
    return Evidence(last, best, _training(store, study))


def _training(store: Store, study: Study) -> float:
    """Seconds that the levels of a study took; of those trained with another trial, that trial's."""
    every = {(t.digest(), record.body["level"]) for t in study.trials for record in store.levels(t)}
    return float(sum(store.facts(digest, level).get("seconds", 0.0) for digest, level in every))
