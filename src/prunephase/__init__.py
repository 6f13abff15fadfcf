"""Sparse double descent: in which phase is a pruned network, should you stop, which model do you take?

import prunephase as pp

trials = pp.grid(pp.preset("demo"), seed=range(4))
table = pp.run(trials, store="runs")
for group in pp.curve(table).groups():
    print(group.key, pp.phases(group).sentence)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from prunephase.analysis.curve import Curve, Group, curve, read_curve
    from prunephase.analysis.phases import Phases, phases
    from prunephase.data.custom import save_arrays
    from prunephase.errors import PrunephaseError, UserError
    from prunephase.exports.bundle import export
    from prunephase.reports import report
    from prunephase.runs import run
    from prunephase.snapshot import Snapshot
    from prunephase.stop import Stop
    from prunephase.study import Study, grid, load, preset
    from prunephase.trial import Trial

# Where each public name lives; imported when first asked for, so that `prunephase --help` does not wait for torch.
_HOMES = {
    "Curve": "analysis.curve",
    "Group": "analysis.curve",
    "Phases": "analysis.phases",
    "PrunephaseError": "errors",
    "Snapshot": "snapshot",
    "Stop": "stop",
    "Study": "study",
    "Trial": "trial",
    "UserError": "errors",
    "curve": "analysis.curve",
    "export": "exports.bundle",
    "grid": "study",
    "load": "study",
    "phases": "analysis.phases",
    "preset": "study",
    "read_curve": "analysis.curve",
    "report": "reports",
    "run": "runs",
    "save_arrays": "data.custom",
}

__all__ = [
    "Curve",
    "Group",
    "Phases",
    "PrunephaseError",
    "Snapshot",
    "Stop",
    "Study",
    "Trial",
    "UserError",
    "curve",
    "export",
    "grid",
    "load",
    "phases",
    "preset",
    "read_curve",
    "report",
    "run",
    "save_arrays",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prunephase' has no attribute '{name}'")
    return getattr(import_module(f"prunephase.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
