"""What `map` and `reduce` have in common: how a map is run, and what is said of it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

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


def ran_text(length: int, axis: int, args: argparse.Namespace, seconds: float) -> str:
    """What was done, and how fast."""
    what = f"{length:,} items along axis {axis} of {args.source}"
    workers = args.workers if args.workers > 0 else limits.usable_cores()
    where = "serial" if args.engine == "serial" else f"{args.engine}, workers={workers}"
    return f"{what} in {seconds:.3g} s ({where})"
