"""Early-learning regularisation: an example is held to what the network said of it while it still learned."""

# N examples, B batch, K classes.

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from prunephase.antidotes.losses import wide
from prunephase.engine import Batch

NEVER_SURE = 1e-4  # probabilities are kept this far from 0 and 1, as in the authors' code


class EarlyLearning:
    """Cross-entropy + strength x mean of log(1 - <p, t>), with p what the network says and t what it used to say.

    t [N, K] is a moving average of p over an example's visits, beginning with zeros: t = beta t + (1 - beta) p. It is
    moved before the loss is taken, and no gradient goes through it. Liu et al., NeurIPS 2020, equations 6 and 9.

    It remembers, so it belongs to one training from its first step to its last.
    """

    remembers = True

    def __init__(self, count: int, strength: float, beta: float) -> None:
        self.count, self.strength, self.beta = count, strength, beta
        self.targets: Tensor | None = None  # [N, K]: how many classes there are, the first batch says

    def __call__(self, batch: Batch) -> Tensor:
        logits = wide(batch.network(batch.inputs))
        said = logits.softmax(1).clamp(NEVER_SURE, 1 - NEVER_SURE)
        if self.targets is None:
            self.targets = said.new_zeros(self.count, said.shape[1])
        with torch.no_grad():
            now = said / said.sum(1, keepdim=True)
            held = self.beta * self.targets[batch.index] + (1 - self.beta) * now
            self.targets[batch.index] = held
        agreed = (said * held).sum(1)
        return functional.cross_entropy(logits, batch.labels) + self.strength * torch.log1p(-agreed).mean()
