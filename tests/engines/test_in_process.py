"""Functions that run in the caller's own process, and what is around them there."""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import ctypes
import decimal
import multiprocessing
import pickle
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.helpers import run_script

HERE = contextvars.ContextVar("HERE", default="nowhere")

# --- what is around a function ------------------------------------------------------------------


def test_floating_point_errors_are_handled_as_by_the_caller(engine: Any) -> None:
    """A9. Kind: settings that belong to the thread: NumPy's about errors, by each verb."""
    x = np.zeros(4)

    def invert(v: Any) -> Any:
        return np.float64(1) / v

    maps: list[Callable[..., Any]] = [
        lambda **options: shmmap.pmap(invert, x, **options),
        lambda **options: shmmap.pmap(invert, iter(x), **options),
        lambda **options: shmmap.pmap_chunks(lambda c: 1 / c, x, **options),
        lambda **options: shmmap.preduce(lambda c: (1 / c).sum(), x, combine=np.add, **options),
    ]
    for run in maps:
        for wait in (True, False):
            with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
                future = run(engine=engine, workers=2, wait=wait)
                future.result()
        with np.errstate(divide="ignore"):
            run(engine=engine, workers=2)


def test_decimal_context_is_the_callers(engine: Any) -> None:
    """A9. Kind: the same for the decimal context; what a function sets of it stays in its thread."""

    def third(i: int) -> str:
        before = str(decimal.Decimal(1) / 3)
        if i:
            decimal.getcontext().prec = 2
        return before

    for precision in (5, 7):
        with decimal.localcontext() as context:
            context.prec = precision
            for wait in (True, False):
                found: Any = shmmap.pmap(
                    third, [0, 0, 0], engine=engine, workers=2, chunksize=1, wait=wait
                )
                found = found if wait else found.result()
                assert found == ["0." + "3" * precision] * 3
            if engine != "serial":
                shmmap.pmap(third, [1, 1], engine=engine, workers=2, chunksize=1)
                assert context.prec == precision
    assert shmmap.pmap(third, range(1), engine=engine)[0] == "0." + "3" * 28


@pytest.mark.parametrize("name", ["serial", "threads", "executor"])
def test_context_variables_are_the_callers(name: str) -> None:
    """A9. Kind: context variables, on every engine of the caller's own process, however it is waited for."""
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        engine: Any = executor if name == "executor" else name
        token = HERE.set("caller")
        try:
            for wait in (True, False):
                found: Any = shmmap.pmap(
                    lambda i: HERE.get(), range(4), engine=engine, workers=2, chunksize=1, wait=wait
                )
                assert (found if wait else found.result()) == ["caller"] * 4
            stream: Any = shmmap.pmap(
                lambda i: HERE.get(), iter(range(9)), engine=engine, buffersize=4, wait=False
            )
            assert stream.result() == ["caller"] * 9
        finally:
            HERE.reset(token)

        def change(i: int) -> str:
            HERE.set("function")
            return HERE.get()

        if name != "serial":
            assert shmmap.pmap(change, range(3), engine=engine, workers=2, chunksize=1)
            assert HERE.get() == "nowhere"


def test_warning_filters_are_the_callers(engine: Any) -> None:
    """A9. Kind: filters of warnings."""

    def warn(i: int) -> None:
        warnings.warn("beware", UserWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert shmmap.pmap(warn, range(2), engine=engine) == [None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="beware"):
            shmmap.pmap(warn, range(2), engine=engine)


# --- threads of libraries -----------------------------------------------------------------------


@pytest.fixture
def openmp() -> Iterator[Any]:
    """GNU's OpenMP, loaded as scikit-learn loads it, with two threads in this thread."""
    try:
        library = ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("there is no libgomp here")
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(2)
    sys.modules["a module that has loaded it"] = sys  # libraries are looked for when modules came
    yield library
    del sys.modules["a module that has loaded it"]
    library.omp_set_num_threads(before)


@pytest.mark.parametrize("name", ["serial", "threads", "executor", "own executor"])
def test_openmp_has_one_thread_on_each_thread(openmp: Any, name: str) -> None:
    """A19. Kind: a number that belongs to the thread that sets it; the caller's is left as it was."""
    ask = openmp.omp_get_max_threads
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        executor = pool if name == "executor" else Direct()
        engine: Any = executor if "executor" in name else name
        before = [pool.submit(ask).result() for _ in range(4)]
        for wait in (True, False):
            found: Any = shmmap.pmap(
                lambda i: ask(), range(6), engine=engine, workers=2, chunksize=1, wait=wait
            )
            assert (found if wait else found.result()) == [1] * 6
        assert ask() == 2
        assert [pool.submit(ask).result() for _ in range(4)] == before


def test_blas_is_bound_until_the_last_map_ends() -> None:
    """A19 and A8. Kind: a setting of the process that two maps want; the first to end must not undo it."""
    import threadpoolctl

    def count() -> set[int]:
        info = threadpoolctl.threadpool_info()
        return {each["num_threads"] for each in info if each["user_api"] == "blas"}

    before = count()

    def map_meanwhile(i: int) -> list[set[int]]:
        thread = threading.Thread(target=shmmap.pmap, args=(abs, [1]), kwargs={"engine": "threads"})
        thread.start()
        thread.join()
        return [count()]

    assert shmmap.pmap(map_meanwhile, [0], engine="serial") == [[{1}]]
    assert count() == before


def test_blas_is_given_back_by_another_thread_than_that_which_bound_it() -> None:
    """A19. Kind: a library that lets one thread have the say, as threadpoolctl does since 3.6."""
    import threadpoolctl

    def count() -> set[int]:
        info = threadpoolctl.threadpool_info()
        return {each["num_threads"] for each in info if each["user_api"] == "blas"}

    before, is_inside, is_over = count(), threading.Event(), threading.Event()

    def last(i: int) -> set[int]:
        is_inside.set()
        assert is_over.wait(30)
        return count()

    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(shmmap.pmap(last, [0], engine="serial", out=list))
    )

    def first(i: int) -> None:
        thread.start()
        assert is_inside.wait(30)

    shmmap.pmap(first, [0], engine="serial")
    is_over.set()
    thread.join()
    assert found == [[{1}]]
    assert count() == before


# --- executors whose workers are in this process ------------------------------------------------


class Pickling(concurrent.futures.Executor):
    """An executor of somebody's own: it pickles as one of processes does, and runs in this process."""

    def __init__(self, pool: concurrent.futures.Executor) -> None:
        self._pool = pool

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function."""
        data = pickle.dumps((fn, args, kwargs))
        return self._pool.submit(_run_pickled, data)


class Direct(concurrent.futures.Executor):
    """An executor that runs what it gets at once, in the caller's thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future


def _run_pickled(data: bytes) -> Any:
    fn, args, kwargs = pickle.loads(data)
    return pickle.loads(pickle.dumps(fn(*args, **kwargs)))


@pytest.fixture(params=["threads", "pickling", "direct"])
def home(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run the test on executors whose workers are in this process."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield {"threads": pool, "pickling": Pickling(pool), "direct": Direct()}[request.param]


def test_a_function_is_itself_at_home(home: Any) -> None:
    """A20. Kind: what is unpickled where it was pickled: the original is there to be had."""
    lock = None if isinstance(home, Pickling) else threading.Lock()
    seen: list[int] = []
    shared, private = shmmap.zeros(3), np.zeros(3)

    def func(i: int) -> int:
        with lock or contextlib.nullcontext():
            seen.append(i)
        shared[i] += 1
        return id(private)

    assert shmmap.pmap(func, range(3), engine=home, chunksize=1) == [id(private)] * 3
    assert sorted(seen) == [0, 1, 2]
    assert shared.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        shmmap.pmap(lambda i: private.__setitem__(0, 1), range(3), engine=home)
    with pytest.raises(ValueError, match="read-only"):
        shmmap.pmap(lambda a: a.__setitem__(0, 1), private.reshape(3, 1), engine=home)
    private[0] = 1


def test_exceptions_at_home_are_the_ones_raised(home: Any) -> None:
    """A20. Kind: exceptions come back as themselves, too."""

    class Special(Exception):
        pass

    def fail(i: int) -> None:
        raise Special(i)

    with pytest.raises(Special):
        shmmap.pmap(fail, range(3), engine=home)
    with pytest.raises(shmmap.MapError) as caught:
        shmmap.pmap(fail, range(3), engine=home, on_error="continue", chunksize=2)
    assert [exc.args for exc in caught.value.exceptions] == [(0,), (1,), (2,)]


SCRIPT = """
    import pickle
    from concurrent.futures import Executor, ThreadPoolExecutor
    import numpy as np
    import shmmap

    class Pickling(Executor):
        def __init__(self, pool):
            self.pool = pool
        def submit(self, fn, /, *args, **kwargs):
            return self.pool.submit(run, pickle.dumps((fn, args, kwargs)))

    def run(data):
        fn, args, kwargs = pickle.loads(data)
        return pickle.loads(pickle.dumps(fn(*args, **kwargs)))

    K = 1
    shared, private, table = shmmap.zeros(3), np.zeros(3), {}
    before = dict(globals())

    def count(i):
        global K
        K += 1
        shared[i] += K
        table[i] = private
        return K

    with ThreadPoolExecutor(1) as pool:
        for engine in (pool, Pickling(pool)):
            K = 1
            shared[:] = 0
            print(shmmap.pmap(count, range(3), engine=engine, chunksize=1), K, shared.tolist())
    assert shared is before["shared"] and private is before["private"] and table is before["table"]
    assert all(each is private for each in table.values()) and len(table) == 3
    assert shmmap.is_shared(shared) and private.flags.writeable
"""


def test_globals_of_a_script_are_left_alone(tmp_path: Path) -> None:
    """A20. Kind: names of the caller's ``__main__`` that were rebound to copies."""
    done = run_script(tmp_path, SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:2] == ["[2, 3, 4] 4 [2.0, 3.0, 4.0]"] * 2


def test_a_parcel_that_comes_too_late_is_refused(home: Any) -> None:
    """A20. Kind: a chunk that an executor runs when its map is over."""
    if not isinstance(home, Pickling):
        pytest.skip("nothing is unpickled here")
    kept: list[bytes] = []

    class Keeping(Pickling):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            kept.append(pickle.dumps((fn, args, kwargs)))
            return super().submit(fn, *args, **kwargs)

    assert shmmap.pmap(abs, [-1], engine=Keeping(home._pool)) == [1]
    with pytest.raises(RuntimeError, match="is over"):
        _run_pickled(kept[0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_of_others_calculate_by_the_callers_settings(method: str) -> None:
    """A9. Kind: settings of the thread on an executor whose workers are another library's processes."""

    def calculate(i: int) -> tuple[str, str]:
        warnings.warn("said in the function", UserWarning, stacklevel=1)
        return str(decimal.Decimal(1) / 3), np.geterr()["divide"]

    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        before = executor.submit(settings_of_the_worker).result()
        with decimal.localcontext() as numbers, np.errstate(divide="raise"):
            numbers.prec = 3
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert shmmap.pmap(calculate, [1], engine=executor) == [("0.333", "raise")]
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(UserWarning, match="said in the function"):
                    shmmap.pmap(calculate, [1], engine=executor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Nothing of it stays in the worker.
            assert executor.submit(settings_of_the_worker).result() == before


def settings_of_the_worker() -> tuple[str, str]:
    """What a function that goes by the executor itself calculates by."""
    return str(decimal.Decimal(1) / 3), np.geterr()["divide"]
