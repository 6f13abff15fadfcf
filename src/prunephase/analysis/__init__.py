"""From tables to conclusions: curves, their phases, and how sure we are; knows neither torch nor the engine."""

from prunephase.analysis.curve import Curve, Group, curve, read_curve
from prunephase.analysis.phases import Phases, Point, Span, phases
from prunephase.analysis.severity import Severity
from prunephase.analysis.statistics import Summary, interval, summarise

__all__ = [
    "Curve",
    "Group",
    "Phases",
    "Point",
    "Severity",
    "Span",
    "Summary",
    "curve",
    "interval",
    "phases",
    "read_curve",
    "summarise",
]
