"""``preduce(combine=)``: what it is given, what it may do, and what becomes of what it raises."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests.helpers import assert_same, run_script


def add_into(left: Any, right: Any) -> Any:
    left += right
    return left


class Boxed:
    """An object that is a partial, with state of its own."""

    def __init__(self, total: Any) -> None:
        self.total = total

    def __iadd__(self, other: Any) -> Any:
        self.total += other.total
        return self


def test_combine_may_change_its_left_argument(preduce: Any) -> None:
    """B11: where the partial is a view of the input, read-only, or one array every time."""
    x = shmmap.asshared(np.arange(20.0).reshape(10, 2))
    before = x.copy()
    held = np.ones(2)
    initial = np.full(2, 5.0)
    assert preduce(lambda c: c[0], x, combine=add_into, chunksize=1).tolist() == [90, 100]
    assert preduce(lambda c: c[0], before, combine=add_into, chunksize=1).tolist() == [90, 100]
    assert preduce(lambda c: held, x, combine=add_into, chunksize=1).tolist() == [10, 10]
    assert preduce(lambda c: c[0], x, combine=add_into, initial=initial).tolist() in (
        [95, 105],
        [5, 6],
    )
    assert preduce(
        lambda c: np.broadcast_to(1.0, 2), x, combine=add_into, chunksize=1
    ).tolist() == [10, 10]
    pair = preduce(lambda c: (c[0], [c[0]]), x, combine=add_into, chunksize=5)
    assert pair[0].tolist() == [10, 12]
    assert [each.tolist() for each in pair[1]] == [[0, 1], [10, 11]]
    assert preduce(lambda c: Boxed(c.sum()), x, combine=add_into, chunksize=1).total == x.sum()
    box = Boxed(2)
    assert preduce(lambda c: box, x, combine=add_into, initial=box, chunksize=1).total == 22
    assert preduce(lambda c: [box][0], x, combine=add_into, chunksize=5).total == 4
    assert box.total == 2
    assert_same(np.array(x), before)
    assert held.tolist() == [1, 1]
    assert initial.tolist() == [5, 5]


def test_what_combine_raises_names_the_partials(preduce: Any) -> None:
    """B11: combine runs as partials come, and in the caller; its own error comes out."""
    caller = os.getpid()

    def combine(left: Any, right: Any) -> Any:
        assert os.getpid() == caller
        if isinstance(left, str):
            raise LookupError(left)
        return left + right

    def func(chunk: Any) -> Any:
        return "no number" if chunk[0] == 10 else int(chunk.sum())

    with pytest.raises(LookupError, match="no number") as caught:
        preduce(func, np.arange(40), combine=combine, chunksize=5)
    assert any("indices [10, 15) and [15, 20)" in note for note in caught.value.__notes__)
    assert preduce(np.sum, np.arange(40), chunksize=5) == 780


def test_an_error_of_combine_ends_the_map(process_engine: Any) -> None:
    """The chunks that are left are not run in vain."""
    seen = shmmap.zeros(400, bool)
    goes_on = shmmap.zeros(1, bool)

    def func(chunk: Any) -> Any:
        seen[chunk] = True
        if chunk[0] >= 8:
            wait_until(goes_on.any)
        return 1

    def combine(left: Any, right: Any) -> Any:
        goes_on[0] = True
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shmmap.preduce(func, np.arange(400), combine=combine, chunksize=4, engine=process_engine)
    assert shmmap.preduce(np.sum, np.arange(40), chunksize=5, engine=process_engine) == 780


def test_combine_may_map(process_engine: Any) -> None:
    """A map inside combine, on the same workers: none of them waits for the caller meanwhile."""

    def combine(left: Any, right: Any) -> Any:
        shmmap.pmap(abs, range(4), engine=process_engine)
        return np.add(left, right)

    x = np.arange(20)
    result = shmmap.preduce(
        lambda c: np.full(1 << 18, c[0]), x, combine=combine, chunksize=1, engine=process_engine
    )
    assert (result == 190).all()


def test_interrupted_in_combine(tmp_path: Any) -> None:
    """Ctrl-C while combine runs: the caller's own traceback, and the team still works."""
    done = run_script(
        tmp_path,
        """
        import os, signal
        import numpy as np, shmmap

        def combine(left, right):
            os.kill(os.getpid(), signal.SIGINT)
            return left + right

        for engine in ("serial", "threads", None, "fork"):
            if engine == "threads":
                continue  # its combine runs in a thread, which no signal reaches
            try:
                shmmap.preduce(lambda c: c.sum(), np.arange(100), combine=combine, chunksize=9, engine=engine)
            except KeyboardInterrupt:
                print("interrupted", int(shmmap.preduce(np.sum, np.arange(100), chunksize=9, engine=engine)))
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "interrupted 4950\n" * 3
