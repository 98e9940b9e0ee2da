"""What this ran on: a ratio is worth little without it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("numpy", "joblib", "mpire", "dask", "ray", "numba")


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
        "load before the run": f"{os.getloadavg()[0]:.1f}",
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
