"""Maps in the children of `multiprocessing`, where the program's own module has a name of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..helpers import run_script

PROGRAM = """
    import multiprocessing, sys
    import shmmap
    import mine

    K = 3

    def f(v):
        return v * K

    def through(v):
        return mine.f(v)

    class C:
        kind = "mine"

    def prepare():
        global ready
        ready = 7

    def look(i):
        return ready

    def child(queue, start):
        global K
        try:
            queue.put(maps(start))
        except BaseException as exc:
            queue.put(repr(exc))

    def maps(start):
        global K
        with shmmap.Team(2, start=start, initializer=prepare) as team:
            told = [shmmap.pmap(f, [1, 2], engine=team)]
            K = 10
            mine.K = 5
            told.append(shmmap.pmap(f, [1, 2], engine=team))
            told.append(shmmap.pmap(lambda v: f(v) + 1, [1, 2], engine=team))
            told.append(shmmap.pmap(through, [1, 2], engine=team))
            told.append(shmmap.pmap(look, [1], engine=team) + [team.submit(f, 1).result()])
            made = [*shmmap.pmap(lambda v: C(), [1], engine=team), team.submit(C).result()]
            told.append([type(each) is C for each in made])
        return told

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(queue, sys.argv[2]))
        process.start()
        print(queue.get())
        process.join()
"""


@pytest.mark.few(1)
@pytest.mark.parametrize("start", ["clean", "fork"])
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_functions_of_the_script(tmp_path: Path, method: str, start: str) -> None:
    """In a child they are of ``__mp_main__``, which no worker can import: they go by value."""
    (tmp_path / "mine.py").write_text("K = 2\n\n\ndef f(v):\n    return v * K\n")
    done = run_script(tmp_path, PROGRAM, method, start)
    told = "[[3, 6], [10, 20], [11, 21], [5, 10], [7, 10], [True, True]]\n"
    assert (done.stdout, done.stderr) == (told, "")
