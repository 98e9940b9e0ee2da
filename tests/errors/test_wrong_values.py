"""Every error that leaves the library is in its own words (C9, C10 and item 8).

Each public function and method is called with wrong types and values in every position: what comes out is an
error of a documented type, raised on purpose by a line of this library, or by the user's own code.
"""

from __future__ import annotations

import io
import linecache
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import shmmap
from shmmap import testing

SOURCE = str(Path(shmmap.__file__).parent)


class Odd:
    """An object that is nothing."""


class OddLength:
    """An object with a length, and nothing else of a sequence."""

    def __len__(self) -> int:
        """Tell it."""
        return 3


WRONG: list[Callable[[], Any]] = [
    lambda value=value: value  # type: ignore[misc]
    for value in (
        None, True, False, -1, 0, 3, 1.5, -0.5, float("nan"), float("inf"), 10**30, -(10**400), 1j,
        Fraction(1, 3), "x", "", "8MiB", "i4", "\0", "reflect", b"x", (), (1,), (1, 2, 3), (None,),
        ("a", 1), {}, {"a": 1}, {0: 1}, {0: (1, 2)}, {5: 1}, set(), frozenset({1}), range(3),
        slice(3), ..., NotImplemented, Odd, int, np.bool_(True), np.int64(2), np.float64(2),
        np.datetime64("2020-01-01"), np.dtype("f8"), np.float32,
    )
]  # fmt: skip
"""Values for any position; most are wrong in most of them."""
WRONG += [
    list, dict, object, Odd, OddLength, lambda: [1], lambda: ["a"], lambda: [[1], [1, 2]],
    lambda: np.zeros(3), lambda: np.zeros((2, 3)), lambda: np.array(3), lambda: np.array(["a"]),
    lambda: np.array([Odd()], object), lambda: np.ma.array([1.0, 2.0], mask=[0, 1]),
    lambda: np.zeros(2, "i4,f8"), lambda: iter([1]), lambda: (i for i in []), lambda: io.BytesIO(b"x"),
]  # fmt: skip


def first(*args: Any, **kwargs: Any) -> Any:
    """Take anything."""
    return args[0] if args else None


def add(one: Any, other: Any) -> Any:
    """Combine anything."""
    return one


def close_team(*args: Any, **kwargs: Any) -> None:
    """Make a team and end it."""
    shmmap.Team(*args, **kwargs).shutdown()


def enter_config(**kwargs: Any) -> None:
    """Set options for nothing."""
    with shmmap.config(**kwargs):
        pass


def future() -> shmmap.MapFuture:
    """A map under way."""
    result = shmmap.pmap(first, [1, 2], engine="serial", wait=False)
    assert isinstance(result, shmmap.MapFuture)
    return result


OPTIONS: dict[str, Any] = {
    "workers": None, "engine": "serial", "chunksize": "auto", "schedule": "dynamic", "rng": None,
    "on_error": "raise", "retries": 0, "timeout": None, "progress": False, "buffersize": None,
    "wait": True,
}  # fmt: skip
LIKE: dict[str, Any] = {"dtype": None, "order": "K", "shape": None}
SHAPED: dict[str, Any] = {"shape": 3, "dtype": float, "order": "C"}
X = np.arange(6.0)

Case = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
CASES: dict[str, Case] = {
    "asshared": (shmmap.asshared, ([1, 2],), {"dtype": None, "order": None}),
    "empty": (shmmap.empty, (), SHAPED),
    "zeros": (shmmap.zeros, (), SHAPED),
    "ones": (shmmap.ones, (), SHAPED),
    "full": (shmmap.full, (3, 2), {"dtype": None, "order": "C"}),
    "empty_like": (shmmap.empty_like, ([1, 2],), LIKE),
    "zeros_like": (shmmap.zeros_like, ([1, 2],), LIKE),
    "ones_like": (shmmap.ones_like, ([1, 2],), LIKE),
    "full_like": (shmmap.full_like, ([1, 2], 1), LIKE),
    "load": (shmmap.load, ("/nowhere/a.npy",), {"mmap_mode": None}),
    "adopt": (shmmap.adopt, ("name", (2,), "f8"), {"offset": 0, "order": "C"}),
    "share": (shmmap.share, ({"a": 1},), {}),
    "is_shared": (shmmap.is_shared, (X,), {}),
    "pmap": (shmmap.pmap, (first, X), {"axis": 0, "out": None, "dtype": None, **OPTIONS}),
    "pmap, a list": (shmmap.pmap, (first, [1]), {"axis": 0, "out": None, "dtype": None, **OPTIONS}),
    "pmap, two": (shmmap.pmap, (first, X, X), {"axis": (0, None), "out": None, **OPTIONS}),
    "pmap_chunks": (
        shmmap.pmap_chunks,
        (first, X),
        {"axis": 0, "out": None, "dtype": None, "depth": 0, "boundary": None, **OPTIONS},
    ),
    "pmap_chunks, depth": (
        shmmap.pmap_chunks,
        (first, X, X),
        {"axis": 0, "out": None, "depth": 1, "boundary": "reflect", **OPTIONS},
    ),
    "pmap_ranges": (shmmap.pmap_ranges, (first, 4), OPTIONS),
    "preduce": (shmmap.preduce, (first, X), {"axis": 0, "combine": add, "initial": 0, **OPTIONS}),
    "Team": (
        close_team,
        (1,),
        {
            "start": "clean", "initializer": None, "initargs": (), "blas_threads": 1,
            "memory_limit": None, "idle_timeout": None, "preload": (),
        },
    ),
    "config": (
        enter_config,
        (),
        {name: OPTIONS[name] for name in ("workers", "schedule", "retries", "timeout", "progress")},
    ),
    "current": (shmmap.current, (), {}),
    "MapFuture.result": (lambda timeout: future().result(timeout), (None,), {}),
    "MapFuture.exception": (lambda timeout: future().exception(timeout), (None,), {}),
    "wait_until": (testing.wait_until, (object,), {"timeout_s": 0.0, "interval_s": 0.0}),
}  # fmt: skip

NOT_OURS = re.compile(
    r"has no attribute|only integer scalar arrays|cannot unpack|has no len\(\)|__index__|unhashable|"
    r"not subscriptable|object is not iterable|not supported between|unsupported operand|"
    r"is ambiguous|cannot be interpreted|embedded null|did not contain a loop|takes \d+ positional"
)
"""What Python and NumPy say of what happened inside."""

DOCUMENTED = (TypeError, ValueError, OverflowError, OSError, MemoryError, shmmap.MapError)


def check(call: Callable[[], Any]) -> None:
    """Call, and look at what comes out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call()
            if isinstance(result, shmmap.MapFuture):
                result.result(30)
    except Exception as exc:
        traceback = exc.__traceback__
        assert traceback is not None
        while traceback.tb_next is not None:
            traceback = traceback.tb_next
        path = traceback.tb_frame.f_code.co_filename
        if path == __file__ and traceback.tb_frame.f_code is not check.__code__:
            return  # the user's own
        if isinstance(exc, TimeoutError) or getattr(exc, "filename", None) is not None:
            return  # says all there is to say
        if getattr(exc, "__notes__", None) or "setting an array element" in str(exc):
            return  # of the value's own, explained; and of lists that are no array, what NumPy says
        line = linecache.getline(path, traceback.tb_lineno).strip()
        where = f"{type(exc).__name__}: {exc} ({path}:{traceback.tb_lineno}: {line})"
        assert isinstance(exc, DOCUMENTED), where
        assert path.startswith(SOURCE), where
        assert line.startswith("raise"), where
        assert str(exc), where
        own = str(exc).partition(f"dtype {np.dtype(int)}: ")[
            0
        ]  # a fill value may tell NumPy's reason
        assert not NOT_OURS.search(own), where


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Show no progress, and find no file by a name such as ``x``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stderr", None)
    yield


def replaced(case: Case, position: Any, value: Any) -> Callable[[], Any]:
    """A call with one argument replaced."""
    function, args, kwargs = case
    if isinstance(position, int):
        args = (*args[:position], value, *args[position + 1 :])
    else:
        kwargs = {**kwargs, position: value}
    return lambda: function(*args, **kwargs)


def positions(case: Case) -> list[Any]:
    """Where arguments can be replaced."""
    return [*range(len(case[1])), *case[2]]


def suits(case: Case, position: Any, value: Any) -> bool:
    """Whether a value is wrong there, or may be taken; functions of the user's fail in their own words."""
    if callable(value) and position in (0, "combine", "on_error", "progress", "initializer"):
        return False
    return not (position == "workers" and isinstance(value, int) and value > 8)


@pytest.mark.few(8)
@pytest.mark.parametrize("name", CASES)
def test_wrong_value_in_every_position(name: str) -> None:
    """C10; kind: any wrong argument of any public function. Each value in each position, alone."""
    case = CASES[name]
    for position in positions(case):
        for make in WRONG:
            value = make()
            if suits(case, position, value):
                check(replaced(case, position, value))


@hypothesis.given(st.data())
def test_wrong_values_in_several_positions(data: st.DataObject) -> None:
    """What one check lets pass must not break the next."""
    function, args, kwargs = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    case: Case = (function, args, kwargs)
    for _ in range(data.draw(st.integers(2, 3))):
        places = positions(case)
        if not places:
            return
        position = data.draw(st.sampled_from(places))
        value = data.draw(st.sampled_from(WRONG))()
        if suits(case, position, value):
            function, args, kwargs = case
            if isinstance(position, int):
                args = (*args[:position], value, *args[position + 1 :])
            else:
                kwargs = {**kwargs, position: value}
            case = (function, args, kwargs)
    check(lambda: case[0](*case[1], **case[2]))


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_wrong_value_for_a_team(start: Any) -> None:
    """The methods of an executor."""
    with shmmap.Team(1, start=start) as team:
        calls: list[tuple[Any, ...]] = [
            (lambda timeout: list(team.map(abs, [1], timeout=timeout)), "timeout"),
            (lambda size: list(team.map(abs, [1], chunksize=size)), "chunksize"),
            (lambda size: list(team.map(abs, [1], buffersize=size)), "buffersize"),
            (lambda function: team.submit(function).result(30), 0),
            (lambda function: list(team.map(function, [1])), 0),
        ]
        for call, position in calls:
            for make in WRONG:
                value = make()
                if not (callable(value) and position == 0) and position in ("timeout", 0):
                    check(lambda call=call, value=value: call(value))
                elif position != 0:
                    check(lambda call=call, value=value: call(value))


@pytest.mark.parametrize("count", [0, 1])
def test_wrong_number_of_arguments(count: int) -> None:
    """Nothing to map over is said in our words; what Python says of a missing argument is clear."""
    for verb in (shmmap.pmap, shmmap.pmap_chunks):
        with pytest.raises(TypeError, match=r"missing|give at least one input"):
            verb(*[first][:count])


# --- single cases -------------------------------------------------------------------------------


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("limit", "nbytes"),
    [("500MiB", 500 << 20), ("1GB", 10**9), ("1.5 GiB", 3 << 29), (1 << 29, 1 << 29),
     (np.int64(1 << 29), 1 << 29), ("600000k", 600_000_000)],
)  # fmt: skip
def test_memory_limit_is_a_size(limit: Any, nbytes: int, start: Any) -> None:
    """C9: one parser for sizes, `chunksize` and `memory_limit`."""
    with shmmap.Team(1, start=start, memory_limit=limit) as team:
        assert team.submit(limit_of_data).result() <= nbytes + baseline_of(start)
        with pytest.raises(MemoryError):
            team.submit(np.ones, nbytes // 4).result()  # twice as much


@pytest.fixture(params=["clean", "fork"])
def start(request: pytest.FixtureRequest) -> Any:
    """How workers are started."""
    return request.param


def limit_of_data() -> int:
    """The limit that a worker has."""
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def baseline_of(start: str) -> int:
    """More than a worker has taken when its limit is set: it comes on top."""
    return 4 << 30


@pytest.mark.parametrize(
    "limit", ["", "MiB", "8XB", "-1GB", "0GB", "1 000 MB", 0, -1, 1.5, True, []]
)
def test_memory_limit_that_is_none(limit: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r'memory_limit.*"500MiB"|at least 1'):
        shmmap.Team(1, memory_limit=limit)


@pytest.mark.parametrize("text", ["1TB", "1 tib", "2.5g", "7", "7b", " 8 MiB "])
def test_sizes(text: str) -> None:
    assert shmmap.pmap_chunks(np.negative, X, chunksize=text, engine="serial").sum() == -15


def test_path_that_is_a_descriptor_is_left_open(tmp_path: Path) -> None:
    """C10's kind: an int as a path was opened as a descriptor, read from, and closed."""
    with tempfile.TemporaryFile() as file:
        with pytest.raises(TypeError, match="path must be a str or path-like, not"):
            shmmap.load(file.fileno())  # type: ignore[arg-type]
        file.write(b"still there")


def test_adopt_what_is_no_shared_memory() -> None:
    """C10."""
    with pytest.raises(TypeError, match="shm must be a SharedMemory or its name, not 3"):
        shmmap.adopt(3, (1,), "f8")  # type: ignore[arg-type]
    memory = shared_memory.SharedMemory(create=True, size=64)
    try:
        for arguments in [((9,), "f8"), ((1,), "f8", 60), ((1,), "f8", -1), ("x", "f8"), ((1,), 7)]:
            with pytest.raises((TypeError, ValueError)):
                shmmap.adopt(memory, *arguments)  # type: ignore[arg-type]
    finally:
        memory.close()
        memory.unlink()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: shmmap.pmap_ranges(first, X), r"n must be an int, not ndarray; .* n=len\(x\)"),
        (lambda: shmmap.pmap(first, X, axis=1.5), "axis must be an int, None, or a tuple of them"),
        (lambda: shmmap.pmap(first, X, dtype=7), "dtype must be one that NumPy knows, not 7"),
        (lambda: shmmap.pmap(first, X, out=3), "out must be an array, not int"),
        (lambda: shmmap.pmap(first, X, chunksize=1.5), "chunksize must be an int, a byte size or"),
        (lambda: shmmap.pmap(first, X, schedule=3), "schedule must be 'dynamic' or 'static', not 3"),
        (lambda: shmmap.pmap(first, X, workers=True), "workers must be an int, not True"),
        (lambda: shmmap.pmap(first, X, engine=3), "engine must be a name, a Team, a"),
        (lambda: shmmap.pmap(first, [], engine=3), "engine must be a name, a Team, a"),
        (lambda: shmmap.pmap(first, X, timeout=-1), "timeout must be more than 0 seconds"),
        (lambda: shmmap.pmap(first, X, timeout=float("nan")), "timeout must be more than 0"),
        (lambda: shmmap.pmap(first, X, timeout="1s"), "timeout must be a number of seconds or None"),
        (lambda: shmmap.pmap(first, X, progress=3), "progress must be True, False, a description"),
        (lambda: shmmap.pmap(first, X, wait="no"), "wait must be True or False, not 'no'"),
        (lambda: shmmap.pmap(first, X, rng="x"), "rng must be a seed"),
        (lambda: shmmap.pmap(first, X, rng=-1), "rng must be a seed"),
        (lambda: shmmap.pmap(first, X, rng=np.random.RandomState(1)), "rng takes no RandomState"),
        (lambda: shmmap.pmap_chunks(first, X, depth={"a": 1}), "depth names axes by ints, not 'a'"),
        (lambda: shmmap.zeros("x"), "shape must be an int or a sequence of ints, not 'x'"),
        (lambda: shmmap.zeros(-1), r"shape \(-1,\): a length is not negative"),
        (lambda: shmmap.Team(blas_threads=0), "blas_threads must be at least 1, not 0"),
        (lambda: shmmap.Team(idle_timeout="5m"), "idle_timeout must be a number of seconds"),
        (lambda: shmmap.Team(preload="numpy"), "preload must be a sequence of module names"),
        (lambda: shmmap.Team(initializer=3), "initializer must be callable, not 3"),
        (lambda: shmmap.Team(initializer=print, initargs=3), "initargs must be a tuple of arguments"),
    ],
)  # fmt: skip
def test_text(call: Callable[[], Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        call()


@pytest.mark.few(1)
@pytest.mark.parametrize("number", [np.int64(1), np.uint8(1), np.array(1)])
def test_numbers_of_numpy_serve(number: Any) -> None:
    """What is a number for NumPy is one here."""
    options = {"workers": number, "chunksize": number, "retries": number, "timeout": np.float32(60)}
    assert shmmap.pmap(abs, [-1, 2], buffersize=number, **options) == [1, 2]
    assert shmmap.pmap_ranges(first, number, **options) == [0]
    with shmmap.Team(number, blas_threads=number, idle_timeout=np.float64(9)) as team:
        assert team.size == 1


@pytest.mark.parametrize("seconds", [float("inf"), 1e300, 10**400, 1e12])
def test_limits_of_time_that_never_come(seconds: Any) -> None:
    """Longer than the system's clocks reach."""
    with shmmap.Team(1, idle_timeout=seconds) as team:
        assert shmmap.pmap(abs, [-1], engine=team, timeout=seconds) == [1]
        assert list(team.map(abs, [-1], timeout=seconds)) == [1]
        assert shmmap.pmap(abs, [-1], engine=team, wait=False).result(seconds) == [1]
