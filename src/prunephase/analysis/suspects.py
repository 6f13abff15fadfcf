"""Suspects: training labels that a network with weights to spare fits, and a sweet one gives up (docs/suspects.md)."""

# N examples, L levels, R rankings, k first places.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from prunephase.analysis.curve import TEST, VALIDATION, curve
from prunephase.analysis.facts import Fact, fact
from prunephase.analysis.phases import Phases, phases

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Cards = Mapping[str, Mapping[str, Any]]
# What `memorisation` found of a level: (trial digest, level) -> arrays, empty where it was not asked.
Ledger = Callable[[str, int], Mapping[str, NDArray[np.generic]]]

AUC, AT_WRONG = "AUC", "precision at their number"  # k = the number of wrong labels
SHARES = (0.01, 0.05, 0.1)  # of the labels, at which precision is told


@dataclass(frozen=True)
class Ranking:
    """The labels that some seeds share. score: [N], higher is more suspect; suggestion: [N], classes.

    wrong: [N], which labels are wrong, None where that is not known.
    """

    seeds: tuple[int, ...]
    trials: tuple[str, ...]
    score: Floats
    suggestion: NDArray[np.int64]
    wrong: Bools | None

    @property
    def order(self) -> NDArray[np.int64]:
        """Places of the examples, the most suspect first."""
        return ranked(self.score)


@dataclass(frozen=True)
class Suspects:
    """Every ranking of one curve. light, sweet: the levels compared; oracle: the test curve has chosen them.

    found: the phases of the curve that chose; why_not: why there is no ranking.
    """

    key: Mapping[str, Any]
    found: Phases
    oracle: bool
    light: tuple[int, ...] = ()
    sweet: tuple[int, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    why_not: str = ""

    @property
    def known(self) -> bool:
        """Whether it is known which labels are wrong, and some are."""
        return bool(self.rankings) and all(one.wrong is not None and one.wrong.any() for one in self.rankings)

    def judged(self) -> dict[str, Fact]:
        """AUC and precision over the rankings, by name, where the wrong labels are known."""
        return judged([(one.score, one.wrong) for one in self.rankings if one.wrong is not None])


def suspects(key: Mapping[str, Any], rows: pl.DataFrame, cards: Cards, ledger: Ledger) -> Suspects:
    """Rank the training labels of one curve: its part of a level table, noise cards by trial digest, what levels said.

    Levels are chosen by the validation curve, else by the test curve. Seeds with the same labels share a ranking.
    """
    found, oracle = _phases(rows)
    empty = Suspects(key, found, oracle)
    if "sweet" not in found.phases:
        return _none(empty, "no sweet phase was found, so there is no level that has given labels up")
    light, sweet = (
        tuple(level for level in sorted(rows["level"].unique()) if span.start <= level <= span.end)
        for span in (found.phases["light"], found.phases["sweet"])
    )
    ok = rows.filter(pl.col("status") == "ok") if "status" in rows.columns else rows
    groups: dict[str, list[tuple[int, str]]] = {}
    for seed, trial in sorted(ok.select("seed", "trial").unique().iter_rows()):
        if trial in cards:
            groups.setdefault(str(cards[trial]["train"]["labels_sha256"]), []).append((seed, trial))
    rankings = []
    for members in groups.values():
        trials = [trial for _, trial in members]
        at = [[ledger(trial, level) for trial in trials for level in levels] for levels in (light, sweet)]
        if any("chance" not in one for part in at for one in part):
            return _none(empty, "a level was not asked what it memorises; run prunephase diagnose --only memorisation")
        rankings.append(_ranking(members, cards[trials[0]], *at))
    return Suspects(key, found, oracle, light, sweet, tuple(rankings))


def scores(fitted: Bools, chance: Floats) -> Floats:
    """Share of the light levels that fit a label, less its mean probability at the sweet ones. [L, N], [L, N] -> [N].

    >>> scores(np.array([[True, True, False]]), np.array([[0.0, 1.0, 0.0], [0.5, 1.0, 0.0]])).tolist()
    [0.75, 0.0, 0.0]
    """
    share: Floats = fitted.mean(axis=0) - chance.mean(axis=0)
    return share


def suggested(guesses: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The class said most often, of equals the lowest. [L, N] -> [N].

    >>> suggested(np.array([[2, 1], [2, 0], [1, 1]])).tolist()
    [2, 1]
    """
    said: NDArray[np.int64] = stats.mode(guesses, axis=0).mode.astype(np.int64)
    return said


def ranked(score: Floats) -> NDArray[np.int64]:
    """Places, the highest score first, equal ones in their order. [N] -> [N]."""
    return np.argsort(-score, kind="stable")


def auc(score: Floats, wrong: Bools) -> float:
    """Chance that a wrong label scores above a right one, equals count half (Mann-Whitney); NaN without either. [N].

    >>> auc(np.array([0.9, 0.2, 0.2, 0.1]), np.array([True, True, False, False]))
    0.875
    """
    bad, good = int(wrong.sum()), int((~wrong).sum())
    if not bad or not good:
        return float("nan")
    return float((stats.rankdata(score)[wrong].sum() - bad * (bad + 1) / 2) / (bad * good))


def precision(score: Floats, wrong: Bools, k: int) -> float:
    """Share of wrong labels among the first k. [N]."""
    return float(wrong[ranked(score)[:k]].mean())


def mended(ranking: Ranking, truth: NDArray[np.int64]) -> float:
    """Of the wrong labels among the first k = their number, the share whose suggested label is the true one. [N]."""
    assert ranking.wrong is not None
    first = ranking.order[: int(ranking.wrong.sum())]
    caught = first[ranking.wrong[first]]
    return float((ranking.suggestion[caught] == truth[caught]).mean()) if len(caught) else float("nan")


def judged(rankings: Sequence[tuple[Floats, Bools]]) -> dict[str, Fact]:
    """AUC and precision at k of some rankings (score, wrong), by name, each a fact over them."""
    values: dict[str, list[float]] = {}
    for score, wrong in rankings:
        values.setdefault(AUC, []).append(auc(score, wrong))
        values.setdefault(AT_WRONG, []).append(precision(score, wrong, int(wrong.sum())))
        for share in SHARES:
            k = max(1, round(share * len(score)))
            values.setdefault(f"precision at {share:.0%}", []).append(precision(score, wrong, k))
    return {name: fact(np.array(held), name) for name, held in values.items()}


def _phases(rows: pl.DataFrame) -> tuple[Phases, bool]:
    """The phases of the validation curve, else of the test curve; and whether it was the latter."""
    held = VALIDATION in rows.columns and bool(rows[VALIDATION].cast(pl.Float64).is_finite().any())
    (group,) = curve(rows, VALIDATION if held else TEST, by=()).groups()
    return phases(group), not held


def _ranking(
    members: Sequence[tuple[int, str]],
    card: Mapping[str, Any],
    light: Sequence[Mapping[str, NDArray[np.generic]]],
    sweet: Sequence[Mapping[str, NDArray[np.generic]]],
) -> Ranking:
    count = len(light[0]["chance"])

    def bits(packed: NDArray[np.generic]) -> Bools:
        return np.unpackbits(packed.astype(np.uint8), count=count).astype(bool)

    fitted = np.stack([bits(one["train_given"]) for one in light])
    chance = np.stack([one["chance"].astype(np.float64) for one in sweet])
    return Ranking(
        seeds=tuple(seed for seed, _ in members),
        trials=tuple(trial for _, trial in members),
        score=scores(fitted, chance),
        suggestion=suggested(np.stack([one["guess"].astype(np.int64) for one in sweet])),
        wrong=bits(light[0]["wrong"]) if card["kind"] != "none" else None,
    )


def _none(empty: Suspects, why: str) -> Suspects:
    return Suspects(empty.key, empty.found, empty.oracle, why_not=why)
