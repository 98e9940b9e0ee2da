"""Results that are objects: the items of a list, or one partial result per chunk.

They are handed over after every draw, each with its chunk's number, so that a death costs no more than what
was drawn last. A chunk is done once its results are handed over, or there is nothing to hand over.

What is held until then must not change any more. A function may well use one buffer for all its results; such
a buffer is copied. How many chunks a draw has depends on the time they take, and no result may. What is no
array, nor a tuple, list or dict of them, is handed over at once if it is the result for a chunk.
"""

from __future__ import annotations

import os
from operator import is_
from typing import Any

import numpy as np

from .._interop.scalars import SCALAR_CLASSES, SCALARS
from .._memory import COUNTS, handle_of, is_sole
from .._wire import CHUNK, are_plain
from .columns import NUMBERS
from .job import Job, Piece
from .kernel import (
    AS_A_WHOLE,
    FAILED_ITEM,
    MISSING,
    TAKEN_LAST,
    Function,
    Kernel,
    Reporter,
    Seat,
    stop_iteration,
)
from .tuples import make_tuple

# A result of a chunk that is handed over at once, and not before most of those before were taken.
LARGE_NBYTES = 1 << 20
# Containers in containers that are looked into.
_DEPTH = 3


def _settle(result: Any, alone: int = COUNTS.of_variable, depth: int = 0) -> tuple[object, bool]:
    """A result as it is now, and whether it will stay so.

    Arrays that somebody else has as well are copied, also those in tuples, lists and dicts. What other
    objects are made of nobody here knows.
    """
    if isinstance(result, np.ndarray):
        # What lies in shared memory, a view of the chunk for one, is no buffer.
        is_kept = is_sole(result, alone) or handle_of(result) is not None
        return result if is_kept else result.copy(), True
    if isinstance(result, SCALAR_CLASSES):
        return result, True
    kind = type(result)
    if not (kind is dict or kind is list or isinstance(result, tuple)) or depth > _DEPTH:
        return result, False
    values = list(result.values() if kind is dict else result)
    is_settled = are_plain(values)
    if not is_settled:
        del values  # or they would count as somebody else's
        parts = [
            _settle(each, COUNTS.of_container, depth + 1)
            for each in (result.values() if kind is dict else result)
        ]
        values, is_settled = [part for part, _ in parts], all(each for _, each in parts)
    if kind is dict:
        return dict(zip(result, values, strict=True)), is_settled
    if kind is list:
        return values, is_settled
    if all(map(is_, values, result)):
        return result, is_settled
    if kind is tuple or hasattr(kind, "_make"):
        return make_tuple(kind, values), is_settled
    return result, False


def _nbytes_of(value: object) -> int:
    """Bytes of an array, or of those in a tuple, list or dict."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, (tuple, list, dict)):
        each = value.values() if isinstance(value, dict) else value
        return sum(part.nbytes for part in each if isinstance(part, np.ndarray))
    return 0


class GatherKernel(Kernel):
    """Results are objects: handed over, with their chunk's number, after every draw."""

    def __init__(
        self, job: Job, func: Function, reporter: Reporter, clock: memoryview | None = None
    ) -> None:
        super().__init__(job, func, reporter, clock)
        self._held: list[Piece] = []
        self._calls_with_limits = job.verb == "ranges" and self._is_direct
        """Whether the function can be called with the limits of a chunk, and nothing else."""

    def run(self, k: int, last: int) -> None:
        start = k * self._size
        stop = min(last * self._size, self._n)
        position = self.position
        position.start, position.stop = start, stop
        if self._has_items:
            position.index = TAKEN_LAST
            results = self.iterate(k, start, stop)
            first = next(results, MISSING)
            if first is MISSING:
                raise stop_iteration()
            if isinstance(first, SCALAR_CLASSES):
                values = [first] if stop - start == 1 else self.all_of(first, results, stop - start)
            else:
                values = [_settle(first)[0]]
                del first  # or it would count as somebody else's
                values += [_settle(result)[0] for result in results]
                if len(values) < stop - start:
                    raise stop_iteration()
            if self._is_slow:
                values = [None if value is FAILED_ITEM else value for value in values]
            position.index = AS_A_WHOLE
            self._held.append((k, last, values))
            return
        position.index = AS_A_WHOLE
        if self._calls_with_limits:
            result = self.func(start, stop)
        else:
            result = self.call_chunk(k, start, stop)
        if result is None:
            self.reporter.mark(k, last)  # nothing to hand over: not being there means None
            return
        value, is_settled = _settle(result)
        self._held.append((k, last, value))
        is_large = False
        if type(value) not in NUMBERS and (nbytes := _nbytes_of(value)) > LARGE_NBYTES:
            # Partials that the caller has yet to put together would fill the memory.
            is_large = True
            self.reporter.make_room(nbytes)
        # Ranges as well: if we die, what is done must not be done again, nor be named as lost.
        if is_large or not is_settled or self.job.verb == "ranges":
            self.flush()

    def run_singles(self, first: int, stop: int, seat: Seat) -> None:
        slot, limit, _, role = seat
        args, func, k = self.arguments(first, first, stop), self.func, first
        position, is_sole = self.position, len(args) == 1
        position.start, position.stop, position.index = first, stop, TAKEN_LAST
        values: list[Any] = []
        try:
            for item in args[0] if is_sole else zip(*args):  # noqa: B905 - some inputs repeat for ever
                if k > limit[0]:
                    break
                slot[CHUNK] = k = k + 1
                result = func(item) if is_sole else func(*item)
                if role.is_stray:
                    os._exit(0)
                values.append(result if type(result) in SCALARS else _settle(result)[0])
        except StopIteration as exc:
            raise stop_iteration() from exc
        finally:
            if values:
                self._held.append((first, first + len(values), values))

    def flush(self) -> None:
        """Hand over what the draw just ended has brought."""
        if not self._held:
            return
        held, self._held = self._held, []
        try:
            self.reporter.results(held)
        except TypeError:  # one of them does not pickle: find out which
            self.position.index = AS_A_WHOLE
            for first, last, piece in held:
                base = first * self._size
                for k, start, stop in self._one_by_one(base, min(last * self._size, self._n)):
                    self.position.stop = stop
                    part = piece if last == first + 1 else piece[start - base : stop - base]
                    try:
                        self.reporter.results([(k, k + 1, part)])
                    except TypeError as exc:
                        if not self.job.keep_going:
                            raise
                        self.reporter.error(exc, k, AS_A_WHOLE, start, stop)

    finish = flush

    def reset(self) -> None:
        super().reset()
        self._held.clear()
