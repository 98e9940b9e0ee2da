"""Ranges of chunks for many nodes, simulated: the policy that runs is the policy that is simulated here.

    python benchmarks/ranges.py            # the table, in Markdown
    python benchmarks/ranges.py --quick    # its first rows

Nodes have speeds drawn at random (lognormal, 10 %), one in a hundred is three times slower, and some are lost
in the middle. The scheduler hands out one task after the other, each of which takes it a while; a task takes
5 ms on its way, each way, and a lost node is noticed after a second. What is shown is how much longer the map
took than it would if all nodes that were there had been busy all the time.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
from dataclasses import dataclass, field
from typing import NamedTuple

from shmmap._nodes.ranges import Given, Policy, Ranges

LATENCY_S = 0.005
NOTICED_S = 1.0


class Result(NamedTuple):
    seconds: float
    ideal: float
    tasks: int
    cuts: int
    runs: list[int]
    """How often each chunk was done."""


@dataclass
class Node:
    speed: float
    queue: list[Given] = field(default_factory=list)
    since: float = 0.0
    """Since when it is at the first one."""
    is_lost: bool = False


def simulate(
    chunks: int,
    nodes: int,
    chunk_s: float,
    *,
    task_s: float = 0.001,
    losses: int = 0,
    slow: float = 0.01,
    spread: float = 0.1,
    seed: int = 0,
    policy: Policy | None = None,
) -> Result:
    """A map of that many chunks, each of which takes `chunk_s` seconds of a node of speed 1."""
    rng = random.Random(seed)
    speeds = [
        math.exp(rng.gauss(0, spread)) / (3 if rng.random() < slow else 1) for _ in range(nodes)
    ]
    ideal = chunks * chunk_s / sum(speeds)
    team = [Node(speed / chunk_s) for speed in speeds]
    ranges = Ranges([(0, chunks)], policy or Policy(task_s=task_s))
    events: list[tuple[float, int, str, int, Given | None]] = []
    order = itertools.count()
    runs = [0] * chunks
    lost_s = 0.0
    scheduler_free = now = 0.0
    tasks = cuts = 0

    def post(at: float, what: str, node: int, given: Given | None = None) -> None:
        heapq.heappush(events, (at, next(order), what, node, given))

    def give(node: int, most: int = 2) -> None:
        nonlocal scheduler_free, tasks
        while most and not team[node].is_lost and node in alive:
            given = ranges.take(node, now)
            if given is None:
                break
            tasks += 1
            most -= 1
            scheduler_free = max(now, scheduler_free) + task_s
            post(scheduler_free + LATENCY_S, "arrives", node, given)
        if node in alive and not any(each.node == node for each in given_to.get(node, ())):
            idle.add(node)
            while idle and (cut := ranges.choose_cut(now)) is not None:
                idle.discard(next(iter(idle)))
                asked[cut.given.number] = cut.keep
                post(now + LATENCY_S, "cut", int(cut.given.node), cut.given)  # type: ignore[call-overload]

    def begin(node: int, at: float) -> None:
        mine = team[node]
        mine.since = at
        given = mine.queue[0]
        post(at + (given.stop - given.start) / mine.speed, "ends", node, given)

    alive = set(range(nodes))
    idle: set[int] = set()
    asked: dict[int, float] = {}
    given_to: dict[int, tuple[Given, ...]] = {}
    for node in alive:
        ranges.add(node)
    for node in rng.sample(range(nodes), losses):
        post(rng.uniform(0.1, 0.9) * ideal, "dies", node)
    for _ in range(2):  # one for each before any has two
        for node in range(nodes):
            give(node, 1)
    while ranges.given or ranges.has_left:
        now, _, what, node, given = heapq.heappop(events)
        mine = team[node]
        if what == "dies":
            mine.is_lost = True
            lost_s += max(0.0, ideal - now) * speeds[node] / sum(speeds)
            post(now + NOTICED_S, "noticed", node)
        elif what == "noticed":
            alive.discard(node)
            idle.discard(node)
            for each in ranges.lose(node):
                ranges.put_back(each.start, each.stop)
            for other in list(idle):
                idle.discard(other)
                give(other)
        elif mine.is_lost:
            pass
        elif what == "arrives" and given is not None:
            mine.queue.append(given)
            if len(mine.queue) == 1:
                begin(node, now)
        elif what == "ends" and given is not None and mine.queue and mine.queue[0] is given:
            left = (given.stop - given.start) / mine.speed - (now - mine.since)
            if (
                left > 1e-9
            ):  # an event of before it was cut the other way round; it cannot be longer
                continue
            mine.queue.pop(0)
            for k in range(given.start, given.stop):
                runs[k] += 1
            post(now + LATENCY_S, "heard", node, given)
            if mine.queue:
                begin(node, now)
        elif what == "heard" and given is not None:
            ranges.done(given.number, given.stop, now)
            give(node)
        elif what == "cut" and given is not None:
            cuts += 1
            at = None
            if given in mine.queue:
                drawn = given.start
                if mine.queue[0] is given:
                    drawn += math.ceil((now - mine.since) * mine.speed)
                at = drawn + math.ceil((given.stop - drawn) * asked.pop(given.number))
                at = at if at < given.stop else None
            ranges.cut(given.number, at, now)
            if at is not None and mine.queue and mine.queue[0] is given:
                post(mine.since + (at - given.start) / mine.speed, "ends", node, given)
            waiting, idle_now = list(idle), idle
            idle_now.clear()
            for other in waiting:
                give(other)
            for other in alive - set(waiting):
                if not team[other].queue and ranges.has_left:
                    give(other)
    return Result(now, ideal + lost_s, tasks, cuts, runs)


ROWS = [
    # nodes, chunks, seconds of a chunk, losses
    (2, 2_000, 0.02, 0),
    (8, 20_000, 0.02, 1),
    (100, 160_000, 0.03125, 1),
    (1_000, 1_600_000, 0.03125, 0),
    (1_000, 1_600_000, 0.125, 0),
    (1_000, 1_600_000, 0.125, 10),
    (10_000, 3_200_000, 3.125, 100),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the first rows only")
    quick = parser.parse_args().quick
    print("| nodes | chunks | lost | ideal, s | tasks | cuts | 200 us a task | 1 ms a task |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for nodes, chunks, chunk_s, losses in ROWS[:3] if quick else ROWS:
        over = []
        for task_s in (0.0002, 0.001):
            result = simulate(chunks, nodes, chunk_s, task_s=task_s, losses=losses)
            assert min(result.runs) == 1, "each chunk is done"
            over.append(result.seconds / result.ideal - 1)
        figures = f"{result.ideal:.1f} | {result.tasks:,} | {result.cuts:,}"
        print(
            f"| {nodes:,} | {chunks:,} | {losses} | {figures} | {over[0]:.2%} | {over[1]:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
