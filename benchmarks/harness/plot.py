"""The picture: every peer of every figure, as a multiple of bare hands (or of the fastest)."""

from __future__ import annotations

import math
from pathlib import Path

from harness.figures import Figure, Result
from harness.peers import ENTRIES

COLOURS = {
    "ours": "#0b6e4f",
    "limit": "#9aa5b1",
    "serial": "#9aa5b1",
    "processes": "#c8553d",
    "threads": "#e6a23c",
}


def draw(path: Path, figures: dict[str, Figure], results: dict[str, Result]) -> None:
    """A panel per figure, a bar per peer, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [figures[name] for name in figures if name in results and not figures[name].is_memory]
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    picture, axes = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 2.9 * rows), squeeze=False, layout="constrained"
    )
    for panel, figure in zip(axes.flat, shown, strict=False):
        result = results[figure.name]
        peers = sorted(result.samples, key=result.median, reverse=True)
        reference = "bare" if "bare" in peers else peers[-1]
        values = [result.ratio(peer, reference) for peer in peers]
        panel.barh(
            [ENTRIES[peer].title for peer in peers],
            values,
            color=[COLOURS[ENTRIES[peer].kind] for peer in peers],
            left=0,
        )
        panel.set_xscale("log")
        panel.set_xlim(left=min(0.5, 0.8 * min(values)), right=2.2 * max(values))
        panel.axvline(1, color="black", linewidth=0.6)
        for y, value in enumerate(values):
            panel.text(value * 1.05, y, f"{value:.3g}x", va="center", fontsize=7)
        panel.set_title(_short(figure.title), fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    picture.suptitle("Time as a multiple of bare hands (or of the fastest, where there is none)")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path)
    plt.close(picture)


def _short(title: str) -> str:
    plain = title.replace("`", "")
    return plain if len(plain) <= 62 else plain[:60] + " ..."
