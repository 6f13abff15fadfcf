"""Measures of a trained network."""

from __future__ import annotations

from prunephase.measure.accuracy import METRICS, evaluate

__all__ = ["METRICS", "evaluate"]
