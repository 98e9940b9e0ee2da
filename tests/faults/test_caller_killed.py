"""Faults 26 and 27: the caller is killed, alone or with its process group, and nothing stays behind.

The leak guard of every test looks for the rest: it also knows orphans.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from shmmap.testing import wait_until
from tests.helpers import (
    is_alive,
    process_tree,
    start_script,
)

from .common import BUSY, COMMON, run_program, times

MARK = "SHMMAP_FAULTS"


def carriers(mark: str) -> list[int]:
    """Living processes in whose environment a word stands, orphans included."""
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in environment and is_alive(pid):
            found.append(pid)
    return found


def names_of(pid: int) -> dict[str, int]:
    """Names that a process has left in ``/dev/shm``, and the bytes they hold."""
    folder = Path("/dev/shm")
    found = {}
    for name in os.listdir(folder):
        if name.startswith(f"shmmap-{pid}-"):
            found[name] = (folder / name).stat().st_blocks * 512
    return found


PROGRAM = (
    BUSY
    + """
a = shmmap.zeros(1 << 22)

def run_on_team():
    with shmmap.Team(workers=2, start=sys.argv[1]) as team:
        run(engine=team)
"""
)


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
        script = start_script(tmp_path, PROGRAM + textwrap.dedent(source), *args)
        assert script.stdout is not None
        word, _, more = script.stdout.readline().partition(" ")
        assert word.strip() == "running"
        return script, more

    @pytest.mark.parametrize("holds", ["", "gil"])
    def test_caller_alone(self, tmp_path: Path, start: str, holds: str) -> None:
        script, _ = self.start(tmp_path, "run_on_team()", start, holds)
        tree = process_tree(script.pid)
        assert len(tree) >= 3
        kill_and_check(script, script.kill, tree)

    def test_whole_group(self, tmp_path: Path, start: str) -> None:
        script, _ = self.start(tmp_path, "run_on_team()", start)
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
            run_on_team()
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
            run(engine=made[0])
            """,
            start,
        )
        assert is_alive(script.pid)
        kill_and_check(script, script.kill, process_tree(script.pid))

    @pytest.mark.slow
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


@pytest.mark.slow
def test_26_caller_killed_while_workers_start(tmp_path: Path) -> None:
    """Many workers at once, so that some are always on their way."""
    rng = random.Random(26)
    for i in range(times(4, 40)):
        mark = f"{MARK}-start-{os.getpid()}-{i}"
        script = start_script(
            tmp_path,
            """
            import numpy as np, shmmap
            print("imported", flush=True)
            shmmap.pmap(lambda i: i, np.arange(1000), workers=12, chunksize=1)
            """,
            env=os.environ | {"SHMMAP_FAULTS": mark},
        )
        assert script.stdout is not None and script.stderr is not None
        script.stdout.readline()
        try:
            script.wait(rng.random() * 0.3)  # the moment is the point
        except subprocess.TimeoutExpired:
            script.kill()
        script.wait()
        try:
            wait_until(lambda mark=mark: not carriers(mark), 2)
        finally:
            for pid in carriers(mark):
                os.kill(pid, signal.SIGKILL)
        script.stdout.close()
        script.stderr.close()


class Test27GroupKilled:
    """SIGKILL of the whole process group, or of the caller alone, at random moments."""

    SOURCE = """
    import itertools
    print("imported", flush=True)
    for n in itertools.count():
        x = shmmap.asshared(np.arange(1 << (8 + n % 12)))
        with shmmap.Team(workers=2, start=sys.argv[1]) as team:
            shmmap.pmap_chunks(np.negative, x, engine=team)
            shmmap.pmap(str, range(20), engine=team)
    """

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_nothing_is_left_anywhere(self, tmp_path: Path, start: str) -> None:
        rng = random.Random(27)
        for i in range(times(8, 100)):
            mark = f"{MARK}-{os.getpid()}-{start}-{i}"
            script = start_script(
                tmp_path,
                COMMON + textwrap.dedent(self.SOURCE),
                start,
                env=os.environ | {"SHMMAP_FAULTS": mark},
            )
            assert script.stdout is not None and script.stderr is not None
            script.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                script.wait(rng.random() * 0.4)  # the moment is the point
            if i % 5:
                os.killpg(script.pid, signal.SIGKILL)
            else:
                script.kill()
            script.wait()
            try:
                wait_until(lambda mark=mark: not carriers(mark), 2)
            finally:
                for pid in carriers(mark):
                    os.kill(pid, signal.SIGKILL)
            assert script.stderr.read() == ""
            script.stdout.close()
            script.stderr.close()
            # Between two system calls there is a name, of nothing yet; the next caller sweeps it.
            assert set(names_of(script.pid).values()) <= {0}
            for name in names_of(script.pid):
                os.unlink(f"/dev/shm/{name}")

    def test_a_name_left_by_a_kill_is_swept(self, tmp_path: Path) -> None:
        """Names of owners that are dead go when the library first allocates; others stay."""
        child = subprocess.run(["true"])
        assert child.returncode == 0
        dead, alive = Path("/dev/shm/shmmap-999999999-1-abc"), None
        stat = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()
        alive = Path(f"/dev/shm/shmmap-{os.getpid()}-{stat[19]}-abc")
        try:
            dead.touch()
            alive.touch()
            run_program(tmp_path, "shmmap.zeros(1)")
            assert not dead.exists()
            assert alive.exists()
        finally:
            dead.unlink(missing_ok=True)
            alive.unlink(missing_ok=True)
