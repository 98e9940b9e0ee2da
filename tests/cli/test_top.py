"""``shmmap top`` looks at real programs, which have asked for nothing."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

# What the programs have in common: functions that say where they are, and wait there.
HELD = """
import os, sys, threading, time
from pathlib import Path
import numpy as np
import shmmap

def held(i):
    here = Path(f"at-{os.getpid()}")
    here.with_suffix(".new").write_text(str(int(i)))
    here.with_suffix(".new").rename(here)
    while not Path("go").exists():
        time.sleep(0.005)
    return i

def held_range(start, stop):
    held(start)

def held_chunk(c):
    held(c[0])
    return c

def held_part(c):
    return held(c[0])

def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.005)

def say(text):
    print(text, flush=True)
"""


class Program:
    """A program that runs in a folder of its own."""

    def __init__(self, folder, source):
        self.folder = folder
        (folder / "held.py").write_text(HELD)
        (folder / "program.py").write_text(f"from held import *\n{source}")
        self.process = subprocess.Popen(
            [sys.executable, "program.py"], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def wait_for_workers(self, count):
        """Wait until so many workers are held; by their pids, the indices they are at."""
        while True:
            # Not before each has had the time to be seen where it says it is.
            found = {int(p.name[3:]): int(p.read_text()) for p in self.folder.glob("at-*[0-9]")}
            if len(found) == count:
                return found
            assert self.process.poll() is None
            time.sleep(0.01)

    def heard(self):
        return self.process.stdout.readline().strip()

    def go(self):
        (self.folder / "go").touch()

    def finish(self):
        self.go()
        (self.folder / "end").touch()
        assert self.process.wait(60) == 0


@pytest.fixture
def start(tmp_path):
    programs = []

    def start(source):
        program = Program(tmp_path, source)
        programs.append(program)
        return program

    yield start
    for each in programs:
        each.process.kill()
        each.process.wait()
        each.process.stdout.close()


def top(*args, **options):
    command = [sys.executable, "-m", "shmmap", "top", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def look(pid):
    """What one look at a program gives."""
    done = top(pid, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (seen,) = json.loads(done.stdout)
    assert seen["pid"] == pid
    return seen


def refused(*args, **options):
    done = top(*args, **options)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"shmmap( top)?: error: .+\n", done.stderr), done.stderr
    return done.stderr


class TestMaps:
    @pytest.mark.parametrize("engine", ["processes", "fork"])
    def test_where_each_worker_is(self, start, engine):
        program = start(
            f"shmmap.pmap(held, range(100, 200), engine={engine!r}, workers=2, chunksize=1)"
        )
        held = program.wait_for_workers(2)
        (seen,) = look(program.pid)["maps"]
        assert (seen["verb"], seen["func"], seen["state"]) == ("pmap", "held", "running")
        assert (seen["items"], seen["done"], seen["chunks"]) == (100, 0, 100)
        at = {worker["pid"]: 100 + worker["start"] for worker in seen["workers"]}
        assert at == held
        for worker in seen["workers"]:
            assert (worker["state"], worker["stop"]) == ("at work", worker["start"] + 1)
            assert 0 < worker["for_s"] <= seen["for_s"]
            assert worker["nbytes"] > 1 << 20
        program.finish()

    def test_for_how_long(self, start):
        program = start("shmmap.pmap(held, range(4), workers=1, chunksize=1)")
        program.wait_for_workers(1)
        before = time.monotonic()
        (first,) = look(program.pid)["maps"][0]["workers"]
        (second,) = look(program.pid)["maps"][0]["workers"]
        assert second["for_s"] - first["for_s"] <= time.monotonic() - before
        assert second["for_s"] > first["for_s"]
        program.finish()

    @pytest.mark.parametrize(
        ("call", "verb", "func"),
        [
            ("pmap_chunks(held_chunk, np.arange(80)", "pmap_chunks", "held_chunk"),
            ("pmap_ranges(held_range, 80", "pmap_ranges", "held_range"),
            ("preduce(held_part, np.arange(80), combine=max", "preduce", "held_part"),
            ("pmap(lambda i: held(i), range(80)", "pmap", "<lambda>"),
        ],
    )  # fmt: skip
    def test_verbs(self, start, call, verb, func):
        program = start(f"shmmap.{call}, chunksize=10, workers=1)")
        program.wait_for_workers(1)
        (seen,) = look(program.pid)["maps"]
        assert (seen["verb"], seen["func"], seen["items"], seen["chunks"]) == (verb, func, 80, 8)
        assert [(w["start"], w["stop"]) for w in seen["workers"]] == [(0, 10)]
        program.finish()

    def test_items_done_and_the_range_of_one_that_is_dear(self, start):
        program = start(
            "x = shmmap.asshared(np.arange(95))\n"
            "def work(c):\n    return held_chunk(c) if 57 in c else c\n"
            "shmmap.pmap_chunks(work, x, out=x, workers=1, chunksize=10)"
        )
        program.wait_for_workers(1)
        (seen,) = look(program.pid)["maps"]
        assert [(w["start"], w["stop"]) for w in seen["workers"]] == [(50, 60)]
        assert (seen["done"], seen["chunks_done"]) == (50, 5)
        assert seen["left_s"] > 0
        program.finish()

    def test_the_very_index_where_each_call_has_a_time_limit(self, start):
        program = start("shmmap.pmap(held, range(100), workers=1, chunksize=10, timeout=60)")
        program.wait_for_workers(1)
        (worker,) = look(program.pid)["maps"][0]["workers"]
        assert (worker["start"], worker["stop"]) == (0, 1)
        program.finish()

    def test_indices_of_a_map_over_an_iterator(self, start):
        program = start(
            "def work(i):\n    return held(i) if i == 5000 else i\n"
            "shmmap.pmap(work, iter(range(6000)), workers=1, chunksize=1)"
        )
        program.wait_for_workers(1)
        maps = [each for each in look(program.pid)["maps"] if each["workers"]]
        assert [(w["start"], w["stop"]) for w in maps[0]["workers"]] == [(5000, 5001)]
        program.finish()

    def test_two_at_once_and_one_that_waits(self, start):
        program = start(
            "with shmmap.Team(1) as a, shmmap.Team(1) as b:\n"
            "    f = shmmap.pmap(held, range(10), engine=a, wait=False)\n"
            "    g = shmmap.pmap_ranges(held_range, 20, engine=b, wait=False)\n"
            "    wait_for('more')\n"
            "    h = shmmap.pmap(abs, range(30), engine=a, wait=False)\n"
            "    say('posted')\n"
            "    f.result(), g.result(), h.result()\n"
        )
        program.wait_for_workers(2)
        (program.folder / "more").touch()
        assert program.heard() == "posted"
        maps = {each["items"]: each for each in look(program.pid)["maps"]}
        assert {n: (each["func"], each["state"]) for n, each in maps.items()} == {
            10: ("held", "running"),
            20: ("held_range", "running"),
            30: ("abs", "waiting"),
        }
        assert [len(maps[n]["workers"]) for n in (10, 20, 30)] == [1, 1, 0]
        program.finish()

    def test_a_submitted_function(self, start):
        program = start(
            "with shmmap.Team(2) as team:\n    team.submit(held, 5).result()\n    wait_for('end')"
        )
        ((pid, _),) = program.wait_for_workers(1).items()
        others = {worker["pid"]: worker for worker in look(program.pid)["others"]}
        assert others[pid]["state"] == "in a submitted function" and others[pid]["for_s"] > 0
        program.finish()

    def test_an_idle_team(self, start):
        program = start(
            "with shmmap.Team(2) as team:\n"
            "    for _ in range(3):\n        shmmap.pmap(abs, range(100), engine=team)\n"
            "    try:\n        shmmap.pmap(len, range(9), engine=team)\n"
            "    except TypeError:\n        say('idle')\n"
            "    wait_for('end')\n"
        )
        assert program.heard() == "idle"
        while len((seen := look(program.pid))["others"]) < 2 or seen["maps"]:
            assert program.process.poll() is None
        assert [worker["state"] for worker in seen["others"]] == ["idle", "idle"]
        assert "idle: 2 workers wait for a map" in top(program.pid).stdout
        program.finish()


class TestWhatHappensMeanwhile:
    def test_a_worker_is_killed(self, start):
        program = start("shmmap.pmap(held, range(50), workers=2, chunksize=1)")
        held = program.wait_for_workers(2)
        process = subprocess.Popen(
            [sys.executable, "-m", "shmmap", "top", str(program.pid), *"--json -i 0.02 -n 10000".split()],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            (first,) = json.loads(process.stdout.readline())
            assert {worker["pid"] for worker in first["maps"][0]["workers"]} == set(held)
            victim = min(held)
            os.kill(victim, signal.SIGKILL)
            while True:  # until its successor is where it was
                (seen,) = json.loads(process.stdout.readline())
                at = {w["pid"]: w["start"] for w in seen["maps"][0]["workers"]}
                if len(at) == 2 and victim not in at and at.keys() != held.keys():
                    new = (at.keys() - held.keys()).pop()
                    if at[new] == held[victim]:
                        break
            program.finish()
            rest, _ = process.communicate(timeout=60)
            assert rest.splitlines()[-1] == "[]", "the program has ended"
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def test_the_map_and_the_program_end(self, start):
        program = start("shmmap.pmap(held, range(50), workers=1)\nwait_for('end')")
        program.wait_for_workers(1)
        process = subprocess.Popen(
            [sys.executable, "-m", "shmmap", "top", str(program.pid), *"-i 0.02 -n 10000".split()],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            for line in process.stdout:
                if "pmap of held" in line:
                    break
            program.go()
            for line in process.stdout:
                if "idle: 1 worker waits for a map" in line:
                    break
            program.finish()
            assert process.stdout.read().rstrip().endswith(f"process {program.pid} has ended")
        assert process.returncode == 0

    def test_a_program_that_is_cancelled(self, start):
        program = start(
            "f = shmmap.pmap(held, range(50), workers=1, chunksize=1, wait=False)\n"
            "wait_for('more')\nf.cancel()\nsay('cancelled')\ntry:\n    f.result()\n"
            "except BaseException:\n    say('over')\nwait_for('end')"
        )
        program.wait_for_workers(1)
        (program.folder / "more").touch()
        assert (program.heard(), program.heard()) == ("cancelled", "over")
        while look(program.pid)["maps"]:
            assert program.process.poll() is None
        program.finish()


class TestRefusals:
    def test_no_such_process(self):
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        assert f"there is no process {ended.pid}" in refused(ended.pid)

    def test_a_zombie(self):
        process = subprocess.Popen([sys.executable, "-c", ""])
        while "Z" not in Path(f"/proc/{process.pid}/stat").read_text().split():
            time.sleep(0.01)
        assert f"there is no process {process.pid}" in refused(process.pid)
        process.wait()

    @pytest.mark.parametrize("engine", ["serial", "threads"])
    def test_no_team(self, start, engine):
        program = start(f"shmmap.pmap(held, range(2), engine={engine!r}, workers=1)")
        program.wait_for_workers(1)
        line = refused(program.pid)
        assert "has no team of workers" in line and "serial and threads" in line
        program.finish()

    def test_a_worker(self, start):
        program = start("shmmap.pmap(held, range(2), workers=1)")
        (worker,) = program.wait_for_workers(1)
        assert f"is a worker: look at its program, shmmap top {program.pid}" in refused(worker)
        program.finish()

    def test_another_version(self, start):
        program = start(
            "import shmmap._wire.header\nshmmap._wire.header.LAYOUT += 1\n"
            "shmmap.pmap(held, range(2), workers=1)"
        )
        program.wait_for_workers(1)
        assert "another version of shmmap" in refused(program.pid)
        program.finish()

    @pytest.mark.parametrize(
        "args", [("0",), ("-1",), ("x",), ("1", "2"), ("-n", "0"), ("-i", "nan")]
    )
    def test_arguments(self, args):
        refused(*args)

    @pytest.mark.privileged
    def test_another_users_program(self, start):
        if os.geteuid() != 0:
            pytest.skip("needs root, to be another user")
        program = start("shmmap.pmap(held, range(2), workers=1)")
        program.wait_for_workers(1)
        source = (
            "import os, sys, shmmap._cli.top, shmmap._cli as cli\n"
            "cli.make_parser()  # Python itself may be where the other one may not read\n"
            f"os.setuid(65534)\nsys.exit(cli.main(['top', '{program.pid}']))"
        )
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(
            rf"shmmap: error: process {program.pid} belongs to user \w+: only that user, or "
            r"root, may look at it\n",
            done.stderr,
        ), done.stderr
        program.finish()

    @pytest.mark.privileged
    def test_from_a_container_into_another(self, start):
        program = start("shmmap.pmap(held, range(2), workers=1)")
        program.wait_for_workers(1)
        command = ["unshare", "-U", "-r", sys.executable, "-m", "shmmap", "top", str(program.pid)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("needs unshare")
        if "unshare" in done.stderr:
            pytest.skip("may not make a user namespace")
        assert (done.returncode, done.stdout) == (2, "")
        assert "may not be looked at: it is in another container" in done.stderr
        program.finish()

    @pytest.mark.privileged
    def test_a_program_in_a_container_is_seen_from_outside_by_its_outer_numbers(self, tmp_path):
        """In a namespace of process numbers of its own."""
        (tmp_path / "held.py").write_text(HELD)
        (tmp_path / "program.py").write_text(
            "from held import *\nshmmap.pmap(held, range(2), workers=1)"
        )
        command = [
            "unshare",
            "-p",
            "-f",
            "--mount-proc",
            "--kill-child",
            sys.executable,
            "program.py",
        ]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        try:
            while not list(tmp_path.glob("at-*[0-9]")):
                if process.poll() is not None:
                    pytest.skip("may not make a namespace of process numbers")
                time.sleep(0.01)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            (worker,) = look(int(children))["maps"][0]["workers"]
            name = Path(f"/proc/{worker['pid']}/status").read_text()
            inner = re.search(r"NSpid:.*\s(\d+)\n", name)[1]
            assert (tmp_path / f"at-{inner}").exists()
        finally:
            process.kill()
            process.communicate()


class TestTerminal:
    def show(self, args, width):
        """Start it on a terminal of that width; the process, and what it draws."""
        mine, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, width))
        command = [sys.executable, "-m", "shmmap", "top", *map(str, args)]
        process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs)
        os.close(theirs)
        return process, mine

    def read(self, fd):
        shown = b""
        while True:
            try:
                block = os.read(fd, 4096)
            except OSError:
                block = b""
            if not block:
                os.close(fd)
                return shown.decode()
            shown += block

    @pytest.mark.parametrize("width", [30, 60, 80, 200])
    def test_no_line_is_wider_than_it(self, start, width):
        program = start(f"def {'long_' * 30}name(i):\n    return held(i)\n"
                        f"shmmap.pmap({'long_' * 30}name, range(1000), workers=2, chunksize=1)")  # fmt: skip
        program.wait_for_workers(2)
        process, fd = self.show([program.pid, "-n", 2, "-i", 0.1], width)
        text = self.read(fd)
        assert process.wait(60) == 0
        lines = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", text).split("\r\n")
        assert max(map(len, lines)) <= width
        assert sum("at index" in line for line in lines) == (2 if width > 40 else 0)
        program.finish()

    def test_more_workers_than_lines(self, start):
        program = start("shmmap.pmap(held, range(40), workers=30, chunksize=1)")
        program.wait_for_workers(30)
        process, fd = self.show([program.pid, "-n", 2, "-i", 0.1], 80)
        text = self.read(fd)
        assert process.wait(60) == 0
        # It goes back by as many lines as it has drawn, none of which has scrolled away.
        assert "\x1b[23F" in text and "more lines" in text
        program.finish()

    def test_ctrl_c_ends_it(self, start):
        program = start("shmmap.pmap(held, range(2), workers=1)")
        program.wait_for_workers(1)
        process, fd = self.show([program.pid], 80)
        assert b"\x1b" in os.read(fd, 100)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "Traceback" not in self.read(fd)
        program.finish()


def test_without_a_number_it_shows_all_programs_of_the_user(start):
    program = start("shmmap.pmap(held, range(2), workers=1)")
    program.wait_for_workers(1)
    done = top("-n", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"^{program.pid} python\S* program.py: 1 worker, ", done.stdout, re.M)
    assert "\x1b" not in done.stdout
    assert program.pid in [each["pid"] for each in json.loads(top("--json").stdout)]
    program.finish()
    done = top("--json")
    assert program.pid not in [each["pid"] for each in json.loads(done.stdout)]
