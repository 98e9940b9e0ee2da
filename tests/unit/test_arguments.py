"""A job that is taken apart and put together is the same job."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import shmmap
from shmmap._chunks import Arguments, Input, Job, Plan, is_small, make_template, put_together
from tests.strategies import arrays, shapes

ARRAYS = arrays(shape=shapes(min_dims=0))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()


def _job(*inputs: Input, out: tuple[Any, ...] | None = None, seed: Any = None) -> Job:
    return Job(
        inputs=inputs,
        out=out,
        seed=seed,
        first=3,
        verb="items",
        gather=False,
        plan=Plan(4, 2),
        axis=0,
        dtypes=None,
        timeout=None,
        keep_going=False,
        retries=0,
        may_join=True,
    )


def _round_trip(job: Job) -> Job:
    arguments = Arguments(job)
    template = Job.from_plain(make_template(job, arguments.layouts).to_plain())
    return put_together(template, arguments.data)


def _check(a: Any, b: Any) -> None:
    assert type(a) is type(b) is np.ndarray
    assert (a.dtype, a.shape, a.strides) == (b.dtype, b.shape, b.strides)
    assert a.tobytes() == b.tobytes()


@given(ARRAYS)
def test_private_arrays_come_as_copies_that_cannot_be_written(a: Any) -> None:
    assume(is_small(a))  # others are placed in shared memory before
    (entry,) = _round_trip(_job(Input("array", a))).inputs
    assert entry.data.dtype == a.dtype and entry.data.tobytes() == a.tobytes()
    assert not entry.data.flags.writeable or shmmap.is_shared(a)


@given(ARRAYS, st.booleans())
def test_shared_arrays_are_the_same_memory(a: Any, writeable: bool) -> None:
    shared = shmmap.asshared(a)[...]
    shared.flags.writeable = writeable
    job = _round_trip(
        _job(Input("array", shared), Input("whole", shared[::-1] if a.ndim else shared))
    )
    _check(job.inputs[0].data, shared)
    assert np.may_share_memory(job.inputs[0].data, shared) or not a.size
    assert job.inputs[0].data.flags.writeable == writeable
    assert job.inputs[1].data.strides == (shared[::-1] if a.ndim else shared).strides


@given(st.lists(PLAIN), st.tuples(PLAIN, PLAIN))
def test_plain_values_keep_their_types(items: list[Any], whole: Any) -> None:
    one, other = _round_trip(_job(Input("sequence", items), Input("whole", whole))).inputs
    assert repr((one.data, other.data)) == repr((items, whole))


@given(st.integers(), st.integers(), st.integers().filter(bool))
def test_ranges(start: int, stop: int, step: int) -> None:
    (entry,) = _round_trip(_job(Input("sequence", range(start, stop, step)))).inputs
    assert repr(entry.data) == repr(range(start, stop, step))


@pytest.mark.parametrize("value", [{"a": 1}, np.float64(2), [np.arange(3)], np.arange(3.0)[::2]])
def test_other_values_are_pickled(value: Any) -> None:
    job = _round_trip(_job(Input("whole", value), Input("array", np.arange(4)), seed=(1, 2)))
    assert repr(job.inputs[0].data) == repr(value)
    assert (job.seed, job.first) == ((1, 2), 3)


def test_calls_alike_have_one_template() -> None:
    x, y = shmmap.zeros((2, 8)), shmmap.ones(8)
    first = Arguments(_job(Input("array", x[0]), out=(y,)))
    third = Arguments(_job(Input("array", x[0][::2]), out=(y,)))
    assert first.layouts == Arguments(_job(Input("array", x[1]), out=(x[0],))).layouts
    assert first != third
