"""Private arrays are read-only while a mapped function runs in the caller's own process.

In a worker process a private array is a copy, to which a write would vanish, so it arrives read-only. For the
same to hold on every engine, the caller's own arrays are made read-only as long as a map runs in the
caller's process: then a write raises everywhere instead of depending on the engine.

The flag belongs to the array, and several maps may want it at once. So there is one table of arrays that
are read-only because of maps, and of which maps those are. What must hold:

- An array is read-only as long as one map wants it so, and writeable again after the last one.
- What was read-only before is never made writeable.
- Giving the flag back never raises. NumPy refuses it to a view whose base is read-only: bases come first,
  and a view whose base another map still holds waits for that base.
- Neither a Ctrl-C nor a signal handler that runs a map of its own leaves an array read-only: see `ShortLock`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from itertools import count
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from .._code.captured import is_array, walk
from .._interop.buffers import is_plain
from .._interop.captured_stores import is_store, set_locked
from .._memory import handle_of
from .._system.forks import at_fork
from .._system.interrupts import ShortLock

# Objects looked at: a second's worth. What holds more is no closure that anybody writes.
_MOST = 2_000_000
_WRITEABLE = 0x400  # NPY_ARRAY_WRITEABLE


def _captures_nothing(root: Any) -> bool:
    """Whether an object is a function that refers to nothing but its arguments."""
    if type(root) is not FunctionType or root.__closure__ or root.__defaults__:
        return False
    code = root.__code__
    is_closed = not (root.__kwdefaults__ or root.__dict__ or code.co_names)
    return is_closed and CodeType not in map(type, code.co_consts)


class _Hold:
    """An array that is read-only because of maps."""

    __slots__ = ("array", "depth", "owners")

    def __init__(self, array: object) -> None:
        self.array = array
        self.depth = sum(1 for _ in _bases(array))
        self.owners: dict[int, int] = {}
        """The maps that want it so, by number, and the threads that they belong to."""


_holds: dict[int, _Hold] = {}
_waiting: dict[int, _Hold] = {}
"""Those among them that no map wants any more, and whose base some other map holds."""
_owners = count()
_lock = ShortLock()


def _forget_other_threads() -> None:
    """In a forked child: the threads whose maps hold arrays are not there."""
    me = threading.get_ident()
    for key, hold in list(_holds.items()):
        hold.owners = {owner: thread for owner, thread in hold.owners.items() if thread == me}
        if not hold.owners:
            _waiting[key] = hold
    _thaw_waiting()


at_fork(after_in_child=_forget_other_threads)


def _set_writeable(a: object, writeable: bool) -> None:
    if isinstance(a, np.ndarray):
        np.ndarray.setflags(a, write=writeable)
    else:
        set_locked(a, not writeable)


def _is_writeable(a: Any) -> bool:
    if not isinstance(a, np.ndarray):
        return not a.read_only
    # `flags.writeable` warns where the array is one of `numpy.broadcast_arrays`.
    return bool(a.flags.num & _WRITEABLE)


def _bases(a: object) -> Iterator[object]:
    base = getattr(a, "base", None)
    while isinstance(base, np.ndarray):
        yield base
        base = base.base


def private_arrays(*roots: object, stores: bool = False) -> list[object]:
    """Arrays that lie in some objects, or are captured by them, and that workers would get copies of.

    An array of Python objects inside an object of a library is left alone: workers get it writeable, as
    libraries expect it. With `stores`, those of zarr as well.
    """
    return [
        found.obj
        for found in walk("", *roots, most=_MOST)
        if (
            is_array(found.obj)
            and not (found.is_inner and not is_plain(found.obj) and found.obj.dtype.hasobject)
            and (_is_writeable(found.obj) or id(found.obj) in _holds)
            and handle_of(found.obj) is None
        )
        or (
            stores and is_store(found.obj) and (_is_writeable(found.obj) or id(found.obj) in _holds)
        )
    ]


class frozen:
    """A context in which private arrays are read-only: what functions capture, and what lies in objects.

    With `stores` those of zarr are, too: two threads that write into one storage chunk lose values.
    """

    def __init__(self, *roots: object, stores: bool = False) -> None:
        self._roots = roots
        self._stores = stores
        self._held: list[object] = []
        self._owner = next(_owners)

    def __enter__(self) -> None:
        if all(map(_captures_nothing, self._roots)):
            return
        arrays = private_arrays(*self._roots, stores=self._stores and "zarr" in sys.modules)
        self._roots = ()
        if not arrays:
            return
        self.__class__ = _Holding
        with _lock.held():
            for a in arrays:
                self._held.append(a)  # first: it can be given back from now on
                if self._own(a):
                    _waiting.pop(id(a), None)
                    _set_writeable(a, False)

    def _own(self, a: object) -> bool:
        """Enter this map into the table; False if it was somebody else who made the array read-only."""
        while True:
            hold = _holds.get(id(a))
            if hold is None:
                if not _is_writeable(a):
                    return False
                hold = _Hold(a)
            hold.owners[self._owner] = threading.get_ident()
            if _holds.setdefault(id(a), hold) is hold:
                return True
            # A signal handler has had it in between.

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.release()
        except BaseException:  # a Ctrl-C just before it could be held back
            self.release()
            raise

    def release(self) -> None:
        """Make writeable again what no other map holds; more than once is the same as once."""
        if type(self) is frozen:  # nothing was taken, or it has been given back
            return
        with _lock.held():
            while self._held:
                a = self._held[-1]
                hold = _holds.get(id(a))
                if hold is not None:
                    hold.owners.pop(self._owner, None)
                    if not hold.owners:
                        _waiting[id(a)] = hold
                self._held.pop()
            _thaw_waiting()
        self.__class__ = frozen


class _Holding(frozen):
    """One that has taken arrays, and gives them back at the latest when it is dropped.

    A Ctrl-C, or an exception of a signal handler, may come just as `__exit__` begins. In most cases it does
    not, and then nothing is to run when the object is dropped, since Python discards a Ctrl-C there.
    """

    def __del__(self) -> None:
        self.release()


def _thaw_waiting() -> None:
    for key, hold in sorted(_waiting.items(), key=lambda item: item[1].depth):
        _thaw(key, hold)


def _thaw(key: int, hold: _Hold) -> None:
    """Make an array writeable that no map holds, if its base lets it."""
    a = hold.array
    try:
        _set_writeable(a, True)
    except ValueError:
        if any(id(base) in _holds for base in _bases(a)):
            return
        # Its base was made read-only by somebody else meanwhile, and so it stays.
    _holds.pop(key, None)
    _waiting.pop(key, None)
    if hold.owners:  # a signal handler has begun a map in between
        _holds.setdefault(key, hold)
        _set_writeable(a, False)


def freeze_for_good(arrays: Iterable[object]) -> None:
    """Make arrays read-only, in a process that ends with its map."""
    for a in arrays:
        _set_writeable(a, False)
