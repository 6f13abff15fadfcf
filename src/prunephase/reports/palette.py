"""Colours: one name each, in light and in dark."""

from __future__ import annotations

from collections.abc import Mapping

from prunephase.looks import ON_LIGHT, PHASES, SHADES

ON_DARK = ("#62b4f0", "#f59a56", "#45c79f", "#e394c0", "#cfca4d", "#8fd3f4", "#bda0e6", "#c8c8c8")
LIGHT: Mapping[str, str] = {
    **{f"s{i}": colour for i, colour in enumerate(ON_LIGHT)},
    "oracle": "#8a8a8a",
    "ink": "#1d2430",
    "faint": "#5c6675",
    "grid": "#e3e6ea",
    "paper": "#ffffff",
    **SHADES,
}
DARK: Mapping[str, str] = {
    **{f"s{i}": colour for i, colour in enumerate(ON_DARK)},
    "oracle": "#8f959e",
    "ink": "#e6e9ee",
    "faint": "#a3acb9",
    "grid": "#2d333d",
    "paper": "#171b21",
    **dict(zip(PHASES, ("#4d6a8c", "#a8543a", "#3a8558", "#6f5f8c"), strict=True)),
}
# On the page a colour is a CSS variable: light, dark and print need no second drawing.
PAGE: Mapping[str, str] = {name: f"var(--{name})" for name in LIGHT}
