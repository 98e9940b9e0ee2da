"""The leak guard sees what it is there to see, and nothing else."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import pytest

import shmmap
from shmmap import _census, testing
from shmmap.testing import Leak, leak_guard, wait_until
from tests import functions
from tests.helpers import is_alive, wait_dead


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it wait less for what will not go away."""
    monkeypatch.setattr(testing, "GRACE_S", 0.1)


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
def test_name_of_nobody_alive_is_a_leak(started: str) -> None:
    path = Path(f"/dev/shm/shmmap-{os.getpid()}-{started}-test")
    try:
        with pytest.raises(Leak, match=f"name {path}"), leak_guard():
            path.mkdir()  # a file would be swept by the next program that allocates
    finally:
        path.rmdir()


def test_name_made_by_another_program_is_none(cleanup: list[int]) -> None:
    """Nobody has it open yet, but its owner is alive, and nothing to do with this process."""
    unmarked = {key: value for key, value in os.environ.items() if key != _census.MARK}
    done = subprocess.run(
        ["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"],
        env=unmarked, capture_output=True, check=True,
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
    environment = {key: value for key, value in os.environ.items() if key != _census.MARK}
    command = ["-c", source, str(path), prefix]
    launch = f"import subprocess, sys; subprocess.Popen([sys.executable, *{command!r}])"
    read, write = os.pipe()
    out, theirs = os.pipe()
    subprocess.run(
        [sys.executable, "-c", launch], env=environment, stdin=read, stdout=theirs, check=True
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


def test_name_that_another_program_made_for_a_moment_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path(f"/dev/shm/psm_test_{os.getpid()}")

    def gone(token: str) -> Callable[[str, str], bool]:
        path.unlink()
        return lambda folder, name: False

    monkeypatch.setattr(_census, "_belongs_elsewhere", gone)
    with leak_guard():
        path.touch()


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
