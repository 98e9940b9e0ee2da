"""What crosses the process border, and how it is pickled.

Messages are small named tuples, sent whole over an inherited socketpair that keeps message limits.
Arrays in them travel as handles: a shared one as it is, a private one through a shared copy made for
the call, read-only on the other side. Functions of the caller's ``__main__`` are pickled by value, and
all of them share the worker's one ``__main__.__dict__``, so that ``def init(): global model`` works.
Results go plainly first: instances of ``__main__`` classes come back by the class's name, as instances
of the caller's own class; pickling such a class by value would overwrite it with the worker's older copy.

Nothing here opens a connection: pickles travel over inherited socketpairs and shared memory only.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import struct
import sys
import traceback
import types
from collections import ChainMap
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

import numpy as np

from . import _handle, _place, _segment
from ._errors import RemoteError
from ._reduction import is_plain, reduce_kin

__all__ = [
    "Attach",
    "Call",
    "Close",
    "Drop",
    "Failed",
    "Open",
    "Output",
    "Payload",
    "Ready",
    "Trim",
]

# A private array smaller than this travels inside the pickle; larger ones through shared memory.
INLINE_NBYTES = 1 << 14
# A message larger than this goes through shared memory: a socket takes about 200 KB.
MESSAGE_NBYTES = 1 << 16
# Exceptions and texts above this are cut: an error message is read by a person.
ERROR_NBYTES = 1 << 20
# What a worker sends begins with so many random bytes that only it and its caller know. A function can write
# to its worker's sockets, by accident mostly: a number it closed once too often, a loop over all of them.
TOKEN_NBYTES = 16


# ---------------------------------------------------------------- messages, caller to worker


class Attach(NamedTuple):
    """Map these segments; their descriptors come with the message. Also sent by workers."""

    segments: tuple[tuple[int, int], ...]
    """Identity and size in bytes of each."""
    seq: int = 0
    """From a worker: the call whose result they are; 0 for pages, which outlive calls."""


class Open(NamedTuple):
    """Open a control block; its descriptors come with the message."""

    control: int
    capacity: int


class Close(NamedTuple):
    """Let go of a control block."""

    control: int


class Payload(NamedTuple):
    """Pickled bytes: inline, or in a block of shared memory."""

    inline: bytes
    segment: int = 0
    offset: int = 0
    nbytes: int = 0

    def segments(self) -> frozenset[int]:
        """What must be attached to read it."""
        return frozenset((self.segment,)) if self.segment else frozenset()


class Call(NamedTuple):
    """Take part in a map (or run one submitted function)."""

    seq: int
    """Sequence number, growing with every call of a team."""
    control: int
    """Control block of the map; 0 for a submitted function."""
    job_id: int
    """Under which the worker keeps the job; 0: not at all."""
    job: Payload | None
    """None: the one kept under `job_id`."""
    func: Payload | None
    """None: the function loaded last, or the one cached under `digest`."""
    digest: bytes
    """Identity of the pickled function; empty if it must not be kept."""
    by_value: bool
    """Pickled by value: then only the one loaded last may be used again."""
    chunks: Payload | None
    """Tickets are positions in this dict: chunk numbers, and how often each was begun before. None:
    tickets are chunk numbers."""
    redo: Payload | None
    """Chunks its predecessor on this rank had begun or drawn, to be done first; a dict like `chunks`."""
    is_static: bool
    """Static schedule: each worker has its own share of the tickets. Else they are drawn."""
    team: int
    """Workers taking part."""
    surroundings: Payload | None
    """What changed around the caller since the worker was told last."""
    forget: tuple[int, ...]
    """Jobs that will not come again."""


# A call of which the worker has everything: the same job, function and surroundings as before. Most calls
# in a loop are such. Unlike a `Call` it is not pickled, and it is the very record that wakes the worker, so
# that nothing else is to be received before the first ticket.
_AGAIN = struct.Struct("<BBBB16s4q")
_AGAIN_MARK = 0x41
WAKE_NBYTES = _AGAIN.size
"""What wakes a worker are records of this size, written whole: a call again, or `SEE_LINE`."""
SEE_LINE = bytes(WAKE_NBYTES)
"""There is a message on the line."""


def pack_again(
    seq: int,
    control: int,
    job_id: int,
    digest: bytes,
    by_value: bool,
    is_static: bool,
    team: int,
) -> bytes:
    """The record for a call again, the same for every worker; the fields are those of `Call`."""
    return _AGAIN.pack(
        _AGAIN_MARK, by_value, is_static, len(digest), digest, seq, control, job_id, team
    )


def unpack_again(data: bytes) -> Call:
    """The call that a record of `pack_again` stands for."""
    _, by_value, is_static, length, digest, seq, control, job_id, team = _AGAIN.unpack(data)
    return Call(
        seq,
        control,
        job_id,
        None,
        None,
        digest[:length],
        bool(by_value),
        None,
        None,
        bool(is_static),
        team,
        None,
        (),
    )


class Output(NamedTuple):
    """Where the results of a call go, now that index 0 has told shape and dtype."""

    seq: int
    payload: Payload


class Drop(NamedTuple):
    """Unmap these segments: the sender has let go of them."""

    segments: tuple[int, ...]


class Trim(NamedTuple):
    """Let go of these pages, if nothing has been put there since: they are large, and long unused."""

    pages: tuple[int, ...]
    lost: bool = False
    """Whatever has been put there: the caller had no descriptor left to receive them."""


# ---------------------------------------------------------------- messages, worker to caller


class Ready(NamedTuple):
    """The worker has started, its initializer run."""

    pid: int


class Failed(NamedTuple):
    """The worker's initializer raised; a packed exception."""

    error: bytes


def dumps_message(message: tuple[Any, ...]) -> bytes:
    """A message as it is sent."""
    return pickle.dumps(message, 5)


# ---------------------------------------------------------------- pickling for workers


class Packed(NamedTuple):
    """Something pickled for workers."""

    data: bytes
    segments: frozenset[int]
    """Segments that must be attached where it is unpickled."""
    keep: tuple[Any, ...]
    """What must stay alive until it was used: shared copies made for it."""
    placed: int = 0
    """Bytes of private arrays that were copied into shared memory for it."""
    by_value: bool = False
    """Something of ``__main__`` is in it by value: unpickling it writes into the worker's ``__main__``."""


Copies = dict[Any, tuple[Any, Any]]
"""Private arrays that were placed for one call, and the shared copies, by address and layout."""


def _frozen(a: Any) -> Any:
    a.flags.writeable = False
    return a


def _from_handle(handle: tuple[Any, ...]) -> Any:
    handle_type = _handle.SegmentHandle if len(handle) == 6 else _handle.FileHandle
    return _handle.from_handle(handle_type(*handle))


def _rebuild(handle: tuple[Any, ...], kind: type) -> Any:
    a = _from_handle(handle)
    return a if kind is np.ndarray else a.view(kind)


_MAIN = "__main__"
_PickleBuffer = pickle.PickleBuffer  # looked up for every object that is pickled
_CachedFunction: Any = type(functools.lru_cache(len))


def _make_cached(func: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(func)


def _import_home(kind: type) -> None:
    """Import the module that a class is found in: cloudpickle looks at those imported only.

    Any other goes by value, and is another class there. NumPy imports ``numpy.rec``, where `recarray` is
    found, when somebody first asks for it.
    """
    name: Any = kind.__module__
    if isinstance(name, str) and name not in sys.modules:
        with suppress(Exception):
            importlib.import_module(name)


_pickler_class: type | None = None
_NO_FILE = "<dynamic-code>"


def _make_pickler() -> type:
    """The pickler class; made on first use, because cloudpickle takes 10 ms to import."""
    import cloudpickle

    base: Any = cloudpickle.Pickler
    reduce_as_it_does = base.dispatch_table[types.CodeType]

    def reduce_code(code: types.CodeType) -> Any:
        # From 3.1.3 cloudpickle calls the file of all code "<dynamic-code>"; then the remote traceback
        # of a function that travels by value would show no line of it.
        make, args = reduce_as_it_does(code)
        return make, tuple(
            code.co_filename if isinstance(arg, str) and arg == _NO_FILE else arg for arg in args
        )

    class CallPickler(base):  # type: ignore[misc]
        """cloudpickle, with arrays as handles and one namespace for ``__main__``."""

        dispatch_table: ClassVar[Any] = ChainMap({types.CodeType: reduce_code}, base.dispatch_table)

        def __init__(self, file: io.BytesIO, copies: Copies | None) -> None:
            super().__init__(file, protocol=5)
            self._copies = copies
            self.segments: set[int] = set()
            self.keep: list[Any] = []
            self.placed = 0
            self.by_value = False
            main = sys.modules.get(_MAIN)
            # cloudpickle puts functions that share globals into one dict; ours stands for __main__'s.
            self._main_globals: dict[str, Any] = {"__name__": _MAIN}
            if main is not None:
                self.globals_ref[id(main.__dict__)] = self._main_globals

        def persistent_id(self, obj: Any) -> Any:
            if obj is self._main_globals:
                self.by_value = True
                return _MAIN
            if type(obj) is _PickleBuffer:
                return self._reduce_buffer(np.frombuffer(obj.raw(), np.uint8))
            return None

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, np.ndarray) and is_plain(obj):
                return self._reduce_array(obj)
            if isinstance(obj, type):
                _import_home(obj)
            if type(obj) is _CachedFunction and obj.__module__ == _MAIN:
                # By value, like the function in it; each worker begins with an empty cache.
                return _make_cached, (obj.__wrapped__, *obj.cache_parameters().values())
            reduced = reduce_kin(obj)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

        def _reduce_array(self, a: Any) -> Any:
            handle = self._handle_of(a)
            if handle is not None:
                return _rebuild, (tuple(handle), np.ndarray)
            order: Any = "F" if a.flags.fnc else "C"
            return _frozen_array, (a.tobytes(order), a.dtype, a.shape, order)

        def _reduce_buffer(self, a: Any) -> Any:
            """What stands for a buffer that is pickled out of band."""
            handle = self._handle_of(a)
            return a.tobytes() if handle is None else tuple(handle)

        def _handle_of(self, a: Any) -> _handle.Handle | None:
            """The handle of an array, or of a shared copy of it; None if its bytes are to travel."""
            if self._copies is None:
                return None
            handle = _handle.handle_of(a)
            if handle is None:
                if a.nbytes < INLINE_NBYTES:
                    return None
                # By address: many views of one array, and one array in many pickles, are one copy.
                key = (a.__array_interface__["data"][0], a.shape, a.strides, a.dtype)
                if key not in self._copies:
                    self._copies[key] = a, _place.place(a)
                    self.placed += _place.packed_nbytes(a)
                a = self._copies[key][1]
                handle = _handle.handle_of(a)
                assert handle is not None
            if isinstance(handle, _handle.SegmentHandle):
                self.segments.add(handle.segment)
                # Nobody else may hold it while a worker writes there.
                self.keep.append(a)
            return handle

    return CallPickler


def _frozen_array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> Any:
    """A small private array, read-only because it lies in the bytes it came in."""
    if not data:
        return _frozen(np.empty(shape, dtype, order))
    return np.ndarray(shape, dtype, data, order=order)


def pack(obj: Any, copies: Copies | None = None) -> Packed:
    """Pickle anything of the caller's for its workers.

    Several pickles of one call take one `copies`, so that what they have in common is copied once.
    """
    return _pack(obj, {} if copies is None else copies)


def pack_by_value(obj: Any) -> bytes:
    """Pickle anything of the caller's for a process that may have none of its memory."""
    return _pack(obj, None).data


def _pack(obj: Any, copies: Copies | None) -> Packed:
    global _pickler_class
    if _pickler_class is None:
        _pickler_class = _make_pickler()
    file = io.BytesIO()
    pickler = _pickler_class(file, copies)
    pickler.dump(obj)
    return Packed(
        file.getvalue(),
        frozenset(pickler.segments),
        tuple(pickler.keep),
        pickler.placed,
        pickler.by_value,
    )


class _JobPickler(pickle.Pickler):
    """For what consists of arrays and plain values alone: ten times faster than cloudpickle."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5)
        self.segments: set[int] = set()

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.ndarray or type(obj) is np.memmap:
            handle = _handle.handle_of(obj)
            if handle is not None:
                if isinstance(handle, _handle.SegmentHandle):
                    self.segments.add(handle.segment)
                return _rebuild, (tuple(handle), np.ndarray)
        return reduce_kin(obj)


def pack_plain(obj: Any) -> Packed:
    """Pickle a structure of the library's own that holds shared arrays and plain values only."""
    file = io.BytesIO()
    pickler = _JobPickler(file)
    pickler.dump(obj)
    return Packed(file.getvalue(), frozenset(pickler.segments), ())


_VALUES = frozenset((bool, int, float, complex, str, bytes, type(None)))


def are_plain(items: Iterable[Any]) -> bool:
    """Whether all of these are numbers, strings, bytes or None, or tuples of such.

    Nothing in them is ours to look at, so `pickle` may do them by itself, ten times as fast.
    """
    kinds = set(map(type, items))
    if tuple in kinds:
        kinds.remove(tuple)
        for item in items:
            if type(item) is tuple and not _VALUES.issuperset(map(type, item)):
                return False
    return kinds <= _VALUES


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        if pid == _MAIN:
            return sys.modules[_MAIN].__dict__
        if isinstance(pid, bytes):
            return pid
        if isinstance(pid, tuple):
            return memoryview(_from_handle(pid))
        raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")


def unpack(data: bytes | memoryview) -> Any:
    """Undo `pack`, `pack_plain` or `pack_result`."""
    return _Unpickler(io.BytesIO(data)).load()


def make_payload(data: bytes) -> tuple[Payload, Any]:
    """Pickled bytes as they are put into a message, and what must stay alive until it is read."""
    if len(data) <= MESSAGE_NBYTES:
        return Payload(data), None
    root = _segment.allocate(len(data))
    root[: len(data)] = np.frombuffer(data, np.uint8)
    block = _segment.find_block(root.__array_interface__["data"][0])
    assert block is not None
    return Payload(b"", block.segment.id, block.offset, len(data)), root


def read_payload(payload: Payload) -> bytes | memoryview:
    """The bytes of a payload."""
    if not payload.segment:
        return payload.inline
    segment = _segment.get_segment(payload.segment)
    return memoryview(segment.map)[payload.offset : payload.offset + payload.nbytes]


# ---------------------------------------------------------------- pickling results


def _resolve_main(qualname: str) -> Any:
    obj: Any = sys.modules[_MAIN]
    for name in qualname.split("."):
        obj = getattr(obj, name)
    return obj


class _ResultPickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, share: Callable[[Any], Any] | None) -> None:
        super().__init__(file, 5)
        self._share = share

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.ndarray and self._share is not None:
            handle = self._share(obj)
            if handle is not None:
                return _rebuild, (tuple(handle), np.ndarray)
        elif (
            isinstance(obj, type) and obj.__module__ == _MAIN and "<locals>" not in obj.__qualname__
        ):
            return _resolve_main, (obj.__qualname__,)
        return NotImplemented


def pack_result(obj: Any, share: Callable[[Any], Any] | None = None) -> bytes:
    """Pickle a function's result for the caller.

    `share` returns the handle of an array that is to travel as one, having announced its segment.
    """
    file = io.BytesIO()
    try:
        _ResultPickler(file, share).dump(obj)
        return file.getvalue()
    except Exception as exc:
        import cloudpickle

        try:
            data: bytes = cloudpickle.dumps(obj, protocol=5)
            return data
        except Exception:
            raise exc from None


# ---------------------------------------------------------------- exceptions


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
