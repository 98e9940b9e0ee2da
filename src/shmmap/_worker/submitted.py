"""Submitted functions in a worker: unpickled, called, and what came of them told in one write.

What must hold: the claim slot tells that a function was begun before anything of it is unpickled, and that it
is over only after its result is told; what it was given is let go before.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from .._chunks import Watch, describe, leave_map
from .._interop.stored import forget_opened
from .._memory import handle_of
from .._wire import (
    CACHED_FUNCTIONS,
    ENTERED,
    EXPECTED,
    FINISHED_INLINE,
    FINISHED_WRITE_NBYTES,
    READING,
    RELAYED,
    RUNG,
    RUNNING,
    TAKEN,
    WARNING,
    ClaimSlots,
    Descriptors,
    Record,
    RecordKind,
    Relay,
    Submitted,
    are_plain,
    pack_finished,
    pack_result,
    read_fitted,
    report_exception,
    unpack,
)
from .cache import Cache
from .line import Line
from .reporter import Reporter
from .role import role

try:
    import fcntl
    import termios
except ImportError:  # not a POSIX system: no process becomes a worker
    pass

# As long as no more waits to be read, whoever is expected to read it is given the time.
LATER_NBYTES = 1 << 14


class SubmittedFunctions:
    """What a worker has for submitted functions. Used by its main thread."""

    def __init__(
        self,
        fds: Descriptors,
        slots: ClaimSlots,
        rank: int,
        line: Line,
        relay: Relay,
        reporter: Reporter,
        cache: Cache,
    ) -> None:
        self._results, self._bell = fds.results, fds.bell
        self._team, self._slot = slots.team, slots.slot(rank)
        self._rank = rank
        self._line = line
        self._relay = relay
        self._reporter = reporter
        self._cache = cache
        self._functions: dict[bytes, tuple[Callable[..., Any], Watch]] = {}
        """By their pickles, which name them only: they do not change but with the user's modules."""
        self._number = 0
        self._announces = False
        """The result refers to segments that the caller has to attach."""

    def forget(self) -> None:
        """The user's modules have changed: functions that were loaded may refer to older ones."""
        self._functions.clear()

    def serve(self, submitted: Submitted, prepare: Callable[[], object]) -> None:
        """Run a function; `prepare` is called before anything of it is unpickled."""
        slot = self._slot
        slot[ENTERED] = time.perf_counter_ns()
        slot[RUNNING] = self._number = submitted.number
        said, self._announces = slot[RELAYED], False
        try:
            prepare()
            kind, data = self._run(submitted)
        except _Failed as exc:
            kind, data = RecordKind.ERROR, exc.report
        except BaseException as exc:  # it did not unpickle, say, or its result does not pickle
            kind, data = RecordKind.ERROR, self._report(exc, -1)
        where, inline = self._place(data)
        self._relay.flush()
        if role.is_stray:
            os._exit(0)
        leave_map()
        forget_opened()
        kept = b"".join(
            pack_finished(Record(self._number, self._rank, RecordKind.KEPT, id))
            for id in self._cache.viewed()
        )
        first = int(self._announces or slot[RELAYED] != said)
        record = Record(self._number, self._rank, kind, first, 1, *where)
        self._tell(kept + pack_finished(record, inline))
        slot[RUNNING] = 0
        slot[TAKEN] = 0

    def _run(self, submitted: Submitted) -> tuple[RecordKind, bytes]:
        """Call the function; its result, and whether no code of the user's is called as it is unpickled."""
        func, watch, (args, kwargs) = self._load(submitted)
        try:
            result = func(*args, **kwargs)
        except BaseException as exc:
            if role.is_stray:
                os._exit(0)
            raise _Failed(self._report(exc, 0)) from None
        if role.is_stray:
            os._exit(0)
        if names := watch.changed():
            code = getattr(func, "__code__", None)
            where = ("<submitted>", 1) if code is None else (code.co_filename, code.co_firstlineno)
            warning = RuntimeWarning(describe(func, names))
            self._relay.send_object(WARNING, (warning, RuntimeWarning, *where))
        is_list = type(result) is list and are_plain(result)
        if is_list or are_plain((result,)) or _is_of_numpy(result):
            return RecordKind.PLAIN, pickle.dumps(result, 5)
        return RecordKind.RESULTS, pack_result(result, self._share)

    def _load(self, submitted: Submitted) -> tuple[Callable[..., Any], Watch, Any]:
        data, split = read_fitted(submitted.data), submitted.split
        if not split:
            func, args, kwargs, is_watched = unpack(data)
            # In a bundle all that a function has with it is its own, and may be written to.
            return func, Watch(func if is_watched else None), (args, kwargs)
        name = bytes(data[:split])
        known = self._functions.get(name)
        if known is None:
            func = unpack(name)
            known = func, Watch(func)
            if submitted.keeps:
                while len(self._functions) >= CACHED_FUNCTIONS:
                    del self._functions[next(iter(self._functions))]
                self._functions[name] = known
        return *known, unpack(data[split:])

    def _share(self, a: Any) -> Any:
        handle = self._line.share(a, self._number)
        self._announces |= handle is not None
        return handle

    def _report(self, exc: BaseException, index: int) -> bytes:
        self._relay.flush()  # what it has printed is there before its end
        return pack_result(tuple(report_exception(exc, index, 0, 1, self._rank, os.getpid())))

    def _place(self, data: bytes) -> tuple[tuple[int, int, int], bytes]:
        """Where the bulk lies, and what of it goes beside the record."""
        if len(data) <= FINISHED_INLINE:
            return (0, 0, len(data)), data
        try:
            return self._reporter.put(data), b""
        except Exception as exc:  # no memory for it
            data = self._report(exc, -1)
        return self._reporter.put(data), b""

    def _tell(self, records: bytes) -> None:
        """Put records on the pipe of results, and see to it that somebody reads them."""
        try:
            for at in range(0, len(records), FINISHED_WRITE_NBYTES):
                os.write(self._results, records[at : at + FINISHED_WRITE_NBYTES])
        except BrokenPipeError:
            return  # the caller has gone
        if not self._team[EXPECTED] or self._untaken() > LATER_NBYTES:
            self._ring()
        else:
            self._line.call_later(self._ring_if_untaken)

    def _ring_if_untaken(self) -> None:
        if self._untaken():
            self._ring()

    def _untaken(self) -> int:
        """How many bytes the caller has not read yet."""
        return int.from_bytes(fcntl.ioctl(self._results, termios.FIONREAD, bytes(4)), sys.byteorder)

    def _ring(self) -> None:
        """Have the monitor read results, unless it is about to, or somebody else does."""
        team = self._team
        if not (team[READING] or team[RUNG]):
            team[RUNG] = 1  # first: the caller clears it, and then looks
            with suppress(BlockingIOError, BrokenPipeError):  # it is awake, or has gone
                os.write(self._bell, b"r")


def _is_of_numpy(result: Any) -> bool:
    """Whether it is a number or an array of numbers, of this process's own."""
    if type(result) is np.ndarray:
        return not result.dtype.hasobject and handle_of(result) is None
    is_number = isinstance(result, np.generic) and type(result).__module__ == "numpy"
    return is_number and not result.dtype.hasobject


class _Failed(Exception):
    """The function has raised something, which was reported before anything of it was let go."""

    def __init__(self, report: bytes) -> None:
        super().__init__()
        self.report = report
