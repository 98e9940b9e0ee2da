"""What chunks give depends on the plan alone, not on how many a kernel goes through as one.

Each map is run chunk by chunk, and again with its chunks in random runs: gone through as one, or by the loop
for chunks of one item. No process, and no thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import shmmap
from shmmap._chunks import (
    Destination,
    Form,
    Input,
    Job,
    Kernel,
    Mark,
    Piece,
    Plan,
    Reporter,
    make_kernel,
)
from shmmap._chunks.kernel import Seat
from shmmap._results import Collector
from tests.helpers import assert_same


class _Me:
    is_stray = False


class Caller(Reporter):
    """Puts a result together, and holds marks to what was told before them."""

    def __init__(self, job: Job) -> None:
        self.collector = Collector(job, job.out)
        self.ledger = bytearray(job.plan.chunks)
        self.output: Destination | None = None

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        self.ledger[first:stop] = bytes([Mark.NOTHING if nothing else Mark.DONE]) * (stop - first)

    def results(self, pieces: list[Piece]) -> None:
        self.collector.add(pieces)
        for first, stop, _ in pieces:
            self.ledger[first:stop] = bytes([Mark.HANDED]) * (stop - first)

    def tell_form(self, form: Form, at_once: bool) -> None:
        self.output = Destination(*self.collector.allocate_output(form), ())

    def poll_output(self) -> Destination | None:
        return self.output

    wait_output = poll_output


ROW = np.arange(2.0)
VALUES: dict[str, list[Any]] = {
    "number": [0.5, 1, True, 2**62, 2**63, 2**70, np.float64(2.5), np.float32(0.1), np.int8(3)],
    "row": [ROW, ROW + 1, ROW.astype("f4"), np.array([1, 2]), np.array([1j, 2])],
    "odd": [None, ROW, np.arange(3.0), (1, 2.0), 1.0, "text", np.array(1.0), np.longdouble(1) / 3],
    "pair": [(1, ROW), (2.5, ROW), (1, np.arange(2))],
}


@st.composite
def results(draw: st.DrawFn) -> list[Any]:
    """What a function returns: mostly of one type for a while."""
    pool = draw(st.sampled_from(sorted(VALUES)))
    runs = draw(
        st.lists(
            st.tuples(st.integers(0, len(VALUES[pool]) - 1), st.integers(1, 7)),
            min_size=1,
            max_size=5,
        )
    )
    return [VALUES[pool][which] for which, count in runs for _ in range(count)]


def bind(values: list[Any], size: int, **options: Any) -> tuple[Kernel, Caller]:
    """A kernel for a function that has one buffer for all its rows."""
    buffers: dict[Any, Any] = {}

    def func(i: Any) -> Any:
        value = values[int(i)]
        if type(value) is not np.ndarray:
            return value
        buffer = buffers.setdefault((value.dtype, value.shape), np.empty_like(value))
        buffer[...] = value
        return buffer

    job = Job(
        inputs=(Input("sequence", range(len(values))),),
        out=None,
        seed=None,
        first=0,
        verb="items",
        gather=False,
        plan=Plan(len(values), size),
        axis=0,
        dtypes=None,
        timeout=None,
        keep_going=False,
        retries=0,
        may_join=True,
    )._replace(**options)
    caller = Caller(job)
    return make_kernel(job, func, caller), caller


def outcome(kernel: Kernel, caller: Caller, run: Callable[[], None]) -> Any:
    """What the map gives, or that it fails."""
    try:
        run()
        kernel.finish()
        assert 0 not in caller.ledger
        caller.collector.take_marks(bytes(caller.ledger))
        return caller.collector.finish()
    except (TypeError, ValueError) as exc:
        return type(exc)


def run_each(kernel: Kernel) -> None:
    for chunk in range(kernel.job.plan.chunks):
        kernel.run(chunk, chunk + 1)
        kernel.flush()


def run_in(kernel: Kernel, caller: Caller, steps: list[int]) -> None:
    """The first chunk, and then so many at once, by the loop for single items where it may be used."""
    slot, chunks = [0] * 16, kernel.job.plan.chunks
    seat = Seat(slot, [chunks], caller.ledger, _Me())
    kernel.run(0, 1)
    at = 1
    while at < chunks:
        stop = min(at + steps[at % len(steps)], chunks)
        if kernel.runs_singles:
            kernel.run_singles(at, stop, seat)
        else:
            kernel.run(at, stop)
        kernel.flush()
        at = stop


def same(one: Any, other: Any) -> None:
    if isinstance(one, type) or isinstance(other, type) or one is None:
        assert one is other
    else:
        assert_same(other, one)


STEPS = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(values=results(), size=st.integers(1, 4), steps=STEPS, gather=st.booleans())
def test_joined_chunks_give_what_they_give_one_by_one(
    values: list[Any], size: int, steps: list[int], gather: bool
) -> None:
    kernel, caller = bind(values, size, gather=gather)
    expected = outcome(kernel, caller, lambda: run_each(kernel))
    kernel, caller = bind(values, size, gather=gather)
    assert kernel.joins
    same(expected, outcome(kernel, caller, lambda: run_in(kernel, caller, steps)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(
    values=results(), steps=STEPS, gather=st.booleans(), dtype=st.sampled_from([None, "f8", "f4"])
)
def test_single_items_give_what_they_give_one_by_one(
    values: list[Any], steps: list[int], gather: bool, dtype: str | None
) -> None:
    options: dict[str, Any] = {"gather": gather, "may_join": False}
    if dtype is not None and not gather:
        options["dtypes"] = (np.dtype(dtype),)
    kernel, caller = bind(values, 1, **options)
    expected = outcome(kernel, caller, lambda: run_each(kernel))
    kernel, caller = bind(values, 1, **options)
    assert kernel.runs_singles
    same(expected, outcome(kernel, caller, lambda: run_in(kernel, caller, steps)))


class Boom(Exception):
    pass


def single(func: Callable[..., Any], n: int = 8, **options: Any) -> tuple[Kernel, Caller, Seat]:
    kernel, caller = bind([0.0] * n, 1, may_join=False, **options)
    kernel = make_kernel(kernel.job, func, caller)
    return kernel, caller, Seat([0] * 16, [n], caller.ledger, _Me())


@pytest.mark.parametrize("gather", [False, True])
def test_each_single_is_claimed_and_marked_before_the_next_begins(gather: bool) -> None:
    seen: list[tuple[int, bytes]] = []

    def func(i: int) -> float:
        seen.append((int(seat.slot[7]), bytes(caller.ledger[1:])))
        return 0.5

    kernel, caller, seat = single(func, gather=gather)
    kernel.run(0, 1)
    kernel.flush()
    del seen[:]
    kernel.run_singles(1, 8, seat)
    kernel.flush()
    assert [slot for slot, _ in seen] == [2, 3, 4, 5, 6, 7, 8]
    if not gather:  # else a chunk is done once it is handed over, after the draw
        assert [ledger.count(Mark.DONE) for _, ledger in seen] == list(range(7))
    assert 0 not in caller.ledger


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("exc", [Boom(), StopIteration()], ids=["own", "StopIteration"])
def test_a_single_that_fails_is_named_and_those_before_it_stay(
    gather: bool, exc: Exception
) -> None:
    def func(i: int) -> float:
        if i == 5:
            raise exc
        return 0.5

    kernel, caller, seat = single(func, gather=gather)
    kernel.run(0, 1)
    with pytest.raises((Boom, RuntimeError)):
        kernel.run_singles(1, 8, seat)
    assert kernel.where_failed() == (5, 5, 5, 6)
    kernel.flush()
    assert [mark & 1 for mark in caller.ledger] == [1, 1, 1, 1, 1, 0, 0, 0]


def test_a_stop_is_seen_between_two_singles() -> None:
    def func(i: int) -> float:
        if i == 3:
            seat.limit[0] = 3
        return 0.5

    kernel, caller, seat = single(func)
    kernel.run(0, 1)
    kernel.run_singles(1, 8, seat)
    assert list(caller.ledger) == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_single_knows_where_it_is() -> None:
    seen: list[Any] = []

    def func(i: int) -> Any:
        seen.append(kernel.where(0).index)
        return None if i == 2 else 0.5

    kernel, _, seat = single(func, gather=True)
    kernel.run(0, 1)
    kernel.run_singles(1, 8, seat)
    assert seen == list(range(8))


def test_a_single_that_does_not_fit_is_dealt_with_by_itself() -> None:
    seen: list[Any] = []

    def func(i: int) -> Any:
        seen.append(kernel.where(0).index)
        return [0, 1, 2**70, 2.5, 4, "x", 6, 7][i]

    kernel, _, seat = single(func)
    kernel.run(0, 1)
    with pytest.raises(TypeError):
        kernel.run_singles(1, 8, seat)
    assert kernel.where_failed()[0] == 2  # an object
    assert seen == [0, 1, 2]


def test_inputs_are_zipped() -> None:
    def numbers() -> Iterator[Input]:
        yield Input("sequence", [10, 20, 30])
        yield Input("whole", 5)
        yield Input("array", np.arange(3))

    kernel, caller = bind([0] * 3, 1, may_join=False, inputs=tuple(numbers()))
    kernel = make_kernel(kernel.job, lambda a, b, c: int(a + b + c), caller)
    result = outcome(kernel, caller, lambda: run_in(kernel, caller, [5]))
    np.testing.assert_array_equal(result, [15, 26, 37])


def test_a_single_number_keeps_each_of_its_bits() -> None:
    bits = np.arange(0x7FA00001, 0x7FA00009, dtype=np.uint32)  # NaNs that signal
    kernel, caller = bind(list(bits.view(np.float32)), 1, may_join=False)
    result = outcome(kernel, caller, lambda: run_in(kernel, caller, [7]))
    assert np.array_equal(result.view(np.uint32), bits)


@pytest.mark.parametrize("says_order", ["rows", "output"])
def test_a_dtype_that_says_its_byte_order_is_stored_like_any(says_order: str) -> None:
    """As those of zarr and of unpickled arrays do: no `memoryview` understands that."""
    dtype = np.dtype("f8").newbyteorder("<")
    assert memoryview(np.zeros(2, dtype)).format == "<d"
    x = np.arange(6.0)
    if says_order == "rows":
        out = np.zeros((6, 2))
        shmmap.pmap(lambda v: np.full(2, v, dtype), x, out=out, engine="serial")
        assert np.array_equal(out[:, 1], x)
        return
    for func, shape in ((lambda v: float(v), (6,)), (lambda v: np.full(2, v), (6, 2))):
        for chunksize in (1, 3):
            out = np.zeros(shape, dtype)
            shmmap.pmap(func, x, out=out, engine="serial", chunksize=chunksize)
            assert np.array_equal(out.reshape(6, -1)[:, 0], x)
