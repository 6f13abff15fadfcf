"""Augmentation: training images changed at random, a whole batch by one operation on the device."""

# N examples, B batch, C channels, H height, W width, D numbers drawn for an image.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from prunephase import streams

SHIFT = 4  # pixels, at most, each way
AREA, SIDES, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of a cut-out: share of the image, width : height, draws


@dataclass(frozen=True)
class Augmentation:
    """What `recipe.augment` names, as torchvision's RandomHorizontalFlip, RandomCrop(padding=4), RandomResizedCrop do.

    black: [C] float32, what a black pixel is in the inputs, on their device; a shift fills the margin with it. An image
    is first shifted or cut out, then flipped. What comes out is as large as what went in, and never smaller than the
    cut-out, so there is no antialiasing to be asked for.
    """

    names: tuple[str, ...]
    black: Tensor | None = None

    def draws(self, shape: tuple[int, ...], count: int, seed: int, level: int, epoch: int) -> Tensor:
        """What happens to each of `count` images of `shape` [C, H, W] in `epoch`, counted from 0: [N, D] int16.

        From the stream (seed, "augment", level, epoch), for all images at once: neither batches, nor their order, nor
        where a run was resumed change it. In the order flip (0, 1); shift: down, right; resized-crop: top, left,
        height, width.
        """
        if not self.names:
            return torch.empty(count, 0, dtype=torch.int16)
        generator, columns = streams.generator(seed, "augment", level, epoch), list[NDArray[np.int64]]()
        if "flip" in self.names:
            columns.append(generator.integers(0, 2, (count, 1)))
        if "shift" in self.names:
            columns.append(generator.integers(-SHIFT, SHIFT, (count, 2), endpoint=True))
        if "resized-crop" in self.names:
            columns.append(_boxes(shape[-2], shape[-1], count, generator))
        return torch.from_numpy(np.concatenate(columns, 1).astype(np.int16))

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Images [B, C, H, W], each changed as its row of `drawn` [B, D] says."""
        if not self.names:
            return images
        height, width = images.shape[2:]
        numbers = iter(drawn.long().unsqueeze(2).unbind(1))  # each [B, 1]
        rows = torch.arange(height, device=images.device).unsqueeze(0)
        columns = torch.arange(width, device=images.device).unsqueeze(0)
        if "flip" in self.names:
            columns = torch.where(next(numbers) == 1, width - 1 - columns, columns)  # [B, W]
        if "shift" in self.names:
            assert self.black is not None
            return _moved(images, rows + next(numbers), columns + next(numbers), self.black)
        if "resized-crop" in self.names:
            top, left, tall, wide = numbers
            return _sampled(images, _between(rows, height, top, tall), _between(columns, width, left, wide))
        return images.gather(3, columns[:, None, None].expand_as(images))


def _moved(images: Tensor, rows: Tensor, columns: Tensor, black: Tensor) -> Tensor:
    """The pixels at `rows` [B, H] and `columns` [B, W] of each image, black where there are none."""
    count, channels, height, width = images.shape
    first = torch.arange(0, count * channels * height, height, device=images.device).view(count, channels, 1)
    lines = first + rows.clamp(0, height - 1).unsqueeze(1)  # [B, C, H]: whole lines are the fastest to copy
    moved = images.reshape(-1, width).index_select(0, lines.flatten()).view_as(images)
    moved = moved.gather(3, columns.clamp(0, width - 1)[:, None, None].expand_as(images))
    inside = ((rows >= 0) & (rows < height)).unsqueeze(2) & ((columns >= 0) & (columns < width)).unsqueeze(1)
    return torch.where(inside.unsqueeze(1), moved, black.view(1, channels, 1, 1))


def _between(places: Tensor, size: int, first: Tensor, length: Tensor) -> Tensor:
    """Where the pixels `places` lie in an image of `size` pixels, once `length` of them, from `first` on, fill it.

    As torch's interpolate has it with align_corners=False; no pixel beyond the cut-out is read.
    """
    scaled = ((places + 0.5) * (length / size) - 0.5).clamp_min(0)
    return torch.minimum(scaled, length - 1.0) + first


def _sampled(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The values of each image at `rows` [B, H] and `columns` [B, W], which lie between its pixels: bilinear."""
    (count, _, height, width) = images.shape
    y = (2 * (rows + 0.5) / height - 1).unsqueeze(2).expand(count, height, width)
    x = (2 * (columns + 0.5) / width - 1).unsqueeze(1).expand(count, height, width)
    return grid_sample(images, torch.stack([x, y], 3), padding_mode="border", align_corners=False)


def _boxes(height: int, width: int, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Top, left, height and width of cut-outs, [N, 4]: AREA of the image uniform, SIDES uniform in their logarithm.

    A cut-out that does not fit is drawn anew, up to TRIES times; then it is the largest in the middle whose sides are
    within SIDES, as in torchvision.
    """
    tall = min(height, round(width / SIDES[0]))
    wide = min(width, round(height * SIDES[1]))
    boxes = np.tile(np.array([(height - tall) // 2, (width - wide) // 2, tall, wide]), (count, 1))
    narrow, broad = np.log(SIDES)
    missing = np.arange(count)
    for _ in range(TRIES):
        area = height * width * generator.uniform(*AREA, len(missing))
        sides = np.exp(generator.uniform(narrow, broad, len(missing)))
        sizes = np.rint(np.sqrt(np.stack([area / sides, area * sides], 1))).astype(np.int64)
        fits = ((sizes > 0) & (sizes <= (height, width))).all(1)
        corners = generator.integers(0, np.array([height, width]) - sizes[fits], endpoint=True)
        boxes[missing[fits]] = np.concatenate([corners, sizes[fits]], 1)
        missing = missing[~fits]
    return boxes
