"""What ``shmmap top`` draws: lines of a given width, and a screen on which they are drawn again and again."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .sightings import Map, Sighting, Worker
from .words import bytes_text, counted, printable, seconds_text, shortened

_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_BAR_MOST = 40


def lines_of(sightings: Sequence[Sighting], width: int) -> list[str]:
    """All programs, none of the lines wider than that. Those of programs begin at the margin."""
    lines: list[str] = []
    for sighting in sightings:
        lines += _program(sighting)
    return [shortened(line, width) for line in lines]


def _program(seen: Sighting) -> list[str]:
    count = len(seen.others) + sum(len(each.workers) for each in seen.maps)
    where = ", ".join(
        [
            counted(count, "worker"),
            f"{bytes_text(seen.shared_nbytes)} shared",
            f"{bytes_text(seen.private_nbytes)} private",
        ]
    )
    command = shortened(printable(seen.command), 40)
    lines = [f"{seen.pid} {command}: {where}"]
    for each in seen.maps:
        lines += _map(each)
    idle = [worker for worker in seen.others if worker.state == "idle"]
    others = [worker for worker in seen.others if worker.state != "idle"]
    lines += _workers(others)
    if idle and not seen.maps and not others:
        lines.append(f"  idle: {counted(len(idle), 'worker waits', 'workers wait')} for a map")
    elif idle:
        lines.append(f"  {counted(len(idle), 'worker')} idle")
    elif not count:
        lines.append("  no worker has started yet")
    return lines


def _map(each: Map) -> list[str]:
    what = f"  {each.verb} of {printable(each.func)}"
    if each.state == "waiting":
        return [f"{what}: {each.items:,} items, waits until workers come to it"]
    parts = [f"{each.done:,} of {each.items:,} items"]
    if each.rate is not None:
        parts.append(f"{_rate_text(each.rate)}/s")
    if each.for_s is not None:
        parts.append(f"for {seconds_text(each.for_s)}")
    if each.left_s is not None:
        parts.append(f"{seconds_text(each.left_s)} left")
    if each.state == "stopping":
        parts.append("stopping")
    share = each.done / each.items if each.items else 1.0
    filled = int(share * _BAR_MOST)
    bar = "█" * filled + "░" * (_BAR_MOST - filled)
    return [
        what,
        f"  {bar} {int(share * 100):3d} %",
        f"  {', '.join(parts)}",
        *_workers(each.workers),
    ]


def _workers(workers: Sequence[Worker]) -> list[str]:
    lines = []
    for worker in workers:
        where: str = worker.state
        if worker.start is not None and worker.stop is not None:
            where = f"[{worker.start:,}, {worker.stop:,})"
            if worker.stop - worker.start == 1:
                where = f"{worker.start:,}"
            if worker.state == "died":
                where += " when it died"
        since = "" if worker.for_s is None else seconds_text(worker.for_s)
        lines.append(
            f"  {worker.rank:4} {worker.pid:8} {bytes_text(worker.nbytes):>9} {since:>8}  {where}"
        )
    head = f"  {'rank':>4} {'pid':>8} {'private':>9} {'for':>8}  at index"
    return [head, *lines] if lines else []


def _rate_text(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


class Screen:
    """Where the lines go: a terminal, on which they are drawn in place of those before; or else a file."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._height = 0
        """Lines that were drawn last."""
        self._is_first = True

    def draw(self, heading: str, sightings: Sequence[Sighting]) -> None:
        """Draw everything anew."""
        if not self._is_terminal:
            text = "" if self._is_first else "\n"
            text += "\n".join([heading, *lines_of(sightings, sys.maxsize)]) + "\n"
        else:
            text = self._frame(heading, sightings)
        self._is_first = False
        sys.stdout.write(text)
        sys.stdout.flush()

    def _frame(self, heading: str, sightings: Sequence[Sighting]) -> str:
        width, height = os.get_terminal_size(sys.stdout.fileno())
        lines = [heading[:width], *lines_of(sightings, width)]
        if len(lines) > height - 1:  # more would scroll away
            left = len(lines) - (height - 2)
            lines = [*lines[: height - 2], f"  … and {left} more lines"[:width]]
        back = f"\x1b[{min(self._height, height)}F" if self._height else ""
        self._height = len(lines)
        shown = [f"{_DIM}{lines[0]}{_PLAIN}"]
        shown += [line if line[:1] == " " else f"{_BOLD}{line}{_PLAIN}" for line in lines[1:]]
        return back + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J"
