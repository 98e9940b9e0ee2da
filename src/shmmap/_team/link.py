"""One worker as its caller sees it: its process, and the sockets and pipes that lead to it.

Owned by `Workers`; every method is called with the team's lock held. The worker is parked in a read of its
*wake pipe*: waking through a pipe takes half as long as through a socket. Messages, some of which carry
descriptors, go over the *line*, each announced on the pipe, which so keeps the order of everything. What a
full socket or pipe does not take waits in the backlog, in order, so that no thread ever waits for a busy
worker.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

from .._memory import attach_segment, get_segment
from .._system.interrupts import Uninterrupted
from .._wire import (
    END_WORKER,
    POSTED,
    RECEIVE_NBYTES,
    SEE_LINE,
    TOKEN_NBYTES,
    Attach,
    ControlBlock,
    Descriptors,
    Drop,
    Lend,
    Open,
    ReleasePages,
    Report,
    dumps_message,
    unpack,
)
from .known import Known
from .relay import Decoders

# The kernel takes at most 253 descriptors with one message.
_FDS_MAX = 200
# Messages it may not have read yet that lie in memory of their own: a call of each open map, and two more.
_ROOTS_MAX = 32
# How sending fails where the worker has died, of which the monitor hears by other ways; or was hung up on.
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN, errno.EBADF)


class WorkerLink:
    """A worker process and the caller's ends of what connects it.

    Everything is read and written under the team's lock, by callers' threads and by the monitor, with these
    exceptions: `relayed` is read without it, by a thread that waits for a map; `close` and what it calls run
    in a forked child as well, where there is one thread.

    What must hold: descriptors are noted here before a child can be forked that would have to close them, and
    forgotten before they are closed.
    """

    def __init__(self, rank: int, slot: memoryview) -> None:
        self.rank = rank
        self._slot = slot
        self.pid = 0
        self.pidfd = -1
        self.status: int | None = None
        """Wait status, once known."""
        self.failed: Report | None = None
        """Why it cannot start, as it said."""
        self.start_error = ""
        """Why no worker can be started at all; empty if another may be tried."""
        self.gone = False
        """Its process has ended."""
        self.known = Known()
        self._roots: deque[object] = deque(maxlen=_ROOTS_MAX)
        """Memory that messages lie in which it may not have read yet."""
        self.relayed = 0
        """Messages taken from its relay socket."""
        self.decoders = Decoders()
        self.token = os.urandom(TOKEN_NBYTES)
        """What its messages begin with; see `_wire.messages`."""
        self._backlog: deque[tuple[bytes, list[int] | None]] = deque()
        """What waits, and the descriptors that go with it; None: it goes to the wake pipe."""
        with ExitStack() as made:  # closed again, should a descriptor be wanting
            pairs = []
            for _ in range(3):
                pairs.append(_pair())
                for each in pairs[-1]:
                    made.callback(each.close)
            lifeline, self.lifeline = _pipe(made)
            wake, self._wake = _pipe(made)
            os.set_blocking(self._wake, False)
            made.pop_all()
        (self.line, line), (self.aside, aside), (self.relay, relay) = pairs
        self._theirs: tuple[int, ...] = (
            wake,
            line.detach(),
            aside.detach(),
            relay.detach(),
            lifeline,
        )

    def hand_over(self, of_team: tuple[int, ...]) -> Descriptors:
        """The worker's ends, with copies of what is the team's; the caller closes them."""
        with ExitStack() as made:
            copies = []
            for fd in of_team:
                copies.append(os.dup(fd))
                made.callback(os.close, copies[-1])
            made.pop_all()
        theirs, self._theirs = self._theirs, ()
        return Descriptors(*theirs, *copies)

    # ------------------------------------------------ sending

    def post(self, data: bytes, fds: list[int] | None = None) -> None:
        """Send a message on the line, and wake the worker for it."""
        # Both or neither: a message without its record would be taken for the next one's.
        with Uninterrupted():
            self._put(data, fds or [])
            self._put(SEE_LINE, None)
            self._slot[POSTED] += (
                1  # a worker that takes a function first reads all that was posted before
            )

    def wake(self, record: bytes) -> bool:
        """Send a record that needs nothing else; False if it has to wait for room, see `clogged`."""
        if not self._backlog:
            try:
                os.write(self._wake, record)
                return True
            except OSError as exc:
                if exc.errno in _GONE:
                    return True
                if exc.errno != errno.EAGAIN:
                    raise
        self._backlog.append((record, None))
        return False

    def _put(self, data: bytes, fds: list[int] | None) -> None:
        if self._backlog or not self._send(data, fds):
            self._backlog.append((data, fds and [os.dup(fd) for fd in fds]))

    def _send(self, data: bytes, fds: list[int] | None) -> bool:
        try:
            if fds is None:
                os.write(self._wake, data)
            elif fds:
                socket.send_fds(self.line, [data], fds)
            else:
                self.line.send(data)
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno not in _GONE:
                raise
        return True

    def clogged(self) -> int:
        """The descriptor that takes no more, so that the backlog waits for it; -1 if there is none."""
        if not self._backlog:
            return -1
        return self._wake if self._backlog[0][1] is None else self.line.fileno()

    def flush(self) -> None:
        """Send what socket and pipe take now."""
        while self._backlog:
            data, fds = self._backlog[0]
            if not self._send(data, fds):
                return
            self._backlog.popleft()
            for fd in fds or ():
                os.close(fd)

    def attach(self, segments: frozenset[int]) -> None:
        """Make sure it has these segments."""
        new = self.known.lacks(segments)
        for at in range(0, len(new), _FDS_MAX):
            part = [get_segment(id) for id in new[at : at + _FDS_MAX]]
            message = Attach(tuple((segment.id, segment.nbytes) for segment in part))
            self.post(dumps_message(message), [segment.fd for segment in part])
        self.known.has_segments(new)

    def open(self, control: ControlBlock) -> None:
        """Make sure it has this control block."""
        if control.id not in self.known.controls:
            message = Open(control.id, control.capacity, control.ranks, control.profiled)
            self.post(dumps_message(message), list(control.shared_fds()))
            self.known.has_control(control.id)

    def keep(self, root: object) -> None:
        """Keep the memory that a message lies in until it has surely been read."""
        self._roots.append(root)

    def drop(self, segments: list[int]) -> None:
        """Have it unmap segments the caller has let go."""
        had = self.known.loses(segments)
        if had:
            self._send_aside(Drop(had))

    def lend(self, data: bytes, fd: int) -> None:
        """Answer what it has asked."""
        self._send_aside(Lend(data), [fd] if fd >= 0 else [])

    def _send_aside(self, message: Drop | Lend, fds: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self.aside, [dumps_message(message)], fds)
        except OSError:
            pass  # it is dead; or a thousand messages behind, and does without

    # ------------------------------------------------ what becomes of its process

    def note_process(self, pid: int, pidfd: int) -> None:
        """It is there."""
        self.pid, self.pidfd = pid, pidfd

    def note_failed(self, why: Report) -> None:
        """It says that it cannot start."""
        self.failed = why

    def note_status(self, status: int | None, start_error: str = "") -> None:
        """How its process has ended, or why it was not started."""
        self.status, self.start_error = status, start_error

    def note_end(self) -> None:
        """Its process has ended, and what it had said is taken."""
        self.gone = True

    def count_relayed(self, frames: int) -> None:
        """So many more frames of its relay socket are where they belong."""
        self.relayed += frames

    def signal(self, number: signal.Signals) -> None:
        """Send its process a signal, if that is still there."""
        with suppress(ProcessLookupError):  # it has just died, and its death is about to be noticed
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, number)
            elif self.pid and not self.gone:
                os.kill(self.pid, number)

    def has_hung_up(self) -> bool:
        """Without pidfds: whether the other end of the relay socket has closed."""
        poll = select.poll()
        poll.register(self.relay.fileno(), select.POLLHUP)
        return bool(poll.poll(0))

    def kill(self) -> None:
        """End its process, whatever it does, also before it is known which process it is."""
        self.cut_lifeline()
        # Which may not be enough: a child forked at the wrong moment holds it, too.
        with suppress(PermissionError):  # this process has become another user
            self.signal(signal.SIGKILL)

    # ------------------------------------------------ receiving

    def receive(self) -> list[Any]:
        """Messages that have come on the line; segments announced are attached here."""
        messages: list[object] = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.line, RECEIVE_NBYTES, 16)
            except ConnectionResetError:
                continue  # it died with messages unread; what it said before is there all the same
            except OSError:  # nothing there, or the end
                return messages
            if not data:
                return messages
            if not data.startswith(self.token):  # not the library's: never unpickled
                for fd in fds:
                    os.close(fd)
                continue
            message = unpack(data[TOKEN_NBYTES:])
            if isinstance(message, Attach) and not self._receive_segments(message, fds):
                continue
            messages.append(message)

    def _receive_segments(self, message: Attach, fds: list[int]) -> bool:
        """Map what it made; False, and nothing is kept of it, if there are no descriptors left."""
        left = list(fds)
        try:
            # The kernel drops those there is no room for, and they do not come again.
            for id, nbytes in message.segments if len(fds) == len(message.segments) else ():
                attach_segment(id, left.pop(0), nbytes, keep_fd=True)
                self.known.has_segments([id])
        except (OSError, MemoryError):
            pass
        for fd in left:
            os.close(fd)
        if not self.known.lacks(id for id, _ in message.segments):
            return True
        if not message.seq:
            self.post(
                dumps_message(ReleasePages(tuple(id for id, _ in message.segments), lost=True))
            )
        return False

    def receive_relay(self) -> list[bytes]:
        """Frames that have come on the relay socket."""
        frames: list[bytes] = []
        while True:
            try:
                frame = self.relay.recv(RECEIVE_NBYTES)
            except ConnectionResetError:
                continue
            except OSError:
                return frames
            if not frame:
                return frames
            if not frame.startswith(self.token):
                continue
            frames.append(frame[TOKEN_NBYTES:])

    def tell_to_end(self) -> None:
        """Have it end calmly once it is parked: what functions have registered for its end is done."""
        self.wake(END_WORKER)
        self.hang_up()

    def hang_up(self) -> None:
        """Have it end once it is parked, at once."""
        # Here and below: forgotten first. A child that another thread forks meanwhile closes what is noted,
        # and a number that is closed already may be that of its own.
        fd, self._wake = self._wake, -1
        if fd >= 0:
            os.close(fd)

    def cut_lifeline(self) -> None:
        """Have the kernel kill it, whatever it does."""
        fd, self.lifeline = self.lifeline, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Let go of everything; a worker still alive ends."""
        self.line.close()
        self.hang_up()
        self.cut_lifeline()
        self.aside.close()
        self.relay.close()
        fds, self._theirs = [*self._theirs], ()
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            fds.append(pidfd)
        while self._backlog:
            fds += self._backlog.popleft()[1] or ()
        for fd in fds:
            os.close(fd)


def _pipe(made: ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        made.callback(os.close, fd)
    return ends


def _pair() -> tuple[socket.socket, socket.socket]:
    kind = socket.SOCK_SEQPACKET if hasattr(socket, "SOCK_SEQPACKET") else socket.SOCK_DGRAM
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    ours.setblocking(False)
    return ours, theirs
