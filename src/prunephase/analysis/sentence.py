"""The verdict in one plain sentence."""

from __future__ import annotations

from typing import Protocol


class Place(Protocol):
    """A level on the curve."""

    @property
    def level(self) -> int: ...
    @property
    def sparsity(self) -> float: ...
    @property
    def value(self) -> float: ...


def sentence(
    verdict: str,
    p_value: float | None,
    n: int,
    power: float | None,
    needed: int | None,
    before: float,
    dip: Place | None,
    peak: Place | None,
) -> str:
    """Verdict, p-value, seeds, then dip and peak, which are candidates unless the verdict is "present".

    `before`: mean accuracy that the fall to `dip` starts from; needed: None if more than 100 seeds, or unknown.
    """
    seeds = f"{n} seed{'s' if n != 1 else ''}"
    tested = seeds if p_value is None else f"p = {p_value:.3f}, {seeds}"
    story = _story(before, dip, peak)
    candidate = f"; candidate only: {story}" if story else "; the mean curve has no interior dip"
    if verdict == "present":
        return f"Sparse double descent is present ({tested}): {story}."
    if verdict == "not shown":
        return (
            f"Sparse double descent is not shown ({tested}): a dip of 2 points would have been found with "
            f"{100 * (power or 0):.0f} % power{candidate}."
        )
    if n == 1:
        why = "one seed cannot tell a dip from chance; run at least 3"
    elif p_value is None:
        why = "no spread between the seeds (copies of one another, or no level in common); train each on its own"
    elif n == 2:
        why = "a verdict takes at least 3 seeds"
    else:
        more = f"about {needed} seeds" if needed else "more than 100 seeds"
        why = f"a dip of 2 points would be found with {100 * (power or 0):.0f} % power; {more} would reach 90 %"
    return f"Underpowered ({tested}): {why}{candidate}."


def _story(before: float, dip: Place | None, peak: Place | None) -> str | None:
    if dip is None or peak is None:
        return None
    return (
        f"accuracy falls from {100 * before:.1f} % to {100 * dip.value:.1f} % at level {dip.level} "
        f"({_percent(dip.sparsity)} sparse), then rises to {100 * peak.value:.1f} % at level {peak.level} "
        f"({_percent(peak.sparsity)} sparse)"
    )


def _percent(share: float) -> str:
    """One digit, more near 100 %, where a digit halves the weights that are left."""
    return f"{100 * share:.1f} %" if share < 0.995 else f"{100 * share:.2f} %"
