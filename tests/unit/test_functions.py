"""What is kept of a pickled function stands for it only as long as pickling it would give the same."""

from __future__ import annotations

import functools
import importlib.machinery
import math
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmmap import zeros
from shmmap._code.modules import is_importable
from shmmap._wire.functions import pack_function
from shmmap._wire.pickling import pack

SCRIPT = """
import functools, math, os
import numpy as np

scale, names = 2, ("a", "b")
text = "value"

def helper(x):
    return x * scale

def outer(shift):
    def inner(x, y=1, *, z=0):
        return helper(x) + shift + y + z + math.pi + len(text)
    return inner

def by_default(x, f=helper):
    return f(x)

pair = (helper, 1)

def by_tuple(x):
    return pair[0](x)

def by_partial(x):
    return twice(x)

twice = functools.partial(helper)
func = outer(3)
recursive = lambda n: 1 if n < 2 else n * recursive(n - 1)
"""


def script() -> dict[str, Any]:
    """The namespace of a script: its functions are pickled by value."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(SCRIPT, namespace)
    return namespace


def set_default(space: dict[str, Any], value: Any) -> None:
    space["func"].__defaults__ = (value,)


def set_kwdefault(space: dict[str, Any], value: Any) -> None:
    space["func"].__kwdefaults__ = {"z": value}


def set_cell(space: dict[str, Any], value: Any) -> None:
    space["func"].__closure__[0].cell_contents = value


def set_attribute(space: dict[str, Any], value: Any) -> None:
    space["func"].note = value


def set_global(space: dict[str, Any], value: Any) -> None:
    space["text"] = str(value)


def set_global_of_helper(space: dict[str, Any], value: Any) -> None:
    space["scale"] = value


def define_helper_again(space: dict[str, Any], value: Any) -> None:
    exec("def helper(x):\n    return x + scale", space)


def define_again(space: dict[str, Any], value: Any) -> None:
    space["func"] = space["outer"](value)


def shadow_builtin(space: dict[str, Any], value: Any) -> None:
    space["len"] = str


def delete_global(space: dict[str, Any], value: Any) -> None:
    space.pop("text", None)


def replace_module(space: dict[str, Any], value: Any) -> None:
    space["math"] = np


def rename(space: dict[str, Any], value: Any) -> None:
    space["func"].__name__ = str(value)


CHANGES = [
    set_default,
    set_kwdefault,
    set_cell,
    set_attribute,
    set_global,
    set_global_of_helper,
    define_helper_again,
    define_again,
    shadow_builtin,
    delete_global,
    replace_module,
    rename,
]
values = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=3), st.lists(st.integers())
)


@given(st.lists(st.tuples(st.sampled_from(CHANGES), values)))
def test_it_is_what_pickling_gives_whatever_has_changed(changes):
    space = script()
    for change, value in changes:
        change(space, value)
        func = space["func"]
        assert pack_function(func).packed.data == pack(func).data
        bound = functools.partial(func, value)
        assert pack_function(bound).packed.data == pack(bound).data


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: Callable[..., None]) -> None:
    space = script()
    before = pack_function(space["func"])
    change(space, 17)
    after = pack_function(space["func"])
    assert after.digest != before.digest


@pytest.mark.parametrize("name", ["by_default", "by_tuple", "by_partial", "twice"])
@pytest.mark.parametrize("change", [set_global_of_helper])
def test_a_change_is_seen_however_a_function_is_reached(
    name: str, change: Callable[..., None]
) -> None:
    space = script()
    bound = functools.partial(space["helper"], space["by_default"])
    before = pack_function(space[name]), pack_function(bound)
    change(space, 17)
    assert pack_function(space[name]).digest != before[0].digest
    assert pack_function(bound).digest != before[1].digest


def test_an_instance_that_looks_like_a_function_is_none() -> None:
    class Gain:
        def __init__(self, k: int) -> None:
            functools.update_wrapper(self, named)
            self.k = k

        def __call__(self, x: float) -> float:
            return x * self.k

    module = types.ModuleType("shmmap_test_module")
    module.__spec__ = importlib.machinery.ModuleSpec("shmmap_test_module", None)

    def named(x: float) -> float:
        return x

    named.__module__, named.__qualname__ = "shmmap_test_module", "named"
    sys.modules["shmmap_test_module"] = module
    try:
        module.named = gain = Gain(3)  # type: ignore[attr-defined]
        assert not is_importable(gain)
        module.named = named  # type: ignore[attr-defined]
        assert is_importable(named)
        cloudpickle.register_pickle_by_value(module)
        assert not is_importable(named)
        cloudpickle.unregister_pickle_by_value(module)
    finally:
        del sys.modules["shmmap_test_module"]


def test_a_mutable_value_changes_in_place() -> None:
    space = script()
    space["text"] = ["a"]
    before = pack_function(space["func"])
    space["text"].append("b")
    assert pack_function(space["func"]).digest != before.digest


@pytest.mark.parametrize("name", ["func", "recursive", "helper"])
def test_what_has_not_changed_is_not_pickled_again(name: str) -> None:
    func = script()[name]
    assert pack_function(func) is pack_function(func)
    assert pack_function(func).by_value


def test_a_function_made_anew_from_the_same_code_is_not_pickled_again() -> None:
    space = script()
    assert pack_function(space["outer"](5)) is pack_function(space["outer"](5))
    assert pack_function(space["outer"](5)) is not pack_function(space["outer"](6))


def test_partials_keep_their_arguments_apart() -> None:
    helper = script()["helper"]
    assert pack_function(functools.partial(helper, 1)) is pack_function(
        functools.partial(helper, 1)
    )
    digests = {
        pack_function(functools.partial(helper, *args, **kwargs)).digest
        for args, kwargs in [((1, 2), {}), ((1,), {"y": 2}), ((1,), {"z": 2}), ((True, 2), {})]
    }
    assert len(digests) == 4


def test_annotations_are_no_hindrance() -> None:
    space: dict[str, Any] = {"__name__": "__main__", "np": np}
    exec("def f(x: list[int]) -> 'np.ndarray':\n    return x", space)
    assert pack_function(space["f"]) is pack_function(space["f"])


def test_an_imported_submodule_counts() -> None:
    space = script()
    before = pack_function(space["func"])
    sys.modules["shmmap_test_module"] = types.ModuleType("shmmap_test_module")
    try:
        assert pack_function(space["func"]) is not before
    finally:
        del sys.modules["shmmap_test_module"]


def test_importable_functions_go_by_reference() -> None:
    for func in (math.sqrt, np.sum, np.sqrt, np.linalg.norm, is_importable):
        assert is_importable(func)
        assert not pack_function(func).by_value
        assert pack_function(func) is pack_function(func)


def test_arrays_are_never_kept() -> None:
    space = script()
    space["text"] = zeros(10)
    function = pack_function(space["func"])
    assert not function.digest
    assert pack_function(space["func"]) is not function
