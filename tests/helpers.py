"""Comparing arrays to the last bit, running programs, and looking at processes from outside."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import shmmap
from shmmap.testing import census, wait_until
from tests import functions

LIMIT_S = 5.0
"""What a fault may take: the call returns or raises within this time of it."""


def value_bytes(a: ArrayLike) -> bytes:
    """The bytes of an array's values in C order, without padding, which has no meaning."""
    a = np.ascontiguousarray(a)
    if a.dtype.names is not None:
        return b"".join(value_bytes(a[name]) for name in a.dtype.names)
    if a.dtype.char in "gG" and np.finfo(a.dtype).nmant == 63:
        # The 80-bit numbers of x86 fill 10 of their 16 bytes.
        return a.view(np.uint8).reshape(-1, 16)[:, :10].tobytes()
    return a.tobytes()


def assert_same(result: Any, expected: Any) -> None:
    """Assert that two results are equal in kind, shape, dtype and to the last bit."""
    if isinstance(expected, tuple | list):
        assert type(result) is type(expected)
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray | np.generic):
        assert isinstance(result, np.ndarray if isinstance(expected, np.ndarray) else np.generic)
        assert result.shape == expected.shape
        assert result.dtype == expected.dtype
        assert value_bytes(result) == value_bytes(expected)
    else:
        assert type(result) is type(expected)
        assert result == expected


@contextlib.contextmanager
def in_time(limit_s: float = LIMIT_S) -> Iterator[None]:
    """Assert that the block takes no longer than a fault may take, where it gets a core to run on."""
    waiting = census.waiting_per_core()
    started = time.monotonic()
    yield
    took_s = time.monotonic() - started
    assert took_s < limit_s * max(waiting, census.waiting_per_core())


def assert_next_map_works(engine: Any, workers: int | None = 2) -> None:
    """Assert that a fault left the engine in order."""
    for _ in range(2):
        result = shmmap.pmap(
            functions.double, np.arange(100), engine=engine, workers=workers, chunksize=1
        )
        assert_same(result, np.arange(100) * 2)
    if isinstance(engine, shmmap.Team):
        engine._team.validate()


# --- programs -----------------------------------------------------------------------------------


def run_python(
    *args: str, timeout_s: float = 60, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run this Python with the given arguments; its output is captured as text."""
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=timeout_s, **options
    )


def write_script(folder: Path, source: str) -> str:
    """Write a script, dedented, and return its path."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(source))
    return str(path)


def run_script(
    folder: Path, source: str, *args: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Write a script and run it."""
    return run_python(write_script(folder, source), *args, **options)


def start_script(folder: Path, source: str, *args: str, **options: Any) -> subprocess.Popen[str]:
    """Write a script and start it, in a process group of its own, as a shell would."""
    return subprocess.Popen(
        [sys.executable, write_script(folder, source), *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        **options,
    )


class Terminal:
    """A program that runs in a pseudo-terminal of its own, where Ctrl-C is Ctrl-C."""

    # A session leader gets the terminal by asking for it; the shell would have done so.
    _LAUNCH = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )

    def __init__(self, *args: str) -> None:
        self._ours, theirs = pty.openpty()
        attributes = termios.tcgetattr(theirs)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x28\0\xf0\0\0\0\0\0")
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._LAUNCH, *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=os.environ | {"TERM": "dumb", "PYTHON_BASIC_REPL": "1"},
        )
        os.close(theirs)
        self.text = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._ours)

    def write(self, text: str) -> None:
        """Type some text; ``"\\x03"`` is Ctrl-C and ``"\\x04"`` Ctrl-D."""
        os.write(self._ours, text.encode())

    def read_until(self, text: str, timeout_s: float = 20.0) -> str:
        """Read until some text has come; return, and forget, everything up to its end."""
        deadline = time.monotonic() + timeout_s
        while text not in self.text:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} never came, only {self.text!r}")
        before, _, self.text = self.text.partition(text)
        return before + text

    def read_to_end(self, timeout_s: float = 20.0) -> str:
        """Read until the program has ended, and wait for it; return the rest of its output."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline - time.monotonic()):
            pass
        self.process.wait(max(0.1, deadline - time.monotonic()))
        return self.text

    def _read(self, timeout_s: float) -> bool:
        if timeout_s <= 0 or not select.select([self._ours], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self._ours, 1 << 16)
        except OSError:  # every other end is closed
            return False
        self.text += data.decode().replace("\r\n", "\n")
        return bool(data)


# --- processes ----------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not just waiting to be waited for."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def wait_dead(*pids: int, timeout_s: float = LIMIT_S) -> None:
    """Wait until none of some processes is alive."""
    wait_until(lambda: not any(map(is_alive, pids)), timeout_s)


def process_tree(pid: int) -> set[int]:
    """A process and all its descendants."""
    tree = {pid}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
            tree.update(*(process_tree(int(child)) for child in children))
    return tree


def tree_pss(pid: int) -> int:
    """Summed proportional set size, in bytes, of a process and all its descendants."""
    total = 0
    for member in process_tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
    return total


def shared_memory_in_use() -> int:
    """Bytes of shared memory that this process and its descendants have mapped or hold open.

    Of what one of them holds open, only what has pages; of what is mapped and no more, all.
    """
    sizes: dict[tuple[str, int], int] = {}
    pids = process_tree(os.getpid())
    for pid in pids:
        for device, inode, nbytes in census.memory_of(str(pid)):
            sizes[device, inode] = max(nbytes, sizes.get((device, inode), 0))
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                status = descriptor.stat()
                device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
                if (device, status.st_ino) in sizes:
                    sizes[device, status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())


def descriptor_count() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))
