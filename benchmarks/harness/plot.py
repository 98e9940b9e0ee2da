"""The pictures of README and docs, from the stored results: each for light and for dark pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.calls import COSTS
from harness.figures import UNITS, Figure
from harness.report import SCALING
from harness.results import Result

WIDTH = 6.6
"""Inches, of which a page makes its own width: letters are readable on a phone as well."""

THEMES = {
    "": {"back": "#ffffff", "text": "#1f2328", "grid": "#d8dee4"},
    "-dark": {"back": "#0d1117", "text": "#e6edf3", "grid": "#30363d"},
}
PEERS = {
    # title, marker, colour on a light page, colour on a dark one
    "shmmap": ("shmmap", "o", "#0b6e4f", "#3fb984"),
    "pool": ("multiprocessing.Pool", "s", "#b3402a", "#f08a6c"),
    "ppe": ("ProcessPoolExecutor", "D", "#8250df", "#b794f6"),
    "joblib": ("joblib", "^", "#9a6700", "#e3b341"),
    "tpe": ("ThreadPoolExecutor", "v", "#0969da", "#58a6ff"),
    "bare": ("bare hands (the limit)", "|", "#6e7781", "#8b949e"),
}
CALLS = {
    "seen": "a call seen before",
    "range-list": "pmap(f, range(2))",
    "fresh": "fresh output",
    "private": "small private array",
    "map-2": "team.map(f, range(2))",
    "floats-75": "75 floats",
    "arrays-75": "75 arrays of 3",
    "arrays-1000": "1,000 arrays of 3",
    "submit": "submit(f).result()",
}
"""What the first picture shows, from above."""
MEMORY = {
    "shmmap": "shmmap",
    "pool": "SharedMemory + Pool, by hand",
    "tpe": "ThreadPoolExecutor",
    "serial": "NumPy, one process",
    "ppe": "ProcessPoolExecutor",
}

Draw = Callable[[Any, dict[str, Figure], dict[str, Result], bool], Any]


def draw(folder: Path, figures: dict[str, Figure], results: dict[str, Result]) -> None:
    """Draw what there are results for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for name, (paint, needed) in PICTURES.items():
        if not all(each in results for each in needed):
            continue
        for suffix, theme in THEMES.items():
            with plt.rc_context(style(theme)):
                picture = paint(plt, figures, results, bool(suffix))
                picture.savefig(folder / f"{name}{suffix}.svg", metadata={"Date": None})
                plt.close(picture)


def style(theme: dict[str, str]) -> dict[str, Any]:
    """Readable at the width of a page, and the same file for the same figures."""
    text = dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.color", "ytick.color"),
        theme["text"],
    )
    return {
        **text,
        "figure.facecolor": theme["back"],
        "axes.facecolor": theme["back"],
        "savefig.facecolor": theme["back"],
        "axes.edgecolor": theme["grid"],
        "grid.color": theme["grid"],
        "font.size": 12,
        "figure.titlesize": 13,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "shmmap",
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }


def calls(plt: Any, figures: dict[str, Figure], results: dict[str, Result], dark: bool) -> Any:
    """A row per kind of call, a mark per peer."""
    names = [name for name in CALLS if name in results]
    picture, axes = plt.subplots(figsize=(WIDTH, 5.4))
    for peer, (title, marker, *colours) in PEERS.items():
        places = [
            (results[name].median(peer) * 1e6, -row)
            for row, name in enumerate(names)
            if peer in results[name].samples
        ]
        axes.scatter(
            *zip(*places, strict=True),
            marker=marker,
            s=150 if peer == "bare" else 95 if peer == "shmmap" else 50,
            color=colours[dark],
            label=title,
            zorder=3 if peer == "shmmap" else 2,
        )
    axes.set_xscale("log")
    axes.set_yticks([-row for row in range(len(names))], [CALLS[name] for name in names])
    axes.tick_params(length=0)
    axes.grid(axis="both", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(lambda value, _: duration(value * 1e-6))
    picture.suptitle("What a call costs, when its function does next to nothing", x=0.01, ha="left")
    axes.set_xlabel("less is better")
    picture.legend(loc="outside lower center", ncols=2, handletextpad=0.2)
    return picture


def pays(plt: Any, figures: dict[str, Figure], results: dict[str, Result], dark: bool) -> Any:
    """A line per peer, over what an item costs."""
    picture, axes = plt.subplots(figsize=(WIDTH, 4.6))
    names = [f"cost-{steps}" for steps in COSTS]
    for peer, (title, marker, *colours) in PEERS.items():
        axes.plot(
            [results[name].median("serial") / 100 for name in names],
            [results[name].ratio("serial", peer) for name in names],
            marker=None if peer == "bare" else marker,
            linestyle=":" if peer == "bare" else "-",
            linewidth=2.6 if peer == "shmmap" else 1.4,
            color=colours[dark],
            label=title,
            zorder=3 if peer == "shmmap" else 2,
        )
    axes.axhline(1, color=plt.rcParams["text.color"], linewidth=0.8)
    axes.annotate("a plain loop", (0.02, 1), xycoords=("axes fraction", "data"), va="bottom")
    axes.set_xscale("log")
    axes.set_ylim(0, None)
    axes.xaxis.set_major_formatter(lambda value, _: duration(value))
    picture.suptitle("When processes pay: speed-up of a map of 100 items", x=0.01, ha="left")
    axes.set_xlabel("cost of an item; more speed-up is better")
    axes.grid(linewidth=0.7)
    picture.legend(loc="outside lower center", ncols=2)
    return picture


def cores(plt: Any, figures: dict[str, Figure], results: dict[str, Result], dark: bool) -> Any:
    """A line per kind of work, over the number of workers."""
    seconds = json.loads(SCALING.read_text())["seconds"]
    picture, axes = plt.subplots(figsize=(WIDTH, 3.4))
    shades = (PEERS["shmmap"], PEERS["pool"], PEERS["tpe"])
    cases = [case for case in seconds if case != "a call"]
    for case, (_, marker, *colours) in zip(cases, shades, strict=False):
        by = {int(workers): value for workers, value in seconds[case].items()}
        speed = [by[1] / value for value in by.values()]
        axes.plot(list(by), speed, marker=marker, color=colours[dark], label=case)
    most = max(by)
    axes.plot([1, most], [1, most], ":", color=plt.rcParams["text.color"], label="ideal")
    axes.set_xticks(list(by))
    axes.set_ylim(0, None)
    picture.suptitle("Speed-up by workers", x=0.01, ha="left")
    axes.set_xlabel("workers")
    axes.grid(linewidth=0.7)
    axes.legend(loc="upper left")
    return picture


def memory(plt: Any, figures: dict[str, Figure], results: dict[str, Result], dark: bool) -> Any:
    """A bar per way to do it."""
    result, figure = results["peak-memory"], figures["peak-memory"]
    peers = [peer for peer in MEMORY if peer in result.samples]
    values = [result.median(peer) / UNITS[figure.unit] for peer in peers]
    picture, axes = plt.subplots(figsize=(WIDTH, 2.7))
    grey, green = PEERS["bare"][2 + dark], PEERS["shmmap"][2 + dark]
    rows = [-row for row in range(len(peers))]
    axes.barh(
        rows, values, color=[green if peer == "shmmap" else grey for peer in peers], height=0.6
    )
    for row, value in zip(rows, values, strict=True):
        axes.text(value + max(values) / 100, row, f"{value:,.0f} MB", va="center")
    axes.set_yticks(rows, [MEMORY[peer] for peer in peers])
    axes.set_xlim(0, max(values) * 1.25)
    axes.xaxis.set_visible(False)
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    picture.suptitle("Memory beyond 512 MiB of input and 512 MiB of output", x=0.01, ha="left")
    return picture


def duration(seconds: float) -> str:
    """In the unit that suits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale * 0.9999:
            return f"{seconds / scale:g} {unit}"
    return f"{seconds * 1e6:g} µs"


PICTURES: dict[str, tuple[Draw, tuple[str, ...]]] = {
    "calls": (calls, ("seen",)),
    "pays": (pays, tuple(f"cost-{steps}" for steps in COSTS)),
    "cores": (cores, ()),
    "memory": (memory, ("peak-memory",)),
}
"""What draws each, and the figures it cannot do without."""
