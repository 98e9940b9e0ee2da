"""What a worker is known to have it has: the caller's notes beside the worker's own cache. No process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from shmmap._team.known import JOBS_MAX, Known
from shmmap._wire import CACHED_FUNCTIONS, Call, make_payload, pack
from shmmap._worker import cache

FUNC, _ = make_payload(pack(abs).data)
JOB, _ = make_payload(pack(1).data)


@given(
    st.lists(
        st.tuples(
            st.integers(0, CACHED_FUNCTIONS + 5),  # which function; 0: one that must not be kept
            st.booleans(),  # pickled by value
            st.integers(0, JOBS_MAX + 3),  # which job; 0: one that must not be kept
            st.sampled_from(["call"] * 8 + ["modules", "writes main", "unsure"]),
        ),
        max_size=300,
    )
)
def test_what_is_left_out_of_a_call_the_worker_has(steps: list[tuple[int, bool, int, str]]) -> None:
    known, kept = Known(), cache.Cache()
    plain = SimpleNamespace(from_plain=lambda job: job)
    with mock.patch.object(cache, "Job", plain):
        for number, by_value, job_id, event in steps:
            digest = b"" if number == 0 else b"%d" % (2 * number + by_value)
            has_function = known.gets_function(digest, by_value)
            has_job, forget = known.gets_job(job_id)
            call = Call(
                control=1,
                job_id=job_id,
                job=None if has_job else JOB,
                func=None if has_function else FUNC,
                digest=digest,
                by_value=by_value,
                is_static=False,
                team=1,
                forget=forget,
            )
            assert kept.function(call)[0] is abs
            job: Any = kept.job(call).template
            assert job == 1
            known.gets_call(None, writes_main=event == "writes main")
            if event == "modules":
                known.gets_modules(known.modules + 1)
            elif event == "unsure":
                known.is_unsure()


def test_a_function_that_comes_again_is_not_sent_again() -> None:
    known = Known()
    assert [known.gets_function(b"a", False) for _ in range(2)] == [False, True]
    assert [known.gets_function(b"v", True) for _ in range(2)] == [False, True]
    assert known.gets_function(b"a", False), "one by value throws out none by reference"
    assert not known.gets_function(b"w", True) and not known.gets_function(b"v", True)
    known.gets_modules(1)
    assert not known.gets_function(b"a", False), "it may refer to older settings"


def test_jobs_beyond_the_limit_are_forgotten_oldest_first() -> None:
    known = Known()
    assert all(known.gets_job(job) == (False, ()) for job in range(1, JOBS_MAX + 1))
    assert known.gets_job(1) == (True, ())
    assert known.gets_job(JOBS_MAX + 1) == (False, (1,))
    assert known.gets_job(0) == (False, ())


def test_a_wake_record_is_enough_until_something_is_taken_away() -> None:
    known, key = Known(), ("all", "of", "it")
    known.has_segments([7, 8])
    known.has_control(3)
    known.gets_call(key, writes_main=False)
    assert known.lacks([7, 8, 9]) == [9]
    assert known.loses([9]) == () and not known.loses_control(4)
    assert known.loses([7]) == (7,) and known.lacks([7]) == [7]
    assert known.loses_control(3) and not known.controls
    assert known.key is key, "segments and control blocks are asked for by themselves"
    known.is_unsure()
    assert known.key is None
