"""Where a submitted function goes among the messages that a worker has received and not dealt with."""

from __future__ import annotations

from typing import Any

import pytest

from shmmap._wire.messages import Call, News, Payload
from shmmap._wire.records import Submitted
from shmmap._worker.line import place_of


def call(seq: int) -> Call:
    return Call(
        control=1,
        job_id=0,
        job=None,
        func=None,
        digest=b"",
        by_value=True,
        is_static=False,
        team=1,
        seq=seq,
    )


@pytest.mark.parametrize(
    ("pending", "place"),
    [
        ([], 0),
        ([call(9)], 0),
        ([call(1), call(9)], 1),
        ([News(Payload(b"")), call(9)], 1),
        ([call(1), News(Payload(b"")), call(9)], 2),
        ([call(9), News(Payload(b""))], 0),
    ],
)
def test_after_what_it_needs_and_before_newer_calls(pending: list[Any], place: int) -> None:
    assert place_of(Submitted(5, 1, 0, False, b""), pending) == place
