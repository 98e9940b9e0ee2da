"""How a program ends: what was submitted is finished, a Ctrl-C ends the waiting, and nothing hangs."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import in_time, run_script

BEGIN = """
import os, sys, time
import numpy as np, shmmap

def letter(i):
    time.sleep(0.05)
    with open(sys.argv[1], "a") as file:
        file.write("abcdefgh"[int(i)])

def slow(i):
    print("running", flush=True)
    time.sleep(60)

start = "{start}"
"""


def run(
    tmp_path: Path, source: str, *args: str, start: str = "clean"
) -> subprocess.CompletedProcess[str]:
    """Run a program that writes letters to its first argument."""
    begin = BEGIN.format(start=start)
    return run_script(
        tmp_path, begin + textwrap.dedent(source), str(tmp_path / "letters"), *args, timeout_s=30
    )


def letters(tmp_path: Path) -> str:
    """What was written, in order of the alphabet."""
    path = tmp_path / "letters"
    return "".join(sorted(path.read_text())) if path.exists() else ""


PENDING = {
    "submit": "futures = [team.submit(letter, i) for i in range(5)]",
    "futures dropped": "for i in range(5): team.submit(letter, i)",
    "shutdown": "for i in range(5): team.submit(letter, i)\nteam.shutdown(wait=False)",
    "dropped": "for i in range(5): team.submit(letter, i)\ndel team",
    "in a cycle": "team.me = team\nfor i in range(5): team.submit(letter, i)\ndel team",
    "map": "results = team.map(letter, range(5))",
    "map dropped": "team.map(letter, range(5))",
    "map and shutdown": "results = team.map(letter, range(5))\nteam.shutdown(wait=False)",
    "map over an iterator": "results = team.map(letter, iter(range(5)), buffersize=8)",
    "map begun": "results = team.map(letter, range(5), chunksize=1)\nnext(results)",
    "default team": "work = shmmap.pmap(letter, range(5), workers=2, wait=False)",
    "default team, dropped": "shmmap.pmap(letter, range(5), workers=2, wait=False)",
    "two maps": "for part in (range(3), range(3, 5)): shmmap.pmap(letter, part, workers=1, wait=False)",
    "iterator": "shmmap.pmap(letter, iter(range(5)), workers=2, wait=False)",
    "fork": "shmmap.pmap(letter, range(5), engine='fork', workers=2, wait=False)",
    "threads": "shmmap.pmap(letter, range(5), engine='threads', workers=2, wait=False)",
    "serial": "shmmap.pmap(letter, range(5), engine='serial', wait=False)",
    "other executor": "import concurrent.futures as c; pool = c.ThreadPoolExecutor(1)\n"
    "shmmap.pmap(letter, range(5), engine=pool, wait=False)",
}


class TestNormalEnd:
    """A7: everything submitted and pending at a normal end of the program is finished."""

    @pytest.mark.few(4)
    @pytest.mark.parametrize("pending", PENDING.values(), ids=PENDING)
    def test_all_is_done(self, tmp_path: Path, pending: str) -> None:
        done = run(tmp_path, "team = shmmap.Team(1)\n" + pending)
        assert (done.returncode, done.stderr) == (0, "")
        assert letters(tmp_path) == "abcde"

    @pytest.mark.parametrize("pending", ["submit", "map dropped", "dropped"])
    def test_with_forked_workers(self, tmp_path: Path, pending: str) -> None:
        source = "team = shmmap.Team(2, start='fork')\n" + PENDING[pending]
        done = run(tmp_path, source, start="fork")
        assert (done.returncode, done.stderr) == (0, "")
        assert letters(tmp_path) == "abcde"

    def test_an_executor_that_was_imported_later(self, tmp_path: Path) -> None:
        """Its module has registered its end after this library, and is asked first; the map is late."""
        source = """
            team = shmmap.Team(1)
            import concurrent.futures.thread, threading
            def begin():
                ending.wait()
                yield from range(5)
            ending = threading.Event()
            pool = concurrent.futures.ThreadPoolExecutor(1)
            pool.submit(int).result()  # so that it has its thread: Python starts none any more by then
            shmmap.pmap(letter, begin(), engine=pool, wait=False)
            threading._register_atexit(ending.set)
            """
        done = run(tmp_path, source)
        assert (done.returncode, done.stderr) == (0, "")
        assert letters(tmp_path) == "abcde"

    def test_output_in_a_file(self, tmp_path: Path) -> None:
        """`pmap(out=memmap, wait=False)`: what nobody waits for is in the file all the same."""
        source = """
            out = np.lib.format.open_memmap(sys.argv[2], "w+", "f8", (4,))
            def late(i):
                time.sleep(0.2)
                return i + 1.0
            shmmap.pmap(late, range(4), out=out, workers=2, chunksize=1, wait=False)
            """
        import numpy as np

        done = run(tmp_path, source, str(tmp_path / "out.npy"))
        assert (done.returncode, done.stderr) == (0, "")
        assert np.load(tmp_path / "out.npy").tolist() == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("end", "code"), [("sys.exit(3)", 3), ("raise LookupError('odd')", 1), ("exit()", 0)]
    )
    def test_by_exceptions(self, tmp_path: Path, end: str, code: int) -> None:
        """They are normal ends, as for ProcessPoolExecutor."""
        done = run(tmp_path, f"team = shmmap.Team(1)\n{PENDING['submit']}\n{end}")
        assert done.returncode == code
        assert done.stderr.count("Traceback") == ("raise" in end)
        assert letters(tmp_path) == "abcde"

    def test_a_worker_dies_meanwhile(self, tmp_path: Path) -> None:
        """Others take its place even now, when Python starts no threads and forks no more."""
        source = """
            team = shmmap.Team(1, start="{start}")
            team.submit(abs, 1).result()
            team.submit(os._exit, 3)
            for i in range(3):
                team.submit(letter, i)
            """
        done = run(tmp_path, source.replace("{start}", "clean"))
        assert (done.returncode, done.stderr) == (0, "")
        assert letters(tmp_path) == "abc"
        # A forked worker cannot be replaced any more; but nothing waits for ever.
        done = run(tmp_path, source.replace("{start}", "fork"))
        assert (done.returncode, done.stderr) == (0, "")

    def test_callbacks_are_called(self, tmp_path: Path) -> None:
        source = """
            team = shmmap.Team(1)
            team.submit(abs, -7).add_done_callback(lambda future: print("got", future.result()))
            work = shmmap.pmap(abs, [-8], engine=team, wait=False)
            work.add_done_callback(lambda future: print("and", future.result()))
            """
        done = run(tmp_path, source)
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(done.stdout.splitlines()) == ["and [8]", "got 7"]

    def test_not_in_forked_children(self, tmp_path: Path) -> None:
        """What the parent has submitted is the parent's; what the child submits is its own."""
        source = """
            team = shmmap.Team(1)
            team.submit(abs, 1).result()
            for i in range(2):
                team.submit(letter, i)
            shmmap.pmap(letter, [2], engine=team, wait=False)
            pid = os.fork()
            if pid == 0:
                mine = shmmap.Team(1)
                mine.submit(letter, 3)
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            """
        done = run(tmp_path, source)
        assert done.returncode == 0, done.stderr
        assert letters(tmp_path) == "abcd"

    def test_not_at_once_ends(self, tmp_path: Path) -> None:
        source = (
            "team = shmmap.Team(1)\nteam.submit(abs, 1).result()\nteam.submit(time.sleep, 60)\n"
        )
        for end, code in (("os._exit(4)", 4), ("os.kill(os.getpid(), 9)", -9)):
            with in_time(5):
                done = run(tmp_path, source + end)
            assert done.returncode == code

    @pytest.mark.slow
    def test_nothing_to_wait_for(self, tmp_path: Path) -> None:
        """An open team, a closed one, one that was never used: the end takes no time."""
        source = """
            teams = [shmmap.Team(1) for _ in range(3)]
            teams[0].submit(abs, 1).result()
            teams[1].submit(abs, 1).result()
            teams[1].shutdown()
            shmmap.pmap(abs, [1], workers=1)
            import atexit
            began = time.monotonic()
            atexit.register(lambda: print(time.monotonic() - began < 1))
            """
        done = run(tmp_path, source)
        assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


LATE = {
    "submit": "team.submit(letter, 0)",
    "map": "team.map(letter, range(2))",
    "no wait": "shmmap.pmap(letter, [0], wait=False)",
}


class TestTooLate:
    """C13: what is called by `atexit`, when Python starts no threads any more."""

    @pytest.mark.parametrize("is_warm", [True, False])
    @pytest.mark.parametrize("call", LATE.values(), ids=LATE)
    def test_submitting_is_refused(self, tmp_path: Path, call: str, is_warm: bool) -> None:
        source = f"""
            import atexit
            def last():
                try:
                    {call}
                except RuntimeError as error:
                    print(error)
            atexit.register(last)
            team = shmmap.Team(1)
            {"team.submit(abs, 1).result()" if is_warm else ""}
            """
        done = run(tmp_path, source)
        words = "cannot schedule new futures after interpreter shutdown\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, words, "")

    @pytest.mark.few(2)
    @pytest.mark.parametrize("is_before_import", [True, False])
    @pytest.mark.parametrize("is_warm", [True, False])
    @pytest.mark.parametrize("engine", [None, "processes", "threads", "fork", "serial"])
    def test_a_map_works(
        self, tmp_path: Path, engine: Any, is_warm: bool, is_before_import: bool
    ) -> None:
        source = f"""
            import atexit
            def last():
                import numpy as np, shmmap
                for call in (
                    lambda: shmmap.pmap(np.negative, np.arange(3), engine={engine!r}),
                    lambda: shmmap.pmap(np.negative, iter([0, 1, 2]), engine={engine!r}, out=list),
                    lambda: shmmap.pmap_chunks(np.negative, shmmap.asshared(np.arange(3)), engine={engine!r}),
                ):
                    print(*call())
            if {is_before_import}:
                atexit.register(last)
            import numpy as np, shmmap
            if not {is_before_import}:
                atexit.register(last)
            if {is_warm}:
                shmmap.pmap(np.negative, np.arange(3), workers=2, engine={engine!r})
            """
        done = run_script(tmp_path, source, timeout_s=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, "0 -1 -2\n" * 3, "")

    @pytest.mark.parametrize("is_warm", [True, False])
    def test_a_map_on_a_team(self, tmp_path: Path, is_warm: bool) -> None:
        """Its workers are there still, or one line says what to do."""
        source = f"""
            import atexit
            def last():
                try:
                    print(shmmap.pmap(abs, [-1], engine=team))
                except RuntimeError as error:
                    print(error)
            team = shmmap.Team(1)
            if {is_warm}:
                team.submit(abs, 1).result()
            atexit.register(last)
            """
        done = run(tmp_path, source)
        refused = (
            "the interpreter is shutting down, and no workers can be started; use engine='serial'"
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip() == ("[1]" if is_warm else refused)

    def test_threads_that_go_on(self, tmp_path: Path) -> None:
        """A thread that is no daemon maps, while the interpreter waits for it."""
        source = """
            import threading
            def go_on():
                threading.main_thread().join()
                print(shmmap.pmap(np.negative, np.arange(3), workers=2).tolist())
            threading.Thread(target=go_on).start()
            """
        for warm in ("", "shmmap.pmap(abs, [1], workers=2)\n"):
            done = run(tmp_path, warm + textwrap.dedent(source))
            assert (done.returncode, done.stdout, done.stderr) == (0, "[0, -1, -2]\n", "")


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_a_program_that_has_closed_all_descriptors(tmp_path: Path, start: str) -> None:
    """Those of its team included: the maps of that team fail, and the program ends."""
    source = f"""
        import os
        import shmmap

        team = shmmap.Team(2, start="{start}")
        shmmap.pmap(abs, [1, -2], engine=team)
        os.closerange(3, 256)
        try:
            shmmap.pmap(abs, [1, -2], engine=team)
        except (OSError, RuntimeError):
            print("failed")
    """
    done = run_script(tmp_path, source, timeout_s=20)
    assert (done.stdout, done.returncode) == ("failed\n", 0), done.stderr
