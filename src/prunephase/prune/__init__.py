"""Pruning: which weights stay."""

from __future__ import annotations

from prunephase.prune.criteria import criterion, scores
from prunephase.prune.layers import floors, prunable
from prunephase.prune.masks import budgets, leaked, select, zero_pruned
from prunephase.prune.remask import remask

__all__ = ["budgets", "criterion", "floors", "leaked", "prunable", "remask", "scores", "select", "zero_pruned"]
