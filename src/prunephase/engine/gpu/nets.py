"""The networks of a step: one ordinary network, or several of one architecture as a single batched one."""

# J networks, B batch, K classes; a weight of shape [...] is [J, ...] when stacked.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from prunephase.engine.forward import memory_format
from prunephase.engine.job import Batch, Job, Objective, cross_entropy

# Layers that are as fast for many networks at once as for one; convolutions are slower (grouped), BatchNorm and dropout
# keep a state or draw, which a batched call does not allow.
_STACKABLE = (nn.Linear, nn.LayerNorm, nn.Flatten, nn.Identity)
_DRAWS_OR_ATTENDS = (nn.RReLU, nn.MultiheadAttention)  # live among the activations, but are none


class Nets(Protocol):
    """What a step trains.

    trained: the leaves that the optimiser moves, by name; masks: for some of them, 1 where the weight lives, in the
    leaf's own layout; state: every tensor that training changes, optimiser aside; layout: how images should lie in
    memory.
    """

    trained: dict[str, Tensor]
    masks: list[tuple[Tensor, Tensor]]
    state: list[Tensor]
    layout: torch.memory_format

    def mode(self, *, training: bool) -> None:
        """Put every network in training or evaluation mode."""
        ...

    def losses(self, inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """[J] losses, from inputs [J, B, ...], labels [J, B] and places [J, B]."""
        ...

    def logits(self, inputs: Tensor) -> Tensor:
        """[J, B, K], from inputs [B, ...] that all share."""
        ...

    def publish(self) -> None:
        """Write the weights back into the networks of the jobs."""
        ...


class One:
    """One network, trained where it is."""

    def __init__(self, job: Job) -> None:
        self.network, self.objective = job.network, job.objective
        if any(isinstance(module, nn.Conv2d) for module in self.network.modules()):
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.layout = memory_format(self.network)
        self.trained: dict[str, Tensor] = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        weights = [(self.network.get_parameter(name), mask) for name, mask in job.masks.items()]
        self.masks: list[tuple[Tensor, Tensor]] = [(weight, _in_layout(mask, weight)) for weight, mask in weights]
        self.state = [*self.network.parameters(), *self.network.buffers()]

    def mode(self, *, training: bool) -> None:
        """See Nets."""
        self.network.train(training)

    def losses(self, inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """See Nets."""
        return self.objective(Batch(self.network, inputs[0], labels[0], index[0])).reshape(1)

    def logits(self, inputs: Tensor) -> Tensor:
        """See Nets."""
        out: Tensor = self.network(inputs)
        return out.unsqueeze(0)

    def publish(self) -> None:
        """See Nets."""


class Stack:
    """Networks of one architecture, their weights stacked, called as one by vmap."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.networks, self.layout = [job.network for job in jobs], torch.contiguous_format
        # The first network lends its forward; for the length of a call it holds the weights of another.
        self.call = _Objective(self.networks[0], jobs[0].objective)
        self.weights = _stacked([dict(network.named_parameters()) for network in self.networks])
        self.buffers = _stacked([dict(network.named_buffers()) for network in self.networks])
        for name, weight in self.networks[0].named_parameters():
            self.weights[name].requires_grad_(weight.requires_grad)
        self.trained = {name: weight for name, weight in self.weights.items() if weight.requires_grad}
        self.state = [*self.weights.values(), *self.buffers.values()]
        masks = [{id(job.network.get_parameter(name)): mask for name, mask in job.masks.items()} for job in jobs]
        self.masks = []
        for name, stacked in self.weights.items():
            own = [m.get(id(network.get_parameter(name))) for m, network in zip(masks, self.networks, strict=True)]
            if any(mask is not None for mask in own):
                dense = torch.ones(stacked.shape[1:], dtype=torch.bool, device=stacked.device)
                together = torch.stack([dense if mask is None else mask for mask in own])
                self.masks.append((stacked, _in_layout(together, stacked)))

    def mode(self, *, training: bool) -> None:
        """See Nets."""
        for network in self.networks:
            network.train(training)

    def losses(self, inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """See Nets."""
        if self.call.objective is cross_entropy:  # in a third of the kernels that vmap makes of it
            logits = self._logits(inputs)
            each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            return each.view_as(labels).mean(1)

        def one(weights: dict[str, Tensor], inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor:
            loss: Tensor = functional_call(self.call, weights, (inputs, labels, index))
            return loss

        found: Tensor = vmap(one)(_named("network.", self.weights | self.buffers), inputs, labels, index)
        return found

    def logits(self, inputs: Tensor) -> Tensor:
        """See Nets."""
        return self._logits(inputs, shared=True)

    def _logits(self, inputs: Tensor, *, shared: bool = False) -> Tensor:
        def one(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
            out: Tensor = functional_call(self.networks[0], weights, (inputs,))
            return out

        found: Tensor = vmap(one, in_dims=(0, None if shared else 0))(self.weights | self.buffers, inputs)
        return found

    @torch.no_grad()
    def publish(self) -> None:
        """See Nets."""
        for place, network in enumerate(self.networks):
            own = [*network.parameters(), *network.buffers()]
            for tensor, stacked in zip(own, self.state, strict=True):
                tensor.copy_(stacked[place])


class _Objective(nn.Module):
    """An objective as a module, so that functional_call can exchange the weights of the network it sees."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        return self.objective(Batch(self.network, inputs, labels, index))


@torch.no_grad()
def stackable(jobs: Sequence[Job]) -> bool:
    """Whether the networks are the same function of their weights, made of layers that stack well."""
    first, objective = jobs[0].network, jobs[0].objective
    if not all(_suits(module) for module in first.modules() if not any(module.children())):
        return False
    probe = jobs[0].data.train.inputs[:2]
    for job in jobs[1:]:
        if job.objective != objective or _signature(job.network) != _signature(first):
            return False
        weights = dict(job.network.named_parameters()) | dict(job.network.named_buffers())
        with _evaluating(first, job.network):
            lent, own = functional_call(first, weights, (probe,)), job.network(probe)
            if not torch.allclose(lent, own, rtol=0, atol=0, equal_nan=True):
                return False
    return True


def _suits(layer: nn.Module) -> bool:
    activation = type(layer).__module__ == nn.ReLU.__module__ and not isinstance(layer, _DRAWS_OR_ATTENDS)
    return activation or type(layer) in _STACKABLE


def _signature(network: nn.Module) -> list[tuple[object, ...]]:
    held = [*network.named_parameters(), *network.named_buffers()]
    return [(name, t.shape, t.dtype, t.requires_grad) for name, t in held]


@contextmanager
def _evaluating(*networks: nn.Module) -> Iterator[None]:
    modes = {module: module.training for network in networks for module in network.modules()}
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _stacked(each: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    together = {name: torch.stack([held[name].detach() for held in each]) for name in each[0]}
    # Matrices [J, out, in] lie transposed in memory, as the batched product gives their gradients: nothing is copied.
    return {name: t.mT.contiguous().mT if t.ndim == 3 else t for name, t in together.items()}


def _named(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in weights.items()}


def _in_layout(mask: Tensor, weight: Tensor) -> Tensor:
    """`mask` as numbers, laid out in memory as `weight` is: what fused kernels ask for."""
    return torch.empty_like(weight, requires_grad=False).copy_(mask)
