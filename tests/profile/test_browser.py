"""The page of a report in a real browser, used as a reader would: by mouse, keyboard and search."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._profile.page import make_frame, make_page
from shmmap._profile.records import Kind, ProfiledMap
from shmmap._profile.trace import write_trace
from tests.profile.synthetic import make_map, numbered

pytestmark = pytest.mark.unguarded("a browser starts and ends processes as it likes")

Open = Callable[..., Any]

NASTY = """<lambda> & </script><script>document.title = "run"</script> <b>bold</b>"""

AXIS, ROW, GUTTER = 22, 26, 92
"""The timeline on a wide page: height of its axis and of a row, and where bars begin, in pixels."""


class Reader:
    """What a reader does on an open page, and sees."""

    def __init__(self, page: Any, each: ProfiledMap) -> None:
        self.page, self.map = page, each
        self.canvas = page.locator("#timeline")
        page.wait_for_selector("#timeline[data-view]")

    def view(self) -> tuple[float, float]:
        """Which time is in view, in microseconds since the map was called."""
        start, stop = map(float, self.canvas.get_attribute("data-view").split())
        return start, stop

    def calls(self) -> Any:
        return self.map.bars[self.map.bars["kind"] == Kind.CALL]

    def time_of(self, bar: Any) -> float:
        """The middle of a bar."""
        return float((bar["began_ns"] + bar["ended_ns"]) / 2 - self.map.stamps.called) / 1e3

    def place_of(self, bar: Any) -> tuple[float, float]:
        """Where the middle of a bar is on the screen, if it is in view."""
        start, stop = self.view()
        box = self.canvas.bounding_box()
        across = GUTTER + (self.time_of(bar) - start) / (stop - start) * (box["width"] - GUTTER - 4)
        return box["x"] + across, box["y"] + AXIS + ROW * (bar["rank"] + 1.5)

    def hover(self, bar: Any) -> str:
        self.page.mouse.move(*self.place_of(bar))
        return str(self.page.inner_text("#tip"))

    def said(self) -> str:
        return str(self.page.inner_text("#said"))

    def find(self, index: object) -> str:
        self.page.fill("#index", str(index))
        self.page.press("#index", "Enter")
        return self.said()

    def pixel(self, x: float, y: float) -> list[int]:
        """Red, green, blue and opacity at a place of the timeline."""
        source = """([x, y]) => {
            const canvas = document.getElementById("timeline");
            const ratio = canvas.width / canvas.clientWidth;
            const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
            copy.drawImage(canvas, -Math.floor(x * ratio), -Math.floor(y * ratio));
            return [...copy.getImageData(0, 0, 1, 1).data];
        }"""
        return list(self.page.evaluate(source, [x, y]))

    def colour_of(self, bar: Any) -> str:
        """What the legend says of the colour of a bar."""
        (x, y), box = self.place_of(bar), self.canvas.bounding_box()
        red, green, blue, _ = self.pixel(x - box["x"], y - box["y"] + 8)  # below its label
        source = """found => [...document.querySelectorAll("#legend i")].find(
            (each) => getComputedStyle(each).backgroundColor === found)?.parentElement.textContent"""
        return str(self.page.evaluate(source, f"rgb({red}, {green}, {blue})")).strip()


def nanoseconds(text: str) -> float:
    value, unit = text.split()
    return float(value) * {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}[unit]


@pytest.fixture
def read(open_page: Open) -> Callable[..., Reader]:
    def read(*maps: ProfiledMap, **options: Any) -> Reader:
        page = open_page(make_page(maps, "the report in words"), **options)
        return Reader(page, max(maps, key=lambda each: each.phases.wall))

    return read


def test_hover(read: Callable[..., Reader]) -> None:
    reader = read(make_map(2, 10, deaths=1))
    for bar in reader.calls():
        tip = reader.hover(bar).split("\n")
        assert tip[0] == f"index {bar['start_index']}"
        assert nanoseconds(tip[1]) == pytest.approx(bar["ended_ns"] - bar["began_ns"], rel=1e-3)
        assert tip[2].startswith(f"worker {bar['rank']} (pid 4100{bar['rank']}")
        assert ("run a second time" in tip) == bool(bar["attempt"])
        assert reader.colour_of(bar) == ("run again" if bar["attempt"] else "calls of the function")
    (death,) = reader.map.bars[reader.map.bars["kind"] == Kind.DEATH]
    box = reader.canvas.bounding_box()
    start, stop = reader.view()
    at = (death["ended_ns"] - reader.map.stamps.called) / 1e3
    x = box["x"] + GUTTER + (at - start) / (stop - start) * (box["width"] - GUTTER - 4)
    reader.page.mouse.move(x, box["y"] + AXIS + ROW * (death["rank"] + 1.5))
    assert reader.page.inner_text("#tip").startswith(
        "✕ process 41001 died\nlost: index 5\nworker 1"
    )
    # In the row of the caller: what it did.
    reader.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + AXIS + ROW / 2)
    assert reader.page.inner_text("#tip").startswith("waiting for workers")
    reader.page.mouse.move(0, 0)
    assert not reader.page.is_visible("#tip")


def test_zoom_and_pan_by_mouse(read: Callable[..., Reader]) -> None:
    reader = read(make_map(4, 100))
    whole = reader.view()
    bar = reader.calls()[40]
    reader.hover(bar)
    before = reader.place_of(bar)
    reader.page.mouse.wheel(0, -300)
    reader.page.wait_for_function(
        "from => document.querySelector('#timeline').dataset.view.split(' ')[0] != from", arg="0"
    )
    start, stop = reader.view()
    assert stop - start == pytest.approx((whole[1] - whole[0]) * 2.718281828 ** (-300 / 400))
    # What is below the pointer stays there, and can be hovered.
    assert reader.place_of(bar)[0] == pytest.approx(before[0], abs=1)
    assert reader.hover(bar).startswith(f"index {bar['start_index']}\n")
    reader.page.mouse.down()
    reader.page.mouse.move(before[0] + 100, before[1], steps=4)
    reader.page.mouse.up()
    assert reader.place_of(bar)[0] == pytest.approx(before[0] + 100, abs=1)
    assert reader.said() == ""
    reader.page.mouse.click(*reader.place_of(bar))
    assert reader.said().startswith(f"index {bar['start_index']} · ")
    reader.page.mouse.dblclick(*reader.place_of(bar))
    start, stop = reader.view()
    assert stop - start == pytest.approx((bar["ended_ns"] - bar["began_ns"]) / 1e3 * 1.5, rel=1e-5)
    reader.page.click("text=All")
    assert reader.view() == whole


def test_the_wheel_scrolls_the_page_where_all_is_in_view(read: Callable[..., Reader]) -> None:
    reader = read(make_map(4, 100), height=300)
    whole = reader.view()
    reader.hover(reader.calls()[0])
    reader.page.mouse.wheel(0, 200)
    reader.page.wait_for_function("() => scrollY > 0")
    assert reader.view() == whole


def test_zoom_and_pan_by_keyboard(read: Callable[..., Reader]) -> None:
    reader = read(make_map(4, 100))
    whole = reader.view()
    # By the keyboard alone from the start: until the timeline has the focus, which is seen.
    for _ in range(20):
        reader.page.keyboard.press("Tab")
        if reader.page.evaluate("document.activeElement.id") == "timeline":
            break
    assert reader.canvas.evaluate("each => getComputedStyle(each).outlineStyle") == "solid"

    def press(*keys: str) -> None:
        for key in keys:
            reader.page.keyboard.press(key)

    press("+", "+")
    start, stop = reader.view()
    assert stop - start == pytest.approx((whole[1] - whole[0]) / 4)
    press("ArrowRight")
    assert reader.view()[0] == pytest.approx(start + (stop - start) / 5)
    press("End")
    assert reader.view()[1] == pytest.approx(whole[1])
    press("Home")
    assert reader.view()[0] == 0
    press("-")
    assert reader.view()[1] == pytest.approx(whole[1] / 2)
    press("0", "n")
    assert reader.said().startswith("index 0 · ")
    press("n")
    assert reader.said().startswith("index 4 · ")
    press("ArrowDown", "p")
    assert "worker 1" in reader.said()
    press("Enter")
    start, stop = reader.view()
    assert stop - start < whole[1] / 10
    press(*["-"] * 40, *["+"] * 60)
    start, stop = reader.view()
    assert stop - start == pytest.approx(0.05, rel=1)
    press(*["-"] * 60, "Escape")
    assert reader.view() == whole
    assert reader.said() == ""


def test_search(read: Callable[..., Reader]) -> None:
    reader = read(make_map(2, 10_000, deaths=1))
    bars = reader.calls()
    (bar,) = bars[bars["start_index"] == 1234]
    assert reader.find(1234).startswith("index 1234 · ")
    start, stop = reader.view()
    assert start < reader.time_of(bar) < stop
    assert stop - start < reader.map.phases.wall * 1e6 / 10
    # Marked: above it is a dark triangle on the axis.
    mark = reader.pixel(reader.place_of(bar)[0] - reader.canvas.bounding_box()["x"], AXIS - 4)
    assert mark[3] == 255 and max(mark[:3]) < 40
    # It was run again after a death: the second run is what counts.
    (again,) = bars[bars["attempt"] == 1]
    assert "run a second time" in reader.find(again["start_index"])
    assert reader.find(10_000) == "No bar holds index 10000."
    assert reader.find(-1) == "No bar holds index -1."
    for nonsense in ("", "x", "1.5", "1e3", "<b>"):
        assert reader.find(nonsense) == f'An index is a whole number, not "{nonsense}".'


def test_search_for_what_was_lost(read: Callable[..., Reader]) -> None:
    each = make_map(2, 10, deaths=1)
    reader = read(replace(each, bars=each.bars[each.bars["attempt"] == 0]))
    assert reader.find(5) == "Index 5 was lost when process 41001 died."


def test_search_among_bars_that_were_merged(read: Callable[..., Reader]) -> None:
    reader = read(make_map(2, 1_000_000, mean_us=50))
    said = reader.find(777_777)
    assert "of this range, others elsewhere" in said
    assert "marked are all 2 bars that it may be in" in said


def test_slowest(read: Callable[..., Reader]) -> None:
    reader = read(make_map(2, 10_000, chunksize=5))
    rows = reader.page.locator("#slowest tbody tr")
    assert rows.count() == 10
    slow = reader.map.slowest[0]
    cells = rows.nth(0).locator("td").all_inner_texts()
    assert cells[0] == f"{slow.start} to {slow.stop - 1}"
    assert nanoseconds(cells[1]) == pytest.approx(slow.seconds * 1e9, rel=1e-3)
    assert cells[2:4] == ["1", str(slow.rank)]
    rows.nth(0).locator("button").click()
    assert reader.said().startswith(f"indices {slow.start} to {slow.stop - 1} · ")
    bars = reader.calls()
    (bar,) = bars[bars["start_index"] == slow.start]
    start, stop = reader.view()
    assert start < reader.time_of(bar) < stop
    assert reader.colour_of(bar) == "calls of the function"


def test_several_maps(read: Callable[..., Reader]) -> None:
    maps = numbered(
        make_map(2, 10, func="first"),
        make_map(3, 50, func="second", called=6_000_000_000, deaths=1),
    )
    reader = read(*maps)
    # The longest is shown first.
    assert reader.page.inner_text("#map-title") == "pmap of second"
    assert reader.page.locator("#maps tbody tr").count() == 2
    assert reader.page.locator("#failed li").all_inner_texts() == [
        "index 3: ValueError: <b>3</b> & more"
    ]
    reader.page.click("text=1. pmap of first")
    assert reader.page.inner_text("#map-title") == "pmap of first"
    assert reader.page.locator("#failed li").count() == 0
    assert reader.page.locator("#advice li").all_inner_texts() == [f"→ {maps[0].advice[0].text}"]
    assert reader.view()[1] == pytest.approx(maps[0].phases.wall * 1e6)
    assert reader.page.locator("tr[aria-current=true]").inner_text().startswith("1. pmap of first")
    (bar,) = maps[0].bars[maps[0].bars["first"] == 7]
    reader.map = maps[0]
    assert reader.hover(bar).startswith("index 7\n")


def test_flame_graph(read: Callable[..., Reader]) -> None:
    page = read(make_map(2, 10, with_stacks=True)).page
    frames = page.locator("#flame button")
    assert frames.count() == 8
    whole = page.locator("#flame").bounding_box()["width"]
    frame = page.locator("#flame button", has_text="lstsq")
    assert frame.bounding_box()["width"] == pytest.approx(whole * 120 / 195, abs=2)
    frame.hover()
    assert page.inner_text("#tip") == "lstsq (_linalg.py:2500): 61.5 %, 120 samples"
    frame.click()
    assert frame.bounding_box()["width"] == pytest.approx(whole, abs=2)
    assert frames.count() == 4
    page.keyboard.press("Escape")
    assert frames.count() == 8
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "fit_line (fits.py:12)"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#flame button", has_text="<lambda>").bounding_box()["width"] > whole * 0.7


def test_download(read: Callable[..., Reader]) -> None:
    maps = numbered(make_map(2, 10, deaths=1, func=NASTY), make_map(3, 50))
    page = read(*maps).page
    with page.expect_download() as download:
        page.click("text=Save trace")
    assert download.value.suggested_filename == "trace.json"
    assert json.loads(download.value.path().read_text("utf-8")) == json.loads(write_trace(maps))


def test_names_are_text(open_page: Open) -> None:
    page = open_page(make_page([make_map(2, 10, func=NASTY)], f"pmap of {NASTY}"))
    page.wait_for_selector("#timeline[data-view]")
    assert page.inner_text("#map-title") == f"pmap of {NASTY}"
    assert page.inner_text("pre") == f"pmap of {NASTY}"
    assert page.locator("b").count() == 0
    assert page.title() == f"pmap of {NASTY} - shmmap report"


def test_no_map_ran(open_page: Open) -> None:
    page = open_page(make_page([], "no map ran"))
    assert "No map ran inside profile()." in page.inner_text("main")
    for hidden in ("#timeline", "#maps", "#text", "#download"):
        assert not page.is_visible(hidden)
    page.click("#theme")


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize(("workers", "chunks"), [(2, 10), (64, 100_000)])
def test_any_width(read: Callable[..., Reader], width: int, workers: int, chunks: int) -> None:
    reader = read(make_map(workers, chunks, with_stacks=True), width=width)
    page = reader.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = reader.canvas.bounding_box()
    assert box["width"] > width * 0.9
    assert box["height"] < 1000
    # Nor does the table of the slowest need to be moved sideways.
    table = page.locator("#slowest .scrolls")
    assert table.evaluate("each => each.scrollWidth - each.clientWidth") <= 0
    # It is drawn again when the width changes.
    page.set_viewport_size({"width": width - 80, "height": 900})
    page.wait_for_function(
        "before => document.getElementById('timeline').width < before", arg=int(box["width"])
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width - 80


def test_light_and_dark(read: Callable[..., Reader]) -> None:
    reader = read(make_map(2, 10), scheme="dark")
    page, bar = reader.page, reader.calls()[0]

    def ground() -> tuple[str, list[int]]:
        assert reader.colour_of(bar) == "calls of the function"
        return page.evaluate("getComputedStyle(document.body).backgroundColor"), reader.pixel(*mine)

    (x, y), box = reader.place_of(bar), reader.canvas.bounding_box()
    mine = x - box["x"], y - box["y"] + 8
    dark = ground()
    page.emulate_media(color_scheme="light")
    light = ground()
    assert dark[0] != light[0] == "rgb(255, 255, 255)"
    assert dark[1] != light[1]
    # The button goes before what the system says.
    page.click("#theme")
    assert ground() == dark
    page.click("#theme")
    assert ground() == light


def test_a_map_that_still_runs(read: Callable[..., Reader]) -> None:
    reader = read(make_map(2, 10, is_running=True))
    assert reader.page.inner_text("#map-title") == "pmap of fit_line, still running"


def test_in_a_notebook(open_page: Open) -> None:
    """In a frame that may run scripts, and nothing else of what the notebook may."""
    page = open_page(make_frame([make_map(2, 10, func=NASTY)], "text"))
    frame = page.frame_locator("iframe")
    frame.locator("#timeline[data-view]").wait_for()
    assert frame.locator("#map-title").inner_text() == f"pmap of {NASTY}"
    with page.expect_download() as download:
        frame.locator("text=Save trace").click()
    assert json.loads(download.value.path().read_text("utf-8"))["traceEvents"]


def test_everything_has_a_name(read: Callable[..., Reader]) -> None:
    """For who does not see it: buttons, fields and regions say what they are."""
    page = read(make_map(2, 10, with_stacks=True)).page
    source = """[...document.querySelectorAll("button, input, canvas, [role], [tabindex]")].filter((each) =>
        !each.ariaLabel && !each.textContent.trim() && !each.getAttribute("aria-labelledby")
        && !each.labels?.length && each.role !== "status").map((each) => each.outerHTML)"""
    assert page.evaluate(source) == []


def test_a_map_that_ran(open_page: Open) -> None:
    """Everything that a report of real maps may hold: a failure, a death, what is run again, stacks."""

    def die_once(i: Any) -> Any:
        if i == 30 and shmmap.current().attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.002)
        return i

    with shmmap.Team(2, start="fork") as team, shmmap.profile(stacks=True) as report:
        shmmap.pmap(die_once, np.arange(60), chunksize=1, engine=team, retries=1)
        with pytest.raises(ZeroDivisionError):
            shmmap.pmap(lambda i: 1 // (i - 3), range(10), engine=team)
    page = open_page(make_page(report.maps, str(report)))
    reader = Reader(page, report.maps[0])
    page.click("text=1. pmap of")
    slow = report.maps[0].slowest[0]
    cells = page.locator("#slowest tbody tr").first.locator("td").all_inner_texts()
    assert cells[0].split()[0] == str(slow.start)
    assert nanoseconds(cells[1]) == pytest.approx(slow.seconds * 1e9, rel=1e-3)
    page.locator("#slowest tbody button").first.click()
    bars = reader.calls()
    assert f"worker {slow.rank} (pid" in reader.hover(bars[np.argmax(bars["busy_ns"])])
    assert "run a second time" in reader.find(30)
    # Each index that is asked for is found where it ran last.
    for index in (0, 17, 59):
        assert str(index) in reader.find(index).split(" · ")[0]
    assert page.locator("#flame button", has_text="die_once").count() > 0
    page.click("text=2. pmap of")
    assert "ZeroDivisionError" in page.locator("#failed").inner_text()
    assert page.inner_text("pre") == str(report)
