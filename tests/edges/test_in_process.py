"""Functions that run in the caller's own process, and what is around them there."""

from __future__ import annotations

import decimal
from typing import Any

import shmmap


def test_decimal_context_is_the_callers(engine: Any) -> None:
    """A9: what surrounds a function is the caller's on every engine. Kind: context of the thread."""

    def third(i: int) -> str:
        return str(decimal.Decimal(1) / 3)

    for precision in (5, 7):
        with decimal.localcontext() as context:
            context.prec = precision
            found = shmmap.pmap(third, range(3), engine=engine, workers=2)
        assert found == ["0." + "3" * precision] * 3
    assert shmmap.pmap(third, range(1), engine=engine)[0] == "0." + "3" * 28
