"""The command that goes from coarse to fine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prunephase.cli.words import (
    HERE,
    Device,
    Json,
    StudyFile,
    Where,
    Workers,
    aligned,
    app,
    examples,
    fail,
    points,
    print_json,
)
from prunephase.errors import Exit, UserError

if TYPE_CHECKING:
    from prunephase.refine import Answer
    from prunephase.study import Study


@app.command(help_epilogue=examples("prunephase refine study.toml", "prunephase refine preset:demo --step 4 --json"))
def refine(
    study: StudyFile,
    *,
    where: Where = HERE,
    step: Annotated[int, Parameter(help="Rounds of pruning that a coarse level removes at once.")] = 3,
    workers: Workers = None,
    device: Device = "cpu",
    quiet: Annotated[bool, Parameter(negative="", show_default=False, help="No progress.")] = False,
    json: Json = False,
) -> int:
    """Find dip, peak and the level to take with fewer trainings: a coarse ladder, then single rounds around its turns.

    By validation accuracy alone; the test set judges afterwards. Interrupt it when you like: finished levels are safe.
    """
    from prunephase import refine as refining
    from prunephase.store import Store
    from prunephase.terminal import clean

    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: expected at least 1")
    whole, store = where.load(study), Store(where.store)
    if code := _train(refining.coarse(whole, step), where, workers, device, quiet or json):
        return code
    if code := _train(refining.branches(whole, store, step), where, workers, device, quiet or json):
        return code
    found = refining.refined(whole, store, step)
    if json:
        print_json(
            {"study": whole.name, "store": str(where.store), "step": step, "groups": [r.as_json() for r in found]}
        )
        return Exit.OK
    head = ("", "dip", "peak", "level to take", "sparsity", "validation", "test accuracy", "trainings")
    for one in found:
        rows = [_cells("coarse to fine", one.answer)]
        if one.whole is not None:
            rows.append(_cells("whole ladder", one.whole))
        print(clean(", ".join(f"{name} = {value}" for name, value in one.key.items())))
        print(f"{aligned(head, rows)}")
        print(
            f"{one.answer.trainings} of {one.levels} trainings per seed, {one.saved * one.epochs:,} epochs saved each "
            f"(n = {one.answer.test.n})\n"
        )
    print("Levels are those of the whole ladder. Chosen by the mean validation accuracy; the test set chose nothing.")
    return Exit.OK


def _train(part: Study, where: Where, workers: int | None, device: str, quiet: bool) -> int:
    """Train what is missing of a part of the work; gives the exit code."""
    from prunephase import runs
    from prunephase.terminal import watch

    with watch(part, where.view(part), quiet=quiet) as observe:
        outcome = runs.train(part, where.store, workers=workers, device=device, plugins=where.plugins, observe=observe)
    for digest, problem in outcome.failed.items():
        fail(f"trial {digest}: {problem}", outcome.code)
    for digest in sorted(outcome.diverged):
        print(f"prunephase: trial {digest} diverged, so its curve cannot be refined", file=sys.stderr)
    return outcome.code


def _cells(name: str, one: Answer) -> tuple[str, ...]:
    from prunephase.terminal import percent

    dip, peak = ("none" if at is None else str(at) for at in (one.dip, one.peak))
    accuracy = percent(one.validation)
    return name, dip, peak, str(one.chosen), percent(one.sparsity, 2), accuracy, points(one.test), str(one.trainings)
