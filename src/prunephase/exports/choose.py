"""Which level of which seed leaves the program, and what chose it."""

# S seeds, L levels.

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import polars as pl

from prunephase.analysis.curve import ARM, VALIDATION, curve, split
from prunephase.analysis.phases import Phases, phases
from prunephase.analysis.replay import Cards
from prunephase.analysis.select import select
from prunephase.errors import UserError

SWEET, BEST = "sweet", "best"
EXPECTED = "expected best, sweet, the number of a level, or sparsity=0.98"


@dataclass(frozen=True)
class Choice:
    """A finished level. level_by, seed_by: what chose each, in words; rows: the level table of its curve.

    split: what chose the level, "validation" or "named"; phases: of the mean test curve, which chose nothing; phase:
    that of them which the level lies in, "" where it is not known.
    """

    asked: str
    trial: str
    seed: int
    level: int
    level_by: str
    seed_by: str
    rows: pl.DataFrame
    phases: Phases

    @property
    def split(self) -> str:
        return "validation" if self.asked in (BEST, SWEET) else "named"

    @property
    def phase(self) -> str:
        return next((name for name, span in self.phases.phases.items() if span.start <= self.level <= span.end), "")

    @property
    def here(self) -> pl.DataFrame:
        """The rows of this level that were trained to their end, one per seed."""
        return _sound(self.rows.filter(pl.col("level") == self.level))


def choose(table: pl.DataFrame, asked: str, seed: int | None, cards: Cards, *, force: bool = False) -> Choice:
    """The level that `asked` means on the one curve of a level table.

    best: as `select` with its rule "best", by the mean validation accuracy; sweet: so among the levels of the sweet
    phase of the mean *validation* curve; "12": that level; "sparsity=0.98": the nearest. The seed: `seed`, else that
    with the best validation accuracy at the level. Raises UserError where there are several curves, nothing to choose
    by, no such level or seed, or the level has diverged or (unless `force`) collapsed.
    """
    rows = _one_curve(table)
    level, level_by, chosen = _level(rows, asked, cards)
    seed, seed_by = _seed(rows, level, seed, chosen)
    found = phases(curve(rows, by=()).groups()[0])
    trial = rows.row(by_predicate=(pl.col("level") == level) & (pl.col("seed") == seed), named=True)["trial"]
    choice = Choice(asked, trial, seed, level, level_by, seed_by, rows, found)
    if choice.phase == "collapsed" and not force:
        raise UserError(
            f"level {level}: lies in the collapsed phase (levels {found.phases['collapsed'].start} to "
            f"{found.phases['collapsed'].end} of the mean test curve); take --level best, or --force"
        )
    return choice


def _one_curve(table: pl.DataFrame) -> pl.DataFrame:
    parts = split(table)
    if len(parts) == 1:
        return parts[0][1]
    settings: dict[str, list[str]] = {}
    for key, _ in parts:
        for name, value in key.items():
            if (text := str(value)) not in settings.setdefault(name, []):
                settings[name].append(text)
    flags = {name: "--arm " if name == ARM else f"--set {name}=" for name in settings}
    named = " ".join(f"{flags[name]}{values[0]}" for name, values in settings.items())
    choices = "; ".join(f"{name}: {', '.join(values)}" for name, values in settings.items())
    raise UserError(f"the study has {len(parts)} curves; name one, such as {named} ({choices})")


def _level(rows: pl.DataFrame, asked: str, cards: Cards) -> tuple[int, str, int | None]:
    """The level, what chose it, and the seed that the same choice prefers."""
    levels: list[int] = sorted(rows["level"].unique().to_list())
    if asked in (BEST, SWEET):
        within, by = rows, "best mean validation accuracy"
        if asked == SWEET:
            span = phases(_validation(rows)).phases.get(SWEET)
            if span is None:
                raise UserError(f"--level {SWEET}: the mean validation curve has no sweet phase; take --level {BEST}")
            within = rows.filter(pl.col("level").is_between(span.start, span.end))
            by = f"{by} in the sweet phase of the validation curve (levels {span.start} to {span.end})"
        found = select(within, "best", cards=cards)
        if not found:
            raise UserError(f"--level {asked}: no ladder is finished to choose on; run it to its end, or name a level")
        return found[0].level, f"{by} of {len(found[0].own)} seeds", found[0].seed
    if asked.isdecimal():
        if int(asked) not in levels:
            raise UserError(f"--level {asked}: not finished; the study holds levels {levels[0]} to {levels[-1]}")
        return int(asked), "named", None
    match = re.fullmatch(r"sparsity=(\d*\.?\d+)", asked)
    if match is None or not 0 <= float(match[1]) < 1:
        raise UserError(f"--level {asked}: {EXPECTED}, a share from 0 to below 1")
    wanted = float(match[1])
    near = rows.sort((pl.col("sparsity") - wanted).abs(), "level").row(0, named=True)
    return near["level"], f"nearest to a sparsity of {wanted:g}: {near['sparsity']:.6g}", None


def _validation(rows: pl.DataFrame) -> Any:
    if VALIDATION not in rows.columns or not rows[VALIDATION].is_finite().any():
        raise UserError(f"--level {SWEET}: there is no validation split to find it on; name a level")
    return curve(rows, VALIDATION, by=()).groups()[0]


def _seed(rows: pl.DataFrame, level: int, named: int | None, chosen: int | None) -> tuple[int, str]:
    here = rows.filter(pl.col("level") == level)
    sound = _sound(here)
    seeds: list[int] = sound["seed"].sort().to_list()
    if named is not None and named not in seeds:
        why = "its training diverged, so it left no weights" if named in here["seed"].to_list() else "not finished"
        raise UserError(f"--seed {named}: {why} at level {level}; seeds that have it: {_listed(seeds)}")
    if named is not None:
        return named, "named"
    if not seeds:
        raise UserError(
            f"level {level}: the training of every seed diverged, so it left no weights; name another level"
        )
    if chosen is not None:
        return chosen, f"best validation accuracy at this level of {len(seeds)} seeds"
    if len(seeds) == 1:
        return seeds[0], "the only one"
    known = sound.filter(pl.col(VALIDATION).is_finite())
    if known.is_empty():
        raise UserError(f"level {level}: no validation accuracy to choose a seed by; name --seed: {_listed(seeds)}")
    best = known.sort(VALIDATION, "seed", descending=[True, False]).row(0, named=True)["seed"]
    return best, f"best validation accuracy at this level of {len(known)} seeds"


def _sound(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("status") == "ok")


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"
