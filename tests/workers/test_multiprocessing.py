"""What `multiprocessing` gives its children, workers have too: its tracker and its key."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

import shmmap
from tests.helpers import run_python, run_script, wait_dead, write_script

SOURCE = str(Path(shmmap.__file__).parents[1])
STARTS = ("clean", "fork")

NAMED = """
import os, signal, sys
from multiprocessing.shared_memory import SharedMemory

import shmmap, shmmap.testing

def attach(name):
    block = SharedMemory(name)
    block.buf[0] += 1
    block.close()

def create(_):
    block = SharedMemory(create=True, size=80)
    block.buf[0] = 7
    block.close()
    return block.name

def value(name):
    block = SharedMemory(name)
    result = block.buf[0]
    block.close()
    block.unlink()
    return result

def die(_):
    os._exit(3)

start = sys.argv[1]
"""
"""A program that begins like this says nothing on stderr if nothing of the user's is destroyed."""


@pytest.mark.few(2)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("end", ["shutdown", "replaced", "idle", "end of program"])
def test_named_memory_of_the_caller_lives(tmp_path: Path, start: str, end: str) -> None:
    """A6: a block that workers attach by name, however the worker ends that did."""
    done = run_script(
        tmp_path,
        NAMED
        + """
own = SharedMemory(create=True, size=80)
team = shmmap.Team(1, start=start, idle_timeout=0.05 if sys.argv[2] == "idle" else None)
team.submit(attach, own.name).result()
if sys.argv[2] == "replaced":
    try:
        team.submit(die, 0).result()
    except shmmap.WorkerDied:
        pass
    team.submit(attach, own.name).result()
elif sys.argv[2] == "idle":
    shmmap.testing.wait_until(lambda: "1 running" not in repr(team))
elif sys.argv[2] == "shutdown":
    team.shutdown()
else:
    import atexit
    atexit.register(lambda: (team.shutdown(), print(value(own.name))))
    sys.exit()
print(value(own.name))
team.shutdown()
""",
        start,
        end,
    )
    assert (done.stdout, done.stderr) == ("2\n" if end == "replaced" else "1\n", "")


@pytest.mark.parametrize("start", STARTS)
def test_named_memory_of_a_worker_lives(tmp_path: Path, start: str) -> None:
    """A6: created in a worker, its name returned, by a caller that has never used `multiprocessing`."""
    done = run_script(
        tmp_path,
        """
import sys
import shmmap

def create(_):
    from multiprocessing.shared_memory import SharedMemory
    block = SharedMemory(create=True, size=80)
    block.buf[0] = 7
    block.close()
    return block.name

with shmmap.Team(2, start=sys.argv[1]) as team:
    assert "multiprocessing" not in sys.modules
    names = shmmap.pmap(create, [0, 1], engine=team) + [team.submit(create, 0).result()]
from multiprocessing.shared_memory import SharedMemory
for name in names:
    block = SharedMemory(name)
    print(block.buf[0])
    block.close()
    block.unlink()
""",
        start,
    )
    assert (done.stdout, done.stderr) == ("7\n7\n7\n", "")


@pytest.mark.parametrize("start", STARTS)
def test_after_the_tracker_was_killed(tmp_path: Path, start: str) -> None:
    """A6: the caller starts another one, of which Python warns, and workers take that."""
    done = run_script(
        tmp_path,
        NAMED
        + """
from multiprocessing import resource_tracker
resource_tracker.ensure_running()
with shmmap.Team(1, start=start) as team:
    first = team.submit(create, 0).result()
    pid = resource_tracker._resource_tracker._pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    second = team.submit(create, 0).result()
    team.submit(attach, second).result()
print(value(first), value(second))
""",
        start,
    )
    assert done.stdout == "7 8\n"
    assert "leaked" not in done.stderr


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_semaphores_made_in_a_worker(tmp_path: Path, start: str, method: str) -> None:
    """A6: locks and queues work, and are gone with their worker, without a word."""
    done = run_script(
        tmp_path,
        """
import multiprocessing, os, sys
import shmmap

def use(method):
    context = multiprocessing.get_context(method)
    lock, queue = context.Lock(), context.Queue()
    with lock:
        queue.put(5)
    return queue.get()

with shmmap.Team(2, start=sys.argv[1]) as team:
    print(shmmap.pmap(use, [sys.argv[2]] * 2, engine=team))
# Those of loky are other programs', as it is not imported here.
print([name for name in os.listdir("/dev/shm") if name.startswith("sem.mp")])
""",
        start,
        method,
    )
    assert (done.stdout, done.stderr) == ("[5, 5]\n[]\n", "")


@pytest.mark.parametrize("start", STARTS)
def test_manager(tmp_path: Path, start: str) -> None:
    """C2: what is known by `authkey` works in verbs, `submit` and the initializer, also once it changes."""
    done = run_script(
        tmp_path,
        """
import multiprocessing, sys
import shmmap

def put(queue, v):
    queue.put(v)

with multiprocessing.Manager() as manager:
    queue = manager.Queue()
    with shmmap.Team(2, start=sys.argv[1], initializer=queue.put, initargs=("hello",)) as team:
        shmmap.pmap(lambda v: queue.put(v), range(4), engine=team)
        shmmap.pmap_ranges(lambda a, b: queue.put((a, b)), 2, engine=team, chunksize=1)
        team.submit(queue.put, "submitted").result()
        list(team.map(lambda v: queue.put(v), ["mapped"]))
        print(sorted(str(queue.get()) for _ in range(queue.qsize())))
        multiprocessing.current_process().authkey = b"another one"
        with multiprocessing.Manager() as other:
            values = other.dict()
            shmmap.pmap(lambda v: values.__setitem__(v, v * v), range(4), engine=team)
            print(sorted(values.items()))
""",
        start,
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == str(
        sorted(["0", "1", "2", "3", "(0, 1)", "(1, 2)", "submitted", "mapped", "hello", "hello"])
    )
    assert second == "[(0, 0), (1, 1), (2, 4), (3, 9)]"


@pytest.mark.parametrize("start", STARTS)
def test_manager_made_in_a_worker(tmp_path: Path, start: str) -> None:
    """C2: the key is the same before the caller has imported `multiprocessing`."""
    done = run_script(
        tmp_path,
        """
import sys
import shmmap

def begin():
    import multiprocessing
    global manager, proxy
    manager = multiprocessing.Manager()
    proxy = manager.list([1, 2, 3])
    return proxy

def end():
    manager.shutdown()

with shmmap.Team(1, start=sys.argv[1]) as team:
    proxy = team.submit(begin).result()
    print(list(proxy))
    team.submit(end).result()
""",
        start,
    )
    assert (done.stdout, done.stderr) == ("[1, 2, 3]\n", "")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_standard_descriptors(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """Standard input is empty and there is one, whatever the caller has closed; what is printed comes out."""
    run_script(
        tmp_path,
        f"""
import os, sys
import shmmap

for fd in {closed}:
    os.close(fd)

def look(_):
    return sys.stdin.read(), os.read(0, 1), [os.fstat(0).st_rdev == os.stat("/dev/null").st_rdev]

with shmmap.Team(1) as team:
    result = shmmap.pmap(look, [0], engine=team)
with open({str(tmp_path / "out")!r}, "w") as file:
    print(result, file=file)
os._exit(0)
""",
    )
    assert (tmp_path / "out").read_text() == "[('', b'', [True])]\n"


def test_ignored_child_signals(tmp_path: Path) -> None:
    """C8: `SIGCHLD` is ignored, by the program or by who started it; causes of death are known."""
    done = run_script(
        tmp_path,
        """
import os, signal
import shmmap

signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def die(i):
    os.kill(os.getpid(), signal.SIGSEGV)

def status(_):
    import subprocess
    return subprocess.run(["false"]).returncode

with shmmap.Team(1) as team:
    print(shmmap.pmap(status, [0], engine=team))
    try:
        shmmap.pmap(die, [0], engine=team)
    except shmmap.WorkerDied as error:
        print("SIGSEGV" in str(error))
""",
    )
    assert (done.stdout, done.stderr) == ("[1]\nTrue\n", "")


@pytest.mark.parametrize("start", STARTS)
def test_ignored_hangups_stay_ignored(tmp_path: Path, start: str) -> None:
    """C8, its kind: under `nohup` a worker, too, lives on when the terminal goes; others end."""
    done = run_script(
        tmp_path,
        """
import os, signal, sys
import shmmap

signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: None)

def hang_up(_):
    os.kill(os.getpid(), signal.SIGHUP)
    return signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

with shmmap.Team(1, start=sys.argv[1]) as team:
    print(shmmap.pmap(hang_up, [0], engine=team))
""",
        start,
    )
    assert (done.stdout, done.stderr) == ("[True]\n", "")


FLAGS = [
    ["-I"],
    ["-E"],
    ["-s"],
    ["-S"],
    ["-P"],
    ["-B"],
    ["-b"],
    ["-OO"],
    ["-X", "utf8"],
    ["-X", "dev"],
    ["-W", "ignore"],
]


@pytest.mark.few(3)
@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_interpreter_flags(tmp_path: Path, flags: list[str]) -> None:
    """C16, its kind: workers are started as the caller was."""
    source = """
import sys
sys.path.append(sys.argv[1])
import shmmap

def look(_):
    import sys, warnings
    return tuple(sys.flags), sys.warnoptions, bool(__debug__)

with shmmap.Team(1) as team:
    assert shmmap.pmap(look, [0], engine=team) == [look(0)], (look(0))
"""
    site = str(Path(np.__file__).parents[1])
    path = write_script(tmp_path, source)
    if "-S" in flags:
        path = write_script(tmp_path, f"import sys; sys.path += [{SOURCE!r}]\n{source}")
    done = run_python(*flags, path, site)
    assert (done.returncode, done.stderr) == (0, "")


REFUSE = """
import fcntl

real = fcntl.fcntl

def refuse(fd, command, *args):
    if command == 10:  # F_SETSIG
        raise OSError(22, "Invalid argument")
    return real(fd, command, *args)

fcntl.fcntl = refuse
"""


@pytest.mark.parametrize("start", STARTS)
def test_a_kernel_that_sends_no_other_signal(tmp_path: Path, start: str) -> None:
    """F4: `F_SETSIG` is refused; a worker that holds the GIL ends all the same when its caller is killed."""
    (tmp_path / "refuse.py").write_text(REFUSE)
    ready = tmp_path / "ready"
    done = run_script(
        tmp_path,
        """
import ctypes, os, signal, sys
import shmmap

def hold(_):
    with open(sys.argv[2] + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(file.name, sys.argv[2])
    ctypes.PyDLL(None).sleep(60)

if sys.argv[1] == "fork":
    import refuse
    team = shmmap.Team(1, start="fork")
else:
    team = shmmap.Team(1, preload=["refuse"])
team.submit(hold, 0)
while not os.path.exists(sys.argv[2]):
    pass
os.kill(os.getpid(), signal.SIGKILL)
""",
        start,
        str(ready),
    )
    assert done.returncode == -signal.SIGKILL
    wait_dead(int(ready.read_text()))
