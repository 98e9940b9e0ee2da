"""Function calls that the caller goes through for every kind of call, built-in ones included.

    python benchmarks/call_counts.py                 # a table; fails if a count has grown by more than 5 %
    python benchmarks/call_counts.py --update        # and keeps the counts, for this Python
    python benchmarks/call_counts.py --only seen     # one kind

A count has no noise where time has: a busy machine does not make it larger. What is left is how the
work happens to be shared among workers, and so the first quartile of many calls is told. The table to
compare with is `results/call_counts.json`, a column for every version of Python; whoever changes what a
call takes changes it as well.

Of those calls, ``own`` are to functions of the package, ``files`` and ``folders`` those that go from one
of its files or folders to another. ``workers`` are the calls in all workers together, on average: who
draws how much is chance, so these are told and not held.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness.calls import KINDS, Kind
from harness.counting import Trace, begin, so_far

import shmmap

WORKERS = 2
LONG_ENOUGH = range(16 * WORKERS)
"""Items that take 2 ms each, so that every worker comes."""
GROWTH = 0.05
"""A count may grow by this share."""
STORE = Path(__file__).resolve().parent / "results" / "call_counts.json"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


# ------------------------------------------------------------------------------- counting


@dataclass(frozen=True)
class Counted:
    """What one kind of call takes."""

    caller: Trace
    workers: float
    """Calls in all workers together, on average."""


def count(kind: Kind) -> Counted:
    """Count one kind on a team of its own, once all that is imported or started late is there."""
    with shmmap.Team(WORKERS) as team:
        items = kind.items(
            kind.per
        )  # thousands of chunks would take more draws or fewer, by chance
        task = kind.ours(team, kind, items)
        calls = max(30, min(200, 20_000 // len(items)))
        for _ in range(calls // 2):
            task()
        shmmap.pmap(begin, LONG_ENOUGH, chunksize=1, engine=team)
        before = in_workers(team)
        found = []
        for _ in range(calls):
            with Trace() as trace:
                task()
            found.append(trace)
        usual = sorted(found, key=lambda each: each.all)[calls // 4]
        return Counted(usual, (in_workers(team) - before) / calls)


def in_workers(team: shmmap.Team) -> int:
    """The calls that all workers have counted."""
    told = dict(shmmap.pmap(so_far, LONG_ENOUGH, chunksize=1, engine=team))
    return sum(told.values())


# -------------------------------------------------------------------------------- telling


def main() -> int:
    """Count, compare, say where it is more than it was; the exit status says whether it is."""
    args = arguments()
    stored: dict[str, dict[str, int]] = json.loads(STORE.read_text()) if STORE.exists() else {}
    kept = stored.setdefault(VERSION, {})
    print(f"{'':16} {'calls':>7} {'kept':>7} {'own':>7} {'files':>6} {'folders':>8} {'workers':>9}")
    grown = []
    for name in args.only or list(KINDS):
        kind = KINDS[name]
        if not kind.is_there() or not (kind.is_counted or args.only):
            continue
        counted = count(kind)
        found = counted.caller
        was = kept.get(name, 0)
        print(
            f"{name:16} {found.all:7,} {was:7,} {found.own:7,} {found.files:6,} {found.folders:8,}"
            f" {counted.workers:9,.0f}",
            flush=True,
        )
        if was and found.all > was * (1 + GROWTH):
            grown.append(f"{name}: {found.all:,}, was {was:,}")
        kept[name] = found.all
    if args.update:
        STORE.write_text(json.dumps(stored, indent=1) + "\n")
    elif grown:
        print(f"Grown by more than {GROWTH:.0%} (if it has to be: --update):", *grown, sep="\n  ")
        return 1
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="KIND", choices=KINDS, help="these kinds only")
    parser.add_argument("--update", action="store_true", help="keep the counts of this Python")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
