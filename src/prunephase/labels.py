"""Labels of a trial's data: audited before it is trained, and listed as suspects afterwards."""

# N examples, F features, R rankings.

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from prunephase import audit
from prunephase.analysis.facts import Fact, fact
from prunephase.analysis.select import Matrix
from prunephase.analysis.suspects import AT_WRONG, AUC, Ranking, judged, mended
from prunephase.bench import Bench, Site
from prunephase.data import Split
from prunephase.errors import IncompatibleError, UserError
from prunephase.noise import Card
from prunephase.streams import generator
from prunephase.trial import Trial

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Audit:
    """The estimate from some of the labels of a trial's data. labels: how many there are; card: their noise card.

    agreements: of every classifier with the labels; known: the share of those looked at that is wrong, where the truth
    is known.
    """

    estimate: audit.Estimate
    labels: int
    classes: tuple[str, ...]
    card: Card
    agreements: Mapping[str, float]
    known: float | None


def audited(trial: Trial, site: Site, most: int, *, held_out: bool = True) -> Audit:
    """Audit at most `most` labels, drawn at random, of training and (`held_out`) validation examples together.

    Raises UserError where cleanlab is missing, or a class has fewer than 2 examples among those drawn.
    """
    audit.library()  # said before the work
    data, card = Bench(trial, site).noisy
    splits = data.noisy if held_out else (data.train,)
    total = sum(len(split) for split in splits)
    drawn = np.sort(generator(0, "analysis", "audit", "examples").permutation(total)[:most])
    parts, start = [], 0
    for split in splits:
        at = torch.from_numpy(drawn[(drawn >= start) & (drawn < start + len(split))] - start)
        parts.append((split.inputs[at].flatten(1).numpy(), split.labels[at].numpy(), split.truth[at].numpy()))
        start += len(split)
    features, labels, truth = (np.concatenate(column) for column in zip(*parts, strict=True))
    crossed = audit.crossed(features, labels, data.classes)
    return Audit(
        audit.estimate(labels, crossed[0]),
        total,
        data.classes,
        card,
        {one.classifier: one.agreement for one in crossed},
        None if card.kind == "none" else float((labels != truth).mean()),
    )


def transitions(
    source: str, trials: Sequence[Trial], cards: Mapping[str, Mapping[str, Any]], site: Site, most: int = 10_000
) -> dict[str, Matrix]:
    """Transition matrices of the training labels by trial digest, for `analysis.select`, without their noise cards.

    source: "estimated", from at most `most` labels of each trial that has a card, or a file for all of them: what
    `audit-labels --json` said, or a csv of K lines of K shares without a head. Raises UserError for a file that does
    not fit, and where a classifier is too weak to estimate by.
    """
    if source != "estimated":
        matrices = {
            classes: _matrix(Path(source), classes) for classes in {int(card["classes"]) for card in cards.values()}
        }
        return {trial: matrices[int(card["classes"])] for trial, card in cards.items()}
    found: dict[str, Matrix] = {}
    for trial in (one for one in trials if one.digest() in cards):
        labels = str(cards[trial.digest()]["train"]["labels_sha256"])
        if labels not in found:
            said = audited(trial, site, most, held_out=False).estimate
            if said.weak:
                raise UserError(
                    f"--transition estimated: {said.classifier} is right on only {said.accuracy:.0%} of true labels, "
                    "so its mistakes pass for wrong ones; give a file of the transition matrix"
                )
            found[labels] = said.transition
    return {trial: found[str(card["train"]["labels_sha256"])] for trial, card in cards.items()}


def _matrix(path: Path, classes: int) -> Matrix:
    say = f"--transition {path}"
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            rows = json.loads(text)["transition"]
        else:
            rows = np.loadtxt(text.splitlines(), delimiter=",", ndmin=2).tolist()
        matrix = np.array([[np.nan] * classes if row is None else row for row in rows], dtype=np.float64)
    except OSError as problem:
        raise UserError(f"{say}: {problem.strerror}; expected estimated, card, or a .json or .csv file") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{say}: holds no transition matrix; expected the output of audit-labels --json, or {classes} lines of "
            f"{classes} numbers"
        ) from None
    if matrix.shape != (classes, classes):
        raise UserError(f"{say}: is of shape {list(matrix.shape)}; expected [{classes}, {classes}], one row per class")
    found = [None if np.isnan(row).any() else row.tolist() for row in matrix]
    if any(row is not None and (min(row) < 0 or abs(sum(row) - 1) > 0.01) for row in found):
        raise UserError(f"{say}: a row is not shares that add up to 1; rows are true classes, columns given labels")
    return found


@dataclass(frozen=True)
class Listed:
    """A ranking and the training examples it ranks. cleanlab: [N] by classifier, the one that agrees best first."""

    ranking: Ranking
    examples: Split
    classes: tuple[str, ...]
    cleanlab: Mapping[str, Floats]

    @property
    def mended(self) -> float:
        """As `analysis.suspects.mended` has it."""
        return mended(self.ranking, self.examples.truth.numpy())


def listed(ranking: Ranking, trial: Trial, site: Site, card: Mapping[str, Any], *, cleanlab: bool) -> Listed:
    """The examples of a ranking, loaded again. trial: one of the ranking's, card: its noise card.

    Raises IncompatibleError where the labels are not those that were trained on.
    """
    if cleanlab:
        audit.library()  # said before the work
    data, now = Bench(trial, site).noisy
    if now.train.labels_sha256 != card["train"]["labels_sha256"]:
        raise IncompatibleError(
            f"trial {trial.digest()}: the labels of the data are not those it was trained on; bring the data back"
        )
    train, others = data.train, {}
    if cleanlab:
        labels = train.labels.numpy()
        features = train.inputs[:].flatten(1).numpy()
        for by in audit.crossed(features, labels, data.classes):
            others[by.classifier] = audit.suspicion(labels, by.chances)
    return Listed(ranking, train, data.classes, others)


def frame(one: Listed, most: int | None = None) -> pl.DataFrame:
    """The first `most` suspects, one row each: seeds, rank, index in the source's training set, labels, score.

    true, wrong: where the truth is known; cleanlab: 1 - label quality by the classifier that agrees best.
    """
    ranking, names = one.ranking, np.array(one.classes)
    at = ranking.order[:most]
    columns: dict[str, Any] = {
        "seeds": [" ".join(map(str, ranking.seeds))] * len(at),
        "rank": np.arange(1, len(at) + 1),
        "index": one.examples.index.numpy()[at],
        "given": names[one.examples.labels.numpy()[at]],
        "suggested": names[ranking.suggestion[at]],
        "score": ranking.score[at],
    }
    if ranking.wrong is not None:
        columns |= {"true": names[one.examples.truth.numpy()[at]], "wrong": ranking.wrong[at]}
    if one.cleanlab:
        columns["cleanlab"] = next(iter(one.cleanlab.values()))[at]
    return pl.DataFrame(columns)


def compared(every: Sequence[Listed]) -> dict[str, dict[str, Fact]]:
    """What `judged` says of the suspects and of cleanlab's scores, and of their differences, paired by ranking.

    cleanlab: by the classifier that agrees best with the labels; then each classifier, best AUC first, which takes the
    truth.
    """
    wrong = [one.ranking.wrong for one in every]
    assert all(known is not None for known in wrong)
    truths = [known for known in wrong if known is not None]
    found = {"suspects": judged([(one.ranking.score, known) for one, known in zip(every, truths, strict=True)])}
    if not all(one.cleanlab for one in every):
        return found
    chosen = [next(iter(one.cleanlab.values())) for one in every]
    found["cleanlab"] = judged(list(zip(chosen, truths, strict=True)))
    each = {
        f"cleanlab, {name}": judged([(one.cleanlab[name], known) for one, known in zip(every, truths, strict=True)])
        for name in every[0].cleanlab
    }
    each = dict(sorted(each.items(), key=lambda item: -item[1][AUC].mean))
    ahead = {
        f"suspects less {name}": {key: _less(found["suspects"][key], other[key]) for key in (AUC, AT_WRONG)}
        for name, other in (("cleanlab", found["cleanlab"]), next(iter(each.items())))
    }
    return {**found, **each, **ahead}


def _less(one: Fact, other: Fact) -> Fact:
    values = [np.array([np.nan if v is None else v for v in held.per_seed]) for held in (one, other)]
    return fact(values[0] - values[1], one.unit)
