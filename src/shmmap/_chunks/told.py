"""Functions that can be told where their result goes, so that it is not written twice.

A ufunc of one output takes `out`, and so does a function written in Python that has a parameter of that name
with default None. Such a function is given the part of the output that its chunk belongs to, once a result
has shown that what it returns is just what the output takes.

What must hold: results stay the same, to the last bit. So nobody is told of an output that is an input, or of
one that lies in memory in another way than what NumPy allocates: loops over strided memory may round
differently.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from .._interop.numpy_types import Array
from .columns import NUMBERS
from .job import Input, Job

_FILLED = {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like"}


def takes_out(func: Any, given: int) -> bool:
    """Whether a function that is called with so many arguments can be told where its result goes."""
    if isinstance(func, np.ufunc):
        return func.nout == 1 and func.nin == given and func.signature is None
    if isinstance(func, MethodType):
        return takes_out(func.__func__, given + 1)
    if type(func) is partial:
        is_plain = not func.keywords and {*map(type, func.args)} <= NUMBERS
        if "out" in func.keywords or (isinstance(func.func, np.ufunc) and not is_plain):
            return False
        return takes_out(func.func, given + len(func.args))
    if not isinstance(func, FunctionType):
        return False
    code = func.__code__
    if not _FILLED.isdisjoint(code.co_names):
        return False  # the output it makes, where it is given none, may count on what it is filled with
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if "out" not in names[code.co_posonlyargcount :]:
        return False
    at = names.index("out")
    if at >= code.co_argcount:
        return (func.__kwdefaults__ or {}).get("out", ...) is None
    defaults = func.__defaults__ or ()
    first = code.co_argcount - len(defaults)
    return at >= max(first, given) and defaults[at - first] is None


def may_tell(job: Job, func: Any) -> bool:
    """Whether a map's function can be told where its results go, as far as is known before the output."""
    return (
        job.verb == "chunks"
        and job.axis == 0
        and not (job.in_place or job.store or job.keep_going)
        and all(map(_is_contiguous, job.inputs))
        and takes_out(func, len(job.inputs))
    )


def _is_contiguous(entry: Input) -> bool:
    """Whether chunks of an input lie in memory as what NumPy makes of them does."""
    data = entry.data
    if entry.kind == "whole" and type(data) in NUMBERS:
        return True
    if type(data) is not np.ndarray or entry.kind not in ("array", "whole"):
        return False
    return entry.axis == 0 and entry.stencil is None and data.flags.c_contiguous


def may_be_told(job: Job, func: Any, out: Array) -> bool:
    """Whether the function can be told of this output."""
    if isinstance(func, (np.ufunc, partial)):
        # With an input of as many axes, a ufunc's result is as long as the chunk, and is not broadcast to it.
        mapped = [entry.data.ndim for entry in job.inputs if entry.kind == "array"]
        if out.ndim not in mapped:
            return False
    return out.flags.c_contiguous
