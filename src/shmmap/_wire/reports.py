"""How a function's exception travels: packed so that it surely unpacks, and is the user's own type there."""

from __future__ import annotations

import re
import traceback
from typing import NamedTuple, TypeVar

from .._errors.hints import is_ours
from .chains import CHAIN_NBYTES, describe_exception, stand_in
from .results import pack_chain, unpack_chain

_E = TypeVar("_E", bound=BaseException)


class Report(NamedTuple):
    """A function's exception on its way to the caller."""

    exception: bytes
    """Pickled, proven to unpickle; empty if it does neither."""
    name: str
    text: str
    traceback: str
    position: int
    """The index, -1 if only the range is known."""
    start: int
    stop: int
    rank: int
    pid: int
    host: str = ""
    """The machine, if it is another one."""
    is_noted: bool = False
    """The exception has all its notes."""


def report_exception(
    exc: BaseException, index: int, start: int, stop: int, rank: int, pid: int
) -> Report:
    """Pack an exception so that it surely unpacks: it is tried here, on the sending side."""
    name, text = describe_exception(exc)
    try:
        # Without the library's own frames, which precede the function's.
        frames = exc.__traceback__
        while frames is not None and is_ours(frames.tb_frame):
            frames = frames.tb_next
        lines = traceback.format_exception(type(exc), exc, frames)
        trace = "".join(lines)[:CHAIN_NBYTES]
    except BaseException:
        trace = f"{name}: {text}"
    data = b""
    try:
        data = pack_chain(exc)
    except BaseException:
        data = b""
    return Report(data, name, text, trace, index, start, stop, rank, pid)


def restore_exception(report: Report, func_name: str, where: str) -> Exception:
    """The caller's side of `report_exception`: the user's own type, with notes.

    SystemExit and its like come as `RemoteError`: what ends a worker's function does not end the caller.
    """
    exc = restore_any(report, func_name, where)
    if isinstance(exc, Exception):
        return exc
    return _with_notes(stand_in(report.name, report.text), report, func_name, where)


def restore_any(report: Report, func_name: str, where: str) -> BaseException:
    """The same with SystemExit and its like as they are, which is what a `Future` promises."""
    exc: BaseException | None = None
    if report.exception:
        try:
            exc = unpack_chain(report.exception)
        except BaseException:  # whatever the user's class does here
            exc = None
    if not isinstance(exc, BaseException):
        exc = stand_in(report.name, report.text)
    return _with_notes(exc, report, func_name, where)


# How NumPy, Cython, numba and others say that an array is read-only.
_REFUSES_ARRAY = re.compile(
    r"(read-?only|not writ\w+).*(array|buffer|memory)|(array|buffer|destination).*(read-?only|not writ)",
    re.IGNORECASE,
)


def advise(exc: BaseException) -> None:
    """Say what to write where an array was refused because it is read-only."""
    if not isinstance(exc, OSError) and _REFUSES_ARRAY.search(describe_exception(exc)[1][:2000]):
        exc.add_note(
            "private arrays are read-only inside a mapped function, since a write to a copy would be lost: "
            "share the array with a = shmmap.asshared(a) if the write is to be seen outside, or else work "
            "on a.copy(), made inside the function"
        )


_ENDS_OF_INPUT = (("bdb.BdbQuit", ""), ("EOFError", "EOF when reading a line"))
"""What a debugger, and `input`, say without a standard input."""


def _with_notes(exc: _E, report: Report, func_name: str, where: str) -> _E:
    if report.is_noted:
        return exc
    who = f"worker {report.rank}, pid {report.pid}" if report.rank >= 0 else "the calling process"
    if report.host:
        who = f"{who}, on {report.host}" if report.rank >= 0 else report.host
    try:
        exc.add_note(f"raised by {func_name} {where}, in {who}")
        exc.add_note("the traceback there:\n" + report.traceback.rstrip())
        advise(exc)
        if report.rank >= 0 and (report.name, report.text) in _ENDS_OF_INPUT:
            exc.add_note("a worker has no standard input: debug, or ask, with engine='serial'")
    except BaseException:
        pass  # a class of the user's that takes no notes
    return exc
