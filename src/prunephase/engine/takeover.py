"""Where the native kernels take over: below the density at which they were measured to be faster on this machine.

Measured once for each kind of network, and kept beside the compiled kernels: the same machine decides the same way
every time, so equal runs give equal bytes. Where both ways are about as fast, a machine that has lost its cache, or
another one, may decide otherwise: then every draw is the same, but sums are rounded otherwise, and weights differ in
their last bits. The record of a level names the way that it was trained (`numerics.strategy`).
"""

# N examples, B batch, D inputs of a layer.

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial

import torch
from filelock import FileLock
from torch import Tensor, nn

from prunephase import disk
from prunephase.data import Codes, Split
from prunephase.engine.job import Job, Team, cross_entropy
from prunephase.engine.native.build import folder, library
from prunephase.engine.native.chain import Chain, linears
from prunephase.engine.native.linear import patched
from prunephase.engine.plain import Plain
from prunephase.errors import StorageError
from prunephase.randomness import seeded

DENSITIES = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015)  # of the races, until the kernels win one
STEPS, ROUNDS = 12, 5  # of a race

Race = Callable[[float], tuple[Callable[[], object], Callable[[], object]]]  # density -> native and dense work


def chain(job: Job) -> bool:
    """Whether `job`, which fits a native chain, is trained faster by it than by the plain loop."""
    sizes = [tuple(layer.weight.shape) for layer in (linears(job.network) or {}).values()]
    recipe, kind = job.recipe, "bytes" if job.data.train.codes is not None else "floats"
    key = f"chain {sizes}, of {kind}, batch {recipe.batch_size}, {recipe.optimizer}, momentum {recipe.momentum > 0}"
    total = sum(p.numel() for p in job.network.parameters() if p.ndim == 2)
    pruned = sum(int((~mask).sum()) for mask in job.masks.values())
    return 1 - pruned / total <= crossover(key, partial(_chains, job))


def layers(job: Job) -> tuple[str, ...]:
    """Names of the pruned Linear layers of `job` that are computed faster by the native kernels."""
    inner = {name: mask for name, mask in job.masks.items() if name.endswith(".weight") and not mask.all()}
    pruned = {name.removesuffix(".weight"): mask for name, mask in inner.items()}
    modules = {name: job.network.get_submodule(name) for name in pruned}
    chosen = {name: module for name, module in modules.items() if type(module) is nn.Linear}
    found = []
    for name, rows in _rows(job, chosen).items():
        module = chosen[name]
        key = f"linear {module.in_features} to {module.out_features}, {rows} rows"
        density = float(pruned[name].float().mean())
        if density <= crossover(key, partial(_linears, module.in_features, module.out_features, rows)):
            found.append(name)
    return tuple(found)


def crossover(key: str, race: Race) -> float:
    """The highest of DENSITIES at which the native work of `race` is the faster one; 0 where it never is."""
    kernels = library()
    if kernels is None:
        return 0.0
    path = folder() / f"takeover-{kernels.identity}-{torch.__version__}.json"
    try:
        with FileLock(f"{path}.lock"):  # of two workers, one measures and the other waits
            known: dict[str, float] = {}
            with suppress(ValueError):  # somebody damaged it: measured again
                known = json.loads(disk.read(path) or b"{}")
            if key not in known:
                known[key] = _measured(race)
                disk.write(path, json.dumps(known, indent=1).encode(), path.parent, durable=False)
            return known[key]
    except (OSError, StorageError):  # a cache that we may only read
        return _measured(race)


def _measured(race: Race) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return next((density for density in DENSITIES if _wins(*race(density))), 0.0)
    finally:
        torch.set_num_threads(threads)


def _wins(native: Callable[[], object], dense: Callable[[], object]) -> bool:
    """Whether the native work is faster in the median of rounds in turn."""
    ratios = []
    for _ in range(ROUNDS + 1):  # the first one warms up
        begun = time.perf_counter()
        native()
        middle = time.perf_counter()
        dense()
        ratios.append((time.perf_counter() - middle) / (middle - begun))
    return statistics.median(ratios[1:]) > 1


def _chains(job: Job, density: float) -> tuple[Callable[[], object], Callable[[], object]]:
    """A few steps of `job` at random masks, both ways."""
    draw = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(mask.shape, generator=draw) < density for name, mask in job.masks.items()}
    few = _first(job.data.train, STEPS * job.recipe.batch_size)
    data, recipe = replace(job.data, train=few), job.recipe.model_copy(update={"epochs": 10**6})
    job = replace(job, objective=cross_entropy)  # what a network is trained for costs next to nothing

    def epochs(way: Callable[[Job], Team]) -> Callable[[], object]:
        network = copy.deepcopy(job.network)
        with torch.no_grad():
            for name, mask in masks.items():
                network.get_parameter(name).masked_fill_(~mask, 0.0)
        moments = way(
            replace(job, network=network, data=data, recipe=recipe, masks=masks, begin=0, pause_at=None, lr=1e-6)
        ).moments()
        return lambda: next(moments)

    return epochs(Chain), epochs(Plain)


def _first(split: Split, count: int) -> Split:
    parts: dict[str, Tensor] = {f.name: getattr(split, f.name)[:count] for f in fields(Split) if f.name != "codes"}
    codes = split.codes
    return Split(**parts, codes=codes and Codes(codes.values[:count], codes.scale, codes.shift))


def _rows(job: Job, chosen: Mapping[str, nn.Module]) -> dict[str, int]:
    """How many vectors each layer sees in a step; layers that the network calls otherwise are left out."""
    rows: dict[str, int] = {}

    def see(name: str, _module: nn.Module, given: tuple[Tensor, ...], _out: Tensor) -> None:
        if given:
            rows[name] = given[0].shape[:-1].numel()

    hooks = [module.register_forward_hook(partial(see, name)) for name, module in chosen.items()]
    training = job.network.training
    with torch.no_grad():
        job.network.eval()(job.data.train.inputs[: job.recipe.batch_size])
    job.network.train(training)
    for hook in hooks:
        hook.remove()
    return rows


def _linears(inputs: int, outputs: int, rows: int, density: float) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward and backward through one layer at a random mask, both ways."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=draw, requires_grad=True)
    with seeded(0):
        dense = nn.Sequential(nn.Linear(inputs, outputs))
    masks = {"0.weight": torch.rand(outputs, inputs, generator=draw) < density}
    with torch.no_grad():
        dense.get_parameter("0.weight").masked_fill_(~masks["0.weight"], 0.0)
    sparse = copy.deepcopy(dense)
    held = patched(sparse, masks, ["0"])
    held.__enter__()  # for as long as the race lives: setting up is no part of it

    def work(layer: nn.Module, _held: object = held) -> None:
        layer(x).sum().backward()

    return partial(work, sparse), partial(work, dense)
