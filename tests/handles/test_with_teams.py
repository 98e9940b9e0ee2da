"""Handles and the library's own workers; `multiprocessing` inside of them, and they inside its children."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests import functions
from tests.handles import reader
from tests.handles.reader import Reader
from tests.helpers import run_script

SHAPES = {"large": (300, 500), "small": (3, 5)}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> tuple[int, int]:
    return SHAPES[request.param]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Reader]:
    with Reader() as there:
        yield there


def test_captured_passed_and_mapped(team: shmmap.Team, shape: tuple[int, int]) -> None:
    x = shmmap.zeros(shape)
    h = shmmap.handle(x[::2])

    def write(i: int, h: Any = h) -> tuple[bool, bool]:
        h.array()[:, i] = i + 1
        return shmmap.is_shared(h.array()), np.shares_memory(h.array(), x)

    assert shmmap.pmap(write, range(3), engine=team) == [(True, True)] * 3
    assert x[0, :3].tolist() == [1, 2, 3] and not x[1].any()
    team.submit(reader.fill, h, 7).result(20)
    assert (x[::2] == 7).all()
    handles = [shmmap.handle(row) for row in x]
    assert shmmap.pmap(lambda h: float(h.array()[0]), handles, engine=team) == x[:, 0].tolist()


def test_made_in_a_worker_and_returned(team: shmmap.Team, shape: tuple[int, int]) -> None:
    def make(i: int) -> Any:
        x = shmmap.full(shape, float(i))
        functions.kept.append(x)
        return shmmap.handle(x[1:])

    made = [team.submit(make, 5).result(20), *shmmap.pmap(make, [6, 7], engine=team)]
    arrays = [h.array() for h in made]
    assert [float(a[0, 0]) for a in arrays] == [5, 6, 7]
    assert all(a.shape == (shape[0] - 1, shape[1]) and shmmap.is_shared(a) for a in arrays)
    for a in arrays:
        a += 1
    seen = shmmap.pmap(lambda h: float(h.array()[-1, -1]), made, engine=team)
    assert seen == [6, 7, 8], "it is the same memory, in either worker"


def test_the_callers_own_comes_home(team: shmmap.Team, shape: tuple[int, int]) -> None:
    x = shmmap.zeros(shape)
    back = team.submit(lambda: [shmmap.handle(x[i:]) for i in range(2)]).result(20)
    assert all(np.shares_memory(h.array(), x) for h in back)
    assert back[1].array().strides == x.strides


def test_kept_by_a_worker() -> None:
    """A function that keeps a handle keeps the memory, as one that keeps a view does."""
    with shmmap.Team(1) as team:
        x = shmmap.full(1 << 20, 3, np.uint8)
        team.submit(reader.keep, shmmap.handle(x)).result(20)
        del x
        gc.collect()
        y = shmmap.full(1 << 20, 7, np.uint8)
        assert (team.submit(reader.read, -1).result(20) == 3).all()
        del y


def test_on_every_engine(engine: Any) -> None:
    x = shmmap.zeros(4)
    handles = [shmmap.handle(x[i:]) for i in range(4)]

    def write(h: Any) -> Any:
        h.array()[0] += 1
        return h

    back = shmmap.pmap(write, handles, engine=engine)
    assert x.tolist() == [1] * 4
    assert all(np.shares_memory(h.array(), x) for h in back)


def test_in_workers_that_were_forked_from_their_caller() -> None:
    """They have the caller's memory by the fork, and no table of it."""
    x, small = shmmap.zeros((300, 500)), shmmap.zeros(5)

    def make(i: int) -> Any:
        a = (x, small)[i]
        a[0] += 1
        assert pickle.loads(pickle.dumps(shmmap.handle(a[:1]))).array()[0].all()
        with pytest.raises(TypeError, match="asshared"):
            shmmap.handle(np.zeros((300, 500)))
        return shmmap.handle(a[::-1])

    for h, a in zip(shmmap.pmap(make, range(2), engine="fork"), (x, small), strict=True):
        assert np.shares_memory(h.array(), a) and a[0].all()


BOTH = """
    import multiprocessing, sys
    import numpy as np, shmmap
    import parts

    def halve(row):
        return row / 2

    def child(start, h, queue):
        with shmmap.Team(2, start=start) as team:  # a team inside a child of multiprocessing
            x = h.array()
            shmmap.pmap(halve, x, out=x, engine=team)
            queue.put(shmmap.handle(shmmap.pmap(np.sum, x, engine=team)))

    def inside(method, x):  # multiprocessing inside a worker
        context = multiprocessing.get_context(method)
        process = context.Process(target=parts.add, args=(shmmap.handle(x),))
        process.start()
        process.join()
        with context.Pool(1) as pool:
            pool.apply(parts.add, (shmmap.handle(x[:1]),))
            pool.close()
            pool.join()
        return process.exitcode

    if __name__ == "__main__":
        method, start = sys.argv[1:]
        context = multiprocessing.get_context(method)
        x, queue = shmmap.full((300, 500), 4.0), context.Queue()
        # First: a process that is forked later has no fork server, and `multiprocessing` thinks it has.
        with shmmap.Team(1, start=start) as team:
            code = team.submit(inside, method, x).result()
            print(code, (x[0] == 6).all(), (x[1:] == 5).all())
        process = context.Process(target=child, args=(start, shmmap.handle(x), queue))
        process.start()
        sums = queue.get().array()
        process.join()
        print(process.exitcode, (x[0] == 3).all(), (sums[1:] == 1250).all())
"""


@pytest.mark.few(2)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("start", ["clean", "fork"])
def test_each_inside_the_other(tmp_path: Path, method: str, start: str) -> None:
    # In a module: of a worker's children, only those that are forked find functions of `__main__`.
    (tmp_path / "parts.py").write_text("def add(h):\n    h.array()[...] += 1\n")
    done = run_script(tmp_path, BOTH, method, start)
    assert (done.stdout, done.stderr) == ("0 True True\n0 True True\n", "")


REDUCERS = """
    import multiprocessing, sys
    from concurrent.futures import ProcessPoolExecutor
    import numpy as np, shmmap

    def look(x, value):
        if x.flags.writeable:
            x[...] = value
        return shmmap.is_shared(x), type(x).__name__

    def make(value):
        return shmmap.full(20_000, value)

    if __name__ == "__main__":
        shmmap.register_reducers()
        shmmap.register_reducers()
        context = multiprocessing.get_context(sys.argv[1])
        large, small, private = shmmap.zeros((2, 20_000)), shmmap.zeros(10), np.zeros(20_000)
        np.save(sys.argv[2], large)
        mapped = shmmap.load(sys.argv[2], "r+")
        with ProcessPoolExecutor(
            1, mp_context=context, initializer=shmmap.register_reducers
        ) as pool:
            for a in (large, large[1:], large[:, ::2], small, private, mapped):
                print(pool.submit(look, a, 3).result(), float(a.sum()))
            made = pool.submit(make, 2.0).result()
            print(shmmap.is_shared(made), float(made.sum()))
        process = context.Process(target=look, args=(large, 5.0))
        process.start()
        process.join()
        print((large == 5).all())
        reader, writer = context.Pipe()
        writer.send([large, private])
        back, copy = reader.recv()
        print(np.shares_memory(back, large), np.array_equal(copy, private))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_reducers(tmp_path: Path, method: str) -> None:
    done = run_script(tmp_path, REDUCERS, method, str(tmp_path / "a.npy"))
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "(True, 'ndarray') 120000.0",
        "(True, 'ndarray') 60000.0",
        "(True, 'ndarray') 60000.0",
        "(False, 'ndarray') 0.0",
        "(False, 'ndarray') 0.0",
        "(True, 'memmap') 120000.0",
        "True 40000.0",
        "True",
        "True True",
    ]


def test_threads_pickle_and_open_at_once(elsewhere: Reader) -> None:
    """Each finds its own array, and memory is mapped once."""
    from concurrent.futures import ThreadPoolExecutor

    arrays = [shmmap.full(50_000 if i % 2 else 10, float(i)) for i in range(8)]

    def there_and_back(i: int) -> bool:
        a = arrays[i % len(arrays)]
        h = pickle.loads(pickle.dumps(shmmap.handle(a[1:])))
        return bool(np.shares_memory(h.array(), a)) and bool((h.array() == a[0]).all())

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(there_and_back, range(400)))
