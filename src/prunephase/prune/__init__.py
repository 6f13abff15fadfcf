"""Pruning: which weights stay."""

from __future__ import annotations

from prunephase.prune.criteria import scores
from prunephase.prune.masks import budgets, leaked, prunable, select, zero_pruned

__all__ = ["budgets", "leaked", "prunable", "scores", "select", "zero_pruned"]
