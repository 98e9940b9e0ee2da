"""Arrays that pickled handles keep alive until they have arrived, each for so many seconds at most.

A pickle may be on its way when the sender drops its array, as a pool's worker does that returns one. So each
pickling takes a lease. Who opens the handle says so in a pipe of the sender's, which is opened as its memory
is, through ``/proc``. That it has arrived ends no lease, as one pickle may be opened several times. But of
arrays that have arrived only so much is kept: in a program that sends one large array after the other, it
would be all that it has made in a minute.

There is no thread unless there is a lease.
"""

from __future__ import annotations

import heapq
import os
import select
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

from .._interop.numpy_types import Array
from .._system.forks import at_fork, make_lock
from .origins import Inode, Process, inode_of, open_of

# Of arrays whose handles have arrived, as of spare segments: what is kept for no use is to stay small, in
# bytes and in descriptors.
ARRIVED_NBYTES = 1 << 28
ARRIVED_MOST = 64
# Leases that end within this time end together.
ROUND_S = 0.5
# How long a child of `multiprocessing` that has nothing else to do waits for its handles to arrive.
LINGER_S = 5.0
_NUMBER_NBYTES = 8


class Receipt(NamedTuple):
    """What who opens a handle needs to say so."""

    fd: int
    """The write end of a pipe of the sender's."""
    inode: Inode
    number: int
    """Of the lease."""


class Leases:
    """The leases of this process.

    ======== ======================== ========= =====================================================
    field    written by               read by   what must hold
    ======== ======================== ========= =====================================================
    all      any thread               the same  the lock is held; arrays are let go without it, as
                                                that may call code of the user's
    _thread  who starts it; itself    the same  None as soon as it will not look at leases any more
    ======== ======================== ========= =====================================================
    """

    def __init__(self) -> None:
        self._lock = make_lock()
        self._changed = threading.Condition(self._lock)
        self._number = 0
        self._arrays: dict[int, Array] = {}
        """By the number of the lease."""
        self._ends: list[tuple[float, int]] = []
        """A heap of when each lease ends; also of those that have ended before."""
        self._arrived: deque[int] = deque()
        self._arrived_nbytes = 0
        self._pipe: tuple[int, int] | None = None
        self._inode: Inode = (0, 0)
        self._thread: threading.Thread | None = None
        self._finalizer: Any = None
        self._is_in_registry = False

    def linger_at_the_end(self) -> None:
        """Have a child of `multiprocessing` wait at its end for what it has put into a queue to be read.

        To be called before it ends: a queue pickles in a thread of its own, and does so up to then.
        """
        util: Any = sys.modules.get("multiprocessing.util")
        if util is None or (self._finalizer is not None and self._finalizer.still_active()):
            return
        if not self._is_in_registry:
            # A child that unpickles its arguments comes here, and forgets all finalizers when it begins.
            self._is_in_registry = True
            util.register_after_fork(self, Leases.linger_at_the_end)
        if sys.modules["multiprocessing.process"].parent_process() is not None:
            # After the threads of queues, which have -5.
            self._finalizer = util.Finalize(None, self._linger, exitpriority=-10)

    def _linger(self) -> None:
        with suppress(KeyboardInterrupt):  # which ends the waiting
            self.wait_arrived(LINGER_S)

    def grant(self, a: Array, seconds: float) -> Receipt:
        """Keep an array alive for so many seconds from now."""
        ended: list[Array] = []
        with self._changed:
            if self._pipe is None:
                self._pipe = os.pipe()
                self._inode = inode_of(self._pipe[1])
                os.set_blocking(self._pipe[0], False)
            self._number += 1
            number, end = self._number, time.monotonic() + seconds
            self._arrays[number] = a
            heapq.heappush(self._ends, (end, number))
            if self._ends[0][1] == number:
                self._changed.notify_all()
            self._take_arrived(ended)
            if self._thread is None:
                thread = threading.Thread(
                    target=self._end_in_time, name="shmmap-leases", daemon=True
                )
                # Where threads cannot be started (any more), leases end with the process.
                with suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
            return Receipt(self._pipe[1], self._inode, number)

    def arrive(self, number: int) -> None:
        """A handle of this process was opened; once is enough."""
        ended: list[Array] = []
        with self._lock:
            self._note_arrival(number, ended)

    def _note_arrival(self, number: int, ended: list[Array]) -> None:
        if number not in self._arrays or number in self._arrived:
            return
        self._arrived.append(number)
        self._arrived_nbytes += self._arrays[number].nbytes
        while len(self._arrived) > ARRIVED_MOST or self._arrived_nbytes > ARRIVED_NBYTES:
            ended.append(self._end(self._arrived[0]))

    def _take_arrived(self, ended: list[Array]) -> None:
        """Read which handles have arrived elsewhere."""
        if self._pipe is None:
            return
        with suppress(BlockingIOError):
            while data := os.read(self._pipe[0], _NUMBER_NBYTES << 9):
                for at in range(0, len(data), _NUMBER_NBYTES):
                    self._note_arrival(
                        int.from_bytes(data[at : at + _NUMBER_NBYTES], "little"), ended
                    )

    def _end(self, number: int) -> Array:
        """End a lease; the array is returned, and is to be let go without the lock."""
        a = self._arrays.pop(number)
        if number in self._arrived:
            self._arrived.remove(number)
            self._arrived_nbytes -= a.nbytes
        return a

    def end_arrived(self) -> None:
        """End the leases of handles that have arrived."""
        ended: list[Array] = []
        with self._changed:
            self._take_arrived(ended)
            ended.extend(map(self._end, list(self._arrived)))
            self._changed.notify_all()
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self._arrays and self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None

    def _end_in_time(self) -> None:
        while True:
            ended: list[Array] = []
            with self._changed:
                while self._ends and self._ends[0][1] not in self._arrays:
                    heapq.heappop(self._ends)
                if not self._ends:
                    self._close_if_unused()
                    self._thread = None
                    return
                wait_s = self._ends[0][0] - time.monotonic()
                if wait_s > 0:
                    self._changed.wait(max(wait_s, ROUND_S))
                else:
                    ended.append(self._end(heapq.heappop(self._ends)[1]))
            ended.clear()

    def wait_arrived(self, seconds: float) -> None:
        """Wait until all handles under lease have arrived, no longer than so many seconds."""
        end = time.monotonic() + seconds
        while True:
            ended: list[Array] = []
            with self._lock:
                if self._pipe is None:
                    return
                self._take_arrived(ended)
                left = len(self._arrays) - len(self._arrived)
                reader = self._pipe[0]
            ended.clear()
            if not left or time.monotonic() >= end:
                return
            select.select([reader], [], [], max(0.0, end - time.monotonic()))

    def forget(self) -> None:
        """In a forked child: the leases are its parent's."""
        self._arrays.clear()
        self._close_if_unused()
        self.__init__()  # type: ignore[misc]


leases = Leases()
at_fork(after_in_child=leases.forget)


def confirm(sender: Process, here: Process, receipt: Receipt) -> None:
    """Say that a handle has arrived. If that cannot be said, the lease lasts as long as it was given for."""
    if sender == here:
        leases.arrive(receipt.number)
        return
    with suppress(OSError):
        pipe = open_of(sender, receipt.fd, receipt.inode, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, receipt.number.to_bytes(_NUMBER_NBYTES, "little"))
        finally:
            os.close(pipe)
