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
from .run import Posting, Run
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
    `runs`, `_controls`,       callers' threads, as they open, post and end     all, under the lock
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
        self._controls: dict[ControlBlock, Run | None] = {}
        """Control blocks, each with the run that has it; None: it is free."""
        self.waiting: deque[tuple[Run, int]] = deque()
        """Runs that are to be admitted, and their numbers of chunks."""
        self.lingering: list[tuple[Run, ControlBlock, list[WorkerLink]]] = []
        """Abandoned maps, and the workers that may still touch what they refer to, or say something."""

    def open(self, run: Run, chunks: int) -> bool:
        """Give a run a control block; False if it has to wait for `run.admitted`, too many being open."""
        taken, free, ranks, profiled = 0, None, self._workers.size, run.profiled
        idle = None
        for control, owner in self._controls.items():
            if owner is not None:
                taken += 1
            elif control.profiled != profiled:
                idle = control
            elif control.capacity >= chunks and control.ranks >= ranks:
                free = control
        if idle is not None and idle.profiled:  # it takes more memory
            with Uninterrupted():
                del self._controls[idle]
                self._discard(idle)
        if taken >= OPEN_MAX:
            run.admitted = threading.Event()
            self.waiting.append((run, chunks))
            self.attend()
            return False
        # A Ctrl-C may come between any two of these lines: `close` undoes whatever was done.
        if free is not None:
            self._controls[free] = run
            run.open_on(free)
            return True
        with Uninterrupted():
            capacity = 1 << max(12, (chunks - 1).bit_length())
            try:
                made = ControlBlock(next(_ids), capacity, ranks, profiled)
            except OSError as exc:
                note_scarcity(exc)
                raise
            self._controls[made] = run
            run.open_on(made)
        return True

    def _opened(self) -> list[Run]:
        """Runs that have a control block."""
        return [run for run in self._controls.values() if run is not None]

    def attend(self) -> None:
        """Others wait for the end of these maps: have a thread wait for each."""
        for run in (*self._opened(), *(run for run, _ in self.waiting)):
            run.attend()

    def begin(self, run: Run, seq: int, posting: Posting) -> None:
        """A run's call, or that of its next round, gets this number; it is told of deaths from now on."""
        if run.seq:  # a further round
            self.runs.pop(run.seq, None)
            self._inbox.end_call(run.seq)
        self._inbox.begin_call(seq)
        run.begin(seq, posting)
        self.runs[seq] = run

    def is_empty(self) -> bool:
        """Whether no map is open or waits for its turn; one whose turn has just come is open."""
        return not (any(self._controls.values()) or self.waiting)

    def open_calls(self) -> Iterator[int]:
        """Numbers of the calls of which something may still be taken."""
        yield from self.runs
        yield from (run.seq for run, *_ in self.lingering)

    def close(self, run: Run, reusable: bool) -> None:
        """A run is over; its control block serves another if everybody has left.

        *Requires*: no Ctrl-C inside, or that it is called again after one; if not `reusable`, none.
        """
        self.runs.pop(run.seq, None)
        self._inbox.end_call(run.seq)
        control = run.give_up_control()
        if control is None:  # it had none yet; or it was interrupted as it took it, or gave it back
            control = next((each for each, its in self._controls.items() if its is run), None)
        if control is None:
            self.waiting = deque(item for item in self.waiting if item[0] is not run)
        elif reusable:
            run.keep.clear()
            self._controls[control] = None  # from now on another run may have it
        else:
            # Some worker may still come to it, or be in it: what it refers to has to stay.
            workers = self._workers
            inside = [
                each
                for each in workers.links.values()
                if run.has(each.rank) and not workers.is_through(each, run.seq)
            ]
            self.lingering.append((run, control, inside))
            del self._controls[control]
            workers.wake()
        has_ended = self._workers.channels.slots is None
        if self.waiting or self.lingering or has_ended:
            with Uninterrupted():
                self._admit()
                self.let_go()
                if has_ended:  # the team failed, and ended its workers before its maps
                    self._close_free()

    def _admit(self) -> None:
        """Open runs that have waited. If that fails, the error goes to their own callers, not to this one."""
        while self.waiting and len(self._opened()) < OPEN_MAX:
            run, chunks = self.waiting.popleft()
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
            for control in self._take_free():
                self._discard(control)

    def _take_free(self) -> list[ControlBlock]:
        free = [control for control, owner in self._controls.items() if owner is None]
        for (
            control
        ) in free:  # from the table first: a child forked meanwhile closes what it finds there
            del self._controls[control]
        return free

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
        for control in self._take_free():
            control.close()

    def validate(self) -> None:
        """Check, for tests, that each control block is in one place."""
        assert not self._controls.keys() & {control for _, control, _ in self.lingering}
        for control, owner in self._controls.items():
            assert owner is None or owner.control is control
        assert {*self.runs.values()} <= {*self._opened()}

    def close_in_child(self) -> None:
        # Once each: another thread may have been about to move one.
        for control in {*self._controls, *(control for _, control, _ in self.lingering)}:
            control.close_in_child()
        self._controls, self.lingering = {}, []
        self.runs.clear()
