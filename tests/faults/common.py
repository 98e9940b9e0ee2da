"""What every test of a fault asserts afterwards, and how privileged surroundings are made."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import run_script

ROOT = Path(__file__).parents[2]

COMMON = """
import os, signal, sys, time, warnings
import numpy as np, shmmap
from shmmap.testing import wait_until
warnings.simplefilter("ignore", DeprecationWarning)

def double(v):
    return v * 2

def works(**options):
    got = shmmap.pmap(double, np.arange(50), workers=2, chunksize=1, **options)
    assert got.tolist() == list(range(0, 100, 2)), got
"""
"""The first lines of programs that run in surroundings of their own."""

BUSY = (
    COMMON
    + """
from shmmap.testing import HoldGil

running = shmmap.zeros(2, bool)

def busy(i):
    running[i] = True
    wait_until(running.all)
    if i == 0:
        print("running", flush=True)
    (HoldGil(20) if "gil" in sys.argv else time.sleep)(20)

def run(**options):
    shmmap.pmap(busy, np.arange(2), chunksize=1, **options)
"""
)
"""The first lines of programs that are cut off in a map: they say so once it runs on two workers."""


def run_program(folder: Path, source: str, *args: str, **options: Any) -> str:
    """Run a program after the common lines; it must end well and silently. Returns what it printed."""
    done = run_script(folder, COMMON + textwrap.dedent(source), *args, **options)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def times(usual: int, heavy: int) -> int:
    """How often to do something: `heavy` where ``SHMMAP_HEAVY`` is set in the environment."""
    return heavy if os.environ.get("SHMMAP_HEAVY") else usual


# --- privileges ---------------------------------------------------------------------------------


def need_root() -> None:
    """Skip the test unless it runs as root."""
    if os.geteuid():
        pytest.skip("needs root")


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[str]:
    """A memory cgroup with a limit; the path of the file that takes the pids of its members."""
    need_root()
    root = Path("/sys/fs/cgroup")
    if (root / "memory/memory.limit_in_bytes").exists():
        group, file = root / "memory", "memory.limit_in_bytes"
    elif (root / "memory.max").exists() or "memory" in _subtree_control(root):
        group, file = root, "memory.max"
    else:
        pytest.skip("there is no memory cgroup to make a child of")
    group = group / f"shmmap-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / file).write_text(str(limit))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"cannot make a memory cgroup: {error}")
    try:
        yield str(group / "cgroup.procs")
    finally:
        # Its members have ended; the kernel may be a moment behind.
        for _ in range(500):
            try:
                group.rmdir()
                break
            except OSError:
                for pid in (group / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
                time.sleep(0.01)


def _subtree_control(root: Path) -> str:
    with contextlib.suppress(OSError):
        return (root / "cgroup.subtree_control").read_text()
    return ""


IN_CGROUP = """
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
"""
"""Moves a program into the cgroup that its first argument names."""


def run_with_small_shm(folder: Path, nbytes: int, source: str) -> str:
    """Run a program in a mount namespace of its own, where ``/dev/shm`` holds that much."""
    need_root()
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("cannot make a mount namespace")
    path = folder / "script.py"
    path.write_text(COMMON + textwrap.dedent(source))
    # Every mount of the tree is made private first, so that nothing is seen outside.
    shell = f'mount -t tmpfs -o size={nbytes} none /dev/shm && exec "$@"'
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            shell,
            "sh",
            sys.executable,
            path,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def as_nobody(*args: str) -> subprocess.CompletedProcess[str]:
    """Run a command as another user."""
    need_root()
    return subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *args],
        capture_output=True,
        text=True,
        timeout=60,
    )


BECOME_NOBODY = """
import ctypes, os
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: /proc/self belongs to the new user
"""
"""Makes a program of root's another user's.

It has loaded what it needs by then: that user may not be able to read this Python and what is installed.
"""
