"""What a verb was asked for, as the verbs pass it on; nothing is checked yet."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from .._chunks import Verb
from .._results import Fold

Name = Literal["pmap", "pmap_chunks", "pmap_ranges", "preduce"]
_NAMES: dict[Verb, Name] = {"items": "pmap", "chunks": "pmap_chunks", "ranges": "pmap_ranges"}


class Request(NamedTuple):
    verb: Verb
    func: Any
    inputs: tuple[Any, ...] = ()
    n: int = 0
    """Number of indices, where there are no inputs that tell it."""
    axis: Any = None
    out: Any = None
    dtype: Any = None
    depth: Any = 0
    boundary: Any = None
    fold: Fold | None = None
    """How partials are put together; None: results are gathered, not reduced."""

    @property
    def name(self) -> Name:
        """The verb by the name that the user has written."""
        if self.fold is not None:
            return "preduce"
        return _NAMES[self.verb]

    def outs(self) -> tuple[Any, ...]:
        """What ``out=`` names, if it is not a class."""
        out = self.out
        if out is None or out is list or out is np.ndarray:
            return ()
        return out if isinstance(out, tuple) else (out,)
