"""The report: what a study found, on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prunephase import table
from prunephase.errors import StorageError, UserError
from prunephase.reports.page import render, static
from prunephase.store import Store
from prunephase.study import Study
from prunephase.trial import Trial

__all__ = ["report"]


def report(
    study: Study | Iterable[Trial], output: str | Path = "report.html", store: str | Path = "runs", name: str = "study"
) -> Path:
    """Write the report of whatever `store` holds of a study (or of some trials, called `name`). Gives its path.

    A name that ends in .svg or .png gets the main curve alone, as a picture; one that ends in .html the whole page.
    Raises UserError for another name or where nothing is finished yet, StorageError where it cannot be written.
    """
    chosen = study if isinstance(study, Study) else Study(name, tuple(study))
    place, page = Store(store), Path(output)
    if page.suffix.lower() not in (".html", ".htm", ".svg", ".png"):
        raise UserError(f"{page}: expected a name that ends in .html, or in .svg or .png for the curve alone")
    levels = table.levels(place, chosen.trials)
    if levels.is_empty():
        raise UserError(f"{store}: holds no finished level of '{chosen.name}'; run it first, or name its store")
    content: str | bytes
    if page.suffix.lower() in (".svg", ".png"):
        content = static(levels, "svg" if page.suffix.lower() == ".svg" else "png")
    else:
        missing = [
            f"seed {trial.seed}, trial {trial.digest()}: {left} of {trial.pruning.levels + 1} levels are missing"
            for trial in chosen.trials
            if (left := place.missing(trial))
        ]
        content = render(
            *(chosen.name, levels, table.epochs(place, chosen.trials), table.cards(place, chosen.trials)),
            *(table.provenance(place, chosen), missing),
        )
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    except OSError as problem:
        raise StorageError(f"{page}: cannot be written: {problem.strerror}") from None
    return page
