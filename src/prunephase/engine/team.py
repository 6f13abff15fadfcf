"""Which way levels are trained: chosen by what the networks are, and said in the fingerprint of what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prunephase.engine import gpu, takeover
from prunephase.engine.channels import Living, compacted, living
from prunephase.engine.job import Diverged, Job, Moment, Team, cross_entropy
from prunephase.engine.native.build import library
from prunephase.engine.native.chain import Chain
from prunephase.engine.native.linear import patched
from prunephase.engine.plain import Plain


def team(jobs: Sequence[Job]) -> Team:
    """The fastest way known to train `jobs` at once. On the CPU there is one of them."""
    if getattr(jobs[0].objective, "remembers", False):  # every step once, and no step in trial
        (job,) = jobs
        return Plain(job)
    if jobs[0].data.train.labels.device.type == "cuda":
        return gpu.team(jobs)
    (job,) = jobs
    if job.data.train.labels.device.type != "cpu":
        return Plain(job)
    native = job.recipe.precision == "float32" and library() is not None
    if native and Chain.fits(job):
        return Chain(job) if takeover.chain(job) else Plain(job)
    # An objective of somebody's own may look into the network, where dead channels would be missing.
    found = living(job.network, job.masks, job.data.train.inputs[:2]) if job.objective is cross_entropy else NOTHING
    if found.saved < WORTH:
        found = NOTHING
    names = [name for name in takeover.layers(job) if name not in found.modules] if native else []
    return Patched(job, names, found) if names or found.modules else Plain(job)


NOTHING = Living({}, 0, 0.0)
WORTH = 0.05  # share of the multiplications below which leaving out dead channels was not measured to be faster


class Patched(Plain):
    """The plain loop, with some Linear layers computed by the native kernels, and without dead channels."""

    def __init__(self, job: Job, names: Sequence[str], found: Living = NOTHING) -> None:
        super().__init__(job)
        self.names, self.found = names, found
        if found.modules:
            self.strategy += f", without {found.dead} dead channels"
        if names:
            self.strategy += f", native {' '.join(names)}"

    def moments(self) -> Iterator[Sequence[Moment | Diverged]]:
        """See Team."""
        with compacted(self.job.network, self.found), patched(self.job.network, self.job.masks, self.names):
            yield from super().moments()


# Measured once per process and kind of job, as levels of one kind come again and again.
_widths: dict[tuple[object, ...], int] = {}


def grouped(jobs: Sequence[Job]) -> list[list[int]]:
    """Places of the jobs that train at once, group by group: alike in all that a team must agree in."""
    groups: list[list[int]] = []
    kinds: dict[tuple[object, ...], list[int]] = {}
    for place, job in enumerate(jobs):
        if job.data.train.labels.device.type == "cuda":
            kinds.setdefault(_kind(job), []).append(place)
        else:
            groups.append([place])
    for places in kinds.values():
        wide = width(jobs[places[0]]) if len(places) > 1 else 1
        groups += [places[start : start + wide] for start in range(0, len(places), wide)]
    return groups


def width(job: Job) -> int:
    """How many jobs like this one train at once."""
    if job.data.train.labels.device.type != "cuda":
        return 1
    if (kind := _kind(job)) not in _widths:
        _widths[kind] = gpu.width(job)
    return _widths[kind]


def _kind(job: Job) -> tuple[object, ...]:
    shapes = tuple((name, tuple(p.shape)) for name, p in job.network.named_parameters())
    inputs = tuple(id(split.inputs) for split in job.data.splits.values())
    return (str(job.network), shapes, inputs, job.recipe, job.begin, job.pause_at, job.lr, job.objective)
