"""Loss and accuracy, on every split and on the subsets that tell memorising from learning."""

# N examples, K classes.

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prunephase import streams
from prunephase.data import Dataset, Split
from prunephase.randomness import seeded

BATCH = 1000  # part of the numbers: another batch size rounds differently
METRICS = (
    *("train_loss", "train_accuracy", "permuted_accuracy", "unpermuted_accuracy", "restored_accuracy"),
    *("validation_loss", "validation_accuracy", "test_loss", "test_accuracy"),
)


def evaluate(network: nn.Module, data: Dataset) -> dict[str, float | None]:
    """Mean cross-entropy and accuracy, in evaluation mode; {name: value}, None where a subset is empty.

    train: against the labels trained on. Stephenson et al. 2021, He et al. 2022: permuted, the examples whose label was
    drawn anew, against that label (high means rote memory); unpermuted, those never selected; restored, the permuted
    examples against their true labels (high means robust). validation: with noise; test: clean.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    with seeded(streams.seed(0, "dropout", "evaluate")):  # a network may draw in evaluation mode as well
        values = _values(network, data)
    for module, training in modes.items():
        module.training = training
    return values


def _values(network: nn.Module, data: Dataset) -> dict[str, float | None]:
    train_loss, train_guess = _guesses(network, data.train)
    test_loss, test_guess = _guesses(network, data.test)
    train, permuted = data.train, data.train.permuted
    given, true = train_guess == train.labels, train_guess == train.truth
    values: dict[str, float | None] = {
        "train_loss": train_loss,
        "train_accuracy": _share(given),
        "permuted_accuracy": _share(given[permuted]),
        "unpermuted_accuracy": _share(given[~permuted]),
        "restored_accuracy": _share(true[permuted]),
        "validation_loss": None,
        "validation_accuracy": None,
        "test_loss": test_loss,
        "test_accuracy": _share(test_guess == data.test.labels),
    }
    if data.validation is not None:
        values["validation_loss"], guess = _guesses(network, data.validation)
        values["validation_accuracy"] = _share(guess == data.validation.labels)
    return values


@torch.no_grad()
def _guesses(network: nn.Module, split: Split) -> tuple[float | None, Tensor]:
    """Mean loss (None where it is not finite) and the predicted classes, [N]."""
    total = torch.zeros((), dtype=torch.float64, device=split.labels.device)
    guesses = []
    parts = (t.split(BATCH) for t in (split.inputs, split.labels))  # type: ignore[no-untyped-call]
    for inputs, labels in zip(*parts, strict=True):
        logits = network(inputs)
        total += cross_entropy(logits, labels, reduction="sum")
        guesses.append(logits.argmax(1))
    loss = total.item() / len(split)
    return (loss if math.isfinite(loss) else None), torch.cat(guesses)


def _share(hits: Tensor) -> float | None:
    return hits.sum().item() / len(hits) if len(hits) else None
