"""Functions whose globals are of no module that can be imported: executed, run by `runpy`, made by hand."""

from __future__ import annotations

import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap

SOURCE = """
import datetime, functools

K = 2

def helper(v):
    return v * K

class Box:
    def __init__(self, v):
        self.v = v

    def __eq__(self, other):
        return type(other) is type(self) and other.v == self.v

def function(v):
    return helper(v) + 1

def imports_in_c(v):
    # Written in C, it imports a module, by the globals of who called it.
    return datetime.datetime.strptime("2020", "%Y").year + v * K

def makes_objects(v):
    return Box(helper(v))

def takes_objects(v):
    return Box(v).v + sum(helper(i) for i in range(int(v)))

@functools.lru_cache
def cached(v):
    return helper(v)

def sets_global(v):
    global LAST
    LAST = v
    return LAST
"""
FUNCTIONS = (
    "function",
    "imports_in_c",
    "makes_objects",
    "takes_objects",
    "cached",
    "sets_global",
)


def executed(**more: Any) -> dict[str, Any]:
    namespace = dict(more)
    exec(SOURCE, namespace)
    return namespace


def without_builtins(**more: Any) -> dict[str, Any]:
    namespace = executed(**more)
    del namespace["__builtins__"]
    return namespace


def in_module(name: str, is_registered: bool) -> dict[str, Any]:
    module = types.ModuleType(name)
    if is_registered:
        sys.modules[name] = module
    exec(SOURCE, vars(module))
    return vars(module)


def by_runpy(folder: Path, **more: Any) -> dict[str, Any]:
    path = folder / "script.py"
    path.write_text(SOURCE)
    ran = runpy.run_path(str(path), **more)
    return ran["function"].__globals__  # of which `ran` is a copy


MAKE = {
    "executed": lambda _: executed(),
    "no name": lambda _: executed(x=1),
    "None for a name": lambda _: executed(__name__=None),
    "name of another": lambda _: executed(__name__="json"),
    "odd name": lambda _: executed(__name__="<no such>.module"),
    "no builtins": lambda _: without_builtins(),
    "main, no builtins": lambda _: without_builtins(__name__="__main__"),
    "runpy": by_runpy,
    "runpy as main": lambda folder: by_runpy(folder, run_name="__main__"),
    "runpy as a dotted name": lambda folder: by_runpy(folder, run_name="none.such"),
    "module": lambda _: in_module("by_hand", False),
    "module with a name": lambda _: in_module("by_hand", True),
    "module with an odd name": lambda _: in_module("<by hand>", True),
    "module without its package": lambda _: in_module("by.hand", True),
    "module without a name": lambda _: in_module("", False),
}


@pytest.fixture
def namespace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    before = set(sys.modules)
    yield MAKE[request.param](tmp_path)
    for name in set(sys.modules) - before:
        if "by" in name and "hand" in name:
            del sys.modules[name]


@pytest.mark.filterwarnings("ignore:sets_global has changed")
@pytest.mark.few(4)
@pytest.mark.parametrize("namespace", MAKE, indirect=True)
def test_functions_of_any_namespace(namespace, engine):
    x = np.arange(5)
    for k in (2, 7):  # settings are those of now
        namespace["K"] = k
        for name in FUNCTIONS:
            func = namespace[name]
            if name == "cached" and k == 7:
                continue  # what is in the caches of workers stays
            out = list if name == "makes_objects" else None
            got = shmmap.pmap(func, x, engine=engine, out=out)
            assert list(got) == [func(v) for v in x], name
            if isinstance(engine, shmmap.Team):
                assert engine.submit(func, 3).result() == func(3), name


def test_a_script_that_maps_while_runpy_runs_it(tmp_path, engine):
    path = tmp_path / "script.py"
    path.write_text(f"{SOURCE}\nfirst = run(function)\nK = 3\nsecond = run(function)\n")

    def run(func):
        return shmmap.pmap(func, np.arange(3), engine=engine).tolist()

    for name in ("<run_path>", "none.such", "__main__"):
        ran = runpy.run_path(str(path), {"run": run}, run_name=name)
        assert (ran["first"], ran["second"]) == ([1, 3, 5], [1, 4, 7]), name
