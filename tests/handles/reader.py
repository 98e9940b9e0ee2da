"""A program that knows nothing of the tests: it opens handles from its standard input, and looks at them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

import numpy as np

import shmmap
from shmmap._memory import leases


def look(handle: Any) -> tuple[Any, ...]:
    """What of an array must be the same everywhere."""
    a = handle.array()
    assert a.flags.c_contiguous or a.strides is not None
    plain = np.ma.getdata(a)
    return (
        type(a).__name__,
        a.shape,
        plain.strides,
        a.dtype,
        plain.flags.writeable,
        shmmap.is_shared(a) or a.size == 0,
        a.tolist() if a.dtype.kind != "V" else a.tobytes(),
    )


def fill(handle: Any, value: Any) -> None:
    handle.array()[...] = value


def keep(handle: Any) -> int:
    kept.append(handle)
    return len(kept)


def drop() -> None:
    """Let go of everything, also of what is kept for handles that have come back."""
    kept.clear()
    leases.leases.end_arrived()


def read(at: int) -> Any:
    return kept[at].array().copy()


def send_back(at: int = -1) -> Any:
    return kept[at]


def map_there(handle: Any) -> Any:
    """Through a team of this program's own, in place."""
    a = handle.array()
    shmmap.pmap_ranges(lambda i, j: np.add(a[i:j], 1, a[i:j]), len(a), workers=2, chunksize=1)
    shmmap.shutdown()


def counts() -> tuple[int, int]:
    """Descriptors, and mappings of shared memory."""
    with open("/proc/self/maps") as maps:
        mapped = sum("shmmap-" in line or "memfd:shmmap" in line for line in maps)
    return len(os.listdir("/proc/self/fd")), mapped


kept: list[Any] = []


class Reader:
    """The program, seen from a test: `reader(look, handle)` calls a function of this file there."""

    def __init__(self, *prefix: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.handles.reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **options,
        )

    def __call__(self, func: Any, *args: Any) -> Any:
        return self.send(pickle.dumps((func.__name__, args)))

    def send(self, data: bytes) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()
        result = pickle.load(self.process.stdout)
        if isinstance(result, BaseException):
            raise result
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self.process:
            self.process.kill()


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            name, args = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            result = globals()[name](*args)
        except Exception as exc:
            result = exc
        pickle.dump(result, out)
        del result, args  # or they would keep arrays until the next call
        out.flush()


if __name__ == "__main__":
    main()
