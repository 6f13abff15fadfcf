"""The model card: what was exported, in Markdown, and the sentence that says what got smaller and what did not."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from prunephase.exports import reader
from prunephase.plugins import is_reference
from prunephase.reports.words import capital, clipped, listed

Card = Mapping[str, Any]
FASTER = "faster on this machine than the dense network in torch"
SMALLER = 0.95  # of the dense file: less is called smaller


def readme(card: Card) -> str:
    """README.md of an exported folder. What comes from outside (names of classes, of a study) is text and no markup."""
    looks: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, finalize=_plain, **looks)
    environment.filters |= {"percent": percent, "size": size, "count": count, "milliseconds": _ms, "hand": _hand}
    text = resources.files(__package__).joinpath("card.md").read_text("utf-8")
    body = inspect.getsource(reader).partition("import math")
    return environment.from_string(text).render(
        card,
        own=card["model"]["name"] if is_reference(card["model"]["name"]) else None,
        read=Markup((body[1] + body[2]).strip()),
        code=Markup,
        paths=[form["path"] for form in card["forms"]],
    )


def sentence(card: Card) -> str:
    """What got smaller and faster, and what did not, in one sentence; faster: the middle half of its runs were."""
    files = {form["path"]: form for form in card["forms"]}
    dense = files["dense/model.safetensors"]
    whole = dense["bytes"]
    smaller, others = list[str](), [f"the dense file with its zeros ({size(dense['gzip'])} gzipped)"]
    for kind, name in (("sparse", "the bit-packed file"), ("compact", "the compacted network")):
        here = files[f"{kind}/model.safetensors"]["bytes"]
        (smaller if here < SMALLER * whole else others).append(f"{name} ({size(here)})")
    said = [f"smaller than the {size(whole)} of an unpruned network: {listed(smaller) or 'nothing'}"]
    said += [f"not smaller: {listed(others)}", *_speeds(card["latency"] or [])]
    return capital("; ".join(said)) + "."


def _speeds(timings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which forms are faster than the dense one, no faster, and slower, and how many times."""
    dense = {row["batch"]: row for row in timings if row["form"] == "dense"}
    found: dict[str, dict[str, list[tuple[int, float]]]] = {FASTER: {}, "no faster": {}, "slower": {}}
    for row in timings:
        base = dense[row["batch"]]
        how = FASTER if row["high"] < base["low"] else "slower" if row["low"] > base["high"] else "no faster"
        if row is not base:
            found[how].setdefault(row["form"], []).append((row["batch"], base["median"] / row["median"]))

    def named(form: str, at: Sequence[tuple[int, float]], ratios: bool) -> str:
        where = "" if len(at) == len(dense) else f" at batch {at[0][0]}"
        times = listed([f"{ratio:.1f}" for _, ratio in at])
        return f"{form}{where}" + (f" ({times} times)" if ratios else "")

    return [
        f"{how}: {listed([named(form, at, how == FASTER) for form, at in forms.items()])}"
        for how, forms in found.items()
        if forms
    ]


def percent(share: float | None, digits: int = 1) -> Markup:
    """A share as percent.

    >>> str(percent(0.98765, 2)), str(percent(None))
    ('98.77 %', 'not known')
    """
    return Markup("not known" if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f} %")


def size(number: float) -> str:
    """Bytes, in thousands.

    >>> size(999), size(41_250), size(1_070_000)
    ('999 B', '41.2 KB', '1.07 MB')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"


def count(number: float | None) -> str:
    """A whole number with its thousands apart.

    >>> count(266610.0), count(None)
    ('266,610', 'not known')
    """
    return "not known" if number is None else f"{number:,.0f}"


def _ms(row: Mapping[str, Any]) -> str:
    return f"{row['median']:.3g} ({row['low']:.3g} to {row['high']:.3g}), n = {row['n']}"


def _hand(values: Iterable[float]) -> str:
    """A few numbers, or how many there are."""
    known = list(values)
    return ", ".join(f"{value:.6g}" for value in known) if len(known) <= 4 else f"{len(known)} numbers (card.json)"


def _plain(value: Any) -> Any:
    """Text that Markdown shows as it is; what is Markup passes."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return re.sub(r"([\\`*_\[\]<>|&#~])", r"\\\1", clipped(value, 400))
