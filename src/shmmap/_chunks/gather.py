"""Results that are objects: the items of a list, or one partial result per chunk.

They are handed over after every draw, each with its chunk's number, so that a death costs no more than what
was drawn last. A chunk is done once its results are handed over, or there is nothing to hand over.

What is held until then must not change any more. A function may well use one buffer for all its results; such
a buffer is copied. How many chunks a draw has depends on the time they take, and no result may. What is no
array, nor a tuple, list or dict of them, is handed over at once if it is the result for a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any

import numpy as np

from .._memory import COUNTS, handle_of, is_sole
from .._wire import are_plain
from .columns import NUMBERS
from .job import Job, Piece
from .kernel import FAILED_ITEM, Kernel, Reporter, stop_iteration
from .tuples import make_tuple

# What cannot change.
_ATOMS = (int, float, complex, str, bytes, np.generic, type(None))
_MISSING: Any = object()
# A result of a chunk that is handed over at once, and not before most of those before were taken.
LARGE_NBYTES = 1 << 20
# Containers in containers that are looked into.
_DEPTH = 3


def _settle(result: Any, alone: int = COUNTS.of_variable, depth: int = 0) -> tuple[Any, bool]:
    """A result as it is now, and whether it will stay so.

    Arrays that somebody else has as well are copied, also those in tuples, lists and dicts. What other
    objects are made of nobody here knows.
    """
    if isinstance(result, np.ndarray):
        # What lies in shared memory, a view of the chunk for one, is no buffer.
        is_kept = is_sole(result, alone) or handle_of(result) is not None
        return result if is_kept else result.copy(), True
    if isinstance(result, _ATOMS):
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


def _nbytes_of(value: Any) -> int:
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
        self, job: Job, func: Callable[..., Any], port: Reporter, clock: Any = None
    ) -> None:
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
                return
            value, is_settled = _settle(result)
            self._held.append((k, last, value))
            is_large = False
            if type(value) not in NUMBERS and (nbytes := _nbytes_of(value)) > LARGE_NBYTES:
                # Partials that the caller has yet to put together would fill the memory.
                is_large = True
                self.port.make_room(nbytes)
            # Ranges as well: if we die, what is done must not be done again, nor be named as lost.
            if is_large or not is_settled or self.job.verb == "ranges":
                self.flush()
            return
        results: list[Any] = []
        if self._is_plain:
            func, items = self.func, self.begin_items(k, start, stop)
            try:
                first = func(next(items))
                if isinstance(first, _ATOMS):
                    results = [first, *[func(item) for item in items]]
                else:
                    results = [_settle(first)[0]]
                    del first  # or it would count as somebody else's
                    results += [_settle(func(item), COUNTS.of_call)[0] for item in items]
            except BaseException as exc:
                self.note_failure(items, exc)
                raise
        else:
            try:
                iterator = self.iterate(k, start, stop)
                first = next(iterator, _MISSING)
                if isinstance(first, _ATOMS):
                    results.append(first)
                    # list.extend keeps what was appended when the iterator raises, at the speed of C.
                    results.extend(iterator)
                elif first is not _MISSING:
                    results.append(_settle(first)[0])
                    del first
                    for result in iterator:
                        results.append(_settle(result)[0])
            except BaseException:
                position.index = start + len(results)
                raise
            if len(results) < stop - start:
                position.index = start + len(results)
                raise stop_iteration()
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
            for first, last, piece in held:
                base = first * self._size
                for k, start, stop in self._one_by_one(base, min(last * self._size, self._n)):
                    self.position.stop = stop
                    part = piece if last == first + 1 else piece[start - base : stop - base]
                    try:
                        self.port.results([(k, k + 1, part)])
                    except TypeError as exc:
                        if not self.job.keep_going:
                            raise
                        self.port.error(exc, k, -1, start, stop)

    finish = flush

    def reset(self) -> None:
        """Make ready for another call of the same map."""
        self._held.clear()
        self.position.items = ()
