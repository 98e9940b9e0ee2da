"""The worker processes of a team: how they are started, called and ended, and what connects them.

Owned by the team; everything here is done with the team's lock held, but for `wake`, `note_drop`, `has_left`
and `is_inside`, which need none. Whatever is said by or becomes of a worker is only brought to light here:
what follows from it for maps and functions is the monitor's to do, and who sits where is the roster's to
say.

What must always hold: all descriptors that a team has of its own are opened before its first worker, and
closed after its last one, all of them or none.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from .._code.letters import news
from .._code.versions import latest, look_again
from .._code.watch import current_version
from .._memory import off_drop, on_drop
from .._wire import (
    Ask,
    Call,
    ClaimSlots,
    Packed,
    Payload,
    Start,
    Surroundings,
    dumps_message,
    has_data,
    lend,
    make_payload,
    pack,
    pack_surroundings,
    parse,
    snapshot,
)
from .launch import Forked, ForkLauncher, Launcher, Lost, Reaped, TemplateLauncher
from .link import WorkerLink
from .roster import READY, Roster
from .run import Needs

# How long a dead worker's exit status is waited for; it takes a millisecond unless the template died too.
STATUS_S = 0.25
# How long workers may take to end once nobody needs them any more: they call what functions have registered
# for the end. Those that are still in a call, of which nobody wants the result, have less.
CALM_S, BUSY_S = 2.0, 1.0


class Watch(NamedTuple):
    """What the monitor waits for.

    It holds all sockets: the garbage collector would close those of a dropped team before its monitor.
    """

    poll: select.poll
    watched: dict[int, WorkerLink]
    """By descriptor."""
    launcher: Launcher | None
    timeout_ms: int | None


class Workers:
    """The worker processes of a team."""

    def __init__(
        self,
        size: int,
        start: str,
        initializer: Packed | None,
        inherited_initializer: Callable[[], object] | None,
        blas_threads: int,
        memory_limit: int | None,
        preload: tuple[str, ...],
    ) -> None:
        self.size = size
        """Seats that there are to be."""
        self.start = start
        self._initializer = initializer
        self._inherited_initializer = inherited_initializer
        """One that forked workers have without anything being sent."""
        self._initializer_payload: Payload | None = None
        self._initializer_root: Any = None
        if self._initializer is not None:
            payload, root = make_payload(self._initializer.data)
            self._initializer_payload, self._initializer_root = payload, root
        self._blas_threads = blas_threads
        self._memory_limit = memory_limit
        self._preload = preload
        self.roster = Roster()
        self.links: dict[int, WorkerLink] = {}
        """By rank."""
        self._dying: dict[int, float] = {}
        """Ranks whose worker has ended, and until when its status is waited for."""
        self._launcher: Launcher | None = None
        self.slots: ClaimSlots | None = None
        """There from before the first worker until all workers have ended."""
        self._submit_pipe = (-1, -1)
        """On which workers say what came of submitted functions."""
        self._monitor_pipe = (-1, -1)
        """What wakes the monitor."""
        self._listener: Callable[[int], None] = lambda segment: None
        self._dropped: deque[int] = deque()
        self._user = (-1, -1)
        """User and group that the workers belong to."""
        self.last_seq = 0
        """Number of the last call."""
        self._surroundings: tuple[Surroundings, Payload, Any] | None = None
        self._modules: tuple[int, int, Payload, frozenset[int], Any] | None = None
        """What was told last of the user's modules: from and up to which version, and how."""

    # ------------------------------------------------ starting

    def open(self) -> None:
        """Acquire what the team needs before its first worker, all of it or nothing."""
        slots = ClaimSlots()
        pipes: list[int] = []
        try:
            pipes += os.pipe()
            pipes += os.pipe()
            for fd in (pipes[0], *pipes[2:]):
                os.set_blocking(fd, False)
        except BaseException:
            slots.close()
            for fd in pipes:
                os.close(fd)
            raise
        self.slots = slots
        self._submit_pipe = (pipes[0], pipes[1])
        self._monitor_pipe = (pipes[2], pipes[3])
        self._user = os.geteuid(), os.getegid()
        self.listen()

    def is_of_this_user(self) -> bool:
        """Whether the workers, if there are any, have the rights that this process has by now."""
        return self.slots is None or self._user == (os.geteuid(), os.getegid())

    def listen(self) -> None:
        """Hear of segments that are dropped; anew, if the garbage collector has cleared a reference to it."""
        before, self._listener = self._listener, _make_listener(weakref.ref(self))
        on_drop(self._listener)
        off_drop(before)

    def fill(self, size: int) -> None:
        """Start what is missing of the first `size` workers."""
        ranks = self.roster.fill(size)
        try:
            for rank in ranks:
                self._spawn(rank)
        except BaseException:
            for rank in ranks:
                if rank not in self.links:
                    self.roster.seats.pop(rank)
            raise

    def refill(self) -> None:
        """Start whoever is missing, as far as this process can."""
        for rank in self.roster.fill(self.size):
            if not self.respawn(rank):
                self.roster.seats.pop(rank)

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
        assert self.slots is not None
        if self._launcher is None:
            self._launcher = (
                ForkLauncher(self._inherited_initializer)
                if self.start == "fork"
                else TemplateLauncher(self._blas_threads, self._preload)
            )
        self.slots.clear(rank)
        # In the table before it is forked: the child closes what it finds there, or it would hold its own
        # lifeline.
        link = self.links[rank] = WorkerLink(rank)
        try:
            self._start_link(link)
        except BaseException:
            del self.links[rank]
            link.close()
            raise
        self.wake()

    def _start_link(self, link: WorkerLink) -> None:
        assert self.slots is not None and self._launcher is not None
        initializer = self._initializer_payload
        if self._initializer is not None and initializer is not None:
            link.attach(self._initializer.segments | initializer.segments())
        surroundings = self._tell_surroundings(link, snapshot())
        modules = None
        if self.start == "fork":
            link.modules = look_again()  # it has the caller's modules as they are now
        else:
            if self._initializer is not None:
                current_version(self._initializer.reaches)
            if latest():
                modules = self._tell_modules(link)
        start = Start(
            link.rank,
            initializer,
            self._blas_threads,
            self._memory_limit,
            surroundings,
            link.token,
            modules,
        )
        link.post(dumps_message(start))
        # Copies, none of them in the tables here: a forked child closes what is in those.
        fds = link.hand_over(self.slots.fd, self._submit_pipe[1])
        try:
            self._launcher.spawn(link.rank, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _tell_surroundings(self, link: WorkerLink, now: Surroundings) -> Payload:
        """The caller's surroundings, for a message to a worker, which has what they need from now on."""
        if self._surroundings is None or self._surroundings[0] != now:
            self._surroundings = (now, *make_payload(pack(pack_surroundings(now)).data))
        _, payload, root = self._surroundings
        link.attach(payload.segments())
        link.surroundings = now
        link.roots.append(root)
        return payload

    def _tell_modules(self, link: WorkerLink) -> Payload:
        """What has changed in the user's modules, for a message to a worker, which knows it from now on."""
        now = latest()
        if self._modules is None or self._modules[:2] != (link.modules, now):
            letter = news(link.modules)
            payload, root = make_payload(letter.data)
            self._modules = (link.modules, now, payload, letter.segments, (root, letter.keep))
        _, _, payload, segments, keep = self._modules
        link.attach(payload.segments() | segments)
        link.tell_modules(now)
        link.roots.append(keep)
        return payload

    # ------------------------------------------------ calls

    def next_seq(self) -> int:
        """The number of a call that is about to be sent: workers get calls in the order of their numbers."""
        self.last_seq += 1
        return self.last_seq

    def post_call(self, seq: int, call: Call, needs: Needs) -> None:
        """Send a call to all that are to take part in it."""
        record, key = b"", needs.key
        self.roster.assign_all(call.team, seq)
        for rank in range(call.team):
            link = self.links.get(rank)
            if link is None:
                continue
            try:
                if key is None or link.last_full_call != key:
                    self.send_call(link, seq, call, needs)
                    continue
                record = record or call.wake_record(seq)
                if not link.wake(record):
                    self.wake()
            except BaseException:  # a Ctrl-C, say: who knows what was sent
                link.distrust()
                raise

    def send_call(
        self,
        link: WorkerLink,
        seq: int,
        call: Call,
        needs: Needs,
        redo: Payload | None = None,
    ) -> None:
        """Send a worker a call, without what it has, and with what it lacks for it."""
        link.attach(needs.segments if redo is None else needs.segments | redo.segments())
        if needs.control is not None:
            link.open(needs.control)
        modules = self._tell_modules(link) if link.modules < needs.modules else None
        func = call.func
        if func is not None and link.remember(call.digest, call.by_value):
            func = None
        surroundings = None
        if link.surroundings != needs.surroundings:
            surroundings = self._tell_surroundings(link, needs.surroundings)
        knows_job, forget = link.remember_job(call.job_id)
        its_call = call._replace(
            job=None if knows_job else call.job,
            func=func,
            seq=seq,
            redo=redo,
            surroundings=surroundings,
            forget=forget,
            modules=modules,
        )
        link.post(dumps_message(its_call))
        link.last_full_call = needs.key
        if needs.writes_main:
            link.last_function = b""
        if link.clogged() >= 0:
            self.wake()

    def end_call(self, seq: int) -> None:
        """A call is over; and so are others for whoever has left them."""
        waiting, slots = self.roster.end(seq), self.slots
        if slots is not None:
            for rank in waiting:
                self.roster.left(rank, slots.left(rank))

    def distrust(self, rank: int) -> None:
        """A worker could not load what it was sent: who knows what it has."""
        link = self.links.get(rank)
        if link is not None:
            link.distrust()

    def has_left(self, rank: int, seq: int) -> bool:
        """Whether the worker on a rank has left call `seq`, by what its claim slot says."""
        slots = self.slots
        return slots is None or slots.left(rank) >= seq

    def has_relayed(self, rank: int) -> bool:
        """Whether the worker on a rank has printed, logged or warned what was not taken from it yet."""
        slots, link = self.slots, self.links.get(rank)
        if slots is None or link is None:
            return False
        return link.relayed < slots.relayed(rank)

    def is_inside(self, rank: int, seq: int) -> bool:
        """Whether the worker on a rank is in call `seq`, by what its claim slot says."""
        slots = self.slots
        return slots is not None and slots.running(rank) == seq

    def is_through(self, link: WorkerLink, seq: int) -> bool:
        """Whether this very worker will not touch anything of call `seq` any more."""
        if link.gone or self.links.get(link.rank) is not link:
            return True  # what the slot says is its successor's
        return self.has_left(link.rank, seq)

    def kill(self, rank: int, seq: int, since: int | None = None) -> bool:
        """End the worker on a rank if it is still in call `seq`; whether it was.

        `since`: and only if it is still in that very call of the function.
        """
        link = self.links.get(rank)
        if self.slots is None or link is None or link.gone:
            return False  # what the slot says is a dead worker's
        slots = self.slots
        if slots.running(rank) != seq or since not in (None, slots.call_of_function(rank)[0]):
            return False
        try:
            if link.pidfd >= 0:
                signal.pidfd_send_signal(link.pidfd, signal.SIGKILL)
            elif link.pid:
                os.kill(link.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has just died, and its death is about to be noticed
        except PermissionError:  # this process has become another user; the kernel still may
            link.cut_lifeline()
        return True

    # ------------------------------------------------ what the monitor hears

    def wake(self) -> None:
        """Have the monitor look at everything again."""
        try:
            os.write(self._monitor_pipe[1], b"w")
        except BlockingIOError:
            pass  # it is awake
        except OSError:
            pass  # the team is ending its workers

    def note_drop(self, segment: int) -> None:
        """A segment is let go; the workers are told when the monitor comes to it."""
        # May be called by the garbage collector at any moment: no lock here.
        self._dropped.append(segment)
        self.wake()

    def watch(self, timeout_ms: int | None) -> Watch:
        """All there is to wait for."""
        poll = select.poll()
        poll.register(self._monitor_pipe[0], select.POLLIN)
        poll.register(self._submit_pipe[0], select.POLLIN)
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
        if launcher is not None and (deadline := launcher.deadline()) < math.inf:
            left_ms = max(0, int((deadline - time.monotonic()) * 1000) + 1)
            timeout_ms = left_ms if timeout_ms is None else min(timeout_ms, left_ms)
        return Watch(poll, watched, launcher, timeout_ms)

    def heed_wakes(self, fds: Collection[int]) -> None:
        """Let the next `wake` wake the monitor again; `fds` are those that were found ready."""
        if self._monitor_pipe[0] in fds:
            try:
                os.read(self._monitor_pipe[0], 4096)
            except BlockingIOError:
                pass

    def has_submitted(self, fds: Collection[int]) -> bool:
        """Whether there is something on the pipe of submitted functions."""
        return self._submit_pipe[0] in fds

    def read_submitted(self, nbytes: int) -> bytes:
        """Records on the pipe of submitted functions; nothing if there are none."""
        try:
            return os.read(self._submit_pipe[0], nbytes)
        except BlockingIOError:
            return b""

    def pass_on_drops(self) -> None:
        """Have the workers unmap what was dropped."""
        if self._dropped:
            dropped = []
            while self._dropped:
                dropped.append(self._dropped.popleft())
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
            elif not link.gone and link.pidfd < 0 and link.pid and _has_hung_up(link):
                yield link

    def _handle_launch(self, event: Forked | Reaped | Lost) -> Iterator[WorkerLink]:
        if isinstance(event, Forked):
            link = self.links.get(event.rank)
            if link is None or link.pid or link.gone:
                if event.pidfd >= 0:
                    os.close(event.pidfd)
                return
            link.pid, link.pidfd = event.pid, event.pidfd
        elif isinstance(event, Reaped):
            for link in list(self.links.values()):
                if link.pid == event.pid:
                    link.status = event.status
                    if not link.gone:
                        yield link
        else:
            self._launcher = None
            for link in list(self.links.values()):
                if not link.pid and not link.gone:
                    link.status = event.status
                    link.start_error = event.reason
                    yield link
            for rank in self._dying:
                self._dying[rank] = 0.0  # no status will come

    def note_end(self, link: WorkerLink) -> None:
        """A worker has ended, and what it had said is taken: it is buried once its status is known."""
        link.gone = True
        self._dying[link.rank] = time.monotonic() + STATUS_S

    @property
    def has_dying(self) -> bool:
        """Whether some worker's status is waited for."""
        return bool(self._dying)

    def collect_dead(self) -> Iterator[WorkerLink]:
        """Those whose end is all known; they have given up what they held, and their seats are free."""
        for rank, deadline in list(self._dying.items()):
            link = self.links[rank]
            if link.status is None and time.monotonic() < deadline:
                continue
            del self._dying[rank]
            del self.links[rank]
            link.close()  # first: whoever takes the seat may need the descriptors
            yield link

    def signal_all(self, number: signal.Signals, calls: Collection[int] | None = None) -> None:
        """Send workers a signal; by SIGKILL they end, whatever they do.

        `calls`: only those that are in one of these, or have yet to start. The others may end calmly.
        """
        for link in self.links.values():
            if calls is not None and not self._is_busy(link.rank, calls):
                continue
            if number == signal.SIGKILL:
                link.cut_lifeline()  # it may not be known yet which process it is
            if link.pidfd >= 0 and not link.gone:
                with suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(link.pidfd, number)

    def dismiss(self) -> list[tuple[bytes, bytes, Any]]:
        """Let all workers end, and the launcher; others may be started again.

        What they print, log or warn at their end is returned, as `relay.emit` takes it.
        """
        for link in self.links.values():
            link.dismiss()
        began = time.monotonic()
        said: list[tuple[bytes, bytes, Any]] = []
        present = [link for link in self.links.values() if link.pidfd >= 0]
        while present := [link for link in present if not self._has_ended(link, said)]:
            late = time.monotonic() - began
            for link in present:
                # Parked workers end by themselves, most of them at once.
                if late >= (BUSY_S if self._is_busy(link.rank) else CALM_S):
                    self._kill(link)
            poll = select.poll()
            for link in present:
                for fd in (link.pidfd, link.line.fileno(), link.relay.fileno()):
                    poll.register(fd, select.POLLIN)
            poll.poll(20)
        for link in self.links.values():
            link.close()
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None
        self.links.clear()
        self._dying.clear()
        self.roster.vacate()
        return said

    def _has_ended(self, link: WorkerLink, said: list[tuple[bytes, bytes, Any]]) -> bool:
        """Whether a worker that was hung up on has ended; what it needs and says until then is dealt with."""
        has_ended = link.gone or has_data(link.pidfd)
        for message in link.receive():
            if isinstance(message, Ask):
                link.lend(*lend(message.what))
        said += ((*parse(frame)[::2], link.decoders) for frame in link.receive_relay())
        return has_ended

    def _is_busy(self, rank: int, calls: Collection[int] | None = None) -> bool:
        """Whether a worker is in a call, in one of `calls`, or has yet to start."""
        seat = self.roster.seats.get(rank)
        if seat is not None and seat.state != READY:
            return True
        running = 0 if self.slots is None else self.slots.running(rank)
        return running != 0 and (calls is None or running in calls)

    @staticmethod
    def _kill(link: WorkerLink) -> None:
        link.cut_lifeline()
        # Which may not be enough: a child forked at the wrong moment holds it, too.
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(link.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Give back what `open` acquired."""
        if self.slots is not None:
            off_drop(self._listener)
            # Forgotten first, see `WorkerLink.hang_up`.
            slots, self.slots = self.slots, None
            fds = (*self._submit_pipe, *self._monitor_pipe)
            self._submit_pipe = self._monitor_pipe = (-1, -1)
            slots.close()
            for fd in fds:
                os.close(fd)
        self._dropped.clear()

    def close_in_child(self) -> None:
        """In a forked child: let go of every descriptor, so that the parent's end is noticed."""
        for link in self.links.values():
            link.close()
        if isinstance(self._launcher, (TemplateLauncher, ForkLauncher)):
            self._launcher.close_in_child()
        for fd in (*self._submit_pipe, *self._monitor_pipe):
            if fd >= 0:
                os.close(fd)
        self._submit_pipe = self._monitor_pipe = (-1, -1)
        if self.slots is not None:
            os.close(self.slots.fd)
        self.slots = None
        self.links.clear()
        self._launcher = None


def _has_hung_up(link: WorkerLink) -> bool:
    """Without pidfds: whether the other end of the relay socket has closed."""
    poll = select.poll()
    poll.register(link.relay.fileno(), select.POLLHUP)
    return bool(poll.poll(0))


def _make_listener(ref: weakref.ref[Workers]) -> Callable[[int], None]:
    """Tell `Workers`, if it is still there, of segments that are dropped."""

    def note_drop(segment: int) -> None:
        workers = ref()
        if workers is not None:
            workers.note_drop(segment)

    return note_drop
