"""What all kernels share: a job bound to a function, its calls, and where they are just now.

A kernel does what is to be done with a chunk, in worker processes, in threads and serially alike: it slices
the inputs, calls the function, and puts the result in its place. A `Reporter` is what differs: how results,
the form of the output and the output itself travel between a kernel and the collector.

The function is called once for a whole chunk, by `Kernel.call_chunk`, or once for each of its items,
through `Kernel.iterate`. Random streams, retries, failures that are collected and the clock of ``timeout=``
are dealt with on the way. Per item there is nothing but the function and one store.

While the function runs, `Position` tells of its chunk; when `Kernel.run` raises, of what failed. Nothing is
noted per item: the iterator over the items knows how many are left.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, MutableSequence
from functools import partial
from operator import length_hint
from types import FunctionType, MethodType
from typing import Any, NamedTuple, Protocol

import numpy as np

from .._interop.numpy_types import Array
from .._memory import PageWriter
from .._wire import INDEX, SINCE
from .columns import Kind
from .current import Context
from .inputs import Slicer, make_slicer
from .job import Form, Job, Piece
from .streams import Streams

Function = Callable[..., Any]

FAILED_ITEM: Any = object()
"""In the place of a result that there is none of."""
MISSING: Any = object()
"""In the place of a result if the function has raised StopIteration."""


class Destination(NamedTuple):
    """Where results go."""

    kind: Kind
    columns: tuple[Array, ...]
    writers: tuple[PageWriter | None, ...] = ()
    """Page writers of the columns that are large; none at all if none is."""
    is_guess: bool = False
    """It was made before anything was known of the results: see `FillKernel`."""


class Reporter(Protocol):
    """How a kernel reaches the collector. What has a body here is so where nothing has to be waited for."""

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        """Enter chunks ``[first, stop)`` into the ledger as done; `nothing`: because None was returned."""

    def results(self, pieces: list[Piece]) -> None:
        """Hand over results of chunks, and mark each of them done."""

    def tell_form(self, form: Form, at_once: bool) -> None:
        """Tell the form of index 0's result, from which the output is allocated.

        `at_once`: the chunk takes long enough that others should not wait for its end.
        """

    def wait_taken(self, nbytes: int) -> None:
        """Wait until no more than that of what was handed over has not been taken."""
        return

    def make_room(self, nbytes: int) -> None:
        """Before so much is handed over: wait until no more than that waits to be taken.

        Not if there is another call for this worker: what is to be taken may be waiting for that one.
        """
        return

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        """Report that the function failed, and that the map goes on."""

    def send_form(self) -> None:
        """The map goes on beyond what was drawn first: the form of index 0's result is needed now."""
        return

    def close(self) -> None:
        """Nothing is drawn any more: what is told from now on may be told at the end."""
        return

    def page_writers(self, columns: tuple[Array, ...]) -> tuple[PageWriter | None, ...]:
        """Page writers of a declared output, see `Destination`."""
        return ()

    def poll_output(self) -> Destination | None:
        """The output, if it is known by now."""
        return None

    def wait_output(self) -> Destination | None:
        """Wait for the output; None if it is not going to be told: hand everything over."""
        return None


Words = MutableSequence[int] | memoryview


class Role(Protocol):
    """What this process is to the map."""

    @property
    def is_stray(self) -> bool:
        """It is a child that the function has forked, which must neither draw nor mark."""


class Seat(NamedTuple):
    """Where it is noted what whoever runs a kernel is at."""

    slot: Words
    """See `_wire.control`."""
    limit: Words
    """One word: the last chunk that may be started."""
    ledger: Words
    """The mark of each chunk."""
    role: Role


AS_A_WHOLE, TAKEN_LAST = -1, -2
"""Values of `Position.index`: the chunk as a whole; the item that was taken last from `Position.items`."""


class Position:
    """Where the function is just now, for error reports and `current`."""

    __slots__ = ("index", "items", "start", "stop", "tries")

    def __init__(self) -> None:
        self.index = AS_A_WHOLE
        """What is at fault if something is raised now: an index, or one of the two values above."""
        self.start = self.stop = 0
        """The chunk; of several that are gone through as one, `stop` is that of the last one."""
        self.items: Any = ()
        """The iterator that one of the inputs' items come from: it knows how many are left."""
        self.tries = 0
        """How often this call has failed just now."""

    def taken_last(self) -> int:
        return self.stop - 1 - length_hint(self.items)


def stop_iteration() -> RuntimeError:
    """What is raised in place of the function's own StopIteration."""
    return RuntimeError("the function raised StopIteration, which would end a loop silently")


_KNOW_THEIR_LENGTH = {np.ndarray, list, tuple, range}


def _iterator_over(items: Any) -> Iterator[Any]:
    """An iterator that knows how many items are left; classes that bring an iterator of their own may not."""
    iterator: Iterator[Any] = iter(items)
    if type(items) in _KNOW_THEIR_LENGTH or hasattr(iterator, "__length_hint__"):
        return iterator
    return iter(list(iterator))


class Kernel(ABC):
    """A job bound to a function. Chunks are run one after the other, by one thread."""

    def __init__(
        self, job: Job, func: Function, reporter: Reporter, clock: memoryview | None = None
    ) -> None:
        self.job = job
        self.reporter = reporter
        self.position = Position()
        self.aside_s = 0.0
        """Seconds since it was set to 0 that went to what is done once in a map."""
        self._attempts: dict[int, int] = {}
        """How often chunks were begun by workers that are no more; only those that were."""
        self._slicers: list[Slicer] = []
        self._streams: Streams | None = None
        if job.trim is not None and job.inputs:
            func = job.trim.wrap(func, self.position, job.first)
        self.func = func
        self._clock = clock
        self._mapped = next((j for j, e in enumerate(job.inputs) if e.kind != "whole"), 0)
        self._has_items = job.verb == "items"
        self._n = job.plan.n
        self._size = job.plan.chunksize
        is_timed, can_fail = clock is not None, job.keep_going or job.retries > 0
        self._is_direct = not (is_timed or job.retries or job.seed is not None)
        """Whether a chunk is a call of the function and nothing else."""
        self._is_slow = is_timed or can_fail
        """Whether each item is dealt with by itself."""
        self._is_plain = (
            job.verb == "items"
            and isinstance(func, (FunctionType, MethodType))
            and [entry.kind for entry in job.inputs] in (["array"], ["items"], ["sequence"])
            and not self._is_slow
            and job.seed is None
        )
        """Whether the function is called in a plain loop rather than by `map`: it is quicker. The interpreter
        calls a function written in Python from a loop without leaving its own, which takes a third of what a
        call through `map` does. What is written in C gains nothing."""
        is_cut_anywhere = (
            job.verb == "items"
            and all(
                entry.kind in ("array", "sequence", "whole")
                or (entry.kind == "items" and entry.data.parcel)
                for entry in job.inputs
            )
            and not (self._is_slow or job.store)
        )
        self.joins = job.may_join and is_cut_anywhere
        """Whether neighbouring chunks may be gone through as one. The function does not see where one ends,
        and a chunk costs as much as ten calls of a cheap function; but results are in place only after the
        last."""
        is_single = self._size == 1 and job.seed is None
        self.runs_singles = is_single and is_cut_anywhere and not self.joins
        """Whether chunks of one item can be run by `run_singles`."""

    @abstractmethod
    def run(self, k: int, last: int) -> None:
        """Do chunk `k`, or ``[k, last)`` if this kernel `joins` them."""

    @abstractmethod
    def run_singles(self, first: int, stop: int, seat: Seat) -> None:
        """Do chunks of one item each, of which index 0 is none; each is marked before the next begins."""

    @abstractmethod
    def flush(self) -> None:
        """Between draws: hand over what should not wait."""

    @abstractmethod
    def finish(self) -> None:
        """No tickets are left: everything has to go."""

    def bind(self, job: Job) -> None:
        """Take a call's arguments: those of a job that is like the one before in all else."""
        self.job = job
        self._slicers = [make_slicer(entry, job.verb) for entry in job.inputs]
        self._streams = None if job.seed is None else Streams(job.seed)

    def unbind(self) -> None:
        """Let go of the arrays among the arguments."""
        self.job = self.job._replace(inputs=(), out=None)
        self._slicers = []

    def reset(self) -> None:
        """Make ready for another call of the same map; only what was declared is known then."""
        self.position.items = ()
        self._attempts = {}

    # ------------------------------------------------ where it is

    def note_attempts(self, attempts: dict[int, int]) -> None:
        """How often some chunks were begun before, by workers that are no more."""
        self._attempts = self._attempts | attempts

    def attempt_of(self, k: int) -> int:
        """How often a chunk was begun before."""
        return self._attempts.get(k, 0)

    def where(self, rank: int | None) -> Context:
        """What `current` tells; see there."""
        position, first = self.position, self.job.first
        k, index = position.start // self._size, None
        if self.job.verb == "items":
            at = position.taken_last()
            k, index = at // self._size, first + at
        start, stop = self.job.plan.limits(k)
        attempt = position.tries + self._attempts.get(k, 0)
        return Context(first + start, first + stop, index, rank, attempt)

    def _one_by_one(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """``k, start, stop`` of each chunk in a range that was gone through as one; `position` follows.

        Where the range stops is left there: while items are still to come, `where` counts back from it.
        """
        for at in range(start, stop, self._size):
            self.position.start = at
            yield at // self._size, at, min(at + self._size, stop)

    def where_failed(self) -> tuple[int, int, int, int]:
        """``chunk, index, start, stop`` of what has just failed; index -1 if it was the chunk as a whole."""
        index = self.position.index
        if index == TAKEN_LAST:
            index = self.position.taken_last()
        k = (self.position.start if index < 0 else index) // self._size
        return (k, index, *self.job.plan.limits(k))

    # ------------------------------------------------ calling the function

    def call_chunk(self, k: int, start: int, stop: int) -> Any:
        if self.job.verb == "ranges":
            args: Any = (start, stop)
        else:
            args = [slicer(k, start, stop) for slicer in self._slicers]
        return self.func(*args) if self._is_direct else self._call(args, start)

    def arguments(self, k: int, start: int, stop: int) -> list[Any]:
        """What to iterate over for the arguments of a chunk's calls; `position` follows."""
        args = [slicer(k, start, stop) for slicer in self._slicers]
        args[self._mapped] = self.position.items = _iterator_over(args[self._mapped])
        return args

    def iterate(self, k: int, start: int, stop: int) -> Iterator[Any]:
        """The function's results for a chunk's items, one at a time."""
        if self._is_plain:
            self.position.items = items = _iterator_over(self._slicers[0](k, start, stop))
            return map(self.func, items)
        args = self.arguments(k, start, stop)
        if self._is_slow:
            return self._iterate_slowly(k, args, start)
        if self._streams is None:
            return map(self.func, *args)
        args[0] = self._streams.along(args[0], start + self.job.first)
        return map(partial(self.func, rng=self._streams.generator), *args)

    def all_of(self, first: Any, results: Iterator[Any], count: int) -> list[Any]:
        """A list of the `count` results that `iterate` gives, the first of which has been taken."""
        if count == 1:
            return [first]
        if self._is_plain:
            func = self.func
            try:
                return [first, *[func(item) for item in self.position.items]]
            except StopIteration as exc:  # or the loop of some caller would seem to end
                raise stop_iteration() from exc
        values = [first, *results]
        if len(values) < count:
            raise stop_iteration()
        return values

    def _call(self, args: Any, index: int) -> Any:
        """Call the function as the options say: with a random stream, watched by a clock, tried again."""
        clock, position = self._clock, self.position
        tries = position.tries = 0
        while True:
            if clock is not None:
                clock[INDEX] = index
                clock[SINCE] = time.monotonic_ns()
            try:
                if self._streams is None:
                    return self.func(*args)
                return self.func(*args, rng=self._streams.at(index + self.job.first))
            except Exception:
                if tries == self.job.retries:
                    raise
            finally:
                if clock is not None:
                    clock[SINCE] = 0
            tries = position.tries = tries + 1

    def _iterate_slowly(self, k: int, args: list[Any], start: int) -> Iterator[Any]:
        """As `iterate`, where an item takes more than a call of the function."""
        for i, values in enumerate(zip(*args), start):  # noqa: B905 - some inputs repeat for ever
            try:
                result = self._call(values, i)
            except BaseException as exc:
                if self.job.keep_going:
                    self.reporter.error(exc, k, i, i, i + 1)
                    result = FAILED_ITEM
                elif isinstance(exc, StopIteration):  # or this generator would seem to fail
                    raise stop_iteration() from exc
                else:
                    raise
            yield result
