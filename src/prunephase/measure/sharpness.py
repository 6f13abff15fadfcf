"""Sharpness of a minimum: the top eigenvalue and the trace of the Hessian of the training loss."""

# N examples, D directions: the weights that are looked at, as one vector; V vectors at once.

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from prunephase import streams
from prunephase.data import Split
from prunephase.engine.forward import BATCH, laid_out, memory_format
from prunephase.measure.finding import Finding, Row
from prunephase.measure.weight_space import drawn, number
from prunephase.randomness import seeded
from prunephase.snapshot import Snapshot

Vector = NDArray[np.floating]
BASIS = 10  # vectors that Lanczos holds between its restarts: few, as convergence is only looked at there
TOGETHER = 2**24  # numbers in the vectors that are multiplied at once


def sharpness(
    snapshot: Snapshot,
    *,
    weights: Literal["surviving", "all"] = "surviving",
    examples: int | None = 10_000,
    tolerance: float = 1e-2,
    restarts: int = 30,
    probes: int = 20,
) -> Finding:
    """Top eigenvalue (Lanczos) and trace (Hutchinson 1990) of the Hessian of the mean training loss.

    Cross-entropy with the labels trained on, in evaluation mode, over `examples` training examples (drawn once for all
    levels; None: all). weights: all trainable parameters, biases included, but for those that are pruned ("surviving"),
    or with them ("all"). Any network that torch differentiates twice.

    One row, "network": top_eigenvalue, the algebraically largest; residual, |Hv - top v| / |top|, which bounds its
    relative error (by far: for an eigenvalue apart from the others the error goes with the square); converged, whether
    Lanczos brought the residual under `tolerance` before it ran out of restarts (if not, top_eigenvalue and residual
    are None); products, the Hessian-vector products of the eigenvalue; trace, the mean over `probes` of v'Hv, v random
    signs, and trace_error, its standard error; directions, D; examples.
    """
    seed = snapshot.trial.seed
    train = drawn(snapshot.data.train, examples, seed, "sharpness")
    hessian = Hessian(snapshot.network, train, snapshot.masks if weights == "surviving" else {})
    top, residual = _top(hessian, streams.generator(seed, "analysis", "sharpness", "start"), tolerance, restarts)
    products = hessian.products
    draw = streams.generator(seed, "analysis", "sharpness", "probes", snapshot.level)
    sampled = _quadratic(hessian, draw, probes)
    row: Row = {
        "part": "network",
        "top_eigenvalue": top,
        "residual": residual,
        "tolerance": tolerance,
        "converged": top is not None,
        "products": products,
        "trace": number(sampled.mean()) if probes else None,
        "trace_error": number(sampled.std(ddof=1) / math.sqrt(probes)) if probes > 1 else None,
        "probes": probes,
        "weights": weights,
        "directions": hessian.size,
        "examples": len(train),
    }
    return Finding([row])


class Hessian:
    """The Hessian of the mean cross-entropy of `network` on `train`, as a function on vectors [D] -> [D].

    network: a copy of it is used, in evaluation mode; masks: {parameter name: bool tensor}, the pruned weights, which
    are no directions. products counts the calls. Accumulated in float64, computed in the network's own precision.
    """

    def __init__(self, network: nn.Module, train: Split, masks: Mapping[str, Tensor]) -> None:
        self.network, self.train, self.products = copy.deepcopy(network).eval(), train, 0
        chosen = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.parameters = list(chosen.values())
        living = [masks[name] if name in masks else torch.ones_like(p, dtype=torch.bool) for name, p in chosen.items()]
        self.living = torch.cat([mask.flatten().to(train.labels.device) for mask in living])
        self.size = int(self.living.sum())

    def __call__(self, vector: Vector) -> Vector:
        """H v. [D] -> [D]."""
        return self.times(vector.reshape(1, -1)).reshape(-1)

    def times(self, vectors: Vector) -> Vector:
        """H v of each row, by differentiating the gradient along it (Pearlmutter 1994). [V, D] -> [V, D].

        BATCH examples at a time; the gradient is computed once for all rows.
        """
        self.products += len(vectors)
        total = np.zeros(vectors.shape)
        along = [self._pieces(vector) for vector in vectors]
        layout = memory_format(self.network)
        parts = (t.split(BATCH) for t in (self.train.inputs, self.train.labels))  # type: ignore[no-untyped-call]
        # Fused attention has no second derivative; a network may draw in evaluation mode as well.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), seeded(streams.seed(0, "dropout", "evaluate")):
            for inputs, labels in zip(*parts, strict=True):
                logits = self.network(laid_out(inputs, layout))
                loss = cross_entropy(logits, labels, reduction="sum") / len(self.train)
                slopes = torch.autograd.grad(loss, self.parameters, create_graph=True, allow_unused=True)
                for row, pieces in enumerate(along):
                    total[row] += self._curved(slopes, pieces)
        return total

    def _pieces(self, vector: Vector) -> list[Tensor]:
        """A vector as one tensor per parameter, zero where weights are pruned."""
        full = torch.zeros(len(self.living), dtype=torch.float64, device=self.living.device)
        full[self.living] = torch.from_numpy(vector).to(full)
        pieces = full.split([p.numel() for p in self.parameters])  # type: ignore[no-untyped-call]
        return [piece.view(p.shape).to(p.dtype) for piece, p in zip(pieces, self.parameters, strict=True)]

    def _curved(self, slopes: Sequence[Tensor | None], along: Sequence[Tensor]) -> Vector:
        """The derivative of the gradient along a vector, [D]."""
        moving = [(g, v) for g, v in zip(slopes, along, strict=True) if g is not None and g.requires_grad]
        curved = torch.autograd.grad(
            *([g for g, _ in moving], self.parameters, [v for _, v in moving]), retain_graph=True, allow_unused=True
        )
        found = (torch.zeros_like(p) if c is None else c for p, c in zip(self.parameters, curved, strict=True))
        return torch.cat([c.detach().flatten() for c in found])[self.living].double().cpu().numpy()


def _quadratic(hessian: Hessian, draw: np.random.Generator, probes: int) -> Vector:
    """v'Hv for `probes` vectors of random signs."""
    together = max(TOGETHER // hessian.size, 1)
    found = np.empty(probes)
    for first in range(0, probes, together):
        signs = draw.integers(0, 2, (min(together, probes - first), hessian.size)) * 2.0 - 1.0
        found[first : first + len(signs)] = (signs * hessian.times(signs)).sum(1)
    return found


def _top(
    hessian: Hessian, draw: np.random.Generator, tolerance: float, restarts: int
) -> tuple[float | None, float | None]:
    """The largest eigenvalue and the relative residual of its vector; None where Lanczos finds none."""
    operator = LinearOperator((hessian.size, hessian.size), matvec=hessian, dtype=np.float64)
    start = draw.standard_normal(hessian.size)
    try:
        (top,), vectors = eigsh(
            *(operator, 1), which="LA", v0=start, ncv=min(BASIS, hessian.size), tol=tolerance, maxiter=restarts
        )
    except ArpackError:  # out of restarts, or nothing is curved at all
        return None, None
    vector = vectors[:, 0]
    return float(top), float(np.linalg.norm(hessian(vector) - top * vector) / abs(top))
