"""What a page is made of: sections, figures, tables. Plain values; the template gives them their looks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Text in cells. `folded`: shown on a click."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = True


@dataclass(frozen=True)
class Panel:
    """One drawing: a Vega-Lite specification, whose description is the drawing's text."""

    spec: dict[str, Any]
    title: str = ""

    @property
    def description(self) -> str:
        """What a screen reader says."""
        return str(self.spec["description"])

    @property
    def height(self) -> int:
        """Room to keep while the script draws, in pixels."""
        return int(self.spec.get("height", 200)) + 90


@dataclass(frozen=True)
class Figure:
    """Drawings that share a caption and a table of their numbers. `wide`: one below the other."""

    panels: Sequence[Panel]
    caption: str
    table: Table
    wide: bool = True


@dataclass(frozen=True)
class Card:
    """One figure of the first screen. `short`: the note in a few words, for a table."""

    name: str
    value: str
    note: str
    short: str
    oracle: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, the finding in a sentence, and what supports it."""

    id: str
    title: str
    finding: str
    notes: Sequence[str] = ()
    verdicts: Sequence[tuple[str, str, str]] = ()  # curve, verdict, sentence
    cards: Sequence[tuple[str, Sequence[Card]]] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    facts: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()


def embedded(value: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or begin another.

    >>> embedded({"a": "</script>"})
    '{"a":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
