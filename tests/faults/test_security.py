"""Faults 35 to 38: nobody else reads, writes, squats or speaks."""

from __future__ import annotations

import faulthandler
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._memory import handles, nameless, table
from shmmap.testing import wait_until
from tests import functions
from tests.helpers import assert_next_map_works, assert_same, process_tree, run_python

from .common import BECOME_NOBODY, as_nobody, need_root, run_program


def shared_descriptors(pid: int) -> list[str]:
    """Paths under ``/proc`` of the shared memory that a process holds open."""
    folder = f"/proc/{pid}/fd"
    found = []
    for number in os.listdir(folder):
        target = os.readlink(f"{folder}/{number}") if os.path.lexists(f"{folder}/{number}") else ""
        if target.startswith(("/dev/shm/", "/memfd:")):
            found.append(f"{folder}/{number}")
    return found


class Test35OtherUsers:
    """Another uid can open nothing: not by name, not through ``/proc``."""

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
    @pytest.mark.parametrize("opener", ["posix", "memfd", "file"])
    def test_mode_is_0600_whatever_the_umask(self, umask: int, opener: str) -> None:
        before = os.umask(umask)
        try:
            fd = getattr(nameless, f"_open_{opener}")(4096)
        finally:
            os.umask(before)
        try:
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
            assert os.fstat(fd).st_nlink == 0, "it has no name"
        finally:
            os.close(fd)

    @pytest.mark.privileged
    @pytest.mark.parametrize("umask", ["0277", "0777"])
    def test_umask_that_takes_everything(self, umask: str) -> None:
        """Not even the owner may open what it makes then; root may, so another user tries."""
        need_root()
        code = f"""
import os, stat, sys
from shmmap._memory import nameless
os.close(nameless.open_nameless(100))
{BECOME_NOBODY}
os.umask(int(sys.argv[1], 8))
for size in (100, 1 << 21):
    fd = nameless.open_nameless(size)
    status = os.fstat(fd)
    print(status.st_uid, oct(stat.S_IMODE(status.st_mode)), os.readlink(f"/proc/self/fd/{{fd}}")[:16])
"""
        done = run_python("-c", code, umask)
        assert (done.stdout, done.stderr) == ("65534 0o600 /dev/shm/shmmap-\n" * 2, "")

    @pytest.mark.privileged
    def test_nobody_opens_nothing(self, team: Any) -> None:
        a = shmmap.full(1 << 20, 7, np.uint8)
        shmmap.pmap_chunks(np.negative, a, engine=team)
        tree = process_tree(os.getpid())
        paths = [path for pid in tree for path in shared_descriptors(pid)]
        paths += [f"/proc/{pid}/mem" for pid in tree]
        assert len(paths) > len(tree)
        look = 'for p in "$@"; do if (: < "$p"); then echo opened; else echo refused; fi; done'
        done = as_nobody("sh", "-c", look, "sh", "/dev/null", *paths)
        assert done.stdout.splitlines() == ["opened"] + ["refused"] * len(paths)

    def test_no_names_at_rest(self, team: Any) -> None:
        held = [shmmap.zeros(size) for size in (10, 1 << 18)]
        shmmap.pmap(lambda i: bytes(1 << 20), range(4), engine=team)
        pids = process_tree(os.getpid())
        for name in os.listdir("/dev/shm"):
            assert not any(name.startswith(f"shmmap-{pid}-") for pid in pids)
        assert len(held) == 2

    def test_names_while_they_exist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Random, and made with ``O_EXCL``: 64 bits that nobody can guess in some microseconds."""
        import _posixshmem

        seen: list[tuple[str, int, int]] = []
        real = _posixshmem.shm_open

        def shm_open(name: str, flags: int, mode: int = 0o777) -> int:
            seen.append((name, flags, mode))
            return real(name, flags, mode=mode)

        monkeypatch.setattr(_posixshmem, "shm_open", shm_open)
        for _ in range(3):
            os.close(nameless._open_posix(4096))
        names = [name for name, _, _ in seen]
        assert len(set(names)) == 3
        for name, flags, mode in seen:
            assert flags & os.O_EXCL and flags & os.O_CREAT
            assert mode == 0o600
            assert len(name.split("-")[3]) >= 16


class Test36Squatters:
    """A name or link created beforehand by somebody else is never adopted."""

    @pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
    def test_name_that_is_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        """Even one that was guessed: the segment lies elsewhere, and the squatter gets nothing."""
        guessed = bytes(8)
        monkeypatch.setattr(nameless.os, "urandom", lambda n: guessed[:n])
        start = nameless.start_time(os.getpid())
        squatter = Path(f"/dev/shm/shmmap-{os.getpid()}-{start}-{guessed.hex()}")
        target = tmp_path / "target"
        if kind == "file":
            squatter.write_bytes(b"squat" * 1000)
        else:
            if kind == "link":
                target.write_bytes(b"squat" * 1000)
            squatter.symlink_to(target)
        try:
            fd = nameless.open_nameless(1 << 16)
            try:
                os.pwrite(fd, b"secret", 0)
                found = squatter if kind == "file" else target
                assert squatter.is_symlink() or squatter.exists(), "it is not ours to remove"
                if kind == "dangling link":
                    assert not target.exists()
                else:
                    assert found.read_bytes() == b"squat" * 1000
            finally:
                os.close(fd)
        finally:
            squatter.unlink(missing_ok=True)

    def test_names_of_other_users_are_not_swept(self, tmp_path: Path) -> None:
        if os.geteuid():
            pytest.skip("needs root")
        name = Path("/dev/shm/shmmap-999999998-1-abc")
        name.touch()
        os.chown(name, 65534, 65534)
        try:
            run_program(tmp_path, "shmmap.zeros(1)")
            assert name.exists()
        finally:
            name.unlink(missing_ok=True)


class Test37Channels:
    """No listening socket; what comes over the inherited sockets is all that is unpickled."""

    def test_nobody_listens(self, team: Any) -> None:
        shmmap.pmap(functions.double, np.arange(10), engine=team)
        inodes = set()
        for pid in process_tree(os.getpid()):
            for number in os.listdir(f"/proc/{pid}/fd"):
                try:
                    target = os.readlink(f"/proc/{pid}/fd/{number}")
                except OSError:
                    continue
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        assert inodes
        listening = set()
        for name in ("tcp", "tcp6", "udp", "udp6"):
            path = Path(f"/proc/net/{name}")
            for line in path.read_text().splitlines()[1:] if path.exists() else ():
                listening.add(line.split()[9])
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[3], 16) & 0x10000 or len(fields) > 7:  # it accepts, or has an address
                listening.add(fields[6])
        assert not inodes & listening

    @pytest.mark.parametrize("start", ["clean", "fork"])
    @pytest.mark.parametrize("kind", ["socket", "pipe", "socket pipe"])
    def test_stray_bytes_are_never_unpickled(self, tmp_path: Path, start: str, kind: str) -> None:
        """What a function writes to every descriptor it finds is not taken for a pickle, and told."""
        printed = run_program(
            tmp_path,
            """
            import pickle
            class Bomb:
                def __reduce__(self):
                    return os.open, (sys.argv[1], os.O_CREAT)
            bomb, kinds = pickle.dumps(Bomb()), tuple(sys.argv[3].split())
            # As logged records, and as warnings, too.
            bombs = [bomb, *(word + bytes(8) + bomb for word in (b"l", b"w", b"o", b"e"))]
            def write():
                for fd in range(3, 1024):
                    try:
                        if os.readlink(f"/proc/self/fd/{fd}").startswith(kinds):
                            os.set_blocking(fd, False)
                            for each in bombs:
                                os.write(fd, each)
                    except OSError:
                        pass
                written[0] = True
            written = shmmap.zeros(1, bool)
            def func(i):
                if i == 5:
                    write()
                return i
            with shmmap.Team(workers=2, start=sys.argv[2]) as team:
                works(engine=team)
                started = time.monotonic()
                for call in (
                    lambda: shmmap.pmap(func, np.arange(10), engine=team, chunksize=1),
                    lambda: team.submit(write).result(),
                ):
                    try:
                        call()
                    except RuntimeError as error:
                        assert "descriptors that are not its own" in str(error), error
                    wait_until(lambda: written[0])  # it goes on after the error
                    written[0] = False
                    works(engine=team)
                # The rest of what it wrote may yet end a submitted call, but not for long.
                wait_until(lambda: team.submit(pow, 2, 3).exception() is None)
                assert [team.submit(pow, 2, 3).result() for _ in range(9)] == [8] * 9
                print(time.monotonic() - started < 5)
            print(os.path.exists(sys.argv[1]))
            """,
            str(tmp_path / "exploded"),
            start,
            kind,
            timeout_s=30,
        )
        assert printed.splitlines() == ["True", "False"]


class Test38Handles:
    """A handle with a wrong size, offset or dtype, or of another array: refused, never mapped."""

    def handle(self, a: Any) -> Any:
        handle = handles.handle_of(a)
        assert isinstance(handle, handles.SegmentHandle)
        return handle

    @pytest.mark.parametrize(
        "change",
        [
            {"offset": -8},
            {"offset": 1 << 40},
            {"shape": (1 << 40,)},
            {"shape": (-1,)},
            {"strides": (1 << 30,)},
            {"strides": (-(1 << 30),)},
            {"dtype": "V1099511627776"},
            {"dtype": "O"},
            {"segment": 12345},
            {"shape": (5, 5)},
        ],
        ids=repr,
    )
    def test_wrong_handle_is_refused(self, change: dict[str, Any]) -> None:
        a = shmmap.asshared(np.arange(1 << 18, dtype="i8"))
        with pytest.raises((ValueError, KeyError, TypeError, OverflowError)):
            handles.from_handle(self.handle(a)._replace(**change))

    def test_right_handle_gives_the_array(self) -> None:
        a = shmmap.asshared(np.arange(1 << 18, dtype="i8"))
        b = handles.from_handle(self.handle(a[::-2]))
        assert np.shares_memory(a, b)
        assert b.tolist() == a[::-2].tolist()

    def test_segment_smaller_than_it_says_is_refused_before_it_is_mapped(self) -> None:
        fd = nameless.open_nameless(4096)
        number = os.dup(fd)
        os.close(fd)
        with pytest.raises(ValueError, match="4096"):
            table.attach_segment(table.new_segment_id(), number, 1 << 20)
        with pytest.raises(OSError):
            os.fstat(number)

    def test_file_that_was_replaced_is_refused(self, tmp_path: Path, team: Any) -> None:
        """By path, but device and inode must agree: another file in its place is another array."""
        path = tmp_path / "a.npy"
        np.save(path, np.zeros(1000))
        a = shmmap.load(path, "r+")
        os.unlink(path)
        np.save(path, np.ones(1000))
        try:
            sums = shmmap.pmap_chunks(np.sum, a, out=list, engine=team)
        except (ValueError, OSError) as error:
            assert "a.npy" in str(error)
        else:
            assert not any(sums), "what is mapped here is the old file"
        assert_next_map_works(team)

    def test_file_that_was_cut_short_is_no_bus_error(self, tmp_path: Path, team: Any) -> None:
        path = tmp_path / "a.npy"
        np.save(path, np.zeros(1 << 16))
        a = shmmap.load(path, "r")
        with open(path, "r+b") as file:
            file.truncate(1000)
        gone = r"a\.npy' was cut short .* 1,000 bytes, .* 524,416: .* \[109, 65536\) are gone"
        with pytest.raises(ValueError, match=gone):
            shmmap.pmap_chunks(np.sum, a, out=list, engine=team)
        assert_same(np.array(shmmap.pmap_chunks(np.negative, a[:109], engine=team)), -np.zeros(109))
        assert_next_map_works(team)

    @pytest.mark.parametrize("engine", ["serial", "threads", "processes", "fork"])
    @pytest.mark.parametrize("mode", ["r", "c"])
    def test_file_that_was_cut_short_on_every_engine(
        self, tmp_path: Path, engine: str, mode: str
    ) -> None:
        """Refused where it is passed or copied: reading it would end the caller itself."""
        np.save(tmp_path / "a.npy", np.zeros((1000, 100)))
        a = np.load(tmp_path / "a.npy", mmap_mode=mode)
        os.truncate(tmp_path / "a.npy", 4096 + 128)
        for call in (
            lambda: shmmap.pmap(np.sum, a, engine=engine),
            lambda: shmmap.pmap(np.sum, a[::-1, 5], engine=engine),
            lambda: shmmap.pmap(np.dot, np.ones(3), a, axis=(0, None), engine=engine),
            lambda: shmmap.asshared(a),
        ):
            with pytest.raises(ValueError, match="was cut short"):
                call()

    def test_file_that_is_cut_short_during_the_map(self, tmp_path: Path, team: Any) -> None:
        """The worker that reads there dies of it, not the caller, and the ranges are named."""
        path = tmp_path / "a.npy"
        np.save(path, np.zeros((4, 1 << 16)))
        a = shmmap.load(path, "r")
        met = shmmap.zeros(4, bool)

        def func(row: Any) -> Any:
            faulthandler.disable()  # a forked worker has that of pytest
            if not met[0]:
                os.truncate(path, 128 + a[0].nbytes)  # before any row is read
                met[0] = True
            wait_until(lambda: met[0])
            return row.sum()

        with pytest.raises((shmmap.WorkerDied, ValueError)) as caught:
            shmmap.pmap(func, a, engine=team, chunksize=1)
        assert "cut short" in str(caught.value)
        if isinstance(caught.value, shmmap.WorkerDied):
            assert "SIGBUS" in str(caught.value) and caught.value.failed[-1][1] > 1
        assert_next_map_works(team)
