"""The worker processes of a team: how they are started, called and ended, and what connects them.

Owned by the team; everything here is done with the team's lock held, but for `wake`, `note_drop`, `has_left`
and `is_inside`, which need none. Whatever is said by or becomes of a worker is only brought to light here:
what follows from it for maps and functions is the attendant's to do, and who sits where is the roster's to
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

from .._code.reach import current_version, latest, look_again, news
from .._memory import off_drop, on_drop
from .._wire import (
    LEFT,
    RELAYED,
    RUNNING,
    SINCE,
    SLOT_WORDS,
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
    """What an attendant waits for.

    It holds all sockets: the garbage collector would close those of a dropped team before its attendant.
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
        self.members: dict[int, WorkerLink] = {}
        """By rank."""
        self._dying: dict[int, float] = {}
        """Ranks whose worker has ended, and until when its status is waited for."""
        self._launcher: Launcher | None = None
        self.slots: ClaimSlots | None = None
        """There from before the first worker until all have gone home."""
        self._submit_pipe = (-1, -1)
        """On which workers say what came of submitted functions."""
        self._attendant_pipe = (-1, -1)
        """What wakes the attendant."""
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
        self._attendant_pipe = (pipes[2], pipes[3])
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
                if rank not in self.members:
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
        slot = self.slots.slot(rank)
        for word in range(SLOT_WORDS):
            slot[word] = 0
        # In the table before it is forked: the child closes what it finds there, or it would hold its own
        # lifeline.
        member = self.members[rank] = WorkerLink(rank)
        try:
            self._start_member(member)
        except BaseException:
            del self.members[rank]
            member.close()
            raise
        self.wake()

    def _start_member(self, member: WorkerLink) -> None:
        assert self.slots is not None and self._launcher is not None
        initializer = self._initializer_payload
        if self._initializer is not None and initializer is not None:
            member.attach(self._initializer.segments | initializer.segments())
        surroundings = self._tell_surroundings(member, snapshot())
        modules = None
        if self.start == "fork":
            member.modules = look_again()  # it has the caller's modules as they are now
        else:
            if self._initializer is not None:
                current_version(self._initializer.reaches)
            if latest():
                modules = self._tell_modules(member)
        start = Start(
            member.rank,
            initializer,
            self._blas_threads,
            self._memory_limit,
            surroundings,
            member.token,
            modules,
        )
        member.post(dumps_message(start))
        # Copies, none of them in the tables here: a forked child closes what is in those.
        fds = member.hand_over(self.slots.fd, self._submit_pipe[1])
        try:
            self._launcher.spawn(member.rank, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _tell_surroundings(self, member: WorkerLink, now: Surroundings) -> Payload:
        """The caller's surroundings, for a message to a worker, which has what they need from now on."""
        if self._surroundings is None or self._surroundings[0] != now:
            self._surroundings = (now, *make_payload(pack(pack_surroundings(now)).data))
        _, payload, root = self._surroundings
        member.attach(payload.segments())
        member.surroundings = now
        member.roots.append(root)
        return payload

    def _tell_modules(self, member: WorkerLink) -> Payload:
        """What has changed in the user's modules, for a message to a worker, which knows it from now on."""
        now = latest()
        if self._modules is None or self._modules[:2] != (member.modules, now):
            letter = news(member.modules)
            payload, root = make_payload(letter.data)
            self._modules = (member.modules, now, payload, letter.segments, (root, letter.keep))
        _, _, payload, segments, keep = self._modules
        member.attach(payload.segments() | segments)
        member.tell_modules(now)
        member.roots.append(keep)
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
            member = self.members.get(rank)
            if member is None:
                continue
            try:
                if key is None or member.settled != key:
                    self.send_call(member, seq, call, needs)
                    continue
                record = record or call.wake_record(seq)
                if not member.wake(record):
                    self.wake()
            except BaseException:  # a Ctrl-C, say: who knows what was sent
                member.distrust()
                raise

    def send_call(
        self,
        member: WorkerLink,
        seq: int,
        call: Call,
        needs: Needs,
        redo: Payload | None = None,
    ) -> None:
        """Send a worker a call, without what it has, and with what it lacks for it."""
        member.attach(needs.segments if redo is None else needs.segments | redo.segments())
        if needs.control is not None:
            member.open(needs.control)
        modules = self._tell_modules(member) if member.modules < needs.modules else None
        func = call.func
        if func is not None and member.remember(call.digest, call.by_value):
            func = None
        surroundings = None
        if member.surroundings != needs.surroundings:
            surroundings = self._tell_surroundings(member, needs.surroundings)
        knows_job, forget = member.remember_job(call.job_id)
        its_call = call._replace(
            job=None if knows_job else call.job,
            func=func,
            seq=seq,
            redo=redo,
            surroundings=surroundings,
            forget=forget,
            modules=modules,
        )
        member.post(dumps_message(its_call))
        member.settled = needs.key
        if needs.writes_main:
            member.last_function = b""
        if member.clogged() >= 0:
            self.wake()

    def end_call(self, seq: int) -> None:
        """A call is over; and so are others for whoever has left them."""
        waiting, slots = self.roster.end(seq), self.slots
        if slots is not None:
            for rank in waiting:
                self.roster.left(rank, slots.words[rank * SLOT_WORDS + LEFT])

    def distrust(self, rank: int) -> None:
        """A worker could not load what it was sent: who knows what it has."""
        member = self.members.get(rank)
        if member is not None:
            member.distrust()

    def has_left(self, rank: int, seq: int) -> bool:
        """Whether the worker on a rank has left call `seq`, by what its claim slot says."""
        slots = self.slots
        return slots is None or slots.words[rank * SLOT_WORDS + LEFT] >= seq

    def has_relayed(self, rank: int) -> bool:
        """Whether the worker on a rank has printed, logged or warned what was not taken from it yet."""
        slots, member = self.slots, self.members.get(rank)
        if slots is None or member is None:
            return False
        return member.relayed < slots.words[rank * SLOT_WORDS + RELAYED]

    def is_inside(self, rank: int, seq: int) -> bool:
        """Whether the worker on a rank is in call `seq`, by what its claim slot says."""
        slots = self.slots
        return slots is not None and slots.words[rank * SLOT_WORDS + RUNNING] == seq

    def is_through(self, member: WorkerLink, seq: int) -> bool:
        """Whether this very worker will not touch anything of call `seq` any more."""
        if member.gone or self.members.get(member.rank) is not member:
            return True  # what the slot says is its successor's
        return self.has_left(member.rank, seq)

    def kill(self, rank: int, seq: int, since: int | None = None) -> bool:
        """End the worker on a rank if it is still in call `seq`; whether it was.

        `since`: and only if it is still in that very call of the function.
        """
        member = self.members.get(rank)
        if self.slots is None or member is None or member.gone:
            return False  # what the slot says is a dead worker's
        slot = self.slots.slot(rank)
        if slot[RUNNING] != seq or (since is not None and slot[SINCE] != since):
            return False
        try:
            if member.pidfd >= 0:
                signal.pidfd_send_signal(member.pidfd, signal.SIGKILL)
            elif member.pid:
                os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has just died, and its death is about to be noticed
        except PermissionError:  # this process has become another user; the kernel still may
            member.cut_lifeline()
        return True

    # ------------------------------------------------ what the attendant hears

    def wake(self) -> None:
        """Have the attendant look at everything again."""
        try:
            os.write(self._attendant_pipe[1], b"w")
        except BlockingIOError:
            pass  # it is awake
        except OSError:
            pass  # the team is going home

    def note_drop(self, segment: int) -> None:
        """A segment is let go; the workers are told when the attendant comes to it."""
        # May be called by the garbage collector at any moment: no lock here.
        self._dropped.append(segment)
        self.wake()

    def watch(self, timeout_ms: int | None) -> Watch:
        """All there is to wait for."""
        poll = select.poll()
        poll.register(self._attendant_pipe[0], select.POLLIN)
        poll.register(self._submit_pipe[0], select.POLLIN)
        launcher = self._launcher
        if launcher is not None and launcher.fileno() >= 0:
            poll.register(launcher.fileno(), select.POLLIN)
        watched: dict[int, WorkerLink] = {}
        for member in self.members.values():
            if member.gone:
                continue
            if member.pidfd >= 0:
                watched[member.pidfd] = member
                poll.register(member.pidfd, select.POLLIN)
            clogged = member.clogged()
            if member.line.fileno() >= 0:
                watched[member.line.fileno()] = member
                events = select.POLLOUT if clogged == member.line.fileno() else 0
                poll.register(member.line.fileno(), select.POLLIN | events)
            if clogged >= 0 and clogged not in watched:
                watched[clogged] = member
                poll.register(clogged, select.POLLOUT)
            watched[member.relay.fileno()] = member
            poll.register(member.relay.fileno(), select.POLLIN)
        if launcher is not None and (deadline := launcher.deadline()) < math.inf:
            left_ms = max(0, int((deadline - time.monotonic()) * 1000) + 1)
            timeout_ms = left_ms if timeout_ms is None else min(timeout_ms, left_ms)
        return Watch(poll, watched, launcher, timeout_ms)

    def heed_wakes(self, fds: Collection[int]) -> None:
        """Let the next `wake` wake the attendant again; `fds` are those that were found ready."""
        if self._attendant_pipe[0] in fds:
            try:
                os.read(self._attendant_pipe[0], 4096)
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
            for member in self.members.values():
                member.drop(dropped)

    # ------------------------------------------------ ending

    def ended(self, fds: Collection[int]) -> Iterator[WorkerLink]:
        """Those whose process has ended, each to be given to `note_end` before the next is asked for."""
        if self._launcher is not None:
            for event in self._launcher.events():
                yield from self._handle_launch(event)
        for member in list(self.members.values()):
            if not member.gone and member.pidfd >= 0 and member.pidfd in fds:
                yield member
            elif not member.gone and member.pidfd < 0 and member.pid and _has_hung_up(member):
                yield member

    def _handle_launch(self, event: Forked | Reaped | Lost) -> Iterator[WorkerLink]:
        if isinstance(event, Forked):
            member = self.members.get(event.rank)
            if member is None or member.pid or member.gone:
                if event.pidfd >= 0:
                    os.close(event.pidfd)
                return
            member.pid, member.pidfd = event.pid, event.pidfd
        elif isinstance(event, Reaped):
            for member in list(self.members.values()):
                if member.pid == event.pid:
                    member.status = event.status
                    if not member.gone:
                        yield member
        else:
            self._launcher = None
            for member in list(self.members.values()):
                if not member.pid and not member.gone:
                    member.status = event.status
                    member.start_error = event.reason
                    yield member
            for rank in self._dying:
                self._dying[rank] = 0.0  # no status will come

    def note_end(self, member: WorkerLink) -> None:
        """A worker has ended, and what it had said is taken: it is buried once its status is known."""
        member.gone = True
        self._dying[member.rank] = time.monotonic() + STATUS_S

    @property
    def has_dying(self) -> bool:
        """Whether some worker's status is waited for."""
        return bool(self._dying)

    def bury(self) -> Iterator[WorkerLink]:
        """Those whose end is all known; they have given up what they held, and their seats are free."""
        for rank, deadline in list(self._dying.items()):
            member = self.members[rank]
            if member.status is None and time.monotonic() < deadline:
                continue
            del self._dying[rank]
            del self.members[rank]
            member.close()  # first: whoever takes the seat may need the descriptors
            yield member

    def signal_all(self, number: signal.Signals, calls: Collection[int] | None = None) -> None:
        """Send workers a signal; by SIGKILL they end, whatever they do.

        `calls`: only those that are in one of these, or have yet to start. The others may end calmly.
        """
        for member in self.members.values():
            if calls is not None and not self._is_busy(member.rank, calls):
                continue
            if number == signal.SIGKILL:
                member.cut_lifeline()  # it may not be known yet which process it is
            if member.pidfd >= 0 and not member.gone:
                with suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(member.pidfd, number)

    def dismiss(self) -> list[tuple[bytes, bytes, Any]]:
        """Let all workers end, and the launcher; others may be started again.

        What they print, log or warn at their end is returned, as `relay.emit` takes it.
        """
        for member in self.members.values():
            member.dismiss()
        began = time.monotonic()
        said: list[tuple[bytes, bytes, Any]] = []
        present = [member for member in self.members.values() if member.pidfd >= 0]
        while present := [member for member in present if not self._has_ended(member, said)]:
            late = time.monotonic() - began
            for member in present:
                # Parked workers end by themselves, most of them at once.
                if late >= (BUSY_S if self._is_busy(member.rank) else CALM_S):
                    self._kill(member)
            poll = select.poll()
            for member in present:
                for fd in (member.pidfd, member.line.fileno(), member.relay.fileno()):
                    poll.register(fd, select.POLLIN)
            poll.poll(20)
        for member in self.members.values():
            member.close()
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None
        self.members.clear()
        self._dying.clear()
        self.roster.vacate()
        return said

    def _has_ended(self, member: WorkerLink, said: list[tuple[bytes, bytes, Any]]) -> bool:
        """Whether a worker that was hung up on has ended; what it needs and says until then is dealt with."""
        has_ended = member.gone or has_data(member.pidfd)
        for message in member.receive():
            if isinstance(message, Ask):
                member.lend(*lend(message.what))
        said += ((*parse(frame)[::2], member.decoders) for frame in member.receive_relay())
        return has_ended

    def _is_busy(self, rank: int, calls: Collection[int] | None = None) -> bool:
        """Whether a worker is in a call, in one of `calls`, or has yet to start."""
        seat = self.roster.seats.get(rank)
        if seat is not None and seat.state != READY:
            return True
        running = 0 if self.slots is None else self.slots.words[rank * SLOT_WORDS + RUNNING]
        return running != 0 and (calls is None or running in calls)

    @staticmethod
    def _kill(member: WorkerLink) -> None:
        member.cut_lifeline()
        # Which may not be enough: a child forked at the wrong moment holds it, too.
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(member.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Give back what `open` acquired."""
        if self.slots is not None:
            off_drop(self._listener)
            # Forgotten first, see `WorkerLink.hang_up`.
            slots, self.slots = self.slots, None
            fds = (*self._submit_pipe, *self._attendant_pipe)
            self._submit_pipe = self._attendant_pipe = (-1, -1)
            slots.close()
            for fd in fds:
                os.close(fd)
        self._dropped.clear()

    def close_in_child(self) -> None:
        """In a forked child: let go of every descriptor, so that the parent's end is noticed."""
        for member in self.members.values():
            member.close()
        if isinstance(self._launcher, (TemplateLauncher, ForkLauncher)):
            self._launcher.close_in_child()
        for fd in (*self._submit_pipe, *self._attendant_pipe):
            if fd >= 0:
                os.close(fd)
        self._submit_pipe = self._attendant_pipe = (-1, -1)
        if self.slots is not None:
            os.close(self.slots.fd)
        self.slots = None
        self.members.clear()
        self._launcher = None


def _has_hung_up(member: WorkerLink) -> bool:
    """Without pidfds: whether the other end of the relay socket has closed."""
    poll = select.poll()
    poll.register(member.relay.fileno(), select.POLLHUP)
    return bool(poll.poll(0))


def _make_listener(ref: weakref.ref[Workers]) -> Callable[[int], None]:
    """Tell a crew, if it is still there, of segments that are dropped."""

    def note_drop(segment: int) -> None:
        crew = ref()
        if crew is not None:
            crew.note_drop(segment)

    return note_drop
