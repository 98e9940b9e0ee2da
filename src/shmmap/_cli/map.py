"""``shmmap map``: apply a function to every item, or chunk, of IN, and write OUT.

What must hold: neither IN nor OUT has to fit into memory. OUT appears when it is complete (`output`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import shmmap

from .._errors.exceptions import describe_ranges
from .errors import Incomplete, describe
from .function import bind_parameters, import_function
from .output import Output, Outputs
from .probe import find_forms
from .results import Fitting, Form
from .running import (
    check_axis,
    check_report,
    check_workers,
    ran_text,
    refused,
    reported,
    run_options,
)
from .sources import nbytes_of, open_source
from .summary import summarize
from .targets import make_outputs, stored_rows


def run(args: argparse.Namespace) -> None:
    check_workers(args.workers)
    check_report(args.report)
    outputs = make_outputs(args.targets, args.source, args.checkpoint)
    with Outputs(outputs) as writing:
        func = import_function(args.func)
        func = bind_parameters(func, args.func, args.param, takes_rng=args.rng is not None)
        source = open_source(args.source)
        axis = check_axis(args.axis, args.source, source)
        verb: Callable[..., Any] = shmmap.pmap
        if args.by == "chunk":
            verb = shmmap.pmap_chunks

        forms = find_forms(verb, func, source, axis, len(outputs), args)
        block_axis = None if args.by == "item" else axis
        func = Fitting(func, forms, is_given=args.dtype is not None, axis=block_axis)
        along = axis if block_axis is not None and source.shape[axis] else 0
        outs = _allocate(outputs, forms, source, axis, along)
        options = run_options(args)
        more = {} if args.rng is None else {"rng": args.rng}
        # There may be nothing that could be kept.
        kept = args.checkpoint if any(nbytes_of(each) for each in outs) else None
        failure: shmmap.MapError | None = None
        began = time.perf_counter()
        try:
            with reported(args.report), refused(args.checkpoint):
                verb(
                    func, source, axis=axis, out=outs[0] if len(outs) == 1 else tuple(outs),
                    chunksize=args.chunksize, on_error=args.on_error, checkpoint=kept,
                    **options, **more,
                )  # fmt: skip
        except shmmap.MapError as error:
            failure = error
            for each in outs:
                mark_missing(each, along, error.failed)
        seconds = time.perf_counter() - began
        said = zip(args.targets, [summarize(each, options) for each in outs], strict=True)
        del outs
        writing.commit()
        if not args.quiet:
            for name, text in said:
                print(f"{name}: {text}")
            print(ran_text(source.shape[axis], axis, args, seconds))
        if failure is not None:
            raise Incomplete(explain_failures(failure, source.shape[axis]))


def _allocate(
    outputs: Sequence[Output], forms: Sequence[Form], source: Any, axis: int, along: int
) -> list[Any]:
    """An array for each OUT, whose items lie along an axis of its own."""
    length = source.shape[axis]
    return [
        output.allocate(
            (*shape[:along], length, *shape[along:]),
            dtype,
            along,
            stored_rows(source, axis, shape, dtype),
        )
        for output, (shape, dtype) in zip(outputs, forms, strict=True)
    ]


def mark_missing(out: Any, along: int, failed: Sequence[tuple[int, int]]) -> None:
    """Make what failed NaN, or NaT, where there is such a value; else 0."""
    dtype = np.dtype(out.dtype)
    value: object = np.zeros((), dtype)
    if dtype.kind in "fc":
        value = np.nan
    elif dtype.kind in "mM":
        value = np.array("NaT", dtype)
    for start, stop in failed:
        out[(slice(None),) * along + (slice(start, stop),)] = value


def explain_failures(failure: shmmap.MapError, length: int) -> str:
    """What failed of a map that went on: which items, and why the first of them did."""
    count = sum(stop - start for start, stop in failure.failed)
    what = "is" if count == 1 else "are"
    text = f"{count:,} of {length:,} items failed and {what} NaN, or 0 if there is none, in OUT"
    text += f": {describe_ranges(failure.failed)}"
    return f"{text}; the first by {describe(failure.exceptions[0])}"
