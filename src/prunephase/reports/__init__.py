"""The report: what a study found, on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import polars as pl

from prunephase import table
from prunephase.analysis.curve import read_rows
from prunephase.carbon import estimates
from prunephase.disk import refusals
from prunephase.errors import UserError
from prunephase.reports.findings import kept
from prunephase.reports.page import EPOCHS, render, static
from prunephase.stopping import endings, told, view
from prunephase.store import Store
from prunephase.study import Study
from prunephase.trial import Trial

__all__ = ["report", "report_of"]


def report(
    study: Study | Iterable[Trial],
    output: str | Path = "report.html",
    store: str | Path = "runs",
    name: str = "study",
    axis: str = "level",
    plugins: Collection[str] = (),
) -> Path:
    """Write the report of whatever `store` holds of a study (or of some trials, called `name`). Gives its path.

    A name that ends in .svg or .png gets the main curve alone, as a picture; one that ends in .html the whole page.
    axis: what diagnoses and, once more, accuracy are drawn against: level, sparsity, remaining, or a column of numbers
    of the table. plugins: modules of yours that the trials name, without which their cost is not counted. Raises
    UserError for another name or axis or where nothing is finished yet, StorageError where it cannot be written.
    """
    chosen = study if isinstance(study, Study) else Study(name, tuple(study))
    place, page = view(store, chosen), Path(output)
    kind = kind_of(page)
    levels = table.levels(place, chosen.trials, chosen.arms)
    if levels.is_empty():
        raise UserError(f"{store}: holds no finished level of '{chosen.name}'; run it first, or name its store")
    content: str | bytes
    if kind != "html":
        content = static(levels, kind)
    else:
        missing = [
            f"seed {trial.seed}, trial {trial.digest()}: {left} of {trial.pruning.levels + 1} levels are missing"
            for trial in chosen.trials
            if (left := place.missing(trial))
        ]
        ended = endings(store, chosen)
        content = render(
            *(chosen.name, levels, _steps(place, chosen.trials), table.cards(place, chosen.trials)),
            *(table.provenance(place, chosen), missing, kept(place, chosen.trials), axis),
            *(_paid(place, chosen, plugins), told(chosen, ended) if chosen.stop.drives else "", ended),
            estimates(place, chosen.trials),
        )
    return _written(page, content)


def report_of(source: Path, output: str | Path = "report.html") -> Path:
    """Write the report of a curve made elsewhere: a file, or a sweep of OpenLTH (`read_rows`). Gives its path."""
    rows = read_rows(source).with_columns(
        pl.concat_str(pl.lit("seed "), "seed").alias("trial"), pl.lit("ok").alias("status")
    )
    page = Path(output)
    kind = kind_of(page)
    content = (
        static(rows, kind) if kind != "html" else render(source.name, rows, pl.DataFrame(), {}, {"source": str(source)})
    )
    return _written(page, content)


def _written(page: Path, content: str | bytes) -> Path:
    with refusals(page):
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return page


def _paid(place: Store, study: Study, plugins: Collection[str]) -> pl.DataFrame | None:
    """What the trainings cost, where arms are compared, or a validation split lets stop rules be replayed on 3 seeds.

    None elsewhere, and where it cannot be told.
    """
    replayed = any(trial.data.validation for trial in study.trials) and len({t.seed for t in study.trials}) >= 3
    if not study.arms and not replayed:
        return None
    from prunephase.spent import spent  # needs torch

    with suppress(UserError):  # a model of the user's that may not be imported, a teacher of another store
        return spent(place, study.trials, plugins)
    return None


def _steps(place: Store, trials: Iterable[Trial]) -> pl.DataFrame:
    """Rows by epoch, trial by trial, with the columns alone that the page draws: a tenth of them."""
    frames = (table.epochs(place, [trial]) for trial in trials)
    kept = [frame.select(list(EPOCHS)).rechunk() for frame in frames if not frame.is_empty()]
    return pl.concat(kept, how="vertical_relaxed") if kept else pl.DataFrame()


def kind_of(page: Path) -> Literal["html", "svg", "png"]:
    """What a report of this name is. Raises UserError for a name that says nothing we can write."""
    kinds: dict[str, Literal["html", "svg", "png"]] = {".html": "html", ".htm": "html", ".svg": "svg", ".png": "png"}
    if page.suffix.lower() not in kinds:
        raise UserError(f"{page}: expected a name that ends in .html, or in .svg or .png for the curve alone")
    return kinds[page.suffix.lower()]
