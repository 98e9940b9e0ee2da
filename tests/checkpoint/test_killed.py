"""A program with ``checkpoint=`` that is killed at any time, and run again, gives the right array."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests.helpers import assert_same, run_script, start_script, wait_dead

PROGRAM = """
    import os, sys
    import numpy as np
    import shmmap

    folder, engine, kind = sys.argv[1:4]
    x = np.arange(400 * 8.0).reshape(400, 8)

    def work(row, i):
        with open(folder + ".calls", "ab", 0) as calls:
            calls.write(b"%d " % i)
        end = 0.0
        for _ in range(300):
            end += row.sum()
        return (end, i) if kind == "tuple" else end

    def part(chunk, i):
        return work(chunk[0], i[0])

    option = shmmap.Checkpoint(folder, interval=0.02)
    options = dict(engine=engine, workers=2, chunksize=1, checkpoint=option)
    index = np.arange(400)
    if kind == "sum":
        result = shmmap.preduce(part, x, index, combine=lambda a, b: a + b, **options)
    else:
        result = shmmap.pmap(work, x, index, out=list if kind == "list" else None, **options)
    np.save(folder + ".npy", np.array(result))
    print("done")
"""


def expected(kind: str) -> np.ndarray:
    x = np.arange(400 * 8.0).reshape(400, 8)

    def end(row: np.ndarray) -> float:
        total = 0.0
        for _ in range(300):
            total += row.sum()
        return total

    ends = [end(row) for row in x]
    if kind == "sum":
        return np.array(shmmap.preduce(lambda c: c[0], ends, combine=lambda a, b: a + b, chunksize=1,
                                       engine="serial"))  # fmt: skip
    if kind == "tuple":
        return np.array([ends, list(range(400))])
    return np.array(ends)


def run_and_kill(tmp_path: Path, engine: str, kind: str, kills: int, seed: int) -> int:
    """Kill the program at random times, and let it end at last; how many calls of the function it took."""
    moments = random.Random(seed)
    folder = tmp_path / "run"
    args = (str(folder), engine, kind)
    calls = Path(f"{folder}.calls")
    for _ in range(kills):
        before = calls.stat().st_size if calls.exists() else 0
        more = moments.randrange(1, 400)
        program = start_script(tmp_path, PROGRAM, *args)
        try:
            wait_until(
                lambda program=program, end=before + more: (
                    program.poll() is not None or (calls.exists() and calls.stat().st_size > end)
                ),
                30,
                interval_s=0.001,
            )
            program.kill()
            _, err = program.communicate()
        finally:
            os.killpg(program.pid, signal.SIGKILL) if program.poll() is None else None
        assert "Mismatch" not in err and "damaged" not in err, err
    last = run_script(tmp_path, PROGRAM, *args)
    assert last.stdout == "done\n", last.stderr
    assert_same(np.load(f"{folder}.npy"), expected(kind))
    return len(calls.read_text().split())


@pytest.mark.few(2)
@pytest.mark.parametrize("engine", ["processes", "serial", "threads", "fork"])
@pytest.mark.parametrize("kind", ["array", "tuple", "list", "sum"])
def test_the_right_result_after_kills(tmp_path, engine, kind):
    run_and_kill(tmp_path, engine, kind, kills=3, seed=sum(map(ord, engine + kind)))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["array", "list", "sum"])
def test_many_kills(tmp_path, kind):
    for seed in range(14 if os.environ.get("SHMMAP_HEAVY") else 4):  # 210 kills, or 60
        folder = tmp_path / str(seed)
        folder.mkdir()
        run_and_kill(folder, "processes", kind, kills=5, seed=seed)


STEP_BY_STEP = """
    import os, sys, traceback
    import numpy as np
    import shmmap

    func = (lambda v: v * 2, lambda v: 1 if v < 20 else 1.5)[int(sys.argv[2])]
    x = np.arange(40.0)

    def run(folder, end_at=0):
        # In a child, which ends before one step. The system has all that was written up to there.
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        steps = 0

        def count(function):
            def step(*args, **kwargs):
                nonlocal steps
                steps += 1
                if steps == end_at:
                    os._exit(9)
                return function(*args, **kwargs)
            return step

        for name in ("fsync", "replace", "truncate", "open", "unlink"):
            setattr(os, name, count(getattr(os, name)))
        option = shmmap.Checkpoint(folder, if_changed="keep")
        try:
            result = shmmap.pmap(func, x, engine="serial", chunksize=4, checkpoint=option)
            assert np.array_equal(result, [func(v) for v in x])
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    # All is imported before the first fork.
    shmmap.pmap(func, x, engine="serial", checkpoint=os.path.join(sys.argv[1], "0"))
    for at in range(1, 100):
        folder = os.path.join(sys.argv[1], str(at))
        if run(folder, at) != 9:
            break
        assert run(folder) == 0, f"ended before step {at}"
    print(at)
"""


@pytest.mark.parametrize("kind", [0, 1], ids=["as it comes", "made wider"])
def test_it_may_end_at_every_step_of_a_save(tmp_path, kind):
    """A program that ends before any one step has the right result when it is run again."""
    program = run_script(tmp_path, STEP_BY_STEP, str(tmp_path), str(kind))
    assert program.returncode == 0, program.stderr
    assert int(program.stdout) > 10


def test_what_is_named_was_on_the_disk_before(tmp_path, monkeypatch):
    """The order that outlives a power failure, by what is asked of the system."""
    steps: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(fd):
        steps.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
        fsync(fd)

    def note_replace(source, target):
        steps.append(("replace", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    folder = tmp_path / "run"
    shmmap.pmap(lambda v: v * 2, np.arange(10.0), checkpoint=folder, engine="serial")
    save = [("fsync", "ledger.new"), ("replace", "ledger"), ("fsync", "run")]
    assert steps[:3] == save
    assert steps[3:] == [("fsync", "out.npy"), ("fsync", "pieces"), *save]


def test_a_worker_that_is_killed_ends_nothing(tmp_path, team):
    pids = shmmap.zeros(2, np.int64)

    def work(v):
        if v == 13 and not pids[0]:
            pids[0] = os.getpid()
            os.kill(os.getpid(), signal.SIGKILL)
        return v * 2

    for _ in range(2):
        option = shmmap.Checkpoint(tmp_path / "run", if_changed="keep")
        result = shmmap.pmap(work, np.arange(50), checkpoint=option, engine=team, chunksize=2)
        assert_same(np.asarray(result), np.arange(50) * 2)


def test_an_interrupted_map_of_workers_is_saved(tmp_path, team):
    """Each time anew, and what an earlier run has done stays done."""
    folder = tmp_path / "run"
    is_last = shmmap.zeros(1)
    calls = shmmap.zeros(60, np.int64)

    def work(i):
        calls[i] += 1
        time.sleep(0.01)  # long enough for chunks to be told of one by one
        if not is_last[0] and (i in (20, 45) and calls[i] == 1):
            os.kill(caller, signal.SIGINT)
            signal.pause()
        return i * 2

    caller = os.getpid()
    option = shmmap.Checkpoint(folder, if_changed="keep")
    done = 0
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            shmmap.pmap(work, np.arange(60), checkpoint=option, engine=team, chunksize=1)
        marks = (folder / "ledger").read_bytes().partition(b"\n")[2]
        assert sum(mark & 1 for mark in marks) > done
        done = sum(mark & 1 for mark in marks)
    is_last[0] = 1
    calls[:] = 0
    result = shmmap.pmap(work, np.arange(60), checkpoint=option, engine=team, chunksize=1)
    assert_same(np.asarray(result), np.arange(60) * 2)
    assert calls.sum() == 60 - done


@pytest.mark.parametrize("engine", ["processes", "threads", "fork"])
def test_lists_are_saved_while_the_map_runs(tmp_path, engine):
    """What workers have handed over, though few results are far from filling a shelf."""
    ledger = tmp_path / "run" / "ledger"

    def done() -> int:
        return sum(map(bool, ledger.read_bytes().partition(b"\n")[2]))

    def work(i):
        time.sleep(0.005)  # long enough for chunks to be told of a few at a time
        if i == 19:
            wait_until(lambda: done() > 9, 20)
        return str(i)

    option = shmmap.Checkpoint(tmp_path / "run", interval=0.01)
    options = dict(engine=engine, workers=1, chunksize=1, checkpoint=option)
    assert shmmap.pmap(work, range(20), **options) == [str(i) for i in range(20)]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_has_it_saved(tmp_path, sign):
    """A batch system asks before it kills: what is done by then is not done again."""
    source = """
        import os, sys, time
        import numpy as np
        import shmmap

        def work(v):
            print(int(v), flush=True)
            if v == 30 and len(sys.argv) > 2:
                time.sleep(60)
            return v * 2

        result = shmmap.pmap(work, np.arange(40.0), engine="serial", chunksize=5, checkpoint=sys.argv[1])
        assert result.tolist() == [2.0 * v for v in range(40)]
    """
    folder = str(tmp_path / "run")
    program = start_script(tmp_path, source, folder, "stop")
    assert program.stdout is not None
    for line in program.stdout:
        if line == "30\n":
            break
    program.send_signal(sign)
    _, err = program.communicate(timeout=20)
    assert program.returncode == -sign, err
    wait_dead(program.pid)
    again = run_script(tmp_path, source, folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == [str(v) for v in range(30, 40)]
