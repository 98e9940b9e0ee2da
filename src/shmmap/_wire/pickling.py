"""How what crosses the process border is pickled.

Arrays travel as handles: a shared one as it is, a private one through a shared copy made for the call,
read-only on the other side. Functions of the caller's ``__main__`` are pickled by value, and all of them
share the worker's one ``__main__.__dict__``, so that ``def init(): global model`` works. Where the user's
script is run by another program (``python -m cProfile``, `exec`), its namespace is not that of the module
``__main__``; such a namespace is one dictionary in a worker, too. Results go plainly first. Classes that come
back are those that were sent: see `_code.classes`.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .._code.classes import reduce_by_token, reduce_by_value
from .._code.modules import MAIN, MAINS, is_users
from .._code.reach import Reach, is_root, news_for_all, reaches_of, sender
from .._code.recipient import receive_changes
from .._interop.buffers import is_plain, keep_attributes, reduce_exception, reduce_kin, reduce_view
from .._interop.captured_stores import reduce_store
from .._memory import (
    FileHandle,
    Handle,
    SegmentHandle,
    from_handle,
    handle_of,
    packed_nbytes,
    place,
)
from .._system.imports import late_import
from .chains import CHAIN_NBYTES, ChainLink, has_chain, link_chain, unlink_chain

# A private array smaller than this travels inside the pickle; larger ones through shared memory.
INLINE_NBYTES = 1 << 14


# ---------------------------------------------------------------- for workers


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
    classes: tuple[type, ...] = ()
    """Classes that are in it by value: they must be there when results come back, which only name them."""
    reaches: tuple[Reach, ...] = ()
    """What it leads to in the user's modules."""


Copies = dict[Any, tuple[Any, Any]]
"""Private arrays that were placed for one call, and the shared copies, by address and layout."""


def _frozen(a: Any) -> Any:
    a.flags.writeable = False
    return a


def _from_handle(handle: tuple[Any, ...]) -> Any:
    handle_type = SegmentHandle if len(handle) == 6 else FileHandle
    return from_handle(handle_type(*handle))


def _rebuild(handle: tuple[Any, ...], kind: type) -> Any:
    a = _from_handle(handle)
    return a if kind is np.ndarray else a.view(kind)


_IN_PACKAGE = " in "
_CONNECTIONS = "multiprocessing.connection"
_PickleBuffer = pickle.PickleBuffer  # looked up for every object that is pickled
_Function = types.FunctionType
_CachedFunction: Any = type(functools.lru_cache(len))


def _make_cached(func: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(func)


def _reduce_global(obj: Any) -> Any:
    """What to pickle for an object that goes by the name of a global of ``__main__``; else NotImplemented.

    A worker's ``__main__`` does not have it yet, so its content goes along.
    """
    kind: Any = type(obj)
    if kind is typing.NewType:
        if obj.__module__ in MAINS:
            return _make_new_type, (obj.__qualname__, obj.__supertype__)
    elif kind.__module__ in MAINS and kind.__reduce__ is not object.__reduce__:
        name = obj.__reduce__()
        if isinstance(name, str) and hasattr(obj, "__dict__"):
            return _make_global, (name, kind), vars(obj)
    return NotImplemented


def _make_global(name: str, kind: Any) -> Any:
    namespace = sys.modules[MAIN].__dict__
    if type(namespace.get(name)) is not kind:
        namespace[name] = object.__new__(kind)
    return namespace[name]


def _make_new_type(name: str, supertype: Any) -> Any:
    new_type = typing.NewType(name, supertype)  # type: ignore[misc]
    new_type.__module__ = MAIN
    return new_type


def _make_cached_property(func: Any, name: str | None) -> Any:
    made = functools.cached_property(func)
    made.attrname = name
    return made


def _import_home(kind: type) -> None:
    """Import the module that a class is found in: cloudpickle looks at those imported only.

    Any other goes by value, and is another class there. NumPy imports ``numpy.rec``, where `recarray` is
    found, when somebody first asks for it.
    """
    name: Any = kind.__module__
    if isinstance(name, str) and name not in sys.modules:
        with suppress(Exception), late_import:
            importlib.import_module(name)


_pickler_class: type | None = None
_NO_FILE = "<dynamic-code>"


def _make_pickler() -> type:
    """The pickler class; made on first use, because cloudpickle takes 10 ms to import."""
    with late_import:
        import cloudpickle

    main = sys.modules.get(MAIN)
    if main is not None and main.__name__ != MAIN and main.__name__ in MAINS:
        cloudpickle.register_pickle_by_value(main)  # as "__main__" is without being told
    base: Any = cloudpickle.Pickler
    reduce_as_it_does = base.dispatch_table[types.CodeType]

    def reduce_code(code: types.CodeType) -> Any:
        # From 3.1.3 cloudpickle calls the file of all code "<dynamic-code>"; then the remote traceback
        # of a function that travels by value would show no line of it.
        make, args = reduce_as_it_does(code)
        return make, tuple(
            code.co_filename if isinstance(arg, str) and arg == _NO_FILE else arg for arg in args
        )

    reduce_standard_stream = base.dispatch_table[io.TextIOWrapper]

    def reduce_text_file(file: io.TextIOWrapper) -> Any:
        # cloudpickle would send what is in the file, and each worker would read it from the same position.
        if file is sys.stdout or file is sys.stderr:
            return reduce_standard_stream(file)
        raise TypeError("cannot pickle an open file")

    class CallPickler(base):  # type: ignore[misc]
        """cloudpickle, with arrays as handles and one namespace for ``__main__``."""

        dispatch_table: ClassVar[Any] = ChainMap(
            {types.CodeType: reduce_code, io.TextIOWrapper: reduce_text_file}, base.dispatch_table
        )

        def __init__(self, file: io.BytesIO, copies: Copies | None) -> None:
            super().__init__(file, protocol=5)
            self._copies = copies
            self.segments: set[int] = set()
            self.keep: list[Any] = []
            self.classes: list[type] = []
            self.placed = 0
            self.by_value = False
            self.met: list[Any] = []
            """Functions, classes and modules that may lead to the user's modules."""
            main = sys.modules.get(MAIN)
            self._namespaces: list[tuple[dict[str, Any], str]] = []
            if main is not None:
                self._add_namespace(main.__dict__, MAIN)

        def _add_namespace(self, namespace: dict[str, Any], pid: str) -> None:
            # cloudpickle puts functions that share globals into one dict; this one stands for it.
            stand_in = {"__name__": MAIN}
            self.globals_ref[id(namespace)] = stand_in
            package = namespace.get("__package__")
            if package:  # relative imports inside functions go by it
                pid += f"{_IN_PACKAGE}{package}"
            self._namespaces.append((stand_in, pid))

        def persistent_id(self, obj: Any) -> Any:
            kind = type(obj)
            if kind is dict:
                for stand_in, pid in self._namespaces:
                    if obj is stand_in:
                        self.by_value = True
                        return pid
            if kind is _PickleBuffer:
                return self._reduce_buffer(np.frombuffer(obj.raw(), np.uint8))
            return None

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, np.ndarray) and is_plain(obj):
                return self._reduce_array(obj)
            if isinstance(obj, type):
                _import_home(obj)
                if is_root(obj):
                    self.met.append(obj)
                reduced = super().reducer_override(obj)
                if type(reduced) is tuple and len(reduced) == 6:
                    self.classes.append(obj)
                return reduce_by_value(obj, reduced)
            if type(obj) is _Function:
                if is_root(obj):
                    self.met.append(obj)
                namespace = obj.__globals__
                if id(namespace) not in self.globals_ref and namespace.get("__name__") in MAINS:
                    self._add_namespace(namespace, f"{MAIN} {id(namespace):x}")
                return super().reducer_override(obj)
            if type(obj) is functools.cached_property:  # it holds a lock before Python 3.12
                return _make_cached_property, (obj.func, obj.attrname)
            if type(obj) is _CachedFunction and (
                obj.__module__ in MAINS or "<locals>" in obj.__qualname__
            ):
                # By value, like the function in it; each worker begins with an empty cache.
                return _make_cached, (obj.__wrapped__, *obj.cache_parameters().values())
            if type(obj) is types.ModuleType and is_users(obj):
                self.met.append(obj)
            if (
                type(obj).__module__ == _CONNECTIONS
            ):  # which would pickle, as the number of a descriptor
                raise TypeError(f"cannot pickle {type(obj).__name__!r} object")
            reduced = reduce_kin(obj)
            if reduced is NotImplemented:
                reduced = reduce_store(obj)
            if reduced is NotImplemented:
                reduced = _reduce_global(obj)
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

        def _handle_of(self, a: Any) -> Handle | None:
            """The handle of an array, or of a shared copy of it; None if its bytes are to travel."""
            if self._copies is None:
                return None
            handle = handle_of(a)
            if handle is None:
                if a.nbytes < INLINE_NBYTES:
                    return None
                # By address: many views of one array, and one array in many pickles, are one copy.
                key = (a.__array_interface__["data"][0], a.shape, a.strides, a.dtype)
                if key not in self._copies:
                    self._copies[key] = a, place(a)
                    self.placed += packed_nbytes(a)
                a = self._copies[key][1]
                handle = handle_of(a)
                assert handle is not None
            if isinstance(handle, SegmentHandle):
                self.segments.add(handle.segment)
                # Nobody else may hold it while a worker writes there.
                self.keep.append(a)
            return handle

    return CallPickler


@functools.cache
def _make_tracer() -> type:
    """The pickler class that is used to find what does not pickle."""
    base: Any = _make_pickler()

    class Tracer(base):  # type: ignore[misc]
        """A `CallPickler` that remembers what it was at, and looks at no array."""

        def __init__(self, is_left_out: Callable[[Any], bool]) -> None:
            super().__init__(io.BytesIO(), None)
            self._is_left_out = is_left_out
            self.last: Any = None

        def reducer_override(self, obj: Any) -> Any:
            if self._is_left_out(obj):
                return int, ()
            self.last = obj
            return super().reducer_override(obj)

        def _reduce_array(self, a: Any) -> Any:
            return int, ()

        def _reduce_buffer(self, a: Any) -> Any:
            return b""

    return Tracer


def find_unpicklable(obj: Any, is_left_out: Callable[[Any], bool]) -> Any:
    """The part of an object that does not pickle; None if all others than those left out do."""
    tracer: Any = _make_tracer()(is_left_out)
    try:
        tracer.dump(obj)
    except Exception:
        return tracer.last
    return None


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
    """Pickle anything of the caller's for a process that may have none of its memory.

    What it reaches in the user's modules goes with it.
    """
    packed = _pack(obj, None)
    if not packed.reaches:
        return packed.data
    return pickle.dumps(_Accompanied(news_for_all(packed.reaches), packed.data), 5)


class _Accompanied(NamedTuple):
    """A pickle, and the news that its recipient must have before it is opened."""

    news: bytes
    data: bytes

    def __reduce__(self) -> Any:
        return _open_accompanied, (*self, sender())


def _open_accompanied(news: bytes, data: bytes, origin: Any) -> Any:
    if origin != sender():  # else this is the very process
        receive_changes(news, origin)
    return unpack(data)


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
        tuple(pickler.classes),
        reaches_of(pickler.met) if pickler.met else (),
    )


class _JobPickler(pickle.Pickler):
    """For what consists of arrays and plain values alone: ten times faster than cloudpickle."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5)
        self.segments: set[int] = set()

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.ndarray or type(obj) is np.memmap:
            handle = handle_of(obj)
            if handle is not None:
                if isinstance(handle, SegmentHandle):
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


_namespaces: dict[str, dict[str, Any]] = {}
"""Namespaces of scripts that another program runs as ``__main__``, as workers have them."""


def _find_namespace(pid: str) -> dict[str, Any]:
    name, _, package = pid.partition(_IN_PACKAGE)
    namespace = sys.modules[MAIN].__dict__
    if name != MAIN:
        namespace = _namespaces.setdefault(name, {"__name__": MAIN})
    if package and namespace.get("__package__") != package:
        namespace["__package__"] = package
    return namespace


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, str):
            return _find_namespace(pid)
        if isinstance(pid, bytes):
            return pid
        if isinstance(pid, tuple):
            return memoryview(_from_handle(pid))
        raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")


def unpack(data: bytes | memoryview) -> Any:
    """Undo `pack`, `pack_plain` or `pack_result`."""
    return _Unpickler(io.BytesIO(data)).load()


# ---------------------------------------------------------------- results


class _Once:
    """Shares each array of a result once, should the result be pickled twice."""

    def __init__(self, share: Callable[[Any], Any]) -> None:
        self._share = share
        self._shared: dict[int, tuple[Any, Any]] = {}

    def __call__(self, a: Any) -> Any:
        known = self._shared.get(id(a))
        if known is not None:
            return known[1]
        handle = self._share(a)
        if handle is not None:
            self._shared[id(a)] = a, handle  # with the array, so that no other has its address
        return handle


class _ByValue(Exception):
    """Something in a result has to go by value."""


_SPECIAL = (type, BaseException, np.ndarray, memoryview)


def _reduce_result(
    obj: Any, share: Callable[[Any], Any] | None, numbers: dict[int, int] | None
) -> Any:
    """What both picklers of results have in common; NotImplemented for what is nothing special.

    `numbers` are those of the exceptions that go by number, if a link of a chain is what is pickled.
    """
    if type(obj) is np.ndarray and share is not None:
        handle = share(obj)
        if handle is not None:
            return _rebuild, (tuple(handle), np.ndarray)
    elif isinstance(obj, np.ndarray):
        return keep_attributes(obj)
    elif type(obj) is memoryview:
        return reduce_view(obj)
    elif isinstance(obj, type):
        return reduce_by_token(obj) or NotImplemented
    elif isinstance(obj, BaseException):
        if numbers is None:
            if has_chain(obj):
                return unpack_chain, (pack_chain(obj),)
        elif id(obj) in numbers:
            return _linked, (numbers[id(obj)],)
        return reduce_exception(obj)
    return NotImplemented


class _ResultPickler(pickle.Pickler):
    def __init__(
        self, file: io.BytesIO, share: Callable[[Any], Any] | None, numbers: dict[int, int] | None
    ) -> None:
        super().__init__(file, 5)
        self._share = share
        self._numbers = numbers

    def reducer_override(self, obj: Any) -> Any:
        # Called for everything in a result, so what is nothing special leaves as soon as possible.
        if type(obj) is np.ndarray:
            if self._share is None:
                return NotImplemented
        elif not isinstance(obj, _SPECIAL):
            return NotImplemented
        reduced = _reduce_result(obj, self._share, self._numbers)
        if reduced is NotImplemented and isinstance(obj, type) and obj.__module__ in MAINS:
            raise _ByValue  # whatever else may bear that name in the caller
        return reduced


@functools.cache
def _result_by_value_pickler() -> type:
    """The pickler class for results that do not pickle plainly."""
    with late_import:
        import cloudpickle

    base: Any = cloudpickle.Pickler

    class ResultByValuePickler(base):  # type: ignore[misc]
        def __init__(
            self,
            file: io.BytesIO,
            share: Callable[[Any], Any] | None,
            numbers: dict[int, int] | None,
        ) -> None:
            super().__init__(file, protocol=5)
            self._share = share
            self._numbers = numbers

        def reducer_override(self, obj: Any) -> Any:
            reduced = _reduce_result(obj, self._share, self._numbers)
            if reduced is not NotImplemented:
                return reduced
            reduced = super().reducer_override(obj)
            return reduce_by_value(obj, reduced) if isinstance(obj, type) else reduced

    return ResultByValuePickler


def pack_result(obj: Any, share: Callable[[Any], Any] | None = None) -> bytes:
    """Pickle a function's result for the caller.

    `share` returns the handle of an array that is to travel as one, having announced its segment.
    """
    return _pack_result(obj, None if share is None else _Once(share), None)


def _pack_result(
    obj: Any, share: Callable[[Any], Any] | None, numbers: dict[int, int] | None
) -> bytes:
    file = io.BytesIO()
    try:
        _ResultPickler(file, share, numbers).dump(obj)
        return file.getvalue()
    except Exception as exc:
        file = io.BytesIO()
        try:
            _result_by_value_pickler()(file, share, numbers).dump(obj)
            return file.getvalue()
        except Exception as by_value:
            raise (by_value if isinstance(exc, _ByValue) else exc) from None


# ---------------------------------------------------------------- exceptions


def pack_chain(exc: BaseException) -> bytes:
    """Pickle an exception with those it hangs together with, and see that it unpickles.

    Raises
    ------
    Exception
        If the exception itself does neither. Others that do not have stand-ins.
    """
    if not has_chain(exc) and not hasattr(exc, "__notes__"):  # most exceptions
        data = _pack_result(exc, None, {})
        if len(data) <= CHAIN_NBYTES and type(unpack(data)) is type(exc):
            return data
    links = link_chain(exc, _pack_link, _unpack_link)
    if not links[0].data:
        _pack_link(exc, {})  # raises the reason, if it is that
        raise TypeError(f"an exception of type {type(exc).__qualname__} does not unpickle")
    return pickle.dumps(tuple(map(tuple, links)), 5)


def unpack_chain(data: bytes) -> BaseException:
    """Undo `pack_chain`."""
    unpacked = unpack(data)
    if isinstance(unpacked, BaseException):
        return unpacked
    return unlink_chain(tuple(ChainLink(*link) for link in unpacked), _unpack_link)


def _pack_link(exc: BaseException, numbers: dict[int, int]) -> bytes:
    return _pack_result(exc, None, {k: v for k, v in numbers.items() if k != id(exc)})


def _linked(number: int) -> BaseException:
    raise pickle.UnpicklingError("an exception is to be loaded with its chain")


class _LinkUnpickler(_Unpickler):
    def __init__(self, file: io.BytesIO, get: Callable[[int], BaseException]) -> None:
        super().__init__(file)
        self._get = get

    def find_class(self, module: str, name: str) -> Any:
        if name == _linked.__name__ and module == __name__:
            return self._get
        return super().find_class(module, name)


def _unpack_link(data: bytes, get: Callable[[int], BaseException]) -> Any:
    return _LinkUnpickler(io.BytesIO(data), get).load()
