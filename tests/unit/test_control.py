"""What control block and claim slots say, to the caller and to a worker that has them mapped as well."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shmmap._wire.control import CHUNK, CLAIM, CLAIM_END, LAST_CHUNK, ClaimSlots, ControlBlock


@pytest.fixture
def blocks() -> Iterator[tuple[ControlBlock, ControlBlock]]:
    """The caller's, ready for a map of ten chunks, and a worker's view of it."""
    ours = ControlBlock(1, 16)
    fd, pipe, leavers = ours.shared_fds()
    theirs = ControlBlock(1, 16, (os.dup(fd), os.dup(pipe), os.dup(leavers)))
    ours.begin(10)
    yield ours, theirs
    theirs.close()
    ours.close()


def test_every_ticket_is_drawn_once_until_the_map_is_stopped(
    blocks: tuple[ControlBlock, ControlBlock],
) -> None:
    ours, theirs = blocks
    assert [ours.draw(1), theirs.draw(3), ours.draw(1)] == [0, 1, 4]
    theirs.stop(2)
    assert ours.draw(1) >= 10
    ours.stop(7)  # of two reasons to stop, the earlier chunk counts
    assert ours.stopped_at() == theirs.limit[0] == 2
    ours.resume()
    assert ours.stopped_at() is None and theirs.limit[0] == 10
    ours.abandon()
    assert theirs.is_abandoned() and not theirs.is_output_awaited()


def test_a_further_round_runs_its_chunks_only(blocks: tuple[ControlBlock, ControlBlock]) -> None:
    ours, theirs = blocks
    theirs.mark(range(10), 1)
    theirs.leave()
    ours.begin_again([0, 4])
    assert ours.marks() == bytes([0, 1, 1, 1, 0, 1, 1, 1, 1, 1])
    assert theirs.is_output_awaited() and theirs.draw(1) == 0 and theirs.leave() == 1
    ours.begin_again([4])
    assert not theirs.is_output_awaited()


def test_an_output_that_was_told_stays_told(blocks: tuple[ControlBlock, ControlBlock]) -> None:
    ours, theirs = blocks
    assert theirs.is_output_awaited() and theirs.output() is None
    ours.tell_output(b"there")
    ours.give_up_output()
    assert theirs.output() == b"there"


def test_a_claim_says_where_its_worker_is() -> None:
    slots = ClaimSlots()
    slot = slots.slot(3)
    assert slots.claim(3).chunks == range(0)
    slot[CLAIM], slot[CLAIM_END], slot[CHUNK] = 8, 20, 13
    assert slots.claim(3).tickets == range(8, 20) and slots.claim(3).chunks == range(12, 13)
    slot[LAST_CHUNK] = 17  # several as one
    assert slots.claim(3).chunks == range(12, 17)
    slots.clear(3)
    assert not any(slot)
    slot.release()
    slots.close()
