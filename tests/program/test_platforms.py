"""What surrounds the interpreter: frozen applications, forks, green threads, names that are no text."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import shmmap
from tests.helpers import assert_same, is_alive, run_python, run_script, wait_dead, write_script

# ---------------------------------------------------------------- what is to start workers (B2)

NO_PYTHON = """
    import multiprocessing, sys
    import numpy as np, shmmap

    {setup}
    try:
        {call}
    except Exception as exc:
        print(type(exc).__name__, exc)
"""

CALLS = [
    "shmmap.pmap(np.sum, np.ones((4, 3)))",
    "shmmap.Team(2).submit(abs, -1).result()",
    "list(shmmap.Team(2).map(abs, [-1]))",
]


@pytest.mark.parametrize("call", CALLS)
def test_a_frozen_application_is_told_that_it_cannot_start_workers(
    tmp_path: Path, call: str
) -> None:
    """B2: what is to start workers is no Python. A frozen application would start itself again."""
    source = NO_PYTHON.format(setup="sys.frozen = True", call=call)
    done = run_script(tmp_path, source)
    assert "RuntimeError worker processes cannot be started" in done.stdout
    assert "multiprocessing.set_executable" in done.stdout
    assert done.stderr == ""


def test_a_frozen_application_may_name_a_python(tmp_path: Path) -> None:
    """B2: with a Python beside it, an application that is frozen has workers as any other."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    setup = f"sys.frozen = True; multiprocessing.set_executable({str(python)!r})"
    source = NO_PYTHON.format(setup=setup, call="print(shmmap.pmap(np.sum, np.ones((4, 3))))")
    done = run_script(tmp_path, "import multiprocessing.spawn\n" + source.replace("\n    ", "\n"))
    assert done.stdout == "[3. 3. 3. 3.]\n"
    assert done.stderr == ""


def test_a_program_that_is_started_in_place_of_a_template_starts_no_other(tmp_path: Path) -> None:
    """B2: an executable that runs the program again, whatever its arguments, does so once."""
    log = tmp_path / "log"
    again = tmp_path / "application"
    script = tmp_path / "script.py"
    again.write_text(f'#!/bin/sh\necho >>"{log}"\nexec "{sys.executable}" "{script}"\n')
    again.chmod(0o755)
    source = NO_PYTHON.format(
        setup=f"sys.executable = {str(again)!r}", call="shmmap.pmap(np.sum, np.ones((4, 3)))"
    )
    done = run_script(tmp_path, source)
    assert "no Python interpreter" in done.stdout
    assert len(log.read_text()) == 1


@pytest.mark.parametrize("call", CALLS)
def test_an_executable_that_ends_at_once_is_given_up(tmp_path: Path, call: str) -> None:
    """B2: the error names the executable and how it ended, after one try."""
    setup = f"sys.executable = {shutil.which('true')!r}"
    done = run_script(tmp_path, NO_PYTHON.format(setup=setup, call=call))
    assert "WorkerDied no worker could be started" in done.stdout
    assert "true ended with status 0" in done.stdout
    assert done.stderr == ""


def test_an_executable_that_says_nothing_is_given_up_and_ended(tmp_path: Path) -> None:
    """B2: a start that says nothing would be waited for without end."""
    sleeper = tmp_path / "sleeper"
    pids = tmp_path / "pids"
    sleeper.write_text(f'#!/bin/sh\necho $$ >>"{pids}"\nexec sleep 300\n')
    sleeper.chmod(0o755)
    setup = (
        f"sys.executable = {str(sleeper)!r}; from shmmap._team import launch; launch.HELLO_S = 0.5"
    )
    source = NO_PYTHON.format(setup=setup, call="shmmap.pmap(np.sum, np.ones((4, 3)))")
    done = run_script(tmp_path, source)
    assert "sleeper said nothing for 0 s" in done.stdout
    (pid,) = map(int, pids.read_text().split())
    wait_dead(pid)
    assert not is_alive(pid)


# ---------------------------------------------------------------- forks (B6)


FORK_IN_AN_IMPORT = """
    import os, signal, sys, threading
    import numpy as np
    import shmmap

    module, engine = sys.argv[1:]
    signal.alarm(40)
    imports, has_forked = threading.Event(), threading.Event()

    class Finder:  # stops the import of the module, in the thread, until the main thread has forked
        def find_spec(self, name, path=None, target=None):
            if name == module and threading.current_thread() is thread:
                imports.set()
                has_forked.wait(0.2)  # a fork that waits for this import cannot come before

    def call():
        return shmmap.pmap(abs, shmmap.asshared([-1.0, 2.0]), engine=engine).tolist()

    sys.meta_path.insert(0, Finder())
    thread = threading.Thread(target=call)
    thread.start()
    imports.wait(10)
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        is_right = call() == [1.0, 2.0]
        shmmap.shutdown()
        os._exit(0 if is_right else 1)
    has_forked.set()
    thread.join()
    print(imports.is_set(), os.waitpid(pid, 0)[1])
"""


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "module, engine",
    [
        ("shmmap._verbs.options", "serial"),
        ("shmmap._team.team", "processes"),
        ("shmmap._engines.local", "threads"),
        ("threadpoolctl", "threads"),
        ("shmmap._engines.processes", "fork"),
        ("logging", "processes"),
        ("cloudpickle", "processes"),
        ("multiprocessing.shared_memory", "serial"),
    ],
)
def test_a_fork_waits_for_what_another_thread_imports_late(
    tmp_path: Path, module: str, engine: str
) -> None:
    """B6: a child forked while a thread makes the program's first map can map as well.

    The kind: whatever the library imports for the first time in one thread while another one forks.
    """
    path = write_script(tmp_path, FORK_IN_AN_IMPORT)
    done = run_python("-W", "ignore::DeprecationWarning", path, module, engine)
    assert (done.stdout, done.stderr) == ("True 0\n", "")


# ---------------------------------------------------------------- green threads (B10)


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_green_threads_are_refused_where_workers_are_waited_for(
    tmp_path: Path, library: str
) -> None:
    """B10: where threads have been replaced, a wait for a worker would keep all tasks from running."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    patch = {
        "gevent": "from gevent import monkey; monkey.patch_all()",
        "eventlet": "import eventlet; eventlet.monkey_patch()",
    }[library]
    source = patch + "".join(
        f"""
try:
    print({call})
except RuntimeError as exc:
    print(exc)
"""
        for call in (
            "shmmap.pmap(np.sum, x)",
            "shmmap.pmap(np.sum, x, engine='fork')",
            "shmmap.Team(2).submit(abs, -1).result()",
            "shmmap.pmap(np.sum, x, engine='serial')",
        )
    ).replace("\ntry", "\nimport numpy as np, shmmap\nx = np.ones((2, 3))\ntry", 1)
    (tmp_path / "green.py").write_text(source)
    done = run_python("-W", "ignore", str(tmp_path / "green.py"))
    lines = done.stdout.splitlines()
    assert [line.startswith(f"{library} has replaced") for line in lines] == [True] * 3 + [False]
    assert lines[-1] == "[3. 3.]"


# ---------------------------------------------------------------- what the kernel says is bytes (B16)


def test_a_process_title_that_is_no_text(tmp_path: Path) -> None:
    """B16: the kernel cuts titles at 15 bytes, in the middle of a letter: ``/proc`` is bytes."""
    source = """
        import numpy as np
        import shmmap

        with open("/proc/self/comm", "wb") as file:
            file.write(b"caf\\xc3 (a) \\xe9\\n")
        x = shmmap.asshared(np.ones((4, 3)))
        print(shmmap.pmap(np.sum, x), shmmap.zeros(1 << 22).sum())
    """
    done = run_script(tmp_path, source)
    assert (done.stdout, done.stderr) == ("[3. 3. 3. 3.] 0.0\n", "")


@pytest.mark.parametrize(
    "name", [b"caf\xe9.npy", b"two\nlines.npy", b"x.npy (deleted)", b"a b.npy"]
)
def test_a_mapped_file_whose_name_is_no_text(tmp_path: Path, name: bytes) -> None:
    """B16: a memory-mapped file of any name the system allows travels by its file."""
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(4, 3))
    os.rename(tmp_path / "x.npy", path)
    x = shmmap.load(path, mmap_mode="r+")
    assert shmmap.is_shared(x)
    assert_same(shmmap.pmap(np.sum, x, workers=2), np.array([3.0, 12.0, 21.0, 30.0]))
    shmmap.pmap_chunks(np.negative, x, out=x, workers=2)
    assert_same(np.load(path), -np.arange(12.0).reshape(4, 3))


def test_a_mapped_file_that_was_removed_is_still_refused(tmp_path: Path) -> None:
    """B16: a file that only looks as if it were there is not taken for the one that is mapped."""
    path = tmp_path / "x.npy"
    np.save(path, np.arange(4.0))
    x = shmmap.load(path, mmap_mode="r")
    path.unlink()
    np.save(path, np.full(4, 7.0))
    assert_same(shmmap.pmap(abs, x, workers=2), np.arange(4.0))


# ---------------------------------------------------------------- strict interpreters (C11)


@pytest.mark.slow
def test_no_file_is_opened_without_an_encoding(tmp_path: Path) -> None:
    """C11: a program whose warnings are errors, about encodings as well, maps as any other."""
    np.save(tmp_path / "x.npy", np.arange(4.0))
    source = """
        import sys
        import numpy as np, shmmap

        x = shmmap.load(sys.argv[1])
        m = shmmap.load(sys.argv[1], mmap_mode="r")
        big = shmmap.zeros(1 << 23)
        for start in ("clean", "fork"):
            with shmmap.Team(2, start=start, memory_limit=1 << 30) as team:
                print(shmmap.pmap(abs, x, engine=team), team.submit(abs, -1).result())
                print(shmmap.pmap(abs, m, engine=team, timeout=60))
        for engine in ("serial", "threads", "fork"):
            print(shmmap.pmap(lambda v: v + big[0], m, engine=engine))
        print(shmmap.pmap(str, ["a"], progress=True))
    """
    path = tmp_path / "script.py"
    run_script(tmp_path, source, str(tmp_path / "x.npy"))
    strict = ("-X", "warn_default_encoding", "-W", "error::EncodingWarning")
    done = run_python(*strict, str(path), str(tmp_path / "x.npy"))
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert done.stdout.count("[0. 1. 2. 3.]") == 7


# ---------------------------------------------------------------- what the system refuses (C19)


def test_a_search_path_longer_than_an_argument_may_be(tmp_path: Path) -> None:
    """C19: what workers are told at their start has no bound that the system sets to arguments."""
    source = """
        import sys
        import numpy as np, shmmap

        sys.path += [f"/no/such/folder/{i:0100}" for i in range(5000)]
        print(shmmap.pmap(np.sum, np.ones((4, 3))))
    """
    done = run_script(tmp_path, source)
    assert (done.stdout, done.stderr) == ("[3. 3. 3. 3.]\n", "")


@pytest.mark.parametrize("call", CALLS)
def test_a_system_that_starts_no_process(tmp_path: Path, call: str) -> None:
    """C19: what the system refuses comes out in this library's words, with what needs no process."""
    executable = tmp_path / "python"
    executable.write_text("")  # which nobody may execute
    setup = f"sys.executable = {str(executable)!r}"
    done = run_script(tmp_path, NO_PYTHON.format(setup=setup, call=call))
    assert "PermissionError [Errno 13] no worker process can be started by" in done.stdout
    assert "Permission denied; engine='serial' and engine='threads' need none" in done.stdout
    assert done.stderr == ""


# ---------------------------------------------------------------- platforms without processes of ours


HIDE = """
    import asyncio, concurrent.futures.thread, ctypes, logging, mmap, multiprocessing, os, random
    import select, signal, socket, subprocess, sys, tempfile, threading, time
    import cloudpickle, numpy as np, numpy.random, threadpoolctl, tqdm.std

    # What Windows and WebAssembly have no counterpart of. What others need is imported by now.
    for name in ("fcntl", "grp", "posix", "pwd", "resource", "_posixsubprocess"):
        sys.modules[name] = None
    hidden = {
        os: "fork forkpty register_at_fork posix_spawn memfd_create posix_fallocate pidfd_open "
        "sched_getaffinity getuid geteuid getgid getegid getgroups fchmod statvfs fstatvfs sysconf "
        "O_CLOEXEC O_NOFOLLOW O_NONBLOCK WNOHANG setsid mkfifo killpg nice pread pwrite",
        signal: "pthread_sigmask valid_signals setitimer alarm SIGKILL SIGHUP SIGCHLD SIGPIPE SIGALRM "
        "SIGBUS SIGSTOP SIGUSR1 SIGIO SIGXFSZ SIG_BLOCK SIG_SETMASK SIG_UNBLOCK",
        select: "poll",
        socket: "AF_UNIX SOCK_SEQPACKET send_fds recv_fds",
        mmap: "MADV_HUGEPAGE",
        time: "tzset",
    }
    for module, names in hidden.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)

    import shmmap

    for name in shmmap.__all__:
        getattr(shmmap, name)
"""


def test_serial_and_threads_where_no_process_can_be_started(tmp_path: Path) -> None:
    """The library can be imported everywhere; what needs workers says what to use instead."""
    source = (
        HIDE
        + """
    x = shmmap.asshared(np.arange(6.0).reshape(3, 2))
    big = shmmap.zeros(1 << 22)
    for engine in ("serial", "threads"):
        print(shmmap.pmap(np.sum, x, engine=engine), shmmap.preduce(np.max, x, engine=engine))
        print(shmmap.pmap(str, range(2), engine=engine, wait=False).result())
        print(shmmap.pmap_chunks(np.negative, x, out=x, engine=engine) is x)
        print(shmmap.pmap_ranges(lambda start, stop: start, 2, chunksize=1, engine=engine))
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        print(shmmap.pmap(np.sum, x, engine=executor))
    for call in (
        lambda: shmmap.pmap(np.sum, x),
        lambda: shmmap.pmap(np.sum, x, engine="fork"),
        lambda: shmmap.Team(2),
        lambda: shmmap.Team(2, start="fork"),
    ):
        try:
            call()
        except NotImplementedError as exc:
            print(exc)
    shmmap.shutdown()
    """
    )
    # Of a platform without processes a leak guard has nothing to know.
    unmarked = {name: value for name, value in os.environ.items() if name != "SHMMAP_LEAK_GUARD"}
    done = run_script(tmp_path, source, env=unmarked)
    refused = (
        "this platform cannot start worker processes; use engine='serial' or engine='threads'\n"
    )
    assert done.stderr == ""
    assert done.stdout == (
        "[1. 5. 9.] 5.0\n['0', '1']\nTrue\n[0, 1]\n"
        "[-1. -5. -9.] -0.0\n['0', '1']\nTrue\n[0, 1]\n"
        "[1. 5. 9.]\n" + refused * 4
    )
