"""Words of the command line: the app, flags that several commands have, and how they answer."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from prunephase import __version__
from prunephase.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from prunephase.analysis.arms import Difference
    from prunephase.analysis.facts import Fact
    from prunephase.store import Store
    from prunephase.study import Study


def examples(*lines: str) -> str:
    """What stands at the end of a command's help."""
    return "Examples:\n" + "\n".join(f"  {line}" for line in lines)


app = App(
    name="prunephase",
    help_format="plaintext",
    help="Prune a network trained on noisy labels, level by level; see in which phase it is, and which level to take.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # main says what became of the work
    help_epilogue="Start with `prunephase demo`, or `prunephase init > study.toml` and `prunephase run study.toml`.",
)

LINE = 300  # characters of an error
StudyFile = Annotated[str, Parameter(help="A study file (TOML), or preset:NAME.")]
StoreFolder = Annotated[Path, Parameter(name="--store", help="Folder of the results.")]
Workers = Annotated[int | None, Parameter(name="--workers", help="Processes; one per core by default.")]
Device = Annotated[str, Parameter(name="--device", help="cpu, cuda, cuda:1, mps.")]
Json = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="One JSON object on stdout, for scripts.")
]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"], help="Where to write it.")]


@Parameter(name="*")  # its fields are flags of the command
@dataclass(frozen=True)
class Where:
    """How a study file is changed and read, and where its results lie."""

    changes: Annotated[
        list[str],
        Parameter(
            name="--set",
            negative="",
            show_default=False,
            help="Change a field: --set noise.rate=0.4. May be given several times.",
        ),
    ] = field(default_factory=list)
    store: StoreFolder = Path("runs")
    plugins: Annotated[
        list[str],
        Parameter(
            name="--plugins",
            negative="",
            show_default=False,
            help="Module of yours that the study may name as module:function.",
        ),
    ] = field(default_factory=list)
    arm: Annotated[str | None, Parameter(name="--arm", help="Only this arm of a study that has [arms].")] = None

    def load(self, study: str) -> Study:
        """The study that the command line names."""
        from prunephase.study import load

        if self.plugins and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # where `python -m` would look too; spawned workers inherit it
        whole = load(study, self.changes)
        return whole if self.arm is None else whole.only(self.arm)

    def unused(self) -> None:
        """Refuse flags of a study where a curve is read instead."""
        if self.changes or self.plugins or self.arm:
            raise UserError("--set, --plugins and --arm belong to a study; a curve is read as it is")

    def view(self, study: Study) -> Store:
        """The store as a study sees it: its ladders end where its stop rule ended them."""
        from prunephase.stopping import view

        return view(self.store, study)

    def levels(self, study: Study) -> pl.DataFrame:
        """The finished levels of a study; an error where there are none."""
        from prunephase import table

        frame = table.levels(self.view(study), study.trials, study.arms)
        if frame.is_empty():
            raise UserError(
                f"{self.store}: holds no finished level of '{study.name}'; run it first, or name its --store"
            )
        return frame


HERE = Where()


def is_study(name: str) -> bool:
    """Whether `name` names a study rather than a file of a curve."""
    return name.startswith("preset:") or name.endswith(".toml")


def fail(text: str, code: int) -> int:
    """Say on stderr what went wrong, a line each; gives the exit code."""
    from prunephase.terminal import clean

    for line in text.splitlines():
        shown = f"prunephase: {clean(line)}"
        # What came from outside may be of any length; the end of a line holds the remedy.
        print(shown if len(shown) <= LINE else f"{shown[: LINE // 2 - 2]}...{shown[1 - LINE // 2 :]}", file=sys.stderr)
    return code


def writable(page: Path | None) -> None:
    """Find out before hours of training that the report has no place to go."""
    from prunephase.reports import kind_of

    if page is not None and page.is_dir():
        raise UserError(f"-o {page}: is a folder; expected the name of a file")
    if page is not None:
        kind_of(page)


def page_of(study: Study, store: Path) -> Path:
    """Where a study's report lies unless it is told otherwise."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in study.name).lower().split()
    return store / f"{'-'.join(words)[:60] or 'study'}-{study.digest()[:8]}.html"


def print_json(value: Any) -> None:
    """One object on stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def unformulated(frame: pl.DataFrame) -> pl.DataFrame:
    """For csv: a cell that begins like a formula would be run by a spreadsheet, so it gets a quote before it."""
    import polars as pl

    text = pl.col(pl.String)
    return frame.with_columns(pl.when(text.str.contains(r"^[=+\-@\t]")).then("'" + text).otherwise(text).name.keep())


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as plain text: the first column to the left, the others to the right.

    >>> print(aligned(("a", "n"), [("x", "10")]))
    a   n
    x  10
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    )


def points(held: Fact | Difference) -> str:
    """A share as percent (or points), with its interval."""
    within = f" [{100 * held.interval[0]:.1f}, {100 * held.interval[1]:.1f}]" if held.interval else ""
    return f"{100 * held.mean:.1f}{within}"


def duration(seconds: float) -> str:
    """A time for people."""
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
