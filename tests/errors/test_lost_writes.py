"""What a function changes where it runs on copies is lost: the map says so, and names the variable."""

from __future__ import annotations

import abc
import array
import collections
import concurrent.futures
import enum
import functools
import io
import itertools
import multiprocessing
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import shmmap
from shmmap.testing import wait_until
from tests.helpers import run_script


@pytest.fixture(params=["clean", "fork", "fork engine", "pool"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run the test on each engine whose functions see copies."""
    if request.param == "fork engine":
        yield "fork"
    elif request.param == "pool":
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
            yield executor
    else:
        with shmmap.Team(workers=2, start=request.param) as team:
            yield team


def names_of_lost(run: Callable[[], object]) -> str:
    """What the one warning of a map names."""
    with pytest.warns(RuntimeWarning, match="the change is lost; return values") as caught:
        run()
    (warning,) = (each for each in caught if each.category is RuntimeWarning)
    assert warning.filename == __file__
    text = str(warning.message)
    return text[text.index("has changed ") + len("has changed ") : text.index(" in worker")]


class Gatherer:
    """An object with a state, as people write them."""

    limit = 3

    def __init__(self) -> None:
        self.got: list[int] = []
        self.total = 0
        self.model: Any = None

    def append(self, i: int) -> None:
        """Change what an attribute holds."""
        self.got.append(i)

    def add(self, i: int) -> None:
        """Set an attribute."""
        self.total += i

    def load(self, i: int) -> int:
        """Fill what was None, and what was not there: a cache."""
        if self.model is None:
            self.model = [1]
            self.other = 2
        return len(self.model)

    __call__ = append


@pytest.mark.few(2)
def test_containers(elsewhere: Any) -> None:
    """A16. Kind: whatever changes a captured container, wherever it is captured, by each verb."""
    got: list[int] = []
    table: dict[int, int] = {}
    seen: set[int] = set()
    queue: collections.deque[int] = collections.deque()
    counts: collections.Counter[int] = collections.Counter()
    groups: dict[str, list[int]] = {"a": []}
    raw = bytearray(4)
    numbers = array.array("d", [0.0])
    users: collections.UserList[int] = collections.UserList()
    space = types.SimpleNamespace(n=5)
    text = io.StringIO()
    frame = pd.DataFrame({"a": [1.0]})
    ordered = [3, 1, 2]

    def with_default(i: int, acc: list[int] = []) -> None:  # noqa: B006
        acc.append(i)

    def insert(into: list[int], i: int) -> None:
        into.append(i)

    def many(i: int) -> None:
        got.append(i)
        seen.add(i)

    changes: list[tuple[Callable[[int], object], str]] = [
        (lambda i: got.append(i), "'got'"),
        (lambda i: table.__setitem__(i, i), "'table'"),
        (lambda i: seen.add(i), "'seen'"),
        (lambda i: queue.append(i), "'queue'"),
        (lambda i: counts.update([i]), "'counts'"),
        (lambda i: groups["a"].append(i), "'groups'"),
        (lambda i: raw.__setitem__(0, 7), "'raw'"),
        (lambda i: numbers.__setitem__(0, 7.0), "'numbers'"),
        (lambda i: users.append(i), "'users.data'"),
        (lambda i: setattr(space, "n", i), "'space.n'"),
        (lambda i: text.write("x"), "'text'"),
        (lambda i: frame.insert(0, f"b{i}", 1), "'frame'"),
        (lambda i: ordered.sort(), "'ordered'"),
        (with_default, "'acc'"),
        (functools.partial(insert, got), "'partial'"),
    ]
    for func, name in changes:
        assert names_of_lost(lambda func=func: shmmap.pmap(func, [0, 1], engine=elsewhere)) == name  # type: ignore[misc]
    named = names_of_lost(lambda: shmmap.pmap(many, [0, 1], engine=elsewhere))
    assert set(named.split(", ")) == {"'got'", "'seen'"}
    x = np.arange(4.0)
    for run in (
        lambda: shmmap.pmap_chunks(lambda c: got.append(1), x, engine=elsewhere),
        lambda: shmmap.preduce(lambda c: got.append(1) or 1, x, combine=np.add, engine=elsewhere),
        lambda: shmmap.pmap(lambda v: got.append(1), [1], engine=elsewhere, wait=False).result(),
    ):
        with pytest.warns(RuntimeWarning, match="'got'"):
            run()
    assert not (got or table or seen or queue or counts or groups["a"] or any(raw))


def test_ranges() -> None:
    """A16, by `pmap_ranges`."""
    got: list[int] = []
    assert names_of_lost(lambda: shmmap.pmap_ranges(lambda a, b: got.append(a), 4)) == "'got'"


@pytest.mark.few(2)
def test_state_of_objects(elsewhere: Any) -> None:
    """A16. Kind: ``self``, by a method, a callable object, or an object that is captured."""
    gatherer = Gatherer()
    assert (
        names_of_lost(lambda: shmmap.pmap(gatherer.append, [1], engine=elsewhere)) == "'self.got'"
    )
    assert names_of_lost(lambda: shmmap.pmap(gatherer.add, [1], engine=elsewhere)) == "'self.total'"
    assert names_of_lost(lambda: shmmap.pmap(gatherer, [1], engine=elsewhere)) == "'self.got'"
    named = names_of_lost(lambda: shmmap.pmap(lambda i: gatherer.append(i), [1], engine=elsewhere))
    assert named == "'gatherer.got'"


def test_variables(elsewhere: Any) -> None:
    """A16. Kind: variables of the enclosing function."""
    total = 0

    def add(i: int) -> None:
        nonlocal total
        total += i

    assert names_of_lost(lambda: shmmap.pmap(add, [1], engine=elsewhere)) == "'total'"
    assert total == 0


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("got", "total")

    def __init__(self) -> None:
        self.total = 0
        self.got: list[int] = []

    def add(self, i: int) -> None:
        """Change both of its attributes."""
        self.total += 1
        self.got.append(i)


def test_state_elsewhere(elsewhere: Any) -> None:
    """A16. Kind: slots, attributes of functions, and of classes that travel by value, and of their bases."""

    class Counted:
        count = 0
        got: list[int] = []  # noqa: RUF012

        @classmethod
        def add(cls, i: int) -> None:
            cls.count += 1

    class Derived(Counted):
        pass

    def counts(i: int) -> None:
        counts.calls += 1  # type: ignore[attr-defined]

    def add_to_class(i: int) -> None:
        Counted.count += 1

    def add_to_base(i: int) -> None:
        Derived.__base__.count += 1  # type: ignore[union-attr]

    counts.calls = 0  # type: ignore[attr-defined]
    changes: list[tuple[Callable[[int], object], str]] = [
        (Slotted().add, "'self.total', 'self.got'"),
        (counts, "'counts.calls'"),
        (add_to_class, "'Counted.count'"),
        (Counted.add, "'Counted.count'"),
        (add_to_base, "'Counted.count'"),
        (lambda i: Counted.got.append(i), "'Counted.got'"),
    ]
    for func, names in changes:
        named = names_of_lost(lambda func=func: shmmap.pmap(func, [1], engine=elsewhere))  # type: ignore[misc]
        assert sorted(named.split(", ")) == sorted(names.split(", "))


def test_random_numbers(elsewhere: Any) -> None:
    """A16. Kind: a generator of random numbers, of which each worker has a copy in the same state."""
    sources: list[Any] = [
        np.random.default_rng(1),
        np.random.RandomState(1),
        random.Random(1),
    ]
    for source in sources:
        named = names_of_lost(
            lambda source=source: shmmap.pmap(lambda i: source.random(), [1], engine=elsewhere)  # type: ignore[misc]
        )
        assert named.startswith("'source' (each draws the same random numbers from it: pass rng=")
    holder = types.SimpleNamespace(rng=np.random.default_rng(1))
    named = names_of_lost(lambda: shmmap.pmap(lambda i: holder.rng.random(), [1], engine=elsewhere))
    assert "'holder.rng' (each draws" in named
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shmmap.pmap(lambda i, rng: rng.random(), [1], rng=sources[0], engine=elsewhere)
        shmmap.pmap(lambda i: np.random.default_rng(i).random(), [1], engine=elsewhere)


@pytest.mark.filterwarnings("ignore:Pickle, copy:DeprecationWarning")
def test_iterators(elsewhere: Any) -> None:
    """A16. Kind: iterators, of which each worker has one at the same position."""
    iterators: list[Iterator[Any]] = [
        iter([1, 2, 3]),
        iter(range(5)),
        iter({1: 2, 3: 4}),
        map(abs, [1, 2]),
        zip([1, 2], [3, 4], strict=True),
        enumerate("ab"),
    ]
    if sys.version_info < (3, 14):
        iterators += [itertools.count(), itertools.cycle([1, 2]), itertools.permutations([1, 2, 3])]
    for it in iterators:
        named = names_of_lost(
            lambda it=it: shmmap.pmap(lambda i: next(it), [1], engine=elsewhere)  # type: ignore[misc]
        )
        assert named == "'it'"
    shmmap.pmap(lambda i: list(zip([i], [2], strict=True)), [1], engine=elsewhere)


def test_generators() -> None:
    """A16. Kind: a generator, which comes along with a fork only."""

    def count() -> Iterator[int]:
        yield from range(5)

    it = count()
    assert names_of_lost(lambda: shmmap.pmap(lambda i: next(it), [1], engine="fork")) == "'it'"
    assert names_of_lost(lambda: shmmap.pmap(lambda i: next(it), [1], engine="fork")) == "'it'"


SCRIPT = """
    import sys, warnings
    import shmmap

    warnings.simplefilter("always")
    total, model, cache = 0, None, {}

    def add(i):
        global total
        total += i
    def load(i):
        global model
        if model is None:
            model = [i]
    def fill(i):
        cache[i] = i

    with shmmap.Team(1, start=sys.argv[1]) as team:
        for func in (add, load, fill, lambda i: fill(i)):
            with warnings.catch_warnings(record=True) as caught:
                shmmap.pmap(func, [1], engine=team)
            print([str(each.message).split()[3] for each in caught])
"""


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_globals_of_a_script(start: str, tmp_path: Path) -> None:
    """A16. Kind: globals of a script, those included that a function reaches by another one."""
    done = run_script(tmp_path, SCRIPT, start)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:4] == ["[\"'total'\"]", "[]", "[\"'cache'\"]", "[\"'cache'\"]"]


def test_a_submitted_function(team: shmmap.Team) -> None:
    """A16, by `Team.submit` and `Team.map`."""
    got: list[int] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        team.submit(lambda: got.append(1)).result()
        wait_until(lambda: caught)
        assert "'got'" in str(caught[0].message)
        caught.clear()
        list(team.map(lambda i: got.append(i), [1, 2]))
        assert "'got'" in str(caught[0].message)


def test_what_is_no_loss(engine: Any) -> None:
    """A16. Kind: false alarms: what is read only, local, given, filled once, or an object of a library."""
    table = {"a": [1, 2]}
    names = ["x"]
    gatherer = Gatherer()
    generator = np.random.default_rng(1)
    it = iter([1, 2])

    class Permission(enum.Flag):
        READ = 1
        WRITE = 2

    class Base(abc.ABC):  # noqa: B024
        cached = None

        @functools.lru_cache  # noqa: B019
        def compute(self) -> int:
            return 1

        @functools.cached_property
        def kept(self) -> int:
            return 2

    class Derived(Base):
        pass

    derived = Derived()

    def read(i: int) -> Any:
        local = [*names]
        local.append(str(i))
        return (
            len(local)
            + len(table["a"])
            + gatherer.limit
            + gatherer.load(i)
            + generator.bit_generator.state.__len__()
            + it.__length_hint__()
            + (Permission.READ | Permission.WRITE).value
            + derived.compute()
            + derived.kept
            + isinstance(derived, Base)
        )

    def change_argument(item: list[int]) -> list[int]:
        item.append(1)
        return item

    assert shmmap.pmap(read, [1], engine=engine)
    assert shmmap.pmap(change_argument, [[0], [2]], engine=engine) == [[0, 1], [2, 1]]


def test_where_it_lands_there_is_no_warning() -> None:
    """A16. Kind: engines of the caller's own process."""
    for name in ("serial", "threads", "executor"):
        got: list[int] = []
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            shmmap.pmap(got.append, range(3), engine=executor if name == "executor" else name)
        assert sorted(got) == [0, 1, 2]


def test_each_map_that_loses_something_says_so(elsewhere: Any) -> None:
    """A16. Kind: a function that a worker keeps from one map to the next."""
    seen: set[int] = set()

    def note(i: int) -> None:
        seen.add(i)

    for i in (1, 2):
        assert (
            names_of_lost(lambda i=i: shmmap.pmap(note, [i], engine=elsewhere, workers=1))
            == "'seen'"
        )  # type: ignore[misc]


def test_as_an_error(elsewhere: Any) -> None:
    """A16. Kind: warnings that are errors: the map raises, and the next one works."""
    got: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="'got'"):
            shmmap.pmap(lambda i: got.append(i), [1], engine=elsewhere)
        assert shmmap.pmap(abs, [-1], engine=elsewhere) == [1]


class Rows(dict[int, int]):
    """A dict that is gone through in a way of its own, as those of SciPy's sparse arrays are."""

    def __iter__(self) -> Iterator[Any]:
        return iter([object()])

    def __len__(self) -> int:
        raise AssertionError("not to be called")


def test_subclasses_of_containers(elsewhere: Any) -> None:
    """A16. Kind: false alarms, and errors, by what a subclass of a container makes of it."""
    rows = Rows({1: 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shmmap.pmap(lambda i: rows[i], [1], engine=elsewhere) == [2]
    assert (
        names_of_lost(lambda: shmmap.pmap(lambda i: rows.__setitem__(3, i), [1], engine=elsewhere))
        == "'rows'"
    )
