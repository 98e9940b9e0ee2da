"""How a function's exception travels: packed so that it surely unpacks, and is the user's own type there."""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple

from ._errors import RemoteError
from ._packing import pack_result, unpack

__all__ = ["Report", "describe_exception", "report_exception", "restore_exception"]

# Exceptions and texts above this are cut: an error message is read by a person.
ERROR_NBYTES = 1 << 20


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


def describe_exception(exc: BaseException) -> tuple[str, str]:
    """Type name and text of an exception whose ``__str__`` may itself raise."""
    name = f"{type(exc).__module__}.{type(exc).__qualname__}".removeprefix("builtins.")
    try:
        text = str(exc)
    except BaseException as nested:
        text = f"<its text could not be had: {type(nested).__name__}>"
    return name, text[:ERROR_NBYTES]


def _is_ours(frames: Any) -> bool:
    return str(frames.tb_frame.f_globals.get("__name__")).startswith(f"{__package__}._")


def report_exception(
    exc: BaseException, index: int, start: int, stop: int, rank: int, pid: int
) -> Report:
    """Pack an exception so that it surely unpacks: it is tried here, on the sending side."""
    name, text = describe_exception(exc)
    try:
        # Without the library's own frames, which precede the function's.
        frames = exc.__traceback__
        while frames is not None and _is_ours(frames):
            frames = frames.tb_next
        lines = traceback.format_exception(type(exc), exc, frames)
        trace = "".join(lines)[:ERROR_NBYTES]
    except BaseException:
        trace = f"{name}: {text}"
    data = b""
    if isinstance(exc, Exception):
        try:
            data = pack_result(exc)
            if len(data) > ERROR_NBYTES or type(unpack(data)) is not type(exc):
                data = b""
        except BaseException:
            data = b""
    return Report(data, name, text, trace, index, start, stop, rank, pid)


def restore_exception(report: Report, func_name: str, where: str) -> Exception:
    """The caller's side of `report_exception`: the user's own type, with notes."""
    exc: Exception | None = None
    if report.exception:
        try:
            exc = unpack(report.exception)
        except Exception:
            exc = None
    if not isinstance(exc, Exception):
        exc = RemoteError(f"{report.name}: {report.text}")
    who = f"worker {report.rank}, pid {report.pid}" if report.rank >= 0 else "the calling process"
    exc.add_note(f"raised by {func_name} {where}, in {who}")
    exc.add_note("the traceback there:\n" + report.traceback.rstrip())
    return exc
