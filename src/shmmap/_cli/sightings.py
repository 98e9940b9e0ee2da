"""What ``shmmap top`` shows of a program: snapshots put into words and figures, with what earlier ones tell.

Pure but for the memory of workers, which is asked for here.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Literal

from .._wire.sight import SeenMap, SeenWorker
from .programs import Program, Snapshot

# Rates are those of the last seconds, once a map was looked at for as long as the first of these.
WINDOW_LEAST_S, WINDOW_S = 2.0, 10.0

MapState = Literal["running", "waiting", "stopping"]
WorkerState = Literal["at work", "between", "in a submitted function", "idle", "died"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker, as it is shown."""

    rank: int
    pid: int
    state: WorkerState
    start: int | None = None
    """The index range it is at, if it is at one."""
    stop: int | None = None
    for_s: float | None = None
    """For how long it has been there, or in a submitted function."""
    nbytes: int = 0
    """Its private memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Map:
    """A map that is not over, as it is shown."""

    verb: str
    func: str
    state: MapState
    items: int
    done: int
    chunks: int
    chunks_done: int
    for_s: float | None
    """Since its first worker came to it."""
    rate: float | None
    """Items a second, of late."""
    left_s: float | None
    """How long the rest takes at that rate."""
    workers: list[Worker]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sighting:
    """A program, as it is shown."""

    pid: int
    command: str
    shared_nbytes: int
    private_nbytes: int
    maps: list[Map]
    others: list[Worker]
    """Workers that are in no map."""


class Watch:
    """A program that is looked at, again and again."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._done: dict[tuple[int, int], deque[tuple[int, int]]] = {}
        """By control block and call: when how many items were done."""
        self._was: dict[int, tuple[SeenWorker, int]] = {}
        """By process: where a worker was, and since when."""
        self._looked_ns = 0

    def look(self) -> Sighting:
        """See what it is at now."""
        snapshot = self._program.look()
        is_there = {
            worker.pid: self._program.worker_nbytes(worker)
            for team in snapshot.teams
            for worker in team
        }
        workers = [worker for team in snapshot.teams for worker in team]
        inside: dict[int, list[SeenWorker]] = {}
        for worker in workers:
            if worker.running and not worker.has_function:
                inside.setdefault(worker.control, []).append(worker)
        maps = []
        for each in snapshot.maps:
            if not is_over(each, inside.get(each.id, [])):
                maps.append(
                    self._show_map(each, inside.pop(each.id, []), workers, snapshot, is_there)
                )
        in_maps = {worker.pid for each in maps for worker in each.workers}
        others = [
            self._show_worker(worker, None, snapshot, is_there)
            for worker in workers
            if self._program.worker_pid(worker) not in in_maps
        ]
        self._was = {pid: was for pid, was in self._was.items() if pid in is_there}
        self._done = {
            key: seen for key, seen in self._done.items() if seen[-1][0] == snapshot.when_ns
        }
        self._looked_ns = snapshot.when_ns
        return Sighting(
            pid=self._program.pid,
            command=self._program.command,
            shared_nbytes=snapshot.shared_nbytes,
            private_nbytes=snapshot.private_nbytes + sum(filter(None, is_there.values())),
            maps=maps,
            others=others,
        )

    def _show_map(
        self,
        each: SeenMap,
        inside: list[SeenWorker],
        workers: list[SeenWorker],
        snapshot: Snapshot,
        is_there: dict[int, int | None],
    ) -> Map:
        call = max((worker.call for worker in inside), default=0)
        began = [w.entered_ns for w in workers if w.control == each.id and w.call == call]
        for_s = (snapshot.when_ns - min(began)) * 1e-9 if call and began else None
        rate = self._rate(each, call, for_s, snapshot.when_ns)
        state: MapState = "running" if inside else "waiting"
        if each.is_stopped:
            state = "stopping"
        left = each.items - each.items_done
        return Map(
            verb=each.verb,
            func=each.func,
            state=state,
            items=each.items,
            done=each.items_done,
            chunks=len(each.marks),
            chunks_done=each.chunks_done,
            for_s=for_s,
            rate=rate,
            left_s=left / rate if rate and state == "running" else None,
            workers=[self._show_worker(worker, each, snapshot, is_there) for worker in inside],
        )

    def _rate(self, each: SeenMap, call: int, for_s: float | None, when_ns: int) -> float | None:
        """Items a second: of the last seconds, where it has been looked at; else since it began."""
        seen = self._done.setdefault((each.id, call), deque())
        seen.append((when_ns, each.items_done))
        while len(seen) > 2 and when_ns - seen[1][0] > WINDOW_S * 1e9:
            seen.popleft()
        then, done = seen[0]
        looked_s = (when_ns - then) * 1e-9
        if each.items_done > done and (looked_s >= WINDOW_LEAST_S or for_s is None):
            return (each.items_done - done) / looked_s
        return each.items_done / for_s if for_s and each.items_done else None

    def _show_worker(
        self,
        worker: SeenWorker,
        its_map: SeenMap | None,
        snapshot: Snapshot,
        is_there: dict[int, int | None],
    ) -> Worker:
        pid, nbytes = self._program.worker_pid(worker), is_there[worker.pid]
        state: WorkerState = "idle"
        start = stop = None
        since_ns = self._since(worker, snapshot.when_ns)
        if worker.has_function:
            state, since_ns = "in a submitted function", worker.entered_ns
        elif its_map is not None and worker.chunks:
            state, (start, stop) = "at work", its_map.limits(worker.chunks)
            if worker.at_index >= 0:
                start, stop = worker.at_index, worker.at_index + 1
        elif its_map is not None:
            state = "between"
        if nbytes is None:
            state = "died"
        has_time = state in ("at work", "in a submitted function")
        return Worker(
            rank=worker.rank,
            pid=pid,
            state=state,
            start=start,
            stop=stop,
            for_s=max(0.0, (snapshot.when_ns - since_ns) * 1e-9) if has_time else None,
            nbytes=nbytes or 0,
        )

    def _since(self, worker: SeenWorker, when_ns: int) -> int:
        """Since when it is where it is.

        Of several chunks that were drawn together, those after the first began later than that.
        """
        was = self._was.get(worker.pid)
        since_ns = worker.since_ns
        if was is not None and was[0].since_ns == since_ns:
            seen, at_ns = was
            if seen.chunks != worker.chunks:
                since_ns = max(since_ns, self._looked_ns)
            else:
                since_ns = at_ns
        self._was[worker.pid] = worker, since_ns
        return since_ns


def is_over(each: SeenMap, inside: list[SeenWorker]) -> bool:
    """Whether a control block has no map any more: all is done, or it was stopped, and no worker is in it."""
    return not inside and (each.is_stopped or each.chunks_done == len(each.marks))
