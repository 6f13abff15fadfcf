"""Pruning: which weights stay."""

from __future__ import annotations

from prunephase.prune.criteria import criterion, scores
from prunephase.prune.masks import budgets, leaked, prunable, select, zero_pruned
from prunephase.prune.remask import remask

__all__ = ["budgets", "criterion", "leaked", "prunable", "remask", "scores", "select", "zero_pruned"]
