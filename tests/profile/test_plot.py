"""What a plot shows, read back from its artists."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from shmmap._profile.plot import COLUMNS, draw
from shmmap._profile.records import Kind, ProfiledMap
from tests.profile.synthetic import make_map, numbered


@pytest.fixture(autouse=True, scope="module")
def pyplot() -> Iterator[Any]:
    """Without a window, and with the files open that matplotlib keeps: fonts."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_backend()
    pyplot.switch_backend("agg")
    draw([make_map(2, 10)]).figure.canvas.draw()
    yield pyplot
    pyplot.switch_backend(before)


@pytest.fixture(autouse=True)
def _close_figures(pyplot: Any) -> Iterator[None]:
    yield
    pyplot.close("all")


def boxes_of(collection: Any) -> Any:
    """The lower left and the upper right corner of each rectangle."""
    corners = np.array([path.vertices for path in collection.get_paths()])
    return np.stack([corners.min(axis=1), corners.max(axis=1)], axis=1)


def shown(maps: Sequence[ProfiledMap]) -> tuple[Any, list[Any]]:
    """The axes, drawn, and the collections on it that are of calls: the first is of spans."""
    ax = draw(maps)
    ax.figure.canvas.draw()
    return ax, ax.collections[1:]


def test_a_bar_per_chunk() -> None:
    each = make_map(2, 10)
    ax, (calls,) = shown([each])
    rows = each.bars[each.bars["kind"] == Kind.CALL]
    boxes = boxes_of(calls)
    ms = (np.stack([rows["began_ns"], rows["ended_ns"]], 1) - each.stamps.called) / 1e6
    assert np.allclose(boxes[:, :, 0], ms)
    assert np.allclose(boxes[:, :, 1].mean(axis=1), rows["rank"])
    assert ax.get_xlabel() == "time (ms)"
    assert ax.get_title() == "pmap of fit_line"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1"]
    assert ax.get_ylim() == (1.5, -0.5)
    assert ax.get_legend() is None


@pytest.mark.parametrize("workers", [2, 64])
def test_many_chunks_are_added_up(workers: int) -> None:
    each = make_map(workers, 100_000, mean_us=100)
    ax, (calls,) = shown([each])
    assert len(calls.get_paths()) < workers * COLUMNS
    assert len(ax.get_yticks()) <= 24
    # The area is the time busy: shades are rounded up, each by less than a sixteenth.
    boxes = boxes_of(calls)
    share = (calls.get_facecolor()[:, 3] - 0.15) / 0.85
    busy = (np.diff(boxes[:, :, 0], axis=1)[:, 0] * share).sum()
    unit = 1e9 if ax.get_xlabel() == "time (s)" else 1e6
    expected = sum(worker.busy for worker in each.workers) * 1e9 / unit
    assert expected <= busy * 1.001
    assert busy < expected * 1.07


def test_deaths_and_what_is_run_again() -> None:
    each = make_map(2, 10, deaths=1)
    ax, collections = shown([each])
    assert [each.get_hatch() for each in collections] == [None, "////"]
    (line,) = ax.lines
    (death,) = each.bars[each.bars["kind"] == Kind.DEATH]
    assert line.get_xdata() == pytest.approx((death["ended_ns"] - each.stamps.called) / 1e6)
    assert line.get_ydata() == death["rank"] == 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "run again",
        "a worker died",
    ]


def test_maps_at_once_have_rows_of_their_own() -> None:
    after, during = 5_500_000_000, 5_510_000_000
    maps = numbered(make_map(2, 20), make_map(3, 20, called=after), make_map(2, 9, called=during))
    ax, collections = shown(maps)
    rows = [
        np.unique(boxes_of(each)[:, :, 1].mean(axis=1).round()).tolist() for each in collections
    ]
    assert rows == [[0, 1], [0, 1, 2], [3, 4]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1", "2", "0", "1"]
    assert len(ax.get_legend().get_texts()) == 3
    assert ax.get_title() == "3 maps"


def test_names_are_text_and_not_too_long() -> None:
    ax, _ = shown([make_map(2, 10, func="in_$ and $x^")])
    assert ax.get_title() == r"pmap of in_\$ and \$x^"
    ax, _ = shown([make_map(2, 10, func="f" * 500)])
    assert len(ax.get_title()) < 80


def test_axes_of_ones_own() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert draw([make_map(2, 10)], ax) is ax
    assert draw([], Figure().subplots()).get_title() == "no map ran"
    assert draw([]).get_title() == "no map ran"


def test_what_are_no_axes_is_refused(pyplot: Any) -> None:
    with pytest.raises(TypeError, match="ax is a matplotlib Axes or None, not "):
        draw([make_map(2, 10)], pyplot.figure())


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'shmmap\[plot\]'"):
        draw([make_map(2, 10)])
