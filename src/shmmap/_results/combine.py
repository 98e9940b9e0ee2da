"""How two partials of `preduce` are put together, where the function itself tells.

Chunks divide an array along one axis. NumPy's reductions over that axis have partials which combine: sums
add up, and of two maxima the larger one is that of both. Means do not, and neither do the partials of a
reduction over another axis, which are parts of the result side by side. So every function belongs to one of
three kinds: its combination is known; it has none, and the error shows what to write instead; or nobody here
knows it, and `combine=` has to be given.

Nothing here runs anything: the table is decided from the function and the shape of the input alone.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._errors.exceptions import name_of
from .._interop.masked import is_masked
from .._interop.rows import has_rows

Combine = Callable[[Any, Any], object]

_PARTIALS: dict[str, Combine] = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "amax": np.maximum,
    "min": np.minimum,
    "amin": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
    "nansum": np.add,
    "nanprod": np.multiply,
    # Of a chunk that is all NaN they give NaN, which is not to hide what other chunks have.
    "nanmax": np.fmax,
    "nanmin": np.fmin,
    "count_nonzero": operator.add,
    "size": operator.add,
    "count": operator.add,  # of numpy.ma
}
"""By which function the partials of NumPy's reductions combine, by name."""

_METHODS = ("sum", "prod", "max", "min", "any", "all")
_MASKED = (*_METHODS, "count")
_SKIPPING = (*_METHODS, "amax", "amin")

# Those for which (a o b) o c is a o (b o c), so that their `reduce` may be taken in parts.
_ASSOCIATIVE = {
    *(np.add, np.multiply, np.maximum, np.minimum, np.fmax, np.fmin, np.gcd, np.lcm, np.hypot),
    *(np.logical_or, np.logical_and, np.logical_xor, np.logaddexp, np.logaddexp2),
    *(np.bitwise_or, np.bitwise_and, np.bitwise_xor),
}
# Those for which a o a is a: what every chunk brings along, `initial`, counts once all the same.
_IDEMPOTENT: set[object] = {
    *(np.maximum, np.minimum, np.fmax, np.fmin),
    *(np.logical_or, np.logical_and, np.bitwise_or, np.bitwise_and),
}

_TOTAL = "total, count = shmmap.preduce(lambda c: (c.sum(), c.size), x, combine=np.add)"
_NAN_TOTAL = (
    "total, count = shmmap.preduce("
    "lambda c: (np.nansum(c), np.count_nonzero(~np.isnan(c))), x, combine=np.add)"
)
_MEAN = "mean = total / count"
_VARIANCE = "shmmap.preduce(lambda c: ((c - mean) ** 2).sum(), x, combine=np.add) / x.size"
_NAN_VARIANCE = "shmmap.preduce(lambda c: np.nansum((c - mean) ** 2), x, combine=np.add) / count"
_WHOLE = ("median", "nanmedian", "sort", "cumsum", "cumprod")
_WHOLE_Q = ("percentile", "nanpercentile", "quantile", "nanquantile")
RECIPES: dict[str, tuple[str, ...]] = {
    "mean": (_TOTAL, "total / count"),
    "average": (_TOTAL, "total / count"),
    "nanmean": (_NAN_TOTAL, "total / count"),
    "var": (_TOTAL, _MEAN, _VARIANCE),
    "std": (_TOTAL, _MEAN, f"np.sqrt({_VARIANCE})"),
    "nanvar": (_NAN_TOTAL, _MEAN, _NAN_VARIANCE),
    "nanstd": (_NAN_TOTAL, _MEAN, f"np.sqrt({_NAN_VARIANCE})"),
    "norm": ("shmmap.preduce(np.linalg.norm, x, combine=np.hypot)",),
    "ptp": ("shmmap.preduce(np.max, x) - shmmap.preduce(np.min, x)",),
    "argmax": ("largest = shmmap.preduce(np.max, x)", "np.flatnonzero(x == largest)[0]"),
    "argmin": ("smallest = shmmap.preduce(np.min, x)", "np.flatnonzero(x == smallest)[0]"),
    "nanargmax": ("largest = shmmap.preduce(np.nanmax, x)", "np.flatnonzero(x == largest)[0]"),
    "nanargmin": ("smallest = shmmap.preduce(np.nanmin, x)", "np.flatnonzero(x == smallest)[0]"),
    "cov": (
        "mean = shmmap.preduce(lambda c: c.sum(axis=0), x, combine=np.add) / len(x)",
        "shmmap.preduce(lambda c: (c - mean).T @ (c - mean), x, combine=np.add) / (len(x) - 1)",
    ),
    "histogram": (
        "edges = np.histogram_bin_edges(x, bins)",
        "shmmap.preduce(lambda c: np.histogram(c, edges)[0], x, combine=np.add)",
    ),
    "unique": ("shmmap.preduce(np.unique, x, combine=np.union1d)",),
    **{name: (f"np.{name}(x)",) for name in _WHOLE},
    **{name: (f"np.{name}(x, q)",) for name in _WHOLE_Q},
}
"""What to write instead of a function whose partials do not combine: statements, and an expression at the
end, of `x`, which is the input."""


class _Reduction(NamedTuple):
    """A function that reduces an array over some of its axes."""

    name: str
    combine: Combine | None
    """None: its partials do not combine, see `RECIPES`."""
    axis: object = None
    """Over which it reduces if not told; None is all of them."""


def _of_module(module: object, prefix: str, names: Any) -> dict[object, _Reduction]:
    found = {}
    for name in names:
        function = getattr(module, name, None)
        if function is not None:
            found[function] = _Reduction(prefix + name, _PARTIALS.get(name))
    return found


@functools.cache
def _numpys(with_masked: bool) -> dict[object, _Reduction]:
    names = (*_PARTIALS, *RECIPES)
    found = _of_module(np, "numpy.", names) | _of_module(np.linalg, "numpy.linalg.", ("norm",))
    found |= _of_module(np.ndarray, "numpy.ndarray.", (*_METHODS, *RECIPES))
    if with_masked:
        found |= _of_module(np.ma, "numpy.ma.", (*_MASKED, *RECIPES))
    return found


def _smallest(left: Any, right: Any) -> object:
    _refuse_unordered(left, right)
    return min(left, right)


def _largest(left: Any, right: Any) -> object:
    _refuse_unordered(left, right)
    return max(left, right)


def _refuse_unordered(left: Any, right: Any) -> None:
    if not (left < right or right < left or left == right):
        raise ValueError(
            "of values without an order, such as NaN or sets, min and max of Python give what depends on "
            "where each is; use numpy.min and numpy.max, or numpy.nanmin and numpy.nanmax, or give combine="
        )


_BUILT_IN: dict[object, Combine] = {
    sum: operator.add,
    len: operator.add,
    min: _smallest,
    max: _largest,
    any: operator.or_,
    all: operator.and_,
}


_chosen: dict[object, Combine] = {}
"""What was decided before, for functions of NumPy's and Python's own alone."""
_CHOSEN_MOST = 256


def choose_combine(func: Any, inputs: tuple[object, ...], axis: object) -> Combine:
    """How partials of `func` combine, for a call of `preduce` without ``combine=``.

    Raises TypeError or ValueError if they do not, or if that is not known; the message says what to write.
    """
    key = None
    if type(axis) is int and len(inputs) == 1 and type(inputs[0]) is np.ndarray:
        key = func, inputs[0].ndim, axis
        try:
            return _chosen[key]
        except (KeyError, TypeError):
            pass
    combine = _choose(func, inputs, axis)
    if key is not None and not isinstance(func, functools.partial) and len(_chosen) < _CHOSEN_MOST:
        _chosen[key] = combine
    return combine


def _choose(func: Callable[..., object], inputs: tuple[object, ...], axis: object) -> Combine:
    value: object = inputs[0] if inputs else None
    axis, *_ = axis if isinstance(axis, tuple) else (axis,)
    is_array = isinstance(value, np.ndarray) or (
        hasattr(value, "shape") and hasattr(value, "dtype")
    )
    if hasattr(value, "isnull"):
        _refuse_missing(func, value)
    ndim = value.ndim if is_array and hasattr(value, "ndim") else None
    is_table = not is_array and bool(has_rows(value))
    given: dict[str, object] = {}
    plain = func
    is_bound = False
    while isinstance(plain, functools.partial):
        given = plain.keywords | given
        is_bound = is_bound or bool(plain.args)
        plain = plain.func
    reduction = _find(plain)
    is_simple = not is_bound and len(inputs) < 2
    if reduction is None:
        try:
            combine = _BUILT_IN.get(plain)
        except TypeError:  # it has no hash
            combine = None
        if combine is None or not is_simple or given or (is_table and plain is not len):
            raise TypeError(_explain_unknown(func))
        if ndim is not None and axis not in (0, -ndim):
            raise ValueError(
                f"{plain.__name__} goes along axis 0, but chunks are cut along axis {axis}: its partials do "
                "not combine; use the function of NumPy's, or give combine="
            )
        return combine
    if reduction.combine is None:
        has_mask = is_masked(value) or reduction.name.startswith("numpy.ma.")
        raise TypeError(_explain_recipe(reduction.name, given.get("axis"), has_mask))
    known = {"axis", "keepdims", "dtype"}
    if reduction.combine in _IDEMPOTENT:
        known.add("initial")
    elif "initial" in given:
        raise ValueError(
            f"{reduction.name} would count its initial= once for every chunk; give initial= to preduce"
        )
    if not is_simple or is_table or not known.issuperset(given):
        raise TypeError(_explain_unknown(func))
    _check_axis(reduction, given.get("axis", reduction.axis), ndim, axis)
    return reduction.combine


def _refuse_missing(func: object, value: Any) -> None:
    """Refuse what a column with missing values answers by a method of its own, which leaves them out."""
    while isinstance(func, functools.partial):
        func = func.func
    name = getattr(func, "__name__", "")
    if name not in _SKIPPING or getattr(np, name) is not func or not np.any(value.isnull()):
        return
    kind, name = type(value).__name__, name.removeprefix("a") if name[1:] in _METHODS else name
    instead = f"numpy.nan{name}, or func " if hasattr(np, f"nan{name}") else "func "
    raise ValueError(
        f"numpy.{name} leaves out what is missing in a {kind}, but the chunks of it are plain arrays; use "
        f"{instead}of its values: shmmap.preduce(func, x.to_numpy())"
    )


def _find(func: Callable[..., object]) -> _Reduction | None:
    ufunc = getattr(func, "__self__", None)
    if isinstance(ufunc, np.ufunc):
        if func.__name__ != "reduce":
            return None
        name = f"numpy.{ufunc.__name__}.reduce"
        if ufunc in _ASSOCIATIVE:
            return _Reduction(name, ufunc, 0)
        return _Reduction(name, None) if getattr(np, ufunc.__name__, None) is ufunc else None
    try:
        return _numpys("numpy.ma.core" in sys.modules).get(func)
    except TypeError:  # it has no hash
        return None


def _check_axis(reduction: _Reduction, reduced: object, ndim: int | None, axis: Any) -> None:
    """Refuse a reduction that leaves the axis along which the chunks are."""
    if reduced is None or not hasattr(axis, "__index__"):
        return
    axes = reduced if isinstance(reduced, tuple) else (reduced,)
    if not all(hasattr(each, "__index__") for each in axes):
        return  # which NumPy refuses
    if ndim is None:
        if axis in axes:
            return
    elif -ndim <= axis < ndim:
        if axis % ndim in [each % ndim for each in axes]:
            return
    else:
        return  # there is no such axis, which is told where the input is looked at
    raise ValueError(
        f"{reduction.name} over axis {reduced} leaves axis {axis}, along which the chunks are cut: its "
        f"partials are parts of the result; use pmap_chunks, or functools.partial with axis={axis}"
    )


def _explain_recipe(name: str, axis: object, has_mask: bool) -> str:
    start = f"the partial results of {name} do not combine into that of the whole"
    name = name.rpartition(".")[2]
    recipe = RECIPES.get(name)
    if recipe is None:
        return f"{start}: where the order of operands matters, an array cannot be taken in parts"
    text = "; ".join(recipe)
    if has_mask:
        if ".size" not in text:
            return start
        text = text.replace(".size", ".count()")
    hint = ""
    if axis is not None and ".size" in text:
        hint = f"; with sums over axis={axis}, and how many are added in the place of .size"
    return f"{start}; write: {text}{hint}"


def _explain_unknown(func: object) -> str:
    return (
        f"preduce does not know how two partial results of {name_of(func)} are put together: give combine=, "
        "a function of two of them, such as combine=np.add for sums and counts, np.maximum for maxima, or "
        "lambda left, right: ..."
    )
