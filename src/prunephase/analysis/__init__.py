"""From tables to conclusions: curves, their phases, and how sure we are; knows neither torch nor the engine."""

from prunephase.analysis.compare import Comparison, Paired, paired
from prunephase.analysis.curve import Curve, Group, curve, read_curve
from prunephase.analysis.facts import Fact, efficacy, gap, threshold
from prunephase.analysis.phases import Phases, Point, Span, phases
from prunephase.analysis.severity import Severity
from prunephase.analysis.statistics import Summary, interval, summarise

__all__ = [
    "Comparison",
    "Curve",
    "Fact",
    "Group",
    "Paired",
    "Phases",
    "Point",
    "Severity",
    "Span",
    "Summary",
    "curve",
    "efficacy",
    "gap",
    "interval",
    "paired",
    "phases",
    "read_curve",
    "summarise",
    "threshold",
]
