"""``shmmap reduce``: apply a function to chunks of IN, and combine what it returns; print it, or save it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import shmmap

from .._results import choose_combine
from .errors import Refused, Unfit
from .function import bind_parameters, import_function, read_value
from .output import NpyFile, Outputs
from .running import check_axis, check_report, check_workers, ran_text, reported, run_options
from .sources import open_source

# A result with more numbers than this is cut short where it is printed.
_PRINTED_MOST = 1000


def run(args: argparse.Namespace) -> None:
    check_workers(args.workers)
    check_report(args.report)
    for target in args.targets:
        if target == "-" or "::" in target or not target.endswith(".npy"):
            raise Refused(f"cannot write {target}: the result of a reduction goes to an .npy file")
        if args.targets.count(target) > 1:
            raise Refused(f"OUT {target} is named twice")
    outputs = [NpyFile(target, args.source) for target in args.targets]
    with Outputs(outputs) as writing:
        func = import_function(args.func)
        func = bind_parameters(func, args.func, args.param, takes_rng=False)
        source = open_source(args.source)
        axis = check_axis(args.axis, args.source, source)
        combine = _find_combine(func, source, axis, args)
        options = run_options(args)
        if args.initial is not None:
            options["initial"] = read_value("--initial", args.initial)
        elif not source.shape[axis]:
            raise Refused(f"{args.source} has no items along axis {axis}: give --initial")
        began = time.perf_counter()
        with reported(args.report):
            result = shmmap.preduce(
                func, source, axis=axis, combine=combine, chunksize=args.chunksize, **options
            )
        seconds = time.perf_counter() - began
        if args.targets:
            _save(result, outputs)
            writing.commit()
        else:
            print(show(result))
        if args.targets and not args.quiet:
            print(ran_text(source.shape[axis], axis, args, seconds))


def _find_combine(
    func: Callable[..., Any], source: Any, axis: int, args: argparse.Namespace
) -> Callable[..., Any]:
    """The function that combines two results: the one that is named, or that of a NumPy reduction."""
    if args.combine is not None:
        return import_function(args.combine, "--combine")
    try:
        return choose_combine(func, (source,), axis)
    except (TypeError, ValueError) as error:
        why = str(error).partition(";")[0]  # then of what to write in Python
    if why.startswith("preduce "):
        raise Refused(
            f"it is not known how two results of {args.func} combine: name a function of two that does "
            "it, such as --combine numpy.add for sums and counts"
        )
    raise Refused(
        f"{why}; --combine can name a function of two results that does it, if there is one"
    )


def _save(result: Any, outputs: list[NpyFile]) -> None:
    results = result if isinstance(result, tuple) else (result,)
    if len(results) != len(outputs):
        what = "one result" if len(results) == 1 else f"a tuple of {len(results)}"
        raise Unfit(f"the result is {what}, but {len(outputs)} OUT are named")
    for output, each in zip(outputs, results, strict=True):
        a = np.asarray(each)
        if a.dtype.hasobject:
            raise Unfit(f"the result is a {type(each).__name__}, but OUT holds numbers")
        output.allocate(a.shape, a.dtype, 0, 1)[...] = a


def show(result: Any) -> str:
    """A result as it is printed: numbers with all their digits."""
    if isinstance(result, tuple):
        return "\n".join(map(show, result))
    if isinstance(result, np.generic):
        return repr(result.item())
    if isinstance(result, np.ndarray):
        if result.size > _PRINTED_MOST:
            print(
                f"shmmap reduce: the result has {result.size:,} numbers: name an OUT to have all of them",
                file=sys.stderr,
            )
        with np.printoptions(floatmode="unique"):
            return str(result)
    return repr(result)
