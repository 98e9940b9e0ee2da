"""What huge pages in shared memory bring on this machine, and what switches them on.

    python benchmarks/huge_pages.py        # as root: each setting of /dev/shm, one after the other
    python benchmarks/huge_pages.py --now  # as it is here and now

As root it mounts a /dev/shm of its own with each value of the mount option ``huge``, in a mount namespace
that nobody else sees and that ends with the process: the system stays as it is. Rounds go through all
settings in turn. Each figure is the best of three in a process, and the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import machine, report, work

import shmmap

SETTINGS = ("never", "advise", "within_size", "always")
MB = 1 << 20


def best(task: Callable[[], Any], times: int = 3) -> float:
    """Milliseconds at the quickest; what a task returns is let go before the next."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        result = task()
        taken.append(time.perf_counter() - start)
        del result
    return min(taken) * 1e3


def huge_kib() -> int:
    """Huge pages that all shared memory of the system has, in KiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("ShmemHugePages:"):
            return int(line.split()[1])
    return 0


def measure(mib: int) -> dict[str, float]:
    """All figures under the setting that this process finds."""
    n = mib * MB // 8

    def fill(empty: Callable[[int], Any]) -> None:
        empty(n)[...] = 1.0

    found = {"reserve": best(lambda: shmmap.empty(n))}
    found["reserve and first touch"] = best(lambda: fill(shmmap.empty))
    found["the same, private"] = best(lambda: fill(np.empty))
    before = huge_kib()
    shared = shmmap.empty(n)
    shared[...] = 1.0
    found["share in huge pages, %"] = 100 * (huge_kib() - before) / (n * 8 / 1024)
    found["copy there (asshared)"] = best(lambda: shmmap.asshared(np.asarray(shared.copy())))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, shared)
        np.load(path)
        found["load"] = best(lambda: shmmap.load(path))
        found["numpy.load"] = best(lambda: np.load(path))
    rows = shared.reshape(-1, 1024)
    private = rows.copy()
    norms = shmmap.empty(len(rows))
    found["read"] = best(lambda: work.row_norms(rows), 5)
    found["read, private"] = best(lambda: work.row_norms(private), 5)
    shmmap.pmap_chunks(work.row_norms, rows, out=norms)
    found["read by workers"] = best(lambda: shmmap.pmap_chunks(work.row_norms, rows, out=norms), 5)
    found["map, fresh output"] = best(lambda: shmmap.pmap_chunks(work.polish, shared))
    out = shmmap.pmap_chunks(work.polish, shared)
    found["map, output reused"] = best(lambda: shmmap.pmap_chunks(work.polish, shared, out=out))
    return found


def run(setting: str | None, mib: int) -> dict[str, float]:
    """Measure in a process of its own, under a /dev/shm of its own."""
    command = [sys.executable, __file__, "--now", "--json", f"--mib={mib}"]
    if setting is not None:
        mount = f"mount -t tmpfs -o huge={setting} tmpfs /dev/shm"
        command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"huge={setting}: {done.stderr.strip()}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """A column per setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--now", action="store_true", help="as it is; mount nothing")
    parser.add_argument("--mib", type=int, default=512, help="size of the array (default: 512)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.json:
        print(json.dumps(measure(args.mib)))
        return
    settings: list[str | None] = [None] if args.now or os.geteuid() else list(SETTINGS)
    busy = machine.busyness()
    rounds = [{setting: run(setting, args.mib) for setting in settings} for _ in range(args.repeat)]
    rows = []
    for name in rounds[0][settings[0]]:
        medians = [
            statistics.median(taken[setting][name] for taken in rounds) for setting in settings
        ]
        rows.append((name, *(f"{value:.0f}" for value in medians)))
    head = (f"{args.mib} MiB, ms", *(f"huge={setting or 'as it is'}" for setting in settings))
    print(report.markdown(head, rows))
    facts = machine.describe()
    told = ", ".join(f"{key}: {facts[key]}" for key in list(facts) if key not in machine.PACKAGES)
    print(f"{args.repeat} rounds; other work before: {busy:.0%}; {told}")


if __name__ == "__main__":
    main()
