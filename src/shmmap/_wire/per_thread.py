"""What a thread calculates by, given to another thread, or to a worker of another library."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np


class ThreadSettings(NamedTuple):
    """For workers of other libraries: the rest of their surroundings is their own."""

    errors: dict[str, Any]
    """What NumPy does about floating-point errors."""
    filters: list[object]
    """Of warnings."""
    decimal: object
    """The decimal context; None where `decimal` is not imported."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Calculate by them for a while."""
        with ExitStack() as stack:
            stack.enter_context(np.errstate(**self.errors))
            stack.enter_context(warnings.catch_warnings())
            warnings.resetwarnings()
            warnings.filters[:] = self.filters  # type: ignore[index]
            if self.decimal is not None:
                stack.enter_context(sys.modules["decimal"].localcontext(self.decimal))
            yield


def thread_settings() -> ThreadSettings:
    """Those of this thread now."""
    return ThreadSettings(dict(np.geterr()), list(warnings.filters), _copy_of_decimal_context())


def own_decimal_context() -> None:
    """In a copy of another thread's context: a decimal context of one's own, equal to that thread's."""
    context = _copy_of_decimal_context()
    if context is not None:
        sys.modules["decimal"].setcontext(context)


def _copy_of_decimal_context() -> object:
    """None where `decimal` is not imported, or just being so."""
    get_context = getattr(sys.modules.get("decimal"), "getcontext", None)
    return None if get_context is None else get_context().copy()
