"""Take the pictures of a report's page that the documentation shows.

    python docs/pictures.py

makes ``docs/_static/profile-page-light.png`` and ``-dark.png``, of maps that are run for it. It needs SciPy,
Chromium and the package ``playwright``, which ``pip install '.[test]'`` installs but for the browser.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright
from scipy.cluster.vq import kmeans

import shmmap

HERE = Path(__file__).parent
BROWSERS = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"

digits = shmmap.load(HERE.parent / "examples" / "data" / "digits.npy").astype(np.float64)


def distortion(k: int) -> float:
    """How far the digits are from the nearest of k means."""
    return float(kmeans(digits, k, iter=8, rng=k)[1])


def run() -> shmmap.Report:
    """Choose a number of clusters: as one writes it first, and as the report advises."""
    ks = [*range(2, 14), 150]
    shmmap.pmap(distortion, ks)  # so that workers are there
    with shmmap.profile(stacks=True) as report:
        shmmap.pmap(distortion, ks)
        shmmap.pmap(distortion, ks[::-1])
    return report


def main() -> None:
    path = next(filter(None, map(shutil.which, BROWSERS)))
    report = run()
    print(report)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        report.save(Path(folder) / "run.html")
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=False)
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1000, "height": 700}, color_scheme=scheme)
            page.goto((Path(folder) / "run.html").as_uri())
            page.locator("#maps button").first.click()
            box = page.locator("#timeline").bounding_box()
            page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 60)
            page.screenshot(path=HERE / "_static" / f"profile-page-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
