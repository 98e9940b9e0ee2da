"""Tables in markdown, results as JSON, and the generated blocks of README and docs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.figures import UNITS, Figure, Result
from harness.peers import ENTRIES

LOAD = "load before the run"
BUSY = 0.5
"""Load per core, before a run, above which the tables carry a warning."""
BEGIN, END = "<!-- against:begin -->", "<!-- against:end -->"


# ----------------------------------------------------------------------------------- JSON


def save(
    path: Path, results: dict[str, Result], rounds: dict[str, int], machine: dict[str, str]
) -> None:
    """Add these figures to the file; figures measured earlier stay."""
    known = json.loads(path.read_text())["figures"] if path.exists() else {}
    for name, result in results.items():
        known[name] = {
            "machine": machine,
            "rounds": rounds[name],
            "samples": result.samples,
            "notes": result.notes,
            "seen": result.seen,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"figures": known}, indent=1) + "\n")


def load(path: Path) -> tuple[dict[str, Result], dict[str, int], dict[str, str]]:
    """Return all results in the file, rounds, and the machine of the latest at its busiest."""
    results, rounds = {}, {}
    machine: dict[str, str] = {}
    loads = []
    for name, stored in json.loads(path.read_text())["figures"].items():
        results[name] = Result(stored["samples"], stored["notes"], stored["seen"])
        rounds[name] = stored["rounds"]
        if stored["machine"]["date"] >= machine.get("date", ""):
            machine = dict(stored["machine"])
        loads.append(float(stored["machine"][LOAD]))
    machine[LOAD] = str(max(loads))
    return results, rounds, machine


# --------------------------------------------------------------------------------- tables


def figure_table(figure: Figure, result: Result) -> str:
    """One figure: a row per peer, fastest first."""
    scale = UNITS[figure.unit]
    reference = "bare" if "bare" in result.samples else "shmmap"
    rows = []
    for peer in sorted(result.samples, key=result.median):
        title = ENTRIES[peer].title
        seen = result.seen.get(peer)
        rows.append(
            (
                f"**{title}**" if ENTRIES[peer].kind == "ours" else title,
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
    return text + (f"\nLeft out: {missing}.\n" if missing else "")


def times(result: Result, peer: str, to: str) -> str:
    """The ratio, or nothing where one of the two is missing."""
    if to not in result.samples or peer not in result.samples:
        return ""
    return f"{number(result.ratio(peer, to))}x"


def summary_table(figures: dict[str, Figure], results: dict[str, Result]) -> str:
    """A row per figure: ours, the limit, the best of each kind of peer."""
    rows = []
    for name, figure in figures.items():
        if name not in results:
            continue
        result = results[name]
        scale = UNITS[figure.unit]

        def cell(peers: Iterable[str], scale: float = scale, result: Result = result) -> str:
            there = [peer for peer in peers if peer in result.samples]
            if not there:
                return "-"
            best = min(there, key=result.median)
            text = number(result.median(best) / scale)
            return text if len(set(peers)) == 1 else f"{text} ({ENTRIES[best].title})"

        rows.append(
            (
                f"{figure.title}, {figure.unit}",
                f"**{cell(['shmmap'])}**",
                cell(["bare"]),
                cell(result.of_kind("processes")),
                cell(result.of_kind("threads")),
                cell(["serial"]),
            )
        )
    head = ("", "shmmap", "bare hands", "best other processes", "best threads", "serial NumPy")
    return markdown(head, rows)


def target_table(figures: dict[str, Figure], results: dict[str, Result]) -> str:
    """A row per target: what was measured, and whether it holds."""
    rows = []
    for name, figure in figures.items():
        if name not in results:
            continue
        for target in figure.targets:
            measured, holds = target.verdict(results[name])
            word = {True: "yes", False: "**no**", None: "-"}[holds]
            rows.append((figure.title, target.text, measured, word))
    return markdown(("figure", "target", "measured", "holds"), rows)


def machine_lines(machine: dict[str, str], rounds: dict[str, int]) -> str:
    """What this ran on, in one paragraph."""
    counts = sorted(set(rounds.values()))
    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    facts = ", ".join(f"{key}: {value}" for key, value in machine.items())
    warning = ""
    if float(machine[LOAD]) > BUSY * int(machine["cores"]):
        warning = (
            "**The load average was above half of the cores before some of the runs (the figures measured"
            " just before count): if other work ran, speed-ups are not to be read off this table.** "
        )
    return (
        warning
        + f"Medians of {span} interleaved rounds ± half the distance between the quartiles; ratios"
        f" are medians of the ratios within a round. Measured on {facts}.\n"
    )


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, numbers to the right."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Three digits, no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.4f}"


# ----------------------------------------------------------------------- generated blocks


def fill(path: Path, text: str) -> None:
    """Put the text between the two marks of a document."""
    document = path.read_text()
    if BEGIN not in document or END not in document:
        raise SystemExit(f"{path} has no {BEGIN} ... {END}")
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text.strip()}\n{END}", document))


def readme_block(stored: Any, figures: dict[str, Figure]) -> str:
    """The short form."""
    results, rounds, machine = stored
    return summary_table(figures, results) + "\n" + machine_lines(machine, rounds)


def docs_block(stored: Any, figures: dict[str, Figure], picture: str | None) -> str:
    """The long form: summary, targets, picture, and every peer of every figure."""
    results, rounds, machine = stored
    parts = [
        machine_lines(machine, rounds),
        summary_table(figures, results),
        "### Targets\n",
        target_table(figures, results),
    ]
    if picture:
        parts += [f"![Every peer against bare hands]({picture})\n"]
    for name, figure in figures.items():
        if name in results:
            parts += [f"### {figure.title[0].upper()}{figure.title[1:]}\n"]
            parts += [figure_table(figure, results[name])]
    return "\n".join(parts)
