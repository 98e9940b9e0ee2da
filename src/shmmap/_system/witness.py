"""What a leak guard is told: which names this process makes, in programs that a guard has marked.

A guard marks its children by an environment variable (`MARK`). Every marked process that imports this
library reports the names it makes in shared memory and in temporary folders, and the programs it starts,
to the guard's log. The log is a memory file of the guard's process, which every process of the same user
can open below ``/proc``, and which ends with the guard. Nothing here runs in a program without the mark.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from .forks import at_fork

MARK = "SHMMAP_LEAK_GUARD"
"""Environment variable that names the guards of a process: ``<pid>-<descriptor of log>-<tag>:...``."""

NAME_PREFIXES = ("shmmap", "psm_", "sem.", "pymp-")
"""Names that this library, or the parts of `multiprocessing` it might use, would leave behind."""

_PROGRAMS = ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system")

_tokens: list[str] = []
"""The guards that this process reports to."""


def is_watched() -> bool:
    """Whether a guard looks at what this process leaves behind."""
    return MARK in os.environ


def mark_children() -> str:
    """Have this process, and every process that it starts from now on, report to it; return the token."""
    mine = f"{os.getpid()}-"
    tokens = list(filter(None, os.environ.get(MARK, "").split(":")))
    for token in tokens:
        if token.startswith(mine):
            return token
    name = os.urandom(6).hex()
    token = f"{mine}{os.memfd_create(_log_name(name), os.MFD_CLOEXEC)}-{name}"
    os.environ[MARK] = ":".join([*tokens, token])
    start_witness()
    return token


def start_witness() -> None:
    """Report from now on to the guards that the environment names."""
    if not _tokens:
        sys.addaudithook(_look)
        at_fork(after_in_child=_tell_pid)
    named = os.environ.get(MARK, "").split(":")
    _tokens.extend(token for token in named if token and token not in _tokens)
    _tag_semaphores()
    _tell("hello")
    _tell_pid()


def tag() -> str:
    """What the names that this library makes end with, so that a guard knows them: nothing without one."""
    return "".join(f"-{token.rpartition('-')[2]}" for token in _tokens)


def _tag_semaphores() -> None:
    """Have the names of `multiprocessing`'s semaphores begin with the tag.

    They are made by C code that tells no audit hook. The prefix is a setting of the process that its
    children by `multiprocessing` take over, with every method of starting them. A process that has
    not imported `multiprocessing` has no such setting yet.
    """
    process = sys.modules.get("multiprocessing.process")
    if process is None:
        return
    config = getattr(process.current_process(), "_config", {})
    prefix = config.get("semprefix", "/mp")
    config["semprefix"] = "/mp" + tag() if prefix.startswith("/mp") else prefix


def _look(event: str, args: tuple[Any, ...]) -> None:
    """The audit hook: it must not raise, or it would forbid what it looks at."""
    if event == "open":
        if isinstance(args[2], int) and args[2] & os.O_CREAT:
            _tell_name(args[0])
    elif event == "os.mkdir":
        _tell_name(args[0])
    elif event == "os.truncate":
        # `SharedMemory` makes its name in C code, which calls no audit hook, and sets its size here.
        try:
            path = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else ""
        except OSError:
            return
        if "/psm_" in path:
            _tell_name(path)
    elif event == "import":
        if args[0] == "multiprocessing.synchronize":
            _tag_semaphores()
    elif event in _PROGRAMS:
        if event == "os.posix_spawn" and sys._getframe(1).f_globals["__name__"] == "subprocess":
            return  # told already
        # The environment comes last, or is the own one. A program without the mark is not looked at.
        environment = args[-1] if event != "os.system" else None
        if environment is None or MARK in environment or MARK.encode() in environment:
            _tell("program")


def _tell_pid() -> None:
    """Tell who this is: loky renames semaphores, after the process that makes them."""
    _tell(f"pid {os.getpid()}")


def _tell_name(path: Any) -> None:
    try:
        path = os.fsdecode(path)
    except TypeError:  # a descriptor
        return
    if os.path.basename(path).startswith(NAME_PREFIXES):
        _tell(f"name {os.path.abspath(path)}")


def _tell(line: str) -> None:
    """Write a line into the logs of the guards that are still there."""
    for token in _tokens:
        pid, number, name = token.split("-")
        path = f"/proc/{pid}/fd/{number}"
        try:
            # Or it would be a file of another process, which has got the guard's number since.
            if _log_name(name) in os.readlink(path):
                fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
                try:
                    os.write(fd, os.fsencode(line) + b"\n")
                finally:
                    os.close(fd)
        except OSError:
            pass  # that guard has ended, or is another user's


def _log_name(name: str) -> str:
    return f"shmmap-leak-guard-{name}"
