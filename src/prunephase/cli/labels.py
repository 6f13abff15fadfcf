"""Commands about labels: how many are wrong, before anything is trained, and which, after a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from prunephase.cli.words import (
    HERE,
    Json,
    Output,
    StudyFile,
    Where,
    aligned,
    app,
    examples,
    print_json,
    unformulated,
)
from prunephase.disk import refusals
from prunephase.errors import Exit, UserError

if TYPE_CHECKING:
    from prunephase.analysis.facts import Fact
    from prunephase.analysis.suspects import Suspects
    from prunephase.labels import Listed

SHOWN = 10  # suspects on the screen


@app.command(
    help_epilogue=examples(
        "prunephase suspects study.toml",
        "prunephase suspects study.toml -o suspects.csv --top 500",
        "prunephase suspects study.toml --cleanlab",
    )
)
def suspects(
    study: StudyFile,
    *,
    where: Where = HERE,
    output: Annotated[
        Output, Parameter(name=["--output", "-o"], help="A csv of all suspects, or of --top of each ranking.")
    ] = None,
    top: Annotated[int | None, Parameter(help="How many of each ranking to list; 10 on the screen by default.")] = None,
    cleanlab: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="cleanlab's scores of the same examples beside them, cross-validated (takes the extra labels).",
        ),
    ] = False,
    json: Json = False,
) -> int:
    """List the training labels that the dense network fits and the sweet one gives up: they may be wrong.

    Needs `prunephase diagnose STUDY --only memorisation`. docs/suspects.md defines the score and what judges it.
    """
    import polars as pl

    from prunephase import table as tables
    from prunephase.analysis.curve import split
    from prunephase.analysis.suspects import suspects as rank
    from prunephase.bench import Site
    from prunephase.labels import compared, frame, listed
    from prunephase.reports.findings import kept
    from prunephase.store import Store
    from prunephase.terminal import clean

    if top is not None and top < 1:
        raise UserError(f"--top {top}: expected at least 1")
    if output is not None and output.suffix != ".csv":
        raise UserError(f"-o {output}: expected a name that ends in .csv")
    whole = where.load(study)
    store, site = Store(where.store), Site(where.store, plugins=frozenset(where.plugins))
    cards, findings = tables.cards(store, whole.trials), kept(store, whole.trials)
    trials = {trial.digest(): trial for trial in whole.trials}
    found = [
        rank(key, rows, cards, lambda trial, level: findings.arrays(trial, level, "memorisation"))
        for key, rows in split(where.levels(whole))
    ]
    if not any(one.rankings for one in found):
        raise UserError(f"{where.store}: no suspects of '{whole.name}': {found[0].why_not}")
    lists: list[list[Listed]] = [
        [
            listed(ranking, trials[ranking.trials[0]], site, cards[ranking.trials[0]], cleanlab=cleanlab)
            for ranking in one.rankings
        ]
        for one in found
    ]
    frames = [
        frame(one, top).select(*(pl.lit(_name(about)).alias("curve") for _ in found[1:]), pl.all())
        for about, mine in zip(found, lists, strict=True)
        for one in mine
    ]
    if output is not None:
        with refusals(output):
            unformulated(pl.concat(frames)).write_csv(output)
    judged = [compared(mine) if about.known else {} for about, mine in zip(found, lists, strict=True)]
    if json:
        answers = [
            _json(about, mine, facts, top or SHOWN) for about, mine, facts in zip(found, lists, judged, strict=True)
        ]
        print_json({"study": whole.name, "store": str(where.store), "curves": answers})
        return Exit.OK
    for about, mine, facts in zip(found, lists, judged, strict=True):
        print(clean("\n".join(filter(None, [_name(about), *_said(about, mine, facts)]))))
        for one in mine[: 1 if top is None else None]:
            rows = frame(one, top or SHOWN)
            cells = [[_cell(value) for value in row] for row in rows.iter_rows()]
            print(clean(aligned(rows.columns, cells)))
        print()
    print(f"written: {output}" if output is not None else "-o suspects.csv writes all of them.")
    return Exit.OK


def _name(about: Suspects) -> str:
    return ", ".join(f"{name} = {value}" for name, value in about.key.items())


def _said(about: Suspects, mine: Sequence[Listed], facts: Mapping[str, Mapping[str, Fact]]) -> list[str]:
    """What is compared, and how good it is where the truth is known."""
    if about.why_not:
        return [f"No suspects: {about.why_not}."]
    by = "the test curve: oracle" if about.oracle else "the validation curve"
    sure = "" if about.found.verdict == "present" else f"; the double descent is {about.found.verdict} there"
    lines = [
        f"Fitted at levels {about.light[0]} to {about.light[-1]} (light), given up at {about.sweet[0]} to "
        f"{about.sweet[-1]} (sweet); phases of {by}{sure}.",
        f"{len(mine)} ranking{'s' if len(mine) > 1 else ''} of {len(mine[0].examples):,} labels, "
        f"seeds {'; '.join(' '.join(map(str, one.ranking.seeds)) for one in mine)}.",
    ]
    if not facts:
        return [*lines, "Which labels are wrong is not known, so the ranking is not judged."]
    wrong = [int(one.ranking.wrong.sum()) for one in mine if one.ranking.wrong is not None]
    share = sum(one.mended for one in mine) / len(mine)
    names = list(facts["suspects"])
    rows = [(who, *(_percent(held[name]) if name in held else "" for name in names)) for who, held in facts.items()]
    return [
        *lines,
        f"Wrong: {_span(wrong)} of them. Of the wrong ones among as many first places {100 * share:.1f} % have the "
        "true label suggested.",
        aligned((f"percent, n = {len(mine)}", *names), rows),
    ]


def _json(about: Suspects, mine: Sequence[Listed], facts: Mapping[str, Mapping[str, Fact]], top: int) -> dict[str, Any]:
    from prunephase.labels import frame

    return {
        "group": dict(about.key),
        "verdict": about.found.verdict,
        "oracle": about.oracle,
        "light": list(map(int, about.light)),
        "sweet": list(map(int, about.sweet)),
        "why_not": about.why_not or None,
        "judged": {
            who: {
                name: {"mean": held.mean, "interval": list(held.interval) if held.interval else None, "n": held.n}
                for name, held in of.items()
            }
            for who, of in facts.items()
        },
        "rankings": [
            {
                "seeds": list(one.ranking.seeds),
                "labels": len(one.examples),
                "wrong": None if one.ranking.wrong is None else int(one.ranking.wrong.sum()),
                "mended": one.mended if about.known and math.isfinite(one.mended) else None,
                "top": frame(one, top).drop("seeds").to_dicts(),
            }
            for one in mine
        ],
    }


def _percent(held: Fact) -> str:
    within = f" [{100 * held.interval[0]:.1f}, {100 * held.interval[1]:.1f}]" if held.interval else ""
    return f"{100 * held.mean:.1f}{within}"


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
