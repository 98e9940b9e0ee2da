"""``shmmap map``: apply a function to every item, or chunk, of IN, and write OUT.

What must hold:

- Neither IN nor OUT has to fit into memory. OUT appears when it is complete (`output`).
- FUNC is tried on the first piece of IN in a process of its own, also where the map runs in this one: a
  function that ends its process is an error as others are, and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import shmmap

from .._errors.exceptions import describe_ranges
from .._interop.numpy_types import DType
from .errors import Incomplete, Refused, describe
from .function import bind_parameters, import_function
from .output import NpyFile, Output, Outputs
from .results import Fitting, Form, forms_of
from .running import check_axis, check_workers, ran_text, run_options
from .sources import HDF5_ENDINGS, is_zarr, nbytes_of, open_source
from .stored_outputs import make_stored_output
from .summary import summarize

PROBE_NBYTES = 1 << 20
"""Bytes of the first piece of IN that tells OUT's shape and dtype with ``--by chunk``."""

PROBE_LEN = 64
"""At most this many items in it. Fewer starve functions that need neighbours; more take longer."""

PROBES_MOST = 10
"""With ``--on-error continue``, so many items are tried until one does not fail."""

OTHER_FORMATS = frozenset(
    ".bin .csv .dat .fits .gz .jpg .json .mat .npz .parquet .pkl .png .tif .tiff .tsv .txt .zip".split()
)
"""Endings of names by which others would take OUT for what it is not."""

# Of IN and OUT together, this is stored as one where OUT is stored in chunks and IN is not; and there are to
# be so many of them at least, as workers share them out.
_STORED_NBYTES, _STORED_LEAST = 1 << 24, 64


def run(args: argparse.Namespace) -> None:
    check_workers(args.workers)
    if args.source == "-":
        raise Refused("IN must be a file, which can be memory-mapped; a file named - is ./-")
    outputs = [make_output(target, args.source) for target in args.targets]
    _check_targets(args.targets)
    with Outputs(outputs) as writing:
        func = import_function(args.func)
        func = bind_parameters(func, args.func, args.param, takes_rng=args.rng is not None)
        source = open_source(args.source)
        axis = check_axis(args.axis, args.source, source)
        dtype = None if args.dtype is None else parse_dtype(args.dtype)
        verb: Callable[..., Any] = shmmap.pmap
        if args.by == "chunk":
            verb = shmmap.pmap_chunks
        length = source.shape[axis]

        forms = probe(verb, func, source, axis, len(outputs), args)
        if dtype is not None:
            for _, found in forms:
                if length and not np.can_cast(found, dtype, "same_kind"):
                    raise Refused(
                        f"--dtype {args.dtype} cannot hold what FUNC returns, which is {found}"
                    )
            forms = [(shape, dtype) for shape, _ in forms]
        func = Fitting(
            func,
            forms,
            is_given=dtype is not None,
            axis=None if args.by == "item" else axis,
        )
        along = 0 if args.by == "item" or not length else axis
        outs = [
            each.allocate(
                (*shape[:along], length, *shape[along:]),
                found,
                along,
                stored_rows(source, axis, shape, found),
            )
            for each, (shape, found) in zip(outputs, forms, strict=True)
        ]
        options = run_options(args)
        began = time.perf_counter()
        out = outs[0] if len(outs) == 1 else tuple(outs)
        more = {} if args.rng is None else {"rng": args.rng}
        failure: shmmap.MapError | None = None
        try:
            verb(
                func, source, axis=axis, out=out, chunksize=args.chunksize,
                on_error=args.on_error, **options, **more,
            )  # fmt: skip
        except shmmap.MapError as error:
            failure = error
            for each in outs:
                mark_missing(each, along, error.failed)
        said = [
            f"{each.name}: {summarize(a, options)}" for each, a in zip(outputs, outs, strict=True)
        ]
        del out, outs
        writing.commit()
        if not args.quiet:
            print("\n".join(said))
            print(ran_text(length, axis, args, time.perf_counter() - began))
        if failure is not None:
            raise Incomplete(explain_failures(failure, length))


def make_output(target: str, source: str) -> Output:
    """The OUT that a name means."""
    if target == "-":
        raise Refused("OUT must be a file, which can be memory-mapped; a file named - is ./-")
    stored = make_stored_output(target, source)
    if stored is not None:
        return stored
    ending = os.path.splitext(target)[1].lower()
    if ending in HDF5_ENDINGS:
        raise Refused(
            f"cannot write {target}: an HDF5 dataset is named as {target}::dataset, and an .npy file "
            "otherwise"
        )
    if ending in OTHER_FORMATS:
        raise Refused(
            f"cannot write {target}: OUT is an .npy file, a zarr array or file.h5::dataset, and this name "
            "says otherwise"
        )
    return NpyFile(target, source)


def _check_targets(targets: list[str]) -> None:
    places = [os.path.realpath(target) for target in targets]
    for place, target in zip(places, targets, strict=True):
        if places.count(place) > 1:
            raise Refused(f"OUT {target} is named twice")
    files = [place.partition("::")[0] for place in places if "::" in place]
    if len(files) > len(set(files)):
        raise Refused("of one HDF5 file, only one dataset can be OUT")
    kinds = {"hdf5" if "::" in target else is_zarr(target) for target in targets}
    if len(kinds) > 1:
        raise Refused("several OUT are all .npy files, all zarr arrays or all HDF5 datasets")


def stored_rows(source: Any, axis: int, shape: tuple[int, ...], dtype: DType) -> int:
    """How many items of OUT are to be stored as one: those that IN stores as one, or a few of many."""
    length = max(1, source.shape[axis])
    stored = getattr(source, "chunks", None)
    if stored is not None and stored[axis] < length:
        return int(stored[axis])
    item_nbytes = nbytes_of(source) // length + int(dtype.itemsize) * math.prod(shape)
    return int(max(1, min(-(-length // _STORED_LEAST), _STORED_NBYTES // max(1, item_nbytes))))


def parse_dtype(text: str) -> DType:
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError) as error:
        raise Refused(f"--dtype {text} is not a dtype NumPy knows") from error
    if dtype.hasobject:
        raise Refused(f"--dtype {text}: Python objects cannot be memory-mapped")
    return dtype


def probe(
    verb: Callable[..., Any],
    func: Callable[..., object],
    source: Any,
    axis: int,
    outs: int,
    args: argparse.Namespace,
) -> list[Form]:
    """Learn from the first piece of IN what FUNC gives: its shape, without the axis mapped, and dtype.

    By the same verb as the map, in a worker: a function that ends its process is then an error as others are.
    """
    length = source.shape[axis]
    if not length:
        return [((), np.dtype(float))] * outs
    piece = 1
    if verb is shmmap.pmap_chunks:
        item_nbytes = max(1, nbytes_of(source) // length)
        piece = min(PROBE_LEN, max(1, PROBE_NBYTES // item_nbytes), length)
        if isinstance(args.chunksize, int):
            piece = min(args.chunksize, length)
    failure: Exception | None = None
    for start in first_items(length if args.on_error == "continue" else 1, piece):
        try:
            result = _try(verb, func, source, axis, start, piece, args)
        except Exception as error:
            failure = failure or error
            continue
        block_axis = axis if verb is shmmap.pmap_chunks else None
        return forms_of(result, outs, block_axis, min(piece, length - start))
    assert failure is not None
    raise failure


def first_items(length: int, piece: int) -> Iterator[int]:
    """Where pieces begin that are tried one after the other, until one does not fail."""
    yield 0
    tried = 1
    while tried < PROBES_MOST and (start := piece * ((1 << tried) - 1)) < length:
        yield start
        tried += 1


def _try(
    verb: Callable[..., Any],
    func: Callable[..., object],
    source: Any,
    axis: int,
    start: int,
    piece: int,
    args: argparse.Namespace,
) -> object:
    first = source[(slice(None),) * axis + (slice(start, start + piece),)]
    options: dict[str, Any] = {"axis": axis, "out": list, "chunksize": piece, "workers": 1}
    if args.rng is not None:
        options["rng"] = args.rng
    try:
        where = args.engine if args.engine == "fork" else "processes"
        results = verb(func, first, engine=where, **options)
    except (TypeError, OSError):
        if args.engine in ("processes", "fork"):
            raise
        # It does not pickle, or no process is to be had; or the error is FUNC's own, and comes again.
        results = verb(func, first, engine=args.engine, **options)
    result: object = results[0]
    return result


def mark_missing(out: Any, along: int, failed: Sequence[tuple[int, int]]) -> None:
    """Make what failed NaN, or NaT, where there is such a value; else it is 0 as it was."""
    dtype = np.dtype(out.dtype)
    if dtype.kind in "fc":
        value: object = np.nan
    elif dtype.kind in "mM":
        value = np.array("NaT", dtype)
    else:
        return
    for start, stop in failed:
        out[(slice(None),) * along + (slice(start, stop),)] = value


def explain_failures(failure: shmmap.MapError, length: int) -> str:
    """What failed of a map that went on: which items, and why the first of them did."""
    count = sum(stop - start for start, stop in failure.failed)
    what = "is" if count == 1 else "are"
    text = f"{count:,} of {length:,} items failed and {what} NaN, or 0 if there is none, in OUT"
    text += f": {describe_ranges(failure.failed)}"
    return f"{text}; the first by {describe(failure.exceptions[0])}"
