"""Fewer rows for the same time: what a page of bounded size can hold.

Neighbours of one worker are merged, as workers do it when they have too many rows: shortest first, so that
what took long stays by itself. Sums stay exact: chunks, time busy, how many were merged.
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
    """At most `most` rows, or as few as there can be: rows of different kinds are never merged."""
    while len(bars) > most:
        fewer = merge_pairs(bars, len(bars) - most)
        if len(fewer) == len(bars):
            break
        bars = fewer
    return bars


def merge_pairs(bars: Bars, want: int) -> Bars:
    """With about `want` pairs of neighbours merged, or half of those that can be: the shortest."""
    by = np.lexsort((bars["began_ns"], bars["attempt"], bars["kind"], bars["rank"]))
    bars = bars[by]
    left, right = bars[:-1], bars[1:]
    alike = np.isin(left["kind"], (Kind.CALL, Kind.HANDING))
    for field in ("rank", "pid", "kind", "attempt"):
        alike &= left[field] == right[field]
    # Of a run of neighbours every second one is the right half of a pair, so that no row is in two of them.
    at = np.arange(len(alike))
    begins = np.maximum.accumulate(np.where(alike, 0, at + 1))
    pairs = np.flatnonzero(alike & ((at - begins) % 2 == 0))
    length = right["ended_ns"][pairs] - left["began_ns"][pairs]
    # Not all at once: two rounds of the shorter half keep more of what is long than one round of all.
    chosen = pairs[np.argsort(length, kind="stable")[: max(1, min(want, len(pairs) // 2))]]
    a, b = bars[chosen], bars[chosen + 1]
    both = a.copy()
    for field in ("first", "start_index"):
        both[field] = np.minimum(a[field], b[field])
    for field in ("stop", "stop_index"):
        both[field] = np.maximum(a[field], b[field])
    for field in ("chunks", "busy_ns"):
        both[field] = a[field] + b[field]
    both["ended_ns"] = b["ended_ns"]
    both["merged"] = a["merged"] + b["merged"] + 1
    bars[chosen] = both
    bars = np.delete(bars, chosen + 1)
    return bars[np.lexsort((bars["began_ns"], bars["rank"]))]
