"""Random streams, ``rng=``: each index has one of its own, whoever runs it and whatever else is run.

Philox is counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11): the key of all
streams of a map is two words derived from the seed, and stream *i* begins at counter ``[0, 0, 0, i]``.
`_verbs.run` draws the key, and kernels go along the streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .._errors.arguments import describe


def make_key(rng: Any) -> tuple[int, int]:
    """The Philox key that ``rng=`` stands for: two words drawn from the seed."""
    if isinstance(rng, np.random.Generator):
        words: Any = rng.integers(0, 2**64, size=2, dtype=np.uint64)
    else:
        sequence = rng if isinstance(rng, np.random.SeedSequence) else _seed(rng)
        words = sequence.generate_state(2, np.uint64)
    return int(words[0]), int(words[1])


def _seed(rng: Any) -> np.random.SeedSequence:
    if isinstance(rng, np.random.RandomState):
        raise TypeError("rng takes no RandomState: give a seed, or numpy.random.default_rng(seed)")
    try:
        if isinstance(rng, (bool, np.bool_, str)):
            raise TypeError
        return np.random.SeedSequence(rng)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            "rng must be a seed (an int of 0 or more, or a sequence of them), a SeedSequence or a "
            f"Generator, not {describe(rng)}"
        ) from None


class Streams:
    """A random generator per index: one Philox whose counter is set to the index."""

    def __init__(self, key: tuple[int, int]) -> None:
        self._bits = np.random.Philox(key=np.array(key, np.uint64))
        # Tuples: NumPy takes a state in them four times as fast as one in arrays.
        self._where: dict[str, Any] = {"counter": (0, 0, 0, 0), "key": key}
        self._state: Any = self._bits.state | {"state": self._where, "buffer": (0, 0, 0, 0)}
        self.generator = np.random.Generator(self._bits)

    def at(self, i: int) -> np.random.Generator:
        """The generator at the beginning of stream `i`."""
        self._where["counter"] = (0, 0, 0, i)
        self._bits.state = self._state
        return self.generator

    def along(self, items: Iterable[object], start: int) -> Iterator[object]:
        """The items, with the generator at the beginning of its own stream whenever one is taken."""
        where, bits, state = self._where, self._bits, self._state
        for i, item in enumerate(items, start):
            where["counter"] = (0, 0, 0, i)
            bits.state = state
            yield item
