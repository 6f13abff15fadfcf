"""Data: labelled examples as tensors in memory, in three splits."""

# N examples, K classes.

from __future__ import annotations

from prunephase.data.load import load
from prunephase.data.types import Arrays, Dataset, Split

__all__ = ["Arrays", "Dataset", "Split", "load"]
