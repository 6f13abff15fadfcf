"""Finished sweeps of OpenLTH and of He et al.'s code, which is made from it, as a table of levels."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import polars as pl

from prunephase.errors import UserError

MAX_BYTES = 50_000_000  # of one logger: a file of 200 epochs has 50 KB
PLACE = re.compile(r"replicate_(\d{1,6})/level_(\d{1,4})(/[^/]+)?$")


def read_openlth(folder: Path) -> pl.DataFrame:
    """One row per replicate (`seed`) and level: sparsity, test accuracy of the last iteration, train where logged.

    folder: a sweep (`lottery_...`), with `replicate_R/level_L/main/` below it, and in each `logger` (lines `name,
    iteration, value`) and `sparsity_report.json` (`total`, `unpruned`). Raises UserError where there are none, files
    are of another kind, or the folder holds several sweeps.
    """
    found = [(match, path) for path in sorted(folder.rglob("logger")) if (match := PLACE.search(str(path.parent)))]
    if not found:
        raise UserError(
            f"{folder}: a folder without replicate_R/level_L/main/logger, as OpenLTH writes them; expected such a "
            "sweep, or a csv or parquet file"
        )
    sweeps = sorted({f"{str(path.parent)[: match.start()].rstrip('/')}{match[3] or ''}" for match, path in found})
    if len(sweeps) > 1:
        raise UserError(f"{folder}: holds {len(sweeps)} sweeps; name one of them, such as {sweeps[0]}")
    return pl.DataFrame([_row(path, int(match[1]), int(match[2])) for match, path in found])


def _row(path: Path, replicate: int, level: int) -> dict[str, Any]:
    events = _events(path)
    if "test_accuracy" not in events:
        raise UserError(f"{path}: has no test_accuracy; expected lines such as test_accuracy,46900,0.98")
    report = path.with_name("sparsity_report.json")
    try:
        counts = json.loads(report.read_text("utf-8"))
        total, left = float(counts["total"]), float(counts["unpruned"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{report}: cannot be read; expected a total and how much of it is unpruned") from None
    if not 0 <= left <= total < math.inf or total == 0:
        raise UserError(f"{report}: {left:g} of {total:g} weights are unpruned; expected a part of them")
    row = {"seed": replicate, "level": level, "sparsity": 1 - left / total}
    names = ("test_accuracy", "train_accuracy")
    return row | {name: events[name][max(events[name])] for name in names if name in events}


def _events(path: Path) -> dict[str, dict[int, float]]:
    """What was logged: {name: {iteration: value}}."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError
        lines = path.read_text("utf-8").splitlines()
        found: dict[str, dict[int, float]] = {}
        for line in filter(None, lines):
            name, iteration, value = line.split(",")
            found.setdefault(name, {})[int(iteration)] = float(value)
    except (OSError, ValueError):
        raise UserError(f"{path}: not a logger of OpenLTH; expected lines such as test_accuracy,46900,0.98") from None
    return found
