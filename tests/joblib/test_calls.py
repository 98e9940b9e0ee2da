"""What `Parallel` promises: order, errors, timeouts, generators, nesting, options."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.helpers import in_time, run_python

joblib = pytest.importorskip("joblib", minversion="1.5", reason="the backend is one of joblib's")
Parallel, delayed, parallel_config = joblib.Parallel, joblib.delayed, joblib.parallel_config

import shmmap.joblib  # noqa: E402
from shmmap._verbs import workers_of  # noqa: E402
from shmmap.joblib import Backend, warm_teams  # noqa: E402

ways = pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])


def square(i: int) -> int:
    return i * i


def pid_of(_: object) -> int:
    time.sleep(0.01)
    return os.getpid()


def make(**options: Any) -> Any:
    return Parallel(**{"n_jobs": 2, "backend": "shmmap", **options})


@ways
@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
def test_results(return_as: str, batch_size: Any) -> None:
    results = list(
        make(return_as=return_as, batch_size=batch_size)(map(delayed(square), range(100)))
    )
    if return_as == "generator_unordered":
        results.sort()
    assert results == [i * i for i in range(100)]


def test_no_tasks() -> None:
    assert make()([]) == []


@pytest.mark.parametrize("pre_dispatch", ["all", "n_jobs", 1])
def test_tasks_are_taken_as_pre_dispatch_says(pre_dispatch: Any) -> None:
    parallel = make(pre_dispatch=pre_dispatch, batch_size=1)
    assert parallel(delayed(square)(i) for i in range(20)) == [i * i for i in range(20)]


def test_results_of_a_list_are_there_before_joblib_would_look() -> None:
    """It looks every 10 ms; a call of two tasks takes one, but the machine may be busy."""
    parallel = make()
    parallel(delayed(square)(i) for i in range(2))
    times = []
    for _ in range(50):
        began = time.perf_counter()
        parallel(delayed(square)(i) for i in range(2))
        times.append(time.perf_counter() - began)
    assert min(times) < 0.009


# ---------------------------------------------------------------- n_jobs and teams


def test_what_n_jobs_means() -> None:
    backend = Backend()
    assert backend.effective_n_jobs(3) == 3 and backend.effective_n_jobs(None) == 1
    assert backend.effective_n_jobs(-1) == joblib.cpu_count()
    assert backend.effective_n_jobs(-1000) == 1
    with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
        make(n_jobs=0)([delayed(square)(1)])
    assert make(n_jobs=1)(delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2


def test_calls_alike_have_one_warm_team() -> None:
    pids = {pid for _ in range(3) for pid in make()(delayed(pid_of)(i) for i in range(8))}
    assert len(pids) == 2 and os.getpid() not in pids
    with parallel_config(backend="shmmap", n_jobs=2):
        assert set(Parallel()(delayed(pid_of)(i) for i in range(8))) <= pids
    assert len(warm_teams._teams) == 1
    for n_jobs in (3, 2, 4, 3):
        make(n_jobs=n_jobs)(delayed(square)(i) for i in range(4))
        assert len(warm_teams._teams) == 2


def test_a_given_team_is_used_and_stays() -> None:
    with shmmap.Team(workers=2) as team:
        pids = {team.submit(os.getpid).result() for _ in range(20)}
        with parallel_config(backend=Backend(team=team)):
            assert set(Parallel(n_jobs=-1)(delayed(pid_of)(i) for i in range(8))) >= pids
            assert Parallel(n_jobs=5)._effective_n_jobs() == 2
        with pytest.raises(ZeroDivisionError):
            Parallel(n_jobs=2, backend=Backend(team=team))(delayed(divmod)(1, 0) for _ in range(4))
        assert team.submit(square, 3).result() == 9
        workers_of(team).validate()
    assert not warm_teams._teams
    with pytest.raises(RuntimeError, match="shutdown"):
        Parallel(n_jobs=2, backend=Backend(team=team))([delayed(square)(1)])


def test_n_jobs_bounds_how_many_of_a_larger_team_work_at_once() -> None:
    running, most = shmmap.zeros(40), 0

    def note(i: int) -> int:
        running[i] = 1
        time.sleep(0.01)
        count = int(running.sum())
        running[i] = 0
        return count

    with shmmap.Team(workers=4) as team:
        parallel = Parallel(n_jobs=2, backend=Backend(team=team), batch_size=1, pre_dispatch="all")
        most = max(parallel(delayed(note)(i) for i in range(40)))
    assert 1 <= most <= 2


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"timeout": 3}, ValueError, "idle_worker_timeout"),
        ({"memory_limit": 1}, TypeError, "memory_limit.*Team"),
        ({"team": 3}, TypeError, "shmmap.Team"),
    ],
)
def test_options_that_there_are_not(options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Backend(**options)


def test_options_of_a_team_are_not_said_twice() -> None:
    with shmmap.Team(workers=2) as team:
        with pytest.raises(ValueError, match="initializer"):
            Backend(team=team, initializer=square)
        with parallel_config(backend=Backend(team=team), inner_max_num_threads=2):
            with pytest.raises(ValueError, match="blas_threads"):
                Parallel(n_jobs=2)([delayed(square)(1)])


def note_start(value: Any) -> None:
    os.environ["STARTED"] = str(value)


def test_initializers() -> None:
    for value in (1, 2, 1):
        parallel = make(initializer=note_start, initargs=(value,))
        assert parallel(delayed(os.getenv)("STARTED") for _ in range(4)) == [str(value)] * 4
    with parallel_config(backend="shmmap", initializer=note_start, initargs=("by config",)):
        assert (
            Parallel(n_jobs=2)(delayed(os.getenv)("STARTED") for _ in range(2)) == ["by config"] * 2
        )


def threads_of_blas(_: object) -> list[int]:
    import threadpoolctl

    return [each["num_threads"] for each in threadpoolctl.threadpool_info()]


@pytest.mark.parametrize("said", [1, 3, None])
def test_threads_of_blas(said: int | None) -> None:
    with parallel_config(backend="shmmap", n_jobs=2, inner_max_num_threads=said):
        found = Parallel()(delayed(threads_of_blas)(i) for i in range(2))
    assert {n for each in found for n in each} == {said or max(joblib.cpu_count() // 2, 1)}


def test_variables_of_threads_are_joblibs(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    def look(i: int) -> list[str | None]:
        return list(map(os.environ.get, names))

    assert make()(delayed(look)(i) for i in range(1)) == [
        ["3", str(max(joblib.cpu_count() // 2, 1))]
    ]
    assert {n for each in make()([delayed(threads_of_blas)(0)]) for n in each} == {3}
    with parallel_config(backend="shmmap", n_jobs=2, inner_max_num_threads=2):
        for value in ("3", "4", "5"):  # of which workers are told, in other calls
            monkeypatch.setenv("OMP_NUM_THREADS", value)
            assert Parallel()(delayed(look)(i) for i in range(1)) == [["2", "2"]]


# ---------------------------------------------------------------- errors


def fail_at(i: int, at: int) -> int:
    if i == at:
        raise KeyError(i)
    return i


@ways
def test_an_exception_comes_out_as_it_is(return_as: str) -> None:
    with pytest.raises(KeyError, match="7") as caught:
        list(make(return_as=return_as)(delayed(fail_at)(i, 7) for i in range(50)))
    notes = "".join(caught.value.__notes__)
    assert "raised by fail_at" in notes and "raise KeyError(i)" in notes
    assert make()(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_programs_comes_out_as_it_is(error: type[BaseException]) -> None:
    def stop(i: int) -> None:
        raise error(i)

    with pytest.raises(error):
        make()(delayed(stop)(i) for i in range(4))


def test_an_error_ends_the_others_at_once() -> None:
    def fail_or_sleep(i: int) -> None:
        if i:
            raise ValueError(i)
        time.sleep(60)

    with in_time(), pytest.raises(ValueError):
        make(batch_size=1)(delayed(fail_or_sleep)(i) for i in range(2))
    with in_time():
        assert make()(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]


def test_an_error_of_one_call_does_not_end_that_of_another() -> None:
    """Both are on the same workers."""
    begun, gate = shmmap.zeros(1), shmmap.zeros(1)

    def hold(i: int) -> int:
        begun[0] = 1
        while not gate[0]:
            time.sleep(0.001)
        return i

    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(make()([delayed(hold)(5)])))
    thread.start()
    shmmap.testing.wait_until(lambda: bool(begun[0]))
    for _ in range(5):
        with pytest.raises(KeyError):
            make()(delayed(fail_at)(i, 0) for i in range(1))
    gate[0] = 1
    thread.join()
    assert results == [[5]]


def test_an_error_of_the_generator_of_tasks() -> None:
    def tasks(at: int) -> Any:
        for i in range(20):
            if i == at:
                raise ValueError("no more tasks")
            yield delayed(square)(i)

    for at in (0, 5, 19):
        with in_time(), pytest.raises(ValueError, match="no more tasks"):
            make(batch_size=1)(tasks(at))


def test_a_task_that_does_not_pickle() -> None:
    with open(os.devnull) as file:
        with pytest.raises(
            pickle.PicklingError, match=r"Could not pickle the task to send.*open file"
        ):
            make()(delayed(id)(file) for _ in range(4))


def test_a_type_error_of_a_task_is_one() -> None:
    with pytest.raises(TypeError):
        make()(delayed(square)("2") for _ in range(4))


@ways
def test_timeouts(return_as: str) -> None:
    with in_time(), pytest.raises(multiprocessing.TimeoutError):
        list(make(timeout=0.1, return_as=return_as)(delayed(time.sleep)(60) for _ in range(4)))
    assert list(make(timeout=60)(delayed(square)(i) for i in range(3))) == [0, 1, 4]


# ---------------------------------------------------------------- generators


def test_a_generator_that_is_dropped_ends_its_tasks() -> None:
    for way in ("generator", "generator_unordered"):
        results = make(return_as=way, batch_size=1)(
            delayed(time.sleep)(60 * (i > 1)) for i in range(8)
        )
        assert next(results) is None
        with pytest.warns(UserWarning, match="cancelled"):
            del results
        with in_time():
            assert make()(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]


def test_the_fastest_come_first() -> None:
    results = make(return_as="generator_unordered")(delayed(max)(i, i) for i in range(3))
    assert sorted(results) == [0, 1, 2]
    gate = shmmap.zeros(1)

    def hold(i: int) -> int:
        while i == 0 and not gate[0]:
            time.sleep(0.001)
        return i

    results = make(return_as="generator_unordered", batch_size=1)(
        delayed(hold)(i) for i in range(6)
    )
    early = [next(results) for _ in range(5)]
    gate[0] = 1
    assert sorted(early) == [1, 2, 3, 4, 5] and next(results) == 0


def test_generators_of_one_backend_do_not_mind_each_other() -> None:
    with parallel_config(backend="shmmap", n_jobs=2):
        first = Parallel(return_as="generator", batch_size=1)(
            delayed(square)(i)
            for i in range(100_000)  # not done before it is dropped
        )
        assert next(first) == 0
        second = Parallel(return_as="generator", batch_size=1)(
            delayed(square)(i) for i in range(30)
        )
        assert next(second) == 0
        assert Parallel()(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]
        with pytest.warns(UserWarning):
            del first
        assert list(second) == [i * i for i in range(1, 30)]


# ---------------------------------------------------------------- nested, and in threads


def nested(i: int, backend: Any) -> Any:
    pids = Parallel(n_jobs=2, backend=backend)(delayed(pid_of)(j) for j in range(4))
    return len(set(pids) - {os.getpid()})


@pytest.mark.parametrize("backend", [None, "threading", "shmmap"])
def test_nested_calls_stay_in_their_worker(backend: Any) -> None:
    assert make()(delayed(nested)(i, backend) for i in range(2)) == [0, 0]


def test_nested_calls_are_joblibs_threads() -> None:
    def kind(i: int) -> str:
        return type(joblib.parallel.get_active_backend()[0]).__name__

    assert make()(delayed(kind)(i) for i in range(2)) == ["ThreadingBackend"] * 2
    assert Parallel(n_jobs=2, backend="shmmap", verbose=0)._backend.supports_sharedmem is False
    with parallel_config(backend="shmmap", n_jobs=2):
        assert type(Parallel(require="sharedmem")._backend).__name__ == "ThreadingBackend"


def test_in_a_map_of_this_library_a_call_is_serial() -> None:
    def call(i: int) -> list[int]:
        import shmmap.joblib  # noqa: F401

        return list(Parallel(n_jobs=2, backend="shmmap")(delayed(square)(j) for j in range(i)))

    assert shmmap.pmap(call, range(3), workers=2, out=list) == [[], [0], [0, 1]]


@pytest.mark.slow
def test_loky_works_in_a_worker_of_this_library(tmp_path: Any) -> None:
    program = """
import shmmap
from joblib import Parallel, delayed
def call(i):
    return Parallel(n_jobs=2)(delayed(abs)(-j) for j in range(i))
if __name__ == "__main__":
    print(shmmap.pmap(call, range(3), workers=2, out=list))
"""
    done = run_python("-c", program)
    assert done.stdout.strip() == "[[], [0], [0, 1]]", done.stderr


def test_calls_of_several_threads_at_once() -> None:
    results: dict[int, Any] = {}
    a = np.arange(20_000.0)

    def call(k: int) -> None:
        for _ in range(5):
            results[k] = make()(delayed(np.dot)(a, a[i]) for i in range(20))

    threads = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[k], [np.dot(a, a[i]) for i in range(20)]) for k in range(4))
    assert len(warm_teams._teams) == 1


def test_a_manager_of_multiprocessing_serves_tasks() -> None:
    with multiprocessing.Manager() as manager:
        shared = manager.list()
        make()(delayed(shared.append)(i) for i in range(5))
        assert sorted(shared) == [0, 1, 2, 3, 4]


def test_the_import_is_refused_without_joblib() -> None:
    program = "import sys; sys.modules['joblib'] = None; import shmmap.joblib"
    done = run_python("-c", program)
    assert "ImportError: shmmap.joblib needs joblib" in done.stderr
    assert "pip install 'shmmap[joblib]'" in done.stderr


def test_the_library_does_not_import_it() -> None:
    program = "import shmmap, sys; shmmap.pmap; print(*(m for m in sys.modules if 'joblib' in m))"
    assert run_python("-c", program).stdout.strip() == ""
