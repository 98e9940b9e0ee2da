"""Faults 26 to 34: what happens to the caller, to the helpers, and to the platform."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import textwrap
from pathlib import Path

import pytest

from shmmap.testing import wait_until
from tests.helpers import Terminal, in_time, is_alive, process_tree, start_script, write_script

from .common import COMMON, run_program, times

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

    @pytest.mark.quick
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


class Test28Interrupted:
    """Ctrl-C, SIGTERM, SIGHUP in a terminal: one traceback, prompt back, nobody left."""

    BUSY = """
        import signal, sys, time
        import numpy as np, shmmap
        from shmmap.testing import wait_until
        running = shmmap.zeros(2, bool)
        def busy(i):
            running[i] = True
            wait_until(running.all)
            if i == 0:
                print("running", flush=True)
            time.sleep(20)
        shmmap.pmap(busy, np.arange(2), workers=2, engine=sys.argv[1], chunksize=1)
    """

    @pytest.mark.parametrize("engine", ["processes", "fork"])
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
    def test_other_signals(self, tmp_path: Path, engine: str, number: signal.Signals) -> None:
        with Terminal(write_script(tmp_path, self.BUSY), engine) as terminal:
            terminal.read_until("running\n")
            tree = process_tree(terminal.process.pid)
            with in_time(3):
                terminal.process.send_signal(number)
                assert terminal.read_to_end() == ""
            assert terminal.process.returncode == -number
            wait_until(lambda: not any(map(is_alive, tree)), 2)

    @pytest.mark.parametrize("engine", ["processes", "fork"])
    def test_terminal_closes(self, tmp_path: Path, engine: str) -> None:
        """The terminal goes away: a real SIGHUP, to the whole session."""
        terminal = Terminal(write_script(tmp_path, self.BUSY), engine)
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

    @pytest.mark.quick
    def test_sigterm_turned_into_an_exception(self, tmp_path: Path) -> None:
        """As servers do: the exception comes out of the map, and nothing stays behind."""
        source = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        script = write_script(tmp_path, source + textwrap.dedent(self.BUSY))
        with Terminal(script, "processes") as terminal:
            terminal.read_until("running\n")
            tree = process_tree(terminal.process.pid)
            with in_time(3):
                terminal.process.terminate()
                assert terminal.read_to_end() == ""
            assert terminal.process.returncode == 7
            wait_until(lambda: not any(map(is_alive, tree)), 2)

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

    @pytest.mark.timeout(900)
    def test_twice_in_quick_succession(self, tmp_path: Path) -> None:
        """The second one may cut the clean-up short; but nobody is left, and it ends."""
        script = write_script(tmp_path, self.BUSY)
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


class Test29UserForks:
    """`os.fork` by the user, with live arrays and a live team; also inside a map."""

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

    @pytest.mark.quick
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


class Test30BusyCaller:
    """Threads that hold locks and a warm BLAS pool in the caller: no hang with the default start.

    ``start="fork"`` cannot promise that: the handler that OpenBLAS runs before a fork waits for its threads,
    and for ever if another thread has work for them.
    """

    @pytest.mark.quick
    def test_no_hang(self, tmp_path: Path) -> None:
        printed = run_program(
            tmp_path,
            """
            import logging, threading
            big = np.random.default_rng(0).random((300, 300))
            expected = big @ big  # the pool of BLAS threads is warm from here on
            stop = threading.Event()
            log = logging.getLogger("busy")
            log.addHandler(logging.NullHandler())
            locks = [threading.Lock() for _ in range(3)]
            def hold(lock):
                while not stop.is_set():
                    with lock:
                        log.warning("held")
                        big @ big
            threads = [threading.Thread(target=hold, args=(lock,), daemon=True) for lock in locks]
            for thread in threads:
                thread.start()
            x = shmmap.asshared(np.stack([big] * 4))
            for _ in range(5):
                got = shmmap.pmap(lambda m: m @ m, x, workers=2)
                assert np.allclose(got, expected)
                shmmap.shutdown()
            stop.set()
            for thread in threads:
                thread.join()
            print("right")
            """,
        )
        assert printed == "right\n"


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
                if int(parent) == os.getpid() and "_template" in command:
                    return int(pid)
    team = shmmap.Team(workers=2)
    works(engine=team)
    """

    @pytest.mark.quick
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


class Test34Fallbacks:
    """No ``/proc``, no pidfd, no memfd, no reservation, no ``/dev/shm``: what is left holds."""

    USE = """
    for start in ("clean", "fork"):
        with shmmap.Team(workers=2, start=start) as team:
            works(engine=team)
            x = shmmap.asshared(np.arange(1 << 18))
            got = shmmap.pmap_chunks(np.negative, x, engine=team)
            assert (got == -np.arange(1 << 18)).all()
            try:
                shmmap.pmap(lambda i: os.kill(os.getpid(), 9), np.arange(4), engine=team)
            except shmmap.WorkerDied as error:
                assert "SIGKILL" in str(error) or "unknown" in str(error), error
                assert error.failed, error
            else:
                raise AssertionError("nothing died")
            works(engine=team)
    works(engine="fork")
    works()
    """

    # Patched before anything is imported, in the caller and, by a site directory, in the template.
    MISSING: dict[str, str] = {  # noqa: RUF012 - constant
        "pidfd": """
            import os, signal
            del os.pidfd_open
            del signal.pidfd_send_signal
        """,
        "memfd": """
            import os
            del os.memfd_create
        """,
        "fallocate": """
            import os
            del os.posix_fallocate
        """,
        "shm": """
            import os, _posixshmem
            def shm_open(*args, **options):
                raise OSError(38, "Function not implemented")
            _posixshmem.shm_open = shm_open
        """,
        "shm and memfd": """
            import os, _posixshmem
            del os.memfd_create
            def shm_open(*args, **options):
                raise OSError(38, "Function not implemented")
            _posixshmem.shm_open = shm_open
        """,
        "proc": """
            import builtins, io, os
            real_open, real_listdir, real_exists, real_os_open = (
                open, os.listdir, os.path.exists, os.open)
            def hidden(path):
                return isinstance(path, str) and path.startswith("/proc")
            def refuse(real):
                def call(path, *args, **options):
                    if hidden(path):
                        raise FileNotFoundError(2, "No such file or directory", path)
                    return real(path, *args, **options)
                return call
            builtins.open = io.open = refuse(real_open)
            os.listdir, os.open = refuse(real_listdir), refuse(real_os_open)
            os.path.exists = lambda path: not hidden(path) and real_exists(path)
        """,
    }

    @pytest.mark.parametrize("what", MISSING)
    def test_maps_and_deaths(self, tmp_path: Path, what: str) -> None:
        """Also in the template and the workers, which load the same ``sitecustomize``."""
        (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(self.MISSING[what]))
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        printed = run_program(
            tmp_path,
            f"import sitecustomize\nassert sitecustomize.__file__ == {str(tmp_path)!r} + "
            "'/sitecustomize.py'\n" + textwrap.dedent(self.USE) + "\nprint('held')",
            env=os.environ | {"PYTHONPATH": path},
        )
        assert printed == "held\n"

    @pytest.mark.parametrize("what", ["pidfd", "proc"])
    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_lifelines_need_none_of_them(self, tmp_path: Path, what: str, start: str) -> None:
        """SIGKILL of the caller: no worker outlives it, GIL held or not."""
        (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(self.MISSING[what]))
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        script = start_script(
            tmp_path,
            COMMON
            + textwrap.dedent(
                """
                from shmmap.testing import HoldGil
                running = shmmap.zeros(2, bool)
                hold = HoldGil(20)
                def busy(i):
                    running[i] = True
                    wait_until(running.all)
                    if i == 0:
                        print("running", flush=True)
                    hold(i)
                team = shmmap.Team(workers=2, start=sys.argv[1])
                shmmap.pmap(busy, np.arange(2), engine=team, chunksize=1)
                """
            ),
            start,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert script.stdout is not None and script.stderr is not None
        assert script.stdout.readline() == "running\n"
        tree = process_tree(script.pid)
        try:
            script.kill()
            wait_until(lambda: not any(map(is_alive, tree)), 2)
        finally:
            for pid in filter(is_alive, tree):
                os.kill(pid, signal.SIGKILL)
            script.wait()
            script.stdout.close()
            script.stderr.close()


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
