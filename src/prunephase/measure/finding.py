"""What a diagnosis gives: rows, and large by-products beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Every row names its `part`: "network", or a layer, a class, a point of a path. Numbers are shares, nats or bits, never
# percent; None where nothing can be said.
Row = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Finding:
    """rows: the result; arrays: what is too large for rows, such as a bit-packed ledger, kept as one blob."""

    rows: Sequence[Row]
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
