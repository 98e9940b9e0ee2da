"""A report in words: for each map where its time went, a line for each worker, and what to change.

Maps that are alike, as those of a loop, are told of together. Pure functions of records.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from .records import ProfiledMap, ProfiledWorker
from .sums import imbalance_of, median_chunk
from .words import digits, per_cent, size_of, time_of, unit_of

NOTHING = "no map began inside profile()"
# So many maps that are alike are told of together.
ALIKE_LEAST = 4
# So many tables are shown, and so many lines of a table; of more, those that took longest.
TABLES_MOST, WORKERS_MOST, FAILED_MOST = 24, 16, 5
# Of errors so many letters are shown.
TEXT_MOST = 200


def describe(maps: Sequence[ProfiledMap], forgotten: int = 0) -> str:
    """The report as it is printed. `forgotten`: so many more maps ran before."""
    if not maps:
        return NOTHING
    groups = group(maps)
    shown = groups
    if len(groups) > TABLES_MOST:
        longest = sorted(groups, key=lambda each: -sum(of.phases.wall for of in each))
        kept = {id(each) for each in longest[:TABLES_MOST]}
        shown = [each for each in groups if id(each) in kept]
    lines = []
    if forgotten:
        lines.append(f"{forgotten:,} maps that ran before the last {len(maps):,} are not kept")
    for each in shown:
        lines += describe_map(each[0]) if len(each) == 1 else describe_alike(each)
    if len(shown) < len(groups):
        kept = {id(each) for each in shown}
        rest = [of for each in groups if id(each) not in kept for of in each]
        wall = sum(of.phases.wall for of in rest)
        lines.append(f"and {len(rest):,} more maps, which took {time_of(wall)}")
    return "\n".join(lines)


def group(maps: Sequence[ProfiledMap]) -> list[list[ProfiledMap]]:
    """Maps by what they have in common, if so there are several; in the order in which the first began."""
    alike: dict[tuple[object, ...], list[ProfiledMap]] = {}
    for of in maps:
        alike.setdefault((of.verb, of.func, of.engine), []).append(of)
    groups: list[list[ProfiledMap]] = []
    for found in alike.values():
        over = [of for of in found if not (of.is_running or of.failed)]
        if len(over) < ALIKE_LEAST:
            over = []
        together = {of.number for of in over}
        groups += [[of] for of in found if of.number not in together]
        if over:
            groups.append(over)
    return sorted(groups, key=lambda each: each[0].number)


def describe_map(of: ProfiledMap) -> list[str]:
    """One map."""
    phases = of.phases
    unit, size = unit_of(phases.wall)
    if of.is_running:
        done = sum(worker.chunks for worker in of.workers)
        lines = [
            f"{title_of(of)}: still running, for {time_of(phases.wall)}",
            f"  {done:,} of {of.chunks:,} chunks done",
        ]
    else:
        placed = f", {size_of(phases.placed)} placed" if phases.placed else ""
        lines = [
            f"{title_of(of)}: {digits(phases.wall * size)} {unit}",
            f"  = {digits(phases.before * size)} until the first chunk "
            f"({digits(phases.binding * size)} binding{placed}) + {digits(phases.at_work * size)} at work "
            f"+ {digits(phases.after * size)} after the last",
        ]
    if of.workers:
        lines += table_of(of.workers, phases.at_work)
        lines.append(f"  {chunks_of(of)}")
        if any(worker.busy for worker in of.workers):
            lines.append(f"  {balance_of(of.workers, phases.wall)}")
    else:
        lines.append("  no worker was seen: none took part, or they are on other machines")
    lines += [f"  -> {each.text}" for each in of.advice]
    for each in of.failed[:FAILED_MOST]:
        lines.append(f"  !! [{each.start}, {each.stop}) {shortened(each.error)}")
    if len(of.failed) > FAILED_MOST:
        lines.append(f"  !! and {len(of.failed) - FAILED_MOST:,} more ranges")
    return lines


def shortened(text: str) -> str:
    """A text that is not longer than a line or two."""
    return text if len(text) <= TEXT_MOST else text[: TEXT_MOST - 3] + "..."


def title_of(of: ProfiledMap) -> str:
    """Which map it is, and where."""
    window = f" from index {of.first}" if of.first else ""
    return f"{of.verb} of {of.func} on {of.engine}, {of.n:,} items{window}"


def chunks_of(of: ProfiledMap) -> str:
    """What chunks took."""
    if not of.slowest:
        return f"none of {of.chunks:,} chunks has ended"
    first = of.slowest[0]
    what = (
        f"index {first.start}"
        if first.stop == first.start + 1
        else f"[{first.start}, {first.stop})"
    )
    unit, size = unit_of(first.seconds)
    return (
        f"{of.chunks:,} chunks of {of.chunksize:,}: median {time_of(median_chunk(of.bars))}, "
        f"longest {digits(first.seconds * size)} {unit} for {what}"
    )


def balance_of(workers: Sequence[ProfiledWorker], wall: float) -> str:
    """How evenly workers were busy, and what all of it gained."""
    busy = [worker.busy for worker in workers]
    text = f"{sum(busy) / wall:.3g} times as fast as its chunks one after the other"
    if len(workers) > 1:
        text += f"; the busiest worker had {imbalance_of(busy):.2f} times the mean"
    return text


def table_of(workers: Sequence[ProfiledWorker], at_work: float) -> list[str]:
    """A line for each worker, or for those that were busy longest, and one for all."""
    unit, size = unit_of(at_work)
    shown = workers
    if len(workers) > WORKERS_MOST:
        busiest = sorted(workers, key=lambda worker: -worker.busy)[:WORKERS_MOST]
        shown = sorted(busiest, key=lambda worker: worker.rank)
    names = [str(worker.rank) for worker in shown]
    if len({worker.host for worker in workers}) > 1:
        names = [f"{worker.rank} {worker.host}" for worker in shown]
    head = ("worker", f"busy {unit}", "between", "waiting", "chunks", "MB/s")
    rows: list[tuple[str, ...]] = [head]
    for name, worker in zip(names, shown, strict=True):
        rate = worker.nbytes / worker.busy / 1e6 if worker.nbytes and worker.busy else 0.0
        shown_rate = f"{rate:,.0f}" if rate >= 1 else "-"
        mark = f"  {worker.deaths} died" if worker.deaths else ""
        times = (digits(each * size) for each in (worker.busy, worker.between, worker.waiting))
        rows.append((name, *times, f"{worker.chunks:,}", shown_rate + mark))
    if len(shown) < len(workers):
        rows.append((f"+ {len(workers) - len(shown)} more", "", "", "", "", ""))
    if len(workers) > 1 and at_work:
        whole = at_work * len(workers)
        sums = [
            sum(getattr(worker, name) for worker in workers)
            for name in ("busy", "between", "waiting")
        ]
        shares = (per_cent(each / whole) for each in sums)
        chunks = sum(worker.chunks for worker in workers)
        rows.append(("all", *shares, f"{chunks:,}", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = max(len(row[-1].split("  ")[0]) for row in rows)
    lines = []
    for row in rows:
        last, _, mark = row[-1].partition("  ")
        cells = [*row[:-1], last]
        text = "   ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append(f"  {text}  {mark}".rstrip())
    return lines


def describe_alike(maps: Sequence[ProfiledMap]) -> list[str]:
    """Many maps that are alike: what they took together, and one of them, and what most could gain."""
    walls = [of.phases.wall for of in maps]
    whole, longest = sum(walls), max(maps, key=lambda of: of.phases.wall)
    first = maps[0]
    parts = [
        sum(getattr(of.phases, name) for of in maps) for name in ("before", "at_work", "after")
    ]
    unit, size = unit_of(whole)
    before, at_work, after = (digits(each * size) for each in parts)
    title = f"{first.verb} of {first.func} on {first.engine}"
    lines = [
        f"{len(maps):,} maps: {title}: {digits(whole * size)} {unit}",
        f"  = {before} until the first chunks + {at_work} at work + {after} after the last",
        f"  a map: median {time_of(statistics.median(walls))}, from {time_of(min(walls))} to "
        f"{time_of(longest.phases.wall)} (map {longest.number}); "
        f"{sum(of.n for of in maps):,} items in all",
    ]
    lines += table_of(add_up(maps), parts[1])
    told: Counter[str] = Counter(each.rule for of in maps for each in of.advice)
    for rule, count in told.most_common(3):
        if count * 10 < len(maps):
            break
        having = [of for of in maps if any(each.rule == rule for each in of.advice)]
        typical = sorted(having, key=lambda of: of.phases.wall)[len(having) // 2]
        text = next(each.text for each in typical.advice if each.rule == rule)
        lines.append(f"  -> in {count:,} of {len(maps):,}: {text}")
    return lines


def add_up(maps: Sequence[ProfiledMap]) -> list[ProfiledWorker]:
    """What each rank did in all of these maps; where it took no part, it waited."""
    ranks = sorted({worker.rank for of in maps for worker in of.workers})
    sums = []
    for rank in ranks:
        own = [worker for of in maps for worker in of.workers if worker.rank == rank]
        absent = sum(
            of.phases.at_work for of in maps if all(worker.rank != rank for worker in of.workers)
        )
        sums.append(
            ProfiledWorker(
                rank=rank,
                host=own[-1].host,
                pid=own[-1].pid,
                busy=sum(worker.busy for worker in own),
                between=sum(worker.between for worker in own),
                waiting=sum(worker.waiting for worker in own) + absent,
                handing=sum(worker.handing for worker in own),
                chunks=sum(worker.chunks for worker in own),
                nbytes=sum(worker.nbytes for worker in own),
                deaths=sum(worker.deaths for worker in own),
                cpu=None,
                faults=None,
                switches=None,
            )
        )
    return sums
