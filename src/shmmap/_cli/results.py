"""What FUNC returns, and whether OUT can hold it: of one shape, and of a dtype that loses nothing."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import numpy as np

from .._interop.numpy_types import Array, DType
from .errors import Unfit


def as_result(result: object) -> Array:
    """What FUNC returned as an array, if it is one array or number."""
    if result is None:
        raise Unfit("FUNC returns None, but OUT holds one array: let it return one")
    if isinstance(result, tuple):
        raise Unfit(
            f"FUNC returns a tuple of {len(result)}, but OUT holds one array: let it return one"
        )
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


@dataclasses.dataclass(eq=False)
class Fitting:
    """`func`, refusing every result that OUT cannot hold as it is."""

    func: Callable[..., object]
    dtype: DType
    is_given: bool
    """The dtype was asked for, so that a result need only be of its kind."""
    shape: tuple[int, ...]
    """Of a result, without the axis mapped."""
    axis: int | None
    """Along which the items of a block's result lie; None where results are items."""

    def __call__(self, block: Array) -> object:
        """Call `func` and look at what it returns."""
        result = self.func(block)
        a = as_result(result)
        shape = a.shape
        if self.axis is not None:
            check_length(a, self.axis, block.shape[self.axis])
            shape = (*shape[: self.axis], *shape[self.axis + 1 :])
        if shape != self.shape:
            raise Unfit(f"a result has shape {shape}, but the first one had {self.shape}")
        rule: Literal["same_kind", "safe"] = "same_kind" if self.is_given else "safe"
        if a.dtype != self.dtype and not np.can_cast(a.dtype, self.dtype, rule):
            if self.is_given:
                raise Unfit(f"a result is {a.dtype}, which {self.dtype} cannot hold")
            way_out = ""
            if not a.dtype.hasobject:
                with suppress(TypeError):  # no dtype holds both
                    wider = str(np.result_type(a.dtype, self.dtype))
                way_out = f": pass --dtype {shlex.quote(wider)}"
            what = type(result).__name__ if a.dtype.hasobject else a.dtype
            raise Unfit(f"a result is {what}, but the first one was {self.dtype}{way_out}")
        return result

    def __repr__(self) -> str:
        return repr(self.func)
