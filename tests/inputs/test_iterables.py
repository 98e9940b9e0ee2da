"""Inputs that are iterated over: endless ones, and those whose own code fails; calls taken for others."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._verbs.templates import _exact
from shmmap.testing import wait_until
from tests.helpers import run_script

# --- B4: iterators without an end -----------------------------------------------------------------


def endless() -> Iterator[int]:
    """A generator of which nobody can tell that it does not end."""
    yield from itertools.count()


ENDLESS = [
    lambda: itertools.repeat(5),
    itertools.count,
    lambda: itertools.cycle([1, 2]),
    endless,
    lambda: map(abs, itertools.count()),
]


@pytest.mark.parametrize("make", ENDLESS)
def test_endless_beside_an_array(engine: Any, make: Any) -> None:
    """B4. Kind: an iterator is read no further than one item beyond the length of another input."""
    for inputs in (
        (np.arange(3), make()),
        (make(), np.arange(3)),
        (make(), make(), shmmap.asshared([1, 2, 3])),
        (make(), np.arange(3), [4, 5, 6]),
    ):
        with pytest.raises(ValueError, match=r"different lengths: 3, and input [012]"):
            shmmap.pmap(lambda *args: args[0], *inputs, engine=engine)
    with pytest.raises(ValueError, match="different lengths"):
        shmmap.pmap_chunks(lambda a, b: a, np.arange(3), make(), engine=engine)
    with pytest.raises(ValueError, match="different lengths"):
        shmmap.preduce(lambda a, b: 1, make(), range(3), combine=np.add, engine=engine)
    with pytest.raises(ValueError, match="one of them ends at index 3"):
        shmmap.pmap(lambda a, b: a, [1, 2, 3], make(), engine=engine)
    with pytest.raises(ValueError, match="different lengths"):
        shmmap.pmap(lambda a, b: a, [1, 2, 3], make(), out=np.ndarray, engine=engine)


@pytest.mark.parametrize("make", ENDLESS[:3])
def test_endless_by_itself(make: Any) -> None:
    """B4: refused at once, where all items would be needed."""
    for call in (
        lambda value: shmmap.preduce(len, value),
        lambda value: shmmap.preduce(lambda a, b: 1, value, make(), combine=np.add),
        lambda value: shmmap.pmap_chunks(len, value),
        lambda value: shmmap.pmap(abs, value, out=np.ndarray),
        lambda value: shmmap.pmap(abs, value),
    ):
        with pytest.raises(ValueError, match=r"itertools\.islice.*wait=False"):
            call(make())


@pytest.mark.slow
def test_endless_and_not_waited_for(engine: Any) -> None:
    """B4: what iterates over results may go on for ever."""
    future = shmmap.pmap(abs, itertools.count(), engine=engine, buffersize=8, wait=False)
    values = []
    for _, _, part in future.in_order():
        values += part
        if len(values) > 20:
            break
    future.cancel()
    assert values[:20] == list(range(20))
    assert shmmap.preduce(sum, itertools.repeat(5, 3), engine=engine) == 15


def test_a_generator_does_not_take_all_memory(tmp_path: Path) -> None:
    """B4: an iterator of which nobody can tell is read up to a part of the memory there is."""
    done = run_script(
        tmp_path,
        """
        import numpy as np, resource, shmmap
        from shmmap._system import limits

        def endless():
            while True:
                yield bytearray(b"x" * 65536)

        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        free = limits.address_space()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            shmmap.preduce(len, endless(), engine="serial")
        except ValueError as error:
            print(error)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert (after - before) * 1024 < free * 0.6
        """,
    )
    assert done.stderr == ""
    assert "input 0, a generator, does not end" in done.stdout


# --- B18: the user's own errors -------------------------------------------------------------------


class Failing:
    """An input that raises in one of its methods."""

    def __init__(self, where: str, error: Exception) -> None:
        self.where, self.error = where, error

    def _look(self, where: str) -> None:
        if where == self.where:
            raise self.error

    def __iter__(self) -> Any:
        self._look("iter")
        return self

    def __next__(self) -> int:
        self._look("next")
        raise StopIteration


class FailingSequence:
    """The same with the methods of a sequence."""

    def __init__(self, where: str, error: Exception) -> None:
        self.where, self.error = where, error

    def __len__(self) -> int:
        if self.where == "len":
            raise self.error
        return 3

    def __getitem__(self, i: int) -> int:
        if self.where == "getitem":
            raise self.error
        if i < 3:
            return i
        raise IndexError


class FailingArray:
    """An array-like that cannot be read."""

    dtype = np.dtype("f8")
    shape = (3,)
    ndim = 1

    def __init__(self, where: str, error: Exception) -> None:
        self.error = error

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error", [TypeError("my own"), ValueError("my own"), KeyError("my own")], ids=repr
)
@pytest.mark.parametrize(
    ("kind", "where"),
    [
        (Failing, "iter"),
        (Failing, "next"),
        (FailingSequence, "getitem"),
        (FailingSequence, "len"),
        (FailingArray, "array"),
    ],
)
@pytest.mark.parametrize(
    "others", [(), ([1, 2, 3],), (np.arange(3),)], ids=["alone", "list", "array"]
)
def test_errors_of_inputs_come_out(kind: Any, where: str, error: Exception, others: Any) -> None:
    """B18. Kind: a TypeError or ValueError of the user's was taken for one about the input."""
    if where == "len" and isinstance(error, TypeError):
        assert list(kind(where, error)) == [0, 1, 2]  # which Python itself takes for no length
        return
    for verb in (
        lambda *inputs: shmmap.pmap(lambda *args: 1, *inputs, engine="serial"),
        lambda *inputs: shmmap.pmap_chunks(lambda *args: 1, *inputs, out=list, engine="serial"),
        lambda *inputs: shmmap.preduce(lambda *args: 1, *inputs, combine=np.add, engine="serial"),
    ):
        with pytest.raises(type(error)) as caught:
            verb(kind(where, error), *others)
        assert caught.value is error


def test_errors_of_iterators_written_in_c(engine: Any) -> None:
    """B18: `map` has no frame of its own, by which its errors could be told from those of `zip`."""
    for inputs in ((), ([1, 2],), (iter([1, 2]),)):
        with pytest.raises(ValueError, match="invalid literal for int"):
            shmmap.pmap(lambda *args: 1, map(int, ["1", "x"]), *inputs, engine=engine)
    with pytest.raises(ValueError, match="ends at index 2"):
        shmmap.pmap(lambda *args: 1, map(int, ["1", "2"]), iter([1, 2, 3]), engine=engine)
    with pytest.raises(ValueError, match="ends at index 1024"):
        shmmap.pmap(lambda *args: 1, iter(range(1024)), itertools.count(), engine=engine)


class Blocked:
    """What says that it cannot be iterated over."""

    __iter__ = None

    def __getitem__(self, i: int) -> int:
        return i


def test_what_cannot_be_iterated_over(engine: Any) -> None:
    """B18: is still told in words of ours, also beside an iterator."""
    for value in (3, object(), Blocked(), int):
        for inputs in ((value,), (iter([1]), value), (np.arange(2), value)):
            with pytest.raises(
                TypeError, match=f"input {len(inputs) - 1} is a .*cannot be iterated over"
            ):
                shmmap.pmap(lambda *args: 1, *inputs, engine=engine)


# --- A25: what a call seen before is known by -----------------------------------------------------


def first(chunk: Any) -> Any:
    """What lies before the chunk."""
    return np.full(len(chunk), chunk[0])


def test_calls_that_print_alike_are_not_alike(team: Any) -> None:
    """A25. Kind: a key that is a `repr` is as coarse as the print options."""
    x = shmmap.asshared(np.arange(4.0))
    for value in (
        *(np.array(0.12345678901), np.array(0.12345678999)),
        *(np.float64(1), np.float32(0.1), 0.1, 0.0, -0.0, 1, True, np.nan),
    ):
        for _ in range(2):
            result = shmmap.pmap_chunks(first, x, depth=1, boundary=value, engine=team, chunksize=4)
            assert result[0].tobytes() == np.float64(value).tobytes()
    with np.printoptions(precision=2):
        for value in (1.001, 1.002):
            for boundary in (np.float64(value), {0: np.array(value)}, (np.array(value),)):
                result = shmmap.pmap_chunks(first, x, depth=1, boundary=boundary, engine=team)
                assert result[0] == value


def test_keys_are_exact() -> None:
    """A25: values that are equal, and not the same."""
    values: list[Any] = [
        *(0, 0.0, -0.0, False, np.float64(0), np.float32(0), np.int64(0), "0", None),
        *(1, 1.0, True, np.True_, float("nan"), np.nan, np.float32("nan"), "1"),
        *(0.1, np.float32(0.1), np.float64(0.1), np.array(0.1), np.array([0.1])),
        *((0,), [0], (0.0,), ((0,),), (False,), {0: 0}, {False: 0}, {0: False}, {0: (0,)}),
    ]
    keys = [_exact(value) for value in values]
    assert len(set(keys)) == len(values) - 1  # the two NaN of Python's are one
    assert keys == [_exact(value) for value in values]
    for value in (object(), [object()], np.array([None])):
        with pytest.raises(TypeError):
            _exact(value)


def test_arguments_that_are_no_key_are_looked_at_again() -> None:
    """A25: an argument that nobody knows all of."""

    class Axis:
        at = 0

        def __index__(self) -> int:
            return self.at

    x = shmmap.asshared(np.arange(6.0).reshape(2, 3))
    axis: Any = Axis()
    assert shmmap.pmap(np.sum, x, axis=axis).tolist() == [3, 12]
    axis.at = 1
    assert shmmap.pmap(np.sum, x, axis=axis).tolist() == [3, 5, 7]


# --- B7: waiting takes no time of the processor ---------------------------------------------------


def cpu_s(pid: int) -> float:
    """Seconds of the processor that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_waiting_for_the_output_takes_no_time(team: Any) -> None:
    """B7. Kind: a wake record of a later call, left where it lay, ended every wait at once."""
    goes_on = shmmap.zeros(1, bool)
    pids = shmmap.zeros(2, int)

    def func(i: Any) -> Any:
        pids[i] = os.getpid()
        if i == 0:
            wait_until(goes_on.any, 30, interval_s=0.01)
        return np.full(1 << 17, i)  # more than is handed over without the output

    held = shmmap.pmap(func, np.arange(2), chunksize=1, engine=team, wait=False)
    wait_until(pids.all, 30)
    queued = [shmmap.pmap(abs, range(4), engine=team, wait=False) for _ in range(3)]
    before = cpu_s(int(pids[1]))
    ends = iter(range(100))
    wait_until(lambda: next(ends) == 60, interval_s=0.01)
    took = cpu_s(int(pids[1])) - before
    goes_on[0] = True
    assert took < 0.25
    assert held.result()[:, 0].tolist() == [0, 1]
    assert [each.result() for each in queued] == [[0, 1, 2, 3]] * 3


# --- buffers that are filled anew -----------------------------------------------------------------


def refill(buffer: Any, fill: Any) -> Any:
    for i in range(4):
        fill(buffer, i)
        yield buffer


def set_first(buffer: Any, i: int) -> None:
    buffer[0] = i


REFILLED: dict[str, Any] = {
    "array": lambda: refill(np.zeros(2), set_first),
    "views of one": lambda: (a[: 1 + int(a[0])] for a in refill(np.zeros(9), set_first)),
    "of no axis": lambda: refill(np.zeros(()), np.ndarray.fill),
    "late": lambda: refill(np.zeros(2), lambda a, i: a.fill(max(0, i - 2))),
    "list": lambda: refill([0], set_first),
    "dict": lambda: refill({0: 0}, set_first),
    "bytes": lambda: refill(bytearray(1), set_first),
    "numbered": lambda: enumerate(refill(np.zeros(2), set_first)),
    "with a length": lambda: np.nditer(
        np.arange(10, dtype="f4"),
        flags=["external_loop", "buffered"],
        op_dtypes=["f8"],
        buffersize=4,
    ),
}


@pytest.mark.parametrize("name", REFILLED)
def test_a_buffer_that_is_filled_anew_is_refused(name: str) -> None:
    """B4. Kind: iterators that a loop may use and a map, which reads ahead, may not."""
    for call in (shmmap.pmap, shmmap.pmap_chunks):
        with pytest.raises(ValueError, match=r"has changed a \w+ that it gave before"):
            call(str, REFILLED[name](), engine="serial")


def test_a_buffer_that_is_filled_anew_is_refused_by_teams(team: Any) -> None:
    """B4, as an executor and with default options."""
    for options in ({}, {"buffersize": 2}):
        with pytest.raises(ValueError, match="give a copy"):
            list(team.map(str, refill([0], set_first), **options))
    with pytest.raises(ValueError, match="give a copy"):
        shmmap.pmap(str, refill([0], set_first), engine=team)
    assert shmmap.pmap(sum, (a.copy() for a in refill([0], set_first)), engine=team) == [0, 1, 2, 3]


def test_items_that_stay_as_they_are_may_be_one_object() -> None:
    """B4: what does not change is no buffer, nor are windows of one array."""
    a = np.arange(4.0)
    same = [np.float64(6)] * 3
    for items in (itertools.repeat(a, 3), (a for _ in range(3)), iter([a] * 3)):
        assert shmmap.pmap(np.sum, items, engine="serial") == same
    windows = (a[i : i + 2] for i in range(3))
    assert shmmap.pmap(np.sum, windows, engine="serial") == [1, 3, 5]
    assert shmmap.pmap(sum, ([i] for i in range(3)), engine="serial") == [0, 1, 2]


def test_a_shared_item_that_others_write_into_is_no_buffer(engine: Any) -> None:
    """What others write into a shared array while an iterator is read is seen, and no reason to refuse it."""
    x = shmmap.zeros(4)

    def items() -> Iterator[Any]:
        yield x
        x[:] = 5.0
        yield 1

    assert len(shmmap.pmap(lambda item: 1, items(), engine=engine, workers=2)) == 2


@pytest.mark.parametrize("scalar", [3, 2.5, np.float64(2.5), np.array(3), None])
def test_a_scalar_among_the_inputs_is_told_how_to_pass_it(scalar: Any) -> None:
    """Inputs are zipped, and a number has no items; what is advised works."""
    x = np.ones((4, 3))

    def scale(row: Any, factor: Any) -> Any:
        return row.sum() * (factor or 1)

    with pytest.raises((TypeError, ValueError), match=r"axis=\(0, None\).*functools\.partial"):
        shmmap.pmap(scale, x, scalar)
    expected = np.stack([scale(row, scalar) for row in x])
    np.testing.assert_array_equal(shmmap.pmap(scale, x, scalar, axis=(0, None)), expected)
    bound = functools.partial(scale, factor=scalar)
    np.testing.assert_array_equal(shmmap.pmap(bound, x), expected)
    with pytest.raises((TypeError, ValueError), match=r"axis=\(None, 0\)"):
        shmmap.pmap(scale, scalar, x)
    with pytest.raises(ValueError, match=r"different lengths.*axis=\(0, None\)"):
        shmmap.pmap(scale, x, [3.0])
