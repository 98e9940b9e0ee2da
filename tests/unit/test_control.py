"""What control block and claim slots say, to the caller and to a worker that has them mapped as well."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shmmap._wire.about import VERBS, label_of
from shmmap._wire.claims import CHUNK, CLAIM, CLAIM_END, LAST_CHUNK, ClaimSlots
from shmmap._wire.control import ControlBlock
from shmmap._wire.records import Record, RecordKind, unpack_records
from shmmap._wire.shelves import SHELF_RECORDS

ABOUT = 95, 10, 0, VERBS["items"] + label_of(len)


@pytest.fixture
def blocks() -> Iterator[tuple[ControlBlock, ControlBlock]]:
    """The caller's, ready for a map of ten chunks, and a worker's view of it."""
    ours = ControlBlock(1, 16, 2)
    fd, pipe, leavers = ours.shared_fds()
    theirs = ControlBlock(1, 16, 2, fds=(os.dup(fd), os.dup(pipe), os.dup(leavers)))
    ours.begin(10, 2, b"", b"", ABOUT)
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
    ours.expect(1)
    assert ours.marks() == bytes([0, 1, 1, 1, 0, 1, 1, 1, 1, 1])
    assert theirs.is_output_awaited() and theirs.draw(1) == 0 and theirs.leave()
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


def results(rank: int, number: int) -> Record:
    return Record(7, rank, RecordKind.RESULTS, number, number + 1, 3, 24, 100)


def test_what_is_put_on_shelves_is_taken_once_and_in_order(
    blocks: tuple[ControlBlock, ControlBlock],
) -> None:
    ours, theirs = blocks
    assert not ours.shelves.has_any() and ours.shelves.take() == b""
    number = 0
    for count in (1, 3, SHELF_RECORDS, 5, SHELF_RECORDS, 2):  # round and round
        put = [results(1, number + i) for i in range(count)]
        assert all(theirs.shelves.put(1, record.pack()) for record in put)
        assert theirs.shelves.put(0, results(0, number).pack()) and ours.shelves.has_any()
        assert list(unpack_records(ours.shelves.take())) == [results(0, number), *put]
        assert not ours.shelves.has_any() and ours.shelves.take() == b""
        number += count


def test_a_full_shelf_takes_no_more_until_it_is_emptied(
    blocks: tuple[ControlBlock, ControlBlock],
) -> None:
    ours, theirs = blocks
    for number in range(SHELF_RECORDS):
        assert theirs.shelves.put(1, results(1, number).pack())
    assert not theirs.shelves.put(1, results(1, 99).pack())
    assert not theirs.shelves.put(2, results(2, 0).pack()), "there is no shelf for this rank"
    assert theirs.shelves.put(0, results(0, 0).pack()), "the others have room"
    assert len(list(ours.drain())) == SHELF_RECORDS + 1
    assert theirs.shelves.put(1, results(1, 99).pack())


def test_half_a_record_is_none_and_is_written_over(
    blocks: tuple[ControlBlock, ControlBlock],
) -> None:
    ours, theirs = blocks
    theirs.shelves._records[:20] = bytes(range(20))  # and then the worker died
    assert not ours.shelves.has_any()
    theirs.shelves.put(0, results(0, 5).pack())
    assert list(unpack_records(ours.shelves.take())) == [results(0, 5)]


def test_whoever_sleeps_until_results_are_put_is_rung_once(
    blocks: tuple[ControlBlock, ControlBlock],
) -> None:
    ours, theirs = blocks
    assert not theirs.is_to_ring(), "nobody sleeps"
    assert not ours.await_results()
    theirs.shelves.put(0, results(0, 0).pack())
    assert theirs.is_to_ring() and not theirs.is_to_ring()
    assert ours.await_results(), "it was put just before: it must not sleep"
    ours.begin(10, 2, b"", b"", ABOUT)
    assert not theirs.is_to_ring(), "that was another map"
