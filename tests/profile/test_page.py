"""The page as a file: what is in it, and what is not. What it does, `test_browser` tries."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import stat
import zlib
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from shmmap._profile.page import make_frame, make_page
from shmmap._profile.save import save
from shmmap._profile.trace import write_trace
from tests.profile.synthetic import make_map, numbered
from tests.profile.test_trace import check_trace

NASTY = """<lambda> & </script><script>alert(1)</script> "quoted" '$title' ${js}"""


class Elements(HTMLParser):
    """Tags, addresses, and the text inside each tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str | None] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value for name, value in attrs if name in ("src", "href", "action", "srcset")
        ]

    def handle_data(self, data: str) -> None:
        self.texts.setdefault("".join(self.tags[-1:]), []).append(data)


def trace_in(page: str) -> str:
    (packed,) = re.findall(r'<script type="text/plain" id="trace">([^<]*)</script>', page)
    return zlib.decompress(base64.b64decode(packed)).decode()


def test_nothing_on_the_page_has_an_address() -> None:
    page = make_page([make_map(2, 10, with_stacks=True)], "text")
    assert Elements(page).addresses == ["data:,"]
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|import\(", page)
    policy = re.search(r'"Content-Security-Policy" content="([^"]*)"', page)
    assert policy and policy[1].startswith("default-src 'none';")


def test_names_are_text() -> None:
    plain = Elements(make_page([make_map(2, 10)], "pmap of fit_line"))
    nasty = Elements(make_page([make_map(2, 10, func=NASTY)], f"pmap of {NASTY}"))
    assert nasty.tags == plain.tags
    assert "".join(nasty.texts["pre"]).startswith(f"pmap of {NASTY}")
    assert NASTY in "".join(nasty.texts["title"])


def test_it_holds_the_trace() -> None:
    maps = numbered(make_map(2, 10, deaths=1), make_map(4, 100, func=NASTY))
    text = trace_in(make_page(maps, ""))
    assert text == write_trace(maps)
    check_trace(text)


@pytest.mark.parametrize(("workers", "chunks"), [(2, 1_000_000), (64, 1_000_000), (64, 20_000)])
def test_its_size_is_bounded(workers: int, chunks: int) -> None:
    page = make_page([make_map(workers, chunks, deaths=1)], "")
    assert len(page) < 2_500_000
    events = json.loads(trace_in(page))["traceEvents"]
    calls = [event for event in events if event.get("cat") == "call"]
    assert sum(event["args"].get("chunks", 1) for event in calls) == chunks


def test_no_map_ran() -> None:
    page = make_page([], "no map ran")
    assert '<html lang="en" class="is-empty">' in page
    assert "No map ran" in page


def test_a_frame_is_one_element() -> None:
    maps = [make_map(2, 10, func=NASTY)]
    frame = Elements(make_frame(maps, NASTY))
    assert frame.tags == ["iframe"]


def test_text_can_be_read_in_light_and_dark() -> None:
    """Contrast as WCAG counts it: 4.5 for text, 3 for what is only seen."""
    css = files("shmmap._profile").joinpath("page.css").read_text("utf-8")
    colours = {
        name: pair for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", css)
    }

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    texts = [*itertools.product(["ink", "soft", "focus"], ["back", "raised"])]
    texts += [("ink", "advice"), ("ink", "flame")]
    texts += [("on-bar", bar) for bar in ("call", "again", "handing", "phase")]
    seen = [
        ("call", "back"),
        ("again", "back"),
        ("handing", "back"),
        ("dead", "back"),
        ("call", "span"),
    ]
    for theme in (0, 1):
        for wanted, pairs in ((4.5, texts), (3.0, seen)):
            for one, other in pairs:
                low, high = sorted([light(colours[one][theme]), light(colours[other][theme])])
                assert (high + 0.05) / (low + 0.05) >= wanted, (one, other, theme)


# ---------------------------------------------------------------------------------- saved


def test_saved_by_the_ending(tmp_path: Path) -> None:
    maps = [make_map(2, 10)]
    save(maps, "text", tmp_path / "run.html")
    save(maps, "text", str(tmp_path / "run.JSON"))
    assert (tmp_path / "run.html").read_text("utf-8") == make_page(maps, "text")
    check_trace((tmp_path / "run.JSON").read_text("utf-8"))
    assert sorted(os.listdir(tmp_path)) == ["run.JSON", "run.html"]


@pytest.mark.parametrize("name", ["run.txt", "run", "run.html.gz", ".html", "html"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("as before")
    with pytest.raises(ValueError, match=r"as \.html .* or as \.json .*, not as"):
        save([make_map(2, 10)], "text", path)
    assert path.read_text() == "as before"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("path", [None, 3, b"run.html"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(TypeError, match="path is a str or a path-like of one, not "):
        save([], "", path)


def test_what_was_there_stays_if_it_cannot_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(OSError) as caught:
        save([], "", path)
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["run.json"]
    with pytest.raises(FileNotFoundError) as caught:
        save([], "", tmp_path / "nowhere" / "run.json")
    assert caught.value.filename == str(tmp_path / "nowhere" / "run.json")


def test_a_link_is_followed_and_permissions_are_usual(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "run.json", tmp_path / "link.json"
    link.symlink_to(target)
    save([], "", link)
    assert link.is_symlink()
    check_trace(target.read_text())
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
