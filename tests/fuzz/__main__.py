"""``python -m tests.fuzz [--seed N] [--minutes M] [--cases K]``: results that NumPy does not give."""

from __future__ import annotations

import argparse
import sys

from .fuzzer import fuzz


def main() -> int:
    """Fuzz from the command line; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cases", type=int, default=None)
    given = parser.parse_args()
    count, findings = fuzz(given.seed, given.minutes * 60, given.cases)
    for finding in findings:
        print(finding)
    print(f"{count} cases from seed {given.seed} on, {len(findings)} findings")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
