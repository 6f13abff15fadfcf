"""What criteria and metrics see at the end of a level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from prunephase import streams
from prunephase.data import Dataset
from prunephase.trial import Trial

if TYPE_CHECKING:
    from prunephase.engine import Job


@dataclass(frozen=True)
class Snapshot:
    """A trained level: the network, its masks, where it came from and what it was trained on.

    level: that of the network; masks: {parameter name: bool tensor of its shape}, True where the weight lives; initial:
    state_dict of the dense start. `data` carries noisy labels and, beside them, the true ones. Of a finished level, as
    diagnoses see it: rewound, the state_dict at the rewind point; redense, that after re-dense training; again gives
    the job that trained it; before, the level before it, where that was trained.
    """

    trial: Trial
    level: int
    network: nn.Module
    masks: Mapping[str, Tensor]
    initial: Mapping[str, Tensor]
    data: Dataset
    rewound: Mapping[str, Tensor] | None = None
    redense: Mapping[str, Tensor] | None = None
    again: Callable[[], Job] | None = None
    before: Callable[[], Snapshot] | None = None

    def generator(self, *where: int | str) -> np.random.Generator:
        """The random stream of this level's scores; name what you draw for: `snapshot.generator("layer1.weight")`."""
        return streams.generator(self.trial.seed, "score", self.level, *where)
