"""Fewer rows for the same time: what a page of bounded size can hold.

Neighbours of one worker are merged, as workers do it when they have too many rows: shortest first, so that
what took long stays by itself. Of calls all sums stay exact: chunks, time busy, how many were merged. Rows of
handing over that stand between are left out, shortest first, if that is not enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .records import Bars, Kind, ProfiledMap


def thin_maps(maps: Sequence[ProfiledMap], most: int) -> Sequence[ProfiledMap]:
    """The maps with about `most` rows together; each keeps its part of them."""
    total = sum(len(each.bars) for each in maps)
    if total <= most:
        return maps
    return [
        replace(each, bars=thin_bars(each.bars, len(each.bars) * most // total)) for each in maps
    ]


def thin_bars(bars: Bars, most: int) -> Bars:
    """At most `most` rows, or as few as there can be."""
    is_around = bars["kind"] == Kind.SPAN
    spans, rows = bars[is_around], bars[~is_around]
    while (more := len(spans) + len(rows) - most) > 0:
        fewer = merge_pairs(rows, more)
        if len(fewer) > 0.9 * len(rows):
            fewer = leave_out_handing(fewer)
        if len(fewer) == len(rows):
            break
        rows = fewer
    thin = np.concatenate([spans, rows])
    return thin[np.argsort(thin, order=("rank", "began_ns"), kind="stable")]


def merge_pairs(rows: Bars, want: int) -> Bars:
    """With about `want` pairs of neighbours merged, or half of those that can be: the shortest."""
    rows = rows[np.lexsort((rows["began_ns"], rows["rank"]))]
    left, right = rows[:-1], rows[1:]
    alike = left["kind"] != Kind.DEATH
    for field in ("rank", "pid", "kind", "attempt"):
        alike &= left[field] == right[field]
    # Of a run of neighbours every second one is the right half of a pair, so that no row is in two of them.
    at = np.arange(len(alike))
    begins = np.maximum.accumulate(np.where(alike, 0, at + 1)) if len(alike) else at
    pairs = np.flatnonzero(alike & ((at - begins) % 2 == 0))
    length = right["ended_ns"][pairs] - left["began_ns"][pairs]
    # Not all at once: two rounds of the shorter half keep more of what is long than one round of all.
    shortest = np.argsort(length, kind="stable")
    chosen = pairs[shortest[: min(want, -(-len(pairs) // 2))]]
    a, b = rows[chosen], rows[chosen + 1]
    both = a.copy()
    for field in ("first", "start_index"):
        both[field] = np.minimum(a[field], b[field])
    for field in ("stop", "stop_index"):
        both[field] = np.maximum(a[field], b[field])
    for field in ("chunks", "busy_ns"):
        both[field] = a[field] + b[field]
    both["ended_ns"] = b["ended_ns"]
    both["merged"] = a["merged"] + b["merged"] + 1
    rows[chosen] = both
    return np.delete(rows, chosen + 1)


def leave_out_handing(rows: Bars) -> Bars:
    """Without the shorter half of the rows of handing over."""
    handing = np.flatnonzero(rows["kind"] == Kind.HANDING)
    length = rows["ended_ns"][handing] - rows["began_ns"][handing]
    return np.delete(rows, handing[np.argsort(length, kind="stable")][: -(-len(handing) // 2)])
