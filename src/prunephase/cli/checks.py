"""The command that tests a paper's claims."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prunephase.cli.words import Device, Json, Output, StoreFolder, Workers, app, examples, fail, print_json
from prunephase.disk import refusals
from prunephase.errors import UserError


@app.command(
    help_epilogue=examples(
        "prunephase check he2022", "prunephase check seed003 --scale reduced --store checks -o check.md"
    )
)
def check(
    paper: Annotated[str, Parameter(help="he2022, seed003, quetu2024, quest2023 or vit2023.")],
    *,
    scale: Annotated[str, Parameter(help="small: minutes on two cores; reduced: hours.")] = "small",
    store: StoreFolder = Path("runs"),
    workers: Workers = None,
    device: Device = "cpu",
    output: Output = None,
    quiet: Annotated[bool, Parameter(negative="", show_default=False, help="No progress.")] = False,
    json: Json = False,
) -> int:
    """Test a paper's claims at a small scale: reproduced, not reproduced or underpowered, with effect and interval.

    Each paper has a plan that was fixed before it was run. Interrupt it when you like: finished levels are safe.
    """
    from prunephase import claims
    from prunephase.store import Store
    from prunephase.terminal import clean, watch

    plan = claims.load(paper)
    whole = plan.whole(scale)
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: expected at least 1")
    if output is not None and output.is_dir():
        raise UserError(f"-o {output}: is a folder; expected the name of a file")
    with watch(whole, Store(store), quiet=quiet or json) as observe:
        result, outcome = claims.check(plan, scale, store, workers=workers, device=device, observe=observe)
    words = claims.text(result)
    if json:
        print_json(result.as_json())
    else:
        print(clean(words), end="")
    if output is not None:
        with refusals(output):
            output.write_text(words, "utf-8")
    for digest, problem in outcome.failed.items():
        fail(f"trial {digest}: {problem}", outcome.code)
    for digest in sorted(outcome.diverged):
        print(f"prunephase: trial {digest} diverged; its earlier levels are kept", file=sys.stderr)
    return outcome.code
