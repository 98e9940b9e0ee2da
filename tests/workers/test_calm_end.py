"""A worker that nobody needs any more ends as a program does: what was registered for the end is done."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.helpers import is_alive, run_script, wait_dead

STARTS = ("clean", "fork")
ENDS = ("shutdown", "with", "idle", "dropped", "program")

BEGIN = """
import atexit, os, sys, threading, time
import shmmap, shmmap.testing

def end(team, how):
    if how == "with":
        with team:
            pass
    elif how == "shutdown":
        team.shutdown()
    elif how in ("idle", "dropped"):
        del team
        shmmap.testing.wait_until(lambda: not any("shmmap" in t.name for t in threading.enumerate()))
    elif how == "program":
        global kept
        kept = team

def main(func, size=1, how=sys.argv[2]):
    teams = [shmmap.Team(size, start=sys.argv[1], idle_timeout=0.05 if how == "idle" else None)]
    result = teams[0].submit(func, 0).result()
    end(teams[0] if how == "idle" else teams.pop(), how)
    return result
"""


@pytest.mark.few(2)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("end", ENDS)
def test_everything_registered_is_called(tmp_path: Path, start: str, end: str) -> None:
    """B9: handlers of `atexit`, finalizers, threads that are no daemons; what they print is relayed."""
    done = run_script(
        tmp_path,
        BEGIN
        + """
import weakref

class Thing:
    pass

def register(_):
    import multiprocessing.util
    global thing
    thing = Thing()
    atexit.register(print, "atexit")
    atexit.register(lambda: 1 / 0)
    weakref.finalize(thing, print, "finalize")
    multiprocessing.util.Finalize(None, print, ("Finalize",), exitpriority=1)
    def late():
        time.sleep(0.05)
        print("thread")
    threading.Thread(target=late).start()

main(register)
""",
        start,
        end,
    )
    assert sorted(done.stdout.split()) == ["Finalize", "atexit", "finalize", "thread"]
    assert "ZeroDivisionError" in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("end", ["shutdown", "program"])
def test_forked_workers_leave_the_callers_alone(tmp_path: Path, end: str) -> None:
    """B9: what the caller had registered is done once, by the caller; its children and folders live."""
    done = run_script(
        tmp_path,
        BEGIN
        + """
import logging.handlers, multiprocessing, subprocess, tempfile, weakref
import concurrent.futures

class Thing:
    pass

thing, log = Thing(), logging.handlers.MemoryHandler(100, target=logging.StreamHandler(sys.stdout))
log.emit(logging.makeLogRecord({"msg": "logged", "levelno": 20}))
atexit.register(print, "atexit")
weakref.finalize(thing, print, "finalize")
multiprocessing.util.Finalize(None, print, ("Finalize",), exitpriority=1)
folder = tempfile.TemporaryDirectory()
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
child.start()
pool = concurrent.futures.ThreadPoolExecutor(1)
pool.submit(int).result()
processes = concurrent.futures.ProcessPoolExecutor(1)
processes.submit(int).result()

main(abs)
assert processes.submit(abs, -1).result() == 1
if sys.argv[2] == "shutdown":
    assert child.is_alive() and os.path.isdir(folder.name)
    print("alive", flush=True)
""",
        "fork",
        end,
    )
    said = ["Finalize", "atexit", "finalize", "logged"] + ["alive"] * (end == "shutdown")
    assert (sorted(done.stdout.split()), done.stderr) == (sorted(said), "")


def test_buffered_records_of_a_worker_are_not_lost(tmp_path: Path) -> None:
    """B9: `logging.shutdown` is one of the handlers, which flushes those that a function has made."""
    done = run_script(
        tmp_path,
        BEGIN
        + """
def log(_):
    import logging.handlers
    global handler
    handler = logging.handlers.MemoryHandler(100, target=logging.FileHandler(sys.argv[3]))
    handler.emit(logging.makeLogRecord({"msg": "kept", "levelno": 20}))

for start in "clean", "fork":
    sys.argv[1] = start
    main(log)
""",
        "clean",
        "shutdown",
        str(tmp_path / "log"),
    )
    assert done.stderr == ""
    assert (tmp_path / "log").read_text() == "kept\nkept\n"


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("end", ["shutdown", "program"])
def test_pools_of_joblib_end(tmp_path: Path, start: str, end: str) -> None:
    """B9: processes that `joblib.Parallel` keeps warm in a mapped function end with the program."""
    pytest.importorskip("joblib")
    pids = tmp_path / "pids"
    done = run_script(
        tmp_path,
        BEGIN
        + """
import joblib

def parallel(_):
    with open(sys.argv[3], "a") as file:
        for pid in joblib.Parallel(2)(joblib.delayed(os.getpid)() for _ in range(8)):
            print(pid, file=file)

main(parallel, 2)
""",
        start,
        end,
        str(pids),
    )
    assert (done.stdout, done.stderr) == ("", "")
    wait_dead(*map(int, pids.read_text().split()), timeout_s=2)


HANGS = {
    "a handler": "atexit.register(time.sleep, 60)",
    "a thread": "threading.Thread(target=time.sleep, args=(60,)).start()",
    "a handler that holds the GIL": "atexit.register(ctypes.PyDLL(None).sleep, 60)",
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("how", HANGS)
@pytest.mark.parametrize("end", ["shutdown", "program"])
def test_the_end_takes_two_seconds_at_most(tmp_path: Path, start: str, how: str, end: str) -> None:
    """B9: then the worker is ended; all workers at the same time."""
    began = time.monotonic()
    done = run_script(
        tmp_path,
        BEGIN
        + f"""
import ctypes

def hang(_):
    {HANGS[how]}
    time.sleep(0.2)
    return os.getpid()

team = shmmap.Team(2, start=sys.argv[1])
pids = shmmap.pmap(hang, range(2), engine=team, chunksize=1)
began = time.monotonic()
if sys.argv[2] == "shutdown":
    team.shutdown()
    assert 1.9 < time.monotonic() - began < 4, time.monotonic() - began
print(*set(pids))
""",
        start,
        end,
    )
    assert done.stderr == ""
    assert time.monotonic() - began < 15
    assert not any(is_alive(int(pid)) for pid in done.stdout.split())


@pytest.mark.parametrize("start", STARTS)
def test_an_idle_worker_ends_at_once(tmp_path: Path, start: str) -> None:
    """B9: one that has nothing to do at its end."""
    done = run_script(
        tmp_path,
        BEGIN
        + """
times = []
for _ in range(5):
    team = shmmap.Team(2, start=sys.argv[1])
    shmmap.pmap(abs, range(4), engine=team)
    began = time.monotonic()
    team.shutdown()
    times.append(time.monotonic() - began)
assert min(times) < 0.1, times
""",
        start,
        "",
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("end", ["killed", "aborted", "caller"])
def test_not_after_a_kill(tmp_path: Path, start: str, end: str) -> None:
    """B9: not where the worker is killed, where its map is broken off, nor where the caller has died."""
    witness = tmp_path / "witness"
    ready = tmp_path / "ready"
    done = run_script(
        tmp_path,
        BEGIN
        + """
import signal

def touch():
    open(sys.argv[3], "w").close()

def register(_):
    atexit.register(touch)
    return os.getpid()

def hold(_):
    open(sys.argv[4], "w").close()
    time.sleep(60)

team = shmmap.Team(1, start=sys.argv[1])
pid = team.submit(register, 0).result()
if sys.argv[2] == "killed":
    os.kill(pid, signal.SIGKILL)
    team.shutdown()
elif sys.argv[2] == "caller":
    os.kill(os.getpid(), signal.SIGKILL)
else:
    def work():
        shmmap.pmap(hold, [0], engine=team)
    threading.Thread(target=work, daemon=True).start()
    shmmap.testing.wait_until(lambda: os.path.exists(sys.argv[4]))
""",
        start,
        end,
        str(witness),
        str(ready),
    )
    assert done.returncode == (-signal.SIGKILL if end == "caller" else 0)
    assert done.stderr == ""
    assert not witness.exists()


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_what_a_function_has_submitted_is_finished(tmp_path: Path, start: str) -> None:
    """To a team of its own, as it would be at the end of a program (A7)."""
    source = f"""
        import os, time
        import shmmap

        def write():
            time.sleep(0.1)
            os.write(1, b"x")

        def submit(_):
            global team
            team = shmmap.Team(1)
            team.submit(os.getpid).result()  # it has started: that may take longer than a calm end may
            for _ in range(3):
                team.submit(write)

        shmmap.pmap(submit, [0], engine=shmmap.Team(1, start="{start}"))
    """
    done = run_script(tmp_path, source)
    assert (done.stdout, done.stderr) == ("xxx", "")
