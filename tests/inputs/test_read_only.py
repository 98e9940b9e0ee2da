"""A private array is read-only inside a mapped function, on every engine, and as it was afterwards."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._chunks import freeze
from shmmap.testing import wait_until

IN_PROCESS = ("serial", "threads", "executor")


@pytest.fixture(params=IN_PROCESS)
def in_process(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run the test on each engine whose functions see the caller's own arrays."""
    if request.param == "executor":
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            yield executor
    else:
        yield request.param


def open_one(name: str) -> Any:
    """One of all engines, both starts and executors of processes among them, as a context manager."""
    if name in ("clean", "fork"):
        return shmmap.Team(2, start=name)  # type: ignore[arg-type]
    if name == "pool":
        context = multiprocessing.get_context("spawn")
        return concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
    if name == "executor":
        return concurrent.futures.ThreadPoolExecutor(2)
    return contextlib.nullcontext("fork" if name == "fork engine" else name)


def refused(run: Callable[[], object]) -> bool:
    """Whether a write is refused because the array is read-only."""
    with pytest.raises(ValueError, match="read-only"):
        run()
    return True


def is_writeable(*arrays: Any) -> bool:
    return all(a.flags.writeable for a in arrays)


# --- two maps at once ---------------------------------------------------------------------------


def test_the_flag_stays_while_a_second_map_holds_the_array(in_process: Any) -> None:
    """A8. Kind: two maps that hold the same array; the first to end must not give it back for both."""
    a = np.zeros(3)
    begun, go_on = threading.Event(), threading.Event()

    def wait_then_write(i: int) -> None:
        begun.set()
        assert go_on.wait(10)
        a[0] = 1

    second = shmmap.pmap(wait_then_write, [0], engine=in_process, workers=2, wait=False)
    assert begun.wait(10)
    assert shmmap.pmap(lambda i: float(a[0]), [0], engine="serial") == [0.0]
    assert not a.flags.writeable
    go_on.set()
    assert refused(second.result)
    assert a.tolist() == [0, 0, 0]
    assert is_writeable(a)


def test_a_view_is_given_back_after_its_base_that_another_map_holds(in_process: Any) -> None:
    """A8 and B13 together. Kind: a base and its view, held by different maps that end in either order."""
    for first in ("view", "base"):
        a = np.zeros(4)
        v = a[1:]
        both = threading.Barrier(3)
        gates = {"view": threading.Event(), "base": threading.Event()}

        def hold(name: str, array: Any, both: Any = both, gates: Any = gates) -> float:
            both.wait(10)
            assert gates[name].wait(10)
            return float(array.sum())

        def hold_view(i: int, hold: Any = hold, v: Any = v) -> float:
            return float(hold("view", v))

        def hold_base(i: int, hold: Any = hold, a: Any = a) -> float:
            return float(hold("base", a))

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            engine = pool if not isinstance(in_process, str) else in_process
            maps = {
                "view": shmmap.pmap(hold_view, [0], engine=engine, workers=1, wait=False),
                "base": shmmap.pmap(hold_base, [0], engine=engine, workers=1, wait=False),
            }
            both.wait(10)
            assert not a.flags.writeable
            assert not v.flags.writeable
            gates[first].set()
            assert maps[first].result() == [0.0]
            other = "base" if first == "view" else "view"
            gates[other].set()
            assert maps[other].result() == [0.0]
        assert is_writeable(a, v)
    assert not freeze._holds


# --- bases and views ----------------------------------------------------------------------------


def test_base_and_view_captured_together(engine: Any) -> None:
    """B13. Kind: arrays that share memory, in any order, depth and container."""
    a = np.arange(6.0)
    v = a[1:]
    w = v.reshape(5, 1)[::2]
    for captured in ([a, v, w], [w, v, a], [{"v": v}, (w, [a])]):

        def total(i: int, captured: Any = captured) -> int:
            return len(captured) + i

        assert shmmap.pmap(total, [1, 2], engine=engine) == [len(captured) + 1, len(captured) + 2]
        assert is_writeable(a, v, w)
    assert shmmap.pmap(lambda i: a[0] + v[0], [1, 2], engine=engine) == [1, 1]
    assert is_writeable(a, v)


def test_what_was_read_only_stays_so(engine: Any) -> None:
    """B13. Kind: giving back more than was taken."""
    a = np.arange(3.0)
    v = a[1:]
    v.flags.writeable = False
    fixed = np.arange(3.0)
    fixed.flags.writeable = False
    assert shmmap.pmap(lambda i: a[0] + v[0] + fixed[0], [1], engine=engine) == [1]
    assert a.flags.writeable
    assert not v.flags.writeable
    assert not fixed.flags.writeable


def test_a_result_is_not_lost_where_a_flag_cannot_be_given_back(in_process: Any) -> None:
    """B13. Kind: restoring that raises: here somebody has made the base read-only meanwhile."""
    a = np.arange(3.0)
    v = a[1:]

    def protect(i: int) -> float:
        base = v.base
        base.setflags(write=False)
        return float(v[0])

    assert shmmap.pmap(protect, [0], engine=in_process, workers=1) == [1.0]
    assert not freeze._holds


def test_broadcast_arrays_are_looked_at_without_a_warning(engine: Any) -> None:
    """B13. Kind: NumPy warns as the flag of an array of `broadcast_arrays` is read."""
    a, _ = np.broadcast_arrays(np.arange(3.0), np.zeros((2, 3)))
    assert shmmap.pmap(lambda i: float(a.sum()), [0, 1], engine=engine) == [6.0, 6.0]


# --- the caller meanwhile -----------------------------------------------------------------------


def test_the_callers_array_is_its_own_where_workers_have_copies(process_engine: Any) -> None:
    """B15. Kind: what a map does to the caller's arrays while it runs: on processes nothing."""
    a = np.zeros(3)
    gate = shmmap.zeros(1)
    future = shmmap.pmap(
        lambda i: wait_until(lambda: gate[0] == 1) or float(a[0]),
        [0],
        engine=process_engine,
        wait=False,
    )
    a[0] = 5
    gate[0] = 1
    assert future.result() == [0.0]


@pytest.mark.parametrize("engine", ["serial", "threads"])
def test_arrays_are_given_back_when_a_cancelled_result_has_raised(engine: str) -> None:
    """B15. Kind: after a cancel, also while a call of the function goes on that cannot be ended."""
    a = np.zeros(3)
    begun, stop = threading.Event(), threading.Event()

    def wait(i: int) -> float:
        begun.set()
        stop.wait(20)
        return float(a[0])

    for ask in ("result", "exception"):
        begun.clear()
        future = shmmap.pmap(wait, range(3), engine=engine, workers=2, chunksize=1, wait=False)
        assert begun.wait(10)
        with pytest.raises(ValueError, match="read-only"):
            a[0] = 1
        assert future.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            getattr(future, ask)()
        a[0] = 1
    stop.set()
    wait_until(lambda: not any(t.name in ("shmmap-0", "shmmap-1") for t in threading.enumerate()))


def test_an_interrupted_map_gives_arrays_back(in_process: Any) -> None:
    """B13. Kind: a Ctrl-C while the map runs."""
    a = np.zeros(3)

    def interrupt(i: int) -> float:
        signal.raise_signal(signal.SIGINT)
        return float(a[0])

    with pytest.raises(KeyboardInterrupt):
        shmmap.pmap(interrupt, [0, 1], engine=in_process, workers=1)
    a[0] = 1


class Late(Exception):
    """What a handler of SIGALRM may raise."""


@pytest.mark.few(1)
@pytest.mark.parametrize("handler", ["interrupt", "map", "raise"])
def test_a_signal_at_any_step_of_taking_and_giving_back(handler: str) -> None:
    """B13. Kind: a Ctrl-C, or a handler that maps or raises, between any two instructions."""
    left = 0
    a = np.zeros(4)
    v = a[1:]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != freeze.__file__:
            return None
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if event == "opcode" and left == 0:
            signal.raise_signal(signal.SIGINT if handler == "interrupt" else signal.SIGALRM)
        return trace

    def handle(number: int, frame: Any) -> None:
        sys.settrace(None)
        if handler == "raise":
            raise Late
        assert shmmap.pmap(lambda i: float(a[0] + v[0]), [0], engine="serial") == [0.0]

    def take_and_give_back(step: int) -> bool:
        """Whether there are as many steps as that."""
        nonlocal left
        left = step
        sys.settrace(trace)
        try:
            with freeze.frozen(lambda: (a, v)):
                assert left <= 0 or not (a.flags.writeable or v.flags.writeable)
        except (KeyboardInterrupt, Late):
            pass
        finally:
            sys.settrace(None)
        return left <= 0

    previous = signal.signal(signal.SIGALRM, handle)
    try:
        take_and_give_back(1)
        step = 2
        while take_and_give_back(step):
            assert is_writeable(a, v), step
            assert not freeze._holds, step
            assert not freeze._waiting, step
            step += 3
        assert step > 200
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_a_forked_child_has_its_arrays_back() -> None:
    """B13. Kind: a child has none of the threads whose maps hold arrays."""
    a = np.zeros(3)
    begun, stop = threading.Event(), threading.Event()
    future = shmmap.pmap(
        lambda i: begun.set() or stop.wait(10) or a[0], [0], engine="serial", wait=False
    )
    assert begun.wait(10)
    assert not a.flags.writeable
    pid = os.fork()
    if not pid:
        os._exit(0 if a.flags.writeable else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not a.flags.writeable
    stop.set()
    future.result()


# --- what has to be reached ---------------------------------------------------------------------


def test_items_of_an_iterator(engine: Any) -> None:
    """A23. Kind: private arrays in what an iterator gives, in every window, however deep."""

    def write(item: Any) -> None:
        array = item["a"][0] if isinstance(item, dict) else item
        array[0] = 3

    for make in (lambda a: a, lambda a: {"a": (a,)}):
        arrays = [np.zeros(2) for _ in range(5)]
        assert refused(
            lambda arrays=arrays, make=make: shmmap.pmap(  # type: ignore[misc]
                write, map(make, arrays), engine=engine, buffersize=4
            )
        )
        last = [np.zeros(2) for _ in range(5)]

        def write_last(item: Any) -> None:
            if item[1] == 4:
                write(item[0])

        assert refused(
            lambda last=last, make=make: shmmap.pmap(  # type: ignore[misc]
                write_last, ((make(a), i) for i, a in enumerate(last)), engine=engine, buffersize=4
            )
        )
        for a in arrays + last:
            assert a.tolist() == [0, 0]
            assert is_writeable(a)


@pytest.mark.parametrize("engine", ["serial", "threads", "fork"])
def test_captured_beyond_ten_thousand_objects(engine: str) -> None:
    """A23. Kind: a limit of what is looked at: a large list, and objects of the user's in a chain."""

    class Node:
        def __init__(self, array: Any, rest: Any) -> None:
            self.array = array
            self.rest = rest

    many = [np.zeros(2) for _ in range(12_000)]
    chain: Any = None
    last = np.zeros(2)
    for i in range(4_000):
        chain = Node(last if i == 0 else np.zeros(2), chain)
    assert refused(
        lambda: shmmap.pmap(lambda i: many[i].__setitem__(0, 1), [0, 11_999], engine=engine)
    )

    def write_last(i: int) -> None:
        node = chain
        while node.rest is not None:
            node = node.rest
        node.array[0] = 1

    assert refused(lambda: shmmap.pmap(write_last, [0], engine=engine))
    assert not any(a.any() for a in many)
    assert is_writeable(last, many[0], many[-1])


TABLE = np.zeros(3)


def test_globals_of_a_function_that_travels_by_value(engine: Any) -> None:
    """A23. Kind: what a lambda of an imported module refers to by name is sent along, as of a script."""
    assert refused(lambda: shmmap.pmap(lambda i: TABLE.__setitem__(0, 1), [0], engine=engine))
    assert TABLE.tolist() == [0, 0, 0]


@pytest.mark.parametrize("start", ["clean", "fork", "serial", "threads", "fork engine", "pool"])
def test_arrays_of_objects(start: str) -> None:
    """A23. Kind: arrays that are pickled by value, and so arrived writeable."""
    a = np.array([None, "x"], object)
    t = np.array(["a", "bc"], np.dtypes.StringDType())

    def write(i: int) -> None:
        (a if i else t)[0] = "y"

    with open_one(start) as engine:
        for i in (0, 1):
            assert refused(lambda i=i: shmmap.pmap(write, [i], engine=engine))  # type: ignore[misc]
    assert a.tolist() == [None, "x"]
    assert t.tolist() == ["a", "bc"]
    assert is_writeable(a, t)


# --- objects of libraries -----------------------------------------------------------------------


@pytest.mark.parametrize("start", ["clean", "serial", "threads", "fork engine", "pool", "executor"])
def test_objects_of_libraries_work(start: str) -> None:
    """B17. Kind: objects of C libraries that keep books in arrays of their own, or hold array and view."""
    pd = pytest.importorskip("pandas")
    sparse = pytest.importorskip("scipy.sparse")
    interpolate = pytest.importorskip("scipy.interpolate")
    spatial = pytest.importorskip("scipy.spatial")
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "yz"], "c": pd.Categorical(["u", "v"])})
    lil = sparse.lil_matrix(np.eye(3))
    x = np.linspace(0, 1, 9)
    spline = interpolate.UnivariateSpline(x, x**2, s=0)
    rbf = interpolate.RBFInterpolator(x[:, None], x**2)
    tree = spatial.cKDTree(np.arange(6.0).reshape(3, 2))

    def use(i: int) -> list[Any]:
        return [
            float(frame["a"].sum()),
            frame["b"].str.len().tolist(),
            frame.sort_values("a", ascending=False).index.tolist(),
            frame.groupby("c", observed=True)["a"].sum().tolist(),
            float(lil[i, i]),
            float(lil.tocsr().sum()),
            round(float(spline(0.5)), 6),
            round(float(rbf(np.array([[0.5]]))[0]), 6),
            int(tree.query([4.0, 5.0])[1]),
        ]

    with open_one(start) as engine:
        assert shmmap.pmap(use, [0, 1], engine=engine) == [use(0), use(1)]
        assert refused(
            lambda: shmmap.pmap(lambda i: x.__setitem__(0, spline(0.5)), [0], engine=engine)
        )
    frame.loc[0, "a"] = 9.0
    lil[0, 1] = 2


class Tagged(np.ndarray):
    """An array with an attribute."""

    unit = ""


def tagged(*values: float) -> Tagged:
    a = np.array(values).view(Tagged)
    a.unit = "km"
    return a


@pytest.mark.parametrize("start", ["clean", "serial", "threads", "fork engine", "pool", "executor"])
def test_attributes_of_a_subclass(start: str) -> None:
    """A26. Kind: attributes of ndarray subclasses on their way: captured, items, whole, nested; and back."""
    a = tagged(1.0, 2.0)

    def units(item: Any, whole: Any) -> list[str]:
        array = item[0] if isinstance(item, tuple) else item
        return [array.unit, whole.unit, a.unit]

    with open_one(start) as engine:
        for items in ([a, a], [(a,), (a,)]):
            found = shmmap.pmap(units, items, a, axis=(0, None), engine=engine)
            assert found == [["km"] * 3] * 2
        assert refused(lambda: shmmap.pmap(lambda item: item.__setitem__(0, 1), [a], engine=engine))
    assert is_writeable(a)
    gc.collect()


# --- words --------------------------------------------------------------------------------------


def refuse_as_numba(i: Any) -> None:
    raise TypeError("No matching definition for argument type(s) readonly array(float64, 1d, C)")


def refuse_as_cython(i: Any) -> None:
    raise ValueError("buffer source array is read-only")


def refuse_as_numpy(i: Any) -> None:
    i[0] = 1


@pytest.mark.parametrize("refuse", [refuse_as_numba, refuse_as_cython, refuse_as_numpy])
def test_a_note_says_what_to_write_instead(engine: Any, refuse: Any) -> None:
    """E6. Kind: libraries that refuse a read-only array in words of their own."""
    with pytest.raises((TypeError, ValueError)) as caught:
        shmmap.pmap(refuse, [np.zeros(3)], engine=engine)
    notes = "\n".join(caught.value.__notes__)
    assert "shmmap.asshared(a)" in notes
    assert "a.copy()" in notes
    with pytest.raises(ValueError, match="else") as caught:
        shmmap.pmap(_raise_another, [1], engine=engine)
    assert "asshared" not in "\n".join(caught.value.__notes__)


def _raise_another(i: Any) -> None:
    raise ValueError("something else")


def test_a_note_on_a_submitted_function(team: shmmap.Team) -> None:
    """E6, by `Team.submit`."""
    with pytest.raises(ValueError, match="read-only") as caught:
        team.submit(refuse_as_numpy, np.zeros(3)).result()
    assert "shmmap.asshared(a)" in "\n".join(caught.value.__notes__)
