"""Commands that read what is finished, check it or bring it together."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from prunephase.cli.words import (
    HERE,
    Json,
    Output,
    StudyFile,
    Where,
    app,
    examples,
    is_study,
    print_json,
    unformulated,
    writable,
)
from prunephase.disk import refusals
from prunephase.errors import DamagedError, Exit, UserError


@app.command(help_epilogue=examples("prunephase status study.toml --store runs"))
def status(
    study: StudyFile,
    *,
    where: Where = HERE,
    json: Json = False,
) -> int:
    """Say what is done, running or missing. Reads only."""
    from prunephase.stopping import endings
    from prunephase.terminal import clean, percent

    chosen = where.load(study)
    place, ended = where.view(chosen), {one.trial: one for one in endings(where.store, chosen)}
    rows: list[dict[str, Any]] = []
    for trial in chosen.trials:
        chain, name = place.levels(trial), trial.digest()
        holder, failure = place.holder(name), place.failure(name)
        state = "running" if holder else "failed" if failure else "waiting"
        if place.missing(trial) == 0:
            state = "done" if chain[-1].body["status"] == "ok" else chain[-1].body["status"]
        last = chain[-1].body if chain else None
        accuracy = last["epochs"]["test_accuracy"][-1] if last and last["epochs"]["test_accuracy"] else None
        rows.append(
            {
                "trial": name,
                "seed": trial.seed,
                "state": state,
                "levels": len(chain),
                "of": len(chain) if name in ended else trial.pruning.levels + 1,
                "ended": asdict(ended[name]) if name in ended else None,
                "sparsity": last["sparsity"] if last else None,
                "test_accuracy": accuracy,
                "holder": holder,
                "failure": failure if state == "failed" else "",
            }
        )
    if json:
        print_json({"study": chosen.name, "store": str(where.store), "trials": rows})
        return Exit.OK
    for row in rows:
        stopped = ended[row["trial"]].sentence if row["ended"] else ""
        said = [clean(text) for text in (row["holder"] or row["failure"], stopped) if text]
        held = f"  ({'; '.join(said)})" if said else ""
        print(
            f"{row['trial']}  seed {row['seed']:<4} {row['state']:<9} {row['levels']:>3} of {row['of']} levels  "
            f"sparsity {percent(row['sparsity'], 2)}  test {percent(row['test_accuracy'])}{held}"
        )
    finished = sum(r["levels"] for r in rows)
    print(f"{finished:,} of {sum(r['of'] for r in rows):,} levels of {len(rows):,} trials are safe in {where.store}")
    return Exit.OK


@app.command(help_epilogue=examples("prunephase verify runs"))
def verify(
    store: Annotated[Path, Parameter(help="Folder of the results.")] = Path("runs"), *, json: Json = False
) -> int:
    """Check every seal and every blob again. Reads only; `run` sets damaged files aside and makes them anew."""
    from prunephase.store import Store

    place = Store(store)
    if not place.trials() and not (store / "objects").is_dir():
        raise UserError(f"{store}: no store; expected the folder that `prunephase run` filled")
    damages = place.damages()
    if json:
        print_json({"store": str(store), "trials": len(place.trials()), "damages": damages})
    else:
        print("\n".join([*damages, f"{len(place.trials()):,} trials checked, {len(damages):,} damaged files"]))
    if damages:
        raise DamagedError(f"{len(damages)} damaged files; run the study again, it sets them aside and makes them anew")
    return Exit.OK


@app.command(help_epilogue=examples("prunephase merge runs runs-1 runs-2 runs-3", "prunephase merge all runs-*"))
def merge(
    into: Annotated[Path, Parameter(help="Folder of the results that receives; made if it does not exist.")],
    *sources: Annotated[Path, Parameter(name="FROM", help="Folders of results that it receives.")],
    json: Json = False,
) -> int:
    """Bring the results of several folders into one: of a job array, or of several machines.

    Every file is checked before it is copied; what is there already stays. May be interrupted and repeated.
    """
    from prunephase.merge import merge as bring

    found = bring(into, sources)
    if json:
        print_json(asdict(found))
    else:
        print("\n".join([*found.damages, found.line]))
    if found.damages:
        raise DamagedError(f"{len(found.damages)} damaged files were left out; run the study again, it makes them anew")
    return Exit.OK


@app.command(
    help_epilogue=examples(
        "prunephase table study.toml -o results.parquet",
        "prunephase table study.toml --epochs -o epochs.csv",
    )
)
def table(
    study: StudyFile,
    *,
    where: Where = HERE,
    output: Output = None,
    epochs: Annotated[
        bool, Parameter(negative="", show_default=False, help="One row per epoch instead of one per level.")
    ] = False,
) -> int:
    """Write the results as parquet or csv; csv on stdout without -o."""
    from prunephase import table as tables

    chosen = where.load(study)
    if output is not None and output.suffix not in (".csv", ".parquet"):
        raise UserError(f"-o {output}: expected a name that ends in .csv or .parquet")
    place = where.view(chosen)
    frame = tables.epochs(place, chosen.trials) if epochs else tables.levels(place, chosen.trials, chosen.arms)
    if frame.is_empty():
        raise UserError(f"{where.store}: holds no finished level of '{chosen.name}'; run it first, or name its --store")
    if output is not None and output.suffix == ".parquet":
        with refusals(output):
            frame.write_parquet(output)
        return Exit.OK
    if output is None:
        print(unformulated(frame).write_csv(), end="")
    else:
        with refusals(output):
            unformulated(frame).write_csv(output)
    return Exit.OK


@app.command(
    help_epilogue=examples(
        "prunephase phases study.toml",
        "prunephase phases curve.csv --json",
    )
)
def phases(
    curve: Annotated[
        str,
        Parameter(help="A study file, preset:NAME, a csv/parquet file of anybody's curve, or a folder of OpenLTH's."),
    ],
    *,
    where: Where = HERE,
    json: Json = False,
) -> int:
    """Find dip, peak and phases, and say whether there is a sparse double descent.

    Of a finished study, or of any curve: a file with the columns sparsity, test_accuracy and, if known, train_accuracy,
    seed and level; shares or percent; or a finished sweep of OpenLTH or of He et al.'s code (lottery_.../).
    """
    from rich.console import Console

    from prunephase.analysis.curve import curve as curves
    from prunephase.analysis.curve import read_curve
    from prunephase.analysis.phases import phases as detect
    from prunephase.terminal import summary

    if is_study(curve):
        found = curves(where.levels(where.load(curve)))
    else:
        where.unused()
        found = read_curve(Path(curve))
    groups = [(group, detect(group)) for group in found.groups()]
    if json:
        answers = [{**({"group": dict(g.key)} if g.key else {}), **p.as_json()} for g, p in groups]
        print_json(answers[0] if len(answers) == 1 else {"groups": answers})
    else:
        console = Console()
        for group, answer in groups:
            summary(group, answer, console)
    return Exit.OK


@app.command(
    help_epilogue=examples(
        "prunephase report study.toml -o report.html",
        "prunephase report study.toml -o curve.svg",
        "prunephase report lottery_0123/ -o page.html",
        "prunephase report study.toml --axis structure_macs",
    )
)
def report(
    study: Annotated[
        str, Parameter(help="A study file, preset:NAME, a csv/parquet file of a curve, or a folder of OpenLTH's.")
    ],
    *,
    where: Where = HERE,
    output: Output = None,
    axis: Annotated[
        str,
        Parameter(
            help="Draw accuracy and diagnoses against level, sparsity, remaining, or a column of the table, such as "
            "distance_total, entropy_mean or structure_macs."
        ),
    ] = "level",
) -> int:
    """Write the report of whatever is finished: one HTML page that needs nothing else (x.svg, x.png: its curve)."""
    from prunephase.reports import report as write
    from prunephase.reports import report_of

    page = output or Path("report.html")
    writable(page)
    if not is_study(study):
        where.unused()
        print(report_of(Path(study), page))
        return Exit.OK
    chosen = where.load(study)
    print(write(chosen, page, where.store, axis=axis, plugins=where.plugins))
    return Exit.OK
