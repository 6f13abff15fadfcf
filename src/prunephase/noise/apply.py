"""Noise on data: both splits corrupted by a trial's noise, and the card of it."""

# N examples, K classes.

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunephase import plugins as plugin
from prunephase import sections, streams
from prunephase.data import Dataset, Split, cifar_n
from prunephase.data.check import integer_labels
from prunephase.data.files import in_a_line, read_labels
from prunephase.errors import UserError
from prunephase.noise.card import Card, Realised, realised
from prunephase.noise.kinds import CONVENTIONS, NOISES, Labels, Pattern, Terms
from prunephase.noise.maps import class_map


def corrupt(
    data: Dataset,
    spec: sections.Noise,
    *,
    source: str,
    seed: int,
    plugins: Collection[str] = (),
    home: Path | None = None,
) -> tuple[Dataset, Card]:
    """The data with noisy training and validation labels, and the noise card. Test labels are never touched.

    Each of the two splits gets its own exact share, from the stream ("noise", split name) of `spec.seed`, else of
    `seed`. At one seed the examples selected at a lower rate are among those selected at a higher one, and keep the
    label they drew. `source` names the data source, for the map of asymmetric noise; `plugins` holds the modules that
    kind = "module:function" may come from: such a function takes (labels [N], K, generator) and returns labels [N].
    `home` is the folder with the human labels of CIFAR-N, where none are named (default: PRUNEPHASE_DATA).
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
    make = _maker(data, spec, source, plugins, home)

    def noisy(split: Split, name: str) -> tuple[Split, Realised]:
        pattern = make(split, streams.generator(used, "noise", name))
        labels = torch.from_numpy(pattern.labels.copy())
        permuted = torch.from_numpy(pattern.selected.copy())
        if spec.kind == "none":
            permuted = split.permuted
        result = dataclasses.replace(split, labels=labels, permuted=permuted)
        return result, realised(result, classes)

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


def _maker(
    data: Dataset, spec: sections.Noise, source: str, plugins: Collection[str], home: Path | None
) -> Callable[[Split, np.random.Generator], Pattern]:
    """The noise as a function of a split and its stream; all that can be wrong with `spec` is found here."""
    classes = len(data.classes)
    if spec.kind not in NOISES:
        return _users(plugin.resolve(spec.kind, plugins, "noise.kind"), spec.kind, classes)
    confused = class_map(spec, source, classes) if spec.kind == "asymmetric" else {}
    given = None
    if spec.kind == "human":
        given = _human(data, spec.key, Path(spec.path) if spec.path is not None else cifar_n(source, home), classes)

    def make(split: Split, generator: np.random.Generator) -> Pattern:
        terms = Terms(spec.rate, spec.count, confused, None if given is None else given[split.index.numpy()])
        return NOISES[spec.kind](split.labels.numpy(), classes, generator, terms)

    return make


def _human(data: Dataset, key: str | None, path: Path, classes: int) -> Labels:
    """The labels of the file, one for each example of the source's training set."""
    say = f"noise.path = '{path}'"
    raw, raw_clean = read_labels(path, key, say)
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
