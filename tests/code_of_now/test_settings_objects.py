"""Settings and state of every kind: an object of any class that a module holds is as it is in the caller.

A4 of objects that are no plain containers. Each row is a module, and changes of it; after each change a map
gives what a loop in the caller gives, on every engine, with workers that have imported the module as it was.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap import pmap
from shmmap._code.modules import is_users

Change = Callable[[Any], Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the search path; modules in it are forgotten at the end."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        module = sys.modules.pop(path.stem, None)
        if module is not None:
            vars(module).clear()  # its large arrays go


def load(folder: Path, name: str, source: str) -> Any:
    (folder / f"{name}.py").write_text(source)
    importlib.invalidate_caches()
    return importlib.import_module(name)


CASES: dict[str, tuple[str, list[Change]]] = {
    "argparse.Namespace": (
        "import argparse\nA = argparse.Namespace(k=2, d={'x': 1})\ndef f(v): return v * A.k * A.d['x']",
        [
            lambda m: setattr(m.A, "k", 10),
            lambda m: m.A.d.update(x=3),
            lambda m: setattr(m, "A", argparse.Namespace(k=5, d={"x": 1})),
        ],
    ),
    "ConfigParser": (
        "import configparser\nC = configparser.ConfigParser()\nC.read_string('[a]\\nk=2\\n')\n"
        "def f(v): return v * C.getint('a', 'k')",
        [lambda m: m.C.set("a", "k", "10")],
    ),
    "slots": (
        "class S:\n    __slots__ = ('k',)\ns = S()\ns.k = [2]\ndef f(v): return v * s.k[0]",
        [lambda m: setattr(m.s, "k", [10]), lambda m: m.s.k.__setitem__(0, 3)],
    ),
    "elements that move": (
        "class S:\n    __slots__ = ('a', 'b', 'c')\ns = S()\ns.a, s.b, s.c = [1], [2, 3], []\n"
        "def f(v): return v * len(s.a) + len(s.c)",
        [lambda m: m.s.a.insert(0, m.s.b.pop()), lambda m: m.s.c.append(4)],
    ),
    "frozen dataclass": (
        "import dataclasses\n@dataclasses.dataclass(frozen=True, slots=True)\nclass S:\n    k: int = 2\n"
        "s = S()\ndef f(v): return v * s.k",
        [lambda m: setattr(m, "s", m.S(10)), lambda m: object.__setattr__(m.s, "k", 7)],
    ),
    "view of a dict": (
        "import types\nD = {'k': 2}\nP = types.MappingProxyType(D)\ndef f(v): return v * P['k']",
        [lambda m: m.D.update(k=10), lambda m: setattr(m, "P", types.MappingProxyType({"k": 3}))],
    ),
    "ChainMap, UserDict, UserList": (
        "from collections import *\nC = ChainMap({'k': 2}, {'z': 1})\nU = UserDict(k=1)\nL = UserList([1])\n"
        "def f(v): return v * C['k'] * C['z'] * U['k'] * L[0]",
        [
            lambda m: m.C.update(z=3),
            lambda m: m.C.maps[0].update(k=5),
            lambda m: m.U.update(k=7),
            lambda m: m.L.__setitem__(0, 9),
        ],
    ),
    "subclasses of containers": (
        "import collections\nclass L(list): pass\nclass S(set): pass\nclass D(collections.deque): pass\n"
        "N = collections.namedtuple('N', 'a')\nl, s, d, n = L([2]), S([1]), D([1]), N([1])\n"
        "def f(v): return v * l[0] * len(s) * d[0] * n.a[0]",
        [
            lambda m: m.l.__setitem__(0, 10),
            lambda m: m.s.add(5),
            lambda m: m.d.__setitem__(0, 3),
            lambda m: m.n.a.__setitem__(0, 4),
        ],
    ),
    "bytes that can be changed": (
        "import array\nB = bytearray(b'a')\nA = array.array('i', [2])\ndef f(v): return v * B[0] * A[0]",
        [lambda m: m.B.__setitem__(0, 3), lambda m: m.A.__setitem__(0, 4)],
    ),
    "context of decimals": (
        "import decimal\nC = decimal.Context(prec=3)\n"
        "def f(v): return str(C.divide(decimal.Decimal(v), decimal.Decimal(7)))",
        [lambda m: setattr(m.C, "prec", 8)],
    ),
    "arrays": (
        "import numpy as np\nO = np.array([2, None], object)\nM = np.ma.array([2, 3], mask=[0, 1])\n"
        "class A(np.ndarray): pass\nS = np.array([2]).view(A)\nS.k = 1\nP = np.poly1d([2, 0])\n"
        "def f(v): return v * O[0] + int(M[0]) + int(M.mask.sum()) + int(S[0]) * S.k + float(P(v))",
        [
            lambda m: m.O.__setitem__(0, 10),
            lambda m: m.M.__setitem__(1, 5),
            lambda m: m.S.__setitem__(0, 5),
            lambda m: setattr(m.S, "k", 7),
            lambda m: m.P.c.__setitem__(0, 7),
        ],
    ),
    "large arrays": (
        "import numpy as np\nclass H: pass\nBIG = np.zeros(100_000)\n"
        "IN = {'w': np.zeros(3_000_000), 'k': 1}\n"
        "h = H()\nh.w = np.zeros((300, 300)).T\nh.k = 1\n"
        "def f(v): return float(BIG[37] + IN['w'][5] * IN['k'] + h.w[3, 4] * h.k)",
        [
            lambda m: m.BIG.__setitem__(37, 10),
            lambda m: m.IN["w"].__setitem__(5, 7),
            lambda m: m.IN.update(k=3),
            lambda m: m.h.w.__setitem__((3, 4), 2),
            lambda m: setattr(m.h, "w", np.ones((300, 300))),
            lambda m: setattr(m, "IN", {"w": np.ones(6), "k": 1}),
        ],
    ),
    "long containers": (
        "D = dict.fromkeys(range(5000), 1)\nIN = {'t': list(range(5000)), 'k': 2}\n"
        "def f(v): return len(D) * IN['k'] + len(IN['t'])",
        [
            lambda m: m.D.update({-1: 1}),
            lambda m: m.IN.update(k=3),
            lambda m: m.IN["t"].append(0),
        ],
    ),
    "beside what does not pickle": (
        "import threading, logging\nclass A: pass\na = A()\na.lock = threading.Lock()\na.k = 2\n"
        "a.log = logging.getLogger('edges')\n"
        "D = {'lock': threading.Lock(), 'k': 1, 'in': [(threading.Lock(),)]}\n"
        "def f(v):\n    with a.lock, D['lock'], D['in'][0][0]:\n        return v * a.k * D['k']",
        [lambda m: setattr(m.a, "k", 10), lambda m: m.D.update(k=3)],
    ),
    "pickling of one's own": (
        "class A:\n    def __init__(self, k=2): self.k = k\n    def __reduce__(self): return A, (self.k,)\n"
        "a = A()\ndef f(v): return v * a.k",
        [lambda m: setattr(m.a, "k", 10), lambda m: setattr(m, "a", m.A(3))],
    ),
    "attributes by code": (
        "class C:\n    def __init__(self): object.__setattr__(self, '_d', {'k': 2})\n"
        "    def __getattr__(self, name): return self._d[name]\n"
        "    def __setattr__(self, name, value): self._d[name] = value\n"
        "c = C()\ndef f(v): return v * c.k",
        [lambda m: setattr(m.c, "k", 10)],
    ),
    "attributes of functions": (
        "import functools\ndef deco(func):\n    @functools.wraps(func)\n"
        "    def inner(v): return func(v) * inner.k\n"
        "    inner.k = 2\n    return inner\n@deco\ndef g(v): return v\ndef f(v): return g(v)",
        [lambda m: setattr(m.g, "k", 10), lambda m: setattr(m.g, "k", 3)],
    ),
    "bound methods": (
        "class A:\n    def go(self, v): return v * 2\na = A()\nb = a.go\ndef f(v): return b(v)",
        [
            lambda m: setattr(m.A, "go", lambda self, v: v * 10),
            lambda m: setattr(m, "b", m.a.go),
        ],
    ),
    "names that are deleted": (
        "K = 2\ndef len(v): return 7\ndef f(v):\n    try:\n        return v * K + len([])\n"
        "    except NameError:\n        return len([])",
        [
            lambda m: delattr(m, "K"),
            lambda m: delattr(m, "len"),
            lambda m: setattr(m, "K", 5),
        ],
    ),
    "dispatch of methods": (
        "import functools\nclass A:\n    @functools.singledispatchmethod\n    def g(self, v): return v * 2\n"
        "a = A()\ndef f(v): return a.g(v)",
        [lambda m: vars(m.A)["g"].register(int, lambda self, v: v * 10)],
    ),
    "names in strings": (
        "import sys\nK = 2\nJ = 3\ndef f(v): return v * globals()['K'] * getattr(sys.modules[__name__], 'J')",
        [lambda m: setattr(m, "K", 10), lambda m: setattr(m, "J", 5)],
    ),
    "functions that remember their results": (
        "import functools\nK = 2\n@functools.lru_cache\ndef g(v): return h(v) if v else 0\n"
        "def h(v): return v * K + g(0)\nclass A:\n    @staticmethod\n    @functools.cache\n"
        "    def s(v): return v * K\ndef f(v): return g(v) + A.s(v)",
        [
            lambda m: (setattr(m, "K", 10), m.g.cache_clear(), m.A.s.cache_clear()),
            lambda m: (setattr(m, "h", lambda v: -v), m.g.cache_clear()),
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_object_of_any_kind_is_as_it_is_now(case: str, folder: Path, engine: Any) -> None:
    """A4, of objects of every kind."""
    source, changes = CASES[case]
    m = load(folder, "edges_settings", source)
    for change in (lambda m: None, *changes):
        change(m)
        for func in (m.f, lambda v: m.f(v)):
            mapped = pmap(func, [1, 2, 3], engine=engine, out=list)
            assert mapped == [m.f(v) for v in (1, 2, 3)], case


def test_a_cache_is_emptied_only_for_what_it_reaches(folder: Path) -> None:
    """What a function remembers outlives changes that do not concern it."""
    m = load(
        folder,
        "edges_cached",
        "import functools, os\nK = 2\nOTHER = 1\nCALLS = []\n@functools.cache\ndef g():\n"
        "    return os.urandom(8)\ndef f(v): return OTHER, g()\n",
    )
    with shmmap.Team(workers=1) as one:
        first = pmap(m.f, [1], engine=one, out=list)[0][1]
        m.OTHER = 2
        assert pmap(m.f, [1], engine=one, out=list) == [(2, first)]


def test_another_module_by_the_same_name(folder: Path, engine: Any) -> None:
    """A5: ``sys.modules`` is given another module, which functions import when they are called."""
    c = load(folder, "edges_other", "K = 2\n")
    m = load(
        folder, "edges_user", "def f(v):\n    import edges_other\n    return v * edges_other.K\n"
    )
    assert pmap(m.f, [1], engine=engine) == [2]
    other: Any = types.ModuleType("edges_other")
    other.K = 10
    sys.modules["edges_other"] = other
    assert pmap(m.f, [1], engine=engine) == [10]
    sys.modules["edges_other"] = c
    assert pmap(m.f, [1], engine=engine) == [2]


def test_a_module_that_puts_an_object_in_its_place(folder: Path, team: shmmap.Team) -> None:
    """C6: what ``sys.modules`` holds need not be a module."""
    load(
        folder,
        "edges_object",
        "import sys\nclass C:\n    K = 2\nsys.modules[__name__] = C()\n",
    )
    m = load(
        folder, "edges_user", "def f(v):\n    import edges_object\n    return v * edges_object.K\n"
    )
    assert pmap(m.f, [1], engine=team) == [2]


def test_what_does_not_pickle_and_was_not_changed_is_not_refused(
    folder: Path, team: shmmap.Team
) -> None:
    """Two functions reach an object that does not pickle; or it changes by being used in the caller."""
    m = load(
        folder,
        "edges_opaque",
        "import contextvars, itertools, numpy as np\nV = contextvars.ContextVar('v', default=1)\n"
        "U = np.frompyfunc(lambda v: v, 1, 1)\nC = itertools.count()\nG = (v for v in [0] * 9)\n"
        "def f(v): return V.get() + U(1) + (next(C) + next(G)) * 0\n",
    )
    for func in (m.f, lambda v: m.f(v), functools.partial(m.f)):
        assert m.f(1) == 2
        assert pmap(func, [1], engine=team) == [2]


def test_a_lock_in_an_object_is_the_workers_own(folder: Path) -> None:
    """What could not be carried in a changed object is what the worker's import has made."""
    m = load(
        folder,
        "edges_lock",
        "import threading\nD = {'lock': threading.Lock(), 'k': 1}\n"
        "def f(v): return v * D['k'], D['lock'].locked()\n",
    )
    with shmmap.Team(workers=1) as team:
        m.D["k"] = 5
        with m.D["lock"]:
            assert pmap(m.f, [1], engine=team, out=list) == [(5, False)]
        m.D["event"] = threading.Lock()
        m.f.__code__ = (lambda v: D["event"].locked()).__code__  # type: ignore[name-defined]  # noqa: F821
        with pytest.raises(TypeError, match=r"cannot be carried from the calling process"):
            pmap(m.f, [1], engine=team)


def test_a_module_that_makes_its_names_when_asked(folder: Path, team: shmmap.Team) -> None:
    """A4, of a module with a ``__getattr__`` of its own."""
    c = load(folder, "edges_asked", "_d = {'K': 2}\ndef __getattr__(name): return _d[name]\n")
    m = load(folder, "edges_user", "import edges_asked as c\ndef f(v): return v * c.K\n")
    assert pmap(m.f, [1], engine=team) == [2]
    c._d["K"] = 10
    assert pmap(m.f, [1], engine=team) == [10]
    c.K = 4
    assert pmap(m.f, [1], engine=team) == [4]
    del c.K
    assert pmap(m.f, [1], engine=team) == [10]


def test_a_package_installed_into_a_folder_of_the_path_is_not_the_users(folder: Path) -> None:
    """``pip install --target``: what was installed there is recorded beside it; others are the user's."""
    record = folder / "edges_installed-1.0.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("edges_installed.py,sha256=0,10\nedges_installed-1.0.dist-info/RECORD,,\n")
    assert not is_users(load(folder, "edges_installed", "K = 2\n"))
    assert is_users(load(folder, "edges_beside", "K = 2\n"))
