"""A chain of Linear layers with ReLU between them, trained and evaluated by the native kernels."""

# N examples, F features, K classes.

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunephase import streams
from prunephase.data import Split
from prunephase.engine.job import Diverged, Guesses, Job, Moment, terms
from prunephase.engine.native.build import library
from prunephase.engine.native.layout import (
    LANES,
    CChain,
    CExamples,
    CGoal,
    CGround,
    CLayer,
    CRule,
    Pattern,
    Sparse,
    address,
    room,
)
from prunephase.engine.optimise import rates
from prunephase.sections import Recipe
from prunephase.trial import steps_per_epoch

WORK = 5e8  # weights times examples of one call into C, some 20 ms: between calls an interrupt is heard
SAMPLE = 4096  # examples that show which inputs are mostly zero


class Chain:
    """A team of one job whose network `fits`.

    The network's parameters are read whenever training or evaluation begins, and written at every moment; optimiser
    state lives here.
    """

    strategy = "native chain"

    def __init__(self, job: Job) -> None:
        found, layers = library(), linears(job.network)
        assert found is not None
        assert layers is not None
        self.job, self.kernels, self.tile, self.layers = job, found.functions, found.tile, list(layers.values())
        moments = 2 if job.recipe.optimizer == "adamw" else 1 if job.recipe.momentum else 0
        codes, ground = job.data.train.codes, _ground(job.data.train)
        rarity = None if codes is None or ground is None else np.count_nonzero(codes.values[:SAMPLE].numpy(), axis=0)
        self.sparse = []
        for i, (name, linear) in enumerate(layers.items()):
            mask = job.masks.get(f"{name}.weight", torch.ones((), dtype=torch.bool)).expand(linear.weight.shape)
            pattern = Pattern(mask.numpy(), every_input=i > 0, rarity=None if i > 0 else rarity)
            self.sparse.append(Sparse(pattern, found.tile, bias=linear.bias is not None, moments=moments))
        self.places = [torch.from_numpy(sparse.pattern.place) for sparse in self.sparse]
        goal = terms(job.objective)
        assert goal is not None
        self.tether = goal.tether
        for name, sparse, place in zip(layers, self.sparse, self.places, strict=True):
            if goal.start is not None:
                sparse.start = goal.start[f"{name}.weight"].view(-1)[place].numpy()
                sparse.bias_start = None if sparse.bias is None else goal.start[f"{name}.bias"].numpy()
        self.weights = sum(len(sparse.weight) for sparse in self.sparse) + 1
        # What the structures below point at, kept alive with them.
        first = self.sparse[0].pattern
        self.codes = None if codes is None else (codes.scale.numpy()[first.active], codes.shift.numpy()[first.active])
        self.live = np.zeros(first.forward.blocks, np.uint64) if first.forward.bits is not None else None
        self.scratch = room(max(max(len(s.weight), s.pattern.outputs) for s in self.sparse) + LANES)
        self.sums = room(max(s.pattern.outputs for s in self.sparse) + LANES)
        self.c_layers = (CLayer * len(self.sparse))(*(s.layer(source=i > 0) for i, s in enumerate(self.sparse)))
        self.taught = None if goal.taught is None else _soft(goal.taught, goal.temperature)
        self.goal = CGoal(
            *(goal.weight, goal.smoothing, goal.reverse, goal.power, goal.alpha, goal.temperature),
            *map(address, self.taught or (None, None)),
        )
        self.chain = CChain(
            *(self.c_layers, len(self.sparse), len(first.active), address(first.active), address(first.column)),
            *map(address, self.codes or (None, None)),
            *(address(self.sparse[0].tile), CGround(address(self.live), ground or 0.0)),
            *(address(self.scratch), address(self.sums)),
        )

    @staticmethod
    def fits(job: Job) -> bool:
        """Whether this is the network, the data and the recipe that the kernels train as the plain loop would."""
        layers = linears(job.network)
        if layers is None or terms(job.objective) is None or job.recipe.augment or job.recipe.decay_by:
            return False
        chained, splits = list(layers.values()), list(job.data.splits.values())
        parameters = [p for linear in chained for p in linear.parameters()]
        return (
            job.masks.keys() <= {f"{name}.weight" for name in layers}
            and all(a.out_features == b.in_features for a, b in pairwise(chained))
            and len({p.data_ptr() for p in parameters}) == len(parameters)
            and all(map(_ordinary, parameters))
            and all(_readable(split, job.network, chained) for split in splits)
            and all(_alike(split, job.data.train) for split in splits)
            and library() is not None
        )

    def moments(self) -> Iterator[Sequence[Moment | Diverged]]:
        """See Team."""
        job, recipe = self.job, self.job.recipe
        steps = steps_per_epoch(len(job.data.train), recipe.batch_size)
        schedule: Sequence[float] = rates(recipe) if job.lr is None else [job.lr] * recipe.epochs
        rule = _rule(recipe, self.tether)
        for epoch in range(job.begin // steps, recipe.epochs):
            rule.lr = schedule[epoch]
            order = streams.generator(job.seed, "order", job.level, epoch).permutation(len(job.data.train))
            begin, end = max(job.begin, epoch * steps), (epoch + 1) * steps
            step, losses = begin, list[float]()
            job.network.train()
            if job.pause_at is not None and begin < job.pause_at <= end:
                step = job.pause_at
                losses += self._train(rule, order, begin - epoch * steps, step - epoch * steps)
                yield [Moment(step, epoch + 1, schedule[epoch], None)]
            losses += self._train(rule, order, step - epoch * steps, steps)
            for step, loss in enumerate(losses, begin + 1):
                if not math.isfinite(loss):
                    yield [Diverged(epoch + 1, step, loss)]
                    return
            yield [Moment(end, epoch + 1, schedule[epoch], math.fsum(losses) / len(losses))]

    def guesses(self) -> Sequence[Guesses]:
        """See Team."""
        self._read()
        return [{name: self._guess(split) for name, split in self.job.data.splits.items()}]

    def _train(self, rule: CRule, order: NDArray[np.int64], begin: int, end: int) -> list[float]:
        """Take the steps begin .. end - 1 of the epoch whose examples come in `order`; gives their losses."""
        size, losses = self.job.recipe.batch_size, np.empty(end - begin)
        examples, steps = _examples(self.job.data.train), max(int(WORK / self.weights / size), 1)
        self._read()
        for first in range(begin, end, steps):
            places = order[first * size : min(first + steps, end) * size]
            self.kernels.prunephase_train(
                *(self.chain, examples, address(places), len(places), size),
                *(self.goal, rule, address(losses[first - begin :])),
            )
        self._write()
        return [float(loss) for loss in losses]

    def _guess(self, split: Split) -> tuple[float | None, Tensor]:
        found, total = np.empty(len(split), np.int64), 0.0
        examples, step = _examples(split), max(int(3 * WORK / self.weights / self.tile), 1) * self.tile
        for first in range(0, len(split), step):
            count = min(step, len(split) - first)
            total += self.kernels.prunephase_evaluate(self.chain, examples, first, count, address(found[first:]))
        loss = total / len(split)
        return (loss if math.isfinite(loss) else None), torch.from_numpy(found)

    @torch.no_grad()
    def _read(self) -> None:
        for linear, sparse, place in zip(self.layers, self.sparse, self.places, strict=True):
            torch.index_select(linear.weight.view(-1), 0, place, out=torch.from_numpy(sparse.weight))
            if sparse.bias is not None:
                sparse.bias[:] = linear.bias.numpy()

    @torch.no_grad()
    def _write(self) -> None:
        for linear, sparse, place in zip(self.layers, self.sparse, self.places, strict=True):
            linear.weight.view(-1).index_copy_(0, place, torch.from_numpy(sparse.weight))
            if sparse.bias is not None:
                linear.bias.copy_(torch.from_numpy(sparse.bias))


def linears(network: nn.Module) -> dict[str, nn.Linear] | None:
    """The Linear layers by name, in order, of a network that is [Flatten] Linear ReLU ... Linear; None for another."""
    if type(network) is not nn.Sequential:
        return None
    every = list(network.named_modules(remove_duplicate=False))
    if any(_altered(module) for _, module in every):
        return None
    leaves = [(name, module) for name, module in every if type(module) is not nn.Sequential]
    flatten = leaves and type(leaves[0][1]) is nn.Flatten and (leaves[0][1].start_dim, leaves[0][1].end_dim) == (1, -1)
    rest = leaves[1:] if flatten else leaves
    kinds = [type(module) for _, module in rest]
    if kinds != [nn.Linear if i % 2 == 0 else nn.ReLU for i in range(len(rest))] or len(rest) % 2 == 0:
        return None
    return {name: module for name, module in rest if isinstance(module, nn.Linear)}


def _altered(module: nn.Module) -> bool:
    """Whether somebody changed what calling this very module does."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def _ordinary(p: Tensor) -> bool:
    plain = p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous()
    return plain and p.requires_grad and not p._backward_hooks and not p._post_accumulate_grad_hooks


def _readable(split: Split, network: nn.Module, chained: Sequence[nn.Linear]) -> bool:
    """Whether the kernels can read the examples, and torch would take them."""
    inputs, labels = split.inputs, split.labels
    if not isinstance(inputs, Tensor):  # read from the disk as they are needed
        return False
    values = (inputs,) if split.codes is None else (split.codes.values, split.codes.scale, split.codes.shift)
    kinds = (torch.float32,) if split.codes is None else (torch.uint8, torch.float32, torch.float32)
    return (
        all(t.device.type == "cpu" and t.is_contiguous() for t in (*values, labels))
        and all(t.dtype == kind for t, kind in zip((*values, labels), (*kinds, torch.int64), strict=True))
        and (inputs.ndim == 2 or any(type(module) is nn.Flatten for module in network.modules()))
        and math.prod(inputs.shape[1:]) == chained[0].in_features
        and bool(((labels >= 0) & (labels < chained[-1].out_features)).all())
    )


def _alike(a: Split, b: Split) -> bool:
    """Whether the inputs of both splits are kept in the same way."""
    if a.codes is None or b.codes is None:
        return a.codes is b.codes
    return torch.equal(a.codes.scale, b.codes.scale) and torch.equal(a.codes.shift, b.codes.shift)


def _ground(split: Split) -> float | None:
    """What a byte of zero means, where it means the same in all inputs: the margin of an image."""
    shifts = [] if split.codes is None else torch.unique(split.codes.shift).tolist()
    return float(shifts[0]) if len(shifts) == 1 else None


def _examples(split: Split) -> CExamples:
    features = math.prod(split.inputs.shape[1:])
    if split.codes is None:
        return CExamples(None, address(split.inputs), address(split.labels), features)
    return CExamples(address(split.codes.values), None, address(split.labels), features)


def _soft(logits: Tensor, temperature: float) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """What a teacher's logits [N, K] say at a temperature: probabilities, and the sum of each example's p log p."""
    said = (logits.double() / temperature).log_softmax(1)
    return said.exp().float().contiguous().numpy(), (said.exp() * said).sum(1).numpy()


def _rule(recipe: Recipe, tether: float) -> CRule:
    """What torch's optimisers make of a recipe, their defaults included."""
    adam = recipe.optimizer == "adamw"
    return CRule(int(adam), recipe.lr, recipe.momentum, recipe.weight_decay, 0.9, 0.999, 1e-8, tether, 0)
