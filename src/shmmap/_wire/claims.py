"""Claim slots: where each worker of a team is, in shared memory.

One block per team: a header (`header`), the words of the team, and one slot of 16 words (int64) per rank.
The caller asks by the methods of `ClaimSlots`; a worker writes the words of its own slot. Other programs look
there as well (`sight`).

====== ============ ========== =======================================================
offset field        written by meaning
====== ============ ========== =======================================================
0      RUNNING      worker     sequence number of the call it is in, 0 when parked
8      LEFT         worker     sequence number of the last call it has left
16     CLAIM        worker     first ticket of its claim
24     CLAIM_END    worker     end of its claim; equal to CLAIM when it holds none
32     INDEX        worker     index the function is called for (only with a timeout)
40     SINCE        worker     monotonic ns at which that call began, 0 outside one (likewise)
48     RELAYED      worker     number of messages it has put on its relay socket
56     CHUNK        worker     1 + number of the chunk it is in, 0 between chunks
64     LAST_CHUNK   worker     the same of the last one, where it goes through several as one; else 0
72     TAKEN        worker     number of the submitted function that it has, from when it has read it until
                               its result is told; `AT_PIPE` while it may be reading one; else 0
80     POSTED       caller     number of messages that were sent on its line
88     RETURNS      worker     twice the number of functions that it has put back; odd while it does so
96     CONTROL      worker     id of the control block of the call that it is in, or was in last
104    PID          worker     its process, once it has started
112    ENTERED      worker     monotonic ns at which it came to the call, or the function, that it is in
120    DREW         worker     monotonic ns at which it drew its claim
====== ============ ========== =======================================================

The last four are for those who look from outside, and nothing in the library depends on them.

The team has three words. READING is the caller's: some thread of it reads the results of
submitted functions by itself. RUNG is set by a worker as it rings the monitor to do so, and cleared by the
caller before it reads. A worker that has told a result rings unless one of both is set; but while EXPECTED is
set, as results were read last by who waited for them, only if that has not been done a moment later.

What it requires and guarantees, and what a death leaves, is in docs/design/control-block.md.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from .._memory import map_fd, open_scratch
from .header import HEADER_NBYTES, SLOTS_MARK, pack_header

(
    RUNNING,
    LEFT,
    CLAIM,
    CLAIM_END,
    INDEX,
    SINCE,
    RELAYED,
    CHUNK,
    LAST_CHUNK,
    TAKEN,
    POSTED,
    RETURNS,
    CONTROL,
    PID,
    ENTERED,
    DREW,
) = range(16)
AT_PIPE = -1
"""In the word TAKEN: the worker may be reading the pipe of submitted functions just now."""
READING, RUNG, EXPECTED = range(3)
SLOT_WORDS = 16
SLOTS_AT = 2 * HEADER_NBYTES
"""Where the slots begin, after the header and the words of the team."""
RANKS_MAX = 1024
_BLANK = memoryview(bytes(SLOT_WORDS * 8)).cast("q")


class Claim(NamedTuple):
    """What a worker's claim slot says of where it is."""

    running: int
    """The call it is in, 0 if none."""
    left: int
    """The last call it has left."""
    tickets: range
    """Those it holds."""
    chunks: range
    """The chunk it is in, or those it goes through as one; empty if it is in none."""
    drew_ns: int = 0
    """When it drew the tickets that it holds, by the monotonic clock."""


class ClaimSlots:
    """The claim slots of a team."""

    def __init__(self, fd: int | None = None) -> None:
        nbytes = SLOTS_AT + RANKS_MAX * SLOT_WORDS * 8
        self.fd = open_scratch(nbytes) if fd is None else fd
        try:
            self._map = map_fd(self.fd, nbytes)
        except BaseException:
            os.close(self.fd)
            raise
        if fd is None:
            self._map[:HEADER_NBYTES] = pack_header(SLOTS_MARK)
        self._words = memoryview(self._map)[SLOTS_AT:].cast("q")
        self.team = memoryview(self._map)[HEADER_NBYTES:SLOTS_AT].cast("q")
        """The words of the team."""

    def slot(self, rank: int) -> memoryview:
        """The words of one rank, for the worker that has it to write."""
        return self._words[rank * SLOT_WORDS : (rank + 1) * SLOT_WORDS]

    def clear(self, rank: int) -> None:
        """Make a slot ready for another worker."""
        self._words[rank * SLOT_WORDS : (rank + 1) * SLOT_WORDS] = _BLANK

    def running(self, rank: int) -> int:
        """The call that the worker on a rank is in, 0 if none."""
        return self._words[rank * SLOT_WORDS + RUNNING]

    def left(self, rank: int) -> int:
        """The last call that the worker on a rank has left."""
        return self._words[rank * SLOT_WORDS + LEFT]

    def taken(self, rank: int) -> int:
        """The submitted function that the worker on a rank has, 0 if none; or `AT_PIPE`."""
        return self._words[rank * SLOT_WORDS + TAKEN]

    def returns(self, rank: int) -> int:
        """Changes as the worker on a rank puts a function back, and is odd meanwhile."""
        return self._words[rank * SLOT_WORDS + RETURNS]

    def relayed(self, rank: int) -> int:
        """How many messages the worker on a rank has put on its relay socket."""
        return self._words[rank * SLOT_WORDS + RELAYED]

    def call_of_function(self, rank: int) -> tuple[int, int]:
        """Since when the worker on a rank is in a call of the function (0: in none), and for which index."""
        slot = self.slot(rank)
        return slot[SINCE], slot[INDEX]

    def claim(self, rank: int) -> Claim:
        """Where the worker on a rank is."""
        slot = self.slot(rank)
        first, last = slot[CHUNK], max(slot[CHUNK], slot[LAST_CHUNK])
        return Claim(
            running=slot[RUNNING],
            left=slot[LEFT],
            tickets=range(slot[CLAIM], slot[CLAIM_END]),
            chunks=range(first - 1, last) if first else range(0),
            drew_ns=slot[DREW],
        )

    def close(self) -> None:
        """Let go of memory and descriptor; a view somebody still has keeps the mapping until it goes."""
        del self._words, self.team, self._map
        os.close(self.fd)
