"""Fault 28: Ctrl-C, SIGTERM and SIGHUP: one traceback, the prompt is back soon, and nobody is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from shmmap.testing import wait_until
from tests.helpers import (
    Terminal,
    in_time,
    is_alive,
    process_tree,
    run_script,
    write_script,
)

from .common import BUSY, times

CALL = "run(workers=2, engine=sys.argv[1])"
RUN = f"{BUSY}\n{CALL}\n"


class Test28CtrlC:
    """Ctrl-C in a terminal: one traceback, prompt back soon, no orphans."""

    @pytest.mark.parametrize("engine", ["processes", "fork"])
    @pytest.mark.parametrize("times", [1, 2])
    def test_one_traceback(self, tmp_path: Path, engine: str, times: int) -> None:
        program = f"{BUSY}\ntry:\n    {CALL}\nfinally:\n    print('after', flush=True)\n"
        with Terminal(write_script(tmp_path, program), engine) as terminal:
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

    @pytest.mark.slow
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


class Test28Signals:
    """Ctrl-C, SIGTERM, SIGHUP in a terminal: one traceback, prompt back, nobody left."""

    @pytest.mark.slow
    @pytest.mark.parametrize("engine", ["processes", "fork"])
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
    def test_other_signals(self, tmp_path: Path, engine: str, number: signal.Signals) -> None:
        with Terminal(write_script(tmp_path, RUN), engine) as terminal:
            terminal.read_until("running\n")
            tree = process_tree(terminal.process.pid)
            with in_time(3):
                terminal.process.send_signal(number)
                assert terminal.read_to_end() == ""
            assert terminal.process.returncode == -number
            wait_until(lambda: not any(map(is_alive, tree)), 2)

    @pytest.mark.slow
    @pytest.mark.parametrize("engine", ["processes", "fork"])
    def test_terminal_closes(self, tmp_path: Path, engine: str) -> None:
        """The terminal goes away: a real SIGHUP, to the whole session."""
        terminal = Terminal(write_script(tmp_path, RUN), engine)
        try:
            terminal.read_until("running\n")
            tree = process_tree(terminal.process.pid)
            os.close(terminal._ours)
            terminal._ours = os.open(os.devnull, os.O_RDWR)
            with in_time(3):
                terminal.process.wait(3)
                wait_until(lambda: not any(map(is_alive, tree)), 2)
        finally:
            terminal.__exit__()

    def test_sigterm_turned_into_an_exception(self, tmp_path: Path) -> None:
        """As servers do: the exception comes out of the map, and nothing stays behind."""
        source = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        script = write_script(tmp_path, source + RUN)
        with Terminal(script, "processes") as terminal:
            terminal.read_until("running\n")
            tree = process_tree(terminal.process.pid)
            with in_time(3):
                terminal.process.terminate()
                assert terminal.read_to_end() == ""
            assert terminal.process.returncode == 7
            wait_until(lambda: not any(map(is_alive, tree)), 2)

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    @pytest.mark.parametrize("where", ["start", "map", "clean-up", "anywhere"])
    def test_at_many_moments(self, tmp_path: Path, where: str) -> None:
        """Wherever Ctrl-C falls, there is one traceback, and the prompt is back within 2 s."""
        source = """
            import sys, time
            import numpy as np, shmmap
            x = shmmap.asshared(np.arange(100_000))
            team = shmmap.Team(workers=2)
            while True:
                if sys.argv[1] == "start":
                    team = shmmap.Team(workers=2)
                    print("go", flush=True)
                    shmmap.pmap(np.negative, np.arange(10), engine=team)
                    team.shutdown()
                elif sys.argv[1] == "map":
                    shmmap.pmap(np.negative, np.arange(10), engine=team)
                    print("go", flush=True)
                    for _ in range(100):
                        shmmap.pmap_chunks(np.negative, x, engine=team, chunksize=100)
                elif sys.argv[1] == "clean-up":
                    team = shmmap.Team(workers=2)
                    shmmap.pmap(np.negative, np.arange(10), engine=team)
                    print("go", flush=True)
                    team.shutdown()
                else:
                    print("go", flush=True)
                    for _ in range(3):
                        shmmap.pmap(np.negative, np.arange(10), engine="fork", workers=2)
                        shmmap.pmap(np.negative, np.arange(10), workers=2)
                        shmmap.shutdown()
        """
        script = write_script(tmp_path, source)
        rng = random.Random(28)
        for i in range(times(4, 25)):
            with Terminal(script, where) as terminal:
                for _ in range(rng.randint(1, 3)):
                    terminal.read_until("go\n")
                span = {"start": 0.15, "map": 0.3, "clean-up": 0.01, "anywhere": 0.5}[where]
                with pytest.raises(subprocess.TimeoutExpired):
                    terminal.process.wait(rng.random() * span)  # the moment is the point
                tree = process_tree(terminal.process.pid)
                with in_time(2 + 1):  # what a busy machine adds
                    terminal.write("\x03")
                    text = terminal.read_to_end()
                assert text.count("Traceback (most recent call last)") == 1, (i, text)
                assert text.rstrip().endswith("KeyboardInterrupt"), (i, text)
                assert terminal.process.returncode == -signal.SIGINT
                wait_until(lambda tree=tree: not any(map(is_alive, tree)), 2)

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_twice_in_quick_succession(self, tmp_path: Path) -> None:
        """The second one may cut the clean-up short; but nobody is left, and it ends."""
        script = write_script(tmp_path, RUN)
        rng = random.Random(2)
        for _ in range(times(3, 20)):
            with Terminal(script, "processes") as terminal:
                terminal.read_until("running\n")
                tree = process_tree(terminal.process.pid)
                with in_time(3):
                    terminal.write("\x03")
                    with pytest.raises(subprocess.TimeoutExpired):
                        terminal.process.wait(rng.random() * 0.3)  # the moment is the point
                    terminal.write("\x03")
                    text = terminal.read_to_end()
                assert text.rstrip().endswith("KeyboardInterrupt"), text
                assert "in busy" not in text
                wait_until(lambda tree=tree: not any(map(is_alive, tree)), 2)


SHUTDOWNS = """
    import os, random, signal, threading, time
    import shmmap

    def children():
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return file.read().split()

    rng = random.Random(29)
    shmmap.pmap(str, range(4), workers=2)
    shmmap.shutdown()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(12):
        try:
            team = shmmap.Team(workers=2)
            shmmap.pmap(str, range(4), engine=team)
            team.submit(time.sleep, 0.01)
            threading.Timer(rng.random() * 0.03, os.kill, (os.getpid(), signal.SIGINT)).start()
            team.shutdown()
            time.sleep(60)
        except KeyboardInterrupt:
            pass
        team.shutdown()
        del team
    deadline = time.monotonic() + 10
    while (children() or len(os.listdir("/proc/self/fd")) > before) and time.monotonic() < deadline:
        time.sleep(0.01)
    print(children(), len(os.listdir("/proc/self/fd")) - before)
"""


@pytest.mark.slow
def test_28_ctrl_c_while_a_team_is_shut_down(tmp_path: Path) -> None:
    """It comes out, and the team ends all the same."""
    done = run_script(tmp_path, SHUTDOWNS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[] 0\n", ""), done.stderr
