"""Pruning: which weights stay."""

from __future__ import annotations

from prunephase.prune.criteria import criterion, scores
from prunephase.prune.masks import budgets, leaked, prunable, select, zero_pruned

__all__ = ["budgets", "criterion", "leaked", "prunable", "scores", "select", "zero_pruned"]
