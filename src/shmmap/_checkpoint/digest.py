"""Digests by which a function and its data are known again by another process, on another day.

Of a function counts what it does: its code, constants, defaults, what it closes over, and the globals and the
modules' attributes that it names in the user's modules; not where it stands. Of an array counts its layout,
and its bytes: all of them up to 1 MiB, beyond that pages of them, evenly spread, unless all are asked for.

What must hold: no difference goes unseen that another process could be given. What cannot be told apart is
listed in the how-to.
"""

from __future__ import annotations

import copyreg
import functools
import gc
import hashlib
import pickle
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from enum import EnumMeta
from typing import Any

import numpy as np

from .._code.modules import is_users_or_main
from .._code.namespaces import MISSING, cell_contents, dict_of, find_home, members_of, names_in
from .._interop.numpy_types import Array
from .._interop.stored import find_stored
from .code import Scope, bytes_of_extension, globals_in, imported_by, instructions_of

WHOLE_NBYTES = 1 << 20
PAGES, PAGE_NBYTES = 256, 4096

_SCALARS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, bytearray, type(...), type(NotImplemented)}
)
_CACHES = (
    weakref.WeakKeyDictionary,
    weakref.WeakValueDictionary,
    weakref.WeakSet,
    weakref.ref,
)
_DESCRIPTORS_OF_C = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
# Names of a class that are the interpreter's, or say where it stands.
_OF_CLASSES = frozenset(
    "__dict__ __weakref__ __module__ __doc__ __firstlineno__ __static_attributes__ __abstractmethods__ "
    "_abc_impl __slotnames__ __annotations__ __annotate_func__ __annotations_cache__ "
    "__classdictcell__".split()
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
        self._waiting: deque[Any] = deque()
        """Objects that have a number, and are still to be looked into: a long chain is no deep one."""
        self._imports: set[str] = set()

    def text(self) -> str:
        while self._waiting:
            self._add_object(self._waiting.popleft())
        return self._hash.hexdigest()

    def add(self, value: Any) -> None:
        """Take a value."""
        kind = type(value)
        if kind in _SCALARS or kind is range:
            self._token(kind.__name__, repr(value))
        elif isinstance(value, (np.dtype, np.generic)):
            self._token(kind.__name__, repr(value))
        else:
            known = self._met.get(id(value))
            if known is None:
                known = self._met[id(value)] = len(self._met), value
                self._waiting.append(value)
            self._token("object", str(known[0]))

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
        kind = type(value)
        if isinstance(value, np.ndarray):
            self._add_array(value)
        elif kind is tuple or kind is list:
            self._add_all(kind.__name__, value)
        elif kind is dict or kind is types.MappingProxyType:
            self._add_all("mapping", (each for item in value.items() for each in item))
        elif kind is set or kind is frozenset:
            # Their order is another one in each process.
            self._token("set", *sorted(_digest_of(each, self._in_full) for each in value))
        elif kind is types.CodeType:
            self._add_code(value)
        elif kind is types.FunctionType:
            self._add_function(value)
        elif kind is types.MethodType:
            self._add_all("method", (value.__func__, value.__self__))
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, types.ModuleType):
            self._add_module(value, None)
        elif kind is np.ufunc:
            # Those that are made of a function have it, and nothing else shows it.
            made_of = [each for each in gc.get_referents(value) if type(each) is not dict]
            self._add_all(
                "ufunc", (value.__name__, value.nin, value.nout, value.types, value.__doc__)
            )
            self._add_all("of", made_of)
        elif kind is np.vectorize:
            of = value.otypes, value.signature, value.excluded, value.cache
            self._add_all("vectorize", (value.pyfunc, *of))
        elif isinstance(value, _CACHES):
            self._token("weak", kind.__qualname__)
        elif isinstance(value, (staticmethod, classmethod)):
            self._add_all(kind.__name__, (value.__func__,))
        elif isinstance(value, property):
            self._add_all("property", (value.fget, value.fset, value.fdel))
        elif isinstance(value, functools.cached_property):
            self._add_all("cached_property", (value.func,))
        else:
            self._add_instance(value)

    # ------------------------------------------------ code

    def _add_code(self, code: types.CodeType, scope: Scope | None = None) -> None:
        # Instruction by instruction: where constants stand depends on whether there is a docstring.
        self._token(
            "code", repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount))
        )
        self._token(repr(code.co_varnames), repr(code.co_freevars), code.co_exceptiontable)
        for name, value in instructions_of(code):
            self._token(name)
            self._add_constant(value, scope)
        for name in imported_by(code, scope):
            self._add_imported(name)

    def _add_constant(self, value: object, scope: Scope | None) -> None:
        """A constant, which may be one object or two of equal ones."""
        if type(value) is types.CodeType:
            self._add_code(value, scope)
        elif type(value) is tuple:
            self._token("tuple", str(len(value)))
            for each in value:
                self._add_constant(each, scope)
        elif type(value) is frozenset:
            self._token("set", *sorted(_digest_of(each, self._in_full) for each in value))
        else:
            self.add(value)

    def _add_imported(self, name: str) -> None:
        """A module of the user's that code imports as it runs: its file, as it may not be loaded yet."""
        self._token("import", name)
        if name not in self._imports:
            self._imports.add(name)
            scope = Scope.of_file(name)
            if scope is not None and scope.code is not None:
                self._add_code(scope.code, scope)

    def _add_function(self, func: types.FunctionType) -> None:
        home = find_home(func)
        scope = Scope.of_globals(func.__globals__)
        if home is not None and not scope.is_users and not is_users_or_main(home[0]):
            self._token("function", *home)  # of an installed package: as that is
            return
        self._token("function")
        self._add_code(func.__code__, scope)
        self._add_all("defaults", (func.__defaults__, func.__kwdefaults__))
        names = names_in(func.__code__)
        self._token("closure")
        for content in cell_contents(func):
            self._add_named(None if content is MISSING else content, names)
        self._add_all("attributes", (e for item in sorted(vars(func).items()) for e in item))
        if not scope.is_users:
            return
        for name in globals_in(func.__code__):
            if name in func.__globals__:
                self._token(name)
                self._add_named(func.__globals__[name], names)

    def _add_named(self, value: object, names: frozenset[str]) -> None:
        """What a variable stands for, in code that has these names."""
        if isinstance(value, types.ModuleType):
            self._add_module(value, names)
        else:
            self.add(value)

    def _add_module(
        self, module: types.ModuleType, names: frozenset[str] | None, above: tuple[object, ...] = ()
    ) -> None:
        """A module; of one of the user's what code names of it, or all. `above`: those it was found in."""
        self._token("module", module.__name__)
        if not is_users_or_main(module.__name__) or any(each is module for each in above):
            return
        found = vars(module)
        for name in sorted(found if names is None else names & found.keys()):
            if name.startswith("__"):
                continue
            self._token(name)
            if isinstance(found[name], types.ModuleType):
                self._add_module(found[name], names, (*above, module))
            else:
                self.add(found[name])

    def _add_class(self, cls: type) -> None:
        self._token("class", f"{cls.__module__}.{cls.__qualname__}")
        if not is_users_or_main(cls.__module__):
            return
        self._add_all("bases", (type(cls), *cls.__bases__))
        self._add_all("members", (e for member in members_of(cls) or () for e in member))
        is_enum = isinstance(cls, EnumMeta)
        for name, value in sorted(vars(cls).items()):
            if name in _OF_CLASSES or isinstance(value, _DESCRIPTORS_OF_C):
                continue
            if is_enum and (isinstance(value, cls) or (name[0] == name[-1] == "_" != name[1])):
                continue  # a member, or a table of them, which grows as they are used
            self._token(name)
            self.add(value)

    def _add_instance(self, value: Any) -> None:
        """Any other object: its class, and what pickling it would keep."""
        kind = type(value)
        self.add(kind)
        stored = find_stored(value)
        if stored is not None:
            self._add_all("stored", (str(stored.key), stored.shape, stored.dtype))
            return
        if callable(inner := getattr(value, "py_func", None)):  # compiled by numba
            self._add_all("compiled", (inner, getattr(value, "targetoptions", None)))
            return
        reducer = copyreg.dispatch_table.get(kind)
        try:
            reduced = value.__reduce_ex__(4) if reducer is None else reducer(value)
        except Exception:
            # It has no state that another process could have; what shows of it counts.
            reduced = str(getattr(value, "__name__", ""))
            self._add_all("shown", (e for item in sorted(dict_of(value).items()) for e in item))
        if isinstance(reduced, str):
            module = str(getattr(value, "__module__", ""))
            self._token("global", module, reduced, bytes_of_extension(module))
            inner = getattr(value, "__wrapped__", None)  # one that remembers its results
            self.add(inner if callable(inner) else None)
            return
        made: tuple[Any, ...] = reduced
        make, arguments, *rest = made
        self._add_all("made", (make, arguments))
        self._add_all("state", (list(e) if hasattr(e, "__next__") else e for e in rest[:3]))

    # ------------------------------------------------ data

    def _add_array(self, a: Array) -> None:
        self._token("array", repr(a.shape), repr(a.dtype))
        if type(a) is not np.ndarray:
            self._add_kind_of_array(a)
        if a.dtype.hasobject:
            self._add_all("objects", a.tolist() if a.ndim else [a.item()])
            return
        a = np.asarray(a)
        if a.nbytes <= WHOLE_NBYTES or self._in_full:
            for part in _parts(a):
                self._token(np.ascontiguousarray(part).tobytes())
        elif a.flags.c_contiguous or a.flags.f_contiguous:
            self._token("C" if a.flags.c_contiguous else "F")
            flat = a.reshape(-1, order="A").view(np.uint8)
            last = flat.size - PAGE_NBYTES
            for k in range(PAGES):
                start = last * k // (PAGES - 1)
                self._token(flat[start : start + PAGE_NBYTES].tobytes())
        else:
            # One number in so many, by their place in C order, whatever the strides are.
            where = np.linspace(0, a.size - 1, min(a.size, PAGES * 64)).astype(np.intp)
            self._token(a[np.unravel_index(where, a.shape)].tobytes())

    def _add_kind_of_array(self, a: Array) -> None:
        """What an array has beside its numbers."""
        if isinstance(a, np.ma.MaskedArray):
            self._add_all("masked", (np.ma.getmaskarray(a), a.fill_value, a.hardmask))
        elif not isinstance(a, np.memmap):
            self.add(type(a))
            if is_users_or_main(type(a).__module__):
                self.add(dict_of(a))

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


def _digest_of(value: object, in_full: bool) -> str:
    digest = Digest(in_full=in_full)
    digest.add(value)
    return digest.text()


def digest_of_function(func: Callable[..., object], *, in_full: bool = False) -> str:
    """What stands for a function, wherever it is defined."""
    return _digest_of(func, in_full)
