"""What ends a command, and the line that says so."""

from __future__ import annotations

import os
import signal

import shmmap


class Refused(Exception):
    """The command cannot be carried out as given; the text says why, in one line."""


class Incomplete(Exception):
    """The command has done what it could, and some of it has failed; the text says what."""


class Unfit(Exception):
    """A result that has no place in OUT; the text says why."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP, on its way up the stack."""

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__(signum)
        self.signum = signum


def kept_text(checkpoint: str | None) -> str:
    """What is said of a run that did not come to its end, if what it has done is kept."""
    if checkpoint is None or not os.path.exists(os.path.join(checkpoint, "ledger")):
        return ""
    return f"; what is done is kept in {checkpoint}, and the same command goes on"


def describe(error: BaseException) -> str:
    """One line for an exception: its type, its text, and where it happened if that is noted."""
    text = " ".join(str(error).split())
    if isinstance(error, shmmap.WorkerDied):
        text = text.partition(". ")[0]  # then of what was written, which is discarded here
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, (Unfit, Incomplete)):
        line = text
    notes = [note.strip() for note in getattr(error, "__notes__", ()) if note.strip()]
    return f"{line} ({notes[0].splitlines()[0]})" if notes else line
