"""A real browser: the system's Chromium, without a window."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium for the tests of one file, or a reason to skip them."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(
            f"no Chromium: none of {', '.join(NAMES)} is on PATH (Debian has it as `chromium`)"
        )
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: it drives the browser")
    with api.sync_playwright() as playwright:
        # As root, which containers are, Chromium runs without its sandbox only.
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=False)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a page as a file; at the end, fail if it asked for anything or complained of anything."""
    complaints: list[str] = []
    contexts = []

    def open_page(html: str, *, width: int = 1200, height: int = 900, scheme: str = "light") -> Any:
        file = tmp_path / f"page{len(contexts)}.html"
        file.write_text(html, "utf-8")
        contexts.append(
            browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # What the page makes by itself (a download's blob, a frame's document) is no request to anywhere.
        page.on("request", lambda request: seen(request.url))

        def seen(url: str) -> None:
            if url != file.as_uri() and not url.startswith(("blob:", "data:", "about:")):
                complaints.append(f"asked for {url}")

        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
