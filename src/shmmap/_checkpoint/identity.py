"""What makes a map the same one: what is compared before results of an earlier run are taken."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from .._chunks import Input, Plan
from .._errors.exceptions import CheckpointMismatch
from .._interop.numpy_types import Array
from .._interop.stored import Stored
from .._memory import handle_in_file
from .._wire import are_plain
from .digest import PAGES, Digest, digest_of_function

Policy = Literal["raise", "restart", "keep"]

# What must be equal even where the user says that earlier results are to be kept.
_ALWAYS = ("verb", "chunks")
# Of a stored array, how many items are read to know it again.
_STORED_ITEMS = 4


def identify(
    *,
    verb: str,
    func: Callable[..., object],
    inputs: Sequence[Input],
    plan: Plan,
    options: tuple[object, ...],
    outs: Sequence[Any],
    seed: tuple[int, int] | None,
    in_full: bool,
) -> dict[str, Any]:
    """What a map is, in words and digests, by what it says of the map to a user."""
    told = Digest(in_full=in_full)
    told.add(options)
    found: dict[str, Any] = {
        "verb": verb,
        "chunks": [plan.n, plan.chunksize],
        "function": digest_of_function(func, in_full=in_full),
        "options": told.text(),
        "rng": None if seed is None else [str(word) for word in seed],
        "out": [_describe_out(out) for out in outs],
        "versions of Python and NumPy": [list(sys.version_info[:2]), np.__version__],
    }
    for position, entry in enumerate(inputs):
        found[f"input {position}"] = _digest_of_input(entry, in_full)
    return found


def _digest_of_input(entry: Input, in_full: bool) -> str:
    digest, data = Digest(in_full=in_full), entry.data
    digest.add((entry.kind, entry.axis))
    if isinstance(data, Stored):
        digest.add((str(data.dtype), data.shape))
        step = -(-data.shape[entry.axis] // _STORED_ITEMS) or 1
        if in_full:
            step = max(1, data.units[0][entry.axis] if data.units[0] else 1 << 10)
        for start in range(0, data.shape[entry.axis], step):
            stop = start + step if in_full else start + 1
            digest.add(data[(slice(None),) * entry.axis + (slice(start, stop),)])
    elif isinstance(data, np.ndarray) and type(data) is not np.ma.MaskedArray:
        handle = handle_in_file(data)
        if handle is None or in_full:
            digest.add(data)
        else:
            stat = os.stat(handle.path)
            digest.add((handle.offset, handle.shape, handle.strides, str(handle.dtype)))
            digest.add((stat.st_size, stat.st_mtime_ns))
            # Not every file system has another time for what is written into a mapped file.
            digest.add(data if data.flags.forc else _few_of(data))
    elif entry.kind == "rows" or (type(data) in (list, tuple) and are_plain(data)):
        digest.add_pickle(data)
    else:
        digest.add(data)
    return digest.text()


def _few_of(a: Array) -> Array:
    """A few numbers, evenly spread: each may be on a page of its own, which comes from a disk."""
    where = np.linspace(0, a.size - 1, min(a.size, PAGES)).astype(np.intp)
    few: Array = a[np.unravel_index(where, a.shape)]
    return few


def _describe_out(out: Any) -> str:
    if isinstance(out, Stored):
        return f"{out.key} {out.shape} {out.dtype}"
    handle = handle_in_file(out)
    assert handle is not None
    return f"{os.path.realpath(handle.path)} {handle.offset} {out.shape} {out.dtype}"


def compare(path: str, before: dict[str, Any], now: dict[str, Any], policy: Policy) -> bool:
    """Whether what was saved is of this map. Raises CheckpointMismatch unless `policy` says what to do."""
    differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if policy == "keep":
        differ = [name for name in differ if name in _ALWAYS]
    if not differ:
        return True
    if policy == "restart":
        return False
    which = ", ".join(differ)
    is_one = len(differ) == 1 and not which.split()[0].endswith("s")
    raise CheckpointMismatch(
        f"checkpoint={path!r} is of another map: {which} differ{'s' if is_one else ''}. Give "
        'another folder, or Checkpoint(folder, if_changed="restart") to begin anew'
    )
