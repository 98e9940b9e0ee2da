"""How much memory there is to have: cgroup limits, free memory, usable cores. Reads, never changes.

``posix_fallocate`` refuses what a tmpfs cannot hold, but not what a memory cgroup or the machine
cannot: there the process would be killed. So these limits are asked first. Both cgroup versions count,
and every ancestor's limit with them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from typing import Any

from .kernel_files import read_kernel_file

# At once: later, the search path may lead to another module of that name in the current folder.
try:
    import resource as _resource
except ImportError:  # not a POSIX system
    resource: Any = None
else:
    resource = _resource

# From here on a number means "no limit": cgroup v1 writes one near 2**63, and `available` returns one
# where nothing tells.
UNLIMITED = 1 << 60
_UNKNOWN = 1 << 62


def _read(path: str) -> str | None:
    try:
        return read_kernel_file(path)
    except OSError:
        return None


def _read_int(path: str) -> int | None:
    text = _read(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _cgroup_folders(controller: str) -> Iterator[tuple[int, str]]:
    """``version, folder`` of this process's cgroups for a controller, innermost first."""
    for line in (_read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, root = 2, "/sys/fs/cgroup"
            if not os.path.exists(root + "/cgroup.controllers"):
                continue
        elif controller in controllers.split(","):
            version, root = 1, f"/sys/fs/cgroup/{controllers}"
            if not os.path.isdir(root):
                root = f"/sys/fs/cgroup/{controller}"
        else:
            continue
        # Inside a container the path may name the host's tree: then only the root is visible.
        while True:
            if os.path.isdir(root + path):
                yield version, root + path
            if path in ("/", ""):
                break
            path = os.path.dirname(path)


def cgroup_headroom() -> int | None:
    """Bytes this process's memory cgroups still allow, ``None`` if nothing limits them."""
    least = None
    for version, folder in _cgroup_folders("memory"):
        if version == 2:
            limit = _read_int(folder + "/memory.max")
            usage = _read_int(folder + "/memory.current")
            cache = "inactive_file "
        else:
            limit = _read_int(folder + "/memory.limit_in_bytes")
            usage = _read_int(folder + "/memory.usage_in_bytes")
            cache = "total_inactive_file "
        if limit is None or usage is None or limit >= UNLIMITED:
            continue
        # Page cache that is not in use is given up before any process is killed.
        for line in (_read(folder + "/memory.stat") or "").splitlines():
            if line.startswith(cache):
                usage -= int(line.split()[1])
        headroom = max(0, limit - usage)
        least = headroom if least is None else min(least, headroom)
    return least


def available() -> tuple[int, str]:
    """Bytes that may be allocated without any process being killed, and what sets that limit.

    `UNLIMITED` or more where nothing tells.
    """
    free, where = _UNKNOWN, "physical memory"
    fields = dict(
        line.split(":", 1) for line in (_read("/proc/meminfo") or "").splitlines() if ":" in line
    )
    if "MemAvailable" in fields:
        free = sum(int(fields.get(k, "0 kB").split()[0]) for k in ("MemAvailable", "SwapFree"))
        free *= 1024
    headroom = cgroup_headroom()
    if headroom is not None and headroom < free:
        free, where = headroom, "the memory cgroup"
    return free, where


def address_space() -> int | None:
    """Bytes that this process may still map, ``None`` if nothing limits them."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    pages = (_read("/proc/self/statm") or "").split()
    return max(0, limit - int(pages[0]) * resource.getpagesize()) if pages else None


def file_size_limit() -> int | None:
    """Bytes that a file of this process may have, shared memory included; ``None`` if nothing limits them."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


# Reading the quota takes several files; it is asked on the path of every call, and seldom changes.
_QUOTA_S = 1.0
_quota: tuple[float, float] = (-1.0, 0.0)  # valid until, cores


def usable_cores() -> int:
    """Cores this process may use: the affinity mask and the cgroup's CPU quota, at least 1."""
    global _quota
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on macOS
        cores = os.cpu_count() or 1
    now = time.monotonic()
    if now > _quota[0]:
        _quota = (now + _QUOTA_S, _quota_cores())
    return max(1, min(cores, math.ceil(_quota[1])))


def _quota_cores() -> float:
    """Cores that the CPU quota of the cgroups amounts to."""
    cores = math.inf
    for version, folder in _cgroup_folders("cpu"):
        if version == 2:
            quota_text, _, period_text = (_read(folder + "/cpu.max") or "max 1").partition(" ")
            quota = -1 if quota_text == "max" else int(quota_text)
            period = int(period_text)
        else:
            quota = _read_int(folder + "/cpu.cfs_quota_us") or -1
            period = _read_int(folder + "/cpu.cfs_period_us") or 100_000
        if quota > 0:
            cores = min(cores, quota / period)
    return cores if cores < math.inf else 1 << 20
