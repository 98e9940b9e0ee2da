"""What the kernel tells by files, under ``/proc`` and ``/sys``.

Such files hold names that others have chosen: the title of a process, the path of a mapped file. They are
bytes of any kind, so they are decoded as file names are, which fails for none.
"""

from __future__ import annotations

import os


def read_kernel_file(path: str) -> str:
    """All of a file of the kernel's, as `os.fsdecode` decodes it.

    Raises OSError if there is no such file, or it may not be read.
    """
    # Without `open`, whose buffer takes longer than the file: a leak guard reads hundreds.
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.fsdecode(b"".join(iter(lambda: os.read(fd, 1 << 16), b"")))
    finally:
        os.close(fd)


def start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot; with its pid, its identity.

    Raises OSError if there is no such process.
    """
    # The name of the program stands in parentheses and may hold anything, parentheses included.
    return read_kernel_file(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[19]
