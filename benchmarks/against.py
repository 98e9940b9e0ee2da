"""Run `shmmap` beside its peers, interleaved in one run, and say how they compare.

    python benchmarks/against.py                    # everything; about a quarter of an hour
    python benchmarks/against.py --only call chunk  # some figures
    python benchmarks/against.py --smoke            # tiny sizes: does it all run?
    python benchmarks/against.py --report           # no run: tables of what is stored

Results are added to a JSON file, figure by figure, so a run may be done in pieces; the samples of
one figure always come from one run. ``--readme`` and ``--docs`` fill the generated blocks of the
documents from that file. A peer that is not installed is left out with a line saying so.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import machine, measure, plot, report
from harness.figures import Figure, Result, figures
from harness.peers import ENTRIES

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "benchmarks" / "results" / "against.json"
PICTURE = ROOT / "docs" / "_static" / "against.svg"


def main() -> int:
    """Run what is asked for; the exit status says whether every peer asked for could run."""
    args = arguments()
    workers = args.workers
    everything = figures(workers, args.smoke)
    if args.list:
        for figure in everything.values():
            print(f"{figure.name:15} {figure.title}")
        print("\npeers:", " ".join(ENTRIES))
        return 0
    failed = False
    store = args.json or (ROOT / "benchmarks" / "results" / "smoke.json" if args.smoke else STORE)
    if not args.report:
        for name in args.only or everything:
            figure = everything[name]
            start = time.perf_counter()
            print(f"\n## {figure.title}\n", flush=True)
            peers = choose(figure, args.peers, args.smoke)
            rounds = args.repeat or (2 if args.smoke else 3 if figure.is_memory else 7)
            result = measure.run(figure, peers, workers, rounds, args.smoke, say)
            failed |= any("failed" in why or "no answer" in why for why in result.notes.values())
            show(figure, result)
            say(f"{time.perf_counter() - start:.0f} s")
            if not args.no_save:
                report.save(store, {name: result}, machine.describe())
    if args.no_save or not store.exists():
        return int(failed)
    stored = report.load(store)
    print("\n" + report.summary_table(everything, stored[0]))
    print(report.target_table(everything, stored[0]))
    print(report.machine_lines(stored[1], stored[0]))
    if args.plot or args.docs:
        plot.draw(PICTURE, everything, stored[0])
    if args.readme:
        report.fill(ROOT / "README.md", report.readme_block(stored, everything))
    if args.docs:
        block = report.docs_block(stored, everything, f"_static/{PICTURE.name}")
        report.fill(ROOT / "docs" / "performance.md", block)
    return int(failed)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", metavar="FIGURE", choices=list(figures(1)), help="these figures only")
    add("--peers", nargs="+", metavar="PEER", choices=list(ENTRIES), help="these peers only")
    add("--repeat", type=int, metavar="N", help="rounds (default: 7, memory 3, smoke 2)")
    add("--workers", type=int, default=machine.usable_cores(), help="default: usable cores")
    add("--smoke", action="store_true", help="tiny sizes; Ray only if it is named")
    add("--list", action="store_true", help="name the figures and the peers")
    add("--report", action="store_true", help="run nothing; use the stored results")
    add("--json", type=Path, metavar="PATH", help="where results are stored")
    add("--no-save", action="store_true", help="store nothing")
    add("--plot", action="store_true", help="draw the picture for the docs")
    add("--readme", action="store_true", help="fill the block in README.md")
    add("--docs", action="store_true", help="fill the block in docs/performance.md, and draw")
    return parser.parse_args()


def choose(figure: Figure, wanted: list[str] | None, smoke: bool) -> list[str]:
    """The peers of a figure, in the order of the table of peers."""
    able = [p for p in ENTRIES if (p in figure.peers if figure.peers else True)]
    able = [p for p in able if ENTRIES[p].warm or figure.script == "cold"]
    named = {peer for target in figure.targets for peer in target.peers}
    able = [p for p in able if p in named or not ENTRIES[p].asked]
    if wanted:
        return [p for p in able if p in wanted]
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
