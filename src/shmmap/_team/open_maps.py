"""Which maps of a team are open, which wait for their turn, and the control blocks of all of them.

Owned by the team; everything here is done with the team's lock held, but for `note_late` and
`distrust_pipes`, which acquire it themselves. A control block is in one place: with an open map, free for the
next one, or lingering, because some worker may still come to a map that its caller has given up.

What must always hold: a control block serves another map only if no worker can come to it for the one before;
what a map refers to stays in place until the last of its workers has left.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .._errors.exceptions import note_scarcity
from .._memory import mark_kept
from .._system.interrupts import Uninterrupted
from .._wire import Close, ControlBlock, Record, RecordKind, dumps_message
from .inbox import Inbox
from .link import WorkerLink
from .run import Run
from .workers import Workers

# Maps of one team that are open at a time; further ones wait their turn. Each costs four descriptors here
# and three in every worker.
OPEN_MAX = 16
# Of control blocks, for all teams of this process: by it a worker says in which of all open maps it is.
_ids = itertools.count(1)


class OpenMaps:
    """The maps of a team that are open, waiting or lingering.

    =========================  ===============================================  ===========================
    field                      written by, under the team's lock                read by
    =========================  ===============================================  ===========================
    `runs`, `_open`, `_free`,  callers' threads, as they open, post and end     all, under the lock
    `waiting`                  a run; the monitor, as it breaks them off
    `lingering`                the same; the monitor, as the last has left      all, under the lock
    =========================  ===============================================  ===========================

    What must hold: `runs` are open ones whose call was posted; see `validate`.
    """

    def __init__(self, lock: Any, workers: Workers, inbox: Inbox) -> None:
        self._lock = lock
        self._workers = workers
        self._inbox = inbox
        self.runs: dict[int, Run] = {}
        """By the number of the call: those that are told of deaths."""
        self._open: set[Run] = set()
        """Runs that have a control block, or are about to."""
        self.waiting: deque[tuple[Run, int]] = deque()
        """Runs that are to be admitted, and their numbers of chunks."""
        self._free: list[ControlBlock] = []
        self.lingering: list[tuple[Run, ControlBlock, list[WorkerLink]]] = []
        """Abandoned maps, and the workers that may still touch what they refer to, or say something."""

    def open(self, run: Run, chunks: int) -> bool:
        """Give a run a control block; False if it has to wait for `run.admitted`, too many being open."""
        if len(self._open) >= OPEN_MAX:
            run.admitted = threading.Event()
            self.waiting.append((run, chunks))
            self.attend()
            return False
        # A Ctrl-C may come between any two of these lines: `close` undoes whatever was done.
        self._open.add(run)
        for control in self._free:
            if control.capacity >= chunks and control.ranks >= self._workers.size:
                run.open_on(control)
                self._free.remove(control)
                break
        else:
            with Uninterrupted():
                capacity = 1 << max(12, (chunks - 1).bit_length())
                try:
                    run.open_on(ControlBlock(next(_ids), capacity, self._workers.size))
                except OSError as exc:
                    note_scarcity(exc)
                    raise
        return True

    def attend(self) -> None:
        """Others wait for the end of these maps: have a thread wait for each."""
        for run in (*self._open, *(run for run, _ in self.waiting)):
            run.attend()

    def begin(self, run: Run, seq: int) -> None:
        """A run's call, or that of its next round, gets this number; it is told of deaths from now on."""
        if run.seq:  # a further round
            self.runs.pop(run.seq, None)
            self._inbox.end_call(run.seq)
        self._inbox.begin_call(seq)
        run.begin(seq)
        self.runs[seq] = run

    def is_empty(self) -> bool:
        """Whether no map is open or waits for its turn; one whose turn has just come is open."""
        return not (self._open or self.waiting)

    def open_calls(self) -> Iterator[int]:
        """Numbers of the calls of which something may still be taken."""
        yield from self.runs
        yield from (run.seq for run, *_ in self.lingering)

    def close(self, run: Run, reusable: bool) -> None:
        """A run is over; its control block serves another if everybody has left.

        *Requires*: no Ctrl-C inside.
        """
        self.runs.pop(run.seq, None)
        self._inbox.end_call(run.seq)
        self._open.discard(run)
        control = run.give_up_control()
        if control is not None and not reusable:
            # Some worker may still come to it, or be in it: what it refers to has to stay.
            workers = self._workers
            inside = [m for m in workers.links.values() if not workers.is_through(m, run.seq)]
            self.lingering.append((run, control, inside))
            workers.wake()
        elif control is not None and control not in self._free:
            self._free.append(control)
            run.keep.clear()
        elif self.waiting:
            self.waiting = deque(item for item in self.waiting if item[0] is not run)
        while self.waiting and len(self._open) < OPEN_MAX:
            self._admit(*self.waiting.popleft())
        if self.lingering:
            self.let_go()
        if self._workers.channels.slots is None:
            self._close_free()  # the team failed, and ended its workers before its maps

    def _admit(self, run: Run, chunks: int) -> None:
        """Open a run that has waited. If that fails, the error goes to its own caller, not to this thread."""
        try:
            self.open(run, chunks)
        except Exception as exc:
            run.refuse(exc)

    def refuse_waiting(self, make_error: Callable[[], Exception]) -> None:
        """Runs whose turn has not come are to fail."""
        while self.waiting:
            self.waiting.popleft()[0].refuse(make_error())

    def let_go(self) -> bool:
        """Release what abandoned maps refer to, once the last worker has left them; whether any was."""
        has_any = False
        for item in list(self.lingering):
            run, control, inside = item
            has_ended = all(self._workers.is_through(link, run.seq) for link in inside)
            # No map waits for what they say; unread, the pages it lies in would never be free again.
            for record in control.drain():
                self.note_late(record)
            if has_ended:
                self.lingering.remove(item)
                run.keep.clear()
                self._discard(control)  # a worker may be about to count as the last one to leave
                has_any = True
        return has_any

    def note_late(self, record: Record) -> None:
        """Take note of what a worker says about a call that is over."""
        if record.kind == RecordKind.KEPT:
            mark_kept(record.first)
            return
        if record.kind == RecordKind.ERROR and record.first < 0:
            with self._lock:
                self._workers.distrust(record.rank)
        self._inbox.skip(record)

    def distrust_pipes(self) -> None:
        """Strays were found: they may also lie in pipes that wait here for the next map."""
        with self._lock:
            while self._free:
                self._discard(self._free.pop())

    def _discard(self, control: ControlBlock) -> None:
        message = dumps_message(Close(control.id))
        for link in self._workers.links.values():
            if link.known.loses_control(control.id):
                link.post(message)
        control.close()

    def clear(self) -> None:
        """All workers have ended: none comes to what is free or lingers."""
        self._close_free()
        while self.lingering:
            run, control, _ = self.lingering.pop()
            run.keep.clear()
            control.close()

    def _close_free(self) -> None:
        # From the table first: a child forked meanwhile closes what it finds there.
        while self._free:
            self._free.pop().close()

    def validate(self) -> None:
        """Check, for tests, that each control block is in one place."""
        controls = [*self._free, *(control for _, control, _ in self.lingering)]
        controls += [run.control for run in self._open if run.control is not None]
        assert len(set(map(id, controls))) == len(controls)
        assert {*self.runs.values()} <= self._open

    def close_in_child(self) -> None:
        # Once each: another thread may have been about to move one.
        controls = {run.control for run in self._open if run.control is not None}
        for control in controls.union(self._free, (control for _, control, _ in self.lingering)):
            control.close_in_child()
        self._open, self._free, self.lingering = set(), [], []
        self.runs.clear()
