"""The timeline of a report as a matplotlib plot.

A row per worker, with the maps of a report one after the other on them. Maps that overlap in time, on teams
of their own, get rows of their own below. However many bars there are, no more shapes are drawn than can be
told apart: bars narrower than a column are added up, and a column is as dark as its worker was busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .records import Bars, Kind, ProfiledMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 2000
"""Columns of a plot. Fewer of them show less, more are more than a screen shows."""

SHADES = 16
"""How many shades of busy there are; neighbouring columns of one shade are one shape."""

BAR_HEIGHT = 0.8
"""Of a row, whose height is 1; the rest keeps rows apart."""

MOST_LABELS = 24
"""Most rows that are all labelled."""

MOST_EDGED = 500
"""Most bars of a map that have edges."""

MOST_NAMED = 8
"""Most maps that the legend names."""

UNITS = (("s", 1e9), ("ms", 1e6), ("µs", 1e3))
"""Of the time axis, in nanoseconds."""

AGAIN = "run again"
DIED = "a worker died"


class Shapes(NamedTuple):
    """What is drawn of bars: rectangles, all arrays of one length."""

    rank: NDArray[np.int64]
    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    """In nanoseconds, like the bars' own."""
    share: NDArray[np.float64]
    """Which part of it is covered by bars, above 0."""


def draw(maps: Sequence[ProfiledMap], ax: Axes | None = None) -> Axes:
    """The timeline of all maps, in `ax` or in a figure of its own."""
    try:
        from matplotlib.pyplot import subplots
    except ImportError as exc:
        raise ImportError("a plot needs matplotlib: pip install 'shmmap[plot]'") from exc
    firsts, labels = place_rows(maps)
    if ax is None:
        height = 1.3 + min(0.32, 9 / max(1, len(labels))) * max(3, len(labels))
        _, ax = subplots(figsize=(10, height), layout="constrained")
    zero = min((each.stamps.called for each in maps), default=0)
    length = max((end_of(each) - zero for each in maps), default=10**9)
    unit, size = next((unit for unit in UNITS if length >= unit[1]), UNITS[-1])
    for each, first in zip(maps, firsts, strict=True):
        draw_map(ax, each, first, zero, length / COLUMNS, size)
    ax.set_xlim(0, length / size)
    ax.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    every = max(1, -(-len(labels) // MOST_LABELS))
    ax.set_yticks(range(0, len(labels), every), labels[::every])
    ax.set(xlabel=f"time ({unit})", ylabel="worker", title=title_of(maps))
    add_legend(ax, len(maps))
    return ax


def end_of(each: ProfiledMap) -> int:
    return each.stamps.called + round(each.phases.wall * 1e9)


def title_of(maps: Sequence[ProfiledMap]) -> str:
    if len(maps) == 1:
        return f"{maps[0].verb} of {maps[0].func}"
    return f"{len(maps)} maps" if maps else "no map ran"


def place_rows(maps: Sequence[ProfiledMap]) -> tuple[list[int], list[str]]:
    """The row of each map's rank 0, and the labels of all rows.

    A map is put where those before it are over. So maps of one team share its rows, as they run one after
    the other.
    """
    ends: list[int] = []
    sizes: list[int] = []
    chosen: dict[int, int] = {}
    for each in sorted(maps, key=lambda each: each.stamps.called):
        free = (group for group, end in enumerate(ends) if end <= each.stamps.called)
        group = next(free, len(ends))
        if group == len(ends):
            ends.append(0)
            sizes.append(0)
        ends[group] = end_of(each)
        ranks = max((worker.rank + 1 for worker in each.workers), default=0)
        sizes[group] = max(sizes[group], ranks)
        chosen[each.number] = group
    offsets = np.cumsum([0, *sizes]).tolist()
    return (
        [offsets[chosen[each.number]] for each in maps],
        [str(rank) for size in sizes for rank in range(size)],
    )


def draw_map(
    ax: Axes, each: ProfiledMap, first: int, zero: int, column: float, size: float
) -> None:
    bars = each.bars
    began, ended = (bars[field] - zero for field in ("began_ns", "ended_ns"))
    is_call, is_again = bars["kind"] == Kind.CALL, bars["attempt"] > 0
    colour = f"C{each.number % 10}"
    spans = bars["kind"] == Kind.SPAN
    around = Shapes(bars["rank"][spans], began[spans], ended[spans], np.full(spans.sum(), 0.2))
    add_shapes(ax, around, first, size, colour="0.5")
    label = f"{each.number + 1}. {each.verb} of {each.func}"
    calls = shapes_of(bars[is_call & ~is_again], zero, column)
    add_shapes(
        ax, calls._replace(share=0.15 + 0.85 * calls.share), first, size, colour=colour, label=label
    )
    again = shapes_of(bars[is_call & is_again], zero, 0)
    add_shapes(ax, again, first, size, colour=colour, label=AGAIN, hatch="////")
    deaths = bars["kind"] == Kind.DEATH
    if deaths.any():
        x, y = ended[deaths] / size, first + bars["rank"][deaths]
        ax.plot(x, y, "x", color="red", markersize=8, markeredgewidth=2, label=DIED, zorder=3)


def add_shapes(
    ax: Axes,
    shapes: Shapes,
    first: int,
    size: float,
    *,
    colour: str,
    label: str = "",
    hatch: str | None = None,
) -> None:
    """Draw them; `hatch` tells from others without colour."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb

    if not len(shapes.rank):
        return
    left, right = shapes.began / size, shapes.ended / size
    top = first + shapes.rank - BAR_HEIGHT / 2
    corners = [(left, top), (right, top), (right, top + BAR_HEIGHT), (left, top + BAR_HEIGHT)]
    faces = np.ones((len(left), 4))
    faces[:, :3], faces[:, 3] = to_rgb(colour), np.minimum(shapes.share, 1)
    ax.add_collection(
        PolyCollection(
            list(np.moveaxis(np.array(corners), 2, 0)),
            facecolors=faces,
            edgecolors="black" if hatch else ax.get_facecolor(),
            # Where there is room, bars that follow one another at once are told apart.
            linewidths=0.5 if hatch or len(left) <= MOST_EDGED else 0,
            hatch=hatch,
            label=label,
        ),
        autolim=False,
    )


def shapes_of(bars: Bars, zero: int, column: float) -> Shapes:
    """Each bar that is as wide as a column, and the columns of all that are narrower."""
    length = bars["ended_ns"] - bars["began_ns"]
    share = np.divide(bars["busy_ns"], length, out=np.ones(len(bars)), where=length > 0)
    rank, began = bars["rank"].astype(np.int64), (bars["began_ns"] - zero).astype(np.float64)
    shapes = Shapes(rank, began, began + length, share)
    is_wide = length >= column
    if is_wide.all():
        return shapes
    wide = (field[is_wide] for field in shapes)
    narrow = add_up(Shapes(*(field[~is_wide] for field in shapes)), column)
    return Shapes(*(np.concatenate(pair) for pair in zip(wide, narrow, strict=True)))


def add_up(narrow: Shapes, column: float) -> Shapes:
    """What is narrower than a column, added up in the one or two columns that each is in."""
    first = (narrow.began // column).astype(np.int64)
    inside = np.minimum(narrow.ended, (first + 1) * column) - narrow.began
    beyond = narrow.ended - narrow.began - inside
    covered = np.zeros((narrow.rank.max() + 1, first.max() + 2))
    np.add.at(covered, (narrow.rank, first), inside * narrow.share)
    np.add.at(covered, (narrow.rank, first + 1), beyond * narrow.share)
    shade = np.ceil(np.minimum(covered / column, 1) * SHADES).astype(np.int64)
    # Runs of columns of one shade; a row begins another one.
    is_new = np.ones(shade.shape, bool)
    is_new[:, 1:] = shade[:, 1:] != shade[:, :-1]
    starts = np.flatnonzero(is_new)
    stops = np.append(starts[1:], shade.size)
    row, left = np.divmod(starts, shade.shape[1])
    shades = shade.ravel()[starts]
    some = shades > 0
    right = left + stops - starts
    return Shapes(row[some], left[some] * column, right[some] * column, shades[some] / SHADES)


def add_legend(ax: Axes, maps: int) -> None:
    """What colours and marks mean: maps if there are several but not too many, marks if there are any."""
    entries = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if not 1 < maps <= MOST_NAMED:
        entries = {name: entries[name] for name in (AGAIN, DIED) if name in entries}
    if entries:
        beside = (1.0, 1.0)
        ax.legend(
            list(entries.values()),
            list(entries),
            loc="upper left",
            bbox_to_anchor=beside,
            frameon=False,
        )
