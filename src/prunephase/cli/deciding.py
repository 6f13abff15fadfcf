"""Commands that decide about finished ladders: when to stop, which level to take, which antidote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prunephase.cli.words import (
    HERE,
    Json,
    StudyFile,
    Where,
    aligned,
    app,
    examples,
    points,
    print_json,
)
from prunephase.errors import Exit, UserError

if TYPE_CHECKING:
    from prunephase.analysis.select import Estimate


@app.command(help_epilogue=examples("prunephase stops study.toml", "prunephase stops study.toml --json"))
def stops(
    study: StudyFile,
    *,
    where: Where = HERE,
    json: Json = False,
) -> int:
    """Replay stop rules on finished ladders: where each ends, the accuracy there, its regret and what it saves.

    A rule sees validation and train accuracy and activation entropy, level by level; the test set only judges it.
    """
    from prunephase import table as tables
    from prunephase.analysis.replay import replay
    from prunephase.store import Store
    from prunephase.terminal import clean

    whole = where.load(study)
    replays = replay(where.levels(whole), cards=tables.cards(Store(where.store), whole.trials))
    if json:
        print_json({"study": whole.name, "store": str(where.store), "groups": [one.as_json() for one in replays]})
        return Exit.OK
    head = ("rule", "n", "last level", "taken", "test accuracy", "regret, points", "trainings", "epochs saved", "false")
    for one in replays:
        said = one.found
        lines = [", ".join(f"{name} = {value}" for name, value in one.key.items()), f"Verdict: {said.sentence}"]
        if one.unfinished:
            lines.append(f"Left out, as their ladders are not finished: seeds {', '.join(map(str, one.unfinished))}.")
        print(clean("\n".join(filter(None, lines))))
        rows = []
        for rule in one.rules:
            if rule.why_not:
                print(clean(f"{rule.rule}: not asked: {rule.why_not}"))
                continue
            false = "-" if rule.false_stops is None else f"{rule.false_stops} of {len(rule.outcomes)}"
            taken, saved = [held.chosen_level for held in rule.outcomes], rule.fact("epochs_saved")
            rows.append(
                (
                    rule.rule,
                    str(len(rule.outcomes)),
                    _span([held.stop_level for held in rule.outcomes]),
                    _span(taken),
                    points(rule.fact("test")),
                    points(rule.fact("regret")),
                    f"{rule.fact('trainings').mean:.1f} of {one.levels}",
                    f"{saved.mean:,.0f}",
                    false,
                )
            )
        print(aligned(head, rows) if rows else "No ladder is finished.")
        print()
    if whole.stop.drives:
        print(f"Ladders that {whole.stop.rule} ended count as far as they go: what lies deeper is known to nobody.")
    print(
        "Means over n seeds with 95 % Student-t intervals. The oracle is chosen on test. False: seeds whose ladder was "
        "ended before the dip was over, or before the peak at a cost of more than 1 point (docs/stops.md)."
    )
    return Exit.OK


@app.command(
    help_epilogue=examples(
        "prunephase select study.toml",
        "prunephase select study.toml --rule best --clean",
        "prunephase select study.toml --clean --transition estimated",
    )
)
def select(
    study: StudyFile,
    *,
    where: Where = HERE,
    rule: Annotated[
        str,
        Parameter(
            help="best: the best mean validation accuracy; one-se: the sparsest level within one standard error."
        ),
    ] = "one-se",
    clean: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Expected accuracy on true labels, by the transition matrix of the training labels.",
        ),
    ] = False,
    transition: Annotated[
        str,
        Parameter(
            help="Which matrix, for --clean: card: that of the noise card, known; estimated: from the training labels "
            "alone, by cleanlab; or a file, .json of audit-labels or .csv."
        ),
    ] = "card",
    json: Json = False,
) -> int:
    """Say which model to take, by the noisy held-out labels alone, and what to expect of it.

    Where the test set is there, it tells afterwards what the choice forfeited; it never chooses.
    """
    from prunephase import table as tables
    from prunephase.analysis.select import RULES
    from prunephase.analysis.select import select as choose
    from prunephase.store import Store
    from prunephase.terminal import clean as printable
    from prunephase.terminal import percent

    named = next((known for known in RULES if known == rule), None)
    if named is None:
        raise UserError(f"--rule {rule}: expected {' or '.join(RULES)}")
    if transition != "card" and not clean:
        raise UserError(f"--transition {transition}: belongs to --clean; add it")
    whole = where.load(study)
    levels = where.levels(whole)
    cards, matrices = tables.cards(Store(where.store), whole.trials), None
    if transition != "card":
        from prunephase.bench import Site
        from prunephase.labels import transitions

        matrices = transitions(transition, whole.trials, cards, Site(where.store, plugins=frozenset(where.plugins)))
    found = choose(levels, named, cards=cards, clean=clean, transitions=matrices)
    if not found:
        raise UserError(f"{where.store}: no ladder of '{whole.name}' is finished; run it to its end")
    if json:
        used = {"transition": transition} if clean else {}
        selections = [one.as_json() for one in found]
        print_json({"study": whole.name, "store": str(where.store), **used, "selections": selections})
        return Exit.OK
    by = {"card": "known, of the noise card", "estimated": "estimated by cleanlab"}.get(transition, f"of {transition}")
    for one in found:
        n = len(one.own)
        labels = f"true labels (transition matrix {by})" if one.clean else "labels as noisy as these"
        lines = [
            ", ".join(f"{name} = {value}" for name, value in one.key.items()),
            f"Take level {one.level} of trial {one.trial} (seed {one.seed}): {percent(one.sparsity, 2)} sparse.",
            f"Chosen by {one.rule} on the mean validation accuracy of {n} seeds, {percent(one.validation)}; among the "
            "seeds by its own.",
            f"Expected accuracy on {labels}: {_estimate(one.expected)}.",
            f"On the test set, which chose nothing: {points(one.test)} % (n = {n}), {points(one.regret)} points "
            "below each seed's best level (oracle); where each seed chooses for itself "
            f"{points(one.own_regret)} points.",
        ]
        if one.unfinished:
            lines.append(f"Left out, as their ladders are not finished: seeds {', '.join(map(str, one.unfinished))}.")
        print(printable("\n".join(filter(None, lines))))
        head = ("seed", "alone it takes", "sparsity", "validation", "expected", "test", "regret, points")
        rows = [
            (
                str(own.seed),
                f"level {own.level}",
                percent(own.sparsity, 2),
                percent(own.validation),
                _estimate(own.expected),
                percent(own.test),
                f"{100 * own.regret:.1f}",
            )
            for own in one.own
        ]
        print(f"{aligned(head, rows)}\n")
    return Exit.OK


@app.command(help_epilogue=examples("prunephase arms preset:antidotes", "prunephase arms study.toml --json"))
def arms(
    study: StudyFile,
    *,
    where: Where = HERE,
    json: Json = False,
) -> int:
    """Compare the arms of a study, such as antidotes, with its arm "none": dip, accuracy, cost; which one to use.

    Differences are paired by seed, p-values adjusted over the arms after Holm. Validation takes levels and the arm; the
    test set only judges (docs/antidotes.md).
    """
    from prunephase.analysis.advice import sentence
    from prunephase.analysis.arms import benches
    from prunephase.spent import spent
    from prunephase.terminal import clean

    whole = where.load(study)
    found = benches(where.levels(whole), spent(where.view(whole), whole.trials, where.plugins))
    if not found:
        raise UserError(
            f"'{whole.name}': no arms to compare; write [arms.none] and an arm beside it (docs/antidotes.md)"
        )
    if json:
        benched = [{"sentence": sentence(bench), **bench.as_json()} for bench in found]
        print_json({"study": whole.name, "store": str(where.store), "benches": benched})
        return Exit.OK
    head = (
        "arm",
        "n",
        "dip",
        "depth",
        "dense",
        "chosen by validation",
        "less none, points",
        "p, Holm",
        "cost",
        "seconds",
    )
    for bench in found:
        print(clean(", ".join(f"{name} = {value}" for name, value in bench.key.items())), end="\n" if bench.key else "")
        rows = []
        for arm in bench.arms:
            gain, costs = arm.against.get("chosen"), arm.costs
            rows.append(
                (
                    arm.name,
                    str(arm.values["dense"].n),
                    arm.phases.verdict if arm is bench.arms[0] else arm.dip(bench.plain),
                    *(points(arm.values[name]) for name in ("depth", "dense", "chosen")),
                    points(gain) if gain else "",
                    f"{gain.adjusted:.3f}" if gain and gain.adjusted is not None else "",
                    *(f"{costs[name]:.2f}" if name in costs else "-" for name in ("with_teacher_forward", "seconds")),
                )
            )
        print(clean(aligned(head, rows)))
        print(clean(f"{sentence(bench)}\n"))
    print(
        "Means over n seeds with 95 % Student-t intervals, in percent and points. depth: of the dip below the lower of "
        "its sides. cost, seconds: relative to none, teachers' trainings and forward passes counted."
    )
    return Exit.OK


def _span(levels: list[int]) -> str:
    low, high = min(levels), max(levels)
    return str(low) if low == high else f"{low} to {high}"


def _estimate(held: Estimate) -> str:
    within = "" if held.low is None or held.high is None else f" [{100 * held.low:.1f}, {100 * held.high:.1f}]"
    return f"{100 * held.value:.1f} %{within}"
