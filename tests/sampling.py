"""Which of the many cases of a test a plain run has; ``tests/README.md`` says it in words."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

CASES = int(os.environ.get("SHMMAP_TEST_CASES", "3"))
"""Most cases of a test in a plain run, if it may start processes and nothing else is said."""

ONE_CASE = tuple(
    "checkpoint cli clients executor faults handles joblib profile program testing workers".split()
)
"""Folders where it is one: each test starts a program or a team of its own."""

PART = os.environ.get("SHMMAP_TEST_PART", "")
"""Which part of the slow cases to run, such as "1/3": so that several Pythons share them. All, if empty."""

EVERY = {
    **dict.fromkeys("cli clients faults workers".split(), 3),
    **dict.fromkeys(
        "checkpoint code_of_now errors executor handles inputs joblib memory profile program verbs".split(),
        2,
    ),
}
"""Folders of which a plain run has every second or third test, as the tests take long together."""

MOST = int(os.environ.get("SHMMAP_TEST_MOST", "2"))
"""How many of the cases of a test there are in a part at most, evenly spread."""

PLACES = (
    "engine",
    "process_engine",
    "team",
    "start",
    "elsewhere",
    "anywhere",
    "in_process",
    "running",
)
"""Parameters that say where a test runs."""


def starts_nothing(file: Path) -> bool:
    """Whether the tests of a file start no process, so that it is enough to guard them together."""
    return file.parent.name == "unit" or file.name in (
        "test_layers.py",
        "test_names.py",
        "test_public_api.py",
    )


def is_sampled(name: str) -> bool:
    """Whether a plain run has any cases of a test."""
    every = EVERY.get(Path(name.partition("::")[0]).parent.name, 1)
    return zlib.crc32(name.encode()) % every == 0


def part(name: str, slow: list[Any], light: list[Any]) -> list[Any]:
    """What is run of a test in a `PART`: of its slow cases a share, or else one of those that are light.

    All, where it is the libraries that are tested: not every Python has them.
    """
    if not PART or Path(name.partition("::")[0]).parent.name == "clients":
        return [*slow, *[case for case in light if case not in slow]]
    number, parts = map(int, PART.split("/"))
    mine = slow[(number + zlib.crc32(name.encode())) % parts :: parts]
    return mine[:: -(-len(mine) // MOST) or 1] or light[:1]


def sample(name: str, cases: list[Any]) -> list[Any]:
    """Cases of a test among which each value of each parameter is found, and one place."""
    values = {  # by identity: arrays have no equality, and each value is one object in all cases
        case: {(key, id(value)) for key, value in case.callspec.params.items()}
        for case in cases
        if hasattr(case, "callspec") and not case.get_closest_marker("slow")
    }
    if not values:
        return cases
    wanted = dict.fromkeys(pair for pairs in values.values() for pair in sorted(pairs))
    for place in PLACES:
        if where := [pair for pair in wanted if pair[0] == place]:
            # Not as often clean as forked, which takes less time.
            drawn = where + [
                pair for pair in where if place in ("team", "start") and pair != where[0]
            ]
            keep = drawn[zlib.crc32(name.encode()) % len(drawn)]
            for pair in where:
                if pair != keep:
                    del wanted[pair]
    chosen = []
    while wanted:
        best = max(values, key=lambda case: len(values[case] & wanted.keys()))
        chosen.append(best)
        for pair in values.pop(best):
            wanted.pop(pair, None)
    first = chosen[0]
    if few := first.get_closest_marker("few"):
        return chosen[: few.args[0]]
    if starts_nothing(first.path):
        return chosen
    return chosen[: 1 if first.path.parent.name in ONE_CASE else CASES]
