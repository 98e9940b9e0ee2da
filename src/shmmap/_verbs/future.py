"""`MapFuture`: a map under way, as ``wait=False`` returns it."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from .._engines import Work
from .._errors.arguments import as_seconds
from .._results import ABSENT, Arrivals, Collector
from .._system.user_code import GuardedFuture, settle
from .._team import unfinished
from .._wire import leave_out_ours
from .windows import Stream

T = TypeVar("T")


def _limit(timeout: float | None) -> float | None:
    """A time to wait for, in the words of this library where it is none."""
    return None if timeout is None else as_seconds(timeout, "timeout", is_limit=False)


class Over:
    """What is left of a map's work when it is over: its inputs, function and messages are let go."""

    in_steps: None = None

    def __init__(self, marks: bytes, done: int) -> None:
        self._marks = marks
        self._done = done

    def wait(self) -> Any:
        """See `Work`; the result is where it was returned."""

    def marks(self) -> bytes:
        return self._marks

    def done(self) -> int:
        return self._done

    def cancel(self) -> None:
        """See `Work`."""


# How often an iterator over completed chunks looks at the ledger, in which workers mark what is in place
# without telling the caller. Later: it lags; sooner: it costs. Of a list all is told of, except chunks of
# nothing but None, for which it is enough to look now and then.
_LOOK_S = 0.002
_LOOK_AT_LIST_S = 0.02
# How long to wait for the end of a cancelled map: its chunks get a second, and then are ended or given up.
_CANCEL_S = 3.0


class MapFuture(GuardedFuture[T]):
    """A map under way: a :class:`concurrent.futures.Future` that is also awaitable and iterable.

    Of a map whose result is a list, `as_completed` and `in_order` give the parts away and keep none: each
    comes once, a further iterator goes on with the rest, and there is no whole any more for `result`.
    Parts of arrays are views, and the array stays.

    Examples
    --------
    >>> import shmmap
    >>> future = shmmap.pmap(lambda v: v * v, range(5), wait=False)
    >>> future.result()
    [0, 1, 4, 9, 16]
    >>> future.progress()
    (5, 5)
    """

    __module__ = "shmmap"

    def __init__(
        self,
        work: Work,
        wait: Callable[[], Any],
        collector: Collector | None,
        gives_away: bool = False,
        arrivals: Arrivals | None = None,
    ) -> None:
        super().__init__()
        self._work = work
        self._collector = collector
        self._gives_away = gives_away
        """Whether the result is a list, of which the parts are given away."""
        if arrivals is None:
            assert collector is not None
            arrivals = collector.listen()
        self._arrivals = arrivals
        """Tells of results, and of the end."""
        self._whole: Any = None
        """The result of the map, unless a part of it was given away."""
        self._has_ended = threading.Event()
        """Nothing of the caller's is held any more; a cancelled future is done before that."""
        # What callbacks and later windows of an iterator find around them is the caller's, too.
        # A daemon, or a Ctrl-C could not end the program while this waits; at a normal end it is waited for.
        is_over = threading.Event()
        thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._run, work, wait, is_over),
            name="shmmap-map",
            daemon=True,
        )
        unfinished.add(is_over)
        thread.start()

    def _run(self, work: Work, wait: Callable[[], Any], is_over: threading.Event) -> None:
        try:
            try:
                result = wait()
            finally:
                self._work = Over(work.marks(), work.done())
                self._has_ended.set()
                if self._collector is not None:
                    self._collector.release()
        except CancelledError:
            super().cancel()
            self.set_running_or_notify_cancel()
        except BaseException as raised:
            leave_out_ours(raised)
            settle(self, error=raised)
        else:
            self._whole = result
            if self._is_broken_up():
                self._whole = None
            settle(self)
        finally:
            unfinished.discard(is_over)
            is_over.set()
            self._arrivals.tell()
            # The exception refers to this frame by its traceback, and the future to the exception.
            del self, work, wait

    def _is_broken_up(self) -> bool:
        """Whether a part of a list was given away."""
        return self._gives_away and self._collector is not None and self._collector.pieces.has_given

    def result(self, timeout: float | None = None) -> T:
        """The result of the map, once it is over; see :meth:`concurrent.futures.Future.result`.

        After `cancel` it raises once the chunks under way have ended or been given up: then the map holds
        nothing of the caller's any more.

        Raises
        ------
        RuntimeError
            If parts of a list were given away by `as_completed` or `in_order`.
        """
        try:
            super().result(_limit(timeout))
            if self._is_broken_up():
                raise _broken_up()
            whole: T = self._whole
            return whole
        except CancelledError:
            self._has_ended.wait(_CANCEL_S)
            raise
        finally:
            del self  # the traceback refers to this frame, and the future to the exception

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise; see :meth:`concurrent.futures.Future.exception`."""
        try:
            error = super().exception(_limit(timeout))
        except CancelledError:
            self._has_ended.wait(_CANCEL_S)
            raise
        return _broken_up() if error is None and self._is_broken_up() else error

    def cancel(self) -> bool:
        """Stop the map, also while it runs.

        Returns
        -------
        bool
            False if it is over already. Chunks under way get up to a second to finish; their workers are
            ended then. Results so far are let go.
        """
        if self.done():
            return self.cancelled()
        self._work.cancel()  # first: callbacks may ask for the result
        try:
            return super().cancel()
        finally:
            self._arrivals.tell()

    def running(self) -> bool:
        """Whether the map is neither over nor cancelled."""
        return not self.done()

    def progress(self) -> tuple[int, int]:
        """Items done, and items in all."""
        assert self._collector is not None
        total = self._collector.plan.n
        return (total if self.done() and not self.cancelled() else self._work.done()), total

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result in a coroutine; cancelling the task cancels the map."""
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def as_completed(self) -> Iterator[tuple[int, int, T]]:
        """Yield ``start, stop, value`` of every chunk as it completes.

        Yields
        ------
        start, stop : int
            The half-open index range.
        value : object
            The part of the result: a view of the array, or a list.
        """
        return self._chunks(in_order=False)

    def in_order(self) -> Iterator[tuple[int, int, T]]:
        """Yield ``start, stop, value`` of every chunk in index order, each as soon as possible."""
        return self._chunks(in_order=True)

    def _chunks(self, in_order: bool) -> Iterator[tuple[int, int, Any]]:
        collector = self._collector
        assert collector is not None
        plan, given = collector.plan, collector.pieces.given
        left: deque[int] = deque(range(plan.chunks))
        part: list[tuple[int, int, Any]] = []
        """What is yielded next. Nothing here may refer to it while its receiver has it."""
        look = _LOOK_AT_LIST_S if self._gives_away else _LOOK_S
        while left:
            told = self._arrivals.count
            over = self.done()
            marks = self._work.marks()
            found = False
            for _ in range(len(left)):
                k = left[0]
                if k in given:  # another iterator has given it
                    left.popleft()
                    continue
                value = collector.value_of(k, marks[k], over)
                if value is not ABSENT:
                    found = True
                    left.popleft()
                    part.append((*plan.limits(k), value))
                    del value
                    if self._gives_away and not collector.pieces.give(k):
                        part.clear()  # another iterator was quicker
                        continue
                    if self._is_broken_up():
                        self._whole = None
                    yield part.pop()
                elif in_order:
                    break
                else:
                    left.rotate(-1)
            if over and not found:
                break
            if not found:
                self._arrivals.wait(told, look)
        try:
            self._raise_failure()
        finally:
            del self

    def _raise_failure(self) -> None:
        """Raise what has ended the map, or what failed only at its end: results that do not fit together."""
        try:
            super().result()
        finally:
            del self  # see `result`


def _broken_up() -> RuntimeError:
    return RuntimeError(
        "parts of this list were given away by as_completed() or in_order(), which keep none: collect "
        "them as they come, or call result() without iterating"
    )


class StreamFuture(MapFuture[Any]):
    """A map over an iterator under way: its parts are windows of items, in order."""

    def __init__(self, stream: Stream, wait: Callable[[], Any]) -> None:
        self._stream = stream
        super().__init__(stream, wait, None, arrivals=stream.arrivals)

    def progress(self) -> tuple[int, int]:
        """Items done, and items read so far."""
        return self._stream.done(), self._stream.taken()

    def _is_broken_up(self) -> bool:
        return self._stream.has_given

    def _chunks(self, in_order: bool) -> Iterator[tuple[int, int, Any]]:
        stream = self._stream
        while True:
            told = self._arrivals.count
            over = self.done()
            while stream.finished:
                stream.has_given = True  # first: the whole must not be put together of what is left
                self._whole = None
                yield stream.finished.popleft()
            if over:
                try:
                    self._raise_failure()
                finally:
                    del self
                return
            self._arrivals.wait(told, None)
