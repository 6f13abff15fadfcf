"""What a model's arguments and its data must be, in one line each where they are not."""

# C channels, H height, W width.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Shape = tuple[int, ...]


def image_shape(input_shape: Shape, halvings: int = 0) -> tuple[int, int, int]:
    """(C, H, W) of images that can be halved so many times. Raises ValueError of others."""
    if len(input_shape) != 3:
        raise ValueError(f"needs images [C, H, W], the data have shape {list(input_shape)}")
    channels, height, width = input_shape
    if min(height, width) < 2**halvings:
        raise ValueError(
            f"{halvings} halvings need images of at least {2**halvings} pixels, these are {height} x {width}"
        )
    return channels, height, width


def check_whole(least: int = 1, **values: Any) -> None:
    """Raise ValueError for a value that is no whole number from `least`; its keyword is its name."""
    for name, value in values.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name} = {value!r}: expected a whole number from {least}")


def check_list(**values: Any) -> None:
    """Raise ValueError for a value that is no list of whole numbers from 1; its keyword is its name."""
    for name, value in values.items():
        if not isinstance(value, Sequence) or any(type(size) is not int or size < 1 for size in value):
            raise ValueError(f"{name} = {value!r}: expected a list of whole numbers from 1")
