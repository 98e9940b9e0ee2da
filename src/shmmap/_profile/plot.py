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

from .._errors.arguments import describe
from .records import BARS, Bars, Kind, ProfiledMap

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

COLOURS = 10
"""Colours of matplotlib's own cycle. If there are no more maps, the legend names them."""

LONGEST_NAME = 60
"""Letters of a function's name that are shown."""

UNITS = (("s", 1e9), ("ms", 1e6), ("µs", 1e3))
"""Of the time axis, in nanoseconds."""


class Shapes(NamedTuple):
    """What is drawn of bars: rectangles, all arrays of one length."""

    row: NDArray[np.int64]
    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    """In nanoseconds since the first call."""
    share: NDArray[np.float64]
    """Which part of it is covered by bars, above 0."""


def draw(maps: Sequence[ProfiledMap], ax: Axes | None = None) -> Axes:
    """The timeline of all maps, in `ax` or in a figure of its own."""
    try:
        from matplotlib.axes import Axes
        from matplotlib.pyplot import subplots
    except ImportError as exc:
        raise ImportError("a plot needs matplotlib: pip install 'shmmap[plot]'") from exc
    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax is a matplotlib Axes or None, not {describe(ax)}")
    firsts, labels = place_rows(maps)
    if ax is None:
        height = 1.3 + min(0.32, 9 / max(1, len(labels))) * max(3, len(labels))
        _, ax = subplots(figsize=(10, height), layout="constrained")
    zero = min((each.stamps.called for each in maps), default=0)
    length = max((end_of(each) - zero for each in maps), default=10**9)
    unit, size = next((unit for unit in UNITS if length >= unit[1]), UNITS[-1])
    bars = [moved(each.bars, first, zero) for each, first in zip(maps, firsts, strict=True)]
    draw_bars(ax, bars, [name_of(each) for each in maps], length / COLUMNS, size)
    ax.set_xlim(0, length / size)
    ax.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    every = max(1, -(-len(labels) // MOST_LABELS))
    ax.set_yticks(range(0, len(labels), every), labels[::every])
    several = f"{len(maps)} maps" if maps else "no map ran"
    ax.set(
        xlabel=f"time ({unit})",
        ylabel="worker",
        title=name_of(maps[0]) if len(maps) == 1 else several,
    )
    add_legend(ax)
    return ax


def name_of(each: ProfiledMap) -> str:
    func = each.func if len(each.func) <= LONGEST_NAME else f"{each.func[:LONGEST_NAME]}..."
    # What is between two dollars would be taken for a formula.
    return f"{each.verb} of {func}".replace("$", r"\$")


def end_of(each: ProfiledMap) -> int:
    return each.stamps.called + round(each.phases.wall * 1e9)


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


def moved(bars: Bars, first: int, zero: int) -> Bars:
    """The bars with rows of the plot for ranks, and times since the first call."""
    bars = bars.copy()
    bars["rank"] += first
    for field in ("began_ns", "ended_ns"):
        bars[field] -= zero
    return bars


def draw_bars(
    ax: Axes, bars: Sequence[Bars], names: Sequence[str], column: float, size: float
) -> None:
    """Draw the bars of each map; `size` is the unit of the axis, and `column` the narrowest shape."""
    everything = np.concatenate([np.zeros(0, BARS), *bars])
    kind = everything["kind"]
    spans = shapes_of(everything[kind == Kind.SPAN], column)
    add_shapes(ax, spans._replace(share=np.minimum(spans.share, 0.2)), size, "0.5")
    # A colour has all its maps in one collection, as a collection for each of 10,000 takes a minute.
    for colour in range(min(COLOURS, len(bars))):
        mine = np.concatenate(bars[colour::COLOURS])
        calls = shapes_of(mine[(mine["kind"] == Kind.CALL) & (mine["attempt"] == 0)], column)
        label = f"{colour + 1}. {names[colour]}" if 1 < len(names) <= COLOURS else ""
        add_shapes(ax, calls._replace(share=0.15 + 0.85 * calls.share), size, f"C{colour}", label)
    again = shapes_of(everything[(kind == Kind.CALL) & (everything["attempt"] > 0)], 0)
    add_shapes(ax, again, size, "0.6", "run again", hatch="////")
    deaths = everything[kind == Kind.DEATH]
    if len(deaths):
        x, y = deaths["ended_ns"] / size, deaths["rank"]
        ax.plot(
            x, y, "x", color="red", markersize=8, markeredgewidth=2, zorder=3, label="a worker died"
        )


def add_shapes(
    ax: Axes, shapes: Shapes, size: float, colour: str, label: str = "", hatch: str | None = None
) -> None:
    """Draw them; `hatch` tells from others without colour."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb

    if not len(shapes.row):
        return
    left, right = shapes.began / size, shapes.ended / size
    top = shapes.row - BAR_HEIGHT / 2
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


def shapes_of(bars: Bars, column: float) -> Shapes:
    """Each bar that is as wide as a column, and the columns of all that are narrower."""
    length = bars["ended_ns"] - bars["began_ns"]
    share = np.divide(bars["busy_ns"], length, out=np.ones(len(bars)), where=length > 0)
    row, began, ended = (
        bars["rank"].astype(np.int64),
        bars["began_ns"] * 1.0,
        bars["ended_ns"] * 1.0,
    )
    shapes = Shapes(row, began, ended, share)
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
    covered = np.zeros((narrow.row.max() + 1, first.max() + 2))
    np.add.at(covered, (narrow.row, first), inside * narrow.share)
    np.add.at(covered, (narrow.row, first + 1), beyond * narrow.share)
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


def add_legend(ax: Axes) -> None:
    """What colours and marks mean, where that is not the same for all."""
    handles, labels = ax.get_legend_handles_labels()
    if labels:
        ax.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
