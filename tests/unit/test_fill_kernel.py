"""What a kernel does with results of arrays, by what it tells a reporter that only takes notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from shmmap._chunks import Destination, Form, Input, Job, Kernel, Piece, Plan, make_kernel


class Noted:
    """A reporter that keeps what it is told; the output is known once `tell` was called."""

    def __init__(self) -> None:
        self.marked: list[tuple[int, int, bool]] = []
        self.pieces: list[Piece] = []
        self.forms: list[Form] = []
        self.errors: list[tuple[int, int]] = []
        self.output: Destination | None = None
        self.waited = 0

    def tell(self, *columns: np.ndarray, kind: Any = "array") -> None:
        self.output = Destination(kind, columns, ())

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        self.marked.append((first, stop, nothing))

    def results(self, pieces: list[Piece]) -> None:
        self.pieces += pieces

    def tell_form(self, form: Form, at_once: bool) -> None:
        self.forms.append(form)

    def wait_taken(self, nbytes: int) -> None:
        raise AssertionError("only stored arrays need it")

    def make_room(self, nbytes: int) -> None:
        raise AssertionError("only objects need it")

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        self.errors.append((chunk, index))

    def page_writers(self, columns: tuple[np.ndarray, ...]) -> tuple[()]:
        return ()

    def poll_output(self) -> Destination | None:
        return self.output

    def wait_output(self) -> Destination | None:
        self.waited += 1
        return self.output


class Bound(NamedTuple):
    kernel: Kernel
    told: Noted


def bind(func: Callable[..., Any], n: int = 8, chunksize: int = 2, **options: Any) -> Bound:
    """A kernel over ``range(n)``, its items floats."""
    job = Job(
        verb="items",
        gather=False,
        plan=Plan(n, chunksize),
        first=0,
        inputs=(Input("array", np.arange(float(n))),),
        axis=0,
        out=None,
        dtypes=None,
        seed=None,
        timeout=None,
        keep_going=False,
        retries=0,
        may_join=True,
    )._replace(**options)
    told = Noted()
    return Bound(make_kernel(job, func, told), told)


@pytest.fixture(params=["python", "c"])
def half(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A function that is called in a plain loop, and one that is called by `map`."""
    return (lambda x: x / 2) if request.param == "python" else (0.5).__mul__


def test_a_declared_output_is_filled(half: Callable[..., Any]) -> None:
    out = np.zeros(8)
    kernel, told = bind(half, out=(out,))
    kernel.run(1, 2)
    np.testing.assert_array_equal(out, [0, 0, 1, 1.5, 0, 0, 0, 0])
    assert (told.marked, told.pieces, told.forms) == ([(1, 2, False)], [], [])


def test_joined_chunks_are_placed_as_one(half: Callable[..., Any]) -> None:
    out = np.zeros(8)
    kernel, told = bind(half, out=(out,))
    kernel.run(0, 4)
    np.testing.assert_array_equal(out, np.arange(8) / 2)
    assert told.marked == [(0, 4, False)]


def test_the_first_index_tells_the_form(half: Callable[..., Any]) -> None:
    kernel, told = bind(half)
    kernel.run(0, 1)
    assert told.forms == [Form("array", (((), np.dtype(float)),))]


def test_results_are_kept_until_the_output_is_known(half: Callable[..., Any]) -> None:
    kernel, told = bind(half)
    kernel.run(1, 3)
    assert not told.marked
    out = np.zeros(8)
    told.tell(out)
    kernel.run(3, 4)
    np.testing.assert_array_equal(out, [0, 0, 1, 1.5, 2, 2.5, 3, 3.5])
    assert told.marked == [(1, 3, False), (3, 4, False)]


def test_little_is_handed_over_rather_than_waited_for() -> None:
    kernel, told = bind(lambda x: x)
    for chunk in (1, 2):
        kernel.run(chunk, chunk + 1)
    kernel.finish()
    ((first, last, (kind, (column,))),) = told.pieces  # neighbours as one
    assert (first, last, kind, told.waited) == (1, 3, "array", 0)
    np.testing.assert_array_equal(column, [2, 3, 4, 5])


def test_for_much_the_output_is_waited_for() -> None:
    kernel, told = bind(lambda x: np.full(1 << 16, x))
    kernel.run(1, 2)
    kernel.finish()
    assert told.waited == 1
    assert [piece[:2] for piece in told.pieces] == [(1, 2)]  # it was not told


def test_none_needs_no_output() -> None:
    kernel, told = bind(lambda x: None)
    kernel.run(0, 4)
    kernel.finish()
    assert told.forms == [Form(None, ())]
    assert (told.marked, told.pieces) == ([(0, 4, True)], [])


def test_what_the_output_is_too_narrow_for_is_a_piece() -> None:
    kernel, told = bind(lambda x: complex(x))
    told.tell(np.zeros(8))
    kernel.run(1, 2)
    assert not told.marked
    assert [piece[:2] for piece in told.pieces] == [(1, 2)]


def test_of_joined_chunks_only_the_one_that_does_not_fit_is_a_piece() -> None:
    out = np.zeros(8)
    kernel, told = bind(lambda x: 1j if x == 5 else x)
    told.tell(out)
    kernel.run(0, 4)
    assert [mark[:2] for mark in told.marked] == [(0, 1), (1, 2), (3, 4)]
    assert [piece[:2] for piece in told.pieces] == [(2, 3)]
    np.testing.assert_array_equal(out, [0, 1, 2, 3, 0, 0, 6, 7])


def raises_at(index: int, result: Any) -> Callable[[float], Any]:
    def func(x: float) -> Any:
        if x == index:
            raise ArithmeticError
        return result(x)

    return func


@pytest.mark.parametrize("result", [float, lambda x: None, lambda x: np.zeros(2), lambda x: (x, x)])
@pytest.mark.parametrize("index", [2, 5, 7])
def test_where_a_function_failed(result: Any, index: int) -> None:
    kernel, _told = bind(raises_at(index, result))
    with pytest.raises(ArithmeticError):
        kernel.run(1, 4)
    assert kernel.where_failed() == (index // 2, index, index // 2 * 2, index // 2 * 2 + 2)


@pytest.mark.parametrize("result", [float, lambda x: None, lambda x: np.zeros(2)])
@pytest.mark.parametrize("index", [2, 5, 7])
def test_stop_iteration_ends_no_loop(result: Any, index: int) -> None:
    def func(x: float) -> Any:
        return next(iter(())) if x == index else result(x)

    kernel, _told = bind(func)
    with pytest.raises(RuntimeError, match="StopIteration"):
        kernel.run(1, 4)
    assert kernel.where_failed()[:2] == (index // 2, index)


@pytest.mark.parametrize(
    ("usual", "odd"),
    [
        (np.zeros(2), np.zeros(3)),
        (np.zeros(2), None),
        (1.0, np.zeros(3)),
        (1.0, (1.0, 2.0)),
        (None, 1.0),
    ],
)
def test_which_result_does_not_fit_the_others(usual: Any, odd: Any) -> None:
    kernel, _told = bind(lambda x: odd if x == 5 else usual)
    with pytest.raises((TypeError, ValueError), match=r"returned .* here and .* at other indices"):
        kernel.run(2, 4)
    assert kernel.where_failed()[:2] == (2, 5)


def test_failures_that_are_collected_leave_the_others() -> None:
    out = np.full(8, -1.0)
    kernel, told = bind(raises_at(3, float), out=(out,), keep_going=True)
    kernel.run(1, 2)
    assert (told.errors, told.marked) == ([(1, 3)], [(1, 2, False)])
    np.testing.assert_array_equal(out[2:4], [2, -1])


def test_a_kernel_that_is_reset_knows_no_output() -> None:
    kernel, told = bind(lambda x: x)
    told.tell(np.zeros(8))
    kernel.run(1, 2)
    kernel.reset()
    told.output = None
    kernel.run(2, 3)
    kernel.finish()
    assert [piece[:2] for piece in told.pieces] == [(2, 3)]


def fails_once() -> Iterator[Callable[[float], float]]:
    failed: set[float] = set()

    def func(x: float) -> float:
        if x not in failed:
            failed.add(x)
            raise ArithmeticError
        return x

    yield func


def test_a_call_that_failed_is_tried_again() -> None:
    out = np.zeros(8)
    kernel, told = bind(next(fails_once()), out=(out,), retries=1)
    kernel.run(3, 4)
    np.testing.assert_array_equal(out[6:], [6, 7])
    assert not told.errors
