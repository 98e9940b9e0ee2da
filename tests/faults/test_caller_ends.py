"""The caller dies, leaves, or is interrupted: no worker, no name, no memory stays behind.

The leak guard of every test looks for the rest: it also knows orphans.
"""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from shmmap.testing import wait_until
from tests.helpers import (
    Terminal,
    in_time,
    is_alive,
    process_tree,
    run_script,
    start_script,
    write_script,
)

pytestmark = pytest.mark.quick

BUSY = """
    import os, sys, time
    import numpy as np, shmmap
    from shmmap.testing import HoldGil, wait_until

    a = shmmap.zeros(1 << 22)
    running = shmmap.zeros(2, bool)

    def busy(i):
        running[i] = True
        wait_until(running.all)
        if i == 0:
            print("running", flush=True)
        (HoldGil(20) if "gil" in sys.argv else time.sleep)(20)

    def run():
        with shmmap.Team(workers=2, start=sys.argv[1]) as team:
            shmmap.pmap(busy, np.arange(2), engine=team, chunksize=1)
"""


def kill_and_check(
    script: subprocess.Popen[str], how: Any, tree: set[int], limit_s: float = 1.0
) -> None:
    """Kill a program in some way; all of its processes must be gone within a second."""
    try:
        how()
        wait_until(lambda: not any(map(is_alive, tree)), limit_s + 1)  # what a busy machine adds
    finally:
        for pid in filter(is_alive, tree):
            os.kill(pid, signal.SIGKILL)
        script.wait()
        script.stdout.close() if script.stdout else None
        script.stderr.close() if script.stderr else None


@pytest.mark.parametrize("start", ["clean", "fork"])
class Test26And27KilledCaller:
    """SIGKILL of the caller alone, and of its whole process group."""

    def start(self, tmp_path: Path, source: str, *args: str) -> tuple[subprocess.Popen[str], str]:
        """Start a program and wait until its map runs; return what it said besides."""
        script = start_script(tmp_path, textwrap.dedent(BUSY) + textwrap.dedent(source), *args)
        assert script.stdout is not None
        word, _, more = script.stdout.readline().partition(" ")
        assert word.strip() == "running"
        return script, more

    @pytest.mark.parametrize("holds", ["", "gil"])
    def test_caller_alone(self, tmp_path: Path, start: str, holds: str) -> None:
        script, _ = self.start(tmp_path, "run()", start, holds)
        tree = process_tree(script.pid)
        assert len(tree) >= 3
        kill_and_check(script, script.kill, tree)

    def test_whole_group(self, tmp_path: Path, start: str) -> None:
        script, _ = self.start(tmp_path, "run()", start)
        tree = process_tree(script.pid)
        kill_and_check(script, lambda: os.killpg(script.pid, signal.SIGKILL), tree)

    def test_with_a_bystander_child_of_its_own(self, tmp_path: Path, start: str) -> None:
        """A child forked by the user inherits every descriptor, and must not keep workers alive."""
        script, bystander = self.start(
            tmp_path,
            """
            import threading, warnings
            warnings.simplefilter("ignore", DeprecationWarning)

            def fork():
                wait_until(running.all, 20)
                pid = os.fork()
                if not pid:
                    time.sleep(30)
                    os._exit(0)
                print("running", pid, flush=True)

            def busy(i):
                running[i] = True
                time.sleep(20)

            threading.Thread(target=fork).start()
            run()
            """,
            start,
        )
        ours = process_tree(script.pid) - {int(bystander)}
        assert len(ours) >= 3 and is_alive(int(bystander))
        try:
            kill_and_check(script, script.kill, ours)
        finally:
            os.kill(int(bystander), signal.SIGKILL)

    def test_team_of_a_thread_that_has_ended(self, tmp_path: Path, start: str) -> None:
        script, _ = self.start(
            tmp_path,
            """
            import threading
            made = []
            thread = threading.Thread(
                target=lambda: made.append(shmmap.Team(workers=2, start=sys.argv[1])))
            thread.start(); thread.join()
            shmmap.pmap(busy, np.arange(2), engine=made[0], chunksize=1)
            """,
            start,
        )
        assert is_alive(script.pid)
        kill_and_check(script, script.kill, process_tree(script.pid))

    def test_at_many_moments(self, tmp_path: Path, start: str) -> None:
        """Also while workers start, and while a map or the clean-up is under way."""
        source = """
            import sys
            import numpy as np, shmmap
            print("imported", flush=True)
            while True:
                a = shmmap.zeros(1 << 20)
                with shmmap.Team(workers=2, start=sys.argv[1]) as team:
                    shmmap.pmap_chunks(np.negative, a, engine=team)
        """
        for i in range(10):
            script = start_script(tmp_path, source, start)
            assert script.stdout is not None
            script.stdout.readline()
            try:
                with pytest.raises(subprocess.TimeoutExpired):
                    script.wait(0.013 * i)  # the moment is the point; nothing is ordered by it
                tree = process_tree(script.pid)
                os.killpg(script.pid, signal.SIGKILL) if i % 2 else script.kill()
                wait_until(lambda tree=tree: not any(map(is_alive, tree)), 2)
            finally:
                os.killpg(script.pid, signal.SIGKILL) if is_alive(script.pid) else None
                script.communicate()


class Test32LeavingCaller:
    """The caller leaves by an exception, `sys.exit`, `os._exit`, from a thread, while it maps."""

    @pytest.mark.parametrize(
        ("end", "code"),
        [
            ("", 0),
            ("sys.exit(3)", 3),
            ("raise ValueError('end')", 1),
            ("os._exit(4)", 4),
            ("os.kill(os.getpid(), 15)", -15),
            ("os.abort()", -6),
        ],
    )
    @pytest.mark.parametrize("team", ["default", "own"])
    def test_nothing_is_left(self, tmp_path: Path, team: str, end: str, code: int) -> None:
        done = run_script(
            tmp_path,
            f"""
            import os, sys
            import numpy as np, shmmap
            engine = shmmap.Team(workers=2) if {team == "own"} else None
            a = shmmap.pmap_chunks(np.negative, np.ones(1 << 20), engine=engine)
            {end}
            """,
        )
        assert done.returncode == code
        assert done.stderr.count("Traceback") == (1 if "raise" in end else 0)
        assert "raise" in end or done.stderr == ""

    def test_while_a_map_runs_in_a_daemon_thread(self, tmp_path: Path) -> None:
        done = run_script(
            tmp_path,
            """
            import threading, time
            import numpy as np, shmmap
            running = shmmap.zeros(1, bool)
            def busy(i):
                running[0] = True
                time.sleep(30)
            threading.Thread(
                target=lambda: shmmap.pmap(busy, np.arange(2), workers=2), daemon=True).start()
            while not running[0]:
                time.sleep(0.001)
            """,
            timeout_s=15,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_with_a_future_nobody_waited_for(self, tmp_path: Path) -> None:
        done = run_script(
            tmp_path,
            """
            import time
            import numpy as np, shmmap
            running = shmmap.zeros(1, bool)
            def busy(i):
                running[0] = True
                time.sleep(0.3)
            future = shmmap.pmap(busy, np.arange(2), workers=2, wait=False)
            while not running[0]:
                time.sleep(0.001)
            """,
            timeout_s=15,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_map_at_interpreter_shutdown(self, tmp_path: Path) -> None:
        done = run_script(
            tmp_path,
            """
            import atexit
            import numpy as np, shmmap
            def last():
                try:
                    print(shmmap.pmap(lambda i: i * 2, np.arange(3)).tolist())
                except RuntimeError as error:
                    print("refused:", error)
            atexit.register(last)
            shmmap.pmap(lambda i: i, np.arange(3))
            """,
            timeout_s=15,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "[0, 2, 4]\n" or done.stdout.startswith("refused:")


@pytest.mark.parametrize("engine", ["processes", "fork"])
@pytest.mark.parametrize("closed", [0, 1, 2])
def test_without_standard_streams(tmp_path: Path, engine: str, closed: int) -> None:
    """As of a daemon: what is opened next gets the number of what is missing."""
    source = """
        import os, sys
        import numpy as np, shmmap

        x = shmmap.asshared(np.arange(100.0))
        os.close(int(sys.argv[2]))
        for _ in range(2):
            assert np.array_equal(
                shmmap.pmap_chunks(np.sqrt, x, engine=sys.argv[1], workers=2), np.sqrt(x)
            )
    """
    done = run_script(tmp_path, source, engine, str(closed))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


class Test31HelpersKilled:
    """The template or the resource tracker is killed: maps go on."""

    @pytest.mark.parametrize("which", ["template", "tracker"])
    def test_next_map_works(self, tmp_path: Path, which: str) -> None:
        done = run_script(
            tmp_path,
            """
            import os, signal, sys
            import numpy as np, shmmap
            sys.path.insert(0, sys.argv[2])
            from tests.helpers import process_tree, wait_dead
            from multiprocessing import resource_tracker

            if sys.argv[1] == "tracker":
                resource_tracker.ensure_running()
            double = lambda i: i * 2
            with shmmap.Team(workers=2) as team:
                members = {*team.map(lambda i: os.getpid(), range(100))}
                direct = {pid for pid in process_tree(os.getpid()) - {os.getpid()}
                          if int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
                          == os.getpid()}
                victims = {pid for pid in direct - members
                           if ("resource_tracker" in open(f"/proc/{pid}/cmdline").read())
                           == (sys.argv[1] == "tracker")}
                for pid in victims:
                    os.kill(pid, signal.SIGKILL)
                    if sys.argv[1] == "tracker":
                        os.waitpid(pid, 0)
                for _ in range(3):
                    assert shmmap.pmap(double, np.arange(50), engine=team).tolist() == list(
                        range(0, 100, 2))
                try:
                    shmmap.pmap(lambda i: os.kill(os.getpid(), 9), np.arange(2), engine=team)
                except shmmap.WorkerDied as error:
                    print("died", len(victims))
                assert shmmap.pmap(double, np.arange(3), engine=team).tolist() == [0, 2, 4]
                b = shmmap.zeros(1 << 20)
            """,
            which,
            str(Path(__file__).parents[2]),
        )
        assert done.stderr == "" or (which == "tracker" and "resource_tracker" in done.stderr)
        assert done.stdout == "died 1\n"
        assert done.returncode == 0


class Test28Interrupted:
    """Ctrl-C in a terminal: one traceback, prompt back soon, no orphans."""

    SCRIPT = """
        import sys, time
        import numpy as np, shmmap
        from shmmap.testing import wait_until

        running = shmmap.zeros(2, bool)

        def busy(i):
            running[i] = True
            wait_until(running.all)
            if i == 0:
                print("running", flush=True)
            time.sleep(20)

        try:
            shmmap.pmap(busy, np.arange(2), workers=2, engine=sys.argv[1], chunksize=1)
        finally:
            print("after", flush=True)
    """

    @pytest.mark.parametrize("engine", ["processes", "fork"])
    @pytest.mark.parametrize("times", [1, 2])
    def test_one_traceback(self, tmp_path: Path, engine: str, times: int) -> None:
        with Terminal(write_script(tmp_path, self.SCRIPT), engine) as terminal:
            terminal.read_until("running\n")
            tree = process_tree(terminal.process.pid)
            with in_time(3):
                for _ in range(times):
                    terminal.write("\x03")
                text = terminal.read_to_end()
            assert text.count("Traceback (most recent call last)") >= 1
            if times == 1:
                assert text.count("Traceback (most recent call last)") == 1
                assert "after\n" in text
            assert text.rstrip().endswith("KeyboardInterrupt")
            assert "in busy" not in text, "the traceback is the caller's own"
            assert terminal.process.returncode == -signal.SIGINT
            wait_until(lambda: not any(map(is_alive, tree)), 2)

    def test_prompt_comes_back_and_the_next_map_works(self) -> None:
        with Terminal("-i", "-q") as terminal:
            terminal.read_until(">>> ")
            for line in (
                "import time, numpy as np, shmmap",
                "shmmap.pmap(lambda i: i, np.arange(4), workers=2).tolist()",
            ):
                terminal.write(line + "\n")
                terminal.read_until(">>> ")
            for _ in range(3):
                terminal.write(
                    "shmmap.pmap(lambda i: print('running') or time.sleep(20), np.arange(2), "
                    "workers=2, chunksize=1)\n"
                )
                terminal.read_until("running\n")
                with in_time(3):
                    terminal.write("\x03")
                    text = terminal.read_until(">>> ")
                assert text.count("Traceback") == 1
                assert "KeyboardInterrupt" in text
                terminal.write("shmmap.pmap(lambda i: i * 2, np.arange(4), workers=2).tolist()\n")
                assert "[0, 2, 4, 6]" in terminal.read_until(">>> ")
            terminal.write("\x04")
            assert "Traceback" not in terminal.read_to_end()

    def test_during_start(self, tmp_path: Path) -> None:
        """Interrupted at many moments around the start of the workers, nothing stays behind."""
        script = write_script(
            tmp_path,
            """
            import numpy as np, shmmap
            def start():
                with shmmap.Team(workers=2) as team:
                    shmmap.pmap(np.negative, np.arange(10), engine=team)
            start()  # all is imported then: Python's import machinery swallows a Ctrl-C now and then
            print("imported", flush=True)
            while True:
                start()
            """,
        )
        for i in range(8):
            with Terminal(script) as terminal:
                terminal.read_until("imported\n")
                with pytest.raises(subprocess.TimeoutExpired):
                    terminal.process.wait(0.017 * i)  # the moment is the point
                tree = process_tree(terminal.process.pid)
                with in_time(3):
                    terminal.write("\x03")
                    text = terminal.read_to_end()
                assert text.count("Traceback (most recent call last)") == 1, text
                assert "KeyboardInterrupt" in text
                wait_until(lambda tree=tree: not any(map(is_alive, tree)), 2)
