"""Commands that train, or say what training costs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from prunephase.cli.words import (
    HERE,
    Device,
    Json,
    StoreFolder,
    StudyFile,
    Where,
    Workers,
    app,
    duration,
    examples,
    fail,
    page_of,
    print_json,
    writable,
)
from prunephase.errors import Exit, UserError

if TYPE_CHECKING:
    from prunephase.study import Study


@app.command(
    help_epilogue=examples(
        "prunephase run study.toml",
        'prunephase run preset:he2022-mnist-short --set "seeds=[0,1,2]" --store runs --workers 2',
        "prunephase run study.toml --plugins mymodels --budget 2h",
        "prunephase run study.toml --on ray --ray-address head:6379",
        "prunephase run study.toml --shard 3/20 --store runs-3",
        "prunephase run study.toml --track wandb --track tensorboard:logs",
    )
)
def run(
    study: StudyFile,
    *,
    where: Where = HERE,
    workers: Workers = None,
    device: Device = "cpu",
    budget: Annotated[str | None, Parameter(help="Stop cleanly after this long: 90s, 30min, 2h.")] = None,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="The report; default: STORE/NAME.html.")
    ] = None,
    allow_numerics_change: Annotated[
        bool, Parameter(negative="", show_default=False, help="Go on after a change of torch, CPU or device.")
    ] = False,
    on: Annotated[Literal["local", "ray"], Parameter(help="Where: this machine, or a Ray cluster.")] = "local",
    ray_address: Annotated[
        str | None,
        Parameter(
            help="The head of the cluster, as HOST:PORT; default: RAY_ADDRESS, or a cluster of this machine alone."
        ),
    ] = None,
    carbon: Annotated[
        str | None,
        Parameter(
            help="Have codecarbon estimate energy and emissions, with the grid of this country: DEU, FRA, USA, ... "
            "(`prunephase cost` shows them)."
        ),
    ] = None,
    shard: Annotated[str | None, Parameter(help="The i-th of n parts of the study, as i/n: for job arrays.")] = None,
    track: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="Tell an experiment tracker of each level: wandb[:PROJECT], trackio[:PROJECT], mlflow[:URI], "
            "tensorboard[:FOLDER]. May be given several times.",
        ),
    ] = None,
    quiet: Annotated[bool, Parameter(negative="", show_default=False, help="No progress.")] = False,
    json: Json = False,
) -> int:
    """Train what is missing of a study; ends with the table, the verdict and the report.

    Interrupt it when you like: finished levels are safe, and the same command goes on.
    """
    from prunephase import runs, tracking
    from prunephase.carbon import followed
    from prunephase.store import Store
    from prunephase.terminal import names, watch

    chosen = where.load(study)
    part = None if shard is None else _Part(shard, chosen, study)
    chosen = part.study if part else chosen
    seconds = _seconds(budget)
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: expected at least 1")
    if ray_address is not None and on != "ray":
        raise UserError(f"--ray-address {ray_address}: belongs to --on ray")
    if carbon is not None and on == "ray":
        raise UserError(f"--carbon {carbon}: sees this machine alone, not the workers of --on ray; leave it out")
    writable(output)
    tracking.check(track or ())
    if not chosen.trials:
        print(f"{chosen.name}: no trials in this part, nothing to do", file=sys.stderr)
        return Exit.OK
    place = Store(where.store)
    with (
        watch(chosen, where.view(chosen), quiet=quiet or json) as show,
        tracking.tracked(chosen, names(chosen), track or (), show, lambda line: fail(line, Exit.OK)) as tell,
        _executor(on, ray_address, workers, device, where.plugins) as (executor, count),
        contextlib.nullcontext(tell) if carbon is None else followed(chosen, place, carbon, tell) as observe,
    ):
        outcome = runs.train(
            chosen,
            where.store,
            workers=count,
            device=device,
            plugins=where.plugins,
            allow_numerics_change=allow_numerics_change,
            seconds=seconds,
            observe=observe,
            executor=executor,
        )
    page = output or page_of(chosen, where.store)
    _finish(chosen, where, page, outcome, json, part)
    return outcome.code


@app.command(help_epilogue=examples("prunephase plan preset:he2022-mnist --workers 2"))
def plan(
    study: StudyFile,
    *,
    where: Where = HERE,
    workers: Workers = None,
    device: Device = "cpu",
    json: Json = False,
) -> int:
    """Say what a study costs before anything is spent: trainings, compute, disk, and hours from a short probe."""
    from prunephase import execute
    from prunephase import plan as plans
    from prunephase.bench import Site

    chosen = where.load(study)
    cost = plans.estimate(
        chosen,
        Site(where.store, device, frozenset(where.plugins)),
        workers if workers is not None else execute.default_workers(),
    )
    if json:
        print_json(asdict(cost))
        return Exit.OK
    print(f"trials      {cost.trials:,}")
    print(f"levels      {cost.levels:,} of which {cost.trainings:,} are still to be trained ({cost.epochs:,} epochs)")
    if chosen.stop.drives:
        print(f"            at most: {chosen.stop.rule} may end ladders sooner, and all that follows with them")
    print(f"compute     {cost.macs / 1e12:,.1f} tera multiply-accumulates at dense cost, forward and backward")
    print(f"disk        about {cost.bytes / 1e6:,.0f} MB")
    print(
        f"time        {duration(cost.seconds)} with {cost.workers} workers "
        f"({duration(cost.core_seconds)} on one core), by a short probe"
    )
    return Exit.OK


@app.command(help_epilogue=examples("prunephase demo"))
def demo(
    *,
    store: StoreFolder = Path("demo/runs"),
    workers: Workers = None,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="The report.")] = Path("demo/report.html"),
    json: Json = False,
) -> int:
    """See all four phases in a minute or two: scikit-learn's digits with 30 % wrong labels, offline."""
    return run("preset:demo", where=Where(store=store), workers=workers, output=output, json=json)


@contextlib.contextmanager
def _executor(
    on: str, address: str | None, workers: int | None, device: str, plugins: Sequence[str]
) -> Iterator[tuple[Any, int | None]]:
    """Who trains, and how many at a time (None: as many as there are cores)."""
    from prunephase import execute

    if on == "local":
        yield execute.map, workers
        return
    from prunephase.execute.ray import cluster

    with cluster(address, workers=workers, plugins=plugins) as joined:
        yield joined.map, joined.workers(device)


class _Part:
    """One shard of a study, from "3/20"."""

    def __init__(self, text: str, whole: Study, file: str) -> None:
        index, slash, of = text.partition("/")
        numbers = [int(word) if word.isascii() and word.isdecimal() and len(word) < 7 else 0 for word in (index, of)]
        if not slash or not 1 <= numbers[0] <= numbers[1]:
            raise UserError(f"--shard {text}: expected i/n with i from 1 to n, such as 3/20")
        self.study = whole.shard(*numbers)
        self.text = text
        self.line = (
            f"shard {text}: this is of {len(self.study.trials):,} of the study's {len(whole.trials):,} trials. Once "
            "all shards are done: `prunephase merge ALL STORE...` (not needed where they share a store), then "
            f"`prunephase phases {file} --store ALL`"
        )


def _finish(study: Study, where: Where, page: Path, outcome: Any, json: bool, part: _Part | None) -> None:
    """What a run ends with: table, verdict, report, and the reasons of what failed."""
    from rich.console import Console

    from prunephase import table as tables
    from prunephase.analysis.advice import sentence
    from prunephase.analysis.arms import benches
    from prunephase.analysis.curve import curve
    from prunephase.analysis.phases import phases as detect
    from prunephase.reports import report
    from prunephase.spent import spent
    from prunephase.stopping import endings, told, view
    from prunephase.terminal import clean, names, summary

    answers = []
    place = view(where.store, study)
    frame, ended = tables.levels(place, study.trials, study.arms), endings(where.store, study)
    if not frame.is_empty():
        groups = [(group, detect(group)) for group in curve(frame).groups()]
        answers = [{"group": dict(g.key), **p.as_json()} for g, p in groups]
        if not json:
            for group, found in groups:
                summary(group, found, Console())
            if study.arms:
                paid = spent(place, study.trials, where.plugins)
                print("\n".join(sentence(bench) for bench in benches(frame, paid, [found for _, found in groups])))
        report(study, page, where.store, plugins=where.plugins)
    if json:
        shown = str(page) if answers else None
        print_json(
            {
                "study": study.name,
                **({"shard": part.text} if part else {}),
                "exit": int(outcome.code),
                "failed": outcome.failed,
                "groups": answers,
                **({"stop": study.stop.rule, "ended": [asdict(one) for one in ended]} if study.stop.drives else {}),
                "report": shown,
            }
        )
    elif answers:
        if study.stop.drives:
            called = names(study)
            print("\n".join([*(clean(f"{called[one.trial]}: {one.sentence}") for one in ended), told(study, ended)]))
        print(f"report: {page}")
    if part and not json:
        print(part.line)
    if outcome.out_of_time:
        print("prunephase: budget spent; finished levels are safe, the same command goes on", file=sys.stderr)
    for digest in sorted(outcome.diverged):
        print(f"prunephase: trial {digest} diverged; its earlier levels are kept", file=sys.stderr)
    for digest, problem in outcome.failed.items():
        fail(f"trial {digest}: {problem}", outcome.code)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    for unit, factor in (("min", 60.0), ("s", 1.0), ("h", 3600.0), ("d", 86400.0)):
        number = text.strip().removesuffix(unit)
        if number != text.strip():
            try:
                if 0 < (value := float(number)) < 1e6:
                    return value * factor
            except ValueError:
                pass
            break
    raise UserError(f"--budget {text}: expected a time such as 90s, 30min or 2h")
