"""The section of suspect labels: how well the labels given up in the sweet phase are the wrong ones."""

# N examples.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunephase.analysis.facts import Fact
from prunephase.analysis.suspects import AUC, Suspects
from prunephase.analysis.suspects import suspects as rank
from prunephase.reports.findings import Findings
from prunephase.reports.multiples import MANY
from prunephase.reports.parts import Section, Table
from prunephase.reports.series import Series, first_of, head_of, prefix
from prunephase.reports.words import NOTHING, ORACLE, capital, interval, percent, seeds

NOTES = (
    "Score of a training label: the share of light levels that fit it, less its mean probability at the sweet levels "
    "(docs/suspects.md). AUC: the chance that a wrong label stands above a right one. Seeds with the same labels share "
    "a ranking; n counts rankings. prunephase suspects lists the examples, and scores cleanlab beside them.",
)


def suspects(found: Sequence[Series], cards: Mapping[str, Mapping[str, Any]], findings: Findings) -> list[Section]:
    """Suspect labels of every curve whose levels were asked what they memorise; nothing where none was."""
    if "memorisation" not in findings.names:
        return []

    def ledger(trial: str, level: int) -> Mapping[str, Any]:
        return findings.arrays(trial, level, "memorisation")

    ranked = [(one, rank(one.key, one.rows, cards, ledger)) for one in found[:MANY]]
    ranked = [(one, held) for one, held in ranked if held.rankings]
    if not ranked:
        return []
    judged = [held.judged() if held.known else {} for _, held in ranked]
    names = next((tuple(facts) for facts in judged if facts), ())
    rows = [
        (*first_of(one, found), *_levels(held), *(_cell(facts.get(name)) for name in names))
        for (one, held), facts in zip(ranked, judged, strict=True)
    ]
    said = " ".join(
        f"{prefix(one, found)}{_finding(held, facts)}" for (one, held), facts in zip(ranked, judged, strict=True)
    )
    columns = ("fitted at", "given up at", "levels chosen on", "n", *(capital(name) for name in names))
    table = Table("Suspect labels", (*head_of(found), *columns), rows, folded=False)
    return [Section("suspects", "Suspect labels", capital(said), notes=NOTES, tables=[table])]


def _finding(held: Suspects, facts: Mapping[str, Fact]) -> str:
    count = len(held.rankings[0].score)
    if not facts:
        return f"{count:,} labels are ranked; which are wrong is not known."
    auc, first = facts[AUC], facts["precision at 1%"]
    within = f", {interval(*auc.interval)}" if auc.interval else ""
    return (
        f"the labels that sweet levels give up are the wrong ones with AUC {percent(auc.mean)} "
        f"({seeds(auc.n)}{within}); of the first 1 % of {count:,} labels {percent(first.mean)} are wrong."
    )


def _levels(held: Suspects) -> tuple[str, ...]:
    spans = (f"level {levels[0]} to {levels[-1]}" for levels in (held.light, held.sweet))
    return (*spans, f"test curve: {ORACLE}" if held.oracle else "validation curve", str(len(held.rankings)))


def _cell(fact: Fact | None) -> str:
    if fact is None:
        return NOTHING
    return f"{percent(fact.mean)}{f' ({interval(*fact.interval)})' if fact.interval else ''}"
