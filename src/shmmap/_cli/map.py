"""``shmmap map``: apply a function to every item, or chunk, of IN, and write OUT.

What must hold:

- IN and OUT are memory-mapped, so neither has to fit into memory. OUT appears when it is complete (`output`).
- FUNC is tried on the first piece of IN in a process of its own, also where the map runs in this one: a
  function that ends its process is an error as others are, and leaves nothing behind.
- The current folder is searched last, and only for a FUNC that is nowhere else: what others have put there
  under the name of a library is not run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import shmmap

from .._errors.arguments import parse_nbytes
from .._interop.numpy_types import Array, DType
from .._system import limits
from .._wire import RANKS_MAX
from .errors import Refused, Unfit, describe
from .output import Output
from .results import Fitting, as_result, check_length

PROBE_NBYTES = 1 << 20
"""Bytes of the first piece of IN that tells OUT's shape and dtype with ``--by chunk``."""

PROBE_LEN = 64
"""At most this many items in it. Fewer starve functions that need neighbours; more take longer."""

OTHER_FORMATS = frozenset(
    ".bin .csv .dat .fits .gz .h5 .hdf5 .jpg .json .mat .nc .npz .parquet .pkl .png .tif .tiff .tsv .txt "
    ".zarr .zip".split()
)
"""Endings of names by which others would take OUT for what it is not."""


def configure(command: argparse.ArgumentParser) -> None:
    command.description = "Apply FUNC to every item (or chunk) of IN along an axis, and write OUT."
    command.epilog = (
        "FUNC is called once more on the first item, to learn the shape and dtype of OUT. "
        "OUT appears under its name only when it is complete."
    )
    command.add_argument(
        "func",
        metavar="FUNC",
        help="package.module:function, or a dotted path such as numpy.linalg.norm; "
        "a module that is not installed may lie in the current directory",
    )
    command.add_argument("source", metavar="IN", help="a .npy file; may be larger than memory")
    command.add_argument("target", metavar="OUT", help="the .npy file to write")
    command.add_argument(
        "--by",
        choices=("item", "chunk"),
        default="item",
        help="what FUNC gets: one item along the axis, or a block of many, vectorised "
        "(default: item)",
    )
    command.add_argument("--axis", type=int, default=0, help="the axis of IN to split (default: 0)")
    command.add_argument(
        "--workers",
        type=parse_workers,
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
        type=parse_chunksize,
        default="auto",
        help='items per chunk: a number, a byte size such as 8MiB, or "auto" (default)',
    )
    command.add_argument(
        "--dtype", help="dtype of OUT (default: what FUNC gives for the first item)"
    )
    command.add_argument("--no-progress", action="store_true", help="no progress bar on a terminal")
    command.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    for name, path in (("IN", args.source), ("OUT", args.target)):
        if path == "-":
            raise Refused(
                f"{name} must be a file, which can be memory-mapped; a file named - is ./-"
            )
    if os.path.splitext(args.target)[1].lower() in OTHER_FORMATS:
        raise Refused(
            f"cannot write {args.target}: OUT is an .npy file, and this name says otherwise"
        )
    with Output(args.target, source=args.source) as output:
        func = import_function(args.func)
        source = open_source(args.source)
        if not -source.ndim <= args.axis < source.ndim:
            raise Refused(f"--axis {args.axis} is out of range: {args.source} has {axes(source)}")
        axis = args.axis % source.ndim
        dtype = None if args.dtype is None else parse_dtype(args.dtype)
        verb: Callable[..., Any] = shmmap.pmap
        if args.by == "chunk":
            verb = shmmap.pmap_chunks

        shape, found = probe(verb, func, source, axis, args.chunksize, args.engine)
        length = source.shape[axis]
        if dtype is not None and length and not np.can_cast(found, dtype, "same_kind"):
            raise Refused(f"--dtype {args.dtype} cannot hold what FUNC returns, which is {found}")
        func = Fitting(
            func,
            found if dtype is None else dtype,
            is_given=dtype is not None,
            shape=shape,
            axis=None if args.by == "item" else axis,
        )
        along = 0 if args.by == "item" or not length else axis
        out = output.allocate((*shape[:along], length, *shape[along:]), func.dtype)

        options: dict[str, Any] = {
            "engine": args.engine,
            "workers": args.workers,
            "progress": args.func if sys.stderr.isatty() and not args.no_progress else False,
        }
        began = time.perf_counter()
        verb(func, source, axis=axis, out=out, chunksize=args.chunksize, **options)
        output.commit()
        seconds = time.perf_counter() - began

        print(f"{args.target}: {summarize(out, options)}")
        what = f"{source.shape[axis]:,} items along axis {axis} of {args.source}"
        workers = args.workers if args.workers > 0 else limits.usable_cores()
        where = "serial" if args.engine == "serial" else f"{args.engine}, workers={workers}"
        print(f"{what} in {seconds:.3g} s ({where})")


def import_function(name: str) -> Callable[..., Any]:
    """Import what `name` names: ``package.module:function``, or a dotted path."""
    if not all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")):
        raise Refused(f"FUNC is package.module:function or a dotted path, not {name!r}")
    module_name, colon, path = name.partition(":")
    look_here_for(module_name.partition(".")[0])
    try:
        module: Any = None
        while module is None:
            try:
                module = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                # Without a colon, the last names may be attributes. But a module that is there
                # and imports one that is not is an error of its own.
                parent, _, last = module_name.rpartition(".")
                if colon or not parent or not f"{module_name}.".startswith(f"{error.name}."):
                    raise
                module_name, path = parent, f"{last}.{path}" if path else last
    except (Exception, SystemExit) as error:
        raise Refused(f"cannot import {name}: {describe(error)}") from error
    func = module
    for attribute in filter(None, path.split(".")):
        try:
            func = getattr(func, attribute)
        except AttributeError:
            raise Refused(f"cannot import {name}: {module_name} has no {path!r}") from None
    if not callable(func):
        raise Refused(f"{name} is not callable: it is of type {type(func).__name__}")
    return func  # type: ignore[no-any-return]


def look_here_for(module_name: str) -> None:
    """Have the current folder searched, after everything else, if a module is not found without it."""
    if sys.flags.safe_path:
        return
    try:
        is_found = importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        is_found = False
    if not is_found:
        sys.path.append(os.getcwd())


def open_source(path: str) -> Array:
    """Memory-map IN."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Refused(f"{path} is not a regular file")
        with open(path, "rb") as file:
            magic = file.read(len(np.lib.format.MAGIC_PREFIX))
        if magic != np.lib.format.MAGIC_PREFIX:
            hint = ": an .npz or another archive?" if magic.startswith(b"PK") else ""
            raise Refused(f"{path} is not an .npy file{hint}")
        source = shmmap.load(path, mmap_mode="r")
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, EOFError) as error:
        raise Refused(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if source.ndim == 0:
        raise Refused(f"{path} holds a single value: there is no axis to map over")
    return source


def parse_workers(text: str) -> int:
    try:
        workers = int(text)
    except ValueError:
        workers = 0
    if workers < 1 and workers != -1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number above 0 nor -1 for all cores"
        )
    if workers > RANKS_MAX:
        raise argparse.ArgumentTypeError(f"{text} are too many: at most {RANKS_MAX}")
    return workers


def parse_chunksize(text: str) -> int | str:
    """Read what was given as ``--chunksize``: items as a number, a size in bytes, or ``"auto"``."""
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    if text != "auto" and (text.lstrip("+-").isdigit() or not parse_nbytes(text)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of items above 0, no size in bytes such as 8MiB, and not auto"
        )
    return text


def parse_dtype(text: str) -> DType:
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError) as error:
        raise Refused(f"--dtype {text} is not a dtype NumPy knows") from error
    if dtype.hasobject:
        raise Refused(f"--dtype {text}: Python objects cannot be memory-mapped")
    return dtype


def axes(array: Array) -> str:
    """Say how many axes `array` has."""
    return f"{array.ndim} axes, shape {array.shape}" if array.ndim > 1 else f"shape {array.shape}"


def probe(
    verb: Callable[..., Any],
    func: Callable[..., object],
    source: Array,
    axis: int,
    chunksize: int | str,
    engine: str,
) -> tuple[tuple[int, ...], DType]:
    """Learn from the first piece of IN what FUNC gives: its shape, without the axis mapped, and dtype.

    By the same verb as the map, in a worker: a function that ends its process is then an error as others are.
    """
    length = source.shape[axis]
    if not length:
        return (), np.dtype(float)
    piece = 1
    if verb is shmmap.pmap_chunks:
        item_nbytes = max(1, source.nbytes // length)
        piece = min(PROBE_LEN, max(1, PROBE_NBYTES // item_nbytes), length)
        if isinstance(chunksize, int):
            piece = min(chunksize, length)
    first = source[(slice(None),) * axis + (slice(0, piece),)]
    options: dict[str, object] = {"axis": axis, "out": list, "chunksize": piece, "workers": 1}
    try:
        where = engine if engine == "fork" else "processes"
        results = verb(func, first, engine=where, **options)
    except (TypeError, OSError):
        if engine in ("processes", "fork"):
            raise
        # It does not pickle, or no process is to be had; or the error is FUNC's own, and comes again.
        results = verb(func, first, engine=engine, **options)
    try:
        a = as_result(results[0])
        if a.dtype.hasobject:
            raise Unfit(f"FUNC returns a {type(results[0]).__name__}, but OUT holds numbers")
        shape = a.shape
        if verb is shmmap.pmap_chunks:
            check_length(a, axis, piece)
            shape = (*shape[:axis], *shape[axis + 1 :])
    except Unfit as error:
        raise Refused(str(error)) from None
    return shape, np.result_type(a.dtype, a.dtype)  # in the byte order of the machine


def summarize(array: Array, options: dict[str, Any]) -> str:
    """Shape and dtype of an array, and its range and mean if it holds real numbers.

    One that is larger than memory would have to be read from the disk for that, and is not.
    """
    text = f"shape {array.shape}, {array.dtype}"
    if array.size and array.dtype.kind in "biuf" and array.nbytes <= limits.available()[0]:
        low, high, total, count = shmmap.preduce(
            measure, array.reshape(-1), combine=combine, **{**options, "progress": False}
        )
        if count:
            text += f", min {low:.6g}, mean {total / count:.6g}, max {high:.6g}"
        if nans := array.size - int(count):
            text += f", {nans:,} NaN"
    return text


def measure(chunk: Array) -> Array:
    """Minimum, maximum, sum and number of the values that are not NaN."""
    values = chunk[~np.isnan(chunk)] if chunk.dtype.kind == "f" else chunk
    if not values.size:
        return np.array([np.inf, -np.inf, 0.0, 0.0])
    return np.array([values.min(), values.max(), values.sum(dtype=np.float64), values.size], float)


def combine(a: Array, b: Array) -> Array:
    """Put two partial results of `measure` together."""
    return np.array([min(a[0], b[0]), max(a[1], b[1]), a[2] + b[2], a[3] + b[3]])
