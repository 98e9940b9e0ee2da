"""Faults 29 and 39: the user forks, with live arrays and a live team, from any thread, also inside a map."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import (
    run_script,
)

from .common import run_program


class Test29UserForks:
    """`os.fork` by the user, with live arrays and a live team; also inside a map."""

    @pytest.mark.slow
    @pytest.mark.parametrize("start", ["clean", "fork"])
    @pytest.mark.parametrize("leave", ["os._exit", "sys.exit", "crash", "exec"])
    def test_child_leaves(self, tmp_path: Path, start: str, leave: str) -> None:
        printed = run_program(
            tmp_path,
            """
            a = shmmap.asshared(np.arange(1000))
            team = shmmap.Team(workers=2, start=sys.argv[1])
            works(engine=team)
            for _ in range(3):
                pid = os.fork()
                if not pid:
                    if sys.argv[2] == "os._exit":
                        os._exit(0)
                    elif sys.argv[2] == "sys.exit":
                        sys.exit(0)
                    elif sys.argv[2] == "crash":
                        os.kill(os.getpid(), 9)
                    os.execv("/bin/true", ["true"])
                os.waitpid(pid, 0)
                works(engine=team)
                assert shmmap.preduce(np.sum, a, engine=team) == 499500
            team.shutdown()
            print("unharmed")
            """,
            start,
            leave,
        )
        assert printed == "unharmed\n"

    @pytest.mark.slow
    def test_childs_own_map_and_writes(self, tmp_path: Path) -> None:
        """The child's arrays are the parent's, its teams its own; an old team says why not."""
        printed = run_program(
            tmp_path,
            """
            a = shmmap.asshared(np.arange(100))
            team = shmmap.Team(workers=2)
            works(engine=team)
            works()
            pid = os.fork()
            if not pid:
                works()
                with shmmap.Team(workers=2) as own:
                    works(engine=own)
                    shmmap.pmap_chunks(lambda c: c + 1, a, out=a, engine=own)
                try:
                    works(engine=team)
                except RuntimeError as error:
                    assert "fork" in str(error), error
                    sys.exit(0)
                sys.exit(1)
            assert os.waitpid(pid, 0)[1] == 0
            assert (a == np.arange(1, 101)).all()
            works(engine=team)
            works()
            team.shutdown()
            print("both")
            """,
        )
        assert printed == "both\n"

    def test_small_arrays_of_parent_and_child_do_not_mix(self, tmp_path: Path) -> None:
        """Both go on making small arrays after the fork: no byte of one shows in the other."""
        printed = run_program(
            tmp_path,
            """
            kept = [shmmap.full(100, i) for i in range(20)]
            pid = os.fork()
            mine = [shmmap.full(100, -1.0 if pid else -2.0) for _ in range(200)]
            if not pid:
                del kept
            works()
            assert all((each == (-1 if pid else -2)).all() for each in mine)
            if not pid:
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert all((each == i).all() for i, each in enumerate(kept))
            assert all((each == -1).all() for each in mine)
            print("apart")
            """,
        )
        assert printed == "apart\n"

    @pytest.mark.slow
    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_while_a_map_runs_in_another_thread(self, tmp_path: Path, start: str) -> None:
        printed = run_program(
            tmp_path,
            """
            import threading
            team = shmmap.Team(workers=2, start=sys.argv[1])
            works(engine=team)
            stop = threading.Event()
            wrong = []
            def run():
                while not stop.is_set():
                    try:
                        works(engine=team)
                    except BaseException as error:
                        wrong.append(error)
            thread = threading.Thread(target=run)
            thread.start()
            for _ in range(30):
                pid = os.fork()
                if not pid:
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
            stop.set()
            thread.join()
            assert not wrong, wrong
            team.shutdown()
            print("unharmed")
            """,
            start,
        )
        assert printed == "unharmed\n"


def test_39_child_reads_right_after_the_parent_dropped_the_array(tmp_path: Path) -> None:
    printed = run_program(
        tmp_path,
        """
        b = shmmap.full(1 << 20, 7)
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.read(read, 1)
            os._exit(0 if (b == 7).all() else 1)
        del b
        others = [shmmap.full(1 << 20, 9) for _ in range(4)]
        shmmap.pmap_chunks(np.negative, others[0])
        os.write(write, b"x")
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
    )
    assert printed == "0\n"


FORKS = """
    import os, threading, time, warnings
    import numpy as np, shmmap

    warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads: people do it all the same
    x = shmmap.asshared(np.arange(1000.0))

    def fork_and_map():
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = int(not np.array_equal(shmmap.pmap_chunks(np.sqrt, x, workers=2), np.sqrt(x)))
            finally:
                os._exit(status)
        return os.waitpid(pid, 0)[1]

    statuses = []

    def keep_forking():
        while not is_over:
            statuses.append(fork_and_map())

    is_over = False
    forker = threading.Thread(target=keep_forking)
    forker.start()
    maps = 0
    while len(statuses) < 3 or maps < 20:
        assert np.array_equal(shmmap.pmap_chunks(np.sqrt, x, workers=2), np.sqrt(x))
        assert shmmap.pmap(str, [1, 2], workers=2) == ["1", "2"]
        maps += 1
    is_over = True
    forker.join()
    assert not any(statuses), statuses
"""


def test_29_forks_in_a_thread_while_maps_run(tmp_path: Path) -> None:
    """Of a process that is in the middle of something; each child maps by itself."""
    done = run_script(tmp_path, FORKS)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


LEAVES = """
    import os, sys, warnings
    import shmmap

    warnings.simplefilter("ignore", DeprecationWarning)
    parent = os.getpid()

    def fork(done, total):
        if os.getpid() == parent and done:
            if os.fork() == 0:
                sys.exit(7)
            print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)

    print(shmmap.pmap(abs, [1, -2], workers=2, progress=fork))
"""


def test_29_a_child_that_leaves_in_the_middle_of_a_map(tmp_path: Path) -> None:
    """Forked by a callback; the map is its parent's, and goes on."""
    done = run_script(tmp_path, LEAVES)
    *codes, result = done.stdout.splitlines()
    assert codes and set(codes) == {"7"}, done.stderr
    assert (result, done.returncode, done.stderr) == ("[1, 2]", 0, "")


FORK_MAPS = """
    import threading
    import numpy as np, shmmap

    x = shmmap.asshared(np.arange(64.0))

    def keep_mapping():
        for _ in range(30):
            assert np.array_equal(shmmap.pmap_chunks(np.sqrt, x, engine="fork", workers=2), np.sqrt(x))

    threads = [threading.Thread(target=keep_mapping) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


@pytest.mark.slow
def test_29_fork_maps_in_several_threads(tmp_path: Path) -> None:
    """Each forks this process while the others open and close what belongs to their teams."""
    done = run_script(tmp_path, FORK_MAPS)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
