"""Looks: colours, and how a sparsity is written, in reports and figures alike."""

from __future__ import annotations

import math
from collections.abc import Mapping

PHASES = ("light", "critical", "sweet", "collapsed")
# Okabe and Ito's hues, told apart by people who see fewer colours; darkened for white, lightened for the dark page.
ON_LIGHT = ("#0063a6", "#c34f00", "#00795a", "#a8487f", "#6b6b00", "#1d8fc4", "#7a52a8", "#444444")
SHADES: Mapping[str, str] = dict(zip(PHASES, ("#9db2c9", "#e8a48a", "#8cc9a1", "#b3a8c4"), strict=True))
THIN = "\u202f"  # narrow no-break space, so that a number and its unit stay on one line


def sparse(sparsity: float) -> str:
    """A sparsity as percent, with more digits near 100 %, where a digit halves what is left.

    >>> [sparse(s).replace(THIN, " ") for s in (0, 0.488, 0.9313, 0.99263, 0.99953)]
    ['0 %', '48.8 %', '93.1 %', '99.26 %', '99.953 %']
    """
    density = 1 - sparsity
    digits = 1 if density >= 0.01 else min(4, 1 + math.ceil(-2 - math.log10(max(density, 1e-6)) + 1e-9))
    return f"{100 * sparsity:.{digits}f}".removesuffix(".0") + f"{THIN}%"
