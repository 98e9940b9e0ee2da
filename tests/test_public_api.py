"""The public names, their signatures and types, and what importing the package costs."""

from __future__ import annotations

import concurrent.futures
import inspect
import json
import pydoc
import re
import types
import typing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
import shmmap.testing
from shmmap._verbs.options import DEFAULTS, OF_CHUNKS
from tests.helpers import run_python

NAMES = {
    *("asshared", "empty", "zeros", "ones", "full", "load", "is_shared", "adopt", "share"),
    *("empty_like", "zeros_like", "ones_like", "full_like"),
    *("pmap", "pmap_chunks", "pmap_ranges", "preduce", "config", "current", "Context"),
    *("Team", "MapFuture", "shutdown"),
    *("WorkerDied", "SharedMemoryError", "MapError", "RemoteError", "PerformanceWarning"),
    *("profile", "Report"),
    *("handle", "Handle", "register_reducers"),
    *("Checkpoint", "CheckpointMismatch"),
    *("Nodes", "placed"),
}

MODULES: dict[str, set[str]] = {
    "shmmap": {*NAMES, "testing"},
    "shmmap.joblib": {"Backend", "shutdown"},
    "shmmap.testing": {
        *("BadStr", "CannotUnpickle", "ChangeDirectory", "ChunksDiffer", "CloseDescriptors"),
        *("ExitNow", "Fault", "Flood", "ForkAndLinger", "ForkAndReturn", "HoldGil", "HugeError"),
        *("IgnoreSignals", "KillSelf", "KillWhenPickled", "KillWhenUnpickled", "Leak"),
        *("LibcExit", "Raise", "StartThread", "StopSelf", "UnpicklableError"),
        *("check_chunks", "leak_guard", "wait_until"),
    },
}
"""All public modules, with all they offer."""

FUTURE = {name for name in dir(concurrent.futures.Future) if not name.startswith("_")}

ATTRIBUTES: dict[str, set[str]] = {
    "Checkpoint": set(),
    "CheckpointMismatch": set(),
    "Context": {"start", "stop", "index", "rank", "attempt"},
    "Handle": {"array"},
    "MapError": {"failed", "result", "derive"},
    "MapFuture": {*FUTURE, "as_completed", "in_order", "progress"},
    "Nodes": set(),
    "PerformanceWarning": set(),
    "RemoteError": set(),
    "Report": {"maps", "plot", "save"},
    "SharedMemoryError": {"wanted", "available", "where", "way_out"},
    "Team": {"submit", "map", "shutdown", "size", "kill_workers", "terminate_workers"},
    "WorkerDied": {"failed", "result"},
}
"""All public classes, with what they offer beside what exceptions do."""

REQUIRED = inspect.Parameter.empty

SIGNATURES: dict[str, dict[str, Any]] = {
    "asshared": {"a": REQUIRED, "dtype": None, "order": None},
    "empty": {"shape": REQUIRED, "dtype": float, "order": "C"},
    "zeros": {"shape": REQUIRED, "dtype": float, "order": "C"},
    "ones": {"shape": REQUIRED, "dtype": None, "order": "C"},
    "full": {"shape": REQUIRED, "fill_value": REQUIRED, "dtype": None, "order": "C"},
    "load": {"path": REQUIRED, "mmap_mode": None},
    "is_shared": {"a": REQUIRED},
    "handle": {"a": REQUIRED, "lease": 60.0},
    "register_reducers": {},
    "adopt": {"shm": REQUIRED, "shape": REQUIRED, "dtype": REQUIRED, "offset": 0, "order": "C"},
    "pmap": {"func": REQUIRED, "axis": 0, "out": None, "dtype": None},
    "pmap_chunks": {"func": REQUIRED, "axis": 0, "out": None, "dtype": None},
    "pmap_ranges": {"func": REQUIRED, "n": REQUIRED},
    "preduce": {"func": REQUIRED, "axis": 0},
    "profile": {"stacks": False},
    "Checkpoint": {"path": REQUIRED, "interval": 30.0, "if_changed": "raise", "inputs": "sampled"},
    "Nodes": {"executor": REQUIRED, "nodes": None},
    "placed": {"client": REQUIRED, "x": REQUIRED},
    "Team": {
        "workers": None,
        "start": "clean",
        "initializer": None,
        "initargs": (),
        "blas_threads": 1,
        "idle_timeout": 300,
    },
}

OPTIONS: dict[str, tuple[Any, ...]] = {
    "workers": (None, -1, 1),
    "engine": (None, "serial", "threads"),
    "chunksize": ("auto", 3, "8MiB"),
    "schedule": ("dynamic", "static"),
    "progress": (False, lambda done, total: None),
    "wait": (True,),
}
"""Options that all four verbs take, with some of the values each takes."""

HEAVY = {
    *("asyncio", "cloudpickle", "concurrent.futures.process", "dask", "distributed", "hypothesis"),
    *("matplotlib", "multiprocessing.managers", "multiprocessing.pool", "multiprocessing.queues"),
    *("multiprocessing.synchronize", "pandas", "scipy", "threadpoolctl", "tqdm", "zarr"),
}
"""Modules that most programs never need, or need only once a map runs."""


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_offer_nothing_else(name: str) -> None:
    module = pytest.importorskip(name, exc_type=ImportError)
    assert {*module.__all__} | ({"testing"} if name == "shmmap" else set()) == MODULES[name]
    assert len(set(module.__all__)) == len(module.__all__)
    for each in module.__all__:
        assert hasattr(module, each)
    shown = {each for each in dir(module) if not each.startswith("_")}
    assert shown - {"annotations"} - hidden(module) == MODULES[name]


def hidden(module: types.ModuleType) -> set[str]:
    """What is there because files of the package are modules."""
    return {
        name
        for name, value in vars(module).items()
        if isinstance(value, types.ModuleType) and value.__name__ == f"{module.__name__}.{name}"
    } - {"testing"}


def test_every_public_class_is_listed() -> None:
    assert {name for name in NAMES if inspect.isclass(getattr(shmmap, name))} == set(ATTRIBUTES)


def test_classes_offer_nothing_else() -> None:
    with shmmap.Team(1) as team:
        future = shmmap.pmap(abs, [-1], engine=team, wait=False)
        future.result()
        made = {
            "Context": shmmap.Context(0, 1, 0, 0, 0),
            "MapError": shmmap.MapError("", [ValueError()]),
            "MapFuture": future,
            "PerformanceWarning": shmmap.PerformanceWarning(),
            "RemoteError": shmmap.RemoteError(),
            "SharedMemoryError": shmmap.SharedMemoryError(2, 1, "", ""),
            "Team": team,
            "WorkerDied": shmmap.WorkerDied(""),
        }
        plain = set(dir(ExceptionGroup("", [ValueError()]))) | set(dir(MemoryError()))
        for name, instance in made.items():
            shown = {each for each in dir(instance) if not each.startswith("_")}
            if isinstance(instance, BaseException):
                shown -= plain - ATTRIBUTES[name]
            assert shown == ATTRIBUTES[name], name


@pytest.mark.parametrize(
    "name", ["pmap", "pmap_chunks", "pmap_ranges", "preduce", "config", "Team"]
)
def test_signatures_show_every_option(name: str) -> None:
    """As `help` does, one by one with what it is by default, and the docstring says what it means."""
    function = getattr(shmmap, name)
    signature = inspect.signature(function)
    assert "object at" not in str(signature) and "**" not in str(signature)
    options = DEFAULTS if name == "pmap" else OF_CHUNKS
    if name not in ("config", "Team"):
        own = {key: each.default for key, each in signature.parameters.items()}
        assert own | options == own
        assert list(own)[-len(options) :] == list(options)
    if name == "preduce":
        assert str(signature.parameters["initial"]) == "initial=<no value>"
    text = inspect.getdoc(function)
    for parameter in set(signature.parameters) - {"inputs"}:
        assert re.search(rf"^[\w*, ]*\b{parameter}\b[\w*, ]*( :.*)?$", text or "", re.MULTILINE), (
            parameter
        )


def test_options_are_told_of_in_the_same_words() -> None:
    def told(name: str) -> str:
        text = inspect.getdoc(getattr(shmmap, name)) or ""
        section = text.partition("Other Parameters\n")[2].partition("\n\n")[0]
        return re.sub(r"buffersize.*\n.*\n", "", section)

    assert len({told(name) for name in ("pmap", "pmap_chunks", "pmap_ranges", "preduce")}) == 1


@pytest.mark.parametrize("name", sorted({*shmmap.__all__, *shmmap.testing.__all__}))
def test_names_have_a_docstring(name: str) -> None:
    thing = getattr(shmmap, name, None) or getattr(shmmap.testing, name)
    if callable(thing):
        assert inspect.getdoc(thing)


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_signatures_are_those_documented(name: str) -> None:
    parameters = inspect.signature(getattr(shmmap, name)).parameters
    for parameter, default in SIGNATURES[name].items():
        if name == "ones" and parameter == "dtype":
            assert parameters[parameter].default in (None, float)  # both mean float64
        else:
            assert parameters[parameter].default == default, parameter


@pytest.mark.parametrize("option", sorted(OPTIONS))
@pytest.mark.parametrize(
    ("name", "func", "largest"),
    [
        ("pmap", np.abs, 9),
        ("pmap_chunks", np.abs, 9),
        ("pmap_ranges", max, 10),
        ("preduce", np.sum, 45),
    ],
)
def test_verbs_take_the_same_options(name: str, func: Any, largest: int, option: str) -> None:
    verb = getattr(shmmap, name)
    assert next(iter(inspect.signature(verb).parameters)) == "func"
    data = 10 if name == "pmap_ranges" else np.arange(10)
    for value in OPTIONS[option]:
        assert np.max(verb(func, data, **{option: value})) == largest
    with pytest.raises(TypeError, match=f"{option}_"):
        verb(func, data, **{f"{option}_": 1})


def test_likes_take_what_numpys_do() -> None:
    for name in ("empty_like", "zeros_like", "ones_like", "full_like"):
        parameters = inspect.signature(getattr(shmmap, name)).parameters
        for parameter, default in {"dtype": None, "order": "K", "shape": None}.items():
            assert parameters[parameter].default == default


def test_classes_are_what_they_extend() -> None:
    assert issubclass(shmmap.Team, concurrent.futures.Executor)
    assert issubclass(shmmap.MapFuture, concurrent.futures.Future)
    assert issubclass(shmmap.SharedMemoryError, MemoryError)
    assert issubclass(shmmap.WorkerDied, Exception)


def public_callables() -> dict[str, Any]:
    """Every public function, and every public or initialising method of a public class."""
    found: dict[str, Any] = {}
    for module in (shmmap, shmmap.testing):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing):
                for method, value in vars(thing).items():
                    if inspect.isfunction(value) and (method == "__init__" or method[0] != "_"):
                        found[f"{name}.{method}"] = value
            elif inspect.isfunction(thing):
                found[name] = thing
    return found


@pytest.mark.parametrize("name", sorted(public_callables()))
def test_everything_public_is_annotated(name: str) -> None:
    function = public_callables()[name]
    code = function.__code__
    taken = code.co_argcount + code.co_kwonlyargcount
    taken += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    if not hasattr(function, "__wrapped__"):
        assert function.__annotations__.keys() >= {*code.co_varnames[:taken], "return"} - {"self"}
    assert "return" in function.__annotations__


@pytest.mark.parametrize("name", sorted(public_callables()))
def test_type_hints_are_to_be_had(name: str) -> None:
    """At run time too, when nothing is imported for type checkers alone."""
    assert "return" in typing.get_type_hints(public_callables()[name])


@pytest.mark.parametrize("name", sorted({*shmmap.__all__, *shmmap.testing.__all__}))
def test_type_hints_of_attributes_are_to_be_had(name: str) -> None:
    thing = getattr(shmmap, name, None) or getattr(shmmap.testing, name)
    if inspect.isclass(thing):
        typing.get_type_hints(thing)


def test_package_says_that_it_is_typed() -> None:
    assert (Path(shmmap.__file__).parent / "py.typed").is_file()


def test_version() -> None:
    assert shmmap.__version__ == version("shmmap")


def test_import_is_light() -> None:
    done = run_python(
        "-c",
        "import numpy, json, sys\nbefore = set(sys.modules)\nimport shmmap\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))",
    )
    assert done.stderr == ""
    assert not HEAVY & set(json.loads(done.stdout))


def test_import_starts_nothing() -> None:
    done = run_python(
        "-c",
        "import numpy, os, threading\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "import shmmap\n"
        "assert threading.active_count() == 1\n"
        "assert len(os.listdir('/proc/self/fd')) == before\n"
        "tasks = os.listdir('/proc/self/task')\n"
        "assert not any(open(f'/proc/self/task/{t}/children').read() for t in tasks)\n",
    )
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("module", [shmmap, shmmap.testing])
def test_public_methods_say_what_they_do(module: Any) -> None:
    """Their classes are defined in private folders, where no linter asks for it."""
    silent = [
        f"{name}.{attribute}"
        for name in module.__all__
        if isinstance(kind := getattr(module, name), type)
        for attribute, value in vars(kind).items()
        if not attribute.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property))
        and not value.__doc__
    ]
    assert not silent


def test_help_opens_with_what_users_need() -> None:
    """Words of the public names come first, and nothing of how the package is laid out."""
    text = pydoc.plain(pydoc.render_doc(shmmap))
    description = text.partition("DESCRIPTION")[2].partition("PACKAGE CONTENTS")[0]
    for name in ("asshared", "load", "share", "pmap", "pmap_chunks", "preduce", "Team", "profile"):
        assert f"`{name}" in description or f"shmmap.{name}" in description, name
    for named in re.findall(r"(?<!`)`(\w+)(?:\([^`]*\))?`(?!`)", description):
        assert hasattr(shmmap, named) or named in ("map",), named
    assert "_verbs" not in description
    assert len(description.splitlines()) < 40
