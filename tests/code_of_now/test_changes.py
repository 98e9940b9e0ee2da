"""Code and settings are those of now: what a map reaches in the user's modules is as it is in the caller.

Each test is written as a change of something in a module between two maps, with what a serial loop would give
before and after. It runs on every engine, and the workers are there before the change: they have imported the
module as it was.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import multiprocessing
import os
import signal
import sys
import textwrap
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import shmmap
from shmmap import pmap
from tests.conftest import ENGINES, open_engine
from tests.fuzz import settings
from tests.helpers import run_script

Write = Callable[..., types.ModuleType]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module into a folder of the search path, and import it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names: list[str] = []

    def write_module(name: str, source: str, load: bool = True) -> Any:
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        names.append(name)
        return importlib.import_module(name) if load else None

    yield write_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(params=[*ENGINES, "clean", "process pool"])
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run the test on every engine, with workers that are there before and after a change."""
    if request.param == "clean":
        with shmmap.Team(workers=2) as team:
            yield team
    elif request.param == "process pool":
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            yield pool
    else:
        with open_engine(request.param) as engine:
            yield engine


CONFIG = """
    K = 2
    TABLE = {"gain": 1}
    LIMITS = [1, 2]
    WEIGHTS = (1.0, [2.0])

    def f(v):
        return v * K

    def by_table(v):
        return v * TABLE["gain"] + sum(LIMITS) + WEIGHTS[1][0]
"""


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


INITIALIZED = """
    model = None
    other = 1
    table = {}

    def init(value=5):
        global model
        model = value
        table["set"] = value

    def f(v):
        return (model, table.get("set"))

    def g(v):
        return (model, table.get("set"), other)
"""


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_what_an_initializer_sets_stays_set(write: Write, start: Any) -> None:
    """A4: state of the caller must not undo it, also not with other changes, nor in a replaced worker."""
    m: Any = write("edges_initialized", INITIALIZED)
    with shmmap.Team(1, start=start, initializer=m.init) as team:
        assert pmap(m.f, [0], engine=team) == [(5, 5)]
        m.other = 2
        assert pmap(m.g, [0], engine=team) == [(5, 5, 2)]
        with pytest.raises(shmmap.WorkerDied):
            pmap(lambda v: os.kill(os.getpid(), signal.SIGKILL), [0], engine=team)
        m.other = 3
        assert pmap(m.g, [0], engine=team) == [(5, 5, 3)]
        m.model = "the caller's"
        assert pmap(m.f, [0], engine=team) == [("the caller's", 5)]


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_an_initializer_that_sets_by_name_stays_set(write: Write, start: Any) -> None:
    """A4: no code names what it sets, and it is told of first after it was set."""
    m: Any = write("edges_initialized", INITIALIZED)

    def init() -> None:
        vars(importlib.import_module("edges_initialized")).update({"model": 7})

    with shmmap.Team(1, start=start, initializer=init) as team:
        assert team.submit(abs, 0).result() == 0
        assert pmap(m.f, [0], engine=team) == [(7, None)]
        m.other = 9
        assert pmap(m.g, [0], engine=team) == [(7, None, 9)]


def test_what_cannot_be_carried_is_refused_where_it_is_used(
    write: Write, team: shmmap.Team
) -> None:
    """A4: a mock does not pickle. A map that has nothing to do with it goes on."""
    m: Any = write("edges_config", CONFIG)
    assert pmap(lambda v: m.f(v), [1], engine=team) == [2]
    with mock.patch.object(m, "f"):
        with pytest.raises(
            TypeError, match=r"edges_config\.f is a .*MagicMock in the calling process"
        ):
            pmap(lambda v: m.f(v), [1], engine=team)
        assert pmap(lambda v: m.K if v else m.f(v), [1], engine=team) == [2]
    assert pmap(lambda v: m.f(v), [1], engine=team) == [2]


def test_locks_and_loggers_are_the_workers_own(write: Write, engine: Any) -> None:
    """A4: what an import makes and does not pickle stays what the worker's import has made."""
    m: Any = write(
        "edges_locks",
        """
        import logging, threading
        LOG = logging.getLogger(__name__)
        LOCK = threading.Lock()
        LOCAL = threading.local()
        K = 1

        def f(v):
            LOG.debug("x")
            with LOCK:
                return vars(LOCAL) == {}, v * K
        """,
    )
    assert pmap(m.f, [1], engine=engine) == [(True, 1)]
    m.K = 2
    assert pmap(m.f, [1], engine=engine) == [(True, 2)]
    importlib.reload(m)
    assert pmap(m.f, [1], engine=engine) == [(True, 1)]


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


def test_no_code_of_the_users_runs_when_nothing_is_to_be_sent(write: Write) -> None:
    """Looking at what a function reaches reads namespaces alone."""
    m: Any = write(
        "edges_awkward",
        """
        class Awkward:
            def __eq__(self, other):
                raise RuntimeError("compared")
            __hash__ = None
            def __getattribute__(self, name):
                raise RuntimeError(name)
            def __bool__(self):
                raise RuntimeError("asked")
            def __len__(self):
                raise RuntimeError("asked")

        A = Awkward()
        K = 1

        def f(v):
            return A is not None, K
        """,
    )
    with shmmap.Team(1) as team:
        for k in (1, 2):
            m.K = k
            assert pmap(m.f, [0], engine=team) == [(True, k)]


def test_no_array_is_kept_alive(write: Write) -> None:
    """What is looked at is held weakly if it may be large; the leak guard looks for the shared copy of it."""
    m: Any = write("edges_kept", "LARGE = None\ndef f(v):\n    return LARGE.nbytes\n")
    with shmmap.Team(1) as team:
        m.LARGE = np.zeros(1 << 20)
        assert pmap(m.f, [0], engine=team) == [8 << 20]
        gone = weakref.ref(m.LARGE)
        m.LARGE = None
        assert gone() is None


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


def test_what_another_function_has_told_since(team: Any) -> None:
    """A4. Kind: two settings at once, of which one is again as this function knew it, and workers do not."""
    settings.FACTOR, settings.TABLE["offset"] = 2, 10
    assert shmmap.pmap(settings.scaled, [1], engine=team) == [12]
    settings.TABLE["offset"] = 0
    assert shmmap.pmap(settings.Model(), [1], engine=team) == [2]
    settings.FACTOR, settings.TABLE["offset"] = 1, 10
    assert shmmap.pmap(settings.scaled, [1], engine=team) == [11]
    settings.FACTOR, settings.TABLE["offset"] = 1, 0
