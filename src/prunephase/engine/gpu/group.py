"""Steps that are launched together: captured, and checked against the same steps uncaptured before they are trusted."""

# J networks.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunephase import streams
from prunephase.engine.gpu.capture import Capture, branches
from prunephase.engine.gpu.step import Step
from prunephase.randomness import seeded

# How far a captured step may be from the same step uncaptured: its losses, and how it moves the weights. Some gradients
# are summed in no fixed order, so they need not be equal to the last bit; a graph that lost a kernel or draws other
# numbers is further off.
LOSS, MOVE = 1e-3, 0.1


class Unfit(Exception):
    """These steps cannot be launched in this way."""


class Group:
    """Steps side by side. Raises Unfit, or what the networks or CUDA raise, where they cannot be; nothing is trained.

    `draws`: a network draws random numbers, and has to be seeded for every step.
    """

    def __init__(self, members: Sequence[Step], capture: Capture, epoch: int, rate: float) -> None:
        self.members, first = members, members[0]
        self.device, self.whole = first.device, first.whole
        kinds = {"measure": [m.measure for m in members]}
        if first.whole:
            kinds["full"] = [m.full for m in members]
        if first.steps > first.whole:
            kinds["short"] = [m.short for m in members]
        joined = branches(len(members), self.device)
        self.actions = {kind: joined(actions) for kind, actions in kinds.items()}
        begun = [t.detach().clone() for m in members for t in m.nets.state]
        drawn = [m.draws(epoch) for m in members]

        @torch.no_grad()
        def anew() -> None:
            """As if nothing had been trained; NaN where a result belongs."""
            for tensor, value in zip(self._state(), begun, strict=True):
                tensor.copy_(value)
            for member, draws in zip(members, drawn, strict=True):
                member.forget()
                member.load(draws, rate, 0)

        try:
            with seeded(0):
                expected = {}
                self.draws = False
                for kind, action in self.actions.items():
                    anew()
                    seed(0, self.device)
                    before = _generators(self.device)
                    action()
                    self.draws |= not torch.equal(before, _generators(self.device))
                    expected[kind] = self._outcome(begun)
                if self.draws and len(members) > 1:
                    raise Unfit("networks that draw random numbers cannot share a graph")
                for kind, action in list(self.actions.items()):
                    captured = self.actions[kind] = capture(action)
                    anew()
                    seed(0, self.device)
                    captured()
                    if not _agree(expected[kind], self._outcome(begun)):
                        raise Unfit("the captured step does not do what the step does")
        finally:
            anew()

    def train(self, start: int, steps: range) -> None:
        """Train every member: `steps`, counted from 0 in the epoch that begins at step `start` of the schedule."""
        actions = [self.actions["full" if step < self.whole else "short"] for step in steps]
        if not self.draws:
            for action in actions:
                action()
            return
        (job,) = self.members[0].jobs
        with seeded(0):
            for step, action in zip(steps, actions, strict=True):
                seed(streams.seed(job.seed, "dropout", job.level, start + step), self.device)
                action()

    def measure(self) -> None:
        """Evaluate every member; see Step.guesses."""
        if not self.draws:
            self.actions["measure"]()
            return
        with seeded(streams.seed(0, "dropout", "evaluate")):
            self.actions["measure"]()

    def _state(self) -> list[Tensor]:
        return [t for member in self.members for t in member.nets.state]

    def _outcome(self, begun: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The losses found, and by how much every weight has moved."""
        losses = [t.flatten().double() for member in self.members for t in (member.loss, member.trace[:, :1])]
        pairs = [(t.detach(), was) for t, was in zip(self._state(), begun, strict=True) if t.is_floating_point()]
        moves = [(now - was).flatten() for now, was in pairs]
        return torch.cat(losses), torch.cat(moves)


def _agree(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> bool:
    (losses, moves), (captured_losses, captured_moves) = expected, found
    same = torch.allclose(captured_losses, losses, rtol=LOSS, atol=LOSS, equal_nan=True)
    # Not "<=": a loss that explodes on its first step explodes with and without a graph.
    return same and not bool((captured_moves - moves).norm() > MOVE * moves.norm())


def seed(number: int, device: torch.device) -> None:
    """Seed the generators that a step on `device` may draw from; to be called inside of `seeded`.

    A graph reads seed and offset of the CUDA generator whenever it is launched, so it draws what an uncaptured step
    would draw.
    """
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        _cuda_generator(device).manual_seed(number)


def _generators(device: torch.device) -> Tensor:
    states = [torch.default_generator.get_state()]
    if device.type == "cuda":
        states.append(_cuda_generator(device).get_state())
    return torch.cat(states)


def _cuda_generator(device: torch.device) -> torch.Generator:
    generator: torch.Generator = torch.cuda.default_generators[device.index]
    return generator
