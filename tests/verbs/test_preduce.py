"""`preduce` at its edges: how partials combine, what they cost, and what becomes of those that fail."""

from __future__ import annotations

import functools
import os
import signal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmmap
from tests.conftest import ENGINES
from tests.helpers import assert_same, run_script


def test_known_reductions(preduce: Any) -> None:
    """A1. Kind: partials were added where they do not add up."""
    x = shmmap.asshared(np.arange(1000.0))
    assert_same(preduce(np.max, x), np.float64(999))
    assert_same(preduce(np.min, x), np.float64(0))
    assert_same(preduce(np.any, x > 500), np.True_)
    assert_same(preduce(np.all, x > 500), np.False_)
    assert_same(preduce(np.logical_or.reduce, x < 0), np.False_)
    assert_same(preduce(np.prod, x[1:6], chunksize=2), np.float64(120))
    assert_same(
        preduce(functools.partial(np.sum, dtype="i2"), x[:200], chunksize=9), np.int16(19900)
    )
    assert preduce(np.count_nonzero, x) == 999
    assert preduce(max, range(100), chunksize=7) == 99
    assert preduce(sum, [1 << 70] * 10, chunksize=3) == 10 << 70
    assert preduce(len, ["a"] * 10, chunksize=3) == 10


def test_a_chunk_that_is_all_nan_hides_nothing(preduce: Any) -> None:
    """A1, the functions that skip NaN."""
    x = np.array([np.nan, np.nan, 1.0, 5.0, np.nan, np.nan])
    with np.errstate(all="ignore"):
        assert preduce(np.fmax.reduce, x, chunksize=2) == 5
    assert preduce(np.nansum, x, chunksize=2) == 6
    assert np.isnan(preduce(np.max, x, chunksize=2))


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_nanmax_of_chunks(engine: Any) -> None:
    """A1."""
    x = np.array([np.nan, np.nan, 1.0, 5.0, np.nan, np.nan])
    assert shmmap.preduce(np.nanmax, x, chunksize=2, engine=engine) == 5
    assert shmmap.preduce(np.nanmin, x, chunksize=2, engine=engine) == 1


def fail(*args: Any) -> Any:
    raise AssertionError("called although it is to be refused")


@pytest.mark.parametrize(
    ("func", "words"),
    [
        (np.mean, r"write: total, count = .* total / count"),
        (np.std, r"write: .*np\.sqrt"),
        (np.linalg.norm, r"write: shmmap.preduce\(np\.linalg\.norm, x, combine=np\.hypot\)"),
        (np.argmax, r"write: largest = "),
        (np.median, r"write: np\.median\(x\)"),
        (np.subtract.reduce, "taken in parts"),
        (fail, r"give combine=.*combine=np\.add"),
        (functools.partial(fail, 3), "give combine="),
    ],
)
def test_others_are_refused_before_anything_runs(engine: Any, func: Any, words: str) -> None:
    """A1: the error says what to write instead."""
    with pytest.raises(TypeError, match=words):
        shmmap.preduce(func, np.arange(10.0), engine=engine)
    with pytest.raises(TypeError, match="combine must be a function"):
        shmmap.preduce(func, np.arange(10.0), combine="add", engine=engine)


def test_what_keeps_the_axis_of_the_chunks_is_refused(engine: Any) -> None:
    """A1: `numpy.sum` over another axis, whose partials lie side by side."""
    a = np.arange(12.0).reshape(4, 3)
    for func, axis in ((functools.partial(np.sum, axis=1), 0), (np.add.reduce, 1)):
        with pytest.raises(ValueError, match="use pmap_chunks"):
            shmmap.preduce(func, a, axis=axis, chunksize=2, engine=engine)
    with pytest.raises(ValueError, match="give initial= to preduce"):
        shmmap.preduce(functools.partial(np.sum, initial=1), a, engine=engine)
    total = shmmap.preduce(
        functools.partial(np.sum, axis=-1), a, axis=1, chunksize=1, engine=engine
    )
    assert_same(total, a.sum(axis=1))


def test_several_inputs_need_combine(preduce: Any) -> None:
    """A1: the second input would be taken for `numpy.sum`'s axis."""
    x = np.arange(10.0)
    with pytest.raises(TypeError, match="give combine="):
        preduce(np.sum, x, x)
    assert preduce(lambda a, b: a @ b, x, x, combine=np.add, chunksize=3) == x @ x


def test_masked_partials(preduce: Any) -> None:
    """A11. Kind: what is there in one partial is there in the result, whoever masked it elsewhere."""
    y = np.ma.array(
        np.arange(12.0).reshape(4, 3), mask=[[0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    )
    total = preduce(lambda block: block.sum(axis=0), y, combine=np.add, chunksize=2)
    assert np.ma.getmaskarray(total).tolist() == [False] * 3
    assert total.tolist() == [18, 17, 26]
    assert preduce(functools.partial(np.max, axis=0), y, chunksize=1).tolist() == [9, 10, 11]
    pair = preduce(lambda b: (b.min(axis=0), b[:, 1].sum()), y, combine=np.minimum, chunksize=1)
    assert pair[0].tolist() == [0, 7, 2]
    assert pair[1] == 7
    assert preduce(np.ma.sum, y[:, 1], chunksize=1) == 17
    assert preduce(np.sum, y[:2, 1], chunksize=1) is np.ma.masked
    with pytest.raises(ValueError, match=r"combine=np\.add"):
        preduce(lambda b: b.sum(axis=0), y, combine=lambda a, b: a + b, chunksize=2)


def test_a_chunk_that_is_all_masked_changes_no_dtype(preduce: Any) -> None:
    """A11. Kind: the constant `numpy.ma.masked` is a float, and made floats of large integers."""
    y = np.ma.array([1, 2, (1 << 60) + 1, 3], mask=[True, True, False, False])
    for combine in (None, np.add):
        assert_same(preduce(np.sum, y, combine=combine, chunksize=2), np.int64((1 << 60) + 4))
    assert_same(preduce(np.max, y.astype("i1"), chunksize=2), np.int8(3))
    total = preduce(lambda c: (c.sum(), c.count()), y[::-1], combine=np.add, chunksize=2)
    assert_same(total, (np.int64((1 << 60) + 4), np.int64(2)))


def test_masks_of_records_are_left_to_combine(preduce: Any) -> None:
    """A11: those have a mask for each field."""
    y = np.ma.array(np.ones(4, "i4,f8"), mask=[(False, True)] * 4)
    total = preduce(lambda c: c[:1], y, combine=lambda left, right: right, chunksize=2)
    assert total.mask.tolist() == [(False, True)]


@pytest.mark.slow
def test_max_of_tuples_is_one_of_them(preduce: Any) -> None:
    """A1. Kind: partials that are tuples, taken apart where the reduction takes one or the other."""
    items = [(1, 9), (0, 5), (3, 1), (2, 2)]
    for chunksize in (1, 2, 3):
        assert preduce(max, items, chunksize=chunksize) == (3, 1)
        assert preduce(min, items, chunksize=chunksize) == (0, 5)


def test_items_of_different_shapes_have_no_reduction(preduce: Any) -> None:
    """A1. Kind: partials that a ufunc makes fit to each other."""
    with pytest.raises(ValueError, match="have different shapes"):
        preduce(functools.partial(np.sum, axis=0), [np.ones(3), np.ones(1)], chunksize=1)
    total = preduce(functools.partial(np.sum, axis=0), np.ones((4, 3)), initial=1, chunksize=1)
    assert total.tolist() == [5, 5, 5]


def test_partials_of_different_kinds_are_refused(preduce: Any) -> None:
    """A1. Kind: partials that a ufunc makes one array of."""

    def first(chunk: Any) -> tuple[int, ...]:
        return (1,) * (1 + int(chunk[0] > 0))

    for combine in (np.add, lambda left, right: left + right):
        with pytest.raises(ValueError, match="1 elements and the other 2"):
            preduce(first, np.arange(2), combine=combine, chunksize=1)
    with pytest.raises(TypeError, match="a int and a tuple"):
        preduce(lambda c: (c.sum(), len(c)), np.arange(4), combine=np.add, initial=0)


@pytest.mark.parametrize("func", [np.sum, np.max, np.amin, functools.partial(np.prod, axis=0)])
def test_columns_leave_out_what_is_missing(func: Any) -> None:
    """A1. Kind: NumPy asks a column for its own sum, which skips NaN; that of its values does not."""
    pandas = pytest.importorskip("pandas")
    column = pandas.Series([1.0, np.nan, 3.0])
    with pytest.raises(ValueError, match="leaves out what is missing in a Series"):
        shmmap.preduce(func, column, engine="serial")
    assert_same(shmmap.preduce(func, column.dropna(), engine="serial"), func(column.dropna()))
    assert np.isnan(shmmap.preduce(func, column.to_numpy(), engine="serial"))
    assert_same(shmmap.preduce(np.nansum, column, engine="serial"), np.nansum(column))


def test_min_and_max_of_what_has_no_order(preduce: Any) -> None:
    """A1: which one comes out depends on the order in which they are compared."""
    with pytest.raises(ValueError, match="without an order"):
        preduce(max, [{1}, {3}, {1, 2}], chunksize=1)


def fail_at(*bad: int) -> Any:
    def func(chunk: Any) -> Any:
        if chunk[0] in bad:
            raise ValueError("on purpose")
        return int(chunk.sum())

    return func


def test_the_result_of_what_did_not_fail(preduce: Any) -> None:
    """C18. Kind: `MapError.result` holds what could be combined."""
    x = np.arange(100)
    options: dict[str, Any] = {"combine": np.add, "chunksize": 10, "on_error": "continue"}
    with pytest.raises(shmmap.MapError) as caught:
        preduce(fail_at(0, 30, 90), x, initial=1000, **options)
    assert caught.value.failed == ((0, 10), (30, 40), (90, 100))
    assert caught.value.result == 1000 + 4950 - 45 - 345 - 945
    with pytest.raises(shmmap.MapError) as caught:
        preduce(fail_at(*range(100)), x, **options)
    assert caught.value.result is None


def test_what_stands_in_for_partials(preduce: Any) -> None:
    """C18: a function as on_error."""
    x = np.arange(100)
    calls = []

    def on_error(exc: Exception, start: int, stop: int) -> int:
        calls.append((start, stop))
        return 1_000_000

    result = preduce(fail_at(20, 30), x, combine=np.add, chunksize=10, on_error=on_error)
    assert result == 2_000_000 + 4950 - 245 - 345
    assert calls == [(20, 30), (30, 40)]


def test_the_result_of_what_was_not_lost(process_engine: Any) -> None:
    """C18: WorkerDied tells what could be combined, too; and a partial that came twice counts once."""
    x = np.arange(100)

    def func(chunk: Any) -> Any:
        if chunk[0] == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return int(chunk.sum())

    options: dict[str, Any] = {"combine": np.add, "chunksize": 10, "engine": process_engine}
    with pytest.raises(shmmap.MapError) as caught:
        shmmap.preduce(func, x, on_error="continue", workers=2, **options)
    assert caught.value.failed == ((50, 60),)
    assert caught.value.result == 4950 - 545


def test_partials_that_are_none(preduce: Any) -> None:
    """Combine gets them as they are."""

    def later(left: Any, right: Any) -> Any:
        return left if right is None else right

    def func(chunk: Any) -> Any:
        return int(chunk[0]) if chunk[0] % 20 == 0 else None

    assert preduce(func, np.arange(100), combine=later, chunksize=10) == 80
    assert preduce(lambda c: None, np.arange(10), combine=later, chunksize=1) is None


def test_futures_of_reductions(preduce: Any) -> None:
    """`wait=False`: one result; partials are put together as they come, and are not to be iterated over."""
    future = preduce(np.sum, np.arange(1000), chunksize=10, wait=False)
    assert future.result() == 499500
    assert future.progress() == (1000, 1000)
    with pytest.raises(TypeError, match=r"pmap_chunks\(func, ..., out=list, wait=False\)"):
        list(future.as_completed())
    with pytest.raises(TypeError, match="one result"):
        next(future.in_order())


def test_cancelled_reductions(engine: Any) -> None:
    x = shmmap.zeros(1000)
    future = shmmap.preduce(np.sum, x, chunksize=1, engine=engine, wait=False)
    future.cancel()
    assert future.cancelled() or future.result() == 0
    assert shmmap.preduce(np.sum, x, engine=engine) == 0


def test_retries_count_once(process_engine: Any) -> None:
    tries = shmmap.zeros(100, int)

    def func(chunk: Any) -> Any:
        tries[chunk[0]] += 1
        if tries[chunk[0]] == 1:
            raise ValueError("the first time")
        return int(chunk.sum())

    options: dict[str, Any] = {"chunksize": 10, "retries": 1, "engine": process_engine}
    assert shmmap.preduce(func, np.arange(100), combine=np.add, **options) == 4950


def levels(partials: list[Any]) -> Any:
    """The tree as it is defined."""
    while len(partials) > 1:
        joined = [a + b for a, b in zip(partials[::2], partials[1::2], strict=False)]
        partials = joined + partials[len(joined) * 2 :]
    return partials[0]


@given(
    n=st.integers(1, 300),
    chunksize=st.integers(1, 40),
    name=st.sampled_from(ENGINES),
    schedule=st.sampled_from(["dynamic", "static"]),
    seed=st.integers(0, 99),
)
@pytest.mark.warm
def test_the_tree_is_the_same_whatever_comes_first(
    engines: Any, n: int, chunksize: int, name: str, schedule: str, seed: int
) -> None:
    """B11: equal bits as where all partials were there at once."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n) * 10.0 ** rng.integers(-9, 9, n)
    expected = levels([np.sum(x[at : at + chunksize]) for at in range(0, n, chunksize)])
    with engines() as opened:
        result = shmmap.preduce(
            np.sum, x, chunksize=chunksize, engine=opened[name], schedule=schedule, workers=3
        )
    assert_same(result, expected)


@pytest.mark.slow
def test_few_partials_are_alive(tmp_path: Any) -> None:
    """B11: 80 partials of 8 MB, of which about two per worker and one per level of the tree are alive."""
    done = run_script(
        tmp_path,
        """
        import numpy as np, shmmap, sys
        from tests.helpers import tree_pss
        import os, threading

        x = shmmap.zeros(80 * 1000, int)
        engine = None if sys.argv[1] == "default" else sys.argv[1]

        def count(chunk):
            return np.bincount(chunk, minlength=10**6)

        most, is_over = [0], threading.Event()

        def watch():
            while not is_over.wait(0.002):
                most[0] = max(most[0], tree_pss(os.getpid()))

        shmmap.preduce(count, x[:2000], combine=np.add, chunksize=1000, engine=engine, workers=2)
        before = tree_pss(os.getpid())
        thread = threading.Thread(target=watch)
        thread.start()
        result = shmmap.preduce(count, x, combine=np.add, chunksize=1000, engine=engine, workers=2)
        is_over.set()
        thread.join()
        assert result[0] == 80000 and result.sum() == 80000
        print((most[0] - before) // 8_000_000)
        """,
        "default",
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert done.stderr == ""
    assert int(done.stdout) < 30, done.stdout
