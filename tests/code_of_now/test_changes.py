"""Code and settings are those of now: what a map reaches in the user's modules is as it is in the caller.

Each test is written as a change of something in a module between two maps, with what a serial loop would give
before and after. It runs on every engine, and the workers are there before the change: they have imported the
module as it was.
"""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import numpy as np
import pytest

import shmmap
from shmmap import pmap
from tests.code_of_now.conftest import CONFIG, Write
from tests.fuzz import settings


def test_a_global_set_at_run_time_is_used(write: Write, engine: Any) -> None:
    """A4: the state of a user's module that changed after a worker imported it."""
    m: Any = write("edges_config", CONFIG)
    assert pmap(m.f, [1, 2], engine=engine) == [2, 4]
    m.K = 10
    assert pmap(m.f, [1, 2], engine=engine) == [10, 20]
    assert pmap(lambda v: m.f(v), [1, 2], engine=engine) == [10, 20]
    m.K = 2  # what the import gave must be told, too
    assert pmap(lambda v: m.f(v), [1, 2], engine=engine) == [2, 4]
    assert pmap(m.f, [1, 2], engine=engine) == [2, 4]
    m.K = 2.0
    assert type(pmap(m.f, [1], engine=engine)[0]) is float


def test_a_global_set_before_the_first_map_is_used(write: Write, engine: Any) -> None:
    """A4: the worker's own import would give what the module was before."""
    m: Any = write("edges_config", CONFIG)
    m.K = 10
    assert pmap(m.f, [1], engine=engine) == [10]


def test_what_is_changed_in_place_is_used(write: Write, engine: Any) -> None:
    """A4, of containers of plain values: also in one another."""
    m: Any = write("edges_config", CONFIG)
    assert pmap(m.by_table, [1], engine=engine) == [6.0]
    m.TABLE["gain"] = 10
    assert pmap(m.by_table, [1], engine=engine) == [15.0]
    m.LIMITS.append(100)
    assert pmap(m.by_table, [1], engine=engine) == [115.0]
    m.WEIGHTS[1][0] = 0.0
    assert pmap(m.by_table, [1], engine=engine) == [113.0]


def test_every_way_to_a_module_is_seen(write: Write, engine: Any) -> None:
    """A4: through globals, attributes, local imports, cells, defaults, partials, bound methods and items."""
    write("edges_inner", "K = 2\n")
    m: Any = write(
        "edges_ways",
        """
        import functools
        import edges_inner
        from edges_inner import K as here

        class Shape:
            gain = 1

            def __init__(self, size):
                self.size = size

            def area(self):
                return self.size * self.gain * edges_inner.K

        def direct(v):
            return v * edges_inner.K

        def local(v):
            import edges_inner as inner
            return v * inner.K

        def from_local(v):
            from edges_inner import K
            return v * K

        def by_default(v, f=direct):
            return f(v)

        def outer():
            def nested(v):
                return direct(v)
            return nested

        closure = outer()
        bound = Shape(1)
        partial = functools.partial(direct)
        HANDLERS = {"a": direct}

        def by_table(v):
            return HANDLERS["a"](v)

        def by_instance(v):
            return v * bound.area()

        def decorate(f):
            @functools.wraps(f)
            def wrapper(*args):
                return f(*args)
            return wrapper

        @decorate
        def decorated(v):
            return direct(v)
        """,
    )
    inner = sys.modules["edges_inner"]
    functions: list[Any] = [
        *(m.direct, m.local, m.from_local, m.by_default, m.closure, m.by_table, m.by_instance),
        *(m.decorated, m.partial, lambda v: v * inner.K, lambda v: m.direct(v)),
        *(lambda v: v * m.edges_inner.K, lambda v, s=m.bound: v * s.area()),
    ]
    for k in (2, 10, 2, 7):
        inner.K = k  # type: ignore[attr-defined]
        for function in functions:
            assert pmap(function, [1, 2], engine=engine) == [k, 2 * k]
        assert pmap(lambda s: s.area(), [m.Shape(3)], engine=engine) == [3 * k]
        assert pmap(m.Shape(3).area.__func__, [m.Shape(3)], engine=engine) == [3 * k]


def test_class_attributes_are_those_of_now(write: Write, engine: Any) -> None:
    """A4, of classes: values, methods, properties, class methods, bases, and super()."""
    m: Any = write(
        "edges_classes",
        """
        class Base:
            gain = 1

            def area(self):
                return self.gain

        class Shape(Base):
            def area(self):
                return super().area() * 10

            @property
            def twice(self):
                return 2 * self.area()

            @classmethod
            def make(cls):
                return cls()

            @staticmethod
            def plain():
                return Shape.make().area()

        def f(v):
            s = Shape()
            return (s.area(), s.twice, Shape.plain(), isinstance(s, Base))
        """,
    )
    assert pmap(m.f, [0], engine=engine) == [(10, 20, 10, True)]
    m.Base.gain = 3
    assert pmap(m.f, [0], engine=engine) == [(30, 60, 30, True)]
    with mock.patch.object(m.Shape, "area", lambda self: 7):
        assert pmap(m.f, [0], engine=engine) == [(7, 14, 7, True)]
    with mock.patch.object(m.Shape, "twice", property(lambda self: "p")):
        assert pmap(m.f, [0], engine=engine) == [(30, "p", 30, True)]
    m.Shape.added = lambda self: "added"
    assert pmap(lambda v: m.Shape().added(), [0], engine=engine) == ["added"]
    assert pmap(m.f, [0], engine=engine) == [(30, 60, 30, True)]


def test_patches_come_and_go(write: Write, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A4: `monkeypatch` and `mock.patch`, by functions from anywhere, and what was there is back after."""
    m: Any = write("edges_config", CONFIG)
    factor = 5
    assert pmap(lambda v: m.f(v), [3], engine=engine) == [6]
    with mock.patch("edges_config.f", lambda v: v * factor):
        assert pmap(lambda v: m.f(v), [3], engine=engine) == [15]
        assert pmap(lambda v: m.f(v) + m.K, [3], engine=engine) == [17]
    assert pmap(lambda v: m.f(v), [3], engine=engine) == [6]
    with monkeypatch.context() as patched:
        patched.setattr(m, "f", abs)
        assert pmap(lambda v: m.f(v), [-3], engine=engine) == [3]
        patched.setitem(m.TABLE, "gain", 0)
        assert pmap(m.by_table, [1], engine=engine) == [5.0]
    assert pmap(lambda v: m.f(v), [3], engine=engine) == [6]
    assert pmap(m.by_table, [1], engine=engine) == [6.0]


def test_every_verb_and_submit_see_it(write: Write, team: shmmap.Team) -> None:
    """A4, A5: chunks, ranges, reductions, submitted functions, `Team.map`, futures, as they come."""
    m: Any = write("edges_config", CONFIG + "\n    def r(a, b):\n        return (b - a) * K\n")
    x = shmmap.asshared(np.arange(4.0))
    for k in (2, 3, 2, 9):
        m.K = k
        assert shmmap.pmap_chunks(m.f, x, engine=team).tolist() == [0, k, 2 * k, 3 * k]
        assert sum(shmmap.pmap_ranges(m.r, 4, engine=team)) == 4 * k
        assert shmmap.preduce(m.f, x, combine=np.add, engine=team, chunksize=4).sum() == 6 * k
        assert team.submit(m.f, 2).result() == 2 * k
        assert team.submit(lambda: m.K).result() == k
        assert list(team.map(m.f, [1, 2])) == [k, 2 * k]
        assert pmap(m.f, iter([1, 2]), engine=team) == [k, 2 * k]
        assert pmap(m.f, [1, 2], engine=team, wait=False).result() == [k, 2 * k]
        out = shmmap.empty(4)
        for _ in range(3):  # a call that was seen before
            assert pmap(m.f, x, out=out, engine=team).tolist() == [0, k, 2 * k, 3 * k]


def test_alternating_functions_and_settings(write: Write, team: shmmap.Team) -> None:
    """A4: a value that is there again as it was, seen by several functions in turn."""
    m: Any = write("edges_config", CONFIG + "\n    def g(v):\n        return v + K\n")
    for k in (2, 44, 2, 44, 44, 2):
        m.K = k
        assert pmap(m.f, [1], engine=team) == [k]
        if k == 44:
            assert pmap(m.g, [1], engine=team) == [1 + k]


def test_arrays_of_a_module(write: Write, team: shmmap.Team) -> None:
    """A4, of arrays: small ones as they are now, larger and shared ones once they are bound anew."""
    m: Any = write(
        "edges_arrays",
        """
        import numpy as np
        SMALL = np.arange(3.0)
        LARGE = np.arange(1e5)
        SHARED = None

        class Holder:
            LARGE = LARGE

        def f(v):
            return float(SMALL.sum()), float(LARGE[1]), float(Holder.LARGE[1])

        def g(v):
            SHARED[v] = 7.0
        """,
    )
    assert pmap(m.f, [0], engine=team) == [(3.0, 1.0, 1.0)]
    m.SMALL[0] = 10.0
    m.LARGE = m.LARGE + 5
    assert pmap(m.f, [0], engine=team) == [(13.0, 6.0, 1.0)]
    m.SHARED = shmmap.zeros(3)
    assert pmap(m.g, [0, 2], engine=team) == [None, None]
    assert m.SHARED.tolist() == [7.0, 0.0, 7.0]
    m.SHARED = m.LARGE = None


def test_an_instance_of_settings(write: Write, engine: Any) -> None:
    """A4: settings are often attributes of one object."""
    m: Any = write(
        "edges_settings",
        """
        import dataclasses, types

        @dataclasses.dataclass
        class Settings:
            scale: float = 1.0
            names: list = dataclasses.field(default_factory=list)

        cfg = Settings()
        space = types.SimpleNamespace(k=1)

        def f(v):
            return v * cfg.scale + len(cfg.names) + space.k
        """,
    )
    assert pmap(m.f, [2], engine=engine) == [3.0]
    m.cfg.scale = 10.0
    assert pmap(m.f, [2], engine=engine) == [21.0]
    m.cfg.names.append("a")
    m.space.k = 5
    assert pmap(m.f, [2], engine=engine) == [26.0]


def test_what_another_function_has_told_since(team: Any) -> None:
    """A4. Kind: two settings at once, of which one is again as this function knew it, and workers do not."""
    settings.FACTOR, settings.TABLE["offset"] = 2, 10
    assert shmmap.pmap(settings.scaled, [1], engine=team) == [12]
    settings.TABLE["offset"] = 0
    assert shmmap.pmap(settings.Model(), [1], engine=team) == [2]
    settings.FACTOR, settings.TABLE["offset"] = 1, 10
    assert shmmap.pmap(settings.scaled, [1], engine=team) == [11]
    settings.FACTOR, settings.TABLE["offset"] = 1, 0
