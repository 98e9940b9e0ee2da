"""What a team has of its own beside its workers: claim slots, two pipes, and which segments were let go.

Owned by `Workers`. On the *submit pipe* workers say what came of submitted functions; the *monitor pipe*
wakes the monitor, and is written to by any thread of the caller.

What must always hold: all descriptors here are opened before the first worker and closed after the last one,
all of them or none.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection

from .._memory import off_drop, on_drop
from .._wire import ClaimSlots

_CLOSED = (-1, -1)


class Channels:
    """Claim slots and pipes of a team.

    ===========================  ================================  ======================================
    field                        written by                        read by
    ===========================  ================================  ======================================
    `slots`, the pipes, `_user`  `open` and `close`, under the     all; without the lock by `wake`,
                                 team's lock                       `has_left` and `is_inside`
    `_dropped`                   `note_drop`, in any thread at     monitor
                                 any moment, without the lock
    ===========================  ================================  ======================================

    What must hold: what is read without the lock is read once, and may be closed the moment after.
    """

    def __init__(self) -> None:
        self.slots: ClaimSlots | None = None
        """There from before the first worker until all workers have ended."""
        self._submit_pipe = self._monitor_pipe = _CLOSED
        self._user = (-1, -1)
        """User and group that the workers belong to."""
        self._dropped: deque[int] = deque()
        """Segments that were let go, of which workers have not been told yet."""

    def open(self) -> None:
        """Acquire everything, or nothing."""
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
        self._submit_pipe, self._monitor_pipe = (pipes[0], pipes[1]), (pipes[2], pipes[3])
        self._user = os.geteuid(), os.getegid()
        on_drop(self.note_drop)

    def is_of_this_user(self) -> bool:
        """Whether the workers, if there are any, have the rights that this process has by now."""
        return self.slots is None or self._user == (os.geteuid(), os.getegid())

    def close(self) -> None:
        off_drop(self.note_drop)
        # Forgotten first, see `WorkerLink.hang_up`.
        slots, self.slots = self.slots, None
        self._close_pipes()
        if slots is not None:
            slots.close()
        self._dropped.clear()

    def close_in_child(self) -> None:
        """In a forked child: let go of all descriptors."""
        slots, self.slots = self.slots, None
        self._close_pipes()
        if slots is not None:
            os.close(slots.fd)

    def _close_pipes(self) -> None:
        fds = (*self._submit_pipe, *self._monitor_pipe)
        self._submit_pipe = self._monitor_pipe = _CLOSED
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

    def fds(self) -> tuple[int, int]:
        """What the monitor waits for: the read ends of both pipes."""
        return self._monitor_pipe[0], self._submit_pipe[0]

    def heed_wakes(self, fds: Collection[int]) -> None:
        """Let the next `wake` wake the monitor again; `fds` are those that were found ready."""
        if self._monitor_pipe[0] in fds:
            try:
                os.read(self._monitor_pipe[0], 4096)
            except BlockingIOError:
                pass

    # ------------------------------------------------ the pipe of submitted functions

    @property
    def submit_fd(self) -> int:
        """The end that workers write to."""
        return self._submit_pipe[1]

    def has_submitted(self, fds: Collection[int]) -> bool:
        """Whether there is something on the pipe, by what was found ready."""
        return self._submit_pipe[0] in fds

    def read_submitted(self, nbytes: int) -> bytes:
        """Records on the pipe; nothing if there are none."""
        try:
            return os.read(self._submit_pipe[0], nbytes)
        except BlockingIOError:
            return b""
