"""Tables in markdown, results as JSON, and the generated blocks of README and docs."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.figures import UNITS, Figure, Result
from harness.peers import ENTRIES

BUSY = 0.05
"""Share of the cores' time, used by others just before a figure, above which the tables carry a warning."""
STOLEN = 0.05
"""The same for what the machine below kept for itself while the figure was measured."""
BEGIN, END = "<!-- against:begin -->", "<!-- against:end -->"


# ----------------------------------------------------------------------------------- JSON


def save(path: Path, results: dict[str, Result], facts: dict[str, str]) -> None:
    """Add these figures to the file; figures measured earlier stay."""
    known = json.loads(path.read_text())["figures"] if path.exists() else {}
    for name, result in results.items():
        known[name] = {"machine": facts, **asdict(result)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"figures": known}, indent=1) + "\n")


def load(path: Path) -> tuple[dict[str, Result], dict[str, str]]:
    """Return all results in the file, and the machine of the latest."""
    results, facts = {}, {}
    for name, stored in json.loads(path.read_text())["figures"].items():
        its_facts = stored.pop("machine")
        results[name] = Result(**stored)
        if its_facts["date"] >= facts.get("date", ""):
            facts = its_facts
    return results, facts


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
    text += f"\nLeft out: {missing}.\n" if missing else ""
    counts = {peer: len(values) for peer, values in result.samples.items()}
    usual = statistics.mode(counts.values()) if counts else 0
    few = [f"{ENTRIES[p].title} {n}" for p, n in counts.items() if n < usual]
    text += f"\nSamples: {usual}; of what takes long, fewer: {', '.join(few)}.\n" if few else ""
    trouble = disturbance(result)
    return text + (f"\n**{trouble}**\n" if trouble else "")


def disturbance(result: Result) -> str:
    """Say that other work ran, if it did: then the figure is to be measured again."""
    before, stolen = result.busy.get("before", 0.0), result.busy.get("stolen", 0.0)
    said = []
    if before > BUSY:
        said.append(f"other work took {before:.0%} of the cores' time just before")
    if stolen > STOLEN:
        said.append(f"the machine below kept {stolen:.0%} of it meanwhile")
    return f"Disturbed: {', and '.join(said)}." if said else ""


def times(result: Result, peer: str, to: str) -> str:
    """The ratio, or nothing where one of the two is missing."""
    try:
        return f"{number(result.ratio(peer, to))}x"
    except KeyError:
        return ""


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


def machine_lines(facts: dict[str, str], results: dict[str, Result]) -> str:
    """What this ran on, in one paragraph, and whether it had the machine to itself."""
    counts = [len(result.samples.get("shmmap", ())) for result in results.values()]
    span = str(min(counts)) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    told = ", ".join(f"{key}: {value}" for key, value in facts.items())
    disturbed = [name for name, result in results.items() if disturbance(result)]
    warning = ""
    if disturbed:
        warning = (
            f"**Other work ran beside {len(disturbed)} of the {len(results)} figures"
            f" ({', '.join(disturbed)}): speed-ups are not to be read off those.** "
        )
    return (
        warning
        + f"Medians of {span} interleaved rounds ± half the distance between the quartiles; ratios"
        f" are medians of the ratios within a round. Measured on {told}.\n"
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
    results, facts = stored
    return summary_table(figures, results) + "\n" + machine_lines(facts, results)


def docs_block(stored: Any, figures: dict[str, Figure], picture: str | None) -> str:
    """The long form: summary, targets, picture, and every peer of every figure."""
    results, facts = stored
    parts = [
        machine_lines(facts, results),
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
