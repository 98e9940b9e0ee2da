"""``shmmap info``: what the library finds on this machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from typing import Any

import shmmap

from .._memory import SHM_FOLDER, SHMEM_ENABLED, kernel_setting, mount_setting, shm_room
from .._system import limits

_LIBRARIES = ("numpy", "cloudpickle", "threadpoolctl", "tqdm")


def run(args: argparse.Namespace) -> None:
    facts = find_facts()
    if args.json:
        print(json.dumps(facts, indent=1))
        return
    for name, text in describe(facts):
        print(f"{name:<18}{text}")


def find_facts() -> dict[str, Any]:
    """Find out all there is to say; sizes in bytes, and None for what there is not."""
    room = shm_room()
    available, where = limits.available()
    setting, mount = kernel_setting(), mount_setting()
    return {
        "cores_usable": limits.usable_cores(),
        "cores": os.cpu_count(),
        "shared_memory_free": None if room is None else room[0],
        "shared_memory": None if room is None else room[1],
        "memory_available": available,
        "memory_available_in": where,
        "memory_cgroup_left": limits.cgroup_headroom(),
        "huge_pages": setting or None,
        "huge_pages_in_shared_memory": mount if setting else None,
        "start_method": "clean",
        "shmmap": shmmap.__version__,
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }


def describe(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts in words, as pairs of a name and a text."""
    lines = [("cores usable", f"{facts['cores_usable']} of {facts['cores']}")]
    if facts["shared_memory"] is not None:
        free, total = gib(facts["shared_memory_free"]), gib(facts["shared_memory"])
        lines.append(("shared memory", f"{free} free of {total} in {SHM_FOLDER}"))
    available, where = gib(facts["memory_available"]), facts["memory_available_in"]
    left = facts["memory_cgroup_left"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    return [
        *lines,
        ("memory", f"{available} available in {where}"),
        ("memory cgroup", "no limit" if left is None else f"{gib(left)} below its limit"),
        ("huge pages", _describe_huge_pages(facts)),
        ("start method", "clean: workers are forked from a fresh process, not from the caller"),
        ("versions", f"shmmap {facts['shmmap']}, Python {facts['python']}, {versions}"),
        ("system", facts["system"]),
    ]


def _describe_huge_pages(facts: dict[str, Any]) -> str:
    """Say whether shared arrays can have huge pages, and how to switch them on."""
    setting, mount = facts["huge_pages"], facts["huge_pages_in_shared_memory"]
    if setting is None:
        return "unknown"
    if setting in ("deny", "force"):  # overrides every mount
        return f"{setting} ({SHMEM_ENABLED})"
    text = f"{mount} in {SHM_FOLDER}, {setting} elsewhere ({SHMEM_ENABLED})"
    if mount == "never":
        text += f"; as root, mount -o remount,huge=advise {SHM_FOLDER} switches them on"
    return text


def gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB"
