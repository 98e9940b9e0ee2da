"""How a function's results and exceptions are pickled for the caller: plainly first, by value if need be.

An exception goes with those it hangs together with (see `chains`): each is pickled by itself, with the others
in it by their numbers.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from .._code.classes import reduce_by_token
from .._code.modules import MAINS
from .._interop.buffers import keep_attributes, reduce_exception, reduce_view
from .._interop.numpy_types import Array
from .._interop.scalars import SCALARS
from .._memory import Handle, PortableHandle, SegmentHandle
from .arrays import reduce_handle
from .chains import CHAIN_NBYTES, ChainLink, has_chain, link_chain, unlink_chain
from .pickling import load_picklers
from .unpickling import Unpickler, unpack

Share = Callable[[Array], Handle | None]
"""The handle of an array that is to travel as one, having announced its segment; None for any other."""

_SPECIAL = (type, BaseException, np.ndarray, memoryview, PortableHandle)


class _ByValue(Exception):
    """Something in a result has to go by value."""


class _PlainPickler(pickle.Pickler):
    def __init__(
        self, file: io.BytesIO, share: Share | None, numbers: dict[int, int] | None
    ) -> None:
        super().__init__(file, 5)
        self._share = share
        self._numbers = numbers
        """Of the exceptions that go by number, if a link of a chain is what is pickled."""
        self._shared: dict[int, tuple[Array, Handle]] = {}
        """By address, as a result that is pickled twice shares an array once; with the array, so that no
        other has its address."""

    def reducer_override(self, obj: object) -> Any:
        # Called for everything in a result, so what is nothing special leaves as soon as possible.
        if type(obj) is np.ndarray:
            if self._share is None:
                return NotImplemented
        elif not issubclass(type(obj), _SPECIAL):  # by its type: a proxy may fail to say what it is
            return NotImplemented
        reduced = self.reduce(obj)
        if reduced is NotImplemented and isinstance(obj, type) and obj.__module__ in MAINS:
            raise _ByValue  # whatever else may bear that name in the caller
        return reduced

    def reduce(self, obj: object) -> object:
        """What to pickle for what is special; NotImplemented for anything else."""
        if type(obj) is np.ndarray and self._share is not None:
            handle = self._handle_of(obj)
            if handle is not None:
                return reduce_handle(handle)
        elif isinstance(obj, PortableHandle):
            found = obj.__reduce_for_worker__()
            if found is not None and isinstance(self._handle_of(found[0]), SegmentHandle):
                return found[1]
        elif isinstance(obj, np.ndarray):
            return keep_attributes(obj)
        elif type(obj) is memoryview:
            return reduce_view(obj)
        elif isinstance(obj, type):
            return reduce_by_token(obj) or NotImplemented
        elif isinstance(obj, BaseException):
            if self._numbers is None:
                if has_chain(obj):
                    return unpack_chain, (pack_chain(obj),)
            elif id(obj) in self._numbers:
                return _linked, (self._numbers[id(obj)],)
            return reduce_exception(obj)
        return NotImplemented

    def _handle_of(self, a: Array) -> Handle | None:
        """The handle of an array, whose segment was announced; None if it is not to travel as one."""
        known = self._shared.get(id(a))
        if known is not None:
            return known[1]
        handle = None if self._share is None else self._share(a)
        if handle is not None:
            self._shared[id(a)] = a, handle
        return handle


def pack_result(obj: object, share: Share | None = None) -> bytes:
    """Pickle a function's result for the caller."""
    return _pack(obj, share, None)


def pack_pieces(pieces: list[tuple[int, int, Any]], share: Share) -> tuple[bytes, bool]:
    """Pickle results of chunks for the caller: plain ones by `pickle` itself, NumPy's numbers as one array.

    Through a pickler that looks at each, these take a hundred times as long. Whether all are plain, so that
    `pickle` reads them as well.
    """
    plain = []
    for first, last, values in pieces:
        kinds = set(map(type, values)) if type(values) is list else {type(values)}
        if not kinds <= SCALARS:
            if len(kinds) > 1 or not kinds <= _NUMBERS or type(values) is not list:
                return _pack(pieces, share, None), False
            values = _Numbers(values)
        plain.append((first, last, values))
    return pickle.dumps(plain, 5), True


_NUMBERS = frozenset(
    np.dtype(name).type for name in "bool i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split()
)
"""By their exact types, each the one that its dtype gives again."""


class _Numbers:
    """A list of numbers of one of NumPy's types, on its way."""

    def __init__(self, values: list[Any]) -> None:
        self._array = np.array(values)

    def __reduce__(self) -> tuple[Any, ...]:
        return _to_list, (self._array.dtype.str, self._array.tobytes())


def _to_list(code: str, data: bytes) -> list[Any]:
    return list(np.frombuffer(data, code))


def _pack(obj: object, share: Share | None, numbers: dict[int, int] | None) -> bytes:
    file = io.BytesIO()
    plain = _PlainPickler(file, share, numbers)
    try:
        plain.dump(obj)
        return file.getvalue()
    except Exception as exc:
        file = io.BytesIO()
        try:
            load_picklers().ResultPickler(file, plain.reduce).dump(obj)
            return file.getvalue()
        except Exception as by_value:
            raise (by_value if isinstance(exc, _ByValue) else exc) from None


# ---------------------------------------------------------------- exceptions


def pack_chain(exc: BaseException) -> bytes:
    """Pickle an exception with those it hangs together with, and see that it unpickles.

    Raises an exception if this one does not do both. Any other of the chain that does not has a stand-in.
    """
    if not has_chain(exc) and not hasattr(exc, "__notes__"):  # most exceptions
        data = _pack_link(exc, {})
        if len(data) <= CHAIN_NBYTES and type(unpack(data)) is type(exc):
            return data
    links = link_chain(exc, _pack_link, _unpack_link)
    if not links[0].data:
        _pack_link(exc, {})  # raises the reason, if it is that
        raise TypeError(f"an exception of type {type(exc).__qualname__} does not unpickle")
    return pickle.dumps(tuple(map(tuple, links)), 5)


def unpack_chain(data: bytes) -> BaseException:
    unpacked = unpack(data)
    if isinstance(unpacked, BaseException):
        return unpacked
    return unlink_chain(tuple(ChainLink(*link) for link in unpacked), _unpack_link)


def _pack_link(exc: BaseException, numbers: dict[int, int]) -> bytes:
    return _pack(exc, None, {k: v for k, v in numbers.items() if k != id(exc)})


def _linked(number: int) -> BaseException:
    raise pickle.UnpicklingError("an exception is to be loaded with its chain")


class _LinkUnpickler(Unpickler):
    def __init__(self, file: io.BytesIO, get: Callable[[int], BaseException]) -> None:
        super().__init__(file)
        self._get = get

    def find_class(self, module: str, name: str) -> object:
        if name == _linked.__name__ and module == __name__:
            return self._get
        return super().find_class(module, name)


def _unpack_link(data: bytes, get: Callable[[int], BaseException]) -> object:
    return _LinkUnpickler(io.BytesIO(data), get).load()
