"""Results that are objects: the items of a list, or one partial result per chunk.

They are handed over after every draw, each with its chunk's number, so that a death costs no more than what
was drawn last. A chunk is done once its results are handed over, or there is nothing to hand over.

What is held until then must not change any more. A function that is called for each chunk may well use one
buffer for all its results; such a buffer is copied. How many chunks a draw has depends on the time they take,
and no result may.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from operator import is_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._handle import handle_of
from .._job import Job, Piece
from ._base import FAILED_ITEM, Kernel, Port, stop_iteration

__all__ = ["GatherKernel"]


# References to an array that nobody else has, where `_copied` counts them: of `run` or of a tuple, of
# `_settled`, of `_copied` itself, and of the call that counts.
_ALONE = 4


def _settled(result: Any) -> Any:
    """A result that will not change any more: of arrays that somebody else has as well, a copy."""
    if isinstance(result, np.ndarray):
        return _copied(result)
    if not isinstance(result, tuple):
        return result
    parts = [_copied(each) if isinstance(each, np.ndarray) else each for each in result]
    if all(map(is_, parts, result)):
        return result
    return tuple(parts) if type(result) is tuple else type(result)(*parts)


def _copied(a: NDArray[Any]) -> NDArray[Any]:
    base = a.base
    if sys.getrefcount(a) <= _ALONE:
        if base is None or (type(base) is np.ndarray and sys.getrefcount(base) < _ALONE):
            return a
    # What lies in shared memory, a view of the chunk for one, is no buffer.
    return a if handle_of(a) is not None else a.copy()


class GatherKernel(Kernel):
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
                self._held.append((k, last, _settled(result)))
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
