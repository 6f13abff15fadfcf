"""What a diagnosis gives: rows, and large by-products beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunephase.errors import UserError

# Every row names its `part`: "network", or a layer, a class, a point of a path. Numbers are shares, nats or bits, never
# percent; None where nothing can be said.
Row = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Finding:
    """rows: the result; arrays: what is too large for rows, such as a bit-packed ledger, kept as one blob."""

    rows: Sequence[Row]
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


def finding(said: Any, name: str) -> Finding:
    """What the diagnosis called `name` gave, as a Finding: one already, rows, or numbers of the network by name.

    Raises UserError where a user's own gave something else.
    """
    found = said if isinstance(said, Finding) else Finding([{"part": "network", **said}] if _table(said) else said)
    if not isinstance(found.rows, Sequence) or not all(_table(row) and "part" in row for row in found.rows):
        raise UserError(
            f"--only {name}: gave {type(said).__name__}, expected numbers by name, or rows with a 'part' each"
        )
    for row in found.rows:
        for key, value in row.items():
            if not isinstance(value, str | int | float | None) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                raise UserError(
                    f"--only {name}: {key} = {value!r:.40}: expected a finite number, text, True, False or None; "
                    "write float(...) of a tensor"
                )
    return found


def _table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
