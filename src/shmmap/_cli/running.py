"""What `map` and `reduce` have in common: how a map is run, and what is said of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import shmmap

from .._system import limits
from .._wire import RANKS_MAX
from .errors import Refused


def check_workers(workers: int) -> None:
    """Refuse more workers than a team can have."""
    if workers > RANKS_MAX:
        raise Refused(f"--workers: {workers} are too many: at most {RANKS_MAX}")


def check_axis(axis: int, path: str, source: Any) -> int:
    """The axis, counted from the first."""
    dimensions = len(source.shape)
    if not -dimensions <= axis < dimensions:
        raise Refused(f"--axis {axis} is out of range: {path} has {axes(source)}")
    return axis % dimensions


def axes(source: Any) -> str:
    """Say how many axes an array has."""
    shape = tuple(source.shape)
    return f"{len(shape)} axes, shape {shape}" if len(shape) > 1 else f"shape {shape}"


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of a verb that cannot change its result."""
    is_shown = sys.stderr.isatty() and not args.quiet and not getattr(args, "no_progress", False)
    return {
        "engine": args.engine,
        "workers": args.workers,
        "progress": args.func if is_shown else False,
    }


def check_report(path: str | None) -> None:
    """Refuse a report that could not be written, before anything is run."""
    if path is None:
        return
    if os.path.splitext(path)[1].lower() not in (".html", ".json"):
        raise Refused(f"--report {path}: a report is a page, run.html, or a Chrome trace, run.json")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise Refused(f"--report {path}: there is no folder {folder}")
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise Refused(f"--report {path} cannot be written")


@contextmanager
def reported(path: str | None) -> Iterator[None]:
    """Write a report of the map inside, also if that fails."""
    if path is None:
        yield
        return
    # A page shows where in its code the function was.
    with shmmap.profile(stacks=path.lower().endswith(".html")) as report:
        try:
            yield
        finally:
            report.save(path)


@contextmanager
def refused(checkpoint: str | None) -> Iterator[None]:
    """Have a folder that the library refuses as ``checkpoint=`` refused in words of the command line."""
    try:
        yield
    except (shmmap.CheckpointMismatch, OSError) as error:
        text = " ".join(str(error).split())
        is_meant = isinstance(error, shmmap.CheckpointMismatch) or text.startswith("checkpoint=")
        if checkpoint is None or not is_meant:
            raise
        text = text.removeprefix(f"checkpoint={checkpoint!r}")
        text = text.replace(', or Checkpoint(folder, if_changed="restart")', ", or remove it")
        separator = "" if text[:1] in " :" else ": "
        raise Refused(f"--checkpoint {checkpoint}{separator}{text}") from None


def ran_text(length: int, axis: int, args: argparse.Namespace, seconds: float) -> str:
    """What was done, and how fast."""
    what = f"{length:,} items along axis {axis} of {args.source}"
    workers = args.workers if args.workers > 0 else limits.usable_cores()
    where = "serial" if args.engine == "serial" else f"{args.engine}, workers={workers}"
    return f"{what} in {seconds:.3g} s ({where})"
