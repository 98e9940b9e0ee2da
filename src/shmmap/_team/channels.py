"""What a team has of its own beside its workers: claim slots, four pipes, and the segments that were let go.

Owned by `Workers`. All idle workers read the *function pipe*, in which submitted functions lie; on the
*result pipe* they say what came of them. The *monitor pipe* wakes the monitor, and is written to by workers
and by any thread of the caller; the *reader pipe* wakes a thread that reads the result pipe by itself.

What must always hold: all descriptors here are opened before the first worker and closed after the last one,
all of them or none.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import suppress
from threading import get_ident

from .._memory import off_drop, on_drop
from .._wire import (
    EXPECTED,
    RUNG,
    ClaimSlots,
    numbers_in,
)

try:
    import fcntl
except ImportError:  # not a POSIX system: there are no teams
    pass

_CLOSED = (-1, -1)
# Room for a thousand functions, if the system allows it. With less, the rest waits in the caller.
_FUNCTIONS_NBYTES = 1 << 20
_READ_NBYTES = 1 << 16


class Channels:
    """Claim slots and pipes of a team.

    ===========================  ================================  ======================================
    field                        written by                        read by
    ===========================  ================================  ======================================
    `slots`, the pipes, `user`   `open` and `close`, under the     all; without the lock by `wake`, `ring`,
                                 team's lock                       `has_left` and `is_inside`
    `reader`                     the thread that reads results by  all, under the lock; without it to see
                                 itself, under the lock            whether it has to be rung
    `_poll`                      `open`, under the lock            the thread that reads by itself
    `_dropped`                   `note_drop`, in any thread at     monitor
                                 any moment, without the lock
    ===========================  ================================  ======================================

    What must hold: what is read without the lock is read once, and may be closed the moment after.
    """

    def __init__(self) -> None:
        self.slots: ClaimSlots | None = None
        """There from before the first worker until all workers have ended."""
        self._function_pipe = self._result_pipe = self._monitor_pipe = self._reader_pipe = _CLOSED
        self._poll = select.poll()
        """Of the result pipe, for the thread that reads results by itself."""
        self._is_expected = False
        self.reading = _CLOSED
        """What a thread waits for that reads by itself: the result pipe, and that by which it is woken."""
        self.reader: object = None
        self._reading_thread = 0
        """What some thread reads results for by itself."""
        self.user: tuple[int, int] | None = None
        """User and group that the workers belong to; None if there are none."""
        self._dropped: deque[int] = deque()
        """Segments that were let go, of which workers have not been told yet."""

    def open(self) -> None:
        """Acquire everything, or nothing."""
        slots = ClaimSlots()
        fds: list[int] = []
        try:
            for _ in range(4):
                fds += os.pipe()
            for fd in (*fds[:3], *fds[4:]):  # workers wait until there is room for their results
                os.set_blocking(fd, False)
            with suppress(OSError, AttributeError):
                fcntl.fcntl(fds[1], fcntl.F_SETPIPE_SZ, _FUNCTIONS_NBYTES)
        except BaseException:
            slots.close()
            for fd in fds:
                os.close(fd)
            raise
        self.slots, self._is_expected = slots, False
        pipes = zip(fds[::2], fds[1::2], strict=True)
        self._function_pipe, self._result_pipe, self._monitor_pipe, self._reader_pipe = pipes
        self.reading = self._result_pipe[0], self._reader_pipe[0]
        self._poll = self._make_poll()
        self.user = os.geteuid(), os.getegid()
        on_drop(self.note_drop)

    def _make_poll(self) -> select.poll:
        poll = select.poll()
        for fd in self.reading:
            poll.register(fd, select.POLLIN)
        return poll

    def close(self) -> None:
        off_drop(self.note_drop)
        # Forgotten first, see `WorkerLink.hang_up`.
        slots, self.slots, self.user = self.slots, None, None
        self._close_pipes()
        if slots is not None:
            slots.close()
        self._dropped.clear()

    def close_in_child(self) -> None:
        """In a forked child: let go of all descriptors."""
        slots, self.slots = self.slots, None
        self.reader = None
        self._close_pipes()
        if slots is not None:
            os.close(slots.fd)

    def _close_pipes(self) -> None:
        fds = [*self._function_pipe, *self._monitor_pipe, self._result_pipe[1]]
        if self.reader is None:
            fds += (*self._reader_pipe, self._result_pipe[0])
        else:  # a thread may be about to wait there: it is the one to close them
            self.ring()
            fds.append(self._reader_pipe[1])
        self._function_pipe = self._result_pipe = self._monitor_pipe = self._reader_pipe = _CLOSED
        self.reading = _CLOSED
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    # ------------------------------------------------ claim slots

    def has_left(self, rank: int, seq: int) -> bool:
        slots = self.slots
        return slots is None or slots.left(rank) >= seq

    def is_inside(self, rank: int, seq: int) -> bool:
        slots = self.slots
        return slots is not None and slots.running(rank) == seq

    def taken(self, ranks: Iterable[int]) -> dict[int, int]:
        """Number of the submitted function that each of these workers has: also 0, and `AT_PIPE`."""
        slots = self.slots
        return {} if slots is None else {rank: slots.taken(rank) for rank in ranks}

    # ------------------------------------------------ the monitor's pipe

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

    def take_dropped(self) -> list[int]:
        """Segments that were let go since this was asked last."""
        dropped = []
        while self._dropped:
            dropped.append(self._dropped.popleft())
        return dropped

    @property
    def monitor_fd(self) -> int:
        """What the monitor waits for."""
        return self._monitor_pipe[0]

    def heed_wakes(self, fds: Collection[int]) -> None:
        """Let the next `wake` wake the monitor again; `fds` are those that were found ready."""
        if self._monitor_pipe[0] in fds:
            with suppress(BlockingIOError):
                os.read(self._monitor_pipe[0], 4096)

    # ------------------------------------------------ the pipes of submitted functions

    def worker_fds(self) -> tuple[int, int, int, int, int]:
        """What workers get of all this: see `Descriptors`."""
        assert self.slots is not None
        return self.slots.fd, *self._function_pipe, self._result_pipe[1], self._monitor_pipe[1]

    def put_function(self, record: bytes) -> bool:
        """Put a function into the pipe; False if it has no room."""
        try:
            os.write(self._function_pipe[1], record)
        except BlockingIOError:
            return False
        return True

    def take_back(self) -> list[int]:
        """Take out of the pipe what no worker has read: the numbers of the functions, in order."""
        numbers: list[int] = []
        with suppress(OSError):  # nothing is there; or the pipe is closed
            while data := os.read(self._function_pipe[0], _READ_NBYTES):
                numbers += numbers_in(data)
        return numbers

    def read_results(self) -> bytes:
        """What there is on the pipe, but for what comes while this reads."""
        if self.slots is None:
            return b""
        self.slots.team[RUNG] = 0  # first: what is told from now on rings again
        data = b""
        try:
            while len(part := os.read(self._result_pipe[0], _READ_NBYTES)) == _READ_NBYTES:
                data += part
        except BlockingIOError:
            return data
        return data + part

    def may_read(self) -> bool:
        """Whether this thread may read results by itself.

        No other one does; if this one does, it is in a signal handler that has interrupted it as it waits.
        """
        return self.reader is None or self._reading_thread == get_ident()

    def begin_reading(self, reader: object) -> object:
        """A thread begins to read results by itself, for this future; the one it has read for until now."""
        outer, self.reader = self.reader, reader
        self._reading_thread = get_ident()
        return outer

    def wait_for_results(self, timeout_s: float | None, is_inner: bool) -> bool:
        """Wait in the thread that reads by itself; whether there is anything. The lock is not held.

        `is_inner`: it waits already, and this is in a signal handler.
        """
        poll = self._make_poll() if is_inner else self._poll
        ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
        if ready and ready[-1][0] == self.reading[1]:
            with suppress(OSError):
                os.read(self._reader_pipe[0], 4096)
        return bool(ready)

    def end_reading(self, fds: tuple[int, int], outer: object) -> None:
        """The thread that has waited for these by itself has ended to do so; `outer`: it waited before."""
        self.reader = outer
        if outer is not None:
            self.ring()  # what it waited for may have been taken meanwhile
        elif fds != self.reading:
            for fd in fds:
                with suppress(OSError):  # in a forked child they are closed
                    os.close(fd)

    def expect(self, is_expected: bool) -> None:
        """Whether it is expected that results are read by the threads that wait for them."""
        if self._is_expected is not is_expected and self.slots is not None:
            self.slots.team[EXPECTED] = self._is_expected = is_expected

    def ring(self) -> None:
        """Wake the thread that reads results by itself."""
        # Not by a record on the result pipe, which the monitor may take before that thread has come to run.
        with suppress(OSError):  # the pipe is full: that thread is awake; or it is closed
            os.write(self._reader_pipe[1], b"r")
