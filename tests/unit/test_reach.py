"""What is looked at with every call is cheap, keeps nothing large, and never misses a change."""

from __future__ import annotations

import gc
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmmap
from shmmap._code import carried, importing, large, modules, values, versions
from shmmap._code.interior import Interior
from shmmap._code.modules import can_be_imported, is_users
from shmmap._code.versions import look_again
from shmmap._code.watch import current_version, reaches_of
from shmmap._wire import functions as packed
from tests import functions

SOURCE = """
K, TEXT = 2, "a"
TABLE, NAMES, GROUP, PAIR = {"a": 1}, ["x"], {1}, (1, [2])
SMALL = np.zeros(3)
LARGE = np.zeros(10_000)

class Shape:
    gain = 1
    def area(self):
        return self.gain * K

def helper(v, d=1, *, z=0):
    return v + K

def make():
    count = 0
    def inner():
        return count
    return inner

closure = make()
shape = Shape()

def f(v):
    return helper(v), TEXT, TABLE, NAMES, GROUP, PAIR, SMALL, LARGE, Shape, closure, shape
"""


@pytest.fixture
def module() -> Iterator[Any]:
    """A module of the user's, made by hand."""
    module = types.ModuleType("shmmap_reached")
    vars(module)["np"] = np
    sys.modules[module.__name__] = module
    exec(SOURCE, vars(module))
    yield module
    del sys.modules[module.__name__]
    vars(module).clear()  # its large array goes, though pytest still has the module


def test_which_modules_are_the_users() -> None:
    for name in (
        "json",
        "os",
        "sys",
        "numpy",
        "numpy.linalg",
        "cloudpickle",
        "shmmap",
        "shmmap._verbs.items",
    ):
        __import__(name)
        assert not is_users(sys.modules[name]), name
    for name in ("tests", "tests.functions", __name__):
        assert is_users(sys.modules[name]), name
    assert not is_users(sys.modules["__main__"])


def test_a_module_made_by_code_belongs_to_its_package() -> None:
    assert not is_users(types.ModuleType("numpy.made_by_code"))
    assert is_users(types.ModuleType("shmmap_of_nobody"))
    assert not is_users(types.ModuleType("json.made_by_code"))


def test_a_module_of_types_written_in_c_is_a_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those in which extension modules of Cython keep the types that they share."""
    for content, answer in [({"function": type(len)}, False), ({"f": lambda: 0}, True), ({}, True)]:
        module = types.ModuleType("shmmap_shared_types")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        assert is_users(module) is answer


def test_what_can_be_imported(module: Any) -> None:
    assert can_be_imported(sys.modules["tests.functions"])
    assert can_be_imported(sys.modules["shmmap"])
    assert not can_be_imported(module)


def change(name: str, change: Callable[[Any], Any]) -> Any:
    """A named parameter."""
    return pytest.param(change, id=name)


CHANGES = [
    change("number", lambda m: setattr(m, "K", 3)),
    change("type of number", lambda m: setattr(m, "K", 2.0)),
    change("boolean", lambda m: setattr(m, "K", True)),
    change("string", lambda m: setattr(m, "TEXT", "b")),
    change("dict", lambda m: m.TABLE.update(a=2)),
    change("dict key", lambda m: (m.TABLE.clear(), m.TABLE.update(b=1))),
    change("list", lambda m: m.NAMES.append("y")),
    change("list in place", lambda m: m.NAMES.__setitem__(0, "y")),
    change("set", lambda m: m.GROUP.add(2)),
    change("list in a tuple", lambda m: m.PAIR[1].append(3)),
    change("small array", lambda m: m.SMALL.__setitem__(0, 1)),
    change("another large array", lambda m: setattr(m, "LARGE", np.ones(10_000))),
    change("class attribute", lambda m: setattr(m.Shape, "gain", 2)),
    change("new class attribute", lambda m: setattr(m.Shape, "more", 2)),
    change("method", lambda m: setattr(m.Shape, "area", lambda self: 1)),
    change("deleted attribute", lambda m: delattr(m.Shape, "gain")),
    change("function", lambda m: setattr(m, "helper", lambda v: v)),
    change("code", lambda m: setattr(m.helper, "__code__", (lambda v, d, *, z: v).__code__)),
    change("default", lambda m: setattr(m.helper, "__defaults__", (2,))),
    change("keyword default", lambda m: setattr(m.helper, "__kwdefaults__", {"z": 1})),
    change("cell", lambda m: setattr(m.closure.__closure__[0], "cell_contents", 5)),
    change("attribute of an instance", lambda m: setattr(m.shape, "gain", 9)),
    change("deleted", lambda m: delattr(m, "TEXT")),
    change("None", lambda m: setattr(m, "TEXT", None)),
]


@pytest.mark.parametrize("apply", CHANGES)
def test_a_change_gives_a_new_version(module: Any, apply: Callable[[Any], Any]) -> None:
    reaches = reaches_of([module.f])
    before = current_version(reaches)
    assert current_version(reaches) == before
    apply(module)
    after = current_version(reaches)
    assert after > before
    assert current_version(reaches) == after


def test_a_name_that_another_reach_was_told_of_is_told_again(module: Any) -> None:
    one, other = reaches_of([module.helper]), reaches_of([module.Shape])
    before = current_version(one)
    module.K = 44
    assert current_version(other) > before
    module.K = 2
    assert current_version(one) > current_version(()) + before


def test_what_is_told_of_a_function_makes_the_same_function(module: Any) -> None:
    for func in (module.helper, module.f, module.closure, module.make):
        made = values.unpack_value(values.pack_value(func, func).data)
        assert made is not func
        assert made.__globals__ is vars(module)
        assert carried.is_same(made, func)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(),
    lambda each: (
        st.lists(each, max_size=3)
        | st.tuples(each, each)
        | st.dictionaries(st.integers() | st.text(max_size=2), each, max_size=3)
    ),
)


@given(plain)
def test_plain_values_arrive_as_they_are(value: Any) -> None:
    assert carried.is_carried(value)
    made = values.unpack_value(values.pack_value(value).data)
    assert carried.is_same(value, made)


@given(plain, plain)
def test_values_that_are_the_same_have_equal_texts(one: Any, other: Any) -> None:
    assert carried.is_same(one, other) == (repr(one) == repr(other))


def test_types_are_compared() -> None:
    for one, other in [(1, True), (1, 1.0), (0.0, -0.0), ([1], (1,)), ("a", b"a"), ({1}, [1])]:
        assert not carried.is_same(one, other)
        assert not carried.is_same([one], [other])
    assert carried.is_same(float("nan"), float("nan"))
    assert not carried.is_same(np.zeros(2), np.zeros(2, "f4"))


class Slots:
    """An object whose attributes the garbage collector alone knows of."""

    __slots__ = ("a", "b", "c")

    def __init__(self) -> None:
        self.a, self.b, self.c = [1], [2, 3], {}  # type: ignore[var-annotated]


@pytest.mark.parametrize(
    "apply",
    [
        change("set", lambda s: setattr(s, "a", [1])),
        change("moved to the list before", lambda s: s.a.insert(0, s.b.pop())),
        change("moved to the list behind", lambda s: s.b.append(s.a.pop(0))),
        change("put into an empty dict", lambda s: s.c.update(k=1)),
        change("deleted", lambda s: delattr(s, "a")),
    ],
)
def test_a_change_inside_is_seen(apply: Callable[[Any], Any]) -> None:
    slots = Slots()
    inside = Interior(slots)
    assert not inside.has_changed()
    apply(slots)
    assert inside.has_changed()


def test_large_arrays_are_held_weakly(module: Any) -> None:
    reaches = reaches_of([module.f])
    current_version(reaches)
    gone = weakref.ref(module.LARGE)
    module.LARGE = None
    gc.collect()
    assert gone() is None


def test_a_large_array_that_is_unchanged_keeps_its_version_and_its_copy(module: Any) -> None:
    current_version(reaches_of([module.f]))
    copy = large.copy_of(module.LARGE)
    version = look_again()
    assert look_again() == version
    assert large.copy_of(module.LARGE) is copy
    module.LARGE[0] = 1
    assert look_again() > version
    assert large.copy_of(module.LARGE) is not copy


@pytest.mark.parametrize("is_replaced", [False, True])
def test_the_memory_of_a_module_goes_with_it(is_replaced: bool) -> None:
    """What is remembered of a function that was mapped keeps neither its module nor a copy of an array."""
    name = "shmmap_gone"

    def use() -> list[Any]:
        module: Any = types.ModuleType(name)
        module.np = np
        sys.modules[name] = module
        exec(SOURCE, vars(module))
        assert shmmap.pmap(module.f, [1], engine="serial")[0][0] == 3
        packed.pack_function(module.f)
        current_version(reaches_of([module.f, module.Shape]))
        look_again()
        copy = large.copy_of(module.LARGE)
        return [*map(weakref.ref, (module, module.f, module.Shape, module.LARGE, copy))]

    gone = use()
    try:
        if is_replaced:
            use()
    finally:
        del sys.modules[name]
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)
    assert not any(key[0] == name for key in versions._entries)


def test_importable_functions_of_packages_reach_nothing() -> None:
    assert packed.pack_function(np.sqrt).packed.reaches == ()
    assert packed.pack_function(functions.double).packed.reaches != ()


def test_what_is_refused_says_so_whatever_is_done() -> None:
    refused: Any = values.Refused("because")
    for use in (refused, bool, len, iter, str, lambda r: r + 1, lambda r: 1 + r, lambda r: r.x):
        with pytest.raises(TypeError, match="because"):
            use(refused) if use is not refused else refused()


def test_a_finder_of_its_own_is_in_workers_only() -> None:
    assert not [each for each in sys.meta_path if type(each).__module__ == importing.__name__]
    assert modules.is_users_name("no module of that name") is False
    assert versions.latest() >= 0
