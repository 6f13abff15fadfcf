"""The terminal: progress while it runs, a table and a sentence at the end. Progress goes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from prunephase.events import Diagnosed
from prunephase.runs import Observer, waves
from prunephase.store import Store
from prunephase.study import Study
from prunephase.task import Finished
from prunephase.trial import Trial

if TYPE_CHECKING:
    from prunephase.analysis.curve import Group
    from prunephase.analysis.phases import Phases


def clean(text: str) -> str:
    """`text` with control characters escaped, so that a name cannot forge lines or colours."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def percent(share: float | None, digits: int = 1) -> str:
    """A share as percent on screen."""
    return "-" if share is None or share != share else f"{100 * share:.{digits}f} %"


def _ignore(_trial: Trial, _event: Any) -> None:
    pass


@contextmanager
def watch(study: Study, store: Store, *, quiet: bool) -> Iterator[Observer]:
    """An observer of a run: a bar on a terminal, one plain line per level elsewhere, nothing if `quiet`."""
    with follow(study, sum(map(store.missing, chain(*waves(study.trials)))), quiet=quiet) as observe:
        # what a stop rule has measured on the way is no level
        yield lambda trial, event: None if isinstance(event, Diagnosed) else observe(trial, event)


@contextmanager
def follow(study: Study, total: int, *, quiet: bool) -> Iterator[Observer]:
    """An observer of `total` things to be done: levels to be trained, or findings to be made."""
    called, done = names(study), 0
    if quiet:
        yield _ignore
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task("", total=total, now="starting")

            def show(trial: Trial, event: Any) -> None:
                text = _line(called.get(trial.digest(), trial.digest()), event)
                if hasattr(event, "epoch"):
                    where = f"{called.get(event.trial, event.trial)}  level {event.level}  epoch {event.epoch}"
                    bar.update(task, now=f"{where}  test {percent(event.values['test_accuracy'])}")
                elif getattr(event, "cached", True) is False:
                    bar.update(task, advance=1, now=text)
                elif text:
                    bar.console.print(clean(text), markup=False, highlight=False)

            yield show
            bar.update(task, now="done")
    else:

        def tell(trial: Trial, event: Any) -> None:
            nonlocal done
            text = _line(called.get(trial.digest(), trial.digest()), event)
            if getattr(event, "cached", True) is False:
                done += 1
                text = f"{text}  ({done} of {total})"
            if text:
                print(clean(text), file=sys.stderr, flush=True)

        yield tell


def summary(group: Group, found: Phases, console: Console) -> None:
    """The curve as a table with its phases, and the verdict as a sentence."""
    from prunephase.analysis.statistics import summarise

    grid = Table(title=Text(clean(_title(group))), title_justify="left", box=None, pad_edge=False)
    for column in ("level", "sparsity", "test accuracy", "sd", "n", "train accuracy", "phase"):
        grid.add_column(column, justify="left" if column == "phase" else "right")
    phase_of = {i: name for name, span in found.phases.items() for i in range(span.start, span.end + 1)}
    marks = {p.level: mark for p, mark in ((found.dip, "dip"), (found.peak, "peak")) if p is not None}
    test, train = summarise(group.test), summarise(group.train) if group.train is not None else None
    for i, level in enumerate(group.levels.tolist()):
        phase = " ".join(filter(None, (phase_of.get(level, ""), f"<- {marks[level]}" if level in marks else "")))
        grid.add_row(
            str(level),
            percent(float(group.sparsity[i]), 2),
            percent(float(test.mean[i])),
            percent(float(test.sd[i])),
            str(int(test.n[i])),
            percent(float(train.mean[i]) if train is not None else None),
            phase,
        )
    console.print(grid)
    console.print(clean(found.sentence), markup=False, highlight=False, soft_wrap=True)


def _title(group: Group) -> str:
    return ", ".join(f"{key} = {value}" for key, value in group.key.items())


def _bar() -> Progress:
    columns = (
        TextColumn("{task.fields[now]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def _line(name: str, event: Any) -> str:
    """An event in one line; empty where there is nothing to say."""
    if isinstance(event, Finished):
        return f"{name}: failed: {event.problem}" if event.problem else ""
    if hasattr(event, "text"):
        return f"{name}: {event.text}" if getattr(event, "trial", name) else event.text
    if getattr(event, "cached", True):
        return ""
    if isinstance(event, Diagnosed):
        return f"{name}  level {event.level:2d}  {event.name}  {event.seconds:.1f} s"
    values = event.values
    state = "" if event.status == "ok" else f"  {event.status.upper()}"
    state += "  (trained with another trial)" if event.shared else ""
    return (
        f"{name}  level {event.level:2d}  sparsity {percent(event.sparsity, 2)}  "
        f"train {percent(values['train_accuracy'])}  test {percent(values['test_accuracy'])}{state}"
    )


def names(study: Study) -> dict[str, str]:
    """What sets each trial apart, for people."""
    rows = [t.flat() for t in study.trials]
    arms = study.arms or ("",) * len(rows)
    count = len(set(arms))
    names = [k for k in (rows[0] if rows else {}) if k != "seed"]
    varying = [k for k in names if len({(arm, str(r[k])) for arm, r in zip(arms, rows, strict=True)}) > count]
    return {
        t.digest(): " ".join(filter(None, [arm, *(f"{k.split('.')[-1]}={r[k]}" for k in varying), f"seed {t.seed}"]))
        for t, r, arm in zip(study.trials, rows, arms, strict=True)
    }
