"""Shared arrays across any process border: the public `handle`, and `register_reducers`.

To workers of a team, arrays go as `_memory.handles` says. A handle of this kind goes to any other process of
the same user on this machine, whoever pickles it: it says where the memory is (`locations`), and who gets it
opens that. There is no server and no name, so nothing is left behind, whoever dies.
"""

from __future__ import annotations

import numbers
import pickle
from typing import Any, Generic, TypeVar

import numpy as np

from .._errors.arguments import LONG_S, describe
from .._interop.numpy_types import Array
from .._system.imports import late_import
from .allocation import check_dtype
from .handles import PortableHandle
from .leases import leases
from .locations import open_packed, pack
from .reachable import is_in_memory, is_reachable, parts, refuse_without_proc, why_not

A = TypeVar("A", bound=Array)

LEASE_S = 60.0
# Smaller arrays are quicker to copy; `register_reducers` leaves them alone.
REDUCED_NBYTES = 1 << 16


class Handle(PortableHandle, Generic[A]):
    """Stands for a shared array in any other process of the same user on this machine; see :func:`handle`."""

    __module__ = "shmmap"
    __slots__ = ("__weakref__", "_array", "_lease_s", "_packed")

    def __init__(self, array: A | None, lease_s: float = LEASE_S, packed: Any = None) -> None:
        self._array = array
        """None where it could not be opened (yet)."""
        self._packed = packed
        """What it was unpickled from, as long as there is no array."""
        self._lease_s = lease_s

    def array(self) -> A:
        """Return the array: the same memory, with the same strides, as writable as it was.

        Returns
        -------
        numpy.ndarray
            Where the handle was made, the array itself; elsewhere an equal view of the same memory, which
            lives as long as any process has it.

        Raises
        ------
        SharedMemoryError
            If the process that pickled the handle had ended, or dropped the array, before it arrived here; or
            belongs to another container or machine.
        PermissionError
            If that process belongs to another user.
        FileNotFoundError
            If the array lies in a file that was removed or replaced.

        Examples
        --------
        >>> import shmmap
        >>> x = shmmap.zeros(3)
        >>> shmmap.handle(x).array() is x
        True
        """
        if self._array is None:
            self._array = open_packed(self._packed)
            self._packed = None
        return self._array

    def __reduce__(self) -> tuple[object, ...]:
        if self._array is None:
            return _restore, (self._packed, self._lease_s)
        return _restore, (pack(self._array, self._lease_s), self._lease_s)

    def __reduce_for_worker__(self) -> tuple[Array, tuple[object, ...]] | None:
        """See `PortableHandle`."""
        a = self._array
        return None if a is None or type(a) is not np.ndarray else (a, (Handle, (a, self._lease_s)))

    def __copy__(self) -> Handle[A]:
        return self

    def __deepcopy__(self, memo: object) -> Handle[A]:
        return self

    def __repr__(self) -> str:
        if self._array is None:
            return "<shmmap.Handle of an array that could not be reached>"
        return f"<shmmap.Handle of an array, shape {self._array.shape}, dtype {self._array.dtype}>"


def handle(a: A, *, lease: float = LEASE_S) -> Handle[A]:
    """Return a small, picklable handle of a shared array, for any process of this user on this machine.

    It goes wherever pickles go: arguments and results of `multiprocessing`, `concurrent.futures` and loky,
    queues and pipes, programs that know nothing of each other. Workers of a :class:`Team` need none, as
    shared arrays travel to them as they are.

    Parameters
    ----------
    a : numpy.ndarray
        An array in shared memory or in a memory-mapped file, or any view of one; a masked array, or another
        subclass, whose bytes lie there.
    lease : float, default 60
        For how many seconds after the handle was pickled last this process keeps the array, in case it
        drops it before the handle has arrived. Of arrays whose handles have arrived, at most 256 MiB and 64
        are kept for so long. 0 for none: then something else must keep it.

    Returns
    -------
    Handle
        Its method ``array()`` gives the array here and there. The handle keeps it alive.

    Raises
    ------
    TypeError
        If the array is private: share it first, ``shmmap.handle(shmmap.asshared(a))``.
    NotImplementedError
        If there is no ``/proc``, by which other processes reach the memory (as on macOS).

    See Also
    --------
    register_reducers : send large shared arrays as handles without saying so.

    Examples
    --------
    >>> import pickle, shmmap
    >>> x = shmmap.zeros((1000, 1000))
    >>> sent = pickle.dumps(shmmap.handle(x[::2]))  # in this process or any other
    >>> len(sent) < 1000
    True
    >>> view = pickle.loads(sent).array()
    >>> view[0, 0] = 7
    >>> float(x[0, 0])
    7.0
    """
    lease_s = _as_lease(lease)
    if not isinstance(a, np.ndarray):
        raise TypeError(
            f"handle() takes an array in shared memory, not {describe(a)}: "
            "shmmap.handle(shmmap.asshared(a))"
        )
    check_dtype(a.dtype)
    for part in parts(a):
        if not is_reachable(part):
            raise TypeError(why_not(a, part))
        if is_in_memory(part):
            refuse_without_proc()
    leases.linger_at_the_end()
    return Handle(a, lease_s)


def _as_lease(lease: object) -> float:
    if isinstance(lease, bool) or not isinstance(lease, numbers.Real):
        raise TypeError(f"lease must be a number of seconds, not {describe(lease)}")
    seconds = float(lease)
    if not seconds >= 0:  # nor NaN
        raise ValueError(f"lease must be at least 0 seconds, not {lease!r}")
    return min(seconds, LONG_S)


def register_reducers() -> None:
    """Have `multiprocessing` send shared arrays of 64 KiB and more as handles, without being told so.

    Wherever `multiprocessing` and `concurrent.futures` pickle (arguments, results, queues, pipes), a shared
    array, or a view of one, then arrives as the same memory instead of a copy: **what is written there is
    seen here**. Private arrays, and smaller ones, go as before. It holds for what this process pickles: for
    results, call it in the workers too, as their `initializer`.

    A handle that cannot be opened where it arrives (see :meth:`Handle.array`) is an error in the midst of
    unpickling, which pools do not take well; :func:`handle` itself tells it where the array is used.

    Raises
    ------
    NotImplementedError
        If there is no ``/proc`` (as on macOS).

    Examples
    --------
    >>> import shmmap
    >>> shmmap.register_reducers()
    """
    refuse_without_proc()
    with late_import:
        import multiprocessing.util  # noqa: F401  (where `linger_at_the_end` registers)
        from multiprocessing.reduction import ForkingPickler

    for kind in (np.ndarray, np.memmap):
        ForkingPickler.register(kind, _reduce_large)
    leases.linger_at_the_end()


def _reduce_large(a: Array) -> Any:
    is_view = a.base is not None  # an array that owns its bytes is private
    if is_view and a.nbytes >= REDUCED_NBYTES and not a.dtype.hasobject and is_reachable(a):
        return open_packed, (pack(a, LEASE_S),)
    return a.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


def _restore(packed: Any, lease_s: float) -> Handle[Any]:
    """A handle that has arrived: its memory is opened at once, as the sender may be gone later.

    What is wrong is told when the array is asked for: pools lose a task that does not unpickle, and wait for
    it for ever.
    """
    leases.linger_at_the_end()
    try:
        return Handle(open_packed(packed), lease_s)
    except Exception:
        return Handle(None, lease_s, packed)
