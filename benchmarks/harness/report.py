"""Tables in markdown, and results as JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.calls import COSTS
from harness.figures import UNITS, Figure
from harness.peers import ENTRIES
from harness.results import MOST_CALLS, Result

BUSY = 0.05
"""The share of the cores' time, used by others during a figure, above which tables carry a warning."""
STOLEN = 0.05
"""The same for what the machine below kept for itself."""
SCALING = Path(__file__).resolve().parent.parent / "results" / "scaling.json"
"""What `scaling.py` has measured."""


# ----------------------------------------------------------------------------------- JSON


def save(path: Path, results: dict[str, Result], facts: dict[str, str]) -> None:
    """Add these figures to the file; figures measured earlier stay."""
    known = json.loads(path.read_text())["figures"] if path.exists() else {}
    for name, result in results.items():
        known[name] = {"machine": facts, **asdict(result)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"figures": known}, indent=1) + "\n")


def load(path: Path) -> tuple[dict[str, Result], dict[str, str]]:
    """Return all results in the file, and the machine of the latest, with the dates of all."""
    results: dict[str, Result] = {}
    machines: list[dict[str, str]] = []
    for name, stored in json.loads(path.read_text())["figures"].items():
        machines.append(stored.pop("machine"))
        results[name] = Result(**stored)
    machines.sort(key=lambda facts: facts["date"])
    facts = dict(machines[-1])
    if machines[0]["date"] != facts["date"]:
        facts["date"] = f"{machines[0]['date']} to {facts['date']}"
    return results, facts


# --------------------------------------------------------------------------------- tables


def figure_table(figure: Figure, result: Result) -> str:
    """One figure: a row per peer, fastest first."""
    scale = UNITS[figure.unit]
    reference = "bare" if "bare" in result.samples else "shmmap"
    rows = []
    for peer in sorted(result.samples, key=result.median):
        called = title(peer, figure)
        seen = result.seen.get(peer)
        rows.append(
            (
                f"**{called}**" if ENTRIES[peer].kind == "ours" else called,
                f"{number(result.median(peer) / scale)} ± {result.spread(peer):.0%}",
                times(result, peer, "shmmap"),
                times(result, peer, reference) if reference != "shmmap" else "",
                times(result, peer, "serial"),
                "" if seen is None else str(seen),
            )
        )
    head = ("", figure.unit, "/ shmmap", "/ bare hands", "/ serial", "workers seen")
    kept = [i for i in range(len(head)) if i < 2 or any(row[i] for row in rows)]
    text = markdown([head[i] for i in kept], ([row[i] for i in kept] for row in rows))
    missing = "; ".join(f"{ENTRIES[peer].title} {why}" for peer, why in result.notes.items())
    text += f"\nLeft out: {missing}.\n" if missing else ""
    counts = {peer: len(values) for peer, values in result.samples.items()}
    usual = statistics.mode(counts.values()) if counts else 0
    few = [f"{ENTRIES[p].title} {n}" for p, n in counts.items() if n < usual]
    text += f"\nSamples: {usual}; of what takes long, fewer: {', '.join(few)}.\n" if few else ""
    trouble = disturbance(result)
    return text + (f"\n**{trouble}**\n" if trouble else "")


def disturbance(result: Result) -> str:
    """Say that other work ran, if it did: then the figure is to be measured again."""
    others, stolen = result.busy.get("others", 0.0), result.busy.get("stolen", 0.0)
    said = []
    if others > BUSY:
        said.append(f"other programs took {others:.0%} of the cores' time meanwhile")
    if stolen > STOLEN:
        said.append(f"the machine below kept {stolen:.0%} of it")
    return f"Disturbed: {', and '.join(said)}." if said else ""


def times(result: Result, peer: str, to: str) -> str:
    """The ratio, or nothing where one of the two is missing."""
    try:
        return f"{number(result.ratio(peer, to))}x"
    except KeyError:
        return ""


SHORT = {"pool": "Pool", "ppe": "Executor", "tpe": ""}
"""Names of peers where there is little room; of threads, those of the standard library."""


def summary_table(
    figures: dict[str, Figure],
    results: dict[str, Result],
    names: Iterable[str],
    titles: dict[str, str] | None = None,
) -> str:
    """A row per figure: ours, the best of each kind of peer, the limit; the best in bold.

    With titles, that and the names of the peers are short.
    """
    rows = []
    for name in names:
        if name not in results or not results[name].rounds:
            continue
        figure, result = figures[name], results[name]
        scale = UNITS[figure.unit]
        contenders = (
            ("shmmap",),
            result.of_kind("processes"),
            result.of_kind("threads"),
            ("serial",),
        )
        best = [
            min((peer for peer in peers if peer in result.samples), key=result.median, default=None)
            for peers in contenders
        ]
        least = min(result.median(peer) for peer in best if peer)
        cells = []
        for peer in (*best, "bare" if "bare" in result.samples else None):
            if peer is None:
                cells.append("-")
                continue
            text = number(result.median(peer) / scale)
            text = f"**{text}**" if result.median(peer) == least and peer != "bare" else text
            called = SHORT.get(peer, title(peer, figure)) if titles else title(peer, figure)
            is_named = ENTRIES[peer].kind in ("processes", "threads") and called
            cells.append(f"{text} ({called})" if is_named else text)
        rows.append((titles[name] if titles else f"{figure.title}, {figure.unit}", *cells))
    head = ("", "shmmap", "other processes", "threads", "one process", "bare hands")
    return markdown(head, rows)


def title(peer: str, figure: Figure) -> str:
    """How a peer is called: in a kind of call there is no shared memory by hand."""
    full = ENTRIES[peer].title
    return full.rpartition(" ")[2] if figure.kind is not None and peer == "pool" else full


COLUMNS = {
    "shmmap": "shmmap",
    "pool": "Pool",
    "ppe": "Executor",
    "tpe": "threads",
    "bare": "bare hands",
    "serial": "a loop",
    "joblib": "joblib",
}
"""Short names, for tables in which all are columns."""


def calls_table(figures: dict[str, Figure], results: dict[str, Result]) -> str:
    """A row per kind of call: everybody's time, the best of each in bold."""
    rows = []
    for name in kinds(figures, results):
        figure, result = figures[name], results[name]
        there = [peer for peer in COLUMNS if peer in result.samples]
        least = min(result.median(peer) for peer in there if peer != "bare")
        cells = dict.fromkeys(COLUMNS, "-")
        for peer in there:
            text = number(result.median(peer) / UNITS[figure.unit])
            is_best = peer != "bare" and result.median(peer) == least
            cells[peer] = f"**{text}**" if is_best else text
        first, *others = cells.values()
        ratio = times(result, "shmmap", "pool") or "-"
        rows.append((f"{figure.title}, {figure.unit}", first, ratio, *others))
    return markdown(("", "shmmap", "/ Pool", *list(COLUMNS.values())[1:]), rows)


def effort_table(
    figures: dict[str, Figure], results: dict[str, Result], counts: dict[str, int]
) -> str:
    """A row per kind of call: what the caller has to do for it."""
    rows = [
        (
            figures[name].title,
            number(results[name].cpu["shmmap"] * 1e6),
            number(results[name].cpu["pool"] * 1e6) if "pool" in results[name].cpu else "-",
            f"{counts[name]:,}" if name in counts and not figures[name].per else "-",
            f"{results[name].busy['others']:.0%}",
        )
        for name in kinds(figures, results)
    ]
    head = ("", "caller's CPU, us", "with a Pool, us", "function calls", "cores busy elsewhere")
    return markdown(head, rows)


def kinds(figures: dict[str, Figure], results: dict[str, Result]) -> list[str]:
    """The kinds of call that have a row in the common tables."""
    return [
        name
        for name, figure in figures.items()
        if figure.kind is not None
        and figure.group not in OWN_TABLE
        and name in results
        and results[name].rounds
    ]


OWN_TABLE = ("cost", "many")


def cost_table(figures: dict[str, Figure], results: dict[str, Result]) -> str:
    """Speed-up over a plain loop, by what an item costs."""
    names = [name for name, figure in figures.items() if figure.group == "cost" and name in results]
    peers = [peer for peer in COLUMNS if peer != "serial"]
    rows = []
    for name in names:
        result = results[name]
        ratios = {peer: result.ratio("serial", peer) for peer in peers if peer in result.samples}
        best = max((peer for peer in ratios if peer != "bare"), key=lambda peer: ratios[peer])
        cells = [f"{number(ratios[p])}x" if p in ratios else "-" for p in peers]
        cells = [
            f"**{c}**" if p == best and ratios[p] > 1 else c
            for p, c in zip(peers, cells, strict=True)
        ]
        rows.append(
            (
                f"{number(result.median('serial') / 100 * 1e6)} us",
                *cells,
                f"{result.busy['others']:.0%}",
            )
        )
    head = ("an item costs", *(COLUMNS[peer] for peer in peers), "cores busy elsewhere")
    return markdown(head, rows)


def breaking_even(results: dict[str, Result], peer: str) -> str:
    """From which cost of an item on a map of 100 is quicker than a plain loop."""
    last = None
    for name in (f"cost-{steps}" for steps in COSTS):
        cost = results[name].median("serial") / 100
        ratio = results[name].ratio("serial", peer)
        if ratio >= 1:
            if last is not None:  # between two points, a line on paper with logarithmic axes
                share = math.log(1 / last[1]) / math.log(ratio / last[1])
                cost = last[0] * (cost / last[0]) ** share
            return f"from {number(cost * 1e6)} us an item on"
        last = cost, ratio
    return "never"


def scaling_table(facts: Any) -> str:
    """The times of `scaling.py`, and the speed-up over one worker."""
    rows = []
    for name, seconds in facts["seconds"].items():
        by = {int(workers): value for workers, value in seconds.items()}
        cells = [f"{number(each * 1e3)} ms ({by[1] / each:.2f}x)" for each in by.values()]
        rows.append((name, *cells))
    head = ("", *(f"{workers} worker{'s' * (workers > 1)}" for workers in by))
    others = f"{facts['busy']['others']:.0%}" if "busy" in facts else "an unknown part"
    return markdown(head, rows) + f"\nOther programs took {others} of the cores' time meanwhile.\n"


def target_table(
    figures: dict[str, Figure], results: dict[str, Result], counts: dict[str, int]
) -> str:
    """A row per target: what was measured, and whether it holds."""
    rows = []
    for name, figure in figures.items():
        if name not in results:
            continue
        for target in figure.targets:
            measured, holds = target.verdict(results[name])
            word = {True: "yes", False: "**no**", None: "-"}[holds]
            rows.append((figure.title, target.text, measured, word))
        if name in MOST_CALLS and name in counts:
            most, counted = MOST_CALLS[name], counts[name]
            word = "yes" if counted <= most else "**no**"
            rows.append((figure.title, f"at most {most} function calls", f"{counted:,}", word))
    return markdown(("figure", "target", "measured", "holds"), rows)


def machine_lines(facts: dict[str, str], results: dict[str, Result]) -> str:
    """What this ran on, in one paragraph, and whether it had the machine to itself."""
    counts = [len(result.rounds) for result in results.values() if result.rounds]
    told = ", ".join(f"{key}: {value}" for key, value in facts.items() if value != "not installed")
    busy = [result.busy.get("others", 0.0) for result in results.values()]
    disturbed = [name for name, result in results.items() if disturbance(result)]
    warning = ""
    if disturbed:
        warning = (
            f" In {len(disturbed)} of {len(results)} figures it was more than {BUSY:.0%}, which slows"
            " whoever uses all cores most: speed-ups are not to be read off those."
        )
    return (
        f"Medians of {min(counts)} to {max(counts)} interleaved rounds; ratios are medians of the ratios"
        " within a round. Other programs took"
        f" {statistics.median(busy):.0%} of the cores' time meanwhile (median of the figures,"
        f" {max(busy):.0%} at most).{warning} Measured on {told}.\n"
    )


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, numbers to the right."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def capital(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text[0].upper() + text[1:]


def number(value: float) -> str:
    """Three digits, no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 or value == 0 else f"{value:.4f}"
