"""What FUNC gives, learnt from the first piece of IN.

What must hold: FUNC is tried in a process of its own, also where the map runs in this one. A function that
ends its process is then an error as others are, and leaves nothing behind.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import shmmap

from .._interop.numpy_types import DType
from .errors import Refused
from .results import Form, forms_of
from .sources import nbytes_of

PROBE_NBYTES = 1 << 20
"""Bytes of the first piece of IN that tells OUT's shape and dtype with ``--by chunk``."""

PROBE_LEN = 64
"""At most this many items in it. Fewer starve functions that need neighbours; more take longer."""

PROBES_MOST = 10
"""With ``--on-error continue``, so many items are tried until one does not fail."""


def find_forms(
    verb: Callable[..., Any],
    func: Callable[..., object],
    source: Any,
    axis: int,
    outs: int,
    args: argparse.Namespace,
) -> list[Form]:
    """Shape and dtype of what goes to each OUT: as FUNC gives it, or the dtype that was asked for."""
    dtype = None if args.dtype is None else _parse_dtype(args.dtype)
    forms = _probe(verb, func, source, axis, outs, args)
    if dtype is None:
        return forms
    for _, found in forms:
        if source.shape[axis] and not np.can_cast(found, dtype, "same_kind"):
            raise Refused(f"--dtype {args.dtype} cannot hold what FUNC returns, which is {found}")
    return [(shape, dtype) for shape, _ in forms]


def _parse_dtype(text: str) -> DType:
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError) as error:
        raise Refused(f"--dtype {text} is not a dtype NumPy knows") from error
    if dtype.hasobject:
        raise Refused(f"--dtype {text}: Python objects cannot be memory-mapped")
    return dtype


def _probe(
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
    for start in _first_items(length if args.on_error == "continue" else 1, piece):
        try:
            result = _try(verb, func, source, axis, start, piece, args)
        except Exception as error:
            failure = failure or error
            continue
        block_axis = axis if verb is shmmap.pmap_chunks else None
        return forms_of(result, outs, block_axis, min(piece, length - start))
    assert failure is not None
    raise failure


def _first_items(length: int, piece: int) -> Iterator[int]:
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
