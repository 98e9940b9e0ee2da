"""`multiprocessing` and `concurrent.futures`: maps in their children, and they in mapped functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import run_script

CHILD = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    import numpy as np
    import shmmap

    METHOD = {method!r}

    def in_child(n):
        x = shmmap.asshared(np.arange(float(n)))
        return float(shmmap.preduce(np.sum, x, workers=2))

    def run(queue):
        queue.put(in_child(10))

    if __name__ == "__main__":
        context = multiprocessing.get_context(METHOD)
        shmmap.pmap(abs, [-1], workers=2)  # a team of the parent's is there
        queue = context.Queue()
        child = context.Process(target=run, args=(queue,))
        child.start()
        print(queue.get(), end=" ")
        child.join()
        with context.Pool(2) as pool:
            print(*pool.map(in_child, [3, 4]), end=" ")
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            print(*pool.map(in_child, [5, 6]), child.exitcode)
"""

INSIDE = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    import numpy as np
    import shmmap

    def outside(v):
        with multiprocessing.get_context({method!r}).Pool(2) as pool:
            return int(sum(pool.map(abs, [-v, -v])))

    def by_executor(v):
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context({method!r})) as pool:
            return int(sum(pool.map(abs, [-v, -v])))

    if __name__ == "__main__":
        print(*shmmap.pmap(outside, [1, 2], workers=2), *shmmap.pmap(by_executor, [3, 4], workers=2))
"""

methods = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])


@pytest.mark.few(1)
@methods
def test_maps_in_children(tmp_path: Path, method: str) -> None:
    done = run_script(tmp_path, CHILD.format(method=method), timeout_s=110)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout == "45.0 3.0 6.0 10.0 15.0 0\n"


@pytest.mark.few(1)
@methods
def test_pools_in_mapped_functions(tmp_path: Path, method: str) -> None:
    done = run_script(tmp_path, INSIDE.format(method=method), timeout_s=110)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout == "2 4 6 8\n"
