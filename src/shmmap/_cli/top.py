"""``shmmap top``: what the maps of running programs are at, seen from outside and at no cost to them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time

from .errors import Refused
from .programs import Gone, open_program, own_programs
from .screen import Screen
from .sightings import Sighting, Watch
from .words import counted

# Looking for programs asks every process of the user's for its descriptors, so not at every look.
SEARCH_S = 3.0


def run(args: argparse.Namespace) -> None:
    try:
        _watch(args)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None  # how one leaves it, and no news to anybody


def _watch(args: argparse.Namespace) -> None:
    looks = args.looks
    if looks is None and (args.json or not sys.stdout.isatty()):
        looks = 1  # who reads this is no person that watches
    view = _Programs() if args.pid is None else _One(args.pid)
    screen = Screen()
    number = 0
    while True:
        number += 1
        sightings = view.look()
        if args.json:
            print(json.dumps([dataclasses.asdict(each) for each in sightings]), flush=True)
        else:
            screen.draw(view.heading(sightings), sightings)
        if number == looks or view.is_over:
            return
        time.sleep(args.interval)


class _One:
    """One program, until it ends."""

    def __init__(self, pid: int) -> None:
        self._watch = Watch(open_program(pid))
        self._pid = pid
        self.is_over = False

    def look(self) -> list[Sighting]:
        """The program, or nothing once it has ended."""
        try:
            return [self._watch.look()]
        except Gone:
            self.is_over = True
            return []

    def heading(self, sightings: list[Sighting]) -> str:
        """What stands above them."""
        return _clock() if sightings else f"{_clock()}  process {self._pid} has ended"


class _Programs:
    """All of this user's programs that have teams."""

    is_over = False

    def __init__(self) -> None:
        self._watches: dict[int, Watch] = {}
        self._searched = -SEARCH_S

    def look(self) -> list[Sighting]:
        """Those that there are now."""
        if time.monotonic() - self._searched >= SEARCH_S:
            programs = {program.pid: program for program in own_programs()}
            self._watches = {
                pid: self._watches.get(pid) or Watch(program) for pid, program in programs.items()
            }
            self._searched = time.monotonic()
        found = []
        for pid, watch in list(self._watches.items()):
            try:
                found.append(watch.look())
            except (Gone, Refused):
                del self._watches[pid]
        return found

    def heading(self, sightings: list[Sighting]) -> str:
        """What stands above them."""
        if not sightings:
            return f"{_clock()}  no program of yours has a team of workers"
        maps = sum(len(each.maps) for each in sightings)
        return (
            f"{_clock()}  {counted(len(sightings), 'program')} with a team, "
            f"{counted(maps, 'map')} under way"
        )


def _clock() -> str:
    return time.strftime("%H:%M:%S")
