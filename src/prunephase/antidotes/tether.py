"""A tether to the weights that a level starts from (L2-SP)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunephase.engine import Batch, Terms, cross_entropy


@dataclass(frozen=True, eq=False)
class Tethered:
    """Cross-entropy + strength / 2 x squared distance of all trained parameters from `start`.

    Li et al., ICML 2018, equation 3. Pruned weights are zero here and there, and add nothing.
    """

    start: Mapping[str, Tensor]
    strength: float

    @classmethod
    def to(cls, network: nn.Module, strength: float) -> Tethered:
        """Tether to the weights that `network` has now."""
        return cls({name: p.detach().clone() for name, p in _trained(network).items()}, strength)

    def __call__(self, batch: Batch) -> Tensor:
        apart = [(p - self.start[name]).square().sum() for name, p in _trained(batch.network).items()]
        return cross_entropy(batch) + self.strength / 2 * torch.stack(apart).sum()

    @property
    def terms(self) -> Terms:
        """The same in the engine's terms."""
        return Terms(tether=self.strength, start=self.start)


def _trained(network: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in network.named_parameters() if p.requires_grad}
