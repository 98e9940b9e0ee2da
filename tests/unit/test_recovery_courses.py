"""Recovery in any course of events: workers that are made up draw, die, report late, and are replaced."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shmmap._chunks.ledger import Mark, undone
from shmmap._chunks.plan import share_of
from shmmap._results.recovery import LOST_MAX, DeadWorker, Recovery

from .test_recovery import make


@dataclass
class Worker:
    """One that is made up: what it holds, and what it has done and told nobody yet."""

    pid: int
    given: list[int] = field(default_factory=list)
    was_given: list[int] = field(default_factory=list)
    tickets: range = range(0)
    claim: list[int] = field(default_factory=list)
    """Chunks of its tickets that it has not come to."""
    inside: range = range(0)
    kept: list[int] = field(default_factory=list)
    """Chunks whose results it has not handed over yet."""
    share_at: int = 0

    def holds(self) -> set[int]:
        return {*self.given, *self.claim, *self.inside, *self.kept}


@dataclass
class Settings:
    chunks: int
    team: int
    retries: int
    keep_going: bool
    is_static: bool
    is_safe: bool


class World:
    """A map with workers that are made up. What must hold whenever is asserted as it goes on."""

    def __init__(self, given: Settings) -> None:
        self.given = given
        self.recovery = make(given.retries, keep_going=given.keep_going, is_static=given.is_static)
        self.marks = bytearray(given.chunks)
        self.next_pid = 100
        self.late: list[tuple[int, int]] = []
        """Reports that nobody has read yet: pid and chunk."""
        self.done: Counter[int] = Counter()
        self.killed_in: Counter[int] = Counter()
        self.begin(None)

    def begin(self, chunks: list[int] | None) -> None:
        self.round = chunks
        self.tickets = self.given.chunks if chunks is None else len(chunks)
        self.drawn = 0
        self.limit = self.given.chunks
        self.is_shared = self.given.is_static and chunks is None
        self.workers = {rank: self.new_worker() for rank in range(self.given.team)}
        self.late.clear()
        for chunk in chunks or ():
            self.marks[chunk] = Mark.PENDING

    def new_worker(self) -> Worker:
        self.next_pid += 1
        return Worker(self.next_pid)

    # What a worker does, as `_chunks.part` has it.

    def go_on(self, rank: int, number: int) -> None:
        """The worker draws, or begins what it comes to next, or ends what it is in."""
        worker = self.workers[rank]
        if worker.inside:
            self.end_chunks(worker, keeps=number % 3 == 0)
        elif worker.given:
            if (chunk := worker.given.pop(0)) <= self.limit:
                worker.inside = range(chunk, chunk + 1)
        elif worker.claim:
            self.begin_chunks(worker, number)
        else:
            self.hand_over(worker)
            self.draw(rank, worker, number)

    def draw(self, rank: int, worker: Worker, k: int) -> None:
        if self.is_shared:
            first, stop = share_of(self.given.chunks, rank, self.given.team)
            first += worker.share_at
            if self.limit < first:
                return
            worker.tickets = range(first, min(first + k, stop))
            worker.share_at += len(worker.tickets)
        elif self.drawn < self.tickets:
            worker.tickets = range(self.drawn, min(self.drawn + k, self.tickets))
            self.drawn = worker.tickets.stop
        else:
            return
        worker.claim = self.chunks_of(worker.tickets)

    def begin_chunks(self, worker: Worker, number: int) -> None:
        chunk = worker.claim[0]
        if chunk > self.limit:
            worker.claim.clear()
            return
        step = 1 if self.is_shared or self.round is not None else 1 + number % 3
        begun, worker.claim = worker.claim[:step], worker.claim[step:]
        if not self.is_shared or self.marks[chunk] == Mark.PENDING:
            worker.inside = range(begun[0], begun[-1] + 1)

    def end_chunks(self, worker: Worker, *, keeps: bool) -> None:
        worker.kept += worker.inside
        worker.inside = range(0)
        if not keeps:
            self.hand_over(worker)

    def hand_over(self, worker: Worker) -> None:
        for chunk in worker.kept:
            assert self.marks[chunk] in (Mark.PENDING, Mark.LOST)
            self.marks[chunk] = Mark.DONE
            self.done[chunk] += 1
        worker.kept.clear()

    def fail(self, rank: int, *, dies: bool, has_successor: bool) -> None:
        """The function fails; the worker tells, and dies before it has marked that, or goes on."""
        worker = self.workers[rank]
        if not worker.inside:
            return
        chunk = worker.inside[-1]
        self.hand_over(worker)
        if not self.given.keep_going:
            self.stop(chunk)
        self.late.append((worker.pid, chunk))
        if dies:
            self.die(rank, has_successor=has_successor)
            return
        self.marks[chunk] = Mark.FAILED
        worker.kept += worker.inside[:-1]
        worker.inside = range(0)

    # What the caller hears.

    def die(self, rank: int, *, has_successor: bool, is_overdue: bool = False) -> None:
        worker = self.workers.pop(rank)
        self.killed_in.update(worker.inside)
        stopped_at = self.limit if self.limit < self.given.chunks else None
        dead = DeadWorker(
            rank,
            worker.pid,
            worker.tickets,
            worker.inside,
            has_successor,
            worker.inside[0] if is_overdue and worker.inside else None,
        )
        told = self.recovery.died(dead, bytes(self.marks), stopped_at, is_safe=self.given.is_safe)
        for chunk in told.not_to_begin:
            self.marks[chunk] = Mark.LOST
        others = {chunk for each in self.workers.values() for chunk in each.holds()}
        assert not others & {*told.again, *told.lost}, "it belongs to a living worker"
        assert {*told.again} <= {*worker.was_given, *self.chunks_of(worker.tickets)}
        assert all(self.marks[chunk] in (Mark.PENDING, Mark.LOST) for chunk in told.again)
        assert has_successor or not told.again
        assert not (told.resumes and self.recovery.is_doomed())
        if told.stop_at is not None:
            assert not told.again and self.recovery.is_doomed()
            self.stop(told.stop_at)
        elif told.resumes:
            self.limit = self.given.chunks
        if has_successor and not told.is_given_up:
            self.workers[rank] = self.new_worker()
            self.workers[rank].given = list(told.again)
            self.workers[rank].was_given = list(told.again)

    def chunks_of(self, tickets: range) -> list[int]:
        return [ticket if self.round is None else self.round[ticket] for ticket in tickets]

    def read(self, at: int) -> None:
        """Some report that lies there is read; the order among those of several workers is open."""
        if self.late:
            self.hear(self.recovery, *self.late.pop(at % len(self.late)))

    def hear(self, recovery: Recovery, pid: int, chunk: int) -> None:
        if recovery.is_superseded(pid, chunk):
            return
        recovery.failed(chunk, is_whole=True)
        if not self.given.keep_going:
            self.stop(chunk)

    def stop(self, at: int) -> None:
        self.limit = min(self.limit, at)
        self.drawn = self.tickets

    def apply(self, event: str, rank: int, number: int) -> None:
        if rank not in self.workers:
            return
        if event == "go on":
            self.go_on(rank, number)
            return
        if event == "read":
            self.read(number)
            return
        for _ in range(number):  # most die of what they do
            if not self.workers[rank].inside:
                self.go_on(rank, number)
        if event == "die":
            self.die(rank, has_successor=number != 4)
        elif event == "is late":
            self.die(rank, has_successor=number != 4, is_overdue=True)
        else:
            self.fail(rank, dies=number % 2 == 0, has_successor=number != 4)

    def finish_round(self) -> None:
        """All that are left do what they have; nothing fails any more."""
        while self.late:
            self.read(0)
        for rank, worker in self.workers.items():
            before: Worker | None = None
            while before != worker:
                before = copy.deepcopy(worker)
                self.go_on(rank, 1)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["go on", "go on", "die", "fail", "read", "is late"]),
        st.sampled_from([0, 0, 1, 2]),
        st.integers(0, 6),
    ),
    min_size=10,
    max_size=60,
)


SETTINGS = st.builds(
    Settings,
    chunks=st.integers(1, 12),
    team=st.integers(1, 3),
    retries=st.integers(0, 2),
    keep_going=st.booleans(),
    is_static=st.booleans(),
    is_safe=st.booleans(),
)


@settings(deadline=None, max_examples=150)
@given(SETTINGS, st.lists(EVENTS, min_size=1, max_size=3))
def test_each_chunk_is_done_once_or_left_with_a_reason(
    given: Settings, rounds: list[list[tuple[str, int, int]]]
) -> None:
    world = World(given)
    recovery = world.recovery
    left: list[int] = []
    for number in range(40):
        for event in rounds[number] if number < len(rounds) else ():
            world.apply(*event)
        world.finish_round()
        left = undone(world.marks)
        again = recovery.next_round(left, is_safe=given.is_safe) if left else []
        if not again:
            break
        assert set(again) <= set(left)
        world.begin(again)
    else:
        raise AssertionError("there is no end of rounds")
    assert all(count == 1 for count in world.done.values())
    assert {*world.done} == {*range(given.chunks)} - {*left}
    if left and not recovery.is_doomed():
        # Everything else was run again until it was done.
        allowed = max(given.retries, LOST_MAX if given.is_safe else 0)
        assert given.keep_going
        assert all(world.killed_in[chunk] >= min(1, allowed) for chunk in left)
    # A chunk has killed each worker that it was given to, and nothing is tried without an end.
    allowed = max(given.retries, LOST_MAX if given.is_safe else 0)
    assert all(count <= 1 + allowed for count in world.killed_in.values())


@settings(deadline=None, max_examples=80)
@given(SETTINGS, EVENTS, st.randoms())
def test_the_order_of_late_reports_does_not_matter(
    given: Settings, events: list[tuple[str, int, int]], random: Any
) -> None:
    world = World(given)
    for event in events:
        if event[0] != "read":
            world.apply(*event)
    left = undone(world.marks)
    orders = [list(world.late), random.sample(world.late, len(world.late))]
    outcomes = []
    for order in orders:
        recovery = copy.deepcopy(world.recovery)
        for pid, chunk in order:
            world.hear(recovery, pid, chunk)
        outcomes.append((recovery.is_doomed(), recovery.next_round(left, is_safe=given.is_safe)))
    assert outcomes[0] == outcomes[1]


@settings(deadline=None, max_examples=80)
@given(SETTINGS, EVENTS)
def test_what_is_read_late_of_chunks_that_are_done_again_changes_nothing(
    given: Settings, events: list[tuple[str, int, int]]
) -> None:
    world = World(given)
    for event in events:
        if event[0] != "read":
            world.apply(*event)
    alive = {worker.pid for worker in world.workers.values()}
    left = undone(world.marks)
    again = copy.deepcopy(world.recovery).next_round(left, is_safe=given.is_safe)
    for pid, chunk in world.late:
        if pid not in alive and chunk in again and world.marks[chunk] != Mark.FAILED:
            assert world.recovery.is_superseded(pid, chunk)
