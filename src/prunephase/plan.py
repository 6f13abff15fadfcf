"""Plans: what a study costs, before anything is spent."""

# N examples, B batch.

from __future__ import annotations

import copy
import heapq
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunephase import disk
from prunephase.errors import UserError
from prunephase.runs import check, families, waves
from prunephase.sections import Antidote, Restart
from prunephase.stopping import view
from prunephase.store import Store
from prunephase.study import Study
from prunephase.task import Finished, Task
from prunephase.trial import Trial, canonical_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunephase.bench import Bench, Site
    from prunephase.data import Dataset, Split

POINTS = 6  # levels that are probed; the cost of the others lies between
SECONDS = (
    0.6  # of training, and again of evaluation, in a probe of a level: more on a slow network, as one step is least
)
STEPS = 100  # at most


@dataclass(frozen=True)
class Cost:
    """What is left to do and what it takes.

    trials: with those that others build on; trainings: levels still to be trained, of `levels` in all, shared ones
    once; epochs: of those trainings; macs: multiply-accumulates of forward and backward passes at dense cost, 3 x
    forward x examples (the papers' convention); bytes: on disk, about; core_seconds: on one worker on this machine and
    device, from probes of a few steps at several sparsities; seconds: with `workers` of them.
    """

    trials: int
    levels: int
    trainings: int
    epochs: int
    macs: float
    bytes: int
    core_seconds: float
    workers: int
    seconds: float


def estimate(study: Study, site: Site, workers: int) -> Cost:
    """The cost of what `study` still lacks in the store of `site`. Raises UserError where a trial cannot be trained."""
    from prunephase.bench import Bench

    if workers < 1:
        raise UserError(f"--workers {workers}: expected at least 1")
    begun = time.perf_counter()
    store, loaded = view(site.store, study), check(study, site)
    fixed = time.perf_counter() - begun
    trials = list(chain(*waves(study.trials)))
    probes: dict[bytes, _Probe] = {}
    rank = families(trials)
    levels = trainings = epochs = size = 0
    macs, ladders = 0.0, list[float]()
    for trial in trials:
        kind = _kind(trial)
        if kind not in probes:
            clean = next((clean for spec, clean in loaded if spec == trial.data), None)
            probes[kind] = _probe(Bench(trial, site, clean), trials=len(trials))
        probe, rungs = probes[kind], trial.pruning.levels + 1
        done = {record.body["level"] for record in store.levels(trial)} if store.missing(trial) else set(range(rungs))
        missing = [level for level in range(rungs) if level not in done]
        trained = [level for level in missing if level or not rank[trial.digest()]]
        levels, trainings, epochs = (
            levels + rungs,
            trainings + len(trained),
            epochs + len(trained) * trial.recipe.epochs,
        )
        macs += len(trained) * trial.recipe.epochs * probe.macs_per_epoch
        size += sum(probe.bytes_per_level[level] for level in missing)
        own = len(missing) * probe.overhead
        ladders.append(own + trial.recipe.epochs * sum(probe.seconds_per_epoch[level] for level in trained))
    if not trainings:
        fixed = 0.0
    elif min(workers, len(trials)) > 1:
        fixed += _startup()
    makespan = fixed + _makespan(ladders, workers)
    return Cost(len(trials), levels, trainings, epochs, macs, size, fixed + sum(ladders), workers, makespan)


def _makespan(tasks: Sequence[float], workers: int) -> float:
    """Seconds until the last worker is done, if each takes the longest task that is left: a ladder is one task."""
    busy = [0.0] * workers
    for seconds in sorted(tasks, reverse=True):
        heapq.heappush(busy, heapq.heappop(busy) + seconds)
    return max(busy)


def _kind(trial: Trial) -> bytes:
    """What the cost of a level depends on."""
    # Everything but these: what is added later may cost.
    recipe = trial.recipe.model_dump(exclude={"epochs", "lr", "schedule", "milestones", "factor", "warmup"})
    pruning = trial.pruning.model_dump(exclude={"criterion", "batches", "score_mode", "ladder", "remask"})
    model = trial.model.model_dump(exclude={"init"})
    return canonical_json([trial.data.model_dump(), model, trial.antidote.model_dump(), recipe, pruning])


@dataclass(frozen=True)
class _Probe:
    """Costs of one kind of ladder. overhead: seconds of a level outside its epochs."""

    seconds_per_epoch: list[float]
    overhead: float
    macs_per_epoch: float
    bytes_per_level: list[int]


def _probe(bench: Bench, trials: int) -> _Probe:
    """Train and evaluate for a moment at some of the levels, on one thread as a worker does."""
    import torch

    network, train, last = bench.network(), bench.data.train, bench.trial.pruning.levels
    macs = 3 * _macs(network, train.inputs) * len(train)
    points = sorted({round(last * i / (POINTS - 1)) for i in range(POINTS)})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        paces = [_pace(bench, _masks(bench, network, level), trials) for level in points]
        overhead = _overhead(bench, *paces[-1])
    finally:
        torch.set_num_threads(threads)
    examples = sum(len(split) for split in bench.data.splits.values())
    costs = [step * bench.steps + seen * examples for step, seen in paces]
    every = np.exp(np.interp(range(last + 1), points, np.log(costs))).tolist()
    return _Probe(every, overhead, macs, _bytes(bench, network))


def _macs(network: nn.Module, inputs: Tensor) -> float:
    """Multiply-accumulates of the forward pass of one example."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from prunephase.models.count import macs_of

    try:
        return sum(macs_of(network, tuple(inputs.shape[1:]), inputs.dtype).values())
    except Exception:  # a user's network that needs numbers to run, not shapes alone
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(inputs[:1])
        return float(counter.get_total_flops()) / 2


def _masks(bench: Bench, network: nn.Module, level: int) -> dict[str, Tensor]:
    """Masks of `level` by the magnitude of the initial weights."""
    from prunephase import prune

    scores = {name: network.get_parameter(name).detach().abs().cpu() for name in bench.prunable[0]}
    chosen = prune.select(scores, bench.masks, bench.budgets[level], bench.floors) if level else bench.masks
    return {name: mask.to(bench.device) for name, mask in chosen.items()}


def _pace(bench: Bench, masks: Mapping[str, Tensor], trials: int) -> tuple[float, float]:
    """Seconds per step, and of evaluating one example, of one trial where as many train at once as will."""
    from prunephase import prune, teacher
    from prunephase.engine import Job, team, width
    from prunephase.measure import accuracy

    network, data, recipe = bench.network(), bench.data, bench.trial.recipe
    prune.zero_pruned(network, masks)
    recipe = recipe.model_copy(update={"epochs": 10**6})
    job = Job(network, data, recipe, 0, 1, masks, teacher.rehearsal(bench, network), lr=1e-9)
    count = min(trials, width(job))

    def paces(examples: int) -> tuple[float, float]:
        """Seconds per step, and of the evaluation of one example."""
        few = _few(data, examples)
        jobs = [replace(job, network=copy.deepcopy(network), data=few) for _ in range(count)]
        together = team(jobs)
        moments = together.moments()
        next(moments)  # once to warm up
        accuracy(together.guesses()[0], few)
        begun = time.perf_counter()
        next(moments)
        middle = time.perf_counter()
        for said in together.guesses():
            accuracy(said, few)
        end = time.perf_counter()
        steps, seen = -(-len(few.train) // recipe.batch_size), sum(len(split) for split in few.splits.values())
        return (middle - begun) / steps / count, (end - middle) / seen / count

    step, seen = paces(recipe.batch_size)
    steps = min(bench.steps, STEPS, max(1, round(SECONDS / max(step * count, 1e-9))))
    return paces(steps * recipe.batch_size) if steps > 1 else (step, seen)


def _few(data: Dataset, examples: int) -> Dataset:
    """The first `examples` of every split."""

    def part(split: Split) -> Split:
        cut = {f.name: getattr(split, f.name)[:examples] for f in fields(split) if f.name != "codes"}
        codes = split.codes and replace(split.codes, values=split.codes.values[:examples])
        return replace(split, **cut, codes=codes)

    splits = {name: part(split) for name, split in data.splits.items()}
    return replace(data, train=splits["train"], validation=splits.get("validation"), test=splits["test"])


def _overhead(bench: Bench, step: float, seen: float) -> float:
    """Seconds that a level takes beside its epochs, from a ladder of two levels on one batch, kept on the same disk."""
    from prunephase.cohort import descend
    from prunephase.data import publish

    trial, few = bench.trial, _few(bench.clean, bench.trial.recipe.batch_size)
    if trial.pruning.levels == 0:
        return 0.0
    recipe = trial.recipe.model_copy(update={"epochs": 1, "schedule": "constant", "milestones": (), "warmup": 0})
    pruning = trial.pruning.model_copy(update={"levels": min(2, trial.pruning.levels), "remask": "none"})
    changes = {"recipe": recipe, "pruning": pruning, "restart": Restart(), "antidote": Antidote()}
    small = trial.model_copy(update=changes)
    here = next(folder for folder in (bench.site.store, *bench.site.store.resolve().parents) if folder.is_dir())
    with _scratch(here) as place:
        publish(trial.data, few, place / "data")
        site = replace(bench.site, store=place / "runs", shared=place / "data")
        ends = [event for _, event in descend([Task(small)], site) if isinstance(event, Finished)]
        facts = [Store(site.store).facts(small.digest(), level) for level in range(1, pruning.levels + 1)]
    if ends[0].problem is not None:
        raise UserError(ends[0].problem)
    taken = [fact["seconds"] for fact in facts if fact]
    return max(0.0, min(taken, default=0.0) - step - seen * sum(len(split) for split in few.splits.values()))


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder within `folder` for as long as it is needed; what killed plans left there is removed."""
    scratch = folder / ".plan"
    disk.sweep(scratch)
    try:
        with Store(folder).scratching(disk.scratch_name(scratch, "probe")) as place:
            yield place
    finally:
        with suppress(OSError):  # another plan is being made, or none could be
            scratch.rmdir()


def _startup() -> float:
    """Seconds until a new worker process has imported what it needs."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import prunephase.cohort"], check=True)
    return time.perf_counter() - begun


def _bytes(bench: Bench, network: Any) -> list[int]:
    """Bytes of each level: living weights, what is not prunable, a bit per prunable weight, record and facts."""
    state = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    prunable = sum(bench.prunable[0].values())
    record = 3_000 + 260 * bench.trial.recipe.epochs
    data = bench.noisy[0]
    labels = 25 * sum(len(split) for split in data.noisy) + 40 * len(data.classes) ** 2 + 3_000
    per_level = [state - 4 * (prunable - sum(b.values())) + prunable // 8 + record for b in bench.budgets]
    # Beside level 0 stand the initial weights, those to rewind to unless they are the same, labels and noise card.
    dense = state * (1 if bench.trial.restart.iteration(bench.steps) == 0 else 2)
    return [per_level[0] + dense + labels, *per_level[1:]]
