"""Labels of a trial's data: audited before it is trained, and listed as suspects afterwards."""

# N examples, F features, R rankings.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from prunephase import audit
from prunephase.analysis.facts import Fact, fact
from prunephase.analysis.suspects import AT_WRONG, Ranking, judged, mended
from prunephase.bench import Bench, Site
from prunephase.data import Split
from prunephase.errors import IncompatibleError
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
    each = dict(sorted(each.items(), key=lambda item: -item[1]["auc"].mean))
    ahead = {
        f"suspects less {name}": {key: _less(found["suspects"][key], other[key]) for key in ("auc", AT_WRONG)}
        for name, other in (("cleanlab", found["cleanlab"]), next(iter(each.items())))
    }
    return {**found, **each, **ahead}


def _less(one: Fact, other: Fact) -> Fact:
    values = [np.array([np.nan if v is None else v for v in held.per_seed]) for held in (one, other)]
    return fact(values[0] - values[1], one.unit)
