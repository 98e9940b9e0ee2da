"""The generated blocks of README and docs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from harness.figures import Figure
from harness.report import (
    SCALING,
    breaking_even,
    calls_table,
    capital,
    cost_table,
    effort_table,
    figure_table,
    machine_lines,
    scaling_table,
    summary_table,
    target_table,
)

BEGIN, END = "<!-- against:begin -->", "<!-- against:end -->"


def fill(path: Path, text: str) -> None:
    """Put the text between the two marks of a document."""
    document = path.read_text()
    if BEGIN not in document or END not in document:
        raise SystemExit(f"{path} has no {BEGIN} ... {END}")
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text.strip()}\n{END}", document))


BARE = (
    "*Bare hands* is no contender but the limit: forked processes, pipes and one shared mapping, written for"
    " this function alone; no errors, no recovery, nothing checked."
)

HEADLINES = {
    "seen": "a call seen before, us",
    "arrays-75": "a list of 75 small arrays, us",
    "submit": "`team.submit(f).result()`, us",
    "scipy": "SciPy's `workers=team.map`, ms",
    "emcee-100": "emcee, 100 walkers, `team.map`, ms",
    "memory-bound": "norms of rows, 512 MB, ms",
    "write-reused": "1 GB in, 1 GB out, used again, ms",
    "python-rows": "20,000 rows of pure Python, ms",
    "uneven-up": "uneven costs, ms",
    "cold": "cold start, ms",
    "peak-memory": "memory beyond the arrays, MB",
}
"""The rows of the README, in few words."""


def readme_block(stored: Any, figures: dict[str, Figure]) -> str:
    """The short form."""
    results, facts = stored
    shown = {name: results[name] for name in HEADLINES if name in results}
    busy = max((result.busy.get("others", 0.0) for result in shown.values()), default=0.0)
    caption = (
        "Less is better; of other processes and threads the best are shown, and the best of each row is"
        f" **bold**, whoever it is. *Executor* is `ProcessPoolExecutor`; *Pool* is `multiprocessing.Pool`,"
        f" with `SharedMemory` by hand where there are arrays. {BARE} {facts['cores']} cores,"
        f" {facts['processor']}, Python {facts['python']}, NumPy {facts['numpy']}, {facts['date']};"
        f" other programs took at most {busy:.0%} of the cores' time.\n"
    )
    return summary_table(figures, results, HEADLINES, HEADLINES) + "\n" + caption


def docs_block(stored: Any, figures: dict[str, Figure], counts: dict[str, int]) -> str:
    """The long form: what a call costs, when processes pay, work of all sorts, targets, every peer."""
    results, facts = stored
    others = [name for name, figure in figures.items() if figure.kind is None]
    parts = [
        machine_lines(facts, results),
        BARE + "\n",
        "### What a call costs, by kind\n",
        picture("calls", "Microseconds of a call by kind, for the library and its peers"),
        "The functions do next to nothing: this is what a call adds. *Pool*, *Executor* and *threads* are"
        " those of the standard library, the Executor one of processes."
        " `python benchmarks/against.py --only calls lists submit programs local`\n",
        calls_table(figures, results),
        "What the caller has to do for a call: its processor time, threads included, and function calls,"
        " which have no noise: `python benchmarks/call_counts.py`\n",
        effort_table(figures, results, counts),
        "With 64 workers the caller has more to wake: `python benchmarks/against.py --only many`\n",
        *(
            f"{capital(figures[n].title)}:\n\n{figure_table(figures[n], results[n])}"
            for n in ("many-seen", "many-range")
            if n in results
        ),
        "### When processes pay\n",
        picture(
            "pays",
            "Speed-up over a plain loop by the cost of an item, for the library and its peers",
        ),
        "100 items of pure Python: the speed-up over a plain loop, by what an item costs."
        " `python benchmarks/against.py --only cost`\n",
        cost_table(figures, results),
        f"A map of 100 items is quicker than a loop {breaking_even(results, 'shmmap')}; with a Pool"
        f" {breaking_even(results, 'pool')}, with a ProcessPoolExecutor {breaking_even(results, 'ppe')}.\n",
        picture("cores", "Speed-up over one worker by the number of workers"),
        "By the number of workers: `python benchmarks/scaling.py`\n",
        scaling_table(json.loads(SCALING.read_text())),
        "### Work of all sorts\n",
        "`python benchmarks/against.py --only costs maps start data idle memory`. The best of each row is"
        " **bold**, but for bare hands.\n",
        summary_table(figures, results, others),
        picture("memory", "Peak memory beyond input and output"),
        "### Targets\n",
        target_table(figures, results, counts),
    ]
    for name in others:
        if name in results:
            parts += [f"### {capital(figures[name].title)}\n"]
            parts += [f"`python benchmarks/against.py --only {name}`\n"]
            parts += [figure_table(figures[name], results[name])]
    return "\n".join(parts)


def picture(name: str, text: str, folder: str = "_static") -> str:
    """A picture in two variants, for light and dark pages."""
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{folder}/{name}-dark.svg">'
        f'<img src="{folder}/{name}.svg" alt="{text}"></picture>\n'
    )
