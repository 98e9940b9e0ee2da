"""The worker processes of a team: started, called and ended here.

Owned by the team; everything here is done with the team's lock held, but for `wake` and `has_relayed`, which
need none. Whatever a worker says, or becomes of it, is only brought to light here: what follows from it for
maps and functions is the monitor's to do, and the roster says who sits on which rank.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from .._system.interrupts import Uninterrupted
from .._wire import RANKS_MAX, ControlBlock, Payload, wake_record
from .channels import Channels
from .ending import Said, end_calmly
from .launch import Forked, ForkLauncher, Launcher, Lost, Reaped, TemplateLauncher
from .link import WorkerLink
from .roster import READY, Roster
from .run import Posting
from .sending import Equipment, Initializer, Sender

# How long a dead worker's exit status is waited for; it takes a millisecond unless the template died too.
STATUS_S = 0.25
# How often the status of a dead worker is asked for where nothing tells of it: forked here, without a pidfd.
UNTOLD_S = 0.005


class PollSet(NamedTuple):
    """What the monitor waits for.

    It holds all sockets: the garbage collector would close those of a dropped team before its monitor.
    """

    poll: select.poll
    watched: dict[int, WorkerLink]
    """By descriptor."""
    launcher: Launcher | None
    timeout_ms: int | None


class Workers:
    """The worker processes of a team.

    ============  ===================================================  =============================
    field         written by, under the team's lock                    read by
    ============  ===================================================  =============================
    `links`       callers' threads and the monitor, as they start      all; without the lock by
                  workers; the monitor, as they have died              `has_relayed`
    `_dying`      monitor                                              monitor
    `_launcher`   callers' threads and the monitor                     monitor
    `last_seq`    the thread that posts a call                         all
    `size`        callers' threads; it only grows                      all; without the lock by `Team`
    ============  ===================================================  =============================

    What must hold: a rank is in `links` exactly if its seat in the roster is taken; `_dying` are ranks in
    `links` whose link is `gone`.
    """

    def __init__(
        self,
        size: int,
        start: str,
        initializer: Initializer,
        blas_threads: int,
        memory_limit: int | None,
        preload: tuple[str, ...],
    ) -> None:
        self.size = size
        """Seats that there are to be."""
        self.start = start
        self.roster = Roster()
        self.channels = Channels()
        self.wake = self.channels.wake
        self.links: dict[int, WorkerLink] = {}
        """By rank."""
        self._dying: dict[int, float] = {}
        """Ranks whose worker has ended, and until when its status is waited for."""
        self.when_started: Callable[[WorkerLink], object] = lambda link: None
        """Called as a worker is about to be started."""
        self._equipped = (0, 0)  # the modules and settings that all workers have
        self.sender = Sender(start == "fork", initializer, blas_threads, memory_limit)
        self._launcher: Launcher | None = None
        self._make_launcher: Callable[[], Launcher] = (
            partial(ForkLauncher, initializer.inherited)
            if start == "fork"
            else partial(TemplateLauncher, blas_threads, preload)
        )
        self.last_seq = 0
        """Number of the last call."""

    # ------------------------------------------------ starting

    def grow(self, size: int) -> None:
        """Have at least so many seats."""
        self.size = max(self.size, min(size, RANKS_MAX))

    def fill(self, size: int) -> None:
        """Start what is missing of the first `size` workers."""
        ranks = self.roster.fill(size)
        try:
            for rank in ranks:
                self._spawn(rank)
        except BaseException:
            for rank in ranks:
                if rank not in self.links:
                    self.roster.remove(rank)
            raise

    def refill(self) -> None:
        """Start the workers that are missing, as far as this process can."""
        for rank in self.roster.fill(self.size):
            if not self.respawn(rank):
                self.roster.remove(rank)

    def respawn(self, rank: int) -> bool:
        """Start a worker in the place of one that died; False if this process cannot."""
        try:
            self._spawn(rank)
        except (OSError, MemoryError, RuntimeError):
            # No descriptors, memory or processes left, or the interpreter ends and forks no more: the others
            # go on.
            return False
        return True

    def _spawn(self, rank: int) -> None:
        slots = self.channels.slots
        assert slots is not None
        if self._launcher is None:
            self._launcher = self._make_launcher()
        slots.clear(rank)
        self._equipped = (0, 0)
        # In the table before it is forked: the child closes what it finds there, or it would hold its own
        # lifeline.
        link = self.links[rank] = WorkerLink(rank, slots.slot(rank))
        try:
            self.sender.send_start(link)
            self.when_started(link)
            # Copies, none of them in the tables here: a forked child closes what is in those.
            fds = link.hand_over(self.channels.worker_fds())
            try:
                self._launcher.spawn(rank, fds)
            finally:
                for fd in fds:
                    os.close(fd)
        except BaseException:
            del self.links[rank]
            link.close()
            raise
        self.wake()

    # ------------------------------------------------ calls

    def next_seq(self) -> int:
        """The number of a call that is about to be sent: workers get calls in the order of their numbers."""
        self.last_seq += 1
        return self.last_seq

    def post_call(
        self, seq: int, posting: Posting, control: ControlBlock, ranks: Iterable[int]
    ) -> None:
        """Send a call to workers that are to take part in it."""
        key, segments = posting.key, posting.segments
        record = b"" if key is None else wake_record(key, seq, control.id, posting.team)
        self.roster.assign_all(ranks, seq)
        for rank in ranks:
            link = self.links.get(rank)
            if link is None:
                continue
            known = link.known
            try:
                if key is None or known.key != key or control.id not in known.controls:
                    self.send_call(link, seq, posting, control)
                    continue
                if not segments <= known.segments:
                    link.attach(segments)
                if not link.wake(record):
                    self.wake()
            except BaseException:  # a Ctrl-C, say, and some of it may not have been sent
                self.distrust(rank)
                raise

    def send_call(
        self,
        link: WorkerLink,
        seq: int,
        posting: Posting,
        control: ControlBlock,
        redo: Payload | None = None,
    ) -> None:
        self.sender.send_call(link, seq, posting, control, redo)
        if link.clogged() >= 0:
            self.wake()

    def equip(self, equipment: Equipment) -> None:
        """Send all workers what they lack for a submitted function, which any of them may take."""
        modules, settings = self._equipped
        is_as_before = modules >= equipment.modules and settings == equipment.settings
        if is_as_before and not (equipment.segments or equipment.writes_main):
            return
        with Uninterrupted():
            for link in self.links.values():
                self.equip_one(link, equipment)
            self._equipped = equipment.modules, equipment.settings

    def equip_one(self, link: WorkerLink, equipment: Equipment) -> None:
        """Send one worker what it lacks for a submitted function."""
        if not link.gone:
            self.sender.equip(link, equipment)
            if link.clogged() >= 0:
                self.wake()

    def end_call(self, seq: int) -> None:
        """A call is over; and so are others for the workers that have left them."""
        waiting, slots = self.roster.end(seq), self.channels.slots
        if slots is not None:
            for rank in waiting:
                self.roster.left(rank, slots.left(rank))

    def distrust(self, rank: int) -> None:
        link = self.links.get(rank)
        if link is not None:
            link.known.is_unsure()
            self._equipped = (0, 0)

    def has_relayed(self, rank: int) -> bool:
        """Whether the worker on a rank has printed, logged or warned what was not taken from it yet."""
        slots, link = self.channels.slots, self.links.get(rank)
        return slots is not None and link is not None and link.relayed < slots.relayed(rank)

    def is_through(self, link: WorkerLink, seq: int) -> bool:
        """Whether this very worker will not touch anything of call `seq` any more."""
        if link.gone or self.links.get(link.rank) is not link:
            return True  # what the slot says is its successor's
        return self.channels.has_left(link.rank, seq)

    def kill(self, rank: int, seq: int, since: int | None = None) -> bool:
        """End the worker on a rank if it is still in call `seq`; whether it was.

        `since`: and only if it is still in that very call of the function.
        """
        slots, link = self.channels.slots, self.links.get(rank)
        if slots is None or link is None or link.gone:
            return False  # what the slot says is a dead worker's
        if slots.running(rank) != seq or since not in (None, slots.call_of_function(rank)[0]):
            return False
        link.kill()
        return True

    # ------------------------------------------------ what the monitor hears

    def watch(self, timeout_ms: int | None) -> PollSet:
        """All there is to wait for."""
        poll = select.poll()
        poll.register(self.channels.monitor_fd, select.POLLIN)
        launcher = self._launcher
        if launcher is not None and launcher.fileno() >= 0:
            poll.register(launcher.fileno(), select.POLLIN)
        watched: dict[int, WorkerLink] = {}
        for link in self.links.values():
            if link.gone:
                continue
            if link.pidfd >= 0:
                watched[link.pidfd] = link
                poll.register(link.pidfd, select.POLLIN)
            clogged = link.clogged()
            if link.line.fileno() >= 0:
                watched[link.line.fileno()] = link
                events = select.POLLOUT if clogged == link.line.fileno() else 0
                poll.register(link.line.fileno(), select.POLLIN | events)
            if clogged >= 0 and clogged not in watched:
                watched[clogged] = link
                poll.register(clogged, select.POLLOUT)
            watched[link.relay.fileno()] = link
            poll.register(link.relay.fileno(), select.POLLIN)
        deadline = min(self._dying.values(), default=math.inf)
        if launcher is not None:
            deadline = min(deadline, launcher.deadline())
            if self._dying and launcher.fileno() < 0:
                deadline = min(deadline, time.monotonic() + UNTOLD_S)
        if deadline < math.inf:
            left_ms = max(0, int((deadline - time.monotonic()) * 1000) + 1)
            timeout_ms = left_ms if timeout_ms is None else min(timeout_ms, left_ms)
        return PollSet(poll, watched, launcher, timeout_ms)

    def pass_on_drops(self) -> None:
        """Have the workers unmap what was dropped."""
        dropped = self.channels.take_dropped()
        if dropped:
            for link in self.links.values():
                link.drop(dropped)

    # ------------------------------------------------ ending

    def ended(self, fds: Collection[int]) -> Iterator[WorkerLink]:
        """Those whose process has ended, each to be given to `note_end` before the next is asked for."""
        if self._launcher is not None:
            for event in self._launcher.events():
                yield from self._handle_launch(event)
        for link in list(self.links.values()):
            if not link.gone and link.pidfd >= 0 and link.pidfd in fds:
                yield link
            elif not link.gone and link.pidfd < 0 and link.pid and link.has_hung_up():
                yield link

    def _handle_launch(self, event: Forked | Reaped | Lost) -> Iterator[WorkerLink]:
        if isinstance(event, Forked):
            link = self.links.get(event.rank)
            if link is None or link.pid or link.gone:
                if event.pidfd >= 0:
                    os.close(event.pidfd)
                return
            link.note_process(event.pid, event.pidfd)
        elif isinstance(event, Reaped):
            for link in list(self.links.values()):
                if link.pid == event.pid:
                    link.note_status(event.status)
                    if not link.gone:
                        yield link
        else:
            self._launcher = None
            for link in list(self.links.values()):
                if not link.pid and not link.gone:
                    link.note_status(event.status, event.reason)
                    yield link
            for rank in self._dying:
                self._dying[rank] = 0.0  # no status will come

    def note_end(self, link: WorkerLink) -> None:
        """A worker has ended, and what it had said is taken: it is replaced once its status is known."""
        link.note_end()
        self._dying[link.rank] = time.monotonic() + STATUS_S

    def collect_dead(self) -> Iterator[WorkerLink]:
        """Workers whose status is known or has not come in time; their descriptors are closed."""
        for rank, deadline in list(self._dying.items()):
            link = self.links[rank]
            if link.status is None and time.monotonic() < deadline:
                continue
            del self._dying[rank]
            del self.links[rank]
            link.close()  # first: the next one may need the descriptors
            yield link

    def signal_all(self, number: signal.Signals, calls: Collection[int] | None = None) -> None:
        """Send workers a signal; by SIGKILL they end, whatever they do.

        `calls`: only those that are in one of these, or have yet to start. The others may end calmly.
        """
        for link in self.links.values():
            if calls is not None and not self._is_busy(link.rank, calls):
                continue
            if number == signal.SIGKILL:
                link.kill()
            else:
                with suppress(PermissionError):
                    link.signal(number)

    def end_all(self) -> Said:
        """Let all workers end, and the launcher; others may be started again. What they say at their end."""
        links = self.links.values()
        for link in links:
            link.tell_to_end()
        said = end_calmly(links, self._is_busy)
        for link in links:
            link.close()
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None
        self.links.clear()
        self._dying.clear()
        self.roster.vacate()
        return said

    def _is_busy(self, rank: int, calls: Collection[int] | None = None) -> bool:
        """Whether a worker is in a call, in one of `calls`, or has yet to start."""
        seat = self.roster.seats.get(rank)
        if seat is not None and seat.state != READY:
            return True
        slots = self.channels.slots
        running = 0 if slots is None else slots.running(rank)
        return running != 0 and (calls is None or running in calls)

    def close_in_child(self) -> None:
        """In a forked child: let go of every descriptor, so that the parent's end is noticed."""
        for link in self.links.values():
            link.close()
        if self._launcher is not None:
            self._launcher.close_in_child()
        self.channels.close_in_child()
        self.links.clear()
        self._launcher = None
