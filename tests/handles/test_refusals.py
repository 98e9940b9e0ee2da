"""What has no handle, and handles that cannot be opened: each is refused with the reason and the way out."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._memory import exports, locations, origins, reachable
from tests.handles import reader
from tests.handles.reader import Reader
from tests.helpers import run_script

# ---------------------------------------------------------------- at handle()


def test_what_has_no_handle(tmp_path: Path) -> None:
    def refused(a: Any, error: type[Exception] = TypeError) -> str:
        with pytest.raises(error) as caught:
            shmmap.handle(a)
        return str(caught.value)

    asshared = "shmmap.handle(shmmap.asshared(a))"
    assert asshared in refused(np.zeros(3))
    assert asshared in refused(shmmap.zeros(3) + 1)
    assert asshared in refused(np.zeros((0, 3)))
    assert asshared in refused([1, 2])
    assert "share" in refused({"a": np.zeros(3)})
    assert "shmmap.handle(shmmap.share(a))" in refused(np.ma.masked_array([1, 2], [True, False]))
    half = np.ma.MaskedArray(shmmap.zeros(2), [True, False], copy=False)
    assert "shmmap.share(a)" in refused(half), "its mask is private"
    assert "object" in refused(np.array([None]))
    np.save(tmp_path / "a.npy", np.zeros(100))
    private = shmmap.load(tmp_path / "a.npy", "c")
    assert "mode 'c'" in refused(private)
    mapped = shmmap.load(tmp_path / "a.npy", "r")
    os.unlink(tmp_path / "a.npy")
    assert "was removed" in refused(mapped)
    for lease in (True, "long", None, float("nan")):
        with pytest.raises((TypeError, ValueError), match="lease"):
            shmmap.handle(shmmap.zeros(1), lease=lease)  # type: ignore[arg-type]


def test_without_proc_a_handle_is_refused(monkeypatch: Any, tmp_path: Path) -> None:
    def no_proc() -> Any:
        raise FileNotFoundError("/proc/self")

    monkeypatch.setattr(reachable, "this_process", no_proc)
    with pytest.raises(NotImplementedError, match=r"/proc.*shmmap\.load"):
        shmmap.handle(shmmap.zeros(3))
    np.save(tmp_path / "a.npy", np.zeros(100))
    shmmap.handle(shmmap.load(tmp_path / "a.npy", "r+"))


# ---------------------------------------------------------------- where it arrives


def changed(a: Any, **changes: Any) -> Any:
    """A handle as it arrives where something has changed since it was pickled."""
    packed = locations.pack(a, 0.0)
    assert isinstance(packed, tuple)
    memory = locations._Memory(*packed)
    owner = origins.Process(*memory.owner)
    owner = owner._replace(**{k: v for k, v in changes.items() if k in owner._fields})
    memory = memory._replace(**{k: v for k, v in changes.items() if k in memory._fields})
    id = (memory.handle[0] + 1, *memory.handle[1:])  # else it would be found at home
    return exports._restore(tuple(memory._replace(owner=tuple(owner), handle=id)), 0.0)


def why(handle: Any, error: type[Exception] = shmmap.SharedMemoryError) -> str:
    assert "could not be reached" in repr(handle)
    for _ in range(2):  # each time it is asked for
        with pytest.raises(error) as caught:
            handle.array()
    onward = pickle.loads(pickle.dumps(handle))
    with pytest.raises(error):
        onward.array()
    return str(caught.value)


def test_of_another_time_or_place() -> None:
    x = shmmap.zeros(1000)
    me = os.getpid()
    assert "another one, or of before a restart" in why(changed(x, machine="other"))
    text = why(changed(x, namespace="pid:[1]"))
    assert "container" in text and str(me) in text
    assert f"process {me}, which has ended" in why(changed(x, started="1")), "the pid is used again"
    assert f"process {(1 << 22) + 1}, which has ended" in why(changed(x, pid=(1 << 22) + 1))
    for fd in (0, 1 << 20):  # another file by now, or none
        text = why(changed(x, fd=fd))
        assert f"process {me}, which has dropped it" in text and "keep the array there" in text


def test_a_descriptor_that_was_closed_and_used_again_is_not_opened(tmp_path: Path) -> None:
    """Not even looked into: opening a pipe or a device may do something."""
    x = shmmap.zeros(1000)
    reading, writing = os.pipe()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    fd = os.open(fifo, os.O_RDWR)
    for other in (reading, writing, fd):
        assert "has dropped it" in why(changed(x, fd=other))
    for each in (reading, writing, fd):
        os.close(each)


def test_an_array_in_a_file_that_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with Reader() as there:
        for change in ("removed", "replaced", "cut short"):
            np.save(path, np.zeros(100_000))
            sent = pickle.dumps(shmmap.handle(shmmap.load(path, "r+")))
            if change == "removed":
                os.unlink(path)
            elif change == "replaced":
                np.save(tmp_path / "b.npy", np.zeros(100_000))
                os.replace(tmp_path / "b.npy", path)
            else:
                os.truncate(path, 5000)
            handle = pickle.loads(pickle.dumps((reader.look.__name__, (pickle.loads(sent),))))
            del handle
            error = ValueError if change == "cut short" else FileNotFoundError
            with pytest.raises(error, match=change):
                there.send(call_with(sent))


def call_with(sent: bytes) -> bytes:
    """What has the reader look at a handle that is pickled already."""
    return pickle.dumps((reader.look.__name__, (Sent(sent),)))


class Sent:
    """Comes out as what was pickled before."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> Any:
        return pickle.loads, (self.data,)


NOBODY = 65534
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be another user")


@pytest.mark.privileged
@only_root
def test_of_another_user(tmp_path: Path) -> None:
    source = f"""
        import os, pickle, sys
        import shmmap

        shmmap.handle(shmmap.zeros(1))  # now all is imported, which that user might not read
        os.setuid({NOBODY})
        try:
            pickle.load(sys.stdin.buffer).array()
        except PermissionError as error:
            print(error)
    """
    sent = pickle.dumps(shmmap.handle(x := shmmap.zeros(1000), lease=0))
    with open(tmp_path / "sent", "w+b") as file:
        file.write(sent)
        file.seek(0)
        done = run_script(tmp_path, source, stdin=file)
    assert done.stderr == ""
    assert f"process {os.getpid()} belongs to another user (id 0)" in done.stdout
    del x


@pytest.mark.privileged
@only_root
def test_of_a_process_that_has_changed_its_user(tmp_path: Path) -> None:
    """Of such a one nobody but root may see the descriptors, its own user neither."""
    source = f"""
        import os, pickle
        import shmmap

        shmmap.handle(shmmap.zeros(1))
        reading, writing = os.pipe()
        os.setuid({NOBODY})
        if os.fork() == 0:
            try:
                pickle.loads(os.read(reading, 10_000)).array()
            except PermissionError as error:
                print(error, flush=True)
            os._exit(0)
        made_after_the_fork = shmmap.handle(shmmap.ones(200_000))
        os.write(writing, pickle.dumps(made_after_the_fork))
        os.wait()
    """
    done = run_script(tmp_path, source)
    assert done.stderr == ""
    assert "lets nobody look into it" in done.stdout


@pytest.mark.privileged
@only_root
def test_of_another_container() -> None:
    x = shmmap.zeros(1000)
    with Reader("unshare", "--pid", "--fork", "--mount-proc") as there:
        with pytest.raises(shmmap.SharedMemoryError, match=f"process {os.getpid()} of another one"):
            there(reader.look, shmmap.handle(x, lease=0))


def test_a_stale_handle_does_not_hang_a_pool(tmp_path: Path) -> None:
    """A pool whose task does not unpickle waits for it for ever; so what is wrong is told in the function."""
    done = run_script(
        tmp_path,
        """
        import multiprocessing, pickle, sys
        import shmmap
        from tests.handles import reader

        if __name__ == "__main__":
            stale = pickle.dumps(shmmap.handle(shmmap.zeros(200_000), lease=0))
            context = multiprocessing.get_context("fork")
            with context.Pool(1) as pool:
                try:
                    pool.apply(reader.look, (pickle.loads(stale),))
                except shmmap.SharedMemoryError as error:
                    print("refused:", error)
        """,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.startswith("refused:") and "has dropped it" in done.stdout
    assert done.stderr == ""


def test_pickled_to_disk_and_read_later(tmp_path: Path) -> None:
    path = tmp_path / "handle.pickle"
    run_script(
        tmp_path,
        f"""
        import pickle, shmmap
        pickle.dump(shmmap.handle(shmmap.zeros(1000)), open({str(path)!r}, "wb"))
        """,
    )
    with open(path, "rb") as file:
        handle = pickle.load(file)
    with pytest.raises(shmmap.SharedMemoryError, match=r"process \d+, which has ended"):
        handle.array()


def test_readable_by_type_checkers() -> None:
    x = shmmap.zeros(3)
    h: shmmap.Handle[Any] = shmmap.handle(x)
    assert isinstance(h, shmmap.Handle) and sys.getsizeof(h) < 200
