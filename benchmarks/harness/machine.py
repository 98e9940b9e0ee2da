"""What this ran on: a ratio is worth little without it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

from harness import memory

PACKAGES = ("numpy", "joblib", "mpire", "dask", "ray", "numba", "scipy", "emcee")


def usable_cores() -> int:
    """Cores in the affinity mask."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, str]:
    """Everything a reader needs to judge the numbers."""
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cores": str(usable_cores()),
        "processor": _processor(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "huge pages, private": _setting("/sys/kernel/mm/transparent_hugepage/enabled"),
        "huge pages, shared": _setting("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _setting(path: str) -> str:
    """The value in brackets of a setting of the kernel."""
    try:
        return Path(path).read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return "unknown"


# ----------------------------------------------------------------------------------- busyness


def _jiffies() -> dict[str, int]:
    """Time of all cores so far, by what they did."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    fields = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    return dict(zip(names, map(int, fields), strict=True))


def _since(before: dict[str, int]) -> dict[str, int]:
    return {name: value - before[name] for name, value in _jiffies().items()}


class Busy:
    """How busy the cores were since this was made, but for this process and all it has started.

    The load average is of no use for that: it goes on telling of what ended a minute ago.
    """

    def __init__(self) -> None:
        self._before, self._ours = _jiffies(), memory.jiffies(os.getpid())

    def shares(self) -> dict[str, float]:
        """What ``others`` used of the cores' time, and the share ``stolen`` by the machine below.

        That is of the time that was asked for: idle cores are not stolen from.
        """
        spent = _since(self._before)
        ours = memory.jiffies(os.getpid()) - self._ours
        stolen = spent["steal"]
        used = sum(spent.values()) - spent["idle"] - spent["iowait"]
        return {
            "others": max(0, used - stolen - ours) / max(1, sum(spent.values())),
            "stolen": stolen / max(1, used),
        }


def available_nbytes() -> int:
    """What can be allocated without hardship."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
