"""An instance that comes back is one of the caller's own class, as on the engine "serial"."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import enum
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

import shmmap
from tests.helpers import run_python, run_script, write_script

# Classes of ``__main__`` of all kinds, and a function for each that returns something of it.
SCRIPT = """
    import collections, dataclasses, enum, multiprocessing, sys, typing
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    import numpy as np
    import shmmap

    class Point:
        kind = "GLOBAL"
    class Shape:
        class Point:
            kind = "NESTED"
            class Corner: pass
    Pair = collections.namedtuple("Pair", "a b")
    class Typed(typing.NamedTuple):
        a: int
    @dataclasses.dataclass(frozen=True)
    class Record:
        a: int
    class Colour(enum.Enum):
        RED = 1
    class Access(enum.Flag):
        READ = 1
        WRITE = 2
    class Meta(type):
        pass
    class OfMeta(metaclass=Meta): pass
    Made = type("Made", (), {})
    class Failure(Exception): pass
    class Slots:
        __slots__ = ("a", "__hidden")
        def __init__(self):
            self.a, self.__hidden = 1, 2
    @dataclasses.dataclass(slots=True)
    class SlotsRecord:
        a: int = 1
        b: list = dataclasses.field(default_factory=list)
    class Array(np.ndarray): pass
    def make_local():
        class Point:
            kind = "LOCAL"
        class Failure(Exception): pass
        return Point, Failure
    LocalPoint, LocalFailure = make_local()

    makers = [
        lambda v: Point(), lambda v: Shape.Point(), lambda v: Shape.Point.Corner(), lambda v: Pair(1, 2),
        lambda v: Typed(1), lambda v: Record(1), lambda v: Colour.RED, lambda v: Access.READ | Access.WRITE,
        lambda v: OfMeta(), lambda v: Made(), lambda v: Failure("x"), lambda v: Slots(),
        lambda v: np.zeros(3).view(Array), lambda v: LocalPoint(), lambda v: LocalFailure("x"),
        lambda v: SlotsRecord(),
    ]

    def make(i):
        return makers[i](0)

    def fail(v):
        raise LocalFailure("x")

    def check(engine):
        results = shmmap.pmap(make, range(len(makers)), engine=engine, chunksize=4)
        for i, result in enumerate(results):
            assert type(result) is type(make(i)), (engine, type(result), type(make(i)))
        assert results[6] is Colour.RED
        assert (results[11].a, results[11]._Slots__hidden, results[-1]) == (1, 2, SlotsRecord())
        try:
            shmmap.pmap(fail, [1], engine=engine)
        except LocalFailure:
            pass

    if __name__ == "__main__":
        check("serial")
        check("threads")
        check("processes")
        check("fork")
        with shmmap.Team(2, start="fork") as team:
            check(team)
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor:
            check(executor)
        with ThreadPoolExecutor(2) as executor:
            check(executor)
        print("fine")
"""

# A fresh interactive interpreter takes functions and classes line by line, as a notebook does.
INTERACTIVE = """
import code
console = code.InteractiveConsole(vars(__import__("__main__")))
for block in open({0!r}).read().split("# cell"):
    console.runsource(block, symbol="exec")
"""

LAUNCHERS = {
    "interactive": ["-c", INTERACTIVE],
    "script": ["{0}"],
    "cProfile": ["-m", "cProfile", "-o", os.devnull, "{0}"],
    "trace": ["-m", "trace", "--count", "--coverdir={0}.covers", "{0}"],
    "runpy": ["-c", "import runpy; runpy.run_path({0!r}, run_name='__main__')"],
    "exec": ["-c", "exec(open({0!r}).read(), {{'__name__': '__main__'}})"],
    "exec within a function": [
        "-c",
        "def run():\n exec(open({0!r}).read(), {{'__name__': '__main__'}})\nrun()",
    ],
}


@pytest.mark.few(2)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_classes_of_main(tmp_path: Path, launcher: str) -> None:
    """A2, A3, C7: a class of ``__main__``, by whatever name it is or is not found there."""
    script = write_script(tmp_path, SCRIPT)
    done = run_python(*(arg.format(script) for arg in LAUNCHERS[launcher]))
    assert done.stdout.endswith("fine\n"), done.stderr


@pytest.mark.few(1)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_namespace_for_main(tmp_path: Path, launcher: str) -> None:
    """C7: what an initializer makes global is there for other functions, whoever runs the script."""
    source = """
        import shmmap

        def load():
            global model
            model = 3

        def predict(v):
            return model * v

        if __name__ == "__main__":
            with shmmap.Team(1, initializer=load) as team:
                assert shmmap.pmap(predict, [1, 2], engine=team) == [3, 6]
            print("fine")
    """
    script = write_script(tmp_path, source)
    done = run_python(*(arg.format(script) for arg in LAUNCHERS[launcher]))
    assert done.stdout.endswith("fine\n"), done.stderr


# ---------------------------------------------------------------- local classes


def test_local_classes(engine: Any) -> None:
    """A3: a class that is local to a function, alone, in containers and as key, on every engine."""

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def __eq__(self, other: object) -> bool:
            return type(other) is Point and other.x == self.x

        def __hash__(self) -> int:
            return hash(self.x)

    class Colour(enum.Enum):
        RED = 1

    @dataclasses.dataclass
    class Record:
        point: Point

    Pair = collections.namedtuple("Pair", "a b")

    assert shmmap.pmap(lambda v: Point(v), [1, 2], engine=engine) == [Point(1), Point(2)]
    assert shmmap.pmap(lambda v: {Point(v): [Colour.RED]}, [1], engine=engine) == [
        {Point(1): [Colour.RED]}
    ]
    assert shmmap.pmap(lambda v: Record(Point(v)), [1], engine=engine) == [Record(Point(1))]
    assert shmmap.pmap(lambda v: Point, [1], engine=engine) == [Point]
    (pair,) = shmmap.pmap(lambda v: Pair(v, Point(v)), [1], engine=engine)
    assert type(pair) is Pair
    # As arguments alone, through a function that does not refer to the class.
    points = [Point(1), Point(2)]
    assert shmmap.pmap(_same, points, engine=engine) == points


def _same(v: Any) -> Any:
    return v


def test_local_classes_by_any_way(team: shmmap.Team) -> None:
    """A3: submitted, mapped over, as chunks complete, raised, and through ``on_error``."""

    class Point:
        pass

    class Failure(Exception):
        pass

    def make(v: Any) -> Any:
        return Point()

    def fail(v: Any) -> Any:
        raise Failure(v)

    assert type(team.submit(make, 1).result()) is Point
    assert type(team.submit(_same, Point()).result()) is Point
    assert [type(each) for each in team.map(make, [1, 2])] == [Point, Point]
    future = shmmap.pmap(make, [1, 2], engine=team, wait=False)
    assert {type(each) for _, _, part in future.as_completed() for each in part} == {Point}
    assert shmmap.preduce(
        lambda part: {type(each) for each in part}, [Point()], combine=set.union, engine=team
    ) == {Point}
    with pytest.raises(Failure):
        team.submit(fail, 1).result()
    with pytest.raises(Failure):
        shmmap.pmap(fail, [1], engine=team)
    types = shmmap.pmap(fail, [1], engine=team, on_error=lambda exc, *_: type(exc), out=list)
    assert types == [Failure]
    with pytest.raises(shmmap.MapError) as caught:
        shmmap.pmap(fail, [1], engine=team, on_error="continue")
    assert type(caught.value.exceptions[0]) is Failure


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_executors_of_processes(method: str) -> None:
    """A3: executors of other libraries, whose own pickling knows no local class."""

    class Point:
        pass

    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        for result in shmmap.pmap(lambda v: (v, Point()), [Point()], engine=executor):
            assert list(map(type, result)) == [Point, Point]


def test_a_submitted_class_lives_until_its_instances_are_back(team: shmmap.Team) -> None:
    """A3: nobody but the call refers to the class meanwhile."""

    def submit() -> Any:
        class Point:
            x = 5

        return team.submit(lambda: Point())

    futures = [submit() for _ in range(3)]
    assert [each.result().x for each in futures] == [5, 5, 5]


# ---------------------------------------------------------------- generations and changes


def _define(name: str, **attributes: Any) -> type:
    return type(name, (), {"__module__": "__main__", **attributes})


def test_generations_of_a_class(engine: Any) -> None:
    """A2: a class that a cell defines again; instances of both are on their way."""
    old = _define("Point", kind="old")
    assert type(shmmap.pmap(lambda v: old(), [1], engine=engine)[0]) is old
    new = _define("Point", kind="new")
    instance = old()
    results = shmmap.pmap(lambda v: (v, instance, new(), new), [old(), new()], engine=engine)
    assert [type(result[0]) for result in results] == [old, new]
    for _, second, third, fourth in results:
        assert type(second) is old
        assert type(third) is new
        assert fourth is new
        assert (second.kind, third.kind) == ("old", "new")


def test_a_class_as_it_is_now(engine: Any) -> None:
    """A4: a class attribute that was changed, added or deleted since workers got the class."""

    class Model:
        scale = 1
        offset = 5

        def value(self) -> Any:
            return self.scale, getattr(self, "offset", None), getattr(self, "extra", None)

    def value(v: Any) -> Any:
        return Model().value()

    assert shmmap.pmap(value, [0], engine=engine, out=list) == [(1, 5, None)]
    Model.scale = 10
    assert shmmap.pmap(value, [0], engine=engine, out=list) == [(10, 5, None)]
    Model.extra = 3  # type: ignore[attr-defined]
    del Model.offset
    assert shmmap.pmap(value, [0], engine=engine, out=list) == [(10, None, 3)]
    Model.value = lambda self: "patched"  # type: ignore[assignment, method-assign]
    assert shmmap.pmap(value, [0], engine=engine, out=list) == ["patched"]
    # In an argument, to a function that knows nothing of the class.
    del Model.extra  # type: ignore[attr-defined]
    Model.value = lambda self: hasattr(self, "extra")  # type: ignore[assignment, method-assign]
    assert shmmap.pmap(_value_of, [Model()], engine=engine) == [False]


def _value_of(v: Any) -> Any:
    return v.value()


def test_the_callers_class_is_left_alone(engine: Any) -> None:
    """A20: the way to a worker and back changes nothing of the class in the caller."""

    class Point:
        def method(self) -> None: ...

    before = dict(vars(Point))
    assert type(shmmap.pmap(lambda v: Point(), [1], engine=engine)[0]) is Point
    assert all(vars(Point)[name] is value for name, value in before.items())


# ---------------------------------------------------------------- made in a worker


def test_a_class_made_by_the_function(engine: Any) -> None:
    """A2: a class that the caller never had is not taken for another one of its name."""

    def make(v: Any) -> Any:
        class Point:
            where = "worker"

            def double(self) -> Any:
                return 2 * v

        Point.__module__ = "__main__"
        Point.__qualname__ = "Point"
        one = Point()
        return one, Point(), Point

    for one, other, kind in shmmap.pmap(make, [3, 4], engine=engine, out=list):
        assert type(one) is type(other) is kind
        assert kind.where == "worker"
        assert one.double() in (6, 8)


def test_a_class_made_in_a_worker_and_sent_back(team: shmmap.Team) -> None:
    """A2: the caller's copy of a worker's class is one class, there and back."""

    def make() -> Any:
        class Point:
            pass

        return Point()

    one = team.submit(make).result()
    again = team.submit(_same, one).result()
    assert type(again) is type(one)


GLOBALS = """
    import sys, typing
    import shmmap

    class Unset:
        text = "unset"
        def __init__(self): self.seen = 1
        def __reduce__(self): return "UNSET"

    UNSET = Unset()
    table = {"a": UNSET}
    Metres = typing.NewType("Metres", float)

    for start in ("clean", "fork"):
        with shmmap.Team(2, start=start) as team:
            print(all(each is UNSET for each in shmmap.pmap(lambda i: UNSET, range(3), engine=team)))
            print(shmmap.pmap(lambda i: table["a"].seen, [1], engine=team))
            print(shmmap.pmap(lambda i: table["a"], [1], engine=team)[0] is UNSET)
            print(shmmap.pmap(lambda each: each is UNSET, [UNSET], engine=team))
            print(shmmap.pmap(lambda v: Metres(v), [1.5], engine=team))
"""


def test_objects_that_go_by_the_name_of_a_global(tmp_path: Path) -> None:
    """A3. Kind: what pickles as the name of a global of a script: singletons, `typing.NewType`."""
    done = run_script(tmp_path, GLOBALS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:10] == ["True", "[1]", "True", "[True]", "[1.5]"] * 2
