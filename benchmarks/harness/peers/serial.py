"""What the work is: a plain loop, or one call over the whole array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.peers.bare import Crew
from harness.peers.base import Peer, stacked
from harness.work import Array


class Serial(Peer):
    """The definition of every result, and the reference of every speed-up."""

    def shorten(self, n: int) -> None:
        """Do the first items only: what peers that do no more have to return."""
        self.n = n
        self.x = self.whole[:n]

    def touch(self) -> Array:
        """Stamp everything."""
        self.work.func(self.x)
        return self.x

    def ranges(self) -> None:
        """A loop."""
        func = self.work.func
        for start in range(self.n):
            func(start, start + 1)

    def rows(self) -> Array | None:
        """A loop."""
        func = self.work.func
        if self.work.result is None:
            for row in self.x:
                func(row)
            return None
        if len(self.work.result[0]) > 1:
            y = self.result_array()
            for i, row in enumerate(self.x):
                y[i] = func(row)
            return y
        return stacked([func(row) for row in self.x])

    def blocks(self) -> Array:
        """One call, as NumPy users write it; copying it to where an earlier result lay helps nobody."""
        out = {"out": self.y} if self.work.takes_out else {}
        result: Array = self.work.func(self.x, **out)
        return result

    def place(self) -> Array:
        """Copy within private memory: nothing is shared."""
        return self.x.copy()

    def load(self) -> Array:
        """Read into private memory: nothing is shared."""
        array: Array = np.load(self.path)
        return array

    def place_data(self) -> None:
        """A file needs no array."""
        if self.work.verb != "load":
            super().place_data()
            self.whole = self.x


class Loops(Serial):
    """As many serial loops at once as there are workers, each over everything.

    What the cores of this machine leave to each other: those of a virtual machine may be two threads of one
    core, and then nobody's speed-up reaches their number.
    """

    crew: Crew | None = None

    def open(self) -> None:
        """All but one of them are forked."""
        super().open()
        self.works = self.workers
        verb = getattr(super(), self.work.verb)

        def body(rank: int, tickets: int) -> None:
            verb()

        self.crew = Crew(self.workers - 1, body)

    def close(self) -> None:
        """Let them go."""
        super().close()
        if self.crew is not None:
            self.crew.end()

    def rows(self) -> Array | None:
        """One of the loops; the others run beside it."""
        return self._beside(super().rows)

    def blocks(self) -> Array:
        """One of the calls; the others run beside it."""
        return self._beside(super().blocks)

    def _beside(self, verb: Callable[[], Any]) -> Any:
        assert self.crew is not None
        self.crew.wake()
        result = verb()
        self.crew.wait()
        return result


PEERS = {"serial": Serial, "loops": Loops}
