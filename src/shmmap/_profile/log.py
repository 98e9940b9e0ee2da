"""What is noted of a map while it is profiled: by its caller, by those that run its chunks, and of deaths.

There is a log of every map that begins while some `profile()` is open, and of no other; so the rest of the
library asks at most whether `books` is empty, or whether a map has a log. What is noted here is raw; a
report makes records of it when it is asked.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

from .._chunks import Job, Recorder, Stacks
from .._errors.exceptions import describe_shortly, name_of
from .._system.forks import at_fork, make_lock
from .._wire import Profiled, RowLog, merge_rows, unpack_rows
from .answers import Answer, Answers

# What a report tells of maps in one word.
Verb = Literal["pmap", "pmap_chunks", "pmap_ranges", "preduce"]
Kept = Literal["array", "list", "out", "partials"]
# Maps that a report holds; of more, the oldest are only counted.
MAPS_MOST = 10_000
# So many bytes of rows are held of maps that are over. Beyond that, those over first keep fewer:
# so many rows of a map.
ROWS_NBYTES_MOST, OLD_ROWS = 1 << 26, 128

# Each time so many maps have begun, it is looked which maps are over.
_EVERY = 8

_lock = make_lock()
"""Held while books are opened and closed, and while a log is changed by one of several threads."""


class Death(NamedTuple):
    """A worker died in a map."""

    rank: int
    pid: int
    chunks: range
    """What it was at; empty if nothing."""
    drew_ns: int
    """When it had drawn that, and perhaps more; it means nothing if it was at nothing."""
    at_ns: int
    """When the caller knew of it."""
    cause: str


class MapLog:
    """What is noted of one map.

    ============== ================================= ================================================
    field          written by                        what must hold
    ============== ================================= ================================================
    the stamps,    the thread that waits for the map a stamp is 0 until then, and set once
    `failed`, ...
    `_source`      the same                          None again once `_rows` are all there are
    `_rows`        the same; then whoever begins a   set before `_source` is taken away; replaced as
                   map, with the lock                a whole, by fewer with the same sums
    `_row_logs`,   any thread that takes part, with  a log has one writer at a time
    `stacks`       the lock
    `deaths`       the monitor                       replaced as a whole, by one more
    ============== ================================= ================================================

    A report reads all of it at any time, from any thread.
    """

    placed = posted = output = heard = returned = 0
    is_cold = False
    """Workers had to be started."""
    placed_nbytes = 0
    """Bytes of private inputs that were copied, or pickled."""
    nbytes = 0
    """Bytes of all inputs that are cut, as far as they are arrays or pickles."""
    out_nbytes = 0
    """Bytes of all outputs, as far as they are arrays."""
    failed: Sequence[tuple[int, int, str]] = ()
    """Ranges of items, and what befell them."""
    answers: Answers | None = None
    """What workers of an executor have told."""
    # What most maps have none of is nothing of theirs: ten thousand logs are held.
    deaths: tuple[Death, ...] = ()
    stacks: Mapping[tuple[str, ...], int] = MappingProxyType({})
    _rows: Mapping[int, bytes] = MappingProxyType({})
    _row_logs: Mapping[int, RowLog] = MappingProxyType({})
    _source: Callable[[], dict[int, bytes]] | None = None

    def __init__(
        self,
        called: int,
        verb: Verb,
        func: Callable[..., object],
        job: Job,
        engine: str,
        *,
        is_auto: bool,
    ) -> None:
        plan = job.plan
        self.verb = verb
        self.func = name_of(func)
        self.n, self.chunks, self.chunksize = plan.n, plan.chunks, plan.chunksize
        self.schedule = plan.schedule
        self.first = job.first
        self.is_auto = is_auto
        """The chunk size was left to the library."""
        self.kept: Kept = "list" if job.gather else "array"
        if verb == "preduce":
            self.kept = "partials"
        elif job.out is not None:
            self.kept = "out"
        self.engine = engine
        self.thread = threading.current_thread().name
        self.profiled: Profiled = 2 if True in [book.stacks for book in books] else 1
        self.called, self.bound = called, time.perf_counter_ns()

    # ------------------------------------------------ the caller

    def note_placed(self, bound: Job, handed: Job, *, copies: bool) -> None:
        """Inputs are where workers get them. `copies`: what is not as it was before is a copy."""
        for before, after in zip(bound.inputs, handed.inputs, strict=True):
            data = after.data
            nbytes = data.offsets[-1] if after.kind == "items" else getattr(data, "nbytes", 0)
            if copies and data is not before.data and after.kind != "stored":
                self.placed_nbytes += nbytes
            if after.kind != "whole":
                self.nbytes += nbytes
        self.placed = time.perf_counter_ns()

    def note_posted(self) -> None:
        """The engine has begun."""
        self.posted = time.perf_counter_ns()

    def note_output(self) -> None:
        """The output was made, by what the first result is like."""
        self.output = time.perf_counter_ns()

    def follow(self, source: Callable[[], dict[int, bytes]]) -> None:
        """Where rows are to be had while the map runs."""
        self._source = source

    def keep_rows(self) -> None:
        """Nobody takes part any more: the rows are as they are. It may be called again."""
        if self.heard:
            return
        self._rows = self.rows()
        self._source = None
        if self._row_logs:
            self._row_logs = {}
        self.heard = time.perf_counter_ns()

    def note_over(self, failed: list[tuple[int, int, str]]) -> None:
        """Nothing is run any more, and these ranges of items have failed; what there is is put together."""
        self.failed = failed
        if not self.heard:
            self.keep_rows()

    def end(self, exc: BaseException | None, outputs: Iterable[object]) -> None:
        """The map is over, by its result or its exception; for the first time, or again."""
        if self.returned:
            return
        if not self.heard:
            self.keep_rows()
        for each in outputs:
            self.out_nbytes += getattr(each, "nbytes", 0)
        if exc is not None and not self.failed:
            self.failed = [(0, self.n, describe_shortly(exc))]
        self.returned = time.perf_counter_ns()

    def held_nbytes(self) -> int | None:
        """How much memory its rows take; None while more may come."""
        return sum(map(len, self._rows.values())) if self.heard else None

    def thin(self) -> None:
        """Keep fewer rows of a map that is over."""
        most = max(2, OLD_ROWS // max(1, len(self._rows)))
        self._rows = {
            rank: merge_rows(unpack_rows(data), most).tobytes() for rank, data in self._rows.items()
        }

    # ------------------------------------------------ those that take part

    def rows(self) -> Mapping[int, bytes]:
        """The rows of each rank, as they are now."""
        source = self._source
        if source is not None:
            rows = source()
            if self._source is source:
                return rows
        return self._rows

    def recorder(self, rank: int) -> Recorder:
        """For a thread of this process: where it notes what it does."""
        return Recorder(self._row_log(rank), self.profiled, is_alone=False)

    def _row_log(self, rank: int, pid: int = 0) -> RowLog:
        with _lock:
            log = self._row_logs.get(rank)
            if log is None:
                log = RowLog.in_own_memory(pid or os.getpid())
                self._row_logs = {**self._row_logs, rank: log}
                self._source = self._own_rows
        return log

    def _own_rows(self) -> dict[int, bytes]:
        return {rank: log.rows() for rank, log in list(self._row_logs.items())}

    def add_stacks(self, stacks: Stacks) -> None:
        """Where in its code the function was seen."""
        if stacks:
            with _lock:
                sums = dict(self.stacks)
                for stack, count in stacks.items():
                    sums[stack] = sums.get(stack, 0) + count
                self.stacks = sums

    def note_death(self, rank: int, pid: int, chunks: range, drew_ns: int, cause: str) -> None:
        """A worker died."""
        death = Death(rank, pid, chunks, drew_ns, time.perf_counter_ns(), cause)
        self.deaths = (*self.deaths, death)

    def note_answer(self, chunk: int, sent: int, answer: Answer) -> None:
        """A chunk that was sent at that time has come back from a worker of an executor."""
        if self.answers is None:
            self.answers = Answers(self._row_log)
        self.answers.note(chunk, sent, answer)
        self.add_stacks(answer.stacks)


class Book:
    """The logs of the maps of one `profile()`."""

    def __init__(self, stacks: bool) -> None:
        self.stacks = stacks
        self.logs: deque[MapLog] = deque()
        self.forgotten = 0
        """How many more maps there were, before those."""
        self._added = 0
        """How many maps have begun."""
        self._open: deque[MapLog] = deque()
        """Those that were not over when they were last looked at."""
        self._whole: deque[tuple[MapLog, int]] = deque()
        """Those that were, with all their rows, and how much memory these take."""
        self._nbytes = 0
        """All of these together."""

    def add(self, log: MapLog) -> None:
        """A map begins."""
        self._added += 1
        if not self._added % _EVERY:
            for _ in range(
                min(2 * _EVERY, len(self._open))
            ):  # as many as have come, and so many more
                self._settle(self._open.popleft())
        self._open.append(log)
        self.logs.append(log)
        if len(self.logs) > MAPS_MOST:
            self.logs.popleft()
            self.forgotten += 1

    def _settle(self, log: MapLog) -> None:
        """Count the rows of a map that is over; if they are too many, keep fewer of those before."""
        nbytes = log.held_nbytes()
        if nbytes is None:
            self._open.append(log)
            return
        self._whole.append((log, nbytes))
        self._nbytes += nbytes
        while self._nbytes > ROWS_NBYTES_MOST:
            first, nbytes = self._whole.popleft()
            self._nbytes -= nbytes
            first.thin()

    def forget_all(self) -> None:
        """In a forked child: the maps are its parent's."""
        self.logs.clear()
        self._open.clear()
        self._whole.clear()
        self._nbytes = 0
        self.forgotten = 0


books: tuple[Book, ...] = ()
"""Those that are open. It is asked at every map whether there is any, and changed here only."""


def open_book(stacks: bool) -> Book:
    """Maps that begin from now on are noted there, too."""
    global books
    book = Book(stacks)
    with _lock:
        books = (*books, book)
    return book


def close_book(book: Book) -> None:
    """Maps that begin from now on are not noted there."""
    global books
    with _lock:
        books = tuple(each for each in books if each is not book)


def begin(log: MapLog) -> None:
    """A map begins: it is noted in all books that are open."""
    with _lock:
        for book in books:
            book.add(log)


def _forget_in_child() -> None:
    for book in books:
        book.forget_all()


at_fork(after_in_child=_forget_in_child)
