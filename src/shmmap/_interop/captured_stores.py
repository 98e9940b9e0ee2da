"""Stores of zarr and HDF5 that workers have by another way than ``out=``: they can be read, and not written.

docs/design/0024-stored-arrays-are-opened-by-workers.md says which are read-only where, and why. zarr and h5py
are never imported here.
"""

from __future__ import annotations

import copyreg
import functools
import gc
import sys
import types
from typing import Any

_READ_ONLY = (
    "what is captured, or lies in an item or argument, can be read in a worker, but not written, as several "
    "of them would write into one storage chunk at the same time: return the values, and give the array as "
    "out="
)
_STORE_WRITES = "set set_if_not_exists set_sync delete delete_dir delete_sync clear".split()
_HDF5_WRITES = (
    ("Dataset", ("__setitem__", "write_direct", "resize")),
    ("Group", ("__setitem__", "__delitem__", "create_dataset", "create_group")),
)


def _store_kind() -> Any:
    """The class of all of zarr's stores, if zarr is imported; it is another thing before version 3."""
    return getattr(sys.modules.get("zarr.abc.store"), "Store", None)


def is_store(obj: object) -> bool:
    """Whether an object is a store of zarr's."""
    kind = _store_kind()
    return kind is not None and issubclass(type(obj), kind)


def reduce_store(obj: Any) -> object:
    """What to pickle for a store of zarr's, so that it can only be read; NotImplemented for anything else."""
    if not is_store(obj) or (obj.read_only and not is_locked(obj)):
        return NotImplemented
    return _lock, (_Plain(obj),)


class _Plain:
    """A store on its way to another process, as it says itself that it is pickled."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __reduce__(self) -> tuple[object, ...]:
        make, *rest = self._store.__reduce_ex__(5)
        # The pickler wants objects of the class itself from what pickles most objects.
        return (_new if make is copyreg.__newobj__ else make, *rest)  # type: ignore[attr-defined]


def _new(kind: type, *args: object) -> object:
    return kind.__new__(kind, *args)


def _lock(store: object) -> object:
    if not isinstance(store, _Locked):
        store.__class__ = _locked_kind(type(store))
    return store


def is_locked(store: object) -> bool:
    """Whether a store can only be read because of this module."""
    return isinstance(store, _Locked)


def set_locked(store: Any, locked: bool) -> None:
    """Have a store be read only, or as it was."""
    if locked:
        _lock(store)
    elif is_locked(store):
        store.__class__ = store.plain_kind


def unlock(store: object) -> object:
    """The same store as it was, to write an output into it; anything else is returned as it is."""
    if not isinstance(store, _Locked):
        return store
    unlocked: Any = object.__new__(store.plain_kind)
    unlocked.__dict__ = vars(store)
    return unlocked


class _Locked:
    """What the classes of stores that can only be read have in common."""

    __slots__ = ()
    plain_kind: Any


def _refuse_to_write(*args: object, **options: object) -> None:
    raise ValueError(_READ_ONLY)


def _reduce_unlocked(store: object, protocol: object) -> object:
    return _Plain(unlock(store)).__reduce__()


_kinds: dict[object, object] = {}
"""Classes of stores, and what those of their kind that can only be read are of."""


def _locked_kind(kind: type) -> Any:
    if kind not in _kinds:
        names = {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__reduce_ex__": _reduce_unlocked,
            "plain_kind": kind,
            "read_only": True,
        }
        names |= {name: _refuse_to_write for name in _STORE_WRITES if hasattr(kind, name)}
        # In this order, so that it has the layout of its kind: objects change to no other.
        _kinds[kind] = types.new_class(
            kind.__name__, (kind, _Locked), exec_body=lambda body: body.update(names)
        )
    return _kinds[kind]


def open_hdf5_files() -> list[Any]:
    """The HDF5 files that are open in this process, as h5py's library has them."""
    h5py = sys.modules.get("h5py")
    return [] if h5py is None else h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)


def lock_inherited_stores() -> None:
    """In a worker that was forked from the caller: what came along can only be read."""
    kind = _store_kind()
    if kind is not None:
        kinds, waiting = set(), [kind]
        while waiting:
            each = waiting.pop()
            kinds.add(each)
            waiting += set(type.__subclasses__(each)) - kinds
        gc.unfreeze()  # the caller may have frozen its objects before it forked: they would not be found
        for obj in gc.get_referrers(*kinds):
            if type(obj) in kinds:
                _lock(obj)
    files = {file.id for file in open_hdf5_files()}
    if files:
        h5py = sys.modules["h5py"]
        for name, methods in _HDF5_WRITES:
            for method in methods:
                _guard(h5py, getattr(h5py, name), method, files)


def _guard(h5py: Any, kind: type, name: str, locked: set[int]) -> None:
    """Have a method of h5py refuse objects of some files."""
    method = getattr(kind, name)

    @functools.wraps(method)
    def guarded(self: Any, *args: object, **options: object) -> object:
        if self.id.valid and h5py.h5i.get_file_id(self.id).id in locked:
            raise ValueError(_READ_ONLY)
        return method(self, *args, **options)

    setattr(kind, name, guarded)
