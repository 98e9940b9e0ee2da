"""The monitor: the thread of a team that deals with all that its workers do of themselves.

It decides what follows from a worker's death, by what the roster says about its seat. What must always hold:
each run and each function that a worker was in hears of its death, after all that the worker had said. See
docs/design/waiting.md.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from .._errors.exceptions import WorkerDied
from .._results import DeadWorker
from .._system.user_code import guarded
from .._wire import (
    Failed,
    Payload,
    Ready,
    Report,
    Unattended,
    lend,
    parse,
    restore_exception,
    unpack,
)
from .inbox import Inbox
from .link import WorkerLink
from .open_maps import OpenMaps
from .relay import emit
from .run import Death, Run
from .submissions import Submissions
from .workers import PollSet, Workers


class Monitor:
    """What the monitor knows and does, under the team's lock but for `handle` and `hear`.

    ===========  =================================================  ========================================
    field        written by                                         read by
    ===========  =================================================  ========================================
    `_strays`    any thread that takes what was relayed, under the  monitor, which says it without the lock
                 lock
    `_asked`     monitor                                            monitor, which answers without the lock
    ===========  =================================================  ========================================
    """

    def __init__(
        self,
        lock: Any,
        workers: Workers,
        inbox: Inbox,
        open_maps: OpenMaps,
        submissions: Submissions,
    ) -> None:
        self._lock = lock
        self._workers = workers
        self._inbox = inbox
        self._open_maps = open_maps
        self._submissions = submissions
        self._strays: deque[tuple[bytes, bytes, object]] = deque()
        """What workers said in no map that is open."""
        self._asked: deque[tuple[WorkerLink, str]] = deque()
        """What workers need of this process, see `_wire.inheritance`."""

    def handle(self, ready: list[tuple[int, int]], watched: dict[int, WorkerLink]) -> None:
        """Deal with what the monitor has waited for."""
        strays: list[tuple[bytes, bytes, object]] = []
        with self._lock:
            self._handle(ready, watched)
            while self._strays:
                strays.append(self._strays.popleft())
            futures = self._submissions.to_resolve()
        self.hear(strays)
        self._submissions.resolve(
            futures
        )  # only now: what a function has printed is there before its result
        self._answer()

    def _answer(self) -> None:
        """Give workers what they have asked for; the lock is not held while that is made."""
        while self._asked:
            link, what = self._asked.popleft()
            answer = lend(what)
            with self._lock:
                if not link.gone:
                    link.lend(*answer)

    def hear(self, strays: Iterable[tuple[bytes, bytes, object]]) -> None:
        """Print, log or warn what workers have said in no map. To be called without the lock."""
        for stray in strays:
            guarded(emit, *stray)  # streams, log handlers and filters of warnings are the user's

    def _handle(self, ready: list[tuple[int, int]], watched: dict[int, WorkerLink]) -> None:
        workers = self._workers
        fds = {fd for fd, _ in ready}
        workers.channels.heed_wakes(fds)
        touched = {id(watched[fd]): watched[fd] for fd in fds if fd in watched}
        for link in touched.values():
            if link.gone or workers.links.get(link.rank) is not link:
                continue
            link.flush()
            self._inbox.read_line(link)
            self.take_relayed(link.rank)
        self._dispatch()
        for link in workers.ended(fds):
            self._note_end(link)
        self._take_results()
        workers.pass_on_drops()
        for link in workers.collect_dead():
            self._replace(link)
        if self._submissions.is_in_doubt:
            self._submissions.note_death(0, None)

    # ------------------------------------------------ what workers say

    def _dispatch(self) -> None:
        """Pass on what workers have said on their lines, no matter which thread has read it."""
        messages = self._inbox.messages
        while messages:
            link, message = messages.popleft()
            if isinstance(message, Ready):
                self._workers.roster.ready(link.rank)
            elif isinstance(message, Failed):
                report = Report(*unpack(message.error))
                link.note_failed(report)
                self._note_failed_start(link, report)
            elif isinstance(message, Unattended):
                if (run := self._open_maps.runs.get(message.seq)) is not None:
                    run.attend()
            else:
                self._asked.append((link, message.what))

    def _note_failed_start(self, link: WorkerLink, report: Report) -> None:
        # Made anew for each function it concerns.
        make_error: Callable[[], Exception] = partial(
            restore_exception, report, "the initializer", "as a worker started"
        )
        for seq in list(self._workers.roster.seats[link.rank].calls):
            if seq in self._open_maps.runs:
                self._open_maps.runs[seq].note_failed_start(report)
        self._submissions.fail_waiting(make_error)

    def take_relayed(self, rank: int) -> None:
        """Take what a worker has printed, logged or warned: all that it has counted is in its socket."""
        link = self._workers.links.get(rank)
        if link is None or link.gone:
            return
        frames = link.receive_relay()
        for frame in frames:
            kind, seq, payload = parse(frame)
            run = self._open_maps.runs.get(seq)
            if run is not None:
                run.note_relayed((kind, payload, link.decoders))
            else:
                self._strays.append((kind, payload, link.decoders))
                self._workers.wake()  # this may be a thread that waits for a map
        # Only now: `WorkerTeam.take_relayed` looks at the count without the lock, and goes by it.
        link.count_relayed(len(frames))

    def _take_results(self) -> None:
        """Take what came of submitted functions, and what these had said before."""
        self._submissions.take_results()
        for rank in self._submissions.unheard():
            if self._workers.has_relayed(rank):
                self.take_relayed(rank)

    # ------------------------------------------------ what becomes of them

    def _note_end(self, link: WorkerLink) -> None:
        """A worker's process has ended; what it was doing is dealt with once its status is known."""
        self._inbox.read_line(link)
        self._dispatch()
        self.take_relayed(link.rank)
        self._take_results()
        self._workers.note_end(link)

    def _replace(self, link: WorkerLink) -> None:
        """Tell of a worker's death what it was in, and fill its seat if the roster says so."""
        workers, submissions, runs = self._workers, self._submissions, self._open_maps.runs
        assert workers.channels.slots is not None
        rank, claim = link.rank, workers.channels.slots.claim(link.rank)
        taken = workers.channels.slots.taken(rank)
        # Not those of the seat, where calls that were left are forgotten: it may not have counted as one that
        # has left.
        concerned = [run for seq, run in runs.items() if seq <= claim.left and run.has(rank)]
        for run in concerned:
            run.lose(rank, is_replaced=False)
        workers.roster.left(rank, claim.left)
        self._inbox.note_orphans()
        if link.failed is not None:  # for calls that it was given after it had said so
            self._note_failed_start(link, link.failed)
        cannot_start = link.failed is not None or link.start_error != ""
        departure = workers.roster.died(rank, cannot_start)
        if departure.again and not workers.respawn(rank):
            departure = workers.roster.unfilled(rank, departure)
        redo: dict[int, Payload | None] = {}
        worker = DeadWorker(rank, link.pid, range(0), range(0), has_successor=False)
        death = Death(
            worker, link.status, claim.running, departure.is_broken_start, link.start_error
        )
        for seq in (*departure.again, *departure.lost):
            if seq in runs:
                concerned.append(runs[seq])
                here = worker._replace(has_successor=seq in departure.again)
                if claim.running == seq:
                    here = here._replace(
                        tickets=claim.tickets, inside=claim.chunks, drew_ns=claim.drew_ns
                    )
                redo[seq] = runs[seq].hear_of(death._replace(worker=here))
        for seq in departure.again:
            if seq in runs:
                self._send_again(workers.links[rank], runs[seq], redo[seq])
        submissions.note_death(taken, death)
        if submissions.lacks_workers() and not (departure.again or departure.is_broken_start):
            workers.refill()
        if not workers.links:
            why = death.cause()
            if not death.start_error:
                why = f"the workers died, and no others could be started ({why})"
            submissions.fail_waiting(partial(WorkerDied, why))
        for run in concerned:
            run.ring()

    def _send_again(self, successor: WorkerLink, run: Run, redo: Payload | None) -> None:
        """Give a dead worker's call to its successor. `redo`: what it is to do first."""
        if run.posting is not None and run.control is not None:
            self._workers.send_call(successor, run.seq, run.posting, run.control, redo)


class Watched(Protocol):
    """A team, as far as the thread of its monitor goes."""

    @property
    def monitor(self) -> Monitor:
        """What is told of whatever the thread has waited for."""

    def watch(self) -> PollSet | None:
        """What to wait for; None if all workers have ended."""

    def end_when_idle(self) -> None:
        """Nothing refers to it but the thread."""

    def give_up(self) -> None:
        """The thread ends by an exception."""


class MonitorThread(threading.Thread):
    """The thread of a team's monitor; it holds the team weakly while it waits."""

    def __init__(self, team: Watched, handed_over: SimpleQueue[Watched]) -> None:
        super().__init__(name="shmmap-monitor", daemon=True)
        self._team = weakref.ref(team)
        self._handed_over = handed_over
        """Gets the team once nothing else refers to it."""
        self._has_ended = threading.Event()

    def run(self) -> None:
        """Run the monitor until all workers have ended."""
        try:
            _keep_watch(self._team, self._handed_over)
        finally:
            self._has_ended.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end. Not by `join`: before Python 3.13, a Ctrl-C in that ends it in name only."""
        self._has_ended.wait(timeout)


def _keep_watch(ref: weakref.ref[Watched], handed_over: SimpleQueue[Watched]) -> None:
    own: Watched | None = None
    while True:
        team = own or ref()
        if own is None and (team is None or not handed_over.empty()):
            # Without a reference left, the team is just being handed over.
            team = own = handed_over.get()
            own.end_when_idle()
        assert team is not None
        try:
            watch = team.watch()
            if watch is None:
                return
            team = None
            ready = watch.poll.poll(watch.timeout_ms)
            team = own or ref()
            if team is not None:
                team.monitor.handle(ready, watch.watched)
        except BaseException:
            if team is not None:
                team.give_up()
            raise
        del team, watch
