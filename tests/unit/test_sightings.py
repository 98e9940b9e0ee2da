"""What is shown of snapshots: since when, how fast, and whether a map is over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from shmmap._cli.programs import Program, Snapshot
from shmmap._cli.screen import lines_of
from shmmap._cli.sightings import Watch, is_over
from shmmap._wire.sight import SeenMap, SeenWorker

SECOND = 10**9
MAP = SeenMap(
    id=1, verb="pmap", func="f", items=95, chunksize=10, first=0, marks=bytes(10), is_stopped=False
)
WORKER = SeenWorker(
    rank=0,
    pid=7,
    running=3,
    left=2,
    control=1,
    has_function=False,
    chunks=range(4, 5),
    since_ns=0,
    entered_ns=0,
    at_index=-1,
)


class Played:
    """A program whose snapshots are given."""

    pid, command = 5, "played"

    def __init__(self, *snapshots: Snapshot) -> None:
        self._snapshots = iter(snapshots)

    def look(self) -> Snapshot:
        return next(self._snapshots)

    def worker_pid(self, worker: SeenWorker) -> int:
        return worker.pid

    def worker_nbytes(self, worker: SeenWorker) -> int | None:
        return 1000


def at(second: float, worker: SeenWorker = WORKER, done: int = 0, **of_map: Any) -> Snapshot:
    marks = bytes([1] * done + [0] * (10 - done))
    its_map = MAP._replace(marks=marks, **of_map)
    return Snapshot(round(second * SECOND), [its_map], [[worker]], 100, 50)


def watch(*snapshots: Snapshot) -> list[Any]:
    looks = Watch(cast(Program, Played(*snapshots)))
    return [looks.look() for _ in snapshots]


def test_since_when_of_chunks_that_were_drawn_together() -> None:
    """Those after the first began later than the draw: between the last look and this one."""
    next_one = WORKER._replace(chunks=range(5, 6))
    seen = watch(at(2), at(3), at(4, next_one), at(6, next_one))
    assert [each.maps[0].workers[0].for_s for each in seen] == [2, 3, 1, 3]
    drawn_anew = next_one._replace(since_ns=5 * SECOND)
    seen = watch(at(2), at(6, drawn_anew))
    assert seen[1].maps[0].workers[0].for_s == 1


def test_rates_are_those_of_late() -> None:
    seen = watch(at(10, done=1), at(11, done=1), at(14, done=9), at(40, done=9))
    rates = [each.maps[0].rate for each in seen]
    assert rates == [1.0, 10 / 11, 20.0, 90 / 40]
    assert [each.maps[0].left_s for each in seen[2:]] == [5 / 20, 5 / (90 / 40)]


def test_states() -> None:
    idle = WORKER._replace(running=0, left=3, chunks=range(0))
    waiting, stopping, other, between = (
        watch(snapshot)[0]
        for snapshot in (
            at(1, idle),
            at(1, is_stopped=True),
            at(1, WORKER._replace(has_function=True)),
            at(1, WORKER._replace(chunks=range(0))),
        )
    )
    assert (waiting.maps[0].state, waiting.others[0].state) == ("waiting", "idle")
    assert stopping.maps[0].state == "stopping"
    assert other.others[0].state == "in a submitted function"
    assert between.maps[0].workers[0].state == "between"
    assert between.maps[0].workers[0].for_s is None


def test_a_map_is_over_when_no_worker_is_in_it_and_none_will_come() -> None:
    done = MAP._replace(marks=bytes([1] * 10))
    assert not is_over(MAP, [])
    assert not is_over(done, [WORKER])
    assert is_over(done, [])
    assert is_over(MAP._replace(is_stopped=True), [])
    assert is_over(MAP._replace(marks=b""), []), "one that never had a map"


def test_texts_of_a_program_are_no_commands_to_a_terminal() -> None:
    """Nor do they begin new lines, which would shift what is drawn again, or take more room than there is."""
    (seen,) = watch(at(1, func="\x1b[2Jf\ng"))
    seen = replace(seen, command="python -c import\nshmmap \x1b]0;title\x07" + 30 * "数")
    first, second, *_ = lines = lines_of([seen], 60)
    assert first.startswith("5 python -c import shmmap  ]0;title 数")
    assert second == "  pmap of  [2Jf g"
    assert all(line.isprintable() for line in lines)
    assert len(first) + first.count("数") <= 60
