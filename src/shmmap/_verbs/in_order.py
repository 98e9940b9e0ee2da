"""Results of maps in order, for `Team.map`: no thread waits for them, but whoever asks for the next one.

While nobody asks, the workers go on by themselves, and what they put is taken later. Where that is not
enough, a thread waits for the map in the place of who does not ask: workers have no room any more, or print
something; the team is shut down; another map is to begin when this one has ended; nobody has the iterator any
more. The end of the program waits for it by itself. See docs/design/waiting.md.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any

from .._engines import Work
from .._results import ABSENT, Arrivals, Collector
from .._system.forks import make_lock
from .._team import WorkerTeam, unfinished
from .._wire import leave_out_ours

Runs = Generator[Iterable[Any], None, None]
"""Results in order, some at a time."""
# What does not matter for how long it is kept: nothing else is freed with it.
_NUMBERS = frozenset((bool, int, float, complex, type(None)))
_attending = make_lock()
"""While a thread is about to be started that waits for a map."""


class Pending:
    """A map on a team, under way, whose results are asked for in order, by one thread at a time.

    ========== ================================= ============ =========================================
    field      written by                        read by      what must hold
    ========== ================================= ============ =========================================
    _arrivals  any thread, once, in `attend`     who asks     from then on who asks does not wait by itself
    is_over    who waits for it, having          all          set after `_whole` and `_error`, never back
               `_waiting`
    _whole,    the same; taken by who asks       who asks     one of them, once it is over
    _error
    _work,     the same, as it ends              all          there until it is over
    _steps,
    _collector
    ========== ================================= ============ =========================================
    """

    def __init__(
        self, team: WorkerTeam, work: Work, collector: Collector, ending: ExitStack | None
    ) -> None:
        self._team = team
        self._work: Work | None = work
        self._collector: Collector | None = collector
        self._pieces = collector.pieces
        self._chunksize = collector.plan.chunksize
        self._ending = ending
        """What is closed when it is over."""
        self._waiting = threading.Lock()
        """Held by the thread that waits for it."""
        self._arrivals: Arrivals | None = None
        """What a thread of its own tells of results by, if it has one."""
        self.is_over = False
        self._whole: list[Any] | None = None
        self._error: BaseException | None = None
        collector.take_turns()
        unfinished.add(self)
        self._steps = work.in_steps
        if self._steps is None:
            self.attend()
        else:
            self._steps.be_attended(self.attend)

    # ------------------------------------------------ who waits

    def attend(self) -> None:
        """Have a thread wait for it from now on, unless one does. From any thread."""
        with _attending:
            collector = self._collector
            if self._arrivals is not None or collector is None:
                return
            self._arrivals = collector.listen(by_chunk=False)
        threading.Thread(target=self.wait, name="shmmap-map", daemon=True).start()

    def wait(self) -> None:
        """Wait until it is over, in this thread."""
        with self._waiting:
            work = self._work
            if work is None:
                return
            try:
                self._whole = work.wait()
            except BaseException as exc:
                leave_out_ours(exc)
                self._error = exc
                if isinstance(exc, KeyboardInterrupt):  # as the program ends
                    raise
            finally:
                self._end()
                del self, work  # the exception refers to this frame

    def _step(self, told: int, deadline: float | None) -> None:
        """Wait until something has come, or it is over. `told`: how often arrivals had been told before."""
        if self._arrivals is not None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._arrivals.wait(told, left)
            return
        with self._waiting:
            work = self._steps
            if work is None:
                return
            try:
                if work.step():
                    self._whole = work.finish()
                    self._end()
            except BaseException as exc:
                leave_out_ours(exc)
                if isinstance(exc, Exception):
                    self._error = exc
                self._end()
                if not isinstance(exc, Exception):
                    raise
            finally:
                del self, work  # the exception refers to this frame

    def _end(self) -> None:
        self._work = self._steps = self._collector = None
        self.is_over = True
        unfinished.discard(self)
        if self._ending is not None:
            self._ending.close()
        if self._arrivals is not None:
            self._arrivals.tell()

    def leave(self, *, is_to_end: bool) -> None:
        """Nobody asks for results any more; `is_to_end`: so they need not be made. Also in a finalizer."""
        if not self.is_over:
            self._team.call_soon(partial(self._see_to, is_to_end))

    def _see_to(self, is_to_end: bool) -> None:
        work = self._work
        if is_to_end and work is not None:
            work.cancel()
        self.attend()

    # ------------------------------------------------ who asks

    def runs(self, deadline: float | None) -> Runs:
        """The results, until a moment of ``time.monotonic()``; a failure comes after what went well."""
        pieces, size = self._pieces, self._chunksize
        at = 0  # the chunk whose results come next
        while not self.is_over:
            told = 0 if self._arrivals is None else self._arrivals.count
            last, values = pieces.take(at)
            if values is not ABSENT:
                at = last
                yield _given_away(values)
            elif deadline is not None and time.monotonic() > deadline:
                raise TimeoutError
            else:
                self._step(told, deadline)
        error, self._error = self._error, None
        if error is not None:
            while (run := pieces.take(at))[1] is not ABSENT:
                at = run[0]
                yield _given_away(run[1])
            try:
                raise error
            finally:
                del error, self  # the traceback refers to this frame
        whole, self._whole = self._whole or [], None
        pieces.clear()
        rest = whole[at * size :]
        del whole
        yield _given_away(rest)


def _given_away(values: list[Any]) -> Iterable[Any]:
    """The values, of which none is kept that was given out."""
    return values if _NUMBERS.issuperset(map(type, values)) else _one_by_one(values)


def _one_by_one(values: list[Any]) -> Iterator[Any]:
    values.reverse()
    while values:
        yield values.pop()


class Results(Iterator[Any]):
    """What `Team.map` returns: the results one by one, of maps of which each begins as another ends.

    `begin_next` adds another map to these, if there is one more.
    """

    def __init__(
        self, maps: deque[Pending], begin_next: Callable[[], None], deadline: float | None
    ) -> None:
        self._runs = _run_through(maps, begin_next, deadline)
        next(self._runs)  # from here on it takes note of its end
        self._items = chain.from_iterable(self._runs)

    def __iter__(self) -> Iterator[Any]:
        return self._items

    def __next__(self) -> Any:
        return next(self._items)

    def close(self) -> None:
        """Stop what is under way, as nobody asks for the rest."""
        self._runs.close()
        self._items = chain()


def _run_through(
    maps: deque[Pending], begin_next: Callable[[], None], deadline: float | None
) -> Runs:
    is_asked_for = False
    try:
        yield ()
        is_asked_for = True
        while maps:
            yield from maps[0].runs(deadline)
            maps.popleft()
            begin_next()
    finally:
        # What nobody has asked for at all is done all the same, as by other executors.
        for each in maps:
            each.leave(is_to_end=is_asked_for)
