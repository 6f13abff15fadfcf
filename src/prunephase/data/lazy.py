"""Images larger than memory: bytes in a file that become normalised floats batch by batch."""

# M images of the file, N of the split, B batch, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from mmap import mmap
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Bytes of float32 inputs of all splits from which they stay in their file. Below, every worker has room for the floats,
# and reading a tensor is faster; CIFAR (0.7 GiB) is below, 224 x 224 pixels are beyond from 1,800 images on.
LARGE = 2**30
PART = 2**28  # bytes of float32 made at once
SHARE = 0.5  # of a device's free memory that inputs may take; the rest is for networks and what they compute


def large(*inputs: NDArray[np.generic] | None) -> bool:
    """Whether the arrays together are too much for floats in memory."""
    return 4 * sum(array.size for array in inputs if array is not None) > LARGE


def mapped(inputs: NDArray[np.generic]) -> TypeGuard[np.memmap[tuple[int, ...], np.dtype[np.uint8]]]:
    """Whether these are images of bytes as they lie in a file; a part or a view of one says the wrong place."""
    whole = isinstance(inputs, np.memmap) and isinstance(inputs.base, mmap) and inputs.mode != "c"
    return whole and inputs.dtype == np.uint8 and inputs.ndim > 2 and inputs.flags.c_contiguous


@dataclass(frozen=True, eq=False)
class Images:
    """Stands for the tensor [N, C, H, W] float32 of a split, where few of its images are wanted at a time.

    Indexing, `index_select` and `split` give tensors on `device`, with the very bytes that the whole tensor would hold.
    pixels: [M, C, H, W] or [M, H, W] uint8, mapped from a file; places: [N] of the split's images in it; shift, scale:
    float64, broadcast against `pixels`.
    """

    pixels: np.memmap[tuple[int, ...], np.dtype[np.uint8]]
    places: NDArray[np.int64]
    shift: Tensor
    scale: Tensor
    device: torch.device = torch.device("cpu")  # noqa: RUF009  a value, never changed
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        image = self.pixels.shape[1:]
        return torch.Size((len(self.places), *((1, *image) if len(image) == 2 else image)))

    @property
    def ndim(self) -> int:
        return 4

    def __len__(self) -> int:
        return len(self.places)

    def is_contiguous(self) -> bool:
        """No: there is no memory that others could read the floats from."""
        return False

    def __getitem__(self, chosen: slice | Tensor) -> Tensor:
        """[B, C, H, W]; chosen: a slice, or places [B] int64 in the split."""
        at = self.places[chosen] if isinstance(chosen, slice) else self.places[chosen.cpu().numpy()]
        pixels = torch.from_numpy(np.asarray(self.pixels[at])).to(self.device)  # bytes travel, not floats
        inputs = pixels.double().sub_(self.shift).div_(self.scale).float()
        return inputs.view(len(at), *self.shape[1:])

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """As torch's, along the images. [B] -> [B, C, H, W]."""
        assert dim == 0
        return self[index]

    def split(self, size: int) -> Iterator[Tensor]:
        """As torch's, but one part at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def to(self, device: torch.device) -> Tensor | Images:
        """The same images for another device: the tensor itself where it has room for it, else batch by batch."""
        there = replace(self, device=device, shift=self.shift.to(device), scale=self.scale.to(device))
        if device.type != "cuda" or 4 * self.shape.numel() > SHARE * torch.cuda.mem_get_info(device)[0]:
            return there
        result = torch.empty(self.shape, device=device)
        size = max(1, PART // (4 * self.shape[1:].numel()))
        for start in range(0, len(self), size):
            result[start : start + size] = there[start : start + size]
        return result
