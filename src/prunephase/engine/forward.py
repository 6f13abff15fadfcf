"""What a network says of every example."""

# N examples, K classes.

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prunephase import streams
from prunephase.data import Dataset, Split
from prunephase.engine.job import Guesses
from prunephase.randomness import seeded

BATCH = 1000  # examples at once; part of the numbers: another batch size rounds differently


def guesses(network: nn.Module, data: Dataset, precision: str = "float32") -> Guesses:
    """Loss and predicted classes of each split, in evaluation mode; the network is left as it was."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    with seeded(streams.seed(0, "dropout", "evaluate")):  # a network may draw in evaluation mode as well
        found = {name: guess(network, split, precision) for name, split in data.splits.items()}
    for module, training in modes.items():
        module.training = training
    return found


@torch.no_grad()
def guess(network: nn.Module, split: Split, precision: str) -> tuple[float | None, Tensor]:
    """Mean loss (None where it is not finite) and the predicted classes, [N]."""
    layout = memory_format(network)
    total = torch.zeros((), dtype=torch.float64, device=split.labels.device)
    found = []
    parts = (t.split(BATCH) for t in (split.inputs, split.labels))  # type: ignore[no-untyped-call]
    for inputs, labels in zip(*parts, strict=True):
        with autocast(precision, inputs.device.type):
            logits = network(laid_out(inputs, layout)).float()
        total += cross_entropy(logits, labels, reduction="sum")
        found.append(logits.argmax(1))
    loss = total.item() / len(split)
    return (loss if math.isfinite(loss) else None), torch.cat(found)


def autocast(precision: str, device: str) -> torch.autocast:
    """The context in which a recipe's forward passes run."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def laid_out(inputs: Tensor, layout: torch.memory_format) -> Tensor:
    """Inputs [B, ...] in memory as `layout` says, where they are images."""
    return inputs.contiguous(memory_format=layout if inputs.ndim == 4 else torch.contiguous_format)


def memory_format(network: nn.Module) -> torch.memory_format:
    """How the weights of a network lie in memory, and so its images should."""
    weights = (p for p in network.parameters() if p.ndim == 4)
    last = any(w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in weights)
    return torch.channels_last if last else torch.contiguous_format
