"""Memory lives as long as some process has it, and serves no other array while another may see it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._memory import leases, table
from shmmap.testing import wait_until
from tests import functions
from tests.handles import reader
from tests.handles.reader import Reader
from tests.helpers import descriptor_count

NBYTES = 8 << 20


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Reader]:
    with Reader() as there:
        yield there


def segment_of(a: Any) -> int:
    """Identity of the segment an array lies in."""
    segment = table.find_segment(a.__array_interface__["data"][0])
    assert segment is not None
    return segment.id


@pytest.fixture
def warm() -> None:
    """Released segments serve again only with a team; and none of what other tests dropped."""
    shmmap.pmap(functions.nothing, range(100), workers=2, chunksize=1)
    gc.collect()
    table.release_spare()


# ---------------------------------------------------------------- never used again while it is seen


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("nbytes", [NBYTES, 1000])
def test_what_another_process_has_is_not_used_again(elsewhere: Reader, nbytes: int) -> None:
    stays = shmmap.zeros(8, np.uint8)  # so that the segment of small arrays does
    a = shmmap.full(nbytes, 1, np.uint8)
    before, address = segment_of(a), a.__array_interface__["data"][0]
    at = elsewhere(reader.keep, shmmap.handle(a, lease=0)) - 1
    del a
    gc.collect()
    for value in (7, 8):
        b = shmmap.full(nbytes, value, np.uint8)
        if nbytes == NBYTES:
            assert segment_of(b) != before
        assert b.__array_interface__["data"][0] != address or segment_of(b) != before
        assert (elsewhere(reader.read, at) == 1).all()
    back = elsewhere(reader.send_back, at).array()
    assert (back == 1).all()
    back[:] = 2
    assert (elsewhere(reader.read, at) == 2).all(), (
        "home again, though all of it had been dropped here"
    )
    elsewhere(reader.drop)
    del back, stays, b


def test_a_private_spare_still_serves(elsewhere: Reader, warm: None) -> None:
    """Only what was exported is left alone."""
    a = shmmap.ones(NBYTES, np.uint8)
    before = segment_of(a)
    del a
    assert segment_of(shmmap.zeros(NBYTES, np.uint8)) == before


@pytest.mark.usefixtures("warm")
def test_what_a_workers_function_sends_elsewhere_is_not_used_again(
    elsewhere: Reader, tmp_path: Path
) -> None:
    """The worker has the caller's array; it tells its caller that others may have it, too."""
    for nbytes in (NBYTES, 1000):
        stays = shmmap.zeros(8, np.uint8)
        a = shmmap.full(nbytes, 1, np.uint8)
        with shmmap.Team(1) as team:
            sent = team.submit(lambda x: pickle.dumps(shmmap.handle(x, lease=0)), a).result(20)
            at = elsewhere.send(pickle.dumps(("keep", (Sent(sent),)))) - 1
            del a
            gc.collect()
            b = shmmap.full(nbytes, 7, np.uint8)
            assert (elsewhere(reader.read, at) == 1).all()
            elsewhere(reader.drop)
            del b, stays


class Sent:
    """Comes out as what was pickled before."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> Any:
        return pickle.loads, (self.data,)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("nbytes", [NBYTES, 1000])
def test_what_a_child_of_a_worker_sees_is_not_used_again(tmp_path: Path, nbytes: int) -> None:
    """`multiprocessing` with fork, inside a worker's function: the child outlives the call."""
    go_on, answer = tmp_path / "go on", tmp_path / "answer"
    os.mkfifo(go_on)
    os.mkfifo(answer)

    def later(x: Any) -> None:
        go_on.read_text()
        answer.write_text(str(set(x.tolist())))

    def fork(x: Any) -> int:
        process = multiprocessing.get_context("fork").Process(target=later, args=(x,))
        process.start()
        return int(process.pid or 0)

    stays = shmmap.zeros(8, np.uint8)
    a = shmmap.full(nbytes, 1, np.uint8)
    with shmmap.Team(1) as team:
        team.submit(fork, a).result(20)
        del a
        gc.collect()
        b = shmmap.full(nbytes, 7, np.uint8)
        go_on.write_text("")
        assert answer.read_text() == "{1}"
        del b, stays


# ---------------------------------------------------------------- leases


@pytest.fixture
def own() -> Iterator[leases.Leases]:
    """Leases of the test's own."""
    made = leases.Leases()
    yield made
    for number in list(made._arrays):
        made.arrive(number)
    made.end_arrived()


def is_gone(a: Any) -> Callable[[], bool]:
    import weakref

    ref = weakref.ref(a)
    return lambda: ref() is None


def test_a_lease_ends_in_time(own: leases.Leases) -> None:
    arrays = [shmmap.zeros(3) for _ in range(3)]
    gone = [is_gone(a) for a in arrays]
    own.grant(arrays[0], 1000)
    own.grant(arrays[1], 0.01)
    own.grant(arrays[2], 0.01)
    del arrays
    wait_until(lambda: gone[1]() and gone[2]())
    assert not gone[0]()


def test_of_what_has_arrived_only_so_much_is_kept(own: leases.Leases, monkeypatch: Any) -> None:
    monkeypatch.setattr(leases, "ARRIVED_NBYTES", 100)
    monkeypatch.setattr(leases, "ARRIVED_MOST", 4)
    arrays = [shmmap.zeros(5) for _ in range(9)]  # 40 bytes each
    gone = [is_gone(a) for a in arrays]
    numbers = [own.grant(a, 1000).number for a in arrays]
    del arrays
    for number in (*numbers[:4], numbers[3], 12345):  # one of them twice, and nobody's
        own.arrive(number)
    assert [each() for each in gone] == [True, True] + [False] * 7
    small = [own.grant(a, 1000).number for a in np.zeros((6, 1), "i1")]
    for number in small:
        own.arrive(number)
    assert gone[2]() and gone[3]()
    assert not gone[4](), "it has not arrived"
    own.end_arrived()


def test_a_handle_keeps_its_array_for_a_while_after_it_was_pickled(elsewhere: Reader) -> None:
    sent = pickle.dumps(shmmap.handle(shmmap.full(1 << 18, 3.0)))
    gc.collect()
    for _ in range(2):  # and opened twice
        at = elsewhere.send(pickle.dumps(("keep", (Sent(sent),)))) - 1
        assert (elsewhere(reader.read, at) == 3).all()
    elsewhere(reader.drop)


def test_without_a_lease_the_array_goes_with_the_handle(elsewhere: Reader) -> None:
    sent = pickle.dumps(shmmap.handle(shmmap.zeros(1 << 18), lease=0))
    gc.collect()
    with pytest.raises(shmmap.SharedMemoryError, match="has dropped it"):
        elsewhere.send(pickle.dumps(("look", (Sent(sent),))))


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_handles_leave_no_descriptor(elsewhere: Reader, count: int) -> None:
    """There and back, of new arrays: those that have arrived need not be kept for a minute."""
    before = 0
    for i in range(count):
        a = shmmap.empty((1 << 18) if i % 4 == 0 else 10)
        a[0] = i
        elsewhere(reader.keep, shmmap.handle(a))
        if i % 100 == 99:
            back = elsewhere(reader.send_back).array()
            assert back[0] == i and np.shares_memory(back, a)
            elsewhere(reader.drop)
        if i == 500:
            before = descriptor_count() + elsewhere(reader.counts)[0]
    after = descriptor_count() + elsewhere(reader.counts)[0]
    assert after <= before + 250, "what arrived last"
    leases.leases.end_arrived()
    elsewhere(reader.drop)
    assert elsewhere(reader.counts)[0] < 20


def answer(h: Any, connection: Any) -> None:
    connection.send(shmmap.handle(shmmap.full(300, h.array()[0] + 1)))


def test_a_child_waits_at_its_end_for_what_it_sent() -> None:
    """Also one that was given a handle: `multiprocessing` unpickles that before the child begins."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=answer, args=(shmmap.handle(shmmap.full(3, 1.0)), there))
    child.start()
    data = here.recv_bytes()  # nothing is opened yet
    child.join(0.3)
    assert child.is_alive()
    assert pickle.loads(data).array()[0] == 2
    child.join()
    assert child.exitcode == 0
    child.close()
    here.close()
    there.close()
