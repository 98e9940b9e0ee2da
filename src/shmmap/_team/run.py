"""What a team and an open map know of each other: what a call needs, and the death of a worker.

The team owns processes and knows nothing of chunks; a map knows chunks and owns no process. `Run` is where
they meet: the engine derives from it, and the team tells it of deaths.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from .._results import DeadWorker
from .._wire import (
    EXIT_CHANGED,
    EXIT_DESCRIPTORS,
    Call,
    ControlBlock,
    Payload,
    Profiled,
    Record,
    RecordKind,
    Report,
    Surroundings,
    make_payload,
    pack_plain,
)

_LIKELY_CAUSES = {
    "SIGKILL": "killed from outside, or out of memory",
    "SIGSEGV": "a crash in compiled code",
    "SIGBUS": "a memory-mapped file was cut short, or its disk is full",
    "SIGABRT": "compiled code gave up",
}


class Death(NamedTuple):
    """A worker's end, as a run is told of it."""

    worker: DeadWorker
    status: int | None
    running: int
    """The call it was in, 0 if none."""
    is_broken_start: bool
    start_error: str = ""
    """Why no worker can be started at all."""

    @property
    def who(self) -> str:
        """The worker, by its rank and its process."""
        return f"worker {self.worker.rank} (pid {self.worker.pid})"

    def cause(self) -> str:
        """What is known of how it ended, and the likeliest reason."""
        if self.start_error:
            return f"no worker could be started: {self.start_error}"
        who = self.who
        if self.status is None or self.status == -1:
            return f"{who} died, status unknown"
        code = os.waitstatus_to_exitcode(self.status)
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            hint = _LIKELY_CAUSES.get(name, "")
            return f"{who} was killed by {name}" + (f" ({hint})" if hint else "")
        if code == EXIT_DESCRIPTORS:
            return f"{who} ended: the function closed file descriptors that are not its own"
        if code == EXIT_CHANGED:
            return f"{who} ended: the function lowered a limit of its process, or changed its user, for good"
        return f"{who} exited with status {code} in the middle of its work"


class Posting:
    """The call of a round, and what a worker must have before it gets it: also one that replaces another.

    Engines derive from it. It is not changed once it is posted, but for `needs` and `invite`.
    """

    team: int
    """Workers that may take part: those on the first ranks."""
    first: int
    """How many of them do so from the beginning; the others once they are invited."""
    segments: frozenset[int]
    """Segments that job, function and list of chunks need, those of their payloads included."""
    surroundings: Surroundings
    modules: int
    """Version of the user's modules that a worker must have been told, see `_code.watch`."""
    writes_main: bool
    """Unpickling it writes into ``__main__`` there, so that a function kept from before may be outdated."""
    key: tuple[Any, ...] | None
    """Equal for calls that need the same in all but segments and control block; None: something is sent in
    any case."""

    def call(self, control: int) -> Call:
        """The call, for a worker of which it is not known that it lacks nothing."""
        raise NotImplementedError

    def invite(self) -> None:
        """All take part; under the team's lock."""
        self.first = self.team

    def needs(self, segments: frozenset[int]) -> None:
        """Workers need these segments, too; under the team's lock."""
        self.segments |= segments


class Run:
    """What the team knows of an open map; engines derive from it.

    ============================================  ====================================  ====================
    field                                         written by                            read by
    ============================================  ====================================  ====================
    `seq`, `posting`                              its own thread, under the lock        its own, monitor
    `control`, `doorbell`, `admitted`, `refusal`  its own thread, or the one that ends  all
                                                  another run; under the lock
    `deaths`, `vacated`, `failed_start`,          monitor, under the lock               its own, without it
    `broken`, `relayed`
    `_attend`                                     its own, once                         any thread
    `_is_to_be_attended`                          any thread                            its own
    `keep`                                        its own; monitor; as it is let go,    none
                                                  the thread that does so
    ============================================  ====================================  ====================

    What must hold: the doorbell rings after anything was written that its own thread waits for.
    """

    def __init__(self, profiled: Profiled = 0) -> None:
        self.profiled = profiled
        """What its workers note of it, in its control block."""
        self.seq = 0
        """Number of its call, given as that is posted: a worker gets calls in the order of their numbers."""
        self.posting: Posting | None = None
        """The call as it was posted last: replacements get it too."""
        self.control: ControlBlock | None = None
        self.doorbell = -1
        self.vacated: deque[int] = deque()
        """Ranks whose worker died and is not to be waited for any more."""
        self.deaths = 0
        """Workers that died in it, or just after."""
        self.failed_start: Report | None = None
        self.broken: Callable[[], BaseException] | None = None
        """Makes what it is to raise, once it will not be told of deaths any more."""
        self.relayed: deque[tuple[bytes, bytes, Any]] = deque()
        self.keep: list[Any] = []
        """What messages refer to, and must stay in place until the run is over."""
        self.admitted: threading.Event | None = None
        """Only if it has to wait until fewer maps are open."""
        self._attend: Callable[[], object] | None = None
        """Starts a thread that waits for it, where its own does so only as it likes. May be called again."""
        self._is_to_be_attended = False
        self.refusal: Exception | None = None
        """Why it could not be opened when its turn had come."""

    def open_on(self, control: ControlBlock) -> None:
        """Its turn has come, and it has a control block."""
        self.control = control
        self.doorbell = control.doorbell
        if self.admitted is not None:
            self.admitted.set()

    def refuse(self, error: Exception) -> None:
        """Its turn will not come; its own caller raises the error."""
        self.refusal = error
        if self.admitted is not None:
            self.admitted.set()

    def begin(self, seq: int, posting: Posting) -> None:
        """A round begins, in which all workers may take part that had left the one before."""
        if self.vacated:
            self.vacated.clear()
        self.seq, self.posting = seq, posting

    def give_up_control(self) -> ControlBlock | None:
        """The control block, which is not its own any more."""
        self.doorbell = -1
        control, self.control = self.control, None
        return control

    def note_failed_start(self, why: Report) -> None:
        """A worker says that it cannot start; the run hears so of its death, too."""
        self.failed_start = why

    def note_relayed(self, frame: tuple[bytes, bytes, Any]) -> None:
        """A worker has printed, logged or warned something; the thread that waits for the run says it."""
        self.relayed.append(frame)
        self.ring()
        if self.control is not None and not self.control.is_attended():
            self.attend()

    def fail(self, make_error: Callable[[], BaseException]) -> None:
        """It will be told of no death any more, and is to raise such an error."""
        self.broken = make_error
        self.ring()

    def has(self, rank: int) -> bool:
        """Whether the worker on a rank takes part."""
        return self.posting is not None and rank < self.posting.first

    def lose(self, rank: int, *, is_replaced: bool) -> None:
        """The worker on a rank has died; without another one in its place, it is not waited for."""
        self.deaths += 1
        if not is_replaced:
            self.vacated.append(rank)

    def hear_of(self, death: Death) -> Payload | None:
        """Take note of a death, in the monitor's thread; what the successor is to do first, for its call."""
        again = self.note_death(death)
        self.lose(death.worker.rank, is_replaced=death.worker.has_successor)
        if not again:
            return None
        payload, root = make_payload(pack_plain(again).data)
        self.keep.append(root)
        return payload

    def note_death(self, death: Death) -> dict[int, int]:
        """Decide what follows from a death; the chunks that the successor is to do first."""
        raise NotImplementedError

    def be_attended(self, attend: Callable[[], object]) -> None:
        """Nobody waits for it just now; `attend` is called once somebody has to, which may be at once."""
        self._attend = (
            attend  # first: the method `attend` looks there after it has said that it is wanted
        )
        if self.control is not None:
            self.control.note_attended(False)
        if self._is_to_be_attended or self.admitted is not None:
            attend()

    def attend(self) -> None:
        """Have a thread wait for it, as others wait for its end, and its own may never do so."""
        self._is_to_be_attended = True
        if self._attend is not None:
            self._attend()

    def ring(self) -> None:
        """Wake the thread that waits for this run, or for its turn."""
        if self.admitted is not None:
            self.admitted.set()
        if self.doorbell >= 0:
            try:
                os.write(self.doorbell, Record(0, 0, RecordKind.WAKE).pack())
            except OSError:
                pass  # the pipe is full: that thread is awake; or it has just gone
