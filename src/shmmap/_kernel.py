"""What is done with one chunk: slice the inputs, call the function, put the result in its place.

The same code runs in worker processes, in threads and serially; a *port* (see `Port`) is what differs:
how results, the output's shape and the output itself travel between a worker and the collector. The two
kernels are `GatherKernel`, whose results are objects (lists, partials), and `FillKernel`, whose results
are rows or blocks of arrays that are written in place.

Inner loops inline ``Plan.limits``; per item there is nothing but the function and one store.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice, repeat
from operator import is_not, length_hint
from types import FunctionType, MethodType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ._array import POUR_NBYTES, Pour
from ._columns import (
    NUMBERS,
    as_column,
    check_declared,
    check_kind,
    check_shape,
    fits,
    promote,
    split_result,
    uniform_column,
)
from ._current import Context
from ._job import Form, Input, Job, Piece
from ._messages import unpack
from ._reduction import view_of
from ._rows import take_rows

__all__ = ["FillKernel", "GatherKernel", "Port", "make_kernel"]

Array = NDArray[Any]

# A chunk 0 that is going to take longer tells the form of its first result before the others are there.
PROPOSE_S = 2e-4
# Results a worker may keep while the output is not known yet, before it waits for it.
HELD_NBYTES = 1 << 26
# Up to this much is handed over as it is when there are no more tickets, rather than wait for the output.
SHIP_NBYTES = 1 << 18
# What may be handed over and not written yet, where the caller writes: less, and workers wait although the
# caller could write on; more only takes memory. A chunk larger than this goes alone.
HAND_NBYTES = 1 << 23
# Kept results are handed over after this long all the same, so that a death cannot take them along.
HELD_S = 0.05


Output = tuple[Any, tuple[Array, ...], tuple[Pour | None, ...]]
"""Where results go: their kind, columns, and ways into those whose pages are fresh (or none at all)."""


class Port(Protocol):
    """How a kernel reaches the collector."""

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        """Enter chunks ``[first, stop)`` into the ledger as done; `nothing`: because None was returned."""

    def results(self, pieces: list[Piece]) -> None:
        """Hand over results of chunks, and mark each of them done."""

    def propose(self, form: Form, at_once: bool) -> None:
        """Tell the form of index 0's result, from which the output is allocated.

        `at_once`: the chunk takes long enough that others should not wait for its end.
        """

    def wait_taken(self, nbytes: int) -> None:
        """Wait until no more than that of what was handed over has not been taken."""

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        """Report that the function failed, and that the map goes on."""

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


# ---------------------------------------------------------------- inputs


def _make_unpacker(entry: Input) -> Callable[[int, int, int], Any]:
    data, offsets = memoryview(entry.data), entry.offsets
    return lambda k, start, stop: unpack(data[offsets[k] : offsets[k + 1]])


def _make_parcel_opener(entry: Input) -> Callable[[int, int, int], Any]:
    """For plain items, of which several chunks share a pickle: the one opened last is kept."""
    data, offsets, size = memoryview(entry.data), entry.offsets, entry.parcel
    opened, items = -1, ()

    def take(k: int, start: int, stop: int) -> Any:
        nonlocal opened, items
        taken: Any = ()
        for parcel in range(start // size, -(-stop // size)):
            if parcel != opened:
                items = pickle.loads(data[offsets[parcel] : offsets[parcel + 1]])
                opened = parcel
            part = items[max(0, start - parcel * size) : stop - parcel * size]
            taken = part if not taken else taken + part
        return taken

    return take


def _itself(data: Any) -> Any:
    return data


def _make_slicer(entry: Input, verb: str) -> Callable[[int, int, int], Any]:
    """A function ``(k, start, stop) -> what chunk k gets of this input``; or chunks from k on, as one."""
    data, axis, stencil = entry.data, entry.axis, entry.stencil
    if stencil is not None:
        return lambda k, start, stop: stencil.cut(data, start, stop)
    if entry.kind == "array" and (axis == 0 or verb == "items"):
        moved = data if axis == 0 else np.moveaxis(data, axis, 0)
        return lambda k, start, stop: moved[start:stop]
    if entry.kind == "stored" and verb == "items":
        ahead = (slice(None),) * axis
        return lambda k, start, stop: np.moveaxis(data[(*ahead, slice(start, stop))], axis, 0)
    if entry.kind in ("array", "stored"):
        before = (slice(None),) * axis
        return lambda k, start, stop: data[(*before, slice(start, stop))]
    if entry.kind == "whole":
        # A view of its own each time: one that the function keeps can then be told from the job's.
        view = view_of if isinstance(data, np.ndarray) else _itself
        if verb == "items":
            return lambda k, start, stop: repeat(view(data))
        return lambda k, start, stop: view(data)
    if entry.kind == "items":
        return _make_parcel_opener(entry) if entry.parcel else _make_unpacker(entry)
    if entry.kind == "rows" and verb == "items":
        # As a list, whose iterator knows how many are left: see `_Kernel.where`.
        return lambda k, start, stop: list(take_rows(data, start, stop))
    if entry.kind == "rows":
        return lambda k, start, stop: take_rows(data, start, stop)
    return lambda k, start, stop: data[start:stop]


class _Streams:
    """A random generator per index: one Philox whose counter is set to the index.

    Philox is counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11): stream
    *i* is key = the two words derived from the seed, counter = ``[0, 0, 0, i]``.
    """

    def __init__(self, key: tuple[int, int]) -> None:
        self._bits = np.random.Philox(key=np.array(key, np.uint64))
        # Tuples: NumPy takes a state in them four times as fast as one in arrays.
        self._where: dict[str, Any] = {"counter": (0, 0, 0, 0), "key": key}
        self._state: Any = self._bits.state | {"state": self._where, "buffer": (0, 0, 0, 0)}
        self.generator = np.random.Generator(self._bits)

    def at(self, i: int) -> np.random.Generator:
        """The generator at the beginning of stream `i`."""
        self._where["counter"] = (0, 0, 0, i)
        self._bits.state = self._state
        return self.generator

    def along(self, items: Iterable[Any], start: int) -> Iterator[Any]:
        """The items, with the generator at the beginning of its own stream whenever one is taken."""
        where, bits, state = self._where, self._bits, self._state
        for i, item in enumerate(items, start):
            where["counter"] = (0, 0, 0, i)
            bits.state = state
            yield item


# ---------------------------------------------------------------- kernels


class _Kernel:
    """Binding of a job to a function, shared by both kernels."""

    def __init__(self, job: Job, func: Callable[..., Any], port: Port, clock: Any = None) -> None:
        self.job = job
        self.port = port
        self.position = Position()
        self.first_index = job.first
        """Index of the job's item 0, where the job is a part of the map."""
        self.attempts: dict[int, int] = {}
        """How often chunks were begun by workers that are no more; only those that were."""
        self._streams = None if job.seed is None else _Streams(job.seed)
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
        self._slicers = [_make_slicer(entry, job.verb) for entry in job.inputs]
        self._mapped = next((j for j, e in enumerate(job.inputs) if e.kind != "whole"), 0)
        self._n = job.n
        self._size = job.chunksize
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
        from ._control import INDEX, SINCE

        def timed(*args: Any, **kwargs: Any) -> Any:
            clock[INDEX] = position.start
            clock[SINCE] = now()
            try:
                return func(*args, **kwargs)
            finally:
                clock[SINCE] = 0

        return timed

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

    def where_failed(self) -> tuple[int, int, int, int]:
        """``chunk, index, start, stop`` of what has just failed; index -1 if it was the chunk as a whole."""
        index = self.position.index
        k = (self.position.start if index < 0 else index) // self._size
        return (k, index, *self._limits(k))

    def call_chunk(self, k: int, start: int, stop: int) -> Any:
        """Call the function for a whole chunk."""
        if self.job.verb == "ranges":
            args: Any = (start, stop)
        else:
            args = [slicer(k, start, stop) for slicer in self._slicers]
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
        items = self._slicers[0](k, start, stop)
        if type(items) is not np.ndarray and not hasattr(items, "__len__"):
            items = list(items)
        iterator: Iterator[Any] = iter(items)
        self.position.items = iterator
        return iterator

    def note_failure(self, items: Iterator[Any], exc: BaseException) -> None:
        """Note the index at which the function failed in a loop over `begin_items`."""
        self.position.index = self.position.stop - 1 - length_hint(items)
        if isinstance(exc, StopIteration):  # or the loop of somebody above would seem to end
            raise _stop_iteration() from exc

    def iterate(self, k: int, start: int, stop: int) -> Iterator[Any]:
        """The function's results for a chunk's items, one at a time."""
        args = [slicer(k, start, stop) for slicer in self._slicers]
        args[self._mapped] = self.position.items = iter(args[self._mapped])
        job = self.job
        if self._clock is None and not (job.keep_going or job.retries):
            if self._streams is None:
                return map(self.func, *args)
            args[0] = self._streams.along(args[0], start + self.first_index)
            return map(partial(self.func, rng=self._streams.generator), *args)
        return self._iterate_slowly(k, args, start)

    def _iterate_slowly(self, k: int, args: list[Any], start: int) -> Iterator[Any]:
        from ._control import INDEX, SINCE

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
                        raise _stop_iteration() from exc
                    else:
                        raise
                finally:
                    if clock is not None:
                        clock[SINCE] = 0
            yield result


FAILED_ITEM: Any = object()
"""In the place of a result that there is none of."""


def _stop_iteration() -> RuntimeError:
    return RuntimeError("the function raised StopIteration, which would end a loop silently")


class GatherKernel(_Kernel):
    """Results are objects: handed over, with their chunk's number, after every draw."""

    def __init__(self, job: Job, func: Callable[..., Any], port: Port, clock: Any = None) -> None:
        super().__init__(job, func, port, clock)
        self._held: list[Piece] = []
        self._is_direct = job.verb == "ranges" and self._streams is None and not job.retries
        """Whether the function can be called with the limits of a chunk, and nothing else."""

    def run(self, k: int, last: int) -> None:
        """Do chunk `k`, or ``[k, last)`` if this kernel `joins` them."""
        start = k * self._size
        stop = min(last * self._size, self._n)
        position = self.position
        position.start, position.stop, position.index = start, stop, -1
        if self.job.verb != "items":
            result = self.func(start, stop) if self._is_direct else self.call_chunk(k, start, stop)
            if result is None:
                self.port.mark(k, last)  # nothing to hand over: not being there means None
            else:
                self._held.append((k, last, result))
            return
        results: list[Any] = []
        if self._is_plain:
            func, items = self.func, self.begin_items(k, start, stop)
            try:
                results = [func(item) for item in items]
            except BaseException as exc:
                self.note_failure(items, exc)
                raise
        else:
            try:
                # list.extend keeps what was appended when the iterator raises, at the speed of C.
                results.extend(self.iterate(k, start, stop))
            except BaseException:
                position.index = start + len(results)
                raise
            if len(results) < stop - start:
                position.index = start + len(results)
                raise _stop_iteration()
            if self.job.keep_going:
                results = [None if result is FAILED_ITEM else result for result in results]
        self._held.append((k, last, results))

    def flush(self) -> None:
        """Hand over what the draw just ended has brought."""
        if not self._held:
            return
        held, self._held = self._held, []
        try:
            self.port.results(held)
        except TypeError:  # one of them does not pickle: find out which
            self.position.index = -1
            for k, last, piece in held:
                base = k * self._size
                for each in range(k, last):
                    start, stop = self.position.start, self.position.stop = self._limits(each)
                    part = piece if last == k + 1 else piece[start - base : stop - base]
                    self.port.results([(each, each + 1, part)])

    finish = flush

    def reset(self) -> None:
        """Make ready for another call of the same map."""
        self._held.clear()
        self.position.items = ()


_NO_RESULT: Any = object()


class FillKernel(_Kernel):
    """Results are rows or blocks, written into the output; kept until it is known."""

    def __init__(self, job: Job, func: Callable[..., Any], port: Port, clock: Any = None) -> None:
        super().__init__(job, func, port, clock)
        self._declared = job.out is not None
        self._kind: Any = "unknown"
        self._out: tuple[Array, ...] | None = None
        if job.out is not None:
            self._kind = "array" if len(job.out) == 1 else tuple
            self._out = job.out
        self._in_place: Any = None
        """The part of the output that `_rows` has just filled."""
        self._pours: tuple[Pour | None, ...] = ()
        """Ways into outputs whose pages are fresh, one for each; empty if there is none."""
        self._held: list[Piece] = []
        self._held_nbytes = 0
        self._held_since = 0.0

    # ------------------------------------------------ one chunk

    def run(self, k: int, last: int) -> None:
        """Do chunk `k`, or ``[k, last)`` if this kernel `joins` them."""
        start = k * self._size
        stop = min(last * self._size, self._n)
        position = self.position
        position.start, position.stop, position.index = start, stop, -1
        if self._out is None and self._kind == "unknown":
            self._learn_output()
        made: tuple[Any, tuple[Array, ...]] | None
        if self._is_plain:
            made = self._plain_items(k, start, stop)
        elif self.job.verb == "items":
            made = self._items(start, stop, self.iterate(k, start, stop), time.perf_counter())
        else:
            made = self._block(self.call_chunk(k, start, stop), start, stop)
        if made is not None:
            self._place(k, last, start, stop, *made)

    def _plain_items(self, k: int, start: int, stop: int) -> tuple[Any, tuple[Array, ...]] | None:
        """Columns of chunks; numbers, and nothing, in a plain loop, others as they come. See `_items`."""
        func, items = self.func, self.begin_items(k, start, stop)
        began = time.perf_counter()
        values: list[Any] = []
        try:
            first = func(next(items))
            is_number = type(first) in NUMBERS
            if start == 0 and self._kind == "unknown" and (first is None or is_number):
                self._propose(*split_result(first), began, stop)
            if first is None:
                for item in items:
                    result = func(item)
                    if result is not None:
                        check_kind(split_result(result)[0], 1, None, 1)
                return None, ()
            if is_number:
                values = [first, *[func(item) for item in items]]
        except BaseException as exc:
            self.note_failure(items, exc)
            raise
        if is_number:
            return self._column(values, start)
        return self._items(start, stop, chain((first,), map(func, items)), began)

    def _propose(self, kind: Any, cells: tuple[Any, ...], began: float, count: int) -> None:
        """Tell the form of index 0's result, the first of so many."""
        columns = [as_column(cell) for cell in cells]
        left = (time.perf_counter() - began) * count
        form = Form(kind, tuple((c.shape, c.dtype) for c in columns))
        self.port.propose(form, left > PROPOSE_S)

    def _items(
        self, start: int, stop: int, results: Iterator[Any], began: float
    ) -> tuple[Any, tuple[Array, ...]] | None:
        """Columns of a chunk, or of several as one; None if they have been placed, one by one."""
        position = self.position
        i = position.index = start
        values: list[Any] = []
        is_called = False  # for all items: what fails from then on knows where
        try:
            first = next(results, _NO_RESULT)
            while first is FAILED_ITEM and i + 1 < stop:
                i += 1
                first = next(results, _NO_RESULT)
            if first is FAILED_ITEM:
                return FAILED_ITEM, ()
            if first is _NO_RESULT:
                raise _stop_iteration()
            kind, cells = split_result(first)
            if start == 0 and self._kind == "unknown":
                self._propose(kind, cells, began, stop)
            if kind is None:
                values += [None] * (i + 1 - start)
                values.extend(results)
                i = start + len(values)
                if i < stop:
                    raise _stop_iteration()
                is_called = True
                if any(map(is_not, values, repeat(None))):
                    self._check_nothing(values, start)
                return None, ()
            is_number = type(first) in NUMBERS or (
                not isinstance(first, (np.ndarray, tuple)) and np.ndim(first) == 0
            )
            if is_number and not self.job.keep_going:
                values.append(first)
                values.extend(results)
                i = start + len(values)
                if i < stop:
                    raise _stop_iteration()
                is_called = True
                return self._column(values, start)
            if stop - start > self._size:
                self._rows_of_each(first, results, start, stop)
                return None
            return kind, self._rows(kind, cells, results, i, start, stop)
        except BaseException:
            if position.index == start and not is_called:  # not told more precisely on the way
                position.index = max(i, start + len(values))
            raise

    def _check_nothing(self, values: list[Any], start: int) -> None:
        """Refuse results that are something, among others that are None."""
        for index, value in enumerate(values, start):
            if value is not None and value is not FAILED_ITEM:
                self.position.index = index
                check_kind(split_result(value)[0], 1, None, 1)

    def _column(self, values: list[Any], start: int) -> tuple[Any, tuple[Array, ...]] | None:
        """Numbers or strings of a chunk, or of several as one, as a column; None if placed one by one."""
        column = uniform_column(values)
        if column is not None:
            return "array", (column,)
        if len(values) <= self._size:
            return "array", (self._mixed_column(values, start),)
        # What several dtypes become together depends on their order and number: on nothing but the plan.
        for at in range(0, len(values), self._size):
            part = values[at : at + self._size]
            lo, hi = start + at, start + at + len(part)
            self.position.start, self.position.index = lo, -1
            column = uniform_column(part)
            if column is None:
                column = self._mixed_column(part, lo)
                self.position.index = -1
            self._place(lo // self._size, lo // self._size + 1, lo, hi, "array", (column,))
        return None

    def _mixed_column(self, values: list[Any], start: int) -> Array:
        """A column of any numbers or strings, with the dtype that stacking them one by one gives."""
        columns = []
        for i, value in enumerate(values, start):
            self.position.index = i
            kind, cells = split_result(value)
            check_kind(kind, len(cells), "array", 1)
            columns.append(as_column(value))
            check_shape(columns[-1].shape, columns[0].shape)
        return np.stack(columns)

    def _rows(
        self,
        kind: Any,
        cells: tuple[Any, ...],
        results: Iterable[Any],
        at: int,
        start: int,
        stop: int,
    ) -> tuple[Array, ...]:
        """Columns of a chunk whose items are stored as they come; `cells` is what index `at` gave."""
        position = self.position
        firsts = [as_column(cell) for cell in cells]
        targets: list[Array] = []
        for j, a in enumerate(firsts):
            target = None if self._out is None or j >= len(self._out) else self._out[j]
            if target is not None and a.shape == target.shape[1:] and fits(a.dtype, target.dtype):
                targets.append(target[start:stop])
                if a.dtype == target.dtype and self._pours and self._pour(j, a, at):
                    continue
            elif target is not None and self._declared:
                check_declared(a, target)
                targets.append(target[start:stop])
            else:
                targets.append(np.empty((stop - start, *a.shape), np.result_type(a.dtype)))
            targets[j][at - start] = a
        width = len(targets)
        pour = self._pours[0] if self._pours and targets and targets[0].base is not None else None
        if pour is not None and pour.stride < POUR_NBYTES:
            pour = None  # its items are too small, each by itself
        i = at - start + 1
        position.index = start + i  # of the item asked for next, should it fail
        for result in results:
            if kind == "array" and type(result) is np.ndarray:
                target = targets[0]
                if result.dtype == target.dtype and result.shape == target.shape[1:]:
                    if pour is None or not pour.store(result, start + i):
                        target[i] = result
                    i += 1
                    position.index += 1
                    continue
            if result is not FAILED_ITEM:
                its_kind, its_cells = split_result(result)
                check_kind(its_kind, len(its_cells), kind, width)
                for j, cell in enumerate(its_cells):
                    self._store(targets, j, i, as_column(cell))
            i += 1
            position.index += 1
        if position.index < stop:
            raise _stop_iteration()
        position.index = -1
        self._in_place = targets[0] if targets and targets[0].base is not None else None
        return tuple(targets)

    def _rows_of_each(self, first: Any, results: Iterator[Any], start: int, stop: int) -> None:
        """Store and place chunk by chunk what comes of several as one, beginning with `first`.

        Arrays, which may fit to those of other chunks or not, and not to each other.
        """
        size = self._size
        for lo in range(start, stop, size):
            hi = min(lo + size, stop)
            self.position.start = self.position.index = lo
            if lo > start:
                first = next(results, _NO_RESULT)
                if first is _NO_RESULT:
                    raise _stop_iteration()
            kind, cells = split_result(first)
            columns = self._rows(kind, cells, islice(results, hi - lo - 1), lo, lo, hi)
            self._place(lo // size, lo // size + 1, lo, hi, kind, columns)

    def _store(self, targets: list[Array], j: int, i: int, a: Array) -> None:
        target = targets[j]
        check_shape(a.shape, target.shape[1:])
        if not fits(a.dtype, target.dtype):
            if self._declared:
                check_declared(a, target)
            else:
                # Never into a narrower output: the whole column goes on in a wider one of its own.
                wider = np.empty(target.shape, promote(a.dtype, target.dtype))
                wider[:i] = target[:i]
                targets[j] = target = wider
        target[i] = a

    def _block(self, result: Any, start: int, stop: int) -> tuple[Any, tuple[Array, ...]]:
        """Columns of a chunk from the one result of a vectorised function."""
        kind, cells = split_result(result)
        axis, length = self.job.axis, stop - start
        columns = []
        for cell in cells:
            a = as_column(cell)
            if not -a.ndim <= axis < a.ndim or a.shape[axis] != length:
                raise ValueError(
                    f"the function returned shape {a.shape} for a chunk of {length} items: length "
                    f"{length} along axis {axis} was expected; use shmmap.preduce for one result per "
                    "chunk, or pass out=list"
                )
            columns.append(a if axis == 0 else np.moveaxis(a, axis, 0))
        if start == 0 and self._kind == "unknown":
            form = Form(kind, tuple((c.shape[1:], c.dtype) for c in columns))
            self.port.propose(form, False)
        return kind, tuple(columns)

    # ------------------------------------------------ placing

    def _learn_output(self) -> None:
        output = self.port.poll_output()
        if output is not None:
            self._kind, self._out, self._pours = output
            self._place_held()

    def _place(
        self, k: int, last: int, start: int, stop: int, kind: Any, columns: tuple[Array, ...]
    ) -> None:
        """Put columns of chunks ``[k, last)`` into the output, or keep them until it is known."""
        if kind is FAILED_ITEM:
            self.port.mark(k, last)
            return
        if kind == "array" and self._kind == "array" and self._out is not None:
            column, target = columns[0], self._out[0]  # by far the most frequent case
            if column.dtype == target.dtype and column.shape[1:] == target.shape[1:]:
                if column is not self._in_place and not (
                    self._pours and self._pour(0, column, start)
                ):
                    target[start:stop] = column
                self.port.mark(k, last)
                return
        if self._kind == "unknown" and kind is None:
            self.port.mark(k, last, nothing=True)  # whether that fits is told by the whole ledger
            return
        if self._kind == "unknown":
            self._learn_output()
            if self._kind != "unknown":
                self._place(k, last, start, stop, kind, columns)
                return
            # A copy: the function may return the same buffer every time.
            kept = tuple(np.array(column) for column in columns)
            if not self._held:
                self._held_since = time.monotonic()
            self._held.append((k, last, (kind, kept)))
            self._held_nbytes += sum(column.nbytes for column in kept)
            if self._held_nbytes > HELD_NBYTES:
                self._wait_output()
                if self._held:
                    self._ship()
            return
        if last > k + 1:  # something does not fit: to each its own, or one of them is at fault
            self._place_each(k, last, start, kind, columns)
            return
        out = self._out or ()
        if kind is not self._kind or len(columns) != len(out):
            check_kind(kind, len(columns), self._kind, len(out))
        for column, target in zip(columns, out, strict=True):
            if self._declared:
                check_declared(column[0], target)
            else:
                check_shape(column.shape[1:], target.shape[1:])
                if not fits(column.dtype, target.dtype):
                    promote(column.dtype, target.dtype)
                    self.port.results([(k, last, (kind, columns))])
                    return
        for column, target in zip(columns, out, strict=True):
            part = target[start:stop]
            if part.__array_interface__["data"][0] != column.__array_interface__["data"][0]:
                np.copyto(part, column, casting="same_kind")
        self.port.mark(k, last)

    def _place_each(
        self, k: int, last: int, start: int, kind: Any, columns: tuple[Array, ...]
    ) -> None:
        """Place chunks that were gone through as one, one by one."""
        position = self.position
        for each in range(k, last):
            lo, hi = position.start, position.stop = self._limits(each)
            if position.index >= 0:
                position.index = lo
            part = tuple([column[lo - start : hi - start] for column in columns])
            self._place(each, each + 1, lo, hi, kind, part)

    def _pour(self, j: int, part: Array, start: int) -> bool:
        pour = self._pours[j]
        return pour is not None and pour.store(part, start)

    def _place_held(self) -> None:
        held, self._held, self._held_nbytes = self._held, [], 0
        position = self.position
        before = position.start, position.stop, position.index
        for k, last, (kind, columns) in held:
            position.start, position.stop = k * self._size, min(last * self._size, self._n)
            position.index = -1
            self._place(k, last, position.start, position.stop, kind, columns)
        position.start, position.stop, position.index = before

    def _wait_output(self) -> None:
        output = self.port.wait_output()
        if output is not None:
            self._kind, self._out, self._pours = output
            self._place_held()

    def _ship(self) -> None:
        held, self._held, self._held_nbytes = self._held, [], 0
        self.port.results(held)

    def flush(self) -> None:
        """Between draws: hand over what has been kept for long."""
        if self._held and time.monotonic() - self._held_since > HELD_S:
            self._learn_output()
            if self._held and self._held_nbytes <= SHIP_NBYTES:
                self._ship()

    def finish(self) -> None:
        """No tickets are left: everything has to go."""
        if self._held:
            self._learn_output()
        if self._held:
            if self._held_nbytes > SHIP_NBYTES:
                self._wait_output()
            if self._held:
                self._ship()

    def reset(self) -> None:
        """Make ready for another call of the same map; only what was declared is known then."""
        self._held.clear()
        self._held_nbytes = 0
        self._in_place = None
        self.position.items = ()
        if not self._declared:
            self._kind, self._out, self._pours = "unknown", None, ()


class StoreKernel(FillKernel):
    """Results go into arrays that are not in memory, a block per chunk."""

    def __init__(self, job: Job, func: Callable[..., Any], port: Port, clock: Any = None) -> None:
        super().__init__(job, func, port, clock)
        self._targets = job.out or ()
        self._out, self._declared = None, False  # blocks are put together in memory of their own

    def reset(self) -> None:
        """See `FillKernel`; the kind stays what it is."""
        self.position.items = ()

    def _place(
        self, k: int, last: int, start: int, stop: int, kind: Any, columns: tuple[Array, ...]
    ) -> None:
        if kind is FAILED_ITEM:
            self.port.mark(k, last)
            return
        check_kind(kind, len(columns), self._kind, len(self._targets))
        for column, target in zip(columns, self._targets, strict=True):
            check_declared(column[0], target)
        if self.job.store == "hand":
            self.port.wait_taken(HAND_NBYTES)
            self.port.results([(k, last, (kind, columns))])
            return
        for column, target in zip(columns, self._targets, strict=True):
            target[start:stop] = column
        self.port.mark(k, last)


Kernel = GatherKernel | FillKernel


def make_kernel(job: Job, func: Callable[..., Any], port: Port, clock: Any = None) -> Kernel:
    """The kernel for a job."""
    if job.gather:
        return GatherKernel(job, func, port, clock)
    return (StoreKernel if job.store else FillKernel)(job, func, port, clock)
