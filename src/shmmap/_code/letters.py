"""What another process has to be told of the user's modules, in one pickle.

`news` is for a worker, of which is known what it was told last; `news_for_all` goes with a function to a
process of which nothing is known. `recipient` reads both.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
from collections.abc import Iterable
from typing import NamedTuple

from .._interop.numpy_types import Array
from .._memory import SegmentHandle, handle_of
from .modules import MAINS, can_be_imported
from .versions import Told, entries_since, entry_of, lock, pack_told, value_of
from .watch import Reach, current_version


class Letter(NamedTuple):
    """News, pickled, and what must stay alive until they are read."""

    data: bytes
    segments: frozenset[int]
    keep: tuple[object, ...]


def news(since: int) -> Letter:
    """All that was changed after some version."""
    told: list[Told] = []
    arrays: list[Array] = []
    with lock:
        for entry in entries_since(since):
            those = [a for ref in entry.arrays if (a := ref()) is not None]
            if len(those) == len(entry.arrays):
                arrays += those
                told.append(entry.told)
        data = _pack_news(told)
    return Letter(data, frozenset(map(_segment_of, arrays)), tuple(arrays))


def news_for_all(reaches: Iterable[Reach]) -> bytes:
    """All that some functions reach, for a process of which nothing is known; empty if that is nothing."""
    reaches = tuple(reaches)
    current_version(reaches)
    told = []
    with lock:
        for key in dict.fromkeys(key for reach in reaches for key in reach.keys):
            entry = entry_of(key)
            if entry is None:
                continue
            each = entry.told
            if entry.arrays:
                kind, packed = pack_told(key, value_of(key), may_share=False)
                each = each._replace(kind=kind, data=packed.data)
            told.append(each)
        return _pack_news(told) if told else b""


def _pack_news(told: list[Told]) -> bytes:
    # Of modules that no other process can import: package, file, and whether it is a package itself.
    homes = {}
    names = {each.module for each in told}.difference(MAINS)
    while names:
        name = names.pop()
        module = sys.modules.get(name)
        if name and module is not None and name not in homes and not can_be_imported(module):
            file = getattr(module, "__file__", None)
            homes[name] = module.__package__, file, hasattr(module, "__path__")
            names.add(name.rpartition(".")[0])
    # As plain tuples: the name of their class would be told with each.
    return pickle.dumps((tuple(map(tuple, told)), homes), 5)


def _segment_of(a: Array) -> int:
    handle = handle_of(a)
    assert isinstance(handle, SegmentHandle)
    return handle.segment


@functools.lru_cache(1)
def _sign_of(pid: int) -> tuple[int, bytes]:
    return pid, os.urandom(8)


def sender() -> tuple[int, bytes]:
    """What tells this process from any other."""
    return _sign_of(os.getpid())
