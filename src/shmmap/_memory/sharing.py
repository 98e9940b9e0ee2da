"""`share`: an equal copy of any object, its large data read-only in shared memory.

The object is pickled within this process with its arrays and buffers set aside, and loaded again around their
copies, which lie in one block. Nothing marks the result as shared. See
docs/design/0020-out-of-band-buffers.md.
"""

from __future__ import annotations

import io
import pickle
import types
from typing import Any, TypeVar

import numpy as np

from .._interop.buffers import is_plain, reduce_kin
from .allocation import check_dtype
from .blocks import ALIGN, allocate_bytes
from .handles import handle_of
from .sources import pack_into, packed_nbytes

T = TypeVar("T")

# These stay what they are: the copy lives in the same process.
_SAME = (type, types.FunctionType, types.ModuleType)


class _Pickler(pickle.Pickler):
    """Sets aside arrays, buffers, and what a copy has in common with its original."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5)
        self.aside: list[Any] = []
        self._known: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        is_array = isinstance(obj, np.ndarray) and is_plain(obj)
        if not is_array and type(obj) is not pickle.PickleBuffer and not isinstance(obj, _SAME):
            return None
        position = self._known.setdefault(id(obj), len(self.aside))
        if position == len(self.aside):
            self.aside.append(obj)  # kept, so that its identity stays its own
        return position

    def reducer_override(self, obj: Any) -> Any:
        return reduce_kin(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, replacements: list[Any]) -> None:
        super().__init__(file)
        self._replacements = replacements

    def persistent_load(self, pid: Any) -> Any:
        return self._replacements[pid]


def _needs_copy(a: Any) -> bool:
    """Whether its bytes lie elsewhere, or could still be changed under the object by their owner."""
    return bool(a.flags.writeable) or handle_of(a) is None


def _place_all(aside: list[Any]) -> list[Any]:
    """The same list with arrays and buffers in one block of shared memory, read-only."""
    arrays: dict[int, Any] = {}
    offsets: dict[int, int] = {}
    nbytes = 0
    for i, obj in enumerate(aside):
        if isinstance(obj, pickle.PickleBuffer):
            arrays[i] = np.frombuffer(obj.raw(), np.uint8)
        elif isinstance(obj, np.ndarray):
            arrays[i] = obj
        if i in arrays and _needs_copy(arrays[i]):
            offsets[i] = nbytes
            nbytes += max(1, -(-packed_nbytes(arrays[i]) // ALIGN)) * ALIGN
    root = allocate_bytes(nbytes) if nbytes else np.empty(0, np.uint8)
    placed = list(aside)
    for i, a in arrays.items():
        if i in offsets:
            a = pack_into(root, offsets[i], a)
        else:
            a = a.view()
        a.flags.writeable = False
        placed[i] = memoryview(a) if isinstance(aside[i], pickle.PickleBuffer) else a
    return placed


def share(obj: T) -> T:
    """Return an equal copy of an object whose arrays and buffers live in shared memory, read-only.

    Workers get the bytes of such an object without a copy, whether a function captures it, or it is an
    argument: of a map with ``axis=None``, of `functools.partial`, of :meth:`Team.submit`.

    Parameters
    ----------
    obj : object
        Anything that can be pickled: a dict, a dataclass, a named tuple, a frame of pandas or polars, an
        Arrow table, a sparse matrix, an object of xarray, an array, and any nesting of them.

    Returns
    -------
    object
        Of the same type. What pickle protocol 5 passes out of band (arrays, the buffers of Arrow) lies in
        one block of shared memory, which lives as long as any part of it. What is shared and read-only
        already is not copied. Everything else, such as columns of Python objects, is an ordinary copy,
        and is pickled again for every worker.

    Raises
    ------
    SharedMemoryError
        If there is not enough shared memory; nothing is left allocated.
    TypeError
        For an array of Python objects, and for what cannot be pickled.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> model = shmmap.share({"weights": np.arange(3.0), "name": "a line"})
    >>> model
    {'weights': array([0., 1., 2.]), 'name': 'a line'}
    >>> shmmap.is_shared(model["weights"]), model["weights"].flags.writeable
    (True, False)
    >>> shmmap.pmap(lambda i: model["weights"][i] * 10, range(3))
    [np.float64(0.0), np.float64(10.0), np.float64(20.0)]
    """
    if isinstance(obj, np.ndarray):
        check_dtype(obj.dtype)
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(obj)
    except Exception as exc:
        exc.add_note(
            "shmmap.share copies an object through pickle, which this one does not support"
        )
        raise
    file.seek(0)
    shared: T = _Unpickler(file, _place_all(pickler.aside)).load()
    return shared
