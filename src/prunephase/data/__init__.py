"""Data: labelled examples as tensors in memory, in three splits."""

# N examples, K classes.

from __future__ import annotations

from prunephase.data.cifar import cifar_n
from prunephase.data.cifar100 import SUPERCLASS
from prunephase.data.load import load
from prunephase.data.share import obtain, publish
from prunephase.data.types import Arrays, Codes, Dataset, Split

__all__ = ["SUPERCLASS", "Arrays", "Codes", "Dataset", "Split", "cifar_n", "load", "obtain", "publish"]
