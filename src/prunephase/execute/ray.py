"""A cluster: Ray runs the groups, and a node that dies costs no finished level.

Results go straight to the store where the workers see the driver's folder. Where one does not, it gets the records and
blobs that its trials have so far, works in a scratch store of its own, and sends what is new with every level: the
driver has it in its store before it passes the event on.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunephase import __version__, disk
from prunephase.errors import Exit, PrunephaseError, StorageError, UserError
from prunephase.events import Diagnosed, LevelDone
from prunephase.execute.local import ATTEMPTS, Group, Retried, Work, _events, _one_thread, default_workers
from prunephase.execute.shipping import Parcel, everything, news, relatives
from prunephase.store import Store
from prunephase.task import Finished, Task, failure

if TYPE_CHECKING:
    from prunephase.bench import Site

OBJECT_STORE = 200 * 2**20  # bytes of shared memory; Ray would take a third of the machine's, and we pass little
AHEAD = 16  # messages that a worker may be ahead of the driver, so that neither's memory fills
TALK = 0.2  # seconds of epochs that go into one message
AGAIN = 2.0  # seconds until a task is tried again that somebody else holds
HELD = 120.0  # seconds for which that goes on: the lock of a node that died falls when its lease ends
UNSEEN = 60.0  # seconds that a network file system may take to show here what another node has written

# Read by Ray when it is imported or started; what the user has set stays.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # a cluster of one machine, which listens at 127.0.0.1 alone


@contextmanager
def cluster(
    address: str | None = None, *, workers: int | None = None, plugins: Collection[str] = ()
) -> Iterator[Cluster]:
    """Join the Ray cluster at `address` (or RAY_ADDRESS), or start one on this machine that ends with the block.

    workers: groups at a time; one per core or GPU by default. plugins: modules of the user's, which the workers get.
    Raises UserError.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = address == "local"
    if address.startswith("ray://"):
        raise UserError(f"--ray-address {address}: Ray Client cannot serve here; run on a node, and name HOST:PORT")
    if not own and not _answers(address):  # Ray itself would go on trying for many minutes
        raise UserError(f"--ray-address {address}: nothing answers there; expected HOST:PORT of the cluster's head")
    for name, value in {**QUIET, **(LOOPBACK if own else {})}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise UserError('--on ray: Ray is not installed; pip install "prunephase[ray]"') from None

    size = {"include_dashboard": False, "object_store_memory": OBJECT_STORE, "num_cpus": workers or default_workers()}
    code = {"py_modules": [source for name in plugins if (source := _source(name)) is not None]}
    with _undisturbed(ray._private.worker):
        try:
            ray.init(
                address,
                log_to_driver=False,
                logging_level="CRITICAL",
                runtime_env=code if code["py_modules"] else None,
                **(size if own else {}),
            )
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as problem:
            reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
            raise UserError(
                f"--ray-address {address}: cannot be joined ({reason}); run this on a node of the cluster: "
                "`ray start --address=HOST:PORT` makes this machine one"
            ) from None
    try:
        yield Cluster(workers)
    finally:
        ray.shutdown()


@dataclass
class Cluster:
    """A cluster that is joined. asked: groups at a time; None: as many as there is room for, also on nodes to come.

    blind: a worker was met that does not see the store's folder; everything is shipped from then on.
    """

    asked: int | None = None
    blind: bool = False

    def workers(self, device: str) -> int:
        """Groups at a time. Raises UserError where the cluster has nothing of the kind of `device`."""
        if device.startswith("cuda:"):
            raise UserError(f"--device {device}: with --on ray it is Ray that deals out the GPUs; write --device cuda")
        if (room := self.room(device)) < 1:
            raise UserError(f"--on ray: the cluster has no {'GPU' if device == 'cuda' else 'CPU'}; add a node with one")
        return self.asked or room

    def room(self, device: str) -> int:
        """Cores, or GPUs for `cuda`, that the cluster has now."""
        import ray

        return int(ray.cluster_resources().get("GPU" if device == "cuda" else "CPU", 0))

    def map(self, work: Work, groups: Sequence[Group], workers: int = 1) -> Generator[tuple[Task, Any], None, None]:
        """`execute.map` on the cluster. work: a partial with `site`, to which another store can be given.

        A group whose worker or node dies goes to another one, at its last acknowledged level. It is given up after
        ATTEMPTS in a row that finished no level.
        """
        assert isinstance(work, partial)
        run = _Run(self, work, groups, workers)
        with run.ready():
            while run.waiting or run.resting or run.running:
                yield from run.send()
                yield from run.listen()


@dataclass(eq=False)
class _Job:
    """A group on its way through the cluster."""

    left: list[Task]
    attempt: int = 1
    sent: Sequence[Task] = ()  # what its worker was given, which speaks of them by number
    given: frozenset[str] = frozenset()  # seals of the records that its worker was given
    rest: float = 0.0  # the moment until which it waits for a lock
    held: float | None = None  # since when it does


@dataclass(frozen=True)
class _Order:
    """What every worker is told. mark, token: a file that is there, with these bytes, where our folder is seen.

    data: {name: reference to the bytes} of the published data, for those who do not see it.
    """

    work: partial[Any]
    mark: Path
    token: bytes
    folder: str
    version: str
    data: Mapping[str, Any] = field(default_factory=dict)


_Said = list[tuple[int, Any, Parcel | None]]  # (number of the task, what happens, what comes with it)


class _Run:
    """One `map`: the groups that wait, rest until a lock falls, and run."""

    def __init__(self, cluster: Cluster, work: partial[Any], groups: Sequence[Group], workers: int) -> None:
        site: Site = work.keywords["site"]
        self.site = replace(site, store=site.store.resolve(), shared=site.shared and site.shared.resolve())
        self.store = Store(self.site.store)
        self.cluster, self.workers = cluster, workers
        self.kin = relatives(task.trial for group in groups for task in group)
        self.waiting = deque(_Job(list(group)) for group in groups)
        self.resting: list[_Job] = []
        self.running: dict[Any, _Job] = {}
        mark = self.store.scratch("seen-from-here").resolve()
        self.order = _Order(partial(work, site=self.site), mark, secrets.token_bytes(16), os.getcwd(), __version__)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """With the mark in place; nothing of ours runs on afterwards."""
        import ray

        disk.write(self.order.mark, self.order.token, self.store.folder / "tmp", durable=False)
        try:
            yield
        finally:
            for stream in self.running:
                with suppress(Exception):  # the cluster may be gone, or be what failed
                    ray.cancel(stream, force=True)
            disk.remove(self.order.mark)

    def send(self) -> Iterator[tuple[Task, Any]]:
        """Give groups to the cluster while it has room."""
        import ray

        self.waiting += [job for job in self.resting if job.rest <= time.monotonic()]
        self.resting = [job for job in self.resting if job.rest > time.monotonic()]
        if not self.waiting:
            return
        room = self.workers if self.cluster.asked else max(self.workers, self.cluster.room(self.site.device))
        cuda = self.site.device == "cuda"
        serve = ray.remote(_serve).options(
            num_cpus=1,
            num_gpus=min(1.0, self.cluster.room("cuda") / self.workers) if cuda else 0,
            num_returns="streaming",
            max_retries=0,  # what was acknowledged must not be said again: we begin again by ourselves
            _generator_backpressure_num_objects=AHEAD,
        )
        while self.waiting and len(self.running) < room:
            job, parcel = self.waiting.popleft(), None
            if self.cluster.blind:
                self._put_data()
                parcel, notes = everything(self.store, job.left, self.kin)
                yield from notes
            job.sent, job.given = tuple(job.left), frozenset(parcel.names() if parcel else ())
            self.running[serve.remote(self.order, job.sent, parcel)] = job

    def listen(self) -> Iterator[tuple[Task, Any]]:
        """Wait for what the workers say, and pass it on."""
        import ray

        if not self.running:
            time.sleep(AGAIN / 10)
        elif ray.wait(list(self.running), num_returns=1, timeout=1.0)[0]:
            for stream in ray.wait(list(self.running), num_returns=len(self.running), timeout=0)[0]:
                yield from self._hear(stream, self.running[stream])

    def _hear(self, stream: Any, job: _Job) -> Iterator[tuple[Task, Any]]:
        """The next message of a worker, or its end."""
        import ray
        from ray.exceptions import RayError, RayTaskError, RuntimeEnvSetupError

        try:
            said: _Said | None = ray.get(next(stream))
            if said is None:
                self.cluster.blind = True
            for number, event, parcel in said or ():
                yield from self._pass_on(job, job.sent[number], event, parcel)
            return
        except StopIteration:
            pass
        except PrunephaseError as problem:  # our own store's
            ray.cancel(stream, force=True)
            yield from self._give_up(job, failure(problem))
        except (RayTaskError, RuntimeEnvSetupError) as problem:  # it could not even begin
            yield from self._give_up(job, failure(problem))
        except RayError as problem:  # the worker, its node or raylet; out of memory
            how = type(problem).__name__
            if job.attempt >= ATTEMPTS:
                problem_line = f"its worker died {ATTEMPTS} times ({how}; out of memory?)"
                yield from self._give_up(job, Finished(problem_line, Exit.PARTIAL))
            else:
                job.attempt += 1
                line = f"its worker died ({how}); another goes on after the last finished level"
                yield from ((task, Retried(line)) for task in job.left)
        del self.running[stream]
        if job.left:
            (self.resting if job.rest > time.monotonic() else self.waiting).append(job)

    def _give_up(self, job: _Job, end: Finished) -> Iterator[tuple[Task, Finished]]:
        left, job.left = job.left, []
        yield from ((task, end) for task in left)

    def _pass_on(self, job: _Job, task: Task, event: Any, parcel: Parcel | None) -> Iterator[tuple[Task, Any]]:
        """An event, once what it says is safe here."""
        if parcel is not None:
            self._take(parcel, job)
        if isinstance(event, LevelDone | Diagnosed) and not event.cached:
            if parcel is None:
                self._see(event)
            job.attempt, job.held = 1, None
        if isinstance(event, Finished) and event.code == Exit.LOCKED:
            began = job.held is None
            job.held = time.monotonic() if job.held is None else job.held
            if time.monotonic() - job.held < HELD:
                job.rest = time.monotonic() + AGAIN
                if began:
                    yield task, Retried(f"{event.problem}; trying again for {HELD:.0f} s")
                return
        if isinstance(event, Finished):
            job.left.remove(task)
        yield task, event

    def _take(self, parcel: Parcel, job: _Job) -> None:
        """Put a worker's new files into our store; a record of ours that it found wanting gives way."""
        for record in parcel.records:
            standing = self.store.record(record.body["trial"], record.body["level"])
            if standing is not None and standing.seal != record.seal and standing.seal in job.given:
                self.store.set_aside(record.body["trial"], record.body["level"])
        parcel.unpack(self.store)

    def _see(self, done: LevelDone | Diagnosed) -> None:
        """Wait until a level, or a finding, that a worker wrote is to be seen from here too."""
        limit, place = time.monotonic() + UNSEEN, (done.trial, done.level)

        def seen() -> bool:
            if isinstance(done, Diagnosed):
                return self.store.finding(*place, done.name) is not None
            return self.store.record(*place) is not None

        while not seen():
            if time.monotonic() > limit:
                raise StorageError(
                    f"{self.store.folder}: level {done.level} of trial {done.trial} was written on another node and is "
                    "not to be seen here; mount the folder with a shorter cache (actimeo=1), or use one that is not "
                    "shared"
                )
            time.sleep(0.1)

    def _put_data(self) -> None:
        """Have the published data ready for workers that do not see it."""
        import ray

        if not self.order.data and self.site.shared is not None:
            files = {path.name: ray.put(path.read_bytes()) for path in self.site.shared.iterdir()}
            self.order = replace(self.order, data=files)


# -- on the worker


def _serve(order: _Order, group: Sequence[Task], parcel: Parcel | None) -> Iterator[_Said | None]:
    """Run a group in a worker; None: our folder is not to be seen from here, and no parcel came."""
    with suppress(OSError):  # relative paths of a study mean the same, where they mean anything
        os.chdir(order.folder)
    if order.version != __version__:
        problem = f"the worker has prunephase {__version__}, the driver {order.version}; install the same"
        yield [(number, Finished(problem, Exit.USER), None) for number in range(len(group))]
    elif parcel is not None:
        with _one_thread(), _scratch(order) as site:
            parcel.unpack(Store(site.store))
            yield from _messages(partial(order.work, site=site), group, Store(site.store), parcel.names())
    elif not _sees(order):
        yield None
    else:
        with _one_thread():
            yield from _messages(order.work, group)


def _messages(
    work: Work, group: Sequence[Task], store: Store | None = None, known: set[str] | None = None
) -> Iterator[_Said]:
    """What happens in a group: levels at once, epochs a few at a time. store: where new files are taken from."""
    said: _Said = []
    since = time.monotonic()
    for task, event in _events(work, group):
        sealed = isinstance(event, LevelDone | Diagnosed) and not event.cached
        parcel = news(store, event, known) if sealed and store is not None and known is not None else None
        said.append((group.index(task), event, parcel))
        if sealed or isinstance(event, Finished) or time.monotonic() - since > TALK:
            yield said
            said, since = [], time.monotonic()
    if said:
        yield said


def _sees(order: _Order) -> bool:
    """Whether the driver's store is this machine's too."""
    with suppress(OSError):
        return order.mark.read_bytes() == order.token and os.access(order.mark.parent, os.W_OK)
    return False


@contextmanager
def _scratch(order: _Order) -> Iterator[Site]:
    """A store of the worker's own, for one group, and the data beside it."""
    import ray

    root = Path(tempfile.gettempdir()) / f"prunephase-{os.getuid()}"
    root.mkdir(0o700, exist_ok=True)
    disk.sweep(root)
    site: Site = order.work.keywords["site"]
    with Store(root).scratching(disk.scratch_name(root, secrets.token_hex(4))) as folder:
        data = folder / "data"
        data.mkdir()
        for name, reference in order.data.items():
            (data / name).write_bytes(ray.get(reference))
        yield replace(site, store=folder / "store", shared=data)


# -- around Ray


def _answers(address: str) -> bool:
    """Whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    with suppress(OSError, ValueError, OverflowError), socket.create_connection((host.strip("[]"), int(port)), 5.0):
        return True
    return False


def _source(module: str) -> str | None:
    """The file or folder of a top-level module; None where there is none, which is said when it is needed."""
    with suppress(ImportError, ValueError):
        found = importlib.util.find_spec(module.split(".")[0])
        if found is not None:
            return next(iter(found.submodule_search_locations or ()), found.origin)
    return None


@contextmanager
def _undisturbed(worker: Any) -> Iterator[None]:
    """Start Ray as a guest: it answers SIGTERM in its own way from then on, and writes what its nodes meet to stdout.

    Whoever answered before goes on doing so, and stdout is for results: of a node that dies we hear by other ways.
    """
    before = signal.getsignal(signal.SIGTERM)
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
