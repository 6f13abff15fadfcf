"""Words: how the report writes numbers, and its sentences of finding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from prunephase.looks import THIN

NOTHING = "–"
ORACLE = "oracle (selected on test)"


class Measured(Protocol):
    """A mean over seeds with its spread."""

    @property
    def mean(self) -> float: ...
    @property
    def n(self) -> int: ...
    @property
    def sd(self) -> float | None: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...


def percent(share: float | None, digits: int = 1) -> str:
    """A share as percent.

    >>> percent(0.8213).replace(THIN, " ")
    '82.1 %'
    """
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}{THIN}%"


def seeds(n: int) -> str:
    """How many seeds stand behind a number."""
    return f"n\u00a0=\u00a0{n}"


def mean_sd(found: Measured | None) -> str:
    """Mean, standard deviation of one seed and n, for a table."""
    if found is None:
        return NOTHING
    spread = f" ± {100 * found.sd:.1f}" if found.sd is not None else ""
    return f"{percent(found.mean)}{spread} ({seeds(found.n)})"


def spread(found: Measured) -> str:
    """Spread and n in full words."""
    if found.sd is None or found.interval is None:
        return f"{seeds(found.n)}, so no spread"
    low, high = found.interval
    wide = "; wide by nature" if found.n < 5 else ""
    return f"sd {100 * found.sd:.1f} points, {interval(low, high)}{wide}, {seeds(found.n)}"


def interval(low: float, high: float) -> str:
    """A 95 % interval of shares."""
    return f"95{THIN}% interval {100 * low:.1f} to {100 * high:.1f}"


def points(share: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * share:.1f} points"


def capital(text: str) -> str:
    """The text as the start of a sentence."""
    return text[:1].upper() + text[1:]


def clipped(text: str, longest: int = 200) -> str:
    """One line without control characters, not longer than a cell can show."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def value(something: Any) -> str:
    """A setting as text."""
    if something is None:
        return NOTHING
    if isinstance(something, float):
        return f"{something:g}"
    return clipped(str(something), 400)


def listed(parts: list[str]) -> str:
    """Parts as running text.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def between(values: Sequence[float], unit: str = "") -> str:
    """From the least to the largest of some numbers.

    >>> between([3, 1.25, 3]), between([2, 2])
    ('1.2 to 3', '2')
    """
    low, high = (f"{round(value, 1):g}" for value in (min(values), max(values)))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def across_seeds(settings: Mapping[str, Any], groups: int, n: int) -> str:
    """What differs between the seeds of one curve, and what therefore the spread does not cover."""
    if n < 2:
        return "One seed: nothing varies, so no number on this page has a spread."
    vary = ["the initial weights", "the order of the examples"]
    kind, fixed = settings.get("noise.kind"), settings.get("noise.seed")
    drawn = kind not in (None, "none", "human")
    if drawn and fixed is None:
        vary.append("the noise pattern")
    if settings.get("pruning.criterion") == "random":
        vary.append("the scores of pruning")
    still = "the split of the data"
    if kind == "human" or (drawn and fixed is not None):
        still += " and the noisy labels, so the spread says nothing about other patterns of noise"
    each = "Across the seeds" if groups == 1 else "Across the seeds of each curve"
    return f"{each} (n = {n}) vary {listed(vary)}; fixed is {still}."
