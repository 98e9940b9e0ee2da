"""How a value of a module or class goes to another process: pickled here, and made again there.

`pack_value` pickles it and `unpack_value` makes it. What is found under its own name in a module (a function,
a class, a module) goes by that name, unless it is what is being defined. A part that does not pickle can
be left out as a `Gap`, and a value that does not pickle at all has a `Refused` in its place.

What must hold: a function that is made here lives in the real namespace of its module.
"""

from __future__ import annotations

import functools
import importlib
import io
import marshal
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from .._interop.buffers import is_plain, reduce_kin, restore_instance
from .._interop.numpy_types import Array, DType
from .._memory import FileHandle, SegmentHandle, from_handle, handle_of
from .carried import (
    SMALL_NBYTES,
    WEAK,
    CachedFunction,
    carried_attributes,
    inner_function,
    is_carried,
    is_simple_instance,
    name_of_singleton,
)
from .large import copy_of
from .namespaces import MISSING, cell_contents, dict_of, find_home, names_in

_PICKLE_MAX = 1 << 26


# ---------------------------------------------------------------- functions


def _make_function(code: bytes, module: str | None, closure: int) -> types.FunctionType:
    namespace: dict[str, Any] = {} if module is None else vars(importlib.import_module(module))
    cells = tuple(types.CellType() for _ in range(closure))
    return types.FunctionType(marshal.loads(code), namespace, None, None, cells or None)


def _set_function(func: types.FunctionType, state: tuple[Any, ...]) -> None:
    names, docs, defaults, kwdefaults, attributes, cells, namespace = state
    func.__name__, func.__qualname__, func.__module__ = names
    func.__doc__, func.__annotations__ = docs
    func.__defaults__, func.__kwdefaults__ = defaults, kwdefaults
    func.__dict__.update(attributes)
    if namespace is not None:
        func.__globals__.update(namespace, __builtins__=__builtins__)
    for cell, content in zip(func.__closure__ or (), cells, strict=True):
        if content is not None:
            cell.cell_contents = content[0]


def make_cached(func: Callable[..., object], maxsize: int | None, typed: bool) -> object:
    """A function with a cache, which is empty here."""
    return functools.lru_cache(maxsize, typed)(func)


def _reduce_function(func: types.FunctionType) -> tuple[object, ...]:
    space = func.__globals__
    name = space.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    own_space = None
    if module is None or vars(module) is not space:
        name = None
        own_space = {n: space[n] for n in names_in(func.__code__) if n in space}
        own_space["__name__"] = space.get("__name__", "")
    # What is not carried (a lock, an open file) is left out: see `borrow`.
    cells = [
        (content,) if content is not MISSING and is_carried(content) else None
        for content in cell_contents(func)
    ]
    annotations = {
        key: each for key, each in func.__annotations__.items() if isinstance(each, (str, type))
    }
    state = (
        (func.__name__, func.__qualname__, func.__module__),
        (func.__doc__, annotations if is_carried(annotations) else {}),
        func.__defaults__,
        func.__kwdefaults__,
        carried_attributes(func),
        cells,
        own_space,
    )
    args = (marshal.dumps(func.__code__), name, len(cells))
    return _make_function, args, state, None, None, _set_function


def borrow(value: object, own: object) -> None:
    """Fill cells and attributes that were not carried from the function that is there already."""
    func, source = inner_function(value), inner_function(own)
    if func is None or source is None or func is source:
        return
    for name, each in source.__dict__.items():
        if not is_carried(each):
            func.__dict__.setdefault(name, each)
    there = dict(zip(source.__code__.co_freevars, cell_contents(source), strict=True))
    cells = zip(func.__code__.co_freevars, func.__closure__ or (), strict=True)
    for (name, cell), content in zip(cells, cell_contents(func), strict=True):
        if content is MISSING and there.get(name, MISSING) is not MISSING:
            cell.cell_contents = there[name]


# ---------------------------------------------------------------- pickling


class PackedValue(NamedTuple):
    data: bytes | None
    """None for one that is not carried."""
    arrays: tuple[Array, ...]
    """Shared arrays that it refers to."""
    met: tuple[object, ...]
    """Functions and classes in it that may be the user's."""


class _BoundedFile(io.BytesIO):
    """For what is kept, to be told to workers that are yet to start."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > _PICKLE_MAX:
            raise OverflowError("it is not worth carrying")
        return super().write(data)


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, defined: object, may_share: bool) -> None:
        super().__init__(file, 5)
        self._defined = defined
        self._may_share = may_share
        self.arrays: list[Array] = []
        self.met: list[object] = []

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is types.FunctionType or kind is CachedFunction or issubclass(kind, type):
            return self._reduce_definition(obj, kind)
        if kind is types.ModuleType:
            return importlib.import_module, (obj.__name__,)
        if issubclass(kind, np.ndarray) and is_plain(obj):
            return self._reduce_array(obj)
        if kind is staticmethod or kind is classmethod:
            return kind, (obj.__func__,)
        if kind is property:
            return property, (obj.fget, obj.fset, obj.fdel, obj.__doc__)
        if kind in WEAK:
            return kind, ()
        if kind is types.MappingProxyType:
            return _make_proxy, (dict(obj),)
        if kind is types.MethodType:
            return _make_method, (obj.__func__, obj.__self__)
        if is_simple_instance(obj):  # whatever its class says about attributes
            return _make_instance, (kind,), dict_of(obj), None, None, _set_attributes
        # By its name as a global, if there is one that stands for it.
        return name_of_singleton(obj) or reduce_kin(obj)

    def _reduce_definition(self, obj: Any, kind: type) -> object:
        """A function or class: by name if it is found there, and is not the one that is defined."""
        if obj is not self._defined:
            if kind is not CachedFunction:
                self.met.append(obj)
            home = find_home(obj)
            if home is not None:
                return home[1]
        if kind is types.FunctionType:
            return _reduce_function(obj)
        if kind is CachedFunction:
            return make_cached, (obj.__wrapped__, *obj.cache_parameters().values())
        return NotImplemented

    def _reduce_array(self, a: Array) -> object:
        handle = handle_of(a)
        if handle is None and self._may_share and a.nbytes >= SMALL_NBYTES:
            a = copy_of(a)
            handle = handle_of(a)
        if isinstance(handle, SegmentHandle) and self._may_share:
            self.arrays.append(a)
        if isinstance(handle, FileHandle) or (handle is not None and self._may_share):
            return from_handle, (handle,)
        order: Literal["C", "F"] = "F" if a.flags.fnc else "C"
        return _make_array, (a.tobytes(order), a.dtype, a.shape, order)


def _make_instance(kind: type[object]) -> object:
    return kind.__new__(kind)


def _set_attributes(instance: object, attributes: dict[str, object]) -> None:
    dict_of(instance).update(attributes)


def _make_proxy(mapping: dict[object, object]) -> types.MappingProxyType[object, object]:
    return types.MappingProxyType(mapping)


def _make_method(func: Callable[..., object], instance: object) -> types.MethodType:
    return types.MethodType(func, instance)


def _make_array(
    data: bytes, dtype: DType, shape: tuple[int, ...], order: Literal["C", "F"]
) -> Array:
    a: Array = np.empty(shape, dtype, order)
    a[...] = np.ndarray(shape, dtype, data, order=order) if data else 0
    return a


def pack_value(value: object, defined: object = None, may_share: bool = False) -> PackedValue:
    """Pickle a value of a module or class for a process that has the same modules.

    `defined`: a function at home there, which is carried by its code. `may_share`: the other process can be
    given shared memory; larger arrays then go through shared copies.
    """
    file = _BoundedFile() if may_share else io.BytesIO()
    pickler = _Pickler(file, defined, may_share)
    pickler.dump(value)
    return PackedValue(file.getvalue(), tuple(pickler.arrays), tuple(pickler.met))


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, look_up: Callable[[str, str], object]) -> None:
        super().__init__(io.BytesIO(data))
        self._look_up = look_up

    def find_class(self, module: str, name: str) -> object:
        self._look_up(module, name)
        return super().find_class(module, name)


def unpack_value(data: bytes, look_up: Callable[[str, str], object] = lambda *name: None) -> Any:
    """Undo `pack_value`; `look_up` is called before a global is taken, with its module and name."""
    return _Unpickler(data, look_up).load()


# ---------------------------------------------------------------- what does not pickle


class Gap:
    """Stands for a part that does not pickle, which the other process has made for itself."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name


class _Apart:
    """An instance of a simple class, some of whose attributes are gaps."""

    def __init__(self, kind: type, attributes: dict[str, object]) -> None:
        self._state = kind, attributes

    def __reduce__(self) -> tuple[object, ...]:
        return restore_instance, self._state


def with_gaps(value: Any) -> Any:
    """A value in which a `Gap` stands for whatever does not pickle."""
    kind = type(value)
    if kind is dict:
        return {key: with_gaps(each) for key, each in value.items()}
    if kind is list or kind is tuple:
        return kind(map(with_gaps, value))
    if is_simple_instance(value):
        return _Apart(kind, with_gaps(dict_of(value)))
    try:
        pack_value(value)
    except Exception:
        return Gap(type_name(value))
    return value


def fill_gaps(value: Any, own: object) -> Any:
    """Put into the gaps what this process has in their place."""
    kind = type(value)
    if kind is Gap:
        if own is not MISSING and type_name(own) == value.type_name:
            return own
        return Refused(
            f"a {value.type_name} cannot be carried from the calling process; set it in a Team's initializer"
        )
    if kind is dict:
        there: Any = own if type(own) is dict else {}
        for key, each in value.items():
            value[key] = fill_gaps(each, there.get(key, MISSING))
    elif kind is list or kind is tuple:
        there = own if type(own) is kind else ()
        own_parts = [*there, *[MISSING] * len(value)]
        filled = [fill_gaps(each, own) for each, own in zip(value, own_parts, strict=False)]
        if kind is tuple:
            return tuple(filled)
        value[:] = filled
    elif is_simple_instance(value):
        fill_gaps(dict_of(value), dict_of(own) if type(own) is kind else MISSING)
    return value


def type_name(value: object) -> str:
    """What tells the type of a value on both sides."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


class Refused:
    """Stands for a value that could not be carried: whatever is done with it says so."""

    def __init__(self, why: str) -> None:
        object.__setattr__(self, "_why", why)


def _refuse(self: object, *args: object, **kwargs: object) -> object:
    raise TypeError(object.__getattribute__(self, "_why"))


for _name in (
    "getattribute setattr delattr call bool len iter getitem setitem contains enter exit next index float "
    "int str eq ne lt gt le ge add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow "
    "rpow neg abs matmul rmatmul and or array"
).split():
    setattr(Refused, f"__{_name}__", _refuse)
