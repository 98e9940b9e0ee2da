"""How what lies in the user's modules is carried: functions by their code, plain values by value.

`pack_value` pickles one value of a module or class for another process, `unpack_value` makes it there, and
`is_same` tells whether that is what the other process has already. What is found under its own name in a
module (a function, a class, a module) is carried by that name, unless it is what is being defined.

What must hold: a function that is made here lives in the real namespace of its module. And `is_carried` and
`is_same` never run code of the user's: no ``__eq__``, no properties.
"""

from __future__ import annotations

import collections
import enum
import functools
import importlib
import io
import marshal
import pickle
import re
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._interop.buffers import is_plain, reduce_kin, restore_instance
from .._memory import FileHandle, SegmentHandle, from_handle, handle_of
from .large import copy_of
from .modules import MAINS, is_users_name, when_gone

SMALL_NBYTES = 1 << 14
"""An array below this size is carried, and compared, by its bytes."""
ELEMENTS_MAX = 1000
"""Elements of a container, those in it included, that are looked at."""
_TEXT_MAX = 1 << 16
_NAME_MAX = 100
_PICKLE_MAX = 1 << 26

CachedFunction: Any = type(functools.lru_cache(len))
MISSING: Any = object()

# Values that never change, and whose types are not the user's.
_CONSTANTS = (
    *(type(None), type(...), type(NotImplemented), bool, int, float, complex, range, slice),
    *(np.dtype, np.generic, np.ufunc, re.Pattern),
    *(types.BuiltinFunctionType, types.GenericAlias, types.UnionType),
)
# By name: a worker need not import them.
_MODULES_OF_CONSTANTS = frozenset(
    (
        "datetime",
        "decimal",
        "fractions",
        "ipaddress",
        "pathlib",
        "pathlib._local",
        "uuid",
        "zoneinfo",
    )
)
_TEXTS = (str, bytes)
_CONTAINERS = (list, tuple, set, frozenset, dict, collections.deque)
_WRAPPERS = (
    staticmethod,
    classmethod,
    property,
    functools.partial,
    types.MethodType,
    CachedFunction,
)
# They cache by identity, which other processes do not share: they arrive empty, and are not compared.
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
# What a class defines if it says itself how it is pickled.
_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs_ex__")


def _is_constant(kind: Any) -> bool:
    if kind.__module__ in _MODULES_OF_CONSTANTS:
        return bool(kind.__name__ != "Context")  # of decimals: it is set in place
    return bool(issubclass(kind, _CONSTANTS))


def _parts(value: Any) -> tuple[Any, ...]:
    """What a container or wrapper consists of."""
    kind = type(value)
    if is_table(kind):
        # By the methods of `dict` itself: a subclass may have others.
        own = (*dict.keys(value), *dict.values(value))
        attributes = attributes_of(value).values() if kind.__dictoffset__ else ()
        factory = (value.default_factory,) if kind is collections.defaultdict else ()
        return (*own, *attributes, *factory)
    if kind in _CONTAINERS:
        return tuple(value)
    if kind is staticmethod or kind is classmethod:
        return (value.__func__,)
    if kind is property:
        return value.fget, value.fset, value.fdel
    if kind is functools.partial:
        return value.func, *value.args, *value.keywords.values()
    if kind is types.MethodType:
        return value.__func__, value.__self__
    if kind is CachedFunction:
        return (value.__wrapped__,)
    return ()


def is_table(kind: Any) -> bool:
    """Whether instances of a class are dictionaries, with nothing to them but attributes."""
    return kind is dict or (issubclass(kind, dict) and _is_simple_table(kind))


@functools.lru_cache(1024)
def _is_simple_table(kind: Any) -> bool:
    return all(
        each.__module__ in ("builtins", "collections", "typing")
        or (
            (is_users_name(each.__module__) or each.__module__ in MAINS)
            and not any(name in vars(each) for name in _PICKLING)
        )
        for each in kind.__mro__
    )


def _forget_classes(_: str) -> None:
    _is_simple_table.cache_clear()
    _is_simple_class.cache_clear()


when_gone(_forget_classes)


def _length(container: Any) -> int:
    return len(dict.keys(container)) if isinstance(container, dict) else len(container)


def _is_container(kind: Any) -> bool:
    return kind in _CONTAINERS or is_table(kind)


def follow(value: Any) -> tuple[Any, ...]:
    """What a value that is no function, class or module refers to, as far as that is carried with it."""
    kind = type(value)
    if _is_container(kind) and _length(value) > ELEMENTS_MAX:
        return ()
    if _is_container(kind) or kind in _WRAPPERS:
        return _parts(value)
    return tuple(attributes_of(value).values()) if is_simple_instance(value) else ()


@functools.lru_cache(1024)
def _is_simple_class(kind: Any) -> bool:
    """Whether all there is to an instance is its class and its ``__dict__``."""
    if kind is types.SimpleNamespace:
        return True
    if not is_users_name(kind.__module__) and kind.__module__ not in MAINS:
        return False
    for each in kind.__mro__[:-1]:
        if each.__module__ in ("abc", "typing") or each.__name__ == "Generic":
            continue
        if not is_users_name(each.__module__) and each.__module__ not in MAINS:
            return False
        if any(name in vars(each) for name in _PICKLING) or vars(each).get("__slots__"):
            return False
    return bool(kind.__dictoffset__)


def is_simple_instance(value: Any) -> bool:
    kind: Any = type(value)  # a class is no `Hashable` for the type checker
    return _is_simple_class(kind) and type(attributes_of(value)) is dict


def attributes_of(value: Any) -> dict[str, Any]:
    """An instance's ``__dict__``, whatever its class says about attributes; empty if it shows none.

    A type variable of `typing` has one that only C code can get at.
    """
    try:
        attributes: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return attributes


def is_carried(value: Any, budget: list[int] | None = None) -> bool:
    """Whether a value is carried whole, so that a change of it can be seen and sent."""
    budget = [ELEMENTS_MAX] if budget is None else budget
    budget[0] -= 1
    kind = type(value)
    if budget[0] < 0:
        return False
    if kind in _TEXTS:
        return len(value) <= _TEXT_MAX
    if _is_container(kind) or kind in _WRAPPERS:
        if _is_container(kind) and _length(value) > budget[0]:
            return False
        return all([is_carried(part, budget) for part in _parts(value)])
    # By type alone: an instance may say something else of itself, by code of the user's.
    if kind is types.FunctionType or kind is types.ModuleType or _is_constant(kind):
        return True
    if issubclass(kind, type):
        return find_home(value) is not None
    if issubclass(kind, np.ndarray):
        return is_plain(value) and value.nbytes < SMALL_NBYTES
    if issubclass(kind, enum.Enum) or kind in _WEAK:
        return True
    if is_simple_instance(value):
        return all([is_carried(part, budget) for part in attributes_of(value).values()])
    return _name_of_singleton(value) is not None


# ---------------------------------------------------------------- names


def resolve(module: types.ModuleType, qualname: str) -> Any:
    """What a dotted name in a module stands for, found in namespaces alone; `MISSING` if nothing."""
    found: Any = module
    for name in qualname.split("."):
        if not isinstance(found, (type, types.ModuleType)):
            return MISSING
        found = vars(found).get(name, MISSING)
        if type(found) is staticmethod:
            found = found.__func__
    return found


def find_home(value: Any) -> tuple[str, str] | None:
    """Module and name under which a function or class is found; None if it is not found there."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    home = sys.modules.get(module) if isinstance(module, str) else None
    if isinstance(home, types.ModuleType) and isinstance(name, str):
        assert isinstance(module, str)
        if resolve(home, name) is value:
            return module, name
    return None


find_here: Callable[[str, str], Any]
"""How a name is looked up where values are unpacked: see `_code.recipient`."""


def _find(module: str, qualname: str) -> Any:
    return find_here(module, qualname)


def _import(name: str) -> Any:
    return importlib.import_module(name)


def _find_plainly(module: str, qualname: str) -> Any:
    found = resolve(importlib.import_module(module), qualname)
    if found is MISSING:
        raise AttributeError(f"{module} has no {qualname}")
    return found


find_here = _find_plainly


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


def _make_cached(func: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(func)


@functools.lru_cache(4096)
def names_in(code: types.CodeType) -> frozenset[str]:
    """Globals, attributes and imports that code names, also as text; code nested in it included."""
    names = set(code.co_names)
    consts = list(code.co_consts)
    for const in consts:
        if isinstance(const, types.CodeType):
            names |= names_in(const)
        elif isinstance(const, (tuple, frozenset)):
            consts += const
        elif isinstance(const, str) and len(const) <= _NAME_MAX:
            if const.isidentifier() or "." in const:
                names.add(const)
    return frozenset(names)


def cell_contents(func: types.FunctionType) -> list[Any]:
    """What the cells of a closure hold; `MISSING` for one that is not filled yet."""
    contents = []
    for cell in func.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:
            contents.append(MISSING)
    return contents


def _carried_attributes(func: types.FunctionType) -> dict[str, Any]:
    return {key: each for key, each in func.__dict__.items() if is_carried(each)}


def _reduce_function(func: types.FunctionType) -> tuple[Any, ...]:
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
        _carried_attributes(func),
        cells,
        own_space,
    )
    args = (marshal.dumps(func.__code__), name, len(cells))
    return _make_function, args, state, None, None, _set_function


def inner_function(value: Any) -> types.FunctionType | None:
    """The function in a wrapper such as a `staticmethod` or a cached function, or the value if it is one."""
    while type(value) in (staticmethod, classmethod, property, CachedFunction):
        value = _parts(value)[0]
    return value if type(value) is types.FunctionType else None


def cached_in(value: Any) -> Any:
    """The function that remembers its results, if a value is or wraps one; else None."""
    while type(value) in (staticmethod, classmethod):
        value = value.__func__
    return value if type(value) is CachedFunction else None


def borrow(value: Any, own: Any) -> None:
    """Fill cells and attributes that were not carried from the function that is there already."""
    func, source = inner_function(value), inner_function(own)
    if func is None or source is None or func is source:
        return
    for name, each in source.__dict__.items():
        if not is_carried(each):
            func.__dict__.setdefault(name, each)
    there = dict(zip(source.__code__.co_freevars, source.__closure__ or (), strict=True))
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        try:
            cell.cell_contents  # noqa: B018
        except ValueError:
            try:
                if name in there:
                    cell.cell_contents = there[name].cell_contents
            except ValueError:
                pass


# ---------------------------------------------------------------- pickling


class PackedValue(NamedTuple):
    """A value of a module, pickled."""

    data: bytes
    arrays: tuple[Any, ...]
    """Shared arrays that it refers to."""
    met: tuple[Any, ...] = ()
    """Functions and classes in it that may be the user's."""


class _TooLarge(Exception):
    """It is not worth carrying."""


class _BoundedFile(io.BytesIO):
    """For what is kept, to be told to workers that are yet to start."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > _PICKLE_MAX:
            raise _TooLarge
        return super().write(data)


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, defined: Any, may_share: bool) -> None:
        super().__init__(file, 5)
        self._defined = defined
        self._may_share = may_share
        self.arrays: list[Any] = []
        self.met: list[Any] = []

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is types.FunctionType or kind is CachedFunction or issubclass(kind, type):
            home = None if obj is self._defined else find_home(obj)
            if obj is not self._defined and kind is not CachedFunction:
                self.met.append(obj)
            if home is not None:
                # What is not the user's is there as it is here: pickle names it by itself.
                may_differ = home[0] in MAINS or is_users_name(home[0])
                return (_find, home) if may_differ else NotImplemented
            if kind is types.FunctionType:
                return _reduce_function(obj)
            if kind is CachedFunction:
                return _make_cached, (obj.__wrapped__, *obj.cache_parameters().values())
            return NotImplemented
        if kind is types.ModuleType:
            return _import, (obj.__name__,)
        if issubclass(kind, np.ndarray) and is_plain(obj):
            return self._reduce_array(obj)
        if kind is staticmethod or kind is classmethod:
            return kind, (obj.__func__,)
        if kind is property:
            return property, (obj.fget, obj.fset, obj.fdel, obj.__doc__)
        if kind in _WEAK:
            return kind, ()
        if kind is types.MappingProxyType:
            return _make_proxy, (dict(obj),)
        if kind is types.MethodType:
            return _make_method, (obj.__func__, obj.__self__)
        if is_simple_instance(obj):  # whatever its class says about attributes
            return _make_instance, (kind,), attributes_of(obj), None, None, _set_attributes
        name = _name_of_singleton(obj)
        return reduce_kin(obj) if name is None else (_find, (kind.__module__, name))

    def _reduce_array(self, a: Any) -> Any:
        handle = handle_of(a)
        if handle is None and self._may_share and a.nbytes >= SMALL_NBYTES:
            a = copy_of(a)
            handle = handle_of(a)
        if isinstance(handle, SegmentHandle) and self._may_share:
            self.arrays.append(a)
        if isinstance(handle, FileHandle) or (handle is not None and self._may_share):
            return _from_handle, (tuple(handle),)
        order: Any = "F" if a.flags.fnc else "C"
        return _make_array, (a.tobytes(order), a.dtype, a.shape, order)


def _name_of_singleton(obj: Any) -> str | None:
    """The name of what stands for nothing in a library, say: another one would not be recognised."""
    if _is_constant(type(obj)) or type(obj).__module__ == "builtins":
        return None
    home = sys.modules.get(type(obj).__module__)
    if home is None or is_users_name(home.__name__) or home.__name__ in MAINS:
        return None
    return next((name for name, each in list(vars(home).items()) if each is obj), None)


def _make_instance(kind: Any) -> Any:
    return kind.__new__(kind)


def _set_attributes(instance: Any, attributes: dict[str, Any]) -> None:
    attributes_of(instance).update(attributes)


def _make_proxy(mapping: Any) -> Any:
    return types.MappingProxyType(mapping)


def _make_method(func: Any, instance: Any) -> Any:
    return types.MethodType(func, instance)


class Gap:
    """Stands for a part that does not pickle, which the other process has made for itself."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name


class _Apart:
    """An instance of a simple class, some of whose attributes are gaps."""

    def __init__(self, kind: type, attributes: dict[str, Any]) -> None:
        self._state = kind, attributes

    def __reduce__(self) -> Any:
        return restore_instance, self._state


def with_gaps(value: Any) -> Any:
    """A value in which a `Gap` stands for whatever does not pickle."""
    kind = type(value)
    if kind is dict:
        return {key: with_gaps(each) for key, each in value.items()}
    if kind is list or kind is tuple:
        return kind(map(with_gaps, value))
    if is_simple_instance(value):
        return _Apart(kind, with_gaps(attributes_of(value)))
    try:
        pack_value(value)
    except Exception:
        return Gap(type_name(value))
    return value


def fill_gaps(value: Any, own: Any) -> Any:
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
        filled = [
            fill_gaps(each, there[i] if i < len(there) else MISSING) for i, each in enumerate(value)
        ]
        if kind is tuple:
            return tuple(filled)
        value[:] = filled
    elif is_simple_instance(value):
        fill_gaps(attributes_of(value), attributes_of(own) if type(own) is kind else MISSING)
    return value


def type_name(value: Any) -> str:
    """What tells the type of a value on both sides."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _from_handle(handle: tuple[Any, ...]) -> Any:
    handle_type = SegmentHandle if len(handle) == 6 else FileHandle
    return from_handle(handle_type(*handle))


def _make_array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> Any:
    a = np.empty(shape, dtype, order)
    a[...] = np.ndarray(shape, dtype, data, order=order) if data else 0
    return a


def pack_value(value: Any, defined: Any = None, may_share: bool = False) -> PackedValue:
    """Pickle a value of a module or class for a process that has the same modules.

    `defined`: a function at home there, which is carried by its code. `may_share`: the other process can be
    given shared memory; larger arrays then go through shared copies.
    """
    file = _BoundedFile() if may_share else io.BytesIO()
    pickler = _Pickler(file, defined, may_share)
    pickler.dump(value)
    return PackedValue(file.getvalue(), tuple(pickler.arrays), tuple(pickler.met))


def unpack_value(data: bytes) -> Any:
    """Undo `pack_value`."""
    return pickle.loads(data)


# ---------------------------------------------------------------- comparing


def is_same(one: Any, other: Any, seen: set[tuple[int, int]] | None = None) -> bool:
    """Whether two values are alike in every part, types included."""
    kind = type(one)
    if one is other:
        return True
    if kind is not type(other):
        return False
    if kind in _WEAK:
        return True
    seen = set() if seen is None else seen
    if (id(one), id(other)) in seen:
        return True
    seen.add((id(one), id(other)))
    if kind is types.FunctionType:
        return _are_same_functions(one, other, seen)
    if kind is CachedFunction and one.cache_parameters() != other.cache_parameters():
        return False
    if kind is functools.partial and list(one.keywords) != list(other.keywords):
        return False
    if kind is set or kind is frozenset:
        one, other = sorted(map(repr, one)), sorted(map(repr, other))
        return bool(one == other)
    if _is_container(kind) or kind in _WRAPPERS:
        ones, others = _parts(one), _parts(other)
        return len(ones) == len(others) and all(
            [is_same(a, b, seen) for a, b in zip(ones, others, strict=True)]
        )
    if kind in _TEXTS:
        return bool(one == other)
    if issubclass(kind, np.ndarray):
        return (
            is_plain(one)
            and (one.dtype, one.shape, one.flags.writeable)
            == (other.dtype, other.shape, other.flags.writeable)
            and one.tobytes() == other.tobytes()
        )
    if _is_constant(kind):
        return repr(one) == repr(other) if kind is not types.BuiltinFunctionType else False
    if is_simple_instance(one):
        return is_same(attributes_of(one), attributes_of(other), seen)
    return False


def _are_same_functions(
    one: types.FunctionType, other: types.FunctionType, seen: set[tuple[int, int]]
) -> bool:
    if one.__code__ != other.__code__ or one.__qualname__ != other.__qualname__:
        return False
    if one.__globals__ is not other.__globals__ and one.__globals__.get(
        "__name__"
    ) != other.__globals__.get("__name__"):
        return False
    pairs = [
        (one.__defaults__, other.__defaults__),
        (one.__kwdefaults__, other.__kwdefaults__),
        (_carried_attributes(one), _carried_attributes(other)),
        *zip(cell_contents(one), cell_contents(other), strict=True),
    ]
    return all([a is MISSING or is_same(a, b, seen) for a, b in pairs])


# ---------------------------------------------------------------- what cannot be carried


class Refused:
    """Stands for a value that could not be carried: whatever is done with it says so."""

    def __init__(self, why: str) -> None:
        object.__setattr__(self, "_why", why)


def _refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
    raise TypeError(object.__getattribute__(self, "_why"))


for _name in (
    *(
        "__getattribute__",
        "__setattr__",
        "__delattr__",
        "__call__",
        "__bool__",
        "__len__",
        "__iter__",
    ),
    *(
        "__getitem__",
        "__setitem__",
        "__contains__",
        "__enter__",
        "__exit__",
        "__next__",
        "__index__",
    ),
    *(
        "__float__",
        "__int__",
        "__str__",
        "__eq__",
        "__ne__",
        "__lt__",
        "__gt__",
        "__le__",
        "__ge__",
    ),
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__"),
    *(
        "__rtruediv__",
        "__floordiv__",
        "__rfloordiv__",
        "__mod__",
        "__rmod__",
        "__pow__",
        "__rpow__",
    ),
    *("__neg__", "__abs__", "__matmul__", "__rmatmul__", "__and__", "__or__", "__array__"),
):
    setattr(Refused, _name, _refuse)
