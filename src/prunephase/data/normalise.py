"""Normalising: what is subtracted from the inputs, and what they are divided by."""

# N examples, B batch, F features, C channels, H height, W width.

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from prunephase import sections
from prunephase.data.types import Arrays, Constant
from prunephase.errors import UserError

# Mean and deviation of the channels, on the scale [0, 1].
CIFAR10: tuple[Constant, Constant] = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100: tuple[Constant, Constant] = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET: tuple[Constant, Constant] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMED = {"cifar": CIFAR10, "imagenet": IMAGENET}

CHUNK = 4096  # examples converted at once, so that no second copy of the data in float64 ever exists
NUMBERS = 2**27  # ... and fewer of them, where they are large


def constants(
    spec: sections.Data, arrays: Arrays, inputs: NDArray[np.generic], training: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What to subtract and what to divide by, in the units of the source; shapes broadcast against the inputs."""
    unit = 255.0 if inputs.dtype == np.uint8 and inputs.ndim > 2 else 1.0
    if spec.normalise in ("none", "keep"):
        return np.float64(0.0).reshape(1), np.float64(unit).reshape(1)
    mean, deviation = NAMED.get(spec.normalise, (arrays.mean, arrays.deviation))
    if spec.normalise != "train" and mean is not None and deviation is not None:
        say = f"data.normalise = '{spec.normalise}'"
        return _channels(mean, inputs, say) * unit, _channels(deviation, inputs, say) * unit
    return _of_training(inputs, training, unit)


def scaled(values: NDArray[np.generic], shift: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalised inputs, [B, ...] float64: rounded to float32 only once, at the end."""
    result: NDArray[np.float64] = (values.astype(np.float64) - shift) / scale
    return result


def black(inputs: NDArray[np.generic], shift: NDArray[np.float64], scale: NDArray[np.float64]) -> torch.Tensor | None:
    """[C] float32: what a byte of zero becomes in each channel; None for what is not images of bytes."""
    if inputs.dtype != np.uint8 or inputs.ndim < 3:
        return None
    channels = inputs.shape[1] if inputs.ndim == 4 else 1
    zero = scaled(np.zeros((1, channels, 1, 1), np.uint8), shift, scale).astype(np.float32)
    return torch.from_numpy(zero.reshape(channels))


def chunks(places: NDArray[np.int64], features: int) -> list[NDArray[np.int64]]:
    """The places in parts whose examples, of `features` numbers each, fit in memory as float64."""
    size = min(CHUNK, max(1, NUMBERS // features))
    return [places[start : start + size] for start in range(0, len(places), size)]


def _channels(constant: Constant, inputs: NDArray[np.generic], say: str) -> NDArray[np.float64]:
    """One number, [1], or one per channel, [1, C, 1, 1]."""
    if not isinstance(constant, tuple):
        return np.array([constant])
    if inputs.ndim != 4 or inputs.shape[1] != len(constant):
        raise UserError(
            f"{say}: has constants for {len(constant)} channels, but the inputs are {list(inputs.shape)}; use 'train'"
        )
    return np.array(constant).reshape(1, -1, 1, 1)


def _of_training(
    inputs: NDArray[np.generic], training: NDArray[np.int64], unit: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    axes = tuple(axis for axis in range(inputs.ndim) if axis != 1 or inputs.ndim == 3)
    size = len(training) * np.prod([inputs.shape[axis] for axis in axes[1:]])
    parts = chunks(training, int(np.prod(inputs.shape[1:])))
    mean = sum(inputs[part].sum(axes, np.float64, keepdims=True) for part in parts) / size
    variance = sum(np.square(inputs[part].astype(np.float64) - mean).sum(axes, keepdims=True) for part in parts) / size
    deviation = np.sqrt(variance)
    # Rounding leaves a constant feature a tiny deviation, which would blow up the noise of its mean.
    constant = deviation <= 1e-12 * np.abs(mean)
    return mean, np.where(constant, unit, deviation)
