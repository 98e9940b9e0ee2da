"""The picklers that are made of cloudpickle's: functions, classes and ``__main__`` by value.

Functions of the caller's ``__main__`` are pickled by value, and all of them share the worker's one
``__main__.__dict__``, so that ``def init(): global model`` works. Classes that come back are those that were
sent: see `_code.classes`.

Imported by `pickling.load_picklers` on first use alone, because cloudpickle takes 10 ms to import.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cloudpickle
import numpy as np

from .._code.carried import CachedFunction
from .._code.classes import reduce_by_value
from .._code.modules import MAIN, MAINS, can_be_imported, is_users, lacks_package
from .._code.values import make_cached
from .._code.watch import is_root
from .._interop.buffers import is_plain, reduce_kin
from .._interop.captured_stores import reduce_store
from .._memory import PortableHandle
from .._system.imports import late_import
from .arrays import ArrayPacker
from .unpickling import IN_PACKAGE, make_cached_property, make_global, make_new_type

_Base: Any = cloudpickle.Pickler
_reduce_code_as_it_does = _Base.dispatch_table[types.CodeType]
_reduce_standard_stream = _Base.dispatch_table[io.TextIOWrapper]
_CONNECTIONS = "multiprocessing.connection"
_NO_FILE = "<dynamic-code>"
_PickleBuffer = pickle.PickleBuffer  # looked up for every object that is pickled
_Function = types.FunctionType
_PECULIAR: Any = (np.ndarray, types.ModuleType, CachedFunction, memoryview, BaseException)

_main = sys.modules.get(MAIN)
if _main is not None and _main.__name__ != MAIN and _main.__name__ in MAINS:
    cloudpickle.register_pickle_by_value(_main)  # as "__main__" is without being told


def _reduce_code(code: types.CodeType) -> tuple[object, ...]:
    # From 3.1.3 cloudpickle calls the file of all code "<dynamic-code>"; then the remote traceback
    # of a function that travels by value would show no line of it.
    make, args = _reduce_code_as_it_does(code)
    return make, tuple(
        code.co_filename if isinstance(arg, str) and arg == _NO_FILE else arg for arg in args
    )


def _reduce_text_file(file: io.TextIOWrapper) -> object:
    # cloudpickle would send what is in the file, and each worker would read it from the same position.
    if file is sys.stdout or file is sys.stderr:
        return _reduce_standard_stream(file)
    raise TypeError("cannot pickle an open file")


def _reduce_global(obj: Any) -> object:
    """What to pickle for an object that goes by the name of a global of ``__main__``; else NotImplemented.

    A worker's ``__main__`` does not have it yet, so its content goes along.
    """
    kind: type[object] = type(obj)
    if kind is typing.NewType:
        if obj.__module__ in MAINS:
            return make_new_type, (obj.__qualname__, obj.__supertype__)
    elif kind.__module__ in MAINS and kind.__reduce__ is not object.__reduce__:
        name = obj.__reduce__()
        if isinstance(name, str) and hasattr(obj, "__dict__"):
            return make_global, (name, kind), vars(obj)
    return NotImplemented


def _import_home(kind: type) -> None:
    """Import the module that a class is found in: cloudpickle looks at those imported only.

    Any other goes by value, and is another class there. NumPy imports ``numpy.rec``, where `recarray` is
    found, when somebody first asks for it.
    """
    name: object = kind.__module__
    if isinstance(name, str) and name not in sys.modules:
        with suppress(Exception), late_import:
            importlib.import_module(name)


def _class_by_value(obj: object) -> Any:
    """How a class is pickled that cannot even be looked up here; None for anything else."""
    if isinstance(obj, type) and lacks_package(obj.__module__):
        return cloudpickle.cloudpickle._dynamic_class_reduce(obj)
    return None


def _has_no_name(func: Any) -> bool:
    """Whether other processes find no function with a cache, or another one, under its name."""
    name: object = func.__module__
    if name in MAINS or "<locals>" in func.__qualname__:
        return True
    found: Any = sys.modules.get(name) if isinstance(name, str) else None
    if found is None or not can_be_imported(found):
        return True
    for part in func.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is not func


_REDUCE: dict[type, Any] = {types.CodeType: _reduce_code, io.TextIOWrapper: _reduce_text_file}


def _is_ordinary(kind: type) -> bool:
    """Whether no object of a class is pickled in a way of its own, if one of them is not.

    Of others it depends on the object: how an array is stored, what a module is, which name a global has.
    """
    home = kind.__module__
    return not (
        issubclass(kind, _PECULIAR)
        or home in MAINS
        or str(home).partition(".")[0] in ("pandas", "polars", "zarr")
    )


class CallPickler(_Base):  # type: ignore[misc]
    """For what the caller sends: arrays as handles, and one namespace for ``__main__``."""

    def __init__(self, file: io.BytesIO, arrays: ArrayPacker) -> None:
        # A plain dictionary: it is asked for every object, which is quicker in C.
        table, copied = _Base.dispatch_table.maps
        self.dispatch_table: dict[type, Any] = {**copied, **table, **_REDUCE}
        super().__init__(file, protocol=5)
        self.arrays = arrays
        self._ordinary: set[type] = set()
        """Classes of which it is known that their objects are pickled as `pickle` does it."""
        self.by_value = False
        """Something of ``__main__`` is in it."""
        self.classes: list[type] = []
        """Those that are in it by value."""
        self.met: list[object] = []
        """Functions, classes and modules that may lead to the user's modules."""
        main = sys.modules.get(MAIN)
        self._namespaces: list[tuple[dict[str, str], str]] = []
        if main is not None:
            self._add_namespace(main.__dict__, MAIN)

    def _add_namespace(self, namespace: dict[str, Any], pid: str) -> None:
        # cloudpickle puts functions that share globals into one dict; this one stands for it.
        stand_in = {"__name__": MAIN}
        self.globals_ref[id(namespace)] = stand_in
        package = namespace.get("__package__")
        if package:  # relative imports inside functions go by it
            pid += f"{IN_PACKAGE}{package}"
        self._namespaces.append((stand_in, pid))

    def persistent_id(self, obj: Any) -> object:
        kind = type(obj)
        if kind is dict:
            for stand_in, pid in self._namespaces:
                if obj is stand_in:
                    self.by_value = True
                    return pid
        if kind is _PickleBuffer:
            return self.arrays.pack_buffer(np.frombuffer(obj.raw(), np.uint8))
        return None

    def reducer_override(self, obj: Any) -> object:
        kind = type(obj)
        if kind in self._ordinary:
            return NotImplemented
        # By its type: a proxy says that it is what it stands for, and fails where that is gone.
        if issubclass(kind, np.ndarray) and is_plain(obj):
            return self.arrays.reduce(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind is _Function:  # most objects in a pickled function: in line, as each call counts
            if is_root(obj):
                self.met.append(obj)
            namespace = obj.__globals__
            if id(namespace) not in self.globals_ref and namespace.get("__name__") in MAINS:
                self._add_namespace(namespace, f"{MAIN} {id(namespace):x}")
            if lacks_package(obj.__module__):
                return self._dynamic_function_reduce(obj)
            return super().reducer_override(obj)
        if kind is functools.cached_property:  # it holds a lock before Python 3.12
            return make_cached_property, (obj.func, obj.attrname)
        if kind is CachedFunction:
            if _has_no_name(obj):
                # By value, like the function in it; each worker begins with an empty cache.
                return make_cached, (obj.__wrapped__, *obj.cache_parameters().values())
        if issubclass(kind, PortableHandle):
            return self.arrays.reduce_portable(obj)
        if kind is types.ModuleType and is_users(obj):
            self.met.append(obj)
        if kind.__module__ == _CONNECTIONS:  # which would pickle, as the number of a descriptor
            raise TypeError(f"cannot pickle {kind.__name__!r} object")
        for reduce in (reduce_kin, reduce_store, _reduce_global):
            reduced: object = reduce(obj)
            if reduced is not NotImplemented:
                return reduced
        if _is_ordinary(kind):
            self._ordinary.add(kind)
        return NotImplemented

    def _reduce_class(self, cls: type) -> object:
        _import_home(cls)
        if is_root(cls):
            self.met.append(cls)
        reduced = _class_by_value(cls) or super().reducer_override(cls)
        if type(reduced) is tuple and len(reduced) == 6:
            self.classes.append(cls)
        return reduce_by_value(cls, reduced)


class Tracer(CallPickler):
    """Remembers what it was at: to find what does not pickle. It looks at no array."""

    def __init__(self, is_left_out: Callable[[object], bool]) -> None:
        super().__init__(io.BytesIO(), _NoArrays(None))
        self._is_left_out = is_left_out
        self.last: object = None

    def reducer_override(self, obj: object) -> object:
        if self._is_left_out(obj):
            return int, ()
        self.last = obj
        return super().reducer_override(obj)


class _NoArrays(ArrayPacker):
    def reduce(self, a: object) -> tuple[object, ...]:
        return int, ()

    def pack_buffer(self, a: object) -> bytes:
        return b""


class ResultPickler(_Base):  # type: ignore[misc]
    """For results that do not pickle plainly."""

    def __init__(self, file: io.BytesIO, reduce: Callable[[object], object]) -> None:
        super().__init__(file, protocol=5)
        self._reduce = reduce

    def reducer_override(self, obj: object) -> object:
        reduced = self._reduce(obj)
        if reduced is not NotImplemented:
            return reduced
        if type(obj) is _Function and lacks_package(obj.__module__):
            return self._dynamic_function_reduce(obj)
        reduced = _class_by_value(obj) or super().reducer_override(obj)
        return reduce_by_value(obj, reduced) if isinstance(obj, type) else reduced
