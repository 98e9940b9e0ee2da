"""The commands and their options, in the words of ``--help``.

What must hold: nothing here imports NumPy, so that ``--help`` is there at once.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

Parser = argparse.ArgumentParser


def _map(command: Parser) -> None:
    command.description = "Apply FUNC to every item (or chunk) of IN along an axis, and write OUT."
    command.epilog = (
        "FUNC is called once more on the first item, to learn the shape and dtype of OUT. "
        "OUT appears under its name only when it is complete."
    )
    _add_func_and_source(command)
    command.add_argument(
        "targets",
        metavar="OUT",
        nargs="+",
        help="the .npy file, zarr array or file.h5::dataset to write; several for a tuple",
    )
    command.add_argument(
        "--by",
        choices=("item", "chunk"),
        default="item",
        help="what FUNC gets: one item along the axis, or a block of many, vectorised "
        "(default: item)",
    )
    _add_how_it_runs(command)
    command.add_argument(
        "--rng",
        type=_seed,
        metavar="SEED",
        help="FUNC gets a random generator of its own for each item, as its parameter rng",
    )
    command.add_argument(
        "--on-error",
        choices=("raise", "continue"),
        default="raise",
        help="stop at the first item that fails, or finish the others and write OUT with NaN or 0 "
        "for those that failed (default: raise)",
    )
    command.add_argument(
        "--dtype", help="dtype of OUT (default: what FUNC gives for the first item)"
    )
    command.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help="keep there what is done, so that the same command, after a crash or Ctrl-C, does only the rest",
    )
    command.add_argument("--no-progress", action="store_true", help="no progress bar on a terminal")
    _add_how_it_tells(command)


def _reduce(command: Parser) -> None:
    command.description = (
        "Apply FUNC to chunks of IN, and combine what it returns to one result: printed, or saved."
    )
    command.epilog = (
        "How the results of NumPy's own reductions (numpy.sum, numpy.max, numpy.add.reduce, ...) "
        "combine is known; any other FUNC needs --combine."
    )
    _add_func_and_source(command)
    command.add_argument(
        "targets",
        metavar="OUT",
        nargs="*",
        default=[],
        help="an .npy file to save the result to (default: print it); several for a tuple",
    )
    command.add_argument(
        "--combine", metavar="FUNC", help="function of two results that gives one, as operator.add"
    )
    command.add_argument(
        "--initial", metavar="VALUE", help="what the reduction starts from, and is of an empty IN"
    )
    _add_how_it_runs(command)
    _add_how_it_tells(command)


def _info(command: Parser) -> None:
    command.description = "Say what the library finds on this machine."
    command.add_argument("--json", action="store_true", help="as JSON, sizes in bytes")


def _bench(command: Parser) -> None:
    command.description = (
        "Measure on this machine what a call, a chunk, an item, a cold start and placing an array cost, "
        "beside Python's standard pools and joblib, if it is installed. Takes less than a minute."
    )
    command.add_argument(
        "--workers",
        type=_workers,
        default=-1,
        metavar="N",
        help="workers of each (default: all usable cores)",
    )
    command.add_argument("--json", action="store_true", help="as JSON, times in seconds")


def _top(command: Parser) -> None:
    command.description = (
        "Show what the maps of a running program are at: items done, and where each worker is and for "
        "how long. The program has to ask for nothing, and pays nothing. Ctrl-C ends it."
    )
    command.add_argument(
        "pid",
        metavar="PID",
        nargs="?",
        type=_positive_int,
        help="the program (default: all of this user's that have teams)",
    )
    command.add_argument(
        "-n",
        dest="looks",
        type=_positive_int,
        metavar="N",
        help="look so many times (default: until it ends; once, if nobody watches)",
    )
    command.add_argument(
        "-i",
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="between two looks (default: 1)",
    )
    command.add_argument("--json", action="store_true", help="a line of JSON for each look")


COMMANDS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "map": ("apply a function to every item, or chunk, of an array in a file", _map),
    "reduce": (
        "apply a function to chunks of an array in a file, and combine the results",
        _reduce,
    ),
    "info": ("say what this machine offers: cores, shared memory, huge pages, versions", _info),
    "bench": ("measure what a call, a chunk and an item cost here, beside other pools", _bench),
    "top": ("show what the maps of running programs are at", _top),
}
"""The commands, each the name of a file beside this one: what they do, and what adds their options."""


# ------------------------------------------------------------------------------- options in common


def _add_func_and_source(command: Parser) -> None:
    command.add_argument(
        "func",
        metavar="FUNC",
        help="package.module:function, or a dotted path such as numpy.linalg.norm; "
        "a module that is not installed may lie in the current directory",
    )
    command.add_argument(
        "source",
        metavar="IN",
        help="a .npy file, a zarr array or file.h5::dataset; may be larger than memory",
    )


def _add_how_it_runs(command: Parser) -> None:
    command.add_argument("--axis", type=int, default=0, help="the axis of IN to split (default: 0)")
    command.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a further argument of FUNC: a Python literal or plain text; may be given several times",
    )
    command.add_argument(
        "--workers",
        type=_workers,
        default=-1,
        metavar="N",
        help="how many take part (default: all usable cores)",
    )
    command.add_argument(
        "--engine",
        choices=("processes", "fork", "threads", "serial"),
        default="processes",
        help="where FUNC runs (default: processes)",
    )
    command.add_argument(
        "--chunksize",
        type=_chunksize,
        default="auto",
        help='items per chunk: a number, a byte size such as 8MiB, or "auto" (default)',
    )


def _add_how_it_tells(command: Parser) -> None:
    command.add_argument(
        "--report",
        metavar="FILE",
        help="write where the time went: a page, run.html, or a Chrome trace, run.json",
    )
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")
    command.add_argument("--traceback", action="store_true", help="show the traceback of an error")


# ------------------------------------------------------------------------------- their values


def _workers(text: str) -> int:
    try:
        workers = int(text)
    except ValueError:
        workers = 0
    if workers < 1 and workers != -1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number above 0 nor -1 for all cores"
        )
    return workers


def _chunksize(text: str) -> int | str:
    """Items as a number, a size in bytes, or ``"auto"``."""
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    if text == "auto":
        return text
    from .._errors.arguments import parse_nbytes  # which imports NumPy

    if text.lstrip("+-").isdigit() or not parse_nbytes(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of items above 0, no size in bytes such as 8MiB, and not auto"
        )
    return text


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _positive_int(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in seconds above 0")
    return seconds
