"""Limits of the process and the system that an allocation meets: another way, or the reason (E7, C19)."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from tests.helpers import run_python, run_script

ENGINES = ["serial", "threads", "processes", "fork"]

CAN_FILTER = sys.platform == "linux" and platform.machine() == "x86_64"
FORBID = """
import ctypes, struct

def forbid(number, error):
    '''Have a call of the system fail in this process and its children, as a sandbox does.'''
    instructions = b"".join(
        struct.pack("HBBI", *each)
        for each in (
            (0x20, 0, 0, 0),                     # load the call's number
            (0x15, 0, 1, number),                # is it this one?
            (0x06, 0, 0, 0x00050000 | error),    # fail
            (0x06, 0, 0, 0x7FFF0000),            # allow
        )
    )
    kept = ctypes.create_string_buffer(instructions)
    program = struct.pack("HxxxxxxP", 4, ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    if libc.prctl(22, 2, program, 0, 0):
        raise SystemExit(44)
"""
FALLOCATE, MEMFD_CREATE = 285, 319  # of x86_64


@pytest.mark.parametrize("disposition", ["SIG_IGN", "SIG_DFL"])
@pytest.mark.parametrize("size", [1 << 17, 1 << 21])
def test_limit_on_the_size_of_files(disposition: str, size: int, tmp_path: Path) -> None:
    """E7: shared memory is a file to the system. Never SIGXFSZ, also where it has its default action."""
    done = run_script(
        tmp_path,
        f"""
        import resource, signal, shmmap
        signal.signal(signal.SIGXFSZ, signal.{disposition})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
        for make in (shmmap.zeros, shmmap.empty):
            try:
                make({size}, "u1")
            except MemoryError as error:
                print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 25, resource.RLIM_INFINITY))
        print(shmmap.zeros({size}, "u1").sum())
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second, last = done.stdout.splitlines()
    assert first == second
    # Small arrays share a segment of 4 MiB.
    assert (
        "bytes of shared memory wanted, 65,536 available in this process's limit on the size of a file"
        in first
    )
    assert first.endswith("raise it (ulimit -f)")
    assert last == "0"


@pytest.mark.parametrize("engine", ENGINES)
def test_map_under_a_limit_on_the_size_of_files(engine: str, tmp_path: Path) -> None:
    """Inputs, results and items that are too large, on every engine; a later map works."""
    done = run_script(
        tmp_path,
        f"""
        import resource, numpy as np, shmmap
        big = np.zeros((1 << 16, 40))
        print(shmmap.pmap(abs, [-1, -2], engine="{engine}", workers=2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 24, resource.RLIM_INFINITY))
        try:
            shmmap.pmap_chunks(np.copy, big, engine="{engine}", workers=2)
        except MemoryError as error:
            print("ulimit -f" in str(error))
        print(shmmap.pmap(abs, [-1, -2], engine="{engine}", workers=2))
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["[1, 2]", "True", "[1, 2]"]


def test_output_in_a_file_that_may_not_be_so_large(tmp_path: Path) -> None:
    """The kind's other member: what is reserved on a disk; there the system says so."""
    source = f"""
        import resource, numpy as np, shmmap
        np.save({str(tmp_path / "in.npy")!r}, np.zeros((2000, 64)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, resource.RLIM_INFINITY))
        import sys
        from shmmap._cli import main
        sys.exit(main(["map", "numpy.negative", {str(tmp_path / "in.npy")!r}, {str(tmp_path / "out.npy")!r},
                       "--engine", "serial"]))
    """
    done = run_script(tmp_path, source)
    assert done.returncode == 2
    assert (
        "1,024,000 bytes are more than a file may have here; ulimit -f shows the limit"
        in done.stderr
    )
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.skipif(not CAN_FILTER, reason="needs the numbers of the system's calls")
@pytest.mark.parametrize("error", [1, 38, 95], ids=["EPERM", "ENOSYS", "EOPNOTSUPP"])
@pytest.mark.parametrize("forbidden", [(FALLOCATE,), (MEMFD_CREATE,), (FALLOCATE, MEMFD_CREATE)])
def test_calls_that_a_sandbox_forbids(
    forbidden: tuple[int, ...], error: int, tmp_path: Path
) -> None:
    """C19; kind: a call of the system that is refused. Memory is reserved, and made, by another way."""
    done = run_script(
        tmp_path,
        FORBID
        + f"""
for number in {forbidden!r}:
    forbid(number, {error})
import numpy as np, shmmap
a = shmmap.zeros((300, 1000))
print(shmmap.pmap(np.sum, a + 1, workers=2).sum(), shmmap.pmap(abs, [-1, -2], workers=2))
with shmmap.Team(2, start="fork") as team:
    print(shmmap.pmap_chunks(np.sqrt, a, engine=team).shape)
""",
    )
    if done.returncode == 44:
        pytest.skip("no filter may be set")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "300000.0 [1, 2]\n(300, 1000)\n"


@pytest.mark.skipif(not CAN_FILTER, reason="needs the numbers of the system's calls")
@pytest.mark.parametrize("error", [1, 11, 38], ids=["EPERM", "EAGAIN", "ENOSYS"])
def test_processes_that_a_sandbox_forbids(error: int, tmp_path: Path) -> None:
    """C19: no process can be started. It ends with the reason, and other engines work."""
    done = run_script(
        tmp_path,
        FORBID
        + f"""
import numpy as np, shmmap, traceback
for number in (56, 57, 58, 435):  # clone, fork, vfork, clone3
    forbid(number, 1 if {error} == 11 and number == 435 else {error})
for engine in ("processes", "fork"):
    try:
        shmmap.pmap(abs, [-1, -2], workers=2, engine=engine)
    except OSError as exc:
        text = "".join(traceback.format_exception_only(exc))
        print("engine='serial'" in text or "raise their limit (ulimit -u" in text)
print(shmmap.pmap(abs, [-1, -2], engine="serial"))
""",
        # OpenBLAS starts its threads anew after a fork, and interrupts the program where it cannot.
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    if done.returncode == 44:
        pytest.skip("no filter may be set")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\nTrue\n[1, 2]\n"


def test_no_descriptor_left(tmp_path: Path) -> None:
    """The kind's other member: EMFILE, from allocating and from starting a team."""
    done = run_python(
        "-c",
        "import resource, numpy as np, shmmap\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (30, 4096))\n"
        "kept = []\n"
        "try:\n"
        "    for _ in range(100):\n"
        "        kept.append(shmmap.zeros(1 << 21, 'u1'))\n"
        "except OSError as error:\n"
        "    print('ulimit -n' in str(error))\n"
        "try:\n"
        "    shmmap.pmap(abs, [-1], workers=1)\n"
        "except OSError as error:\n"
        "    print('ulimit -n' in str(error) + ''.join(getattr(error, '__notes__', [])))\n"
        "kept.clear()\n"
        "print(shmmap.pmap(abs, [-1], workers=1))\n",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "True\nTrue\n[1]\n"
