"""Which node gets which chunks: ranges sized by time, and what a busy node gives up to an idle one. Pure.

A node gets contiguous ranges of chunks, each of which costs the scheduler of the cluster a task. So a range
takes a while: a part of what is left, by the node's own speed, and never so little that tasks come faster
than the scheduler hands them out. When nothing is left to give, whoever would end last gives up a part of
what it has not begun. See docs/design/0055-many-machines.md; `benchmarks/ranges.py` simulates it.

What must hold: each chunk is in one place at a time: not given yet, in one given range, or done.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

TRIES = 3
"""How often a node is asked for a part of a range that it gives nothing of: it may be about to begin it."""


class Policy(NamedTuple):
    """The figures that decide; times are in seconds."""

    share: int = 8
    """A range is this part of what is left for its node."""
    least_s: float = 1.0
    """A range takes this long at least, unless that is more than what is left for its node."""
    most_s: float = 30.0
    """And no longer than this: so much is lost with a node, and so long nothing is heard of it."""
    first_s: float = 5.0
    """The same for the first ranges of a node, of which it is not known how long they take."""
    task_s: float = 0.001
    """What a task costs the scheduler. A round of tasks, one for each node, is what bounds sizes from below:
    twice as long, and it is idle half of the time."""
    ahead: int = 2
    """Ranges that a node has: one that it runs, and one so that it need not wait for the next."""
    firsts: int = 16
    """While nothing is known of the speed, a range is this part of what would be a node's, or less."""
    cut_s: float = 0.1
    """What would end within this time is not worth to be cut."""
    can_cut: bool = True


@dataclass(slots=True)
class Given:
    """A range that a node has."""

    number: int
    node: Hashable
    start: int
    stop: int
    may_be_cut: bool = True
    """Nobody is about to, and it was not refused again and again."""
    tries: int = 0
    """How often it was tried since it was cut last."""


@dataclass(slots=True)
class _Node:
    speed: float = 0.0
    """Chunks in a second; 0 while that is not known."""
    since: float = 0.0
    """Since when it is at the first of its ranges."""
    given: list[Given] = field(default_factory=list)
    changes: int = 0
    """How often what it has has changed: by this, what was expected of it before is out of date."""


class Cut(NamedTuple):
    """A node is to give up a part of a range."""

    given: Given
    keep: float
    """Which part it keeps of what it has not begun."""


class Ranges:
    """The chunks of one map that are left, and who has which of them."""

    def __init__(self, left: Iterable[tuple[int, int]], policy: Policy | None = None) -> None:
        self._policy = policy or Policy()
        self._todo: list[tuple[int, int]] = sorted(left)
        self._left = sum(stop - start for start, stop in self._todo)
        self._all = self._left
        self._nodes: dict[Hashable, _Node] = {}
        self.given: dict[int, Given] = {}
        """By number."""
        self._numbers = 0
        self._speeds = 0.0
        """The sum of the speeds that are known, and of how many nodes."""
        self._known = 0
        self._ends: list[tuple[float, int, int, Hashable]] = []
        """When nodes are expected to be done with all they have: a heap, latest first, of which only entries
        of the node's last change count."""

    # ------------------------------------------------ nodes

    def nodes(self) -> list[Hashable]:
        return list(self._nodes)

    def add(self, node: Hashable) -> None:
        self._nodes.setdefault(node, _Node())

    def lose(self, node: Hashable) -> list[Given]:
        """A node is gone: what it had, which is in no place any more until it is put back."""
        gone = self._nodes.pop(node)
        if gone.speed:
            self._speeds -= gone.speed
            self._known -= 1
        for given in gone.given:
            del self.given[given.number]
        return gone.given

    # ------------------------------------------------ ranges

    @property
    def has_left(self) -> bool:
        """Whether anything is left to give."""
        return self._left > 0

    def left(self) -> list[tuple[int, int]]:
        """What is left to give."""
        return list(self._todo)

    def put_back(self, start: int, stop: int) -> None:
        """Chunks are to be given again."""
        if start < stop:
            insort(self._todo, (start, stop))
            self._left += stop - start

    def take_away(self, start: int, stop: int) -> None:
        """Chunks that were put back are in no place any more."""
        self._todo.remove((start, stop))
        self._left -= stop - start

    def take(self, node: Hashable, now: float) -> Given | None:
        """The next range for a node; None if it has enough, or nothing is left."""
        mine = self._nodes[node]
        if not self._todo or len(mine.given) >= self._policy.ahead:
            return None
        start, end = self._todo[0]
        stop = min(end, start + self._size(mine))
        self._todo[:1] = [(stop, end)] if stop < end else []
        self._left -= stop - start
        self._numbers += 1
        given = self.given[self._numbers] = Given(self._numbers, node, start, stop)
        if not mine.given:
            mine.since = now
        mine.given.append(given)
        self._expect(node, mine)
        return given

    def done(self, number: int, stop: int, now: float) -> None:
        """A node is done with a range; it has done it up to `stop`. The rest is put back."""
        given = self.given.pop(number)
        mine = self._nodes[given.node]
        mine.given.remove(given)
        speed = (stop - given.start) / max(now - mine.since, 1e-6)
        if stop > given.start:
            self._speeds -= mine.speed
            self._known += mine.speed == 0
            mine.speed = (mine.speed + speed) / 2 if mine.speed else speed
            self._speeds += mine.speed
        mine.since = now
        self.put_back(stop, given.stop)
        self._expect(given.node, mine)

    def cut(self, number: int, at: int | None, now: float) -> None:
        """A node says where a range ends now; None if it was not cut. What is above `at` is put back."""
        given = self.given.get(number)
        if given is None:
            return  # it has ended meanwhile, or its node has
        given.tries += 1
        given.may_be_cut = given.tries < TRIES or at is not None
        if at is not None and at < given.stop:
            self.put_back(max(at, given.start), given.stop)
            given.stop = max(at, given.start)
            given.tries = 0
        self._expect(given.node, self._nodes[given.node])

    def choose_cut(self, now: float) -> Cut | None:
        """What is to be cut for a node that has nothing, while nothing is left to give; None: nothing."""
        if self._todo or not self._policy.can_cut:
            return None
        ends, least_s = self._ends, 2 * len(self._nodes) * self._policy.task_s
        while ends:
            minus_end, changes, _, node = ends[0]
            mine = self._nodes.get(node)
            if mine is None or mine.changes != changes or not mine.given:
                heapq.heappop(ends)
                continue
            if -minus_end - now < max(self._policy.cut_s, least_s):
                return None
            given = max(mine.given, key=lambda each: each.number)
            heapq.heappop(ends)  # it is expected anew when it is known where it was cut
            if not given.may_be_cut or given.stop - given.start < 2:
                continue
            given.may_be_cut = False
            return Cut(given, self._kept(mine, given, now))
        return None

    # ------------------------------------------------ sizes

    def seconds(self, node: Hashable) -> float:
        """After how long a node is to end a range by itself."""
        policy = self._policy
        most = policy.most_s if self._nodes[node].speed else policy.first_s
        return max(most, 4 * len(self._nodes) * policy.task_s)

    def _size(self, node: _Node) -> int:
        """How many chunks a node gets."""
        policy, nodes = self._policy, len(self._nodes)
        fair = math.ceil(self._left / nodes)
        if not self._known:
            return max(1, min(fair, self._all // (policy.firsts * nodes)))
        mean = self._speeds / self._known
        speed = node.speed or mean
        round_s = nodes * policy.task_s
        seconds = min(self._left / (policy.share * mean * nodes), policy.most_s)
        seconds = max(seconds, policy.least_s, 2 * round_s)
        # A map that is over soon: smaller ones, or a few nodes would get it all.
        most = max(fair, speed * max(policy.least_s / 4, round_s)) if policy.can_cut else fair
        return max(1, int(min(speed * seconds, most)))

    def _kept(self, mine: _Node, given: Given, now: float) -> float:
        """Which part of a node's last range it is to keep, so that it ends when an idle node does."""
        mean = self._speeds / max(1, self._known)
        speed = mine.speed or mean
        length = given.stop - given.start
        before = sum(each.stop - each.start for each in mine.given) - length
        done = (now - mine.since) * speed
        left = max(1.0, before + length - done)
        own = left * speed / max(speed + mean, 1e-9) - max(0.0, before - done)
        return min(1.0, max(0.0, own / max(1.0, length - max(0.0, done - before))))

    def _expect(self, name: Hashable, node: _Node) -> None:
        node.changes += 1
        if not node.given or not self._known:
            return
        speed = node.speed or self._speeds / self._known
        end = node.since + sum(each.stop - each.start for each in node.given) / speed
        heapq.heappush(self._ends, (-end, node.changes, id(name), name))


def runs_of(chunks: Iterable[int]) -> list[tuple[int, int]]:
    """Chunks in order, as ranges."""
    runs: list[tuple[int, int]] = []
    for chunk in chunks:
        if runs and runs[-1][1] == chunk:
            runs[-1] = runs[-1][0], chunk + 1
        else:
            runs.append((chunk, chunk + 1))
    return runs
