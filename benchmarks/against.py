"""Run `shmmap` beside its peers, interleaved in one run, and say how they compare.

    python benchmarks/against.py                     # everything; about half an hour
    python benchmarks/against.py --only calls cold   # some groups or figures, of those that --list names
    python benchmarks/against.py --smoke             # tiny sizes: does it all run?
    python benchmarks/against.py --report            # no run: tables of what is stored
    python benchmarks/against.py --publish           # everything, then the documents and their pictures

Results are added to a JSON file, figure by figure, so a run may be done in pieces; the samples of
one figure always come from one run. ``--publish`` fills the generated blocks of the documents from that
file and draws the pictures, with ``--report`` from what is stored. A peer that is not installed is left
out with a line saying so.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import documents, machine, measure, plot, report
from harness.figures import Figure, figures
from harness.peers import ENTRIES
from harness.results import Result

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "benchmarks" / "results" / "against.json"
COUNTS = ROOT / "benchmarks" / "results" / "call_counts.json"
PICTURES = ROOT / "docs" / "_static"


def main() -> int:
    """Run what is asked for; the exit status says whether every peer asked for could run."""
    args = arguments()
    workers = args.workers
    everything = figures(workers, args.smoke)
    if args.list:
        for figure in everything.values():
            print(f"{figure.group:10} {figure.name:16} {figure.title}")
        print("\npeers:", " ".join(ENTRIES))
        return 0
    failed = False
    store = args.json or (ROOT / "benchmarks" / "results" / "smoke.json" if args.smoke else STORE)
    if not args.report:
        for name, figure in everything.items():
            if args.only and not {name, figure.group} & set(args.only):
                continue
            start = time.perf_counter()
            print(f"\n## {figure.title}\n", flush=True)
            peers = choose(figure, args.peers, args.smoke)
            rounds = args.repeat or usual_rounds(figure, args.smoke)
            result = measure.run(figure, peers, workers, rounds, args.smoke, say)
            failed |= any("failed" in why or "no answer" in why for why in result.notes.values())
            show(figure, result)
            say(f"{time.perf_counter() - start:.0f} s")
            if not args.no_save:
                report.save(store, {name: result}, machine.describe())
    if args.no_save or not store.exists():
        return int(failed)
    stored = report.load(store)
    python = ".".join(stored[1]["python"].split(".")[:2])
    counts = json.loads(COUNTS.read_text()).get(python, {})
    print("\n" + report.calls_table(everything, stored[0]))
    print(report.effort_table(everything, stored[0], counts))
    print(report.summary_table(everything, stored[0], everything))
    print(report.target_table(everything, stored[0], counts))
    print(report.machine_lines(stored[1], stored[0]))
    if args.publish:
        if not args.report:
            subprocess.run([sys.executable, ROOT / "benchmarks" / "scaling.py"], check=True)
        plot.draw(PICTURES, everything, stored[0])
        documents.fill(ROOT / "README.md", documents.readme_block(stored, everything))
        documents.fill(
            ROOT / "docs" / "performance.md", documents.docs_block(stored, everything, counts)
        )
    return int(failed)


def usual_rounds(figure: Figure, smoke: bool) -> int:
    """More where a round is quick, and where processes differ most."""
    if smoke or figure.script == "idle":
        return 1
    return 9 if figure.kind else 3 if figure.is_memory else 7


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    known = figures(1)
    choices = [*known, *{figure.group for figure in known.values()}]
    add("--only", nargs="+", metavar="FIGURE", choices=choices, help="these figures or groups only")
    add("--peers", nargs="+", metavar="PEER", choices=list(ENTRIES), help="these peers only")
    add(
        "--repeat",
        type=int,
        metavar="N",
        help="rounds (default: kinds of call 9, memory 3, others 7; smoke 1)",
    )
    add("--workers", type=int, default=machine.usable_cores(), help="default: usable cores")
    add("--smoke", action="store_true", help="tiny sizes; Ray only if it is named")
    add("--list", action="store_true", help="name the figures and the peers")
    add("--report", action="store_true", help="run nothing; use the stored results")
    add("--json", type=Path, metavar="PATH", help="where results are stored")
    add("--no-save", action="store_true", help="store nothing")
    add("--publish", action="store_true", help="fill README.md and docs/performance.md, and draw")
    args = parser.parse_args()
    if args.publish and (args.smoke or args.no_save):
        parser.error("only what was measured in full and stored is published")
    return args


def choose(figure: Figure, wanted: list[str] | None, smoke: bool) -> list[str]:
    """The peers of a figure, in the order of the table of peers."""
    able = [p for p in ENTRIES if (p in figure.peers if figure.peers else True)]
    able = [p for p in able if ENTRIES[p].warm or figure.script == "cold"]
    named = {peer for target in figure.targets for peer in target.peers}
    able = [p for p in able if p in (*named, *figure.peers) or not ENTRIES[p].asked]
    if wanted:
        return [p for p in able if p in wanted]
    if smoke and figure.kind is not None and figure.name != "seen":
        able = [p for p in able if p != "joblib"]  # its workers are slow to start
    asked = figure.has_ray or "ray" in figure.peers
    return [p for p in able if p != "ray" or (asked and not smoke)]


def show(figure: Figure, result: Result) -> None:
    """Print a figure's table and its targets."""
    if result.samples:
        print("\n" + report.figure_table(figure, result))
    for target in figure.targets:
        measured, holds = target.verdict(result)
        word = {True: "holds", False: "MISSED", None: "not measured"}[holds]
        say(f"target: {target.text}: {measured}: {word}")


def say(line: str) -> None:
    """Print at once, for whoever is watching."""
    print(line, flush=True)


if __name__ == "__main__":
    # Ended from outside, end the hosts as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
