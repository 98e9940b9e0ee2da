"""What cannot be sent to workers is named, and the advice is safe: what is advised gives right results."""

from __future__ import annotations

import concurrent.futures
import functools
import gzip
import io
import multiprocessing
import os
import re
import socket
import sqlite3
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import sharedctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap

ITEMS = 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "values"
    path.write_bytes(np.arange(ITEMS).tobytes())
    return path


@contextmanager
def refused(variable: str, engine: str | None = None) -> Iterator[None]:
    """Expect a refusal that names a variable, and advises no engine, or the one that works."""
    with pytest.raises(TypeError) as caught:
        yield
    message = str(caught.value)
    assert re.search(rf"(: |^){re.escape(variable)} is (of type|an open file)", message), message
    assert message.count("cannot be") == 1
    advised = re.findall(r"engine='\w+'|start='\w+'", message)
    assert advised[:1] == ([] if engine is None else [engine])
    assert "inside the function" in message or engine is not None


# ---------------------------------------------------------------- handles


def read_at(src: Any, i: Any) -> Any:
    src.seek(8 * i)
    return int.from_bytes(src.read(8), "little")


class Reader:
    def __init__(self, src: Any) -> None:
        self.src = src

    def read(self, i: Any) -> Any:
        return read_at(self.src, i)

    __call__ = read


def make_calls(src: Any) -> dict[str, Callable[[Any], Any]]:
    """The same function with the file as variable, argument, default and attribute; by the name expected."""

    def by_default(i: Any, handle: Any = src) -> Any:
        return read_at(handle, i)

    def inner(i: Any) -> Any:
        return read_at(src, i)

    readers = {"a": [Reader(src)]}
    return {
        "src": functools.partial(read_at, src),
        "src ": lambda i: read_at(src, i),
        "src in inner ": functools.wraps(inner)(lambda i: inner(i)),
        "handle": by_default,
        "self.src": Reader(src).read,
        "self.src ": Reader(src),
        "readers['a'][0].src": lambda i: readers["a"][0].read(i),
        "src in inner": lambda i: inner(i),
    }


@pytest.mark.parametrize("variable", list(make_calls(None)))
def test_open_file(team: shmmap.Team, path: Path, variable: str) -> None:
    """A14: the captured name, wherever the file is, and never another engine."""
    with open(path, "rb") as src:
        func = make_calls(src)[variable]
        with refused(variable.strip()):
            shmmap.pmap(func, np.arange(ITEMS), engine=team)
        with refused(variable.strip()):
            team.submit(func, 3).result()
        with refused(variable.strip()):
            list(team.map(func, range(3)))
        # Forked processes would share the file's position.
        with refused(variable.strip()):
            shmmap.pmap(func, np.arange(ITEMS), engine="fork")
        with refused(variable.strip()):
            with concurrent.futures.ProcessPoolExecutor(1) as executor:
                shmmap.pmap(func, np.arange(ITEMS), engine=executor)
        assert shmmap.pmap(func, range(ITEMS), engine="serial") == list(range(ITEMS))


def test_the_advice_gives_right_results(team: shmmap.Team, path: Path) -> None:
    """A14: opened inside by path, or by the initializer."""

    def read(i: Any) -> Any:
        with open(path, "rb") as src:
            return read_at(src, i)

    assert shmmap.pmap(read, range(ITEMS), engine=team) == list(range(ITEMS))

    with shmmap.Team(
        2, start=team._team.workers.start, initializer=keep_open, initargs=(path,)
    ) as other:
        assert shmmap.pmap(read_kept, range(ITEMS), engine=other) == list(range(ITEMS))


kept: Any = None


def keep(thing: Any) -> None:
    global kept
    kept = thing


def keep_open(path: Path) -> None:
    keep(open(path, "rb"))


def read_kept(i: Any) -> Any:
    return read_at(kept, i)


def make_handles(folder: Path, stack: ExitStack) -> Iterator[Any]:
    file = stack.enter_context(open(folder / "file", "wb+"))
    yield file
    yield stack.enter_context(open(folder / "text", "w+"))
    yield stack.enter_context(open(folder / "text"))  # which cloudpickle would read and copy
    yield stack.enter_context(open(folder / "file", "rb", buffering=0))
    yield stack.enter_context(tempfile.TemporaryFile())
    yield stack.enter_context(closing(sqlite3.connect(":memory:")))
    yield stack.enter_context(socket.socket())
    # Whose pickle would be the number of a descriptor.
    for end in multiprocessing.Pipe():
        yield stack.enter_context(end)


def make_holders(folder: Path, stack: ExitStack) -> Iterator[Any]:
    """Objects of libraries that hold a file and locks: the locks must not lead to unsafe advice."""
    yield stack.enter_context(gzip.open(folder / "zipped", "wb"))
    yield stack.enter_context(zipfile.ZipFile(folder / "archive", "w"))
    yield stack.enter_context(tempfile.NamedTemporaryFile())
    yield threading.Thread()
    yield threading.local()
    yield (i for i in range(3))
    h5py = pytest.importorskip("h5py")
    file = stack.enter_context(h5py.File(folder / "data.h5", "w"))
    yield file
    yield file.create_dataset("x", data=np.arange(3))


def same(thing: Any) -> Any:
    return thing


def test_all_kinds_of_handles(team: shmmap.Team, tmp_path: Path) -> None:
    """A14: files, connections, sockets; captured, as item, as argument, to an initializer."""
    with ExitStack() as stack:
        for handle in make_handles(tmp_path, stack):
            with refused("handle"):
                shmmap.pmap(lambda i, handle=handle: i, [1], engine=team)
            with refused("[0]"):
                shmmap.pmap(same, [handle], engine=team)
            with refused("it"):
                shmmap.pmap(lambda thing, i: i, handle, [1], axis=(None, 0), engine=team)
            with refused("thing"):
                team.submit(same, handle).result()
            for start in ("clean", "fork"):
                with refused("thing"):
                    shmmap.Team(1, start=start, initializer=keep, initargs=(handle,))
        for holder in make_holders(tmp_path, stack):
            with pytest.raises(TypeError, match=r"holder.* does not pickle") as caught:
                shmmap.pmap(lambda i, holder=holder: i, [1], engine=team)
            assert not re.search(r"engine=|start=", str(caught.value))


def test_files_in_memory_and_standard_streams(team: shmmap.Team) -> None:
    """They are no handles: they go as they are."""
    text, data = io.StringIO("text"), io.BytesIO(b"data")
    func = lambda i: (text.getvalue(), data.getvalue(), sys.stdout is not None)  # noqa: E731
    assert shmmap.pmap(func, [1], engine=team) == [("text", b"data", True)]
    assert shmmap.pmap(func, [1], engine="fork") == [("text", b"data", True)]
    out = sys.stdout
    assert shmmap.pmap(lambda i: out.write(""), [1], engine="fork") == [0]


# ---------------------------------------------------------------- locks and their like

FOR_FORKS = {
    "Lock": lambda c: c.Lock(),
    "RLock": lambda c: c.RLock(),
    "Semaphore": lambda c: c.Semaphore(1),
    "BoundedSemaphore": lambda c: c.BoundedSemaphore(1),
    "Condition": lambda c: c.Condition(),
    "Event": lambda c: c.Event(),
    "Barrier": lambda c: c.Barrier(2),
    "Queue": lambda c: c.Queue(),
    "JoinableQueue": lambda c: c.JoinableQueue(),
    "SimpleQueue": lambda c: c.SimpleQueue(),
    "Value": lambda c: c.Value("q", 0),
    "Array": lambda c: c.Array("q", 3),
    "RawValue": lambda c: sharedctypes.RawValue("q", 0),
    "RawArray": lambda c: sharedctypes.RawArray("q", 3),
}


@pytest.fixture(scope="module")
def _heap() -> None:
    """`multiprocessing` keeps the memory that its first value lies in: that is no leak of a test."""
    multiprocessing.Array("q", 100)


@pytest.mark.few(3)
@pytest.mark.usefixtures("_heap")
@pytest.mark.parametrize("name", FOR_FORKS)
def test_what_only_forked_processes_get(team: shmmap.Team, name: str) -> None:
    """C3: captured, as an argument, as an item, to the initializer of a clean team."""
    thing = FOR_FORKS[name](multiprocessing.get_context("fork"))
    with refused("thing", "start='fork'"):
        shmmap.pmap(lambda i: thing and i, [1], engine=team)
    with refused("thing", "start='fork'"):
        team.submit(same, thing).result()
    with refused("[0]", "start='fork'"):
        shmmap.pmap(same, [thing], engine=team)
    with refused("thing", "start='fork'"):
        shmmap.Team(1, initializer=keep, initargs=(thing,))
    with shmmap.Team(2, start="fork", initializer=keep, initargs=(thing,)) as forked:
        assert shmmap.pmap(kind_of_kept, [1], engine=forked) == [type(thing).__name__]


def kind_of_kept(i: Any) -> str:
    return type(kept).__name__


@pytest.mark.usefixtures("_heap")
def test_what_is_inherited_works() -> None:
    """C3: a lock locks, a value counts, a queue brings, and a barrier lets two workers through."""
    context = multiprocessing.get_context("fork")
    things = context.Lock(), context.Value("q", 0), context.Queue(), context.Barrier(2)
    things[2].put("the caller's own thread of the queue is there before the fork")
    assert things[2].get()
    with shmmap.Team(2, start="fork", initializer=keep, initargs=(things,)) as team:
        shmmap.pmap(meet_and_count, range(200), engine=team, chunksize=100)
        assert sorted(things[2].get(timeout=10) for _ in range(200)) == list(range(200))
        assert things[1].value == 200
        # A worker that takes the place of another has them, too.
        with pytest.raises(shmmap.WorkerDied):
            team.submit(end_worker).result()
        assert set(shmmap.pmap(kind_of_kept, range(8), engine=team)) == {"tuple"}
    things[2].close()
    things[2].join_thread()


def meet_and_count(i: Any) -> None:
    lock, value, queue, barrier = kept
    if i % 100 == 0:
        barrier.wait(10)
    with lock:
        value.get_obj().value += 1
    queue.put(int(i))


def end_worker() -> None:
    os._exit(1)


def test_locks_of_threads(team: shmmap.Team) -> None:
    """A14: within one process they work, so that is what is advised, and is right."""
    lock = threading.Lock()
    total = shmmap.zeros(1)

    def add(i: Any) -> None:
        with lock:
            total[0] += 1

    with refused("lock", "engine='threads'"):
        shmmap.pmap_chunks(lambda c: lock and c, np.arange(9), engine=team)
    shmmap.pmap(add, range(300), engine="threads", workers=4, chunksize=1)
    assert total[0] == 300
