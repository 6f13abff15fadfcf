"""Re-masking: controls that keep how many weights stay, and shuffle which (the branch of He et al.'s code)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunephase import streams

How = Literal["layer", "global", "even"]


def remask(masks: Mapping[str, Tensor], how: How, seed: int, level: int) -> dict[str, Tensor]:
    """Masks of the same shapes with as many survivors in all, drawn uniformly among all masks of their kind.

    layer: as many in each layer as `masks` has; even: the same density in every layer up to rounding, so that only the
    total is kept; global: anywhere in the network. The stream is (seed, "score", "remask", level); but for global,
    every layer has its own. Levels are drawn apart: unlike those of a ladder, the results are not nested.
    """

    def shuffled(flat: NDArray[np.bool_], *where: str) -> NDArray[np.bool_]:
        return streams.generator(seed, "score", "remask", level, *where).permutation(flat)

    flat = {name: mask.cpu().flatten().numpy() for name, mask in masks.items()}
    ends = np.cumsum([len(part) for part in flat.values()])[:-1]
    if how == "global":
        parts = np.split(shuffled(np.concatenate(list(flat.values()))), ends)
    elif how == "even":
        sizes = {name: len(part) for name, part in flat.items()}
        keep = spread(sizes, sum(int(part.sum()) for part in flat.values()))
        parts = [shuffled(np.arange(size) < keep[name], name) for name, size in sizes.items()]
    else:
        parts = [shuffled(part, name) for name, part in flat.items()]
    return {name: torch.from_numpy(part).view_as(masks[name]) for name, part in zip(masks, parts, strict=True)}


def spread(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """`total` shared among layers in proportion to their sizes: rounded down, the rest to the largest remainders.

    >>> spread({"a": 30, "b": 10, "c": 10}, 7)
    {'a': 4, 'b': 2, 'c': 1}
    """
    whole = sum(sizes.values())
    counts = {name: size * total // whole for name, size in sizes.items()}
    remainders = sorted(sizes, key=lambda name: -(sizes[name] * total % whole))  # stable: ties to the first layer
    for name in remainders[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
