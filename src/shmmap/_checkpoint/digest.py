"""Digests by which a function and its data are known again by another process, on another day.

Of a function counts what it does: its code, constants, defaults, what it closes over, and the globals that it
names in the user's modules; not where it stands. Of an array counts its layout, and its bytes: all of them up
to 1 MiB, beyond that pages of them, evenly spread, unless all are asked for.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import pickle
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .._code.modules import is_users_or_main
from .._code.namespaces import MISSING, cell_contents, globals_of
from .._interop.numpy_types import Array

WHOLE_NBYTES = 1 << 20
PAGES, PAGE_NBYTES = 256, 4096

_SCALARS = (type(None), bool, int, float, complex, str, bytes, bytearray, type(...))
# Names of a class that are the interpreter's, or say where it stands.
_OF_CLASSES = frozenset(
    "__dict__ __weakref__ __module__ __doc__ __firstlineno__ __static_attributes__ __abstractmethods__ "
    "_abc_impl __slotnames__ __annotations__ __annotate_func__ __annotations_cache__".split()
)


class Digest:
    """Takes one value after the other, and gives what stands for all of them.

    Equal values give equal digests in every process of one version of Python. `in_full`: of arrays, all bytes
    count. No function of the user's is called but those by which an object is pickled.
    """

    def __init__(self, *, in_full: bool = False) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._in_full = in_full
        self._met: dict[int, tuple[int, object]] = {}
        """By identity: which number an object has, and the object, so that no other gets its identity."""

    def text(self) -> str:
        return self._hash.hexdigest()

    def add(self, value: Any) -> None:
        """Take a value."""
        if isinstance(value, _SCALARS) or type(value) is range:
            self._token(type(value).__name__, repr(value))
        elif type(value) is types.CodeType:
            self._add_code(value)
        elif id(value) in self._met:
            self._token("met", str(self._met[id(value)][0]))
        else:
            self._met[id(value)] = len(self._met), value
            self._add_object(value)

    def _token(self, *words: str | bytes) -> None:
        for word in words:
            data = word.encode("utf-8", "surrogatepass") if isinstance(word, str) else word
            self._hash.update(b"%d:" % len(data))
            self._hash.update(data)

    def _add_all(self, kind: str, values: Iterable[object]) -> None:
        listed = list(values)
        self._token(kind, str(len(listed)))
        for each in listed:
            self.add(each)

    def _add_object(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            self._add_array(value)
        elif isinstance(value, (tuple, list)):
            self._token(type(value).__qualname__)
            self._add_all("sequence", value)
        elif isinstance(value, dict):
            self._token(type(value).__qualname__)
            self._add_all("mapping", (each for item in value.items() for each in item))
        elif isinstance(value, (set, frozenset)):
            # Their order is another one in each process.
            self._token("set", *sorted(_digest_of(each, self._in_full) for each in value))
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            self._add_callable(value)
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, types.ModuleType):
            self._token("module", value.__name__)
        elif isinstance(value, (np.dtype, np.generic)):
            self._token(type(value).__name__, repr(value))
        elif callable(inner := getattr(value, "__wrapped__", getattr(value, "py_func", None))):
            self._token(type(value).__qualname__)
            self.add(inner)  # one that remembers its results, or is compiled
        else:
            self._add_instance(value)

    # ------------------------------------------------ code

    def _add_code(self, code: types.CodeType) -> None:
        # Instruction by instruction: where constants stand depends on whether there is a docstring.
        self._token("code", repr((code.co_argcount, code.co_kwonlyargcount, code.co_flags)))
        self._token(repr(code.co_varnames), repr(code.co_freevars))
        for each in dis.get_instructions(code):
            self._token(each.opname)
            if isinstance(each.argval, (*_SCALARS, tuple, frozenset, types.CodeType)):
                self.add(each.argval)

    def _add_callable(self, func: Any) -> None:
        if isinstance(func, functools.partial):
            self._add_all("partial", (func.func, func.args, func.keywords))
            return
        if isinstance(func, types.MethodType):
            self._add_all("method", (func.__func__, func.__self__))
            return
        module = func.__module__
        if not is_users_or_main(module):  # of an installed package: as that is
            self._token("function", f"{module}.{func.__qualname__}")
            self._add_all("closure", _filled(func))
            return
        self._token("function")
        self._add_code(func.__code__)
        self._add_all("defaults", (func.__defaults__, func.__kwdefaults__))
        self._add_all("closure", _filled(func))
        named = dict(globals_of(func))
        for name in sorted(named):
            self._token(name)
            self._add_global(named[name])

    def _add_global(self, value: object) -> None:
        """What a global stands for that a function names: the user's own in full."""
        module = getattr(value, "__module__", None)
        if isinstance(value, types.ModuleType) or (
            isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type, np.ufunc))
            and not is_users_or_main(module)
        ):
            self._token("named", f"{module}.{getattr(value, '__name__', '')}")
        else:
            self.add(value)

    def _add_class(self, cls: type) -> None:
        self._token("class", f"{cls.__module__}.{cls.__qualname__}")
        if not is_users_or_main(cls.__module__):
            return
        self._add_all("bases", cls.__bases__)
        for name, value in sorted(vars(cls).items()):
            if name in _OF_CLASSES:
                continue
            if isinstance(value, (staticmethod, classmethod)):
                value = value.__func__
            if isinstance(value, property):
                value = (value.fget, value.fset)
            self._token(name)
            if isinstance(value, (*_SCALARS, types.FunctionType, tuple, list, dict, type)):
                self.add(value)

    def _add_instance(self, value: Any) -> None:
        """Any other object: its class, and what pickling it would keep."""
        self.add(type(value))
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:
            return  # it has no state that another process could have
        if isinstance(reduced, str):
            self._token("global", reduced)
            return
        make, arguments, *rest = reduced
        self._token(f"{getattr(make, '__module__', '')}.{getattr(make, '__qualname__', '')}")
        self.add(arguments)
        self._add_all("state", (list(e) if hasattr(e, "__next__") else e for e in rest[:3]))

    # ------------------------------------------------ data

    def _add_array(self, a: Array) -> None:
        self._token("array", repr(a.shape), repr(a.dtype.descr if a.dtype.names else a.dtype.str))
        if a.dtype.hasobject:
            self._add_all("objects", a.tolist() if a.ndim else [a.item()])
            return
        if np.ma.isMaskedArray(a):
            self.add(np.ma.getmaskarray(a))
        a = np.asarray(a)
        if a.nbytes <= WHOLE_NBYTES or self._in_full:
            for part in _parts(a):
                self._token(np.ascontiguousarray(part).tobytes())
        elif a.flags.c_contiguous or a.flags.f_contiguous:
            flat = a.reshape(-1, order="A").view(np.uint8)
            last = flat.size - PAGE_NBYTES
            for k in range(PAGES):
                start = last * k // (PAGES - 1)
                self._token(flat[start : start + PAGE_NBYTES].tobytes())
        else:
            # One number in so many, by their place in C order, whatever the strides are.
            where = np.linspace(0, a.size - 1, min(a.size, PAGES * 64)).astype(np.intp)
            self._token(a[np.unravel_index(where, a.shape)].tobytes())

    def add_pickle(self, value: object) -> None:
        """Take data by their pickle, which is quick where they are many; buffers count as arrays do."""
        buffers: list[pickle.PickleBuffer] = []
        self._token("pickle", pickle.dumps(value, 5, buffer_callback=buffers.append))
        for each in buffers:
            self._add_array(np.frombuffer(each.raw(), np.uint8))


def _parts(a: Array) -> Iterable[Array]:
    """An array in parts of a bounded size, as all of its bytes are copied on the way."""
    if a.ndim == 0 or a.nbytes <= 16 * WHOLE_NBYTES:
        return (a,)
    step = max(1, 16 * WHOLE_NBYTES * len(a) // a.nbytes)
    return (a[at : at + step] for at in range(0, len(a), step))


def _filled(func: types.FunctionType) -> list[object]:
    return [None if each is MISSING else each for each in cell_contents(func)]


def _digest_of(value: object, in_full: bool) -> str:
    digest = Digest(in_full=in_full)
    digest.add(value)
    return digest.text()


def digest_of_function(func: Callable[..., object], *, in_full: bool = False) -> str:
    """What stands for a function, wherever it is defined."""
    return _digest_of(func, in_full)
