"""What is seen from outside of a map and its workers: what control block and claim slots say."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shmmap._wire import claims, control
from shmmap._wire.about import VERB_FOLDING, VERBS, label_of
from shmmap._wire.claims import ClaimSlots
from shmmap._wire.control import ControlBlock
from shmmap._wire.header import (
    CONTROL_MARK,
    HEADER_NBYTES,
    LAYOUT,
    SLOTS_MARK,
    Header,
    unpack_header,
)
from shmmap._wire.sight import SLOTS_NBYTES, ledger_end, read_map, read_workers


def test_who_changes_the_layout_raises_its_number() -> None:
    """Else a `top` of another version would read nonsense instead of refusing."""
    assert LAYOUT == 1
    words = [getattr(claims, name) for name in ("RUNNING", "LEFT", "INDEX", "SINCE", "CHUNK")]
    words += [getattr(claims, name) for name in ("LAST_CHUNK", "TAKEN", "CONTROL", "PID")]
    words += [claims.ENTERED, claims.DREW, claims.SLOT_WORDS, claims.SLOTS_AT, claims.RANKS_MAX]
    assert words == [0, 1, 4, 5, 7, 8, 9, 12, 13, 14, 15, 16, 128, 1024]
    places = [getattr(control, f"_{name}") for name in ("LIMIT", "CHUNKS", "ITEMS", "CHUNKSIZE")]
    assert [*places, control._FIRST, control._TEXT] == [0, 2, 8, 9, 10, 160]
    assert (control.HEAD_NBYTES, HEADER_NBYTES) == (69632, 64)


@pytest.fixture
def block() -> Iterator[ControlBlock]:
    control = ControlBlock(5, 16, 2)
    yield control
    control.close()


def see(control: ControlBlock) -> bytes:
    head = os.pread(control.fd, 69632, 0)
    assert unpack_header(head) == Header(CONTROL_MARK, LAYOUT, os.getpid(), control.id)
    return os.pread(control.fd, ledger_end(head), 0)


def test_a_map_is_seen_as_it_is(block: ControlBlock) -> None:
    block.begin(10, 1, b"arguments", b"", (95, 10, 7000, VERBS["items"] + label_of(os.getpid)))
    seen = read_map(5, see(block))
    assert (seen.verb, seen.func, seen.items) == ("pmap", "getpid", 95)
    assert (seen.items_done, seen.chunks_done, seen.is_stopped) == (0, 0, False)
    block.mark([0, 9], 1)
    block.stop(4)
    seen = read_map(5, see(block))
    assert (seen.items_done, seen.chunks_done, seen.is_stopped) == (15, 2, True)
    assert seen.limits(range(8, 10)) == (7080, 7095)
    block.mark(range(10), 2)
    assert read_map(5, see(block)).items_done == 95
    block.begin(3, 1, b"", b"", (3, 1, 0, VERB_FOLDING + label_of(len)))
    seen = read_map(5, see(block))
    assert (seen.verb, seen.func, seen.items_done, len(seen.marks)) == ("preduce", "len", 0, 3)


class Silent:
    def __repr__(self) -> str:
        raise AssertionError("it may be large")

    def __call__(self) -> None: ...


class Talks(Silent):
    def __getattr__(self, name: str) -> object:
        raise ArithmeticError(name)


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (lambda: functools.partial(functools.partial(len)), "len"),
        (Silent, "Silent"),
        (Talks, "Talks"),
        (lambda: type("ä" * 300, (), {}), "ä" * 120),  # and half a letter
    ],
)
def test_names_of_functions(block: ControlBlock, func: Callable[[], Any], name: str) -> None:
    block.begin(1, 1, b"", b"", (1, 1, 0, VERBS["ranges"] + label_of(func())))
    assert read_map(5, see(block)).func == name


def test_workers_are_seen_where_they_are() -> None:
    slots = ClaimSlots()
    slots.slot(0)[claims.PID], slots.slot(7)[claims.PID] = 11, 12
    slot = slots.slot(7)
    for word, value in [("RUNNING", 3), ("LEFT", 2), ("CONTROL", 5), ("CHUNK", 4), ("DREW", 99)]:
        slot[getattr(claims, word)] = value
    data = os.pread(slots.fd, 1 << 20, 0)
    assert len(data) == SLOTS_NBYTES and unpack_header(data).mark == SLOTS_MARK
    idle, busy = read_workers(data)
    assert (idle.rank, idle.pid, idle.call, idle.chunks) == (0, 11, 0, range(0))
    assert (busy.rank, busy.running, busy.control, busy.chunks) == (7, 3, 5, range(3, 4))
    assert (busy.since_ns, busy.at_index, busy.has_function) == (99, -1, False)
    slot[claims.LAST_CHUNK], slot[claims.SINCE], slot[claims.INDEX] = 9, 1234, 56
    (_, busy) = read_workers(os.pread(slots.fd, 1 << 20, 0))
    assert (busy.chunks, busy.since_ns, busy.at_index) == (range(3, 9), 1234, 56)
    slot.release()
    slots.close()


@pytest.mark.parametrize("data", [b"", b"shmmap", bytes(4096), b"x" * 4096])
def test_other_memory_is_not_taken_for_ours(data: bytes) -> None:
    assert not unpack_header(data).is_ours
