"""Fault 31: the template, or the resource tracker, is killed: maps go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import (
    run_script,
)

from .common import run_program


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


class Test31TemplateKilled:
    """The template is killed in the middle of a map: the map finishes, and so does the next."""

    HEAD = """
    def template():
        for pid in os.listdir("/proc"):
            if pid.isdecimal():
                try:
                    parent = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1]
                    command = open(f"/proc/{pid}/cmdline").read()
                except OSError:
                    continue
                if int(parent) == os.getpid() and "_worker.template" in command:
                    return int(pid)
    team = shmmap.Team(workers=2)
    works(engine=team)
    """

    def test_in_the_middle_of_a_map(self, tmp_path: Path) -> None:
        printed = run_program(
            tmp_path,
            self.HEAD
            + """
    running = shmmap.zeros(1, bool)
    go_on = shmmap.zeros(1, bool)
    def func(i):
        running[0] = True
        wait_until(lambda: go_on[0], 20)
        return i
    future = shmmap.pmap(func, np.arange(10), engine=team, wait=False, chunksize=1)
    wait_until(lambda: running[0], 20)
    os.kill(template(), 9)
    go_on[0] = True
    assert future.result(20).tolist() == list(range(10))
    works(engine=team)
    print("finished")
    """,
        )
        assert printed == "finished\n"

    @pytest.mark.slow
    def test_a_later_death_has_no_known_status(self, tmp_path: Path) -> None:
        printed = run_program(
            tmp_path,
            self.HEAD
            + """
    os.kill(template(), 9)
    for _ in range(2):
        try:
            shmmap.pmap_ranges(lambda a, b: os.kill(os.getpid(), 9), 2, engine=team, chunksize=1)
        except shmmap.WorkerDied as error:
            print("pid" in str(error), "status unknown" in str(error) or "SIGKILL" in str(error))
        works(engine=team)
    print(template() is not None)
    """,
        )
        assert printed == "True True\nTrue True\nTrue\n"

    @pytest.mark.slow
    def test_killed_while_it_starts(self, tmp_path: Path) -> None:
        """It is killed before it has forked anybody: a clear error, and the next map works."""
        printed = run_program(
            tmp_path,
            """
            import subprocess, threading
            real = os.posix_spawn
            def spawn(*args, **options):
                pid = real(*args, **options)
                os.kill(pid, 9)
                return pid
            for _ in range(3):
                with shmmap.Team(workers=2) as team:
                    os.posix_spawn = spawn
                    started = time.monotonic()
                    try:
                        works(engine=team)
                    except shmmap.WorkerDied as error:
                        print("start" in str(error), time.monotonic() - started < 5)
                    os.posix_spawn = real
                    works(engine=team)
            """,
        )
        assert printed == "True True\n" * 3
