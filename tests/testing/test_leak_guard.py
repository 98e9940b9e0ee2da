"""The leak guard sees what it is there to see, and nothing else."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._system import witness
from shmmap.testing import Leak, guard, leak_guard, wait_until
from tests import functions
from tests.helpers import is_alive, run_python, wait_dead


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it wait less for what will not go away."""
    monkeypatch.setattr(guard, "GRACE_S", 0.1)


@pytest.fixture
def cleanup() -> Iterator[list[int]]:
    """Processes to kill at the end."""
    pids: list[int] = []
    yield pids
    for pid in filter(is_alive, pids):
        os.kill(pid, signal.SIGKILL)
    wait_dead(*pids)


def test_ordinary_use_is_no_leak() -> None:
    with leak_guard():
        a = shmmap.pmap(functions.double, np.arange(100))
        with shmmap.Team(workers=1) as team:
            shmmap.pmap(functions.double, a, engine=team)
        del a


def start_time(pid: int) -> str:
    """When a process started: the second part of the names of its segments."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


@pytest.mark.parametrize("folder", ["/dev/shm", tempfile.gettempdir()])
def test_name_is_a_leak(folder: str) -> None:
    path = Path(folder, f"shmmap-{os.getpid()}-{start_time(os.getpid())}-test")
    try:
        with pytest.raises(Leak, match=f"name {path}"), leak_guard():
            path.touch()
    finally:
        path.unlink()


def test_name_of_a_child_is_a_leak(cleanup: list[int]) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        cleanup.append(child.pid)
        path = Path(f"/dev/shm/shmmap-{child.pid}-{start_time(child.pid)}-test")
        try:
            with pytest.raises(Leak, match=f"name {path}"), leak_guard():
                path.touch()
        finally:
            path.unlink()
        child.kill()


@pytest.mark.parametrize("started", ["1", ""], ids=["dead", "unknown"])
def test_name_of_nobody_alive_is_a_leak_if_made_here(started: str) -> None:
    path = Path(f"/dev/shm/shmmap-{os.getpid()}-{started}-test")
    try:
        with pytest.raises(Leak, match=f"name {path}"), leak_guard():
            path.mkdir()  # a file would be swept by the next program that allocates
    finally:
        path.rmdir()


# --- names, and who made them (T1) --------------------------------------------------------------

MAKERS = {
    "psm_": """
from multiprocessing import resource_tracker, shared_memory
made = shared_memory.SharedMemory("psm_" + name, create=True, size=8)
resource_tracker.unregister(made._name, "shared_memory")  # as track=False from Python 3.13 on
made.close()
""",
    "sem.": """
import multiprocessing
made = multiprocessing.get_context("spawn").Lock()
""",
    "pymp-": """
import os, tempfile
os.mkdir(tempfile.gettempdir() + "/pymp-" + name)
""",
    "written": """
open("/dev/shm/psm_" + name, "w").close()
""",
}
"""How a program makes each kind of name, some of them held open for no longer than the making."""

UNMARKED = {key: value for key, value in os.environ.items() if key != witness.MARK}


def names_there() -> set[Path]:
    """All names that a guard looks at."""
    return {
        path
        for folder in ("/dev/shm", tempfile.gettempdir())
        for prefix in witness.NAME_PREFIXES
        for path in Path(folder).glob(f"{prefix}*")
    }


@pytest.fixture
def remove_names() -> Iterator[None]:
    """Remove what a test had a program leave behind."""
    before = names_there()
    yield
    for path in names_there() - before:
        path.rmdir() if path.is_dir() else path.unlink()


def program(maker: str, *, imports: str = "") -> str:
    """A program that makes a name and dies at once, with its resource tracker."""
    return f"""
import os, secrets, signal, sys
{imports}
name = secrets.token_hex(8)
{maker}
tracker = sys.modules.get("multiprocessing.resource_tracker")
if tracker is not None and tracker._resource_tracker._pid is not None:
    os.kill(tracker._resource_tracker._pid, signal.SIGKILL)
print("made", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("imports", ["", "import shmmap"], ids=["plain", "shmmap"])
@pytest.mark.parametrize("kind", MAKERS)
def test_name_that_a_dead_child_left_is_a_leak(kind: str, imports: str, remove_names: None) -> None:
    """Whether it reported its names or not."""
    with pytest.raises(Leak, match="name /"), leak_guard():
        done = run_python("-c", program(MAKERS[kind], imports=imports))
        assert done.stdout == "made\n"


@pytest.mark.parametrize("kind", MAKERS)
def test_name_that_a_dead_foreign_program_left_is_none(kind: str, remove_names: None) -> None:
    """Also beside programs of our own that report their names: here one of each."""
    ours, theirs = "import shmmap; shmmap.zeros(3)", program(MAKERS[kind])
    launch = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {theirs!r}])"
    before = names_there()
    with leak_guard():
        assert run_python("-c", ours).returncode == 0
        assert run_python("-c", launch, env=UNMARKED).stdout == "made\n"
        assert names_there() - before


def leave_name(maker: str) -> None:
    """Make a name in a worker."""
    exec(maker, {"name": secrets.token_hex(8)})


@pytest.mark.parametrize("start", ["clean", "fork"])
@pytest.mark.parametrize("kind", ["psm_", "pymp-", "written"])
def test_name_that_a_function_left_is_a_leak(kind: str, start: Any, remove_names: None) -> None:
    """Made by a worker, which has ended when the guard looks."""
    with pytest.raises(Leak, match="name /"), leak_guard(), shmmap.Team(1, start=start) as team:
        shmmap.pmap(leave_name, [MAKERS[kind]], engine=team)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", MAKERS)
def test_name_that_a_process_of_multiprocessing_left_is_a_leak(
    kind: str, method: str, remove_names: None
) -> None:
    context: Any = multiprocessing.get_context(method)
    with pytest.raises(Leak, match="name /"), leak_guard():
        process = context.Process(target=leave_name_and_die, args=(MAKERS[kind],))
        process.start()
        process.join()
        process.close()


def test_semaphore_of_a_process_where_loky_is_imported_is_a_leak(remove_names: None) -> None:
    """It renames semaphores, so that they do not bear the guard's tag."""
    pytest.importorskip("joblib.externals.loky")
    with pytest.raises(Leak, match=r"sem\.loky-"), leak_guard():
        process = multiprocessing.get_context("fork").Process(
            target=leave_name_and_die, args=(MAKERS["sem."],)
        )
        process.start()
        process.join()
        process.close()


def leave_name_and_die(maker: str) -> None:
    """Make a name, and die of SIGKILL while holding what was made."""
    kept: dict[str, Any] = {"name": secrets.token_hex(8)}
    exec(maker, kept)
    os.kill(os.getpid(), signal.SIGKILL)


def test_own_name_that_a_killed_child_left_is_a_leak(remove_names: None) -> None:
    """SIGKILL between creating and unlinking: the name says which guard its maker had."""
    source = """
        import os, signal
        from multiprocessing import shared_memory
        import shmmap
        shared_memory.SharedMemory.unlink = lambda self: os.kill(os.getpid(), signal.SIGKILL)
        shmmap.zeros(3)
    """
    with pytest.raises(Leak, match="name /dev/shm/shmmap-"), leak_guard():
        assert run_python("-c", textwrap.dedent(source)).returncode == -signal.SIGKILL


@pytest.mark.slow
def test_guards_of_two_programs_do_not_disturb_each_other(remove_names: None) -> None:
    """One makes and keeps names of every kind while the other guards a block."""
    source = f"""
        import secrets, sys
        import shmmap.testing
        shmmap.testing.guard.GRACE_S = 0.1
        with shmmap.testing.leak_guard():
            for maker in {list(MAKERS.values())!r}:
                exec(maker, dict(name=secrets.token_hex(8)))
            print("made", flush=True)
            sys.stdin.readline()
    """
    with leak_guard():
        other = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source)],
            env=UNMARKED, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "made\n"
        with leak_guard():
            assert run_python("-c", "import shmmap; shmmap.zeros(3)").returncode == 0
        _, errors = other.communicate("\n")
        assert "Leak: left behind" in errors


def test_name_made_by_another_program_is_none(cleanup: list[int]) -> None:
    """Nobody has it open yet, but its owner is alive, and nothing to do with this process."""
    done = subprocess.run(
        ["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"],
        env=UNMARKED, capture_output=True, check=True,
    )  # fmt: skip
    pid = int(done.stdout)
    cleanup.append(pid)
    path = Path(f"/dev/shm/shmmap-{pid}-{start_time(pid)}-test")
    try:
        with leak_guard():
            path.touch()
    finally:
        path.unlink()


@pytest.mark.parametrize("prefix", ["psm_", "sem."])
def test_name_in_use_by_another_program_is_none(prefix: str) -> None:
    """Also that of a semaphore, which the C library opens under another name first."""
    source = """
import _multiprocessing, os, sys
path, prefix = sys.argv[1:]
input()
if prefix == "sem.":
    held = _multiprocessing.SemLock(1, 1, 1, "/" + path.partition(prefix)[2], False)
else:
    held = open(path, "w")
print("made", flush=True)
input()
os.unlink(path)
"""
    path = Path(f"/dev/shm/{prefix}test-{os.getpid()}")
    # A program that is not ours to the guard: started before, without its mark, and an orphan.
    command = ["-c", source, str(path), prefix]
    launch = f"import subprocess, sys; subprocess.Popen([sys.executable, *{command!r}])"
    read, write = os.pipe()
    out, theirs = os.pipe()
    subprocess.run(
        [sys.executable, "-c", launch], env=UNMARKED, stdin=read, stdout=theirs, check=True
    )
    os.close(read)
    os.close(theirs)
    with open(out) as lines:
        with leak_guard():
            os.write(write, b"\n")
            assert lines.readline() == "made\n"
            assert path.exists()
        os.write(write, b"\n")
        os.close(write)
        assert lines.read() == ""
    assert not path.exists()


def test_child_is_a_leak(cleanup: list[int]) -> None:
    with pytest.raises(Leak, match="process"), leak_guard():
        child = subprocess.Popen(["sleep", "60"])
        cleanup.append(child.pid)
    child.kill()
    child.wait()


def test_orphan_is_a_leak(cleanup: list[int]) -> None:
    with pytest.raises(Leak, match=r"process .*sleep 60"), leak_guard():
        done = subprocess.run(
            ["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, check=True
        )
        cleanup.append(int(done.stdout))


def test_team_that_was_not_ended_is_a_leak() -> None:
    held: list[shmmap.Team] = []
    with pytest.raises(Leak, match="process"), leak_guard():
        held.append(shmmap.Team(workers=1))
        list(held[0].map(functions.pid, [0]))
    held.pop().shutdown()


def test_descriptor_is_a_leak() -> None:
    with pytest.raises(Leak, match="descriptor"), leak_guard():
        ends = os.pipe()
    for end in ends:
        os.close(end)


def test_shared_memory_is_a_leak() -> None:
    held = []
    with pytest.raises(Leak, match=r"shared memory: \d+ bytes"), leak_guard():
        held.append(shmmap.zeros(1 << 20))
    held.clear()
    with pytest.raises(Leak, match="shared memory: 4096 bytes"), leak_guard():
        mapped = mmap.mmap(-1, 4096)
    mapped.close()


def test_named_shared_memory_is_a_leak() -> None:
    with pytest.raises(Leak, match="name /dev/shm/psm_"), leak_guard():
        memory = shared_memory.SharedMemory(create=True, size=4096)
        memory.close()
    memory.unlink()


def test_block_that_raises_is_not_checked() -> None:
    with pytest.raises(KeyError), leak_guard():
        held = shmmap.zeros(1 << 20)
        raise KeyError
    del held


def test_wait_until_gives_up() -> None:
    with pytest.raises(TimeoutError):
        wait_until(lambda: False, 0.01)
    assert wait_until(lambda: True) is None
