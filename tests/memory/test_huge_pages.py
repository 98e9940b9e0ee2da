"""Shared memory gets huge pages wherever the system gives any, also where only advice brings them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from shmmap._memory import nameless

PROGRAM = """
import shmmap

def huge():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("ShmemHugePages:"))

before = huge()
a = shmmap.empty(64 << 20, "u1")
a[...] = 1
print(huge() - before)
"""


@pytest.mark.few(1)
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="takes root")
@pytest.mark.parametrize("setting", ["advise", "within_size", "always"])
def test_they_are_taken_where_the_mount_gives_them(setting: str) -> None:
    mount = f"mount -t tmpfs -o huge={setting} tmpfs /dev/shm"
    try:
        subprocess.run(["unshare", "-m", "sh", "-c", mount], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no mount to be had: {error.stderr.decode().strip()}")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", PROGRAM],
        check=True,
        capture_output=True,
        text=True,
    )
    kib = int(done.stdout)
    assert kib > 0 or _memory_is_in_pieces()
    assert kib % 2048 == 0


def _memory_is_in_pieces() -> bool:
    """Whether the kernel has few huge pages to give: there is nothing to see then."""
    with open("/proc/buddyinfo") as file:
        return sum(int(line.split()[-1]) + int(line.split()[-2]) for line in file) < 64


def test_advice_is_needed_only_where_the_mount_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fd = nameless.open_nameless(1 << 12)
    try:
        for setting, wanted in (("advise", True), ("within_size", False), ("never", False)):
            monkeypatch.setattr(nameless, "_advice", {})
            monkeypatch.setattr(nameless, "mount_setting", lambda setting=setting: setting)
            monkeypatch.setattr(nameless, "kernel_setting", lambda setting=setting: setting)
            assert nameless.wants_advice(fd) is wanted
    finally:
        os.close(fd)
