"""What FUNC returns, and whether each OUT can hold it: of one shape, and of a dtype that loses nothing."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import numpy as np

from .._interop.numpy_types import Array, DType
from .errors import Refused, Unfit

Form = tuple[tuple[int, ...], DType]
"""Shape of a result, without the axis mapped, and its dtype."""


def as_results(result: object, outs: int) -> list[Array]:
    """What FUNC returned as arrays, if it is one array or number for each OUT."""
    if result is None:
        raise Unfit("FUNC returns None, but OUT holds one array: let it return one")
    if isinstance(result, tuple):
        if len(result) == outs:  # also a tuple of one
            return [_as_array(each) for each in result]
        if outs == 1:
            raise Unfit(
                f"FUNC returns a tuple of {len(result)}, but OUT holds one array: "
                f"name {len(result)} OUT"
            )
        raise Unfit(f"FUNC returns a tuple of {len(result)}, but {outs} OUT are named")
    if outs != 1:
        raise Unfit(f"FUNC returns one result, but {outs} OUT are named: a tuple goes to several")
    return [_as_array(result)]


def _as_array(result: object) -> Array:
    if result is None:
        raise Unfit("FUNC returns None in its tuple, but OUT holds an array: let it return one")
    if isinstance(result, np.ma.MaskedArray):
        raise Unfit("FUNC returns a masked array, whose mask OUT cannot hold: let it fill it")
    try:
        return np.asarray(result)
    except ValueError:  # nested sequences of different lengths
        raise Unfit(f"FUNC returns a {type(result).__name__} that is no array") from None


def check_length(a: Array, axis: int, length: int) -> None:
    """Refuse what has not as many items along the axis as the block that it was made of."""
    if a.ndim <= axis or a.shape[axis] != length:
        raise Unfit(
            f"FUNC returns shape {a.shape} for a block of {length} items: with --by chunk it returns "
            f"as many along axis {axis}; --by item calls it for one at a time"
        )


def forms_of(result: object, outs: int, axis: int | None, length: int) -> list[Form]:
    """The forms of a first result; `axis`: along which it is a block of so many, else None."""
    forms = []
    try:
        for a in as_results(result, outs):
            if a.dtype.hasobject:
                raise Unfit(f"FUNC returns a {_type_name(result)}, but OUT holds numbers")
            shape = a.shape
            if axis is not None:
                check_length(a, axis, length)
                shape = (*shape[:axis], *shape[axis + 1 :])
            # In the byte order of the machine.
            forms.append((shape, np.result_type(a.dtype, a.dtype)))
    except Unfit as error:
        raise Refused(str(error)) from None
    return forms


def _type_name(result: object) -> str:
    return type(result).__name__


@dataclasses.dataclass(eq=False)
class Fitting:
    """`func`, refusing every result that an OUT cannot hold as it is."""

    func: Callable[..., object]
    forms: list[Form]
    is_given: bool
    """The dtype was asked for, so that a result need only be of its kind."""
    axis: int | None
    """Along which the items of a block's result lie; None where results are items."""

    def __call__(self, block: Array, **options: Any) -> object:
        """Call `func` and look at what it returns."""
        result = self.func(block, **options)
        length = 0 if self.axis is None else block.shape[self.axis]
        for a, form in zip(as_results(result, len(self.forms)), self.forms, strict=True):
            self._check(a, form, length)
        return result[0] if isinstance(result, tuple) and len(self.forms) == 1 else result

    def _check(self, a: Array, form: Form, length: int) -> None:
        (first_shape, dtype), shape = form, a.shape
        if self.axis is not None:
            check_length(a, self.axis, length)
            shape = (*shape[: self.axis], *shape[self.axis + 1 :])
        if shape != first_shape:
            raise Unfit(f"a result has shape {shape}, but the first one had {first_shape}")
        rule: Literal["same_kind", "safe"] = "same_kind" if self.is_given else "safe"
        if a.dtype != dtype and not np.can_cast(a.dtype, dtype, rule):
            if self.is_given:
                raise Unfit(f"a result is {a.dtype}, which {dtype} cannot hold")
            way_out = ""
            if not a.dtype.hasobject:
                with suppress(TypeError):  # no dtype holds both
                    wider = str(np.result_type(a.dtype, dtype))
                way_out = f": pass --dtype {shlex.quote(wider)}"
            what = type(a.flat[0]).__name__ if a.dtype.hasobject and a.size else a.dtype
            raise Unfit(f"a result is {what}, but the first one was {dtype}{way_out}")

    def __repr__(self) -> str:
        return repr(self.func)
