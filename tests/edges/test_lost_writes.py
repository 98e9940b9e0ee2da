"""What a function changes where it runs on copies is lost: the map says so, and names the variable."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
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
    assert len(caught) == 1
    assert caught[0].filename == __file__
    text = str(caught[0].message)
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


def test_containers(elsewhere: Any) -> None:
    """A16. Kind: whatever changes a captured container, wherever it is captured, by each verb."""
    got: list[int] = []
    table: dict[int, int] = {}
    seen: set[int] = set()
    queue: collections.deque[int] = collections.deque()
    counts: collections.Counter[int] = collections.Counter()
    groups: dict[str, list[int]] = {"a": []}
    raw = bytearray(4)
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

    def read(i: int) -> Any:
        local = [*names]
        local.append(str(i))
        return (
            len(local)
            + len(table["a"])
            + gatherer.limit
            + gatherer.load(i)
            + generator.bit_generator.state.__len__()
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
