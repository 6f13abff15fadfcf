"""Words: the result of a check for people, as Markdown that also reads well in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prunephase.claims.answers import Answer, Result


def text(result: Result) -> str:
    """The whole result."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: Result) -> Iterator[str]:
    plan = result.plan
    counts = Counter(answer.verdict for answer in result.answers)
    yield f"# Claims of {plan.title}"
    yield ""
    yield f"Scale {result.scale}: {plan.scales[result.scale]}"
    seeds = f"{len(plan.seeds)} seeds; alpha {plan.alpha:g} after Holm over the claims"
    yield f"Source: {plan.source}. Plan of {plan.history[-1].on}; {seeds}."
    yield ""
    yield "| claim | verdict | effect | 95 % interval | of interest | n | p | after Holm | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for answer in result.answers:
        yield f"| {' | '.join(_cells(answer))} |"
    yield ""
    for answer in result.answers:
        yield f"- {answer.claim.id}: {answer.claim.says} ({answer.claim.place}) Found: {answer.found.detail}."
    yield ""
    if result.untestable:
        yield "## Not testable here"
        yield ""
        for one in result.untestable:
            yield f"- {one.says} ({one.place}) - {one.why}"
        yield ""
    words = [f"{counts[word]} {word}" for word in ("reproduced", "not reproduced", "underpowered")]
    yield f"{', '.join(words)}, {len(result.untestable)} not testable here."
    yield f"{result.seconds:.0f} s on the clock this time; {result.training:.0f} s of training in all."


def _cells(answer: Answer) -> Iterator[str]:
    claim, found = answer.claim, answer.found
    share = found.unit == "accuracy"
    unit = "levels" if not share else "%" if claim.test == "within" else "points"
    factor = 100.0 if share else 1.0
    yield claim.id
    yield answer.verdict
    yield "none" if found.effect != found.effect else f"{factor * found.effect:.2f} {unit}"
    yield "none" if found.interval is None else " to ".join(f"{factor * end:.2f}" for end in found.interval)
    if claim.low is not None and claim.high is not None:
        yield f"{factor * claim.low:g} to {factor * claim.high:g}"
    else:
        yield f"below {factor * claim.least:g}" if claim.test == "no dip" else f"from {factor * claim.least:g}"
    yield str(found.n)
    yield "none" if found.p is None else f"{found.p:.2g}"
    yield "none" if answer.adjusted is None else f"{answer.adjusted:.2g}"
    yield f"{answer.seconds:.0f}"
