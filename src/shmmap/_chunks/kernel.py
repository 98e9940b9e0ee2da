"""What all kernels share: a job bound to a function, its calls, and where they are just now.

A kernel calls the function once for a whole chunk, by `Kernel.call_chunk`, or once for each of its items: in
a plain loop over `Kernel.begin_items`, or through `Kernel.iterate`. Random streams, retries, failures that
are collected and the clock of ``timeout=`` are dealt with on the way.

While the function runs, `Position` tells of its chunk; when `Kernel.run` raises, of what failed. Quick loops
note nothing per item: the iterator over the items knows how many are left.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from operator import length_hint
from types import FunctionType, MethodType
from typing import Any, Protocol

import numpy as np

from .._interop.numpy_types import Array
from .._memory import PageWriter
from .._wire import INDEX, SINCE
from .current import Context
from .inputs import Streams, make_slicer
from .job import Form, Job, Piece

FAILED_ITEM: Any = object()
"""In the place of a result that there is none of."""

Output = tuple[Any, tuple[Array, ...], tuple[PageWriter | None, ...]]
"""Where results go: their kind, columns, and ways into those that are large (or none at all)."""


class Reporter(Protocol):
    """How a kernel reaches the collector."""

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

    def make_room(self, nbytes: int) -> None:
        """Before so much is handed over: wait until no more than that waits to be taken.

        Not if there is another call for this worker: whoever is to take it may be waiting for that one.
        """

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        """Report that the function failed, and that the map goes on."""

    def ways(self, columns: tuple[Array, ...]) -> tuple[PageWriter | None, ...]:
        """Ways into a declared output, see `Output`."""

    def poll_output(self) -> Output | None:
        """The output, if it is known by now."""

    def wait_output(self) -> Output | None:
        """Wait for the output; None if nobody is going to tell it: hand everything over."""


class Position:
    """Where the function is just now, for error reports and `current`."""

    __slots__ = ("index", "items", "start", "stop", "tries")

    def __init__(self) -> None:
        self.index = -1
        self.start = self.stop = 0
        self.items: Any = ()
        """The iterator that one of the inputs' items come from: it knows how many are left."""
        self.tries = 0
        """How often this call has failed just now."""


def stop_iteration() -> RuntimeError:
    """What is raised in place of the function's own StopIteration."""
    return RuntimeError("the function raised StopIteration, which would end a loop silently")


def _iterator_over(items: Any) -> Iterator[Any]:
    """An iterator that knows how many items are left; classes that bring an iterator of their own may not."""
    iterator: Iterator[Any] = iter(items)
    if type(items) is not np.ndarray and not hasattr(iterator, "__length_hint__"):
        return iter(list(iterator))
    return iterator


class Kernel(ABC):
    """A job bound to a function. Chunks are run one after the other, by one thread."""

    def __init__(
        self, job: Job, func: Callable[..., Any], port: Reporter, clock: Any = None
    ) -> None:
        self.job = job
        self.port = port
        self.position = Position()
        self.first_index = job.first
        """Index of the job's item 0, where the job is a part of the map."""
        self.attempts: dict[int, int] = {}
        """How often chunks were begun by workers that are no more; only those that were."""
        self._streams = None if job.seed is None else Streams(job.seed)
        if job.trim is not None and job.inputs:
            func = job.trim.wrap(func, self.position)
        if clock is not None and job.verb != "items":
            func = self._timed(func, clock)
        self.func = func
        self._clock = clock
        self._is_plain = (
            job.verb == "items"
            and isinstance(func, (FunctionType, MethodType))
            and [entry.kind for entry in job.inputs] in (["array"], ["items"])
            and clock is None
            and self._streams is None
            and not (job.keep_going or job.retries)
        )
        """Whether items are gone through in a plain loop rather than by `iterate`: it is quicker. The
        interpreter calls a function written in Python from a loop without leaving its own, which takes
        a third of what a call through `map` does. What is written in C gains nothing."""
        self._slicers = [make_slicer(entry, job.verb) for entry in job.inputs]
        self._mapped = next((j for j, e in enumerate(job.inputs) if e.kind != "whole"), 0)
        self._n = job.plan.n
        self._size = job.plan.chunksize
        self.joins = (
            job.may_join
            and job.verb == "items"
            and all(
                entry.kind in ("array", "sequence", "whole") or entry.parcel for entry in job.inputs
            )
            and clock is None
            and not (job.keep_going or job.retries or job.store)
        )
        """Whether neighbouring chunks may be gone through as one. The function does not see where one ends,
        and a chunk costs as much as ten calls of a cheap function; but results are in place only after the
        last."""

    def _timed(self, func: Callable[..., Any], clock: Any) -> Callable[..., Any]:
        """Note in the claim slot when each call of the function begins (``timeout=``)."""
        position, now = self.position, time.monotonic_ns

        def timed(*args: Any, **kwargs: Any) -> Any:
            clock[INDEX] = position.start
            clock[SINCE] = now()
            try:
                return func(*args, **kwargs)
            finally:
                clock[SINCE] = 0

        return timed

    @abstractmethod
    def run(self, k: int, last: int) -> None:
        """Do chunk `k`, or ``[k, last)`` if this kernel `joins` them."""

    @abstractmethod
    def flush(self) -> None:
        """Between draws: hand over what should not wait."""

    @abstractmethod
    def finish(self) -> None:
        """No tickets are left: everything has to go."""

    @abstractmethod
    def reset(self) -> None:
        """Make ready for another call of the same map; only what was declared is known then."""

    # ------------------------------------------------ where it is

    def where(self, rank: int | None) -> Context:
        """What `current` tells; see there."""
        position, first = self.position, self.first_index
        k, index = position.start // self._size, None
        if self.job.verb == "items":
            at = position.stop - 1 - length_hint(position.items)
            k, index = at // self._size, first + at
        start, stop = self._limits(k)
        attempt = position.tries + self.attempts.get(k, 0)
        return Context(first + start, first + stop, index, rank, attempt)

    def _limits(self, k: int) -> tuple[int, int]:
        start = k * self._size
        return start, min(start + self._size, self._n)

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
        k = (self.position.start if index < 0 else index) // self._size
        return (k, index, *self._limits(k))

    # ------------------------------------------------ calling the function

    def call_chunk(self, k: int, start: int, stop: int) -> Any:
        """Call the function for a whole chunk."""
        if self.job.verb == "ranges":
            args: Any = (start, stop)
        else:
            args = [slicer(k, start, stop) for slicer in self._slicers]
        if not self.job.retries and self._streams is None:
            return self.func(*args)
        for tries in range(self.job.retries):
            self.position.tries = tries
            try:
                return self._call(args, start)
            except Exception:
                pass
        self.position.tries = self.job.retries
        return self._call(args, start)

    def _call(self, args: Any, index: int) -> Any:
        if self._streams is None:
            return self.func(*args)
        return self.func(*args, rng=self._streams.at(index + self.first_index))

    def begin_items(self, k: int, start: int, stop: int) -> Iterator[Any]:
        """The items of a chunk, for a plain loop. The iterator knows how many are left, see `where`."""
        self.position.items = iterator = _iterator_over(self._slicers[0](k, start, stop))
        return iterator

    def note_failure(self, items: Iterator[Any], exc: BaseException) -> None:
        """Note the index at which the function failed in a loop over `begin_items`."""
        self.position.index = self.position.stop - 1 - length_hint(items)
        if isinstance(exc, StopIteration):  # or the loop of somebody above would seem to end
            raise stop_iteration() from exc

    def iterate(self, k: int, start: int, stop: int) -> Iterator[Any]:
        """The function's results for a chunk's items, one at a time."""
        args = [slicer(k, start, stop) for slicer in self._slicers]
        args[self._mapped] = self.position.items = _iterator_over(args[self._mapped])
        job = self.job
        if self._clock is None and not (job.keep_going or job.retries):
            if self._streams is None:
                return map(self.func, *args)
            args[0] = self._streams.along(args[0], start + self.first_index)
            return map(partial(self.func, rng=self._streams.generator), *args)
        return self._iterate_slowly(k, args, start)

    def _iterate_slowly(self, k: int, args: list[Any], start: int) -> Iterator[Any]:
        clock, job = self._clock, self.job
        for i, values in enumerate(zip(*args), start):  # noqa: B905 - some inputs repeat for ever
            left = job.retries
            while True:
                self.position.tries = job.retries - left
                if clock is not None:
                    clock[INDEX] = i
                    clock[SINCE] = time.monotonic_ns()
                try:
                    result = self._call(values, i)
                    break
                except BaseException as exc:
                    if left and isinstance(exc, Exception):
                        left -= 1
                    elif job.keep_going:
                        self.port.error(exc, k, i, i, i + 1)
                        result = FAILED_ITEM
                        break
                    elif isinstance(exc, StopIteration):  # or this generator would seem to fail
                        raise stop_iteration() from exc
                    else:
                        raise
                finally:
                    if clock is not None:
                        clock[SINCE] = 0
            yield result
