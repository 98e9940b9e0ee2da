"""Code that was loaded again, or replaced in place, is used; what was only edited is not."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap import pmap
from tests.code_of_now.conftest import Write
from tests.helpers import run_script


def test_a_module_that_is_reloaded_is_new(write: Write, engine: Any) -> None:
    """A5: edited and loaded again; functions, classes, enumerations and values, changed and added."""
    m: Any = write("edges_edited", "def f(v):\n    return v + 1\n")
    assert pmap(m.f, [1], engine=engine) == [2]
    write(
        "edges_edited",
        """
        import dataclasses, enum, functools
        BONUS = 100

        class Kind(enum.Enum):
            ONE = 1
            TWO = 2
            def label(self):
                return self.name.lower()

        @dataclasses.dataclass
        class Pair:
            left: int
            right: int = 5
            def total(self):
                return self.left + self.right

        class Slotted:
            __slots__ = ("x",)
            def __init__(self, x):
                self.x = x

        @functools.lru_cache
        def cached(v):
            return v + BONUS

        def added(v):
            return (Kind(2).label(), Pair(v).total(), Slotted(v).x, cached(v))

        def f(v):
            return v - 1
        """,
    )
    importlib.reload(m)
    assert pmap(m.f, [1], engine=engine) == [0]
    assert pmap(m.added, [1], engine=engine) == [("two", 6, 1, 101)]
    assert pmap(lambda v: m.added(v), [1], engine=engine) == [("two", 6, 1, 101)]
    made = pmap(lambda v: (m.Pair(v), m.Kind.ONE), [1], engine=engine)[0]
    assert type(made[0]) is m.Pair
    assert made == (m.Pair(1), m.Kind.ONE)
    m.BONUS = 7
    m.cached.cache_clear()
    assert pmap(lambda v: m.cached.__wrapped__(v), [1], engine=engine) == [8]
    write("edges_edited", "def f(v):\n    return 'third'\n")
    importlib.reload(m)
    assert pmap(m.f, [1], engine=engine) == ["third"]


def test_a_file_that_was_edited_and_not_reloaded_is_old(write: Write, engine: Any) -> None:
    """A5, the other way round: the caller's code counts, not what a new worker would read."""
    m: Any = write(
        "edges_stale", "K = 1\ndef g(v):\n    return v + K\ndef f(v):\n    return g(v)\n"
    )
    write("edges_stale", "K = 50\ndef g(v):\n    return v - K\ndef f(v):\n    return -1\n")
    assert pmap(m.f, [1], engine=engine) == [2]
    assert pmap(lambda v: m.g(v), [1], engine=engine) == [2]


def test_what_a_name_was_bound_to_before_a_reload_stays(write: Write, engine: Any) -> None:
    """A5: ``from m import g`` keeps the old function, as in a serial loop."""
    inner: Any = write("edges_reloaded", "def g(v):\n    return 'old'\n")
    m: Any = write("edges_keeps", "from edges_reloaded import g\ndef f(v):\n    return g(v)\n")
    assert pmap(m.f, [1], engine=engine) == ["old"]
    write("edges_reloaded", "def g(v):\n    return 'new'\n")
    importlib.reload(inner)
    assert pmap(lambda v: (m.f(v), inner.g(v)), [1], engine=engine) == [("old", "new")]


def test_code_replaced_in_place_is_new(write: Write, engine: Any) -> None:
    """A5: what autoreload does to a function, its code, defaults and attributes."""
    m: Any = write("edges_place", "def f(v, k=1, *, z=0):\n    return v + k + z\n")
    assert pmap(m.f, [1], engine=engine) == [2]
    m.f.__code__ = (lambda v, k=1, *, z=0: v * 100 + k + z).__code__
    assert pmap(m.f, [1], engine=engine) == [101]
    m.f.__defaults__ = (5,)
    assert pmap(m.f, [1], engine=engine) == [105]
    m.f.__kwdefaults__ = {"z": 1000}
    assert pmap(m.f, [1], engine=engine) == [1105]
    m.f.__kwdefaults__["z"] = 2000
    assert pmap(m.f, [1], engine=engine) == [2105]


def test_autoreload_in_a_notebook(tmp_path: Path) -> None:
    """A5, by IPython's own extension, in a shell of its own."""
    done = run_script(
        tmp_path,
        """
        import pathlib, sys, time
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        folder = pathlib.Path(__file__).parent
        sys.path.insert(0, str(folder))
        path = folder / "edges_auto.py"
        path.write_text("K = 1\\nclass C:\\n    def m(self): return 1\\ndef f(v): return (v, K, C().m())\\n")
        shell.run_cell("%load_ext autoreload")
        shell.run_cell("%autoreload 2")
        shell.run_cell("import shmmap, edges_auto\\nfrom edges_auto import f")
        shell.run_cell("first = shmmap.pmap(f, [1], workers=1), shmmap.pmap(lambda v: edges_auto.f(v), [1])")
        path.write_text("K = 22\\nclass C:\\n    def m(self): return 33\\n"
                        "def f(v): return (-v, K, C().m(), g())\\ndef g(): return 'added'\\n")
        import os
        os.utime(path, (time.time() + 10, time.time() + 10))
        shell.run_cell("second = shmmap.pmap(f, [1], workers=1), shmmap.pmap(lambda v: edges_auto.f(v), [1])")
        print(shell.user_ns["first"])
        print(shell.user_ns["second"])
        """,
    )
    assert done.stdout.splitlines()[-2:] == [
        "([(1, 1, 1)], [(1, 1, 1)])",
        "([(-1, 22, 33, 'added')], [(-1, 22, 33, 'added')])",
    ], done.stdout + done.stderr


KINDS = """
    import abc, collections, enum, functools, typing
    import numpy as np

    VALUE = 1

    class Abstract(abc.ABC):
        @abc.abstractmethod
        def go(self): ...

    class Concrete(Abstract):
        WEIGHTS = np.arange(4)
        def go(self):
            return int(self.WEIGHTS.sum()) * VALUE

    class Lazy:
        __slots__ = ("__dict__",)
        @functools.cached_property
        def x(self):
            return VALUE

    class Number(enum.IntEnum):
        A = 1
        def label(self):
            return VALUE

    class Generic(typing.Generic[typing.TypeVar("T")]):
        def get(self):
            return VALUE

    class Meta(type):
        def hello(cls):
            return VALUE

    class WithMeta(metaclass=Meta):
        pass

    class Table(dict):
        def total(self):
            return sum(self.values()) * VALUE

    table = Table(a=1)
    counts = collections.defaultdict(int)
    ordered = collections.OrderedDict(a=1)
    recent = collections.deque([1])

    @functools.singledispatch
    def kind_of(x):
        return "other", VALUE

    @kind_of.register
    def _(x: int):
        return "number", VALUE

    vectorised = np.vectorize(lambda v: v * VALUE)

    class Outer:
        class Inner:
            def get(self):
                return VALUE
        def get(self):
            return Outer.Inner().get()

    async def wait():
        return VALUE

    def f(v):
        import asyncio
        return [
            Concrete().go(), Lazy().x, Number.A.label(), Generic().get(), WithMeta.hello(), table.total(),
            kind_of(1), kind_of("a"), vectorised([2]).tolist(), Outer().get(), asyncio.run(wait()), __name__,
            counts["a"], sum(ordered.values()), sum(recent),
        ]
"""


def test_every_kind_of_code(write: Write, team: shmmap.Team) -> None:
    """A4, A5: abstract, generic and enumerated classes, metaclasses, descriptors, dispatch, coroutines."""
    m: Any = write("edges_kinds", KINDS)
    for value in (1, 7, 1):
        m.VALUE = value
        assert pmap(m.f, [0], engine=team) == [m.f(0)]
    m.Concrete.WEIGHTS[0] = 100
    for each in (m.table, m.counts, m.ordered):
        each["a"] = 5
    m.recent.append(7)
    assert pmap(m.f, [0], engine=team) == [m.f(0)]
    offset = 3
    m.vectorised = np.vectorize(lambda v: v + offset)
    assert pmap(m.f, [0], engine=team) == [m.f(0)]
    edited = KINDS.replace("VALUE = 1\n", "VALUE = 50\n").replace('"number"', '"integer"')
    write("edges_kinds", edited.replace("A = 1", "A = 1\n        B = 2"))
    importlib.reload(m)
    assert pmap(m.f, [0], engine=team) == [m.f(0)]
    assert pmap(lambda v: m.Number.B, [0], engine=team)[0] is m.Number.B
    with pytest.raises(TypeError, match="abstract"):
        pmap(lambda v: m.Abstract(), [0], engine=team)
    with shmmap.Team(1) as other:
        assert pmap(m.f, [0], engine=other) == [m.f(0)]
