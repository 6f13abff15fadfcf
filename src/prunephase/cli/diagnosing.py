"""The command that asks finished levels why."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prunephase.cli.words import (
    HERE,
    Device,
    Json,
    StudyFile,
    Where,
    Workers,
    app,
    examples,
    fail,
    page_of,
    print_json,
    writable,
)
from prunephase.errors import Exit, UserError


@app.command(
    help_epilogue=examples(
        "prunephase diagnose study.toml",
        "prunephase diagnose study.toml --only distance,entropy",
        "prunephase diagnose study.toml --only sharpness --levels dense,dip,peak,12",
        "prunephase diagnose study.toml --only mine:norm --plugins mine",
    )
)
def diagnose(
    study: StudyFile,
    *,
    where: Where = HERE,
    only: Annotated[
        str | None, Parameter(help="Which, with commas between; all of them by default. See docs/diagnoses.md.")
    ] = None,
    levels: Annotated[
        str | None,
        Parameter(
            help="Numbers, all, dense, dip, peak, collapsed, last, with commas between; by default all, or for dear "
            "diagnoses those that tell the story."
        ),
    ] = None,
    workers: Workers = None,
    device: Device = "cpu",
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="The report; default: STORE/NAME.html.")
    ] = None,
    quiet: Annotated[bool, Parameter(negative="", show_default=False, help="No progress.")] = False,
    json: Json = False,
) -> int:
    """Ask finished levels why: what they memorise, how far they went, how sharp and how calibrated they are, ...

    Findings go into the table and the report, and are made once. Nothing is trained but what a diagnosis itself trains.
    """
    from prunephase import diagnose as diagnosing
    from prunephase.diagnoses import chosen
    from prunephase.reports import report
    from prunephase.terminal import follow

    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: expected at least 1")
    kinds = chosen([name.strip() for name in only.split(",")] if only else [], where.plugins)
    whole = where.load(study)
    writable(output)
    wanted = diagnosing.wanted(
        whole, where.store, kinds, [word.strip() for word in levels.split(",")] if levels else []
    )
    total = sum(len(names) * len(tasks) for names, tasks in wanted.items())
    with follow(whole, total, quiet=quiet or json) as observe:
        outcome = diagnosing.diagnose(
            wanted, where.store, kinds, workers=workers, device=device, plugins=where.plugins, observe=observe
        )
    page = report(whole, output or page_of(whole, where.store), where.store)
    if json:
        print_json({"study": whole.name, **asdict(outcome), "report": str(page)})
    else:
        print(f"{outcome.made:,} findings made, {outcome.cached:,} were there")
        print(f"report: {page}")
    for digest, problem in outcome.failed.items():
        fail(f"trial {digest}: {problem}", Exit.PARTIAL)
    return Exit.PARTIAL if outcome.failed else Exit.OK
