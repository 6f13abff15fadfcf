"""A task: what a worker is given of a study, and how it ends."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from prunephase.errors import Exit, PrunephaseError
from prunephase.stop import Stop
from prunephase.trial import Trial

LONGEST = 160  # characters of somebody else's error that are shown; its log holds the rest


@dataclass(frozen=True)
class Task:
    """A trial's ladder, or some `levels` of one whose levels stand side by side. stop: what may end it sooner."""

    trial: Trial
    levels: tuple[int, ...] | None = None
    stop: Stop | None = None


@dataclass(frozen=True)
class Finished:
    """The end of a task. problem: None, or one line; code: the exit code it asks for; trace: of the unforeseen."""

    problem: str | None = None
    code: int = Exit.OK
    trace: str = ""


def failure(problem: BaseException) -> Finished:
    """How a task ended that raised `problem`."""
    if isinstance(problem, PrunephaseError):
        return Finished(str(problem), problem.code)
    text = " ".join(f"{type(problem).__name__}: {problem}".split())
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return Finished(text, Exit.BUG, "".join(traceback.format_exception(problem)))
