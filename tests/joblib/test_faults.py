"""What goes wrong around a `Parallel` call: workers and programs that are killed, Ctrl-C, exits, forks."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests.helpers import LIMIT_S, in_time, run_script, start_script

joblib = pytest.importorskip("joblib", minversion="1.5", reason="the backend is one of joblib's")
Parallel, delayed = joblib.Parallel, joblib.delayed

import shmmap.joblib  # noqa: E402
from shmmap._verbs import workers_of  # noqa: E402
from shmmap.joblib import Backend, warm_teams  # noqa: E402

BEGIN = """
import os, signal, sys, time
import numpy as np
import shmmap.joblib
from joblib import Parallel, delayed

def work(a, i):
    print("begun", flush=True)
    time.sleep(60)

def call(**options):
    return Parallel(n_jobs=2, backend="shmmap", **options)
"""


def die(i: int) -> int:
    if i == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return i


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_a_worker_that_dies_is_an_error_and_the_next_call_works(return_as: str) -> None:
    parallel = Parallel(n_jobs=2, backend="shmmap", return_as=return_as, batch_size=1)
    for _ in range(3):
        with in_time(), pytest.raises(shmmap.WorkerDied, match=r"SIGKILL.*running die"):
            list(parallel(delayed(die)(i) for i in range(20)))
        assert list(parallel(delayed(abs)(-i) for i in range(5))) == [0, 1, 2, 3, 4]
    (_, team) = warm_teams._teams[-1]
    team.validate()


def test_idle_workers_that_are_killed_are_replaced() -> None:
    parallel = Parallel(n_jobs=2, backend="shmmap")
    parallel(delayed(abs)(-i) for i in range(5))
    (_, team) = warm_teams._teams[-1]
    for link in list(team.workers.links.values()):
        os.kill(link.pid, signal.SIGKILL)
    assert parallel(delayed(abs)(-i) for i in range(5)) == [0, 1, 2, 3, 4]


def test_aborts_one_after_the_other_lose_nothing() -> None:
    """Functions of others are on their way while tasks of a call are abandoned."""
    with shmmap.Team(workers=3) as team:
        backend = Backend(team=team)

        def fail(i: int) -> None:
            raise KeyError(i)

        for _ in range(40):
            with pytest.raises(KeyError):
                Parallel(n_jobs=3, backend=backend, batch_size=1)(
                    delayed(fail)(i) for i in range(9)
                )
            futures = [team.submit(abs, -i) for i in range(9)]
            errors = [future.exception(60) for future in futures]
            # A worker may have taken one in the very moment in which it was ended for another: that is told.
            assert {type(error) for error in errors} <= {type(None), shmmap.WorkerDied}
            workers_of(team).validate()


def test_calls_while_workers_are_killed() -> None:
    """Each call gives its results, or says that a worker died."""
    is_over = threading.Event()

    def kill() -> None:
        while not is_over.wait(0.05):
            for _, team in list(warm_teams._teams):
                pids = [link.pid for link in [*team.workers.links.values()] if link.pid]
                with suppress(IndexError, ProcessLookupError):
                    os.kill(pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    a, outcomes = np.arange(20_000.0), []
    Parallel(n_jobs=2, backend="shmmap")(delayed(abs)(-i) for i in range(2))
    killer.start()
    for _ in range(15):
        try:
            results = Parallel(n_jobs=2, backend="shmmap")(
                delayed(np.multiply)(a, a[i]) for i in range(40)
            )
            outcomes.append(all(np.array_equal(r, a * a[i]) for i, r in enumerate(results)))
        except shmmap.WorkerDied:
            outcomes.append(True)
    is_over.set()
    killer.join()
    assert outcomes == [True] * 15


def test_ctrl_c_ends_a_call_and_the_next_one_works(tmp_path: Path) -> None:
    program = start_script(
        tmp_path,
        BEGIN
        + """
try:
    call()(delayed(work)(np.zeros(100_000), i) for i in range(4))
except KeyboardInterrupt:
    print("interrupted", call()(delayed(abs)(-i) for i in range(3)), flush=True)
""",
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "begun\n"
    began = time.monotonic()
    os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert "interrupted [0, 1, 2]" in out and "Traceback" not in err, err
    assert program.returncode == 0 and time.monotonic() - began < 2 * LIMIT_S


def test_ctrl_c_that_nobody_catches_is_one_traceback(tmp_path: Path) -> None:
    program = start_script(
        tmp_path, BEGIN + "\ncall()(delayed(work)(np.zeros(100_000), i) for i in range(4))\n"
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "begun\n"
    os.killpg(program.pid, signal.SIGINT)
    _, err = program.communicate(timeout=60)
    assert err.count("Traceback") == 1 and err.rstrip().endswith("KeyboardInterrupt"), err


def test_nothing_is_left_of_a_program_that_is_killed(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    program = start_script(
        tmp_path, BEGIN + "\ncall()(delayed(work)(np.zeros(1_000_000), i) for i in range(4))\n"
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "begun\n"
    found = subprocess.run(["pgrep", "-g", str(program.pid)], capture_output=True, text=True)
    children = found.stdout.split()
    assert len(children) > 2
    program.kill()
    program.communicate(timeout=60)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children))
    assert set(os.listdir("/dev/shm")) <= before


def test_a_program_may_end_in_the_middle_of_a_generator(tmp_path: Path) -> None:
    with in_time(30):
        done = run_script(
            tmp_path,
            BEGIN
            + """
import warnings
warnings.simplefilter("ignore")
def slowly(i):
    time.sleep(0.01)
    return i
results = call(return_as="generator", batch_size=1)(delayed(slowly)(i) for i in range(10_000))
print(next(results), next(results))
""",
        )
    assert done.stdout.split() == ["0", "1"] and done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_a_script_needs_no_guard_and_may_use_its_own_functions(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        BEGIN
        + """
scale = 3
class Model:
    def __init__(self, i):
        self.value = i * scale
models = call()(delayed(lambda i: Model(i))(i) for i in range(4))
scale = 5
again = call()(delayed(lambda i: Model(i))(i) for i in range(4))
print([m.value for m in models], [m.value for m in again], type(models[0]) is Model)
""",
    )
    assert done.stdout.strip() == "[0, 3, 6, 9] [0, 5, 10, 15] True", done.stderr


def test_a_forked_child_has_workers_of_its_own(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        BEGIN
        + """
import warnings
warnings.simplefilter("ignore")
print(call()(delayed(abs)(-i) for i in range(3)), flush=True)
if pid := os.fork():
    assert os.waitpid(pid, 0)[1] == 0
    print(call()(delayed(abs)(-i) for i in range(3)))
else:
    print(call()(delayed(abs)(-i) for i in range(3)), flush=True)
""",
    )
    assert done.stdout.splitlines() == ["[0, 1, 2]"] * 3, done.stderr


def test_what_tasks_print_reaches_the_caller(capsys: Any) -> None:
    Parallel(n_jobs=2, backend="shmmap")(delayed(print)("said", i) for i in range(3))
    assert sorted(capsys.readouterr().out.split()) == ["0", "1", "2", "said", "said", "said"]
