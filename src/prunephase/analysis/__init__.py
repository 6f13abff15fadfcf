"""From tables to conclusions: curves, their phases, and how sure we are; knows neither torch nor the engine."""

from prunephase.analysis.curve import Curve, Group, curve
from prunephase.analysis.phases import Phases, Point, Span, phases
from prunephase.analysis.reading import read_curve
from prunephase.analysis.severity import Severity
from prunephase.analysis.statistics import interval, summary

__all__ = [
    "Curve",
    "Group",
    "Phases",
    "Point",
    "Severity",
    "Span",
    "curve",
    "interval",
    "phases",
    "read_curve",
    "summary",
]
