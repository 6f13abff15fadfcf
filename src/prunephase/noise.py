"""Label noise: which training labels are wrong, and a card that says so exactly."""

# N examples, K classes.

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prunephase import plugins as plugin
from prunephase import streams, trial
from prunephase.data.check import integer_labels
from prunephase.data.files import in_a_line, read_labels
from prunephase.data.types import Dataset, Split
from prunephase.errors import UserError

Labels = NDArray[np.int64]

# He et al. 2022 (ICML), appendix A.3: pairs of classes that people confuse.
CONFUSED: Mapping[str, Mapping[int, int]] = {
    "mnist": {2: 7, 3: 8, 5: 6, 6: 5},
    "cifar10": {2: 0, 4: 7, 9: 1, 3: 5, 5: 3},
}


@dataclass(frozen=True)
class Terms:
    """What a built-in kind of noise goes by; `map` is for asymmetric noise, `given` [N] the labels of a human file."""

    rate: float
    count: str
    map: Mapping[int, int]
    given: Labels | None = None


@dataclass(frozen=True)
class Pattern:
    """Labels [N] after the noise, and which examples were selected for it: [N] bool (a draw may hit the true class)."""

    labels: Labels
    selected: NDArray[np.bool_]


@dataclass(frozen=True)
class Realised:
    """What the noise did to one split.

    realised: share of labels that differ from the true ones; selected: share of examples drawn for the noise;
    transition: [K, K] shares, row: true class, column: given label, None for a class without examples;
    flipped, chosen: places in the source's training set of wrong labels and of selected examples.
    """

    n: int
    realised: float
    selected: float
    transition: tuple[tuple[float, ...] | None, ...]
    labels_sha256: str
    flipped: tuple[int, ...]
    chosen: tuple[int, ...]


@dataclass(frozen=True)
class Card:
    """The noise card of a trial: convention, rates and transition matrix, for training and validation labels.

    nominal: the rate asked for; None where the labels come from elsewhere (human, given, a user's function), as are
    `count` and `seed` where nothing was drawn.
    """

    kind: str
    convention: str
    count: str | None
    nominal: float | None
    seed: int | None
    classes: int
    train: Realised
    validation: Realised | None

    @property
    def flipped(self) -> list[int]:
        """Places in the source's training set of all wrong labels, training and validation together, rising."""
        return sorted(self.train.flipped + (self.validation.flipped if self.validation else ()))

    def as_json(self) -> dict[str, Any]:
        """The card as JSON values, without the lists of examples."""
        fields = dataclasses.asdict(self)
        for split in filter(None, (fields["train"], fields["validation"])):
            del split["flipped"], split["chosen"]
            split["transition"] = [row if row is None else list(row) for row in split["transition"]]
        return fields


def none(labels: Labels, _classes: int, _generator: np.random.Generator, _terms: Terms) -> Pattern:
    """The labels as they are."""
    return Pattern(labels, np.zeros(len(labels), bool))


def uniform_relabel(labels: Labels, classes: int, generator: np.random.Generator, terms: Terms) -> Pattern:
    """Selected examples get a label uniform over all K classes, the true one included (He et al. 2022, symmetric)."""
    selected = _select(np.ones(len(labels), bool), generator, terms)
    return Pattern(np.where(selected, generator.integers(classes, size=len(labels)), labels), selected)


def symmetric_flip(labels: Labels, classes: int, generator: np.random.Generator, terms: Terms) -> Pattern:
    """Selected examples get a label uniform over the K - 1 wrong classes (DSD2)."""
    selected = _select(np.ones(len(labels), bool), generator, terms)
    step = generator.integers(1, classes, size=len(labels))
    return Pattern(np.where(selected, (labels + step) % classes, labels), selected)


def asymmetric(labels: Labels, classes: int, generator: np.random.Generator, terms: Terms) -> Pattern:
    """Selected examples of the mapped classes get the label that the map gives their class (He et al. 2022, A.3)."""
    to = np.array([terms.map.get(c, c) for c in range(classes)], dtype=np.int64)
    selected = _select(to[labels] != labels, generator, terms)
    return Pattern(np.where(selected, to[labels], labels), selected)


def pairflip(labels: Labels, classes: int, generator: np.random.Generator, terms: Terms) -> Pattern:
    """Selected examples of class c get label c + 1 mod K (He et al. 2022, A.3)."""
    selected = _select(np.ones(len(labels), bool), generator, terms)
    return Pattern(np.where(selected, (labels + 1) % classes, labels), selected)


def human(labels: Labels, _classes: int, _generator: np.random.Generator, terms: Terms) -> Pattern:
    """The labels that people gave, from a file."""
    assert terms.given is not None
    return Pattern(terms.given, terms.given != labels)


NOISES: dict[str, Callable[[Labels, int, np.random.Generator, Terms], Pattern]] = {
    "none": none,
    "uniform-relabel": uniform_relabel,
    "symmetric-flip": symmetric_flip,
    "asymmetric": asymmetric,
    "pairflip": pairflip,
    "human": human,
}

CONVENTIONS: Mapping[str, str] = {
    "none": "The labels are those of the source, taken as true.",
    "given": "The labels are those of the source, which also brings the true ones.",
    "uniform-relabel": "A selected example gets a label uniform over all K classes, so 1 in K keeps its true label.",
    "symmetric-flip": "A selected example gets a label uniform over the K - 1 wrong classes, so all become wrong.",
    "asymmetric": "A selected example of a mapped class gets the label in the map; the rate is of those classes.",
    "pairflip": "A selected example of class c gets label c + 1, and the last class gets 0.",
    "human": "The labels are those that people gave, read from a file.",
}


def corrupt(
    data: Dataset, spec: trial.Noise, *, source: str, seed: int, plugins: Collection[str] = ()
) -> tuple[Dataset, Card]:
    """The data with noisy training and validation labels, and the noise card. Test labels are never touched.

    Each of the two splits gets its own exact share, from the stream ("noise", split name) of `spec.seed`, else of
    `seed`. At one seed the examples selected at a lower rate are among those selected at a higher one, and keep the
    label they drew. `source` names the data source, for the map of asymmetric noise; `plugins` holds the modules that
    kind = "module:function" may come from: such a function takes (labels [N], K, generator) and returns labels [N].
    Raises UserError where the noise does not fit the data.
    """
    classes = len(data.classes)
    already = sum(int((split.labels != split.truth).sum()) for split in data.noisy)
    if already and spec.kind != "none":
        raise UserError(
            f"noise.kind = '{spec.kind}': {already} labels of the data differ from the true ones already; use kind = "
            f"'none', or drop the noisy labels"
        )
    used = spec.seed if spec.seed is not None else seed
    make = _maker(data, spec, source, plugins)

    def noisy(split: Split, name: str) -> tuple[Split, Realised]:
        pattern = make(split, streams.generator(used, "noise", name))
        labels = torch.from_numpy(pattern.labels.copy())
        permuted = torch.from_numpy(pattern.selected.copy())
        if spec.kind == "none":
            permuted = split.permuted
        result = dataclasses.replace(split, labels=labels, permuted=permuted)
        return result, _realised(result, classes)

    train, on_train = noisy(data.train, "train")
    validation, on_validation = noisy(data.validation, "validation") if data.validation is not None else (None, None)
    kind = "given" if already else spec.kind
    drawn = spec.kind not in ("none", "human")
    rated = drawn and spec.kind in NOISES
    card = Card(
        kind=kind,
        convention=CONVENTIONS.get(kind, "The labels are those that the named function returned."),
        count=spec.count if rated else None,
        nominal=spec.rate if rated else 0.0 if kind == "none" else None,
        seed=used if drawn else None,
        classes=classes,
        train=on_train,
        validation=on_validation,
    )
    return dataclasses.replace(data, train=train, validation=validation), card


def _select(eligible: NDArray[np.bool_], generator: np.random.Generator, terms: Terms) -> NDArray[np.bool_]:
    """[N] bool. Both ways draw the same number of variates whatever the rate, so that patterns nest across rates."""
    if terms.count == "per-sample":
        return eligible & (generator.random(len(eligible)) < terms.rate)
    order = generator.permutation(np.flatnonzero(eligible))
    selected = np.zeros(len(eligible), bool)
    selected[order[: round(terms.rate * len(order))]] = True
    return selected


def _maker(
    data: Dataset, spec: trial.Noise, source: str, plugins: Collection[str]
) -> Callable[[Split, np.random.Generator], Pattern]:
    """The noise as a function of a split and its stream; all that can be wrong with `spec` is found here."""
    classes = len(data.classes)
    if spec.kind not in NOISES:
        return _users(plugin.resolve(spec.kind, plugins, "noise.kind"), spec.kind, classes)
    confused = _map(spec, source, classes) if spec.kind == "asymmetric" else {}
    given = _human(data, spec, classes) if spec.kind == "human" else None

    def make(split: Split, generator: np.random.Generator) -> Pattern:
        terms = Terms(spec.rate, spec.count, confused, None if given is None else given[split.index.numpy()])
        return NOISES[spec.kind](split.labels.numpy(), classes, generator, terms)

    return make


def _human(data: Dataset, spec: trial.Noise, classes: int) -> Labels:
    """The labels of the file, one for each example of the source's training set."""
    say = f"noise.path = '{spec.path}'"
    raw, raw_clean = read_labels(Path(str(spec.path)), spec.key, say)
    given = integer_labels(raw, say)
    examples = data.examples or 1 + max(int(split.index.max()) for split in data.noisy)
    if len(given) != examples:
        raise UserError(f"{say}: {len(given)} labels, but the training set has {examples} examples; one label for each")
    if (beyond := given >= classes).any():
        first = int(beyond.argmax())
        raise UserError(f"{say}: label {given[first]} at index {first}, but the classes are 0..{classes - 1}")
    if raw_clean is not None:
        clean = integer_labels(raw_clean, f"{say}: clean_label")
        index, truth = (torch.cat([getattr(s, f) for s in data.noisy]).numpy() for f in ("index", "truth"))
        if len(clean) != examples or (differs := clean[index] != truth).any():
            where = f"at index {index[differs].min()}" if len(clean) == examples else f"in number ({len(clean)})"
            raise UserError(
                f"{say}: clean_label differs from the data {where}; is it for this data set, in this order?"
            )
    return given


def _map(spec: trial.Noise, source: str, classes: int) -> Mapping[int, int]:
    if spec.map is None:
        if source not in CONFUSED:
            raise UserError(
                f"noise.kind = 'asymmetric': no map is known for data.source = '{source}'; name one, as in map = "
                f'{{ "2" = 7, "3" = 8 }}'
            )
        return CONFUSED[source]
    pairs = {int(c): to for c, to in spec.map.items()}
    for c, to in pairs.items():
        if max(c, to) >= classes:
            raise UserError(f"noise.map: {c} -> {to}, but the classes are 0..{classes - 1}; correct the map")
        if c == to:
            raise UserError(f"noise.map: {c} -> {to} changes nothing; leave class {c} out")
    if not pairs:
        raise UserError("noise.map: is empty; name at least one class, or kind = 'none'")
    return pairs


def _users(function: Callable[..., Any], name: str, classes: int) -> Callable[[Split, np.random.Generator], Pattern]:
    def make(split: Split, generator: np.random.Generator) -> Pattern:
        before = split.labels.numpy()
        try:
            after = np.asarray(function(before.copy(), classes, generator))
        except Exception as problem:  # the user's code: any failure is theirs to see, in one line
            said = in_a_line(problem)
            raise UserError(f"noise.kind = '{name}': failed with {said}; mend the function") from problem
        if after.shape != before.shape or after.dtype.kind not in "iu":
            raise UserError(
                f"noise.kind = '{name}': returned {after.dtype} of shape {list(after.shape)}; expected integers of "
                f"shape {list(before.shape)}"
            )
        if not ((after >= 0) & (after < classes)).all():
            raise UserError(f"noise.kind = '{name}': returned labels outside 0..{classes - 1}")
        return Pattern(after.astype(np.int64), after != before)

    return make


def _realised(split: Split, classes: int) -> Realised:
    given, truth = split.labels.numpy(), split.truth.numpy()
    counts = np.bincount(truth * classes + given, minlength=classes**2).reshape(classes, classes)
    index, flipped, chosen = split.index.numpy(), given != truth, split.permuted.numpy()
    return Realised(
        n=len(split),
        realised=float(flipped.mean()),
        selected=float(chosen.mean()),
        transition=tuple(tuple((row / row.sum()).tolist()) if row.any() else None for row in counts),
        labels_sha256=hashlib.sha256(given.astype("<i8").tobytes()).hexdigest(),
        flipped=tuple(index[flipped].tolist()),
        chosen=tuple(index[chosen].tolist()),
    )
