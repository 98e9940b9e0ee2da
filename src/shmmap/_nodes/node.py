"""What runs on a node: a range of chunks, on a team that is kept warm there.

`run_range` is what an executor, or a worker of dask, calls; all else is reached from there, or by
`cut_range`. A node is one such process, whatever its machine. Its team ends with it, or with the client that
it is for.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import weakref
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from .._chunks import Job, Plan
from .._engines import Task, hand_over_inputs, process_engine
from .._interop.stored import Target
from .._results import Collector, Fold, Folding
from .._system.forks import make_lock
from .._system.limits import usable_cores
from .._team import WorkerTeam
from .._wire import pack_result, report_exception, unpack
from .arrays import Placed
from .carried import join
from .parts import Answer, Limit, PartFolding, PartOutcome

IDLE_S = 60.0
"""A node without a map ends its team after this time."""
_TOKEN = os.urandom(8).hex()
"""What only this process has: one that takes its place, at the same address, has another."""
_EARLY_MOST = 1000


def versions() -> dict[str, str]:
    """What has to be the same on all machines."""
    return {
        "shmmap": sys.modules["shmmap"].__version__,
        "NumPy": np.__version__,
        "Python": "{}.{}".format(*sys.version_info),
    }


class Whole(NamedTuple):
    """A map as each node gets it once."""

    func: Any
    settings: Any
    """See `_wire.per_thread`."""
    job: Job
    """With the inputs that go with it; the plan is that of all chunks."""
    fold: tuple[Any, bool] | None
    """How partials are put together: `combine`, and whether it was chosen."""


class Spec:
    """A `Whole`, pickled, and opened once where it is used."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._whole: Whole | None = None
        self._lock = make_lock()

    def __reduce__(self) -> tuple[object, ...]:
        return Spec, (self.data,)

    def open(self) -> Whole:
        with self._lock:
            if self._whole is None:
                self._whole = unpack(self.data)
            return self._whole


class Order(NamedTuple):
    """A range for a node."""

    versions: dict[str, str]
    """The caller's."""
    map_id: str
    number: int
    start: int
    stop: int
    """Chunks."""
    workers: int
    """0: as many as the node has."""
    slices: bytes
    """What inputs there are in slices, pickled; by position."""
    token: str
    """Of the process that is meant; empty if any is."""
    seconds: float
    """After this time it ends by itself, with what is begun."""


class Told(NamedTuple):
    """What a node answers."""

    token: str
    host: str
    answer: Answer | None
    """None: this process is not the one that was meant."""


class NodeTeams:
    """The teams on a node of one client, by size; they end with this object."""

    def __init__(self, idle_timeout: float | None = IDLE_S) -> None:
        self._idle_timeout = idle_timeout
        self._lock = make_lock()
        self._teams: dict[int, WorkerTeam] = {}
        # At the end of the program teams end by themselves.
        weakref.finalize(self, _end_all, self._teams).atexit = False

    def __reduce__(self) -> tuple[object, ...]:
        return NodeTeams, (self._idle_timeout,)

    def of(self, size: int) -> WorkerTeam:
        with self._lock:
            team = self._teams.get(size)
            if team is None or not team.is_usable():
                team = self._teams[size] = WorkerTeam(size, idle_timeout=self._idle_timeout)
            return team


def _end_all(teams: dict[int, WorkerTeam]) -> None:
    # In a thread: the last reference may go in an event loop.
    for team in teams.values():
        threading.Thread(target=team.end_now, name="shmmap-node-end", daemon=True).start()


_own_teams = NodeTeams()
"""Those of executors, which have no clients."""
_running: dict[tuple[str, int], tuple[int, Limit]] = {}
"""The first chunk and the limit of each range that runs here."""
_early: OrderedDict[tuple[str, int], int] = OrderedDict()
"""Ranges that were cut before they had begun, and where they end; those that have ended, with their start."""
_lock = make_lock()


def cut_range(map_id: str, number: int, start: int, stop: int, keep: float) -> int | None:
    """Cut a range of this node: at which chunk it ends now; None if it is not to be cut any more."""
    key = map_id, number
    with _lock:
        found = _running.get(key)
        if found is None:
            end = _early.get(key, stop)
            at = start + _kept(end - start, keep)
            if at >= end:
                return None  # it keeps all, or has ended
            _note(key, at)
            return at
    first, limit = found
    cut_at = limit.cut(keep)
    return None if cut_at is None else first + cut_at


def _note(key: tuple[str, int], end: int) -> None:
    _early[key] = end
    while len(_early) > _EARLY_MOST:
        _early.popitem(last=False)


def _kept(chunks: int, keep: float) -> int:
    return -int(-chunks * keep // 1)


def run_range(
    order: Order,
    spec: Spec,
    placed: dict[int, Placed],
    teams: NodeTeams | None,
    size: int = 0,
    slices: bytes = b"",
) -> bytes:
    """Run a range of chunks here; a `Told`, pickled.

    `size`: of the team, if the order leaves it open; `slices`: in the place of those of the order, which are
    too large to be in it.
    """
    if slices:
        order = order._replace(slices=slices)
    here = versions()
    if here != order.versions:
        differing = [name for name in here if here[name] != order.versions.get(name)]
        raise RuntimeError(
            "versions differ between machines: "
            + ", ".join(
                f"{name} {here[name]} on {socket.gethostname()} and {order.versions.get(name)} in the caller"
                for name in differing
            )
            + "; install the same on all of them"
        )
    host = socket.gethostname()
    if order.token not in ("", _TOKEN):
        return pack_result(Told(_TOKEN, host, None))
    key = order.map_id, order.number
    with _lock:
        limit = Limit(_early.pop(key, order.stop) - order.start)
        _running[key] = order.start, limit
    ended = threading.Event()
    threading.Thread(
        target=_end_in_time, args=(limit, ended, order.seconds), name="shmmap-range", daemon=True
    ).start()
    try:
        answer = _run(order, spec, placed, (teams or _own_teams), size, limit, host)
    except BaseException as exc:
        job = spec.open().job
        start, stop = order.start * job.plan.chunksize, order.stop * job.plan.chunksize
        fatal = report_exception(exc, -1, start, stop, -1, os.getpid())._replace(host=host)
        answer = Answer(order.stop, b"", [], [], [], [], fatal)
    finally:
        ended.set()
        with _lock:
            del _running[key]
            _note(key, order.start)
    return pack_result(Told(_TOKEN, host, answer))


def _end_in_time(limit: Limit, ended: threading.Event, seconds: float) -> None:
    """Have a range end after so long; one that waits for another one to end, so much later."""
    while not ended.wait(seconds):
        if limit.end() is not None:
            break


def _run(
    order: Order,
    spec: Spec,
    placed: dict[int, Placed],
    teams: NodeTeams,
    size: int,
    limit: Limit,
    host: str,
) -> Answer:
    """Run a range, up to its limit."""
    first, stop_at = order.start, order.start + limit.start()
    if stop_at <= first:
        return Answer(first, b"", [], [], [], [])
    whole = spec.open()
    arrays = {position: each.array for position, each in placed.items()}
    slices = unpack(order.slices) if order.slices else {}  # of more, if it was cut meanwhile
    chunksize = whole.job.plan.chunksize
    start, stop = first * chunksize, min(stop_at * chunksize, whole.job.plan.n)
    job = whole.job._replace(
        inputs=join(whole.job.inputs, arrays, slices, (start, stop), host),
        plan=Plan(stop - start, chunksize),
        first=whole.job.first + start,
    )
    if whole.job.out is not None:
        outs: list[Target] = list(whole.job.out)
        job = job._replace(out=tuple([each.part(start) for each in outs]))
    engine = process_engine()(teams.of(order.workers or size or usable_cores()))
    with whole.settings.applied():
        engine.warm_up(min(engine.team.workers.size, job.plan.chunks))
        job = hand_over_inputs(job, engine)
        collector: Collector | Folding
        if whole.fold is None:
            collector = Collector(job, job.out)
        else:
            fold = Fold(whole.fold[0], None, is_chosen=whole.fold[1])
            fold.are_new = True
            collector = PartFolding(job, fold, limit, first, whole.job.plan.chunks)
        outcome = PartOutcome(job, collector, whole.func, limit, first, host)
        work = engine.start(
            Task(
                job=job,
                func=whole.func,
                workers=engine.team.workers.size,
                blas_threads=engine.team.blas_threads,
                collector=collector,
                outcome=outcome,
                tick=None,
                given=(),
                log=None,
                begun=None,
            )
        )
        limit.started(work)
        answer: Answer = work.wait()
        return answer
