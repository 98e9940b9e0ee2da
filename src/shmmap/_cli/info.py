"""``shmmap info``: what the library finds on this machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator

import shmmap

from .._memory import SHM_FOLDER, SHMEM_ENABLED, kernel_setting, mount_setting, shm_room
from .._system import limits


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options of the command: it has none."""
    command.set_defaults(run=run, traceback=False)


def run(args: argparse.Namespace) -> None:
    for name, text in facts():
        print(f"{name:<18}{text}")


def facts() -> Iterator[tuple[str, str]]:
    """Tell what the library finds on this machine, as pairs of a name and a text."""
    yield "cores usable", f"{limits.usable_cores()} of {os.cpu_count()}"
    if room := shm_room():
        yield "shared memory", f"{gib(room[0])} free of {gib(room[1])} in {SHM_FOLDER}"
    nbytes, where = limits.available()
    yield "memory", f"{gib(nbytes)} available in {where}"
    headroom = limits.cgroup_headroom()
    yield "memory cgroup", "no limit" if headroom is None else f"{gib(headroom)} below its limit"
    yield "huge pages", describe_huge_pages()
    yield "start method", "clean: workers are forked from a fresh process, not from the caller"
    names = ("numpy", "cloudpickle", "threadpoolctl", "tqdm")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    yield "versions", f"shmmap {shmmap.__version__}, Python {platform.python_version()}, {versions}"
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"


def describe_huge_pages() -> str:
    """Say whether shared arrays can have huge pages, and how to switch them on."""
    setting, mount = kernel_setting(), mount_setting()
    if not setting:
        return "unknown"
    if setting in ("deny", "force"):  # overrides every mount
        return f"{setting} ({SHMEM_ENABLED})"
    text = f"{mount} in {SHM_FOLDER}, {setting} elsewhere ({SHMEM_ENABLED})"
    if mount == "never":
        text += f"; as root, mount -o remount,huge=advise {SHM_FOLDER} switches them on"
    return text


def gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB"
