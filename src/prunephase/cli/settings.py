"""Commands about settings: published ones, a file to begin with, a reference of every field."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from prunephase.cli.words import Json, Output, app, examples, print_json
from prunephase.disk import refusals
from prunephase.errors import Exit, UserError


@app.command(
    help_epilogue=examples(
        "prunephase init -o study.toml",
        "prunephase init he2022-mnist > mnist.toml",
    )
)
def init(
    preset: Annotated[
        str,
        Parameter(help="Which published setting, NAME or NAME:small; see `prunephase presets`."),
    ] = "demo",
    *,
    output: Output = None,
) -> int:
    """Give a commented study file to change; on stdout without -o. Never overwrites."""
    from prunephase.study import preset_text

    text = preset_text(preset.removeprefix("preset:"))
    if output is None:
        print(text, end="")
        return Exit.OK
    if output.exists():
        raise UserError(f"{output}: exists; choose another name")
    with refusals(output):
        output.write_text(text, "utf-8")
    return Exit.OK


@app.command(help_epilogue=examples("prunephase presets"))
def presets(*, json: Json = False) -> int:
    """List the published settings that come with the program, with what each costs at full and at small scale.

    PFLOPs: 3 x multiply-accumulates of a forward pass x examples x epochs x levels in 1e15, dense at every level: the
    papers' convention. Take the small scale as preset:NAME:small.
    """
    from prunephase.cli.costs import price
    from prunephase.study import presets as names
    from prunephase.study import read

    about = names()
    scales = {name: ["", *(f":{scale}" for scale in read(f"preset:{name}").get("scales", {}))] for name in about}
    costs = {f"{name}{scale}": price(f"{name}{scale}") for name in about for scale in scales[name]}
    if json:
        print_json({full: {"about": about[full.partition(":")[0]], **asdict(cost)} for full, cost in costs.items()})
        return Exit.OK
    print(f"{'preset':<30} {'trials':>7} {'trainings':>10} {'epochs':>10} {'PFLOPs':>12}")
    for full, cost in costs.items():
        name, _, scale = full.partition(":")
        compute = f"{cost.pflops:,.0f}" if cost.pflops >= 100 else f"{cost.pflops:.2g}"
        numbers = f"{cost.trials:>7,} {cost.trainings:>10,} {cost.epochs:>10,} {compute:>12}"
        if not scale:
            print(about[name])
        print(f"  {full:<28} {numbers}")
    print(
        "PFLOPs: 3 x multiply-accumulates forward x examples x epochs x levels, dense, in 1e15 (the papers' convention)"
    )
    return Exit.OK


@app.command(help_epilogue=examples("prunephase schema"))
def schema(
    *, json: Annotated[bool, Parameter(negative="", show_default=False, help="A JSON schema, for editors.")] = False
) -> int:
    """Print a reference of every field of a study file."""
    from prunephase.study import schema as reference
    from prunephase.trial import Trial

    if json:
        print_json(Trial.model_json_schema())
    else:
        print(reference(), end="")
    return Exit.OK
