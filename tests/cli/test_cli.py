"""The command line, run as users run it: a process of its own, in a folder of its own."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest

import shmmap
from shmmap._cli.bench import table
from shmmap._cli.options import COMMANDS


class TestTarget:
    """OUT under its final name is the old one, or none, until the new one is complete."""

    @pytest.fixture
    def old(self, folder):
        np.save(folder.path / "out.npy", np.array([1, 2, 3]))
        return folder.path / "out.npy"

    def test_an_existing_one_is_replaced_and_keeps_its_mode(self, folder, old):
        old.chmod(0o640)
        folder.map("work:double", "in.npy", "out.npy")
        assert np.load(old).shape == (20, 4)
        assert old.stat().st_mode & 0o777 == 0o640

    def test_a_new_one_has_the_mode_of_new_files(self, folder):
        folder.map("work:double", "in.npy", "out.npy")
        (folder.path / "plain").touch()
        modes = [(folder.path / name).stat().st_mode for name in ("out.npy", "plain")]
        assert modes[0] == modes[1]

    def test_the_file_behind_a_link_is_replaced(self, folder, old):
        (folder.path / "link.npy").symlink_to("out.npy")
        folder.map("work:double", "in.npy", "link.npy")
        assert (folder.path / "link.npy").is_symlink()
        assert np.load(old).shape == (20, 4)

    def test_an_existing_one_survives_a_failure(self, folder, old):
        np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
        before = old.read_bytes()
        folder.refuse("map", "work:fails_at_7", "in.npy", "out.npy")
        assert old.read_bytes() == before

    def test_it_appears_when_it_is_complete_with_its_space_reserved_before(self, folder):
        n = 1 << 18
        np.save(folder.path / "in.npy", np.arange(n, dtype="f8").reshape(-1, 1) // (n - 1))
        process = folder.start("map", "work:waits", "in.npy", "out.npy", "--workers", 2)
        folder.wait_for("running", process)
        (partial,) = folder.path.glob(".shmmap-*.partial")
        status = partial.stat()
        assert status.st_size > n * 8
        assert status.st_blocks * 512 >= n * 8
        assert not (folder.path / "out.npy").exists()
        (folder.path / "go").touch()
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, "")
        assert "max 1" in stdout
        assert np.load(folder.path / "out.npy").sum() == 1
        folder.assert_tidy()

    @pytest.mark.privileged
    def test_a_full_disk(self, folder):
        """A file system of 1 MiB, on which 1.6 MB are wanted: found before the map starts."""
        np.save(folder.path / "in.npy", np.zeros(200_000))
        disk = folder.path / "disk"
        disk.mkdir()
        mount = f"mount -t tmpfs -o size=1m tmpfs {disk}"
        if not (shutil.which("unshare") and shutil.which("mount")):
            pytest.skip("needs unshare and mount")
        if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
            pytest.skip("may not mount a file system")
        # The list of what is left there has to come from inside the namespace.
        script = f'{mount} && "$@"; code=$?; ls -A {disk}; exit $code'
        command = folder.command("map", "work:double", "in.npy", "disk/out.npy", "--by", "chunk")
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", *command],
            cwd=folder.path,
            text=True,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert re.fullmatch(
            r"shmmap: error: cannot write disk/out.npy: No space left on device: 1,600,000 bytes "
            r"wanted, [\d,]+ free in .*disk\n",
            done.stderr,
        ), done.stderr


class TestSignals:
    @pytest.fixture(params=["processes", "fork", "serial"])
    def running(self, request, folder):
        """A map in the middle of its run, over an OUT that is there already."""
        np.save(folder.path / "out.npy", np.array([1, 2, 3]))
        args = "map", "work:waits", "in.npy", "out.npy", "--engine", request.param, "--workers", 2
        process = folder.start(*args, "--chunksize", 1)
        folder.wait_for("running", process)
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    @pytest.mark.parametrize(
        ("kill", "signum", "word"),
        [
            (os.killpg, signal.SIGINT, "interrupted"),  # as a terminal does for Ctrl-C
            (os.kill, signal.SIGINT, "interrupted"),
            (os.kill, signal.SIGTERM, "terminated"),
            (os.kill, signal.SIGHUP, "terminated"),
        ],
    )
    def test_one(self, folder, running, kill, signum, word):
        kill(running.pid, signum)
        stdout, stderr = running.communicate(timeout=10)
        assert (running.returncode, stdout, stderr) == (128 + signum, "", f"shmmap: {word}\n")
        assert np.load(folder.path / "out.npy").tolist() == [1, 2, 3]
        folder.assert_tidy()

    def test_two(self, folder, running):
        os.killpg(running.pid, signal.SIGINT)
        time.sleep(0.05)  # into the clean-up, or after it: either way it must hold
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGINT)
        _, stderr = running.communicate(timeout=10)
        # The second may come so late that Python no longer calls handlers: the same to a shell.
        assert running.returncode in (130, -signal.SIGINT)
        assert stderr in ("", "shmmap: interrupted\n")
        assert np.load(folder.path / "out.npy").tolist() == [1, 2, 3]
        folder.assert_tidy()

    def test_what_nohup_ignores_stays_ignored(self, folder):
        def ignore():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

        process = folder.start("map", "work:waits", "in.npy", "out.npy", preexec_fn=ignore)
        folder.wait_for("running", process)
        os.kill(process.pid, signal.SIGHUP)
        (folder.path / "go").touch()
        _, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, "")
        np.testing.assert_array_equal(np.load(folder.path / "out.npy"), folder.rows.sum(1))


class TestTerminal:
    def stderr_of(self, folder, *options):
        """What a terminal shows of stderr."""
        mine, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        args = "map", "work:double", "in.npy", "out.npy", *options
        process = folder.start(*args, stderr=theirs)
        os.close(theirs)
        process.communicate(timeout=60)
        shown = b""
        while True:
            try:
                block = os.read(mine, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not block:
                break
            shown += block
        os.close(mine)
        assert process.returncode == 0
        return shown.decode()

    def test_bar(self, folder):
        shown = self.stderr_of(folder)
        assert "work:double" in shown and "100%" in shown

    def test_no_bar(self, folder):
        assert self.stderr_of(folder, "--no-progress") == ""


class TestInfo:
    @pytest.fixture
    def facts(self, folder):
        done = folder.run("info")
        assert (done.returncode, done.stderr) == (0, "")
        return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines())

    def test_cores(self, facts):
        cores, total = map(int, facts["cores usable"].split(" of "))
        assert 1 <= cores <= len(os.sched_getaffinity(0))
        assert total == os.cpu_count()

    def test_affinity_counts(self, folder):
        core = min(os.sched_getaffinity(0))
        done = folder.run("info", preexec_fn=lambda: os.sched_setaffinity(0, {core}))
        assert f"cores usable      1 of {os.cpu_count()}\n" in done.stdout

    def test_shared_memory(self, facts):
        shm = os.statvfs("/dev/shm")
        free, total = re.fullmatch(
            r"([\d.]+) GiB free of ([\d.]+) GiB in /dev/shm", facts["shared memory"]
        ).groups()
        assert float(total) == round(shm.f_blocks * shm.f_frsize / 2**30, 1)
        assert float(free) <= float(total)

    def test_memory(self, facts):
        assert re.match(r"[\d.]+ GiB available in ", facts["memory"])
        assert re.match(r"no limit|[\d.]+ GiB below its limit", facts["memory cgroup"])

    def test_huge_pages(self, facts):
        setting = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
        if not setting.exists():
            assert facts["huge pages"] == "unknown"
        else:
            assert re.search(r"\[(.*)\]", setting.read_text())[1] in facts["huge pages"]

    def test_versions(self, facts):
        assert f"shmmap {shmmap.__version__}, Python {sys.version.split()[0]}" in facts["versions"]
        assert f"numpy {np.__version__}" in facts["versions"]
        assert facts["start method"].startswith("clean")

    def test_json(self, folder, facts):
        found = json.loads(folder.run("info", "--json").stdout)
        assert f"{found['cores_usable']} of {found['cores']}" == facts["cores usable"]
        shm = os.statvfs("/dev/shm")
        assert found["shared_memory"] == shm.f_blocks * shm.f_frsize
        assert found["libraries"]["numpy"] == np.__version__


class TestBench:
    NAMES = ("call", "chunk", "item", "cold", "placing")

    @pytest.mark.slow
    def test_json(self, folder):
        done = folder.run("bench", "--json", "--workers", 2, timeout=110)
        assert (done.returncode, done.stderr) == (0, "")
        found = json.loads(done.stdout)
        assert found["workers"] == 2
        assert {"shmmap", "Pool", "ProcessPoolExecutor"} <= found["seconds"].keys()
        for figures in found["seconds"].values():
            assert tuple(figures) == self.NAMES
            assert all(0 <= figure < 10 for figure in figures.values())
            assert figures["cold"] > 0 and figures["call"] > 0 and figures["placing"] > 0

    def test_table(self):
        found = {"shmmap": dict.fromkeys(self.NAMES, 1.23456e-4)}
        found["x" * 12] = {name: 10.0**-k for k, name in enumerate(self.NAMES)}
        head, *rows = table(found)
        assert head.split() == ["shmmap", "x" * 12]
        assert [row.split()[-4:] for row in rows] == [
            ["123", "us", value, unit]
            for value, unit in [
                ("1.00", "s"),
                ("100", "ms"),
                ("10.0", "ms"),
                ("1.00", "ms"),
                ("100", "us"),
            ]
        ]
        assert len({len(line) for line in [head, *rows]}) == 1


class TestHelp:
    @pytest.mark.parametrize("args", [("--help",), *[(name, "--help") for name in COMMANDS]])
    def test_help(self, folder, args):
        done = folder.run(*args)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: shmmap")

    def test_version(self, folder):
        assert folder.run("--version").stdout == f"shmmap {shmmap.__version__}\n"

    @pytest.mark.parametrize(
        "args",
        [("--version",), ("--help",), (), *[(name, "--help") for name in COMMANDS], ("top", "x")],
    )
    def test_numpy_is_not_imported_for_so_little(self, folder, args):
        """It takes longer than all the rest together."""
        (folder.path / "numpy.py").write_text("raise SystemExit(77)")
        program = (
            f"import sys; sys.argv[1:] = {args}; from shmmap._cli import main; sys.exit(main())"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=folder.path, capture_output=True)
        assert done.returncode == (0 if "--" in "".join(args) else 2)

    def test_reader_that_leaves(self, folder):
        """``shmmap info | head -c 0`` is no reason for a traceback."""
        read_end, write_end = os.pipe()
        os.close(read_end)
        done = folder.run("info", capture_output=False, stdout=write_end, stderr=subprocess.PIPE)
        os.close(write_end)
        assert done.stderr == ""
