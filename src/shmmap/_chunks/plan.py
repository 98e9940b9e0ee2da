"""The plan: which index ranges there are. Pure arithmetic, no memory, no process.

Chunk limits depend on lengths, bytes per item, verb and ``chunksize`` only:
docs/design/0007-chunks-that-depend-on-nothing.md. `Plan.limits` gives the indices of a chunk; the innermost
loops of the kernels have it in line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from .._errors.arguments import as_int, parse_nbytes

# A vectorised function works through its chunk several times (inputs, temporaries, result), so the chunk
# should stay in the cache. Larger: with many cores it spills to memory; smaller: the calls show.
CHUNK_NBYTES = 1 << 21
# A map of few bytes can still be dear per item. More chunks balance better, and each costs some 10 us.
CHUNKS_MIN = 32
# But if a chunk has less than this, half as many: where the function is cheap, its calls cost as much as all
# else. Fewer still, and dear functions would leave cores idle: see 0040.
FEW_NBYTES, CHUNKS_OF_FEW = 1 << 18, 16
# A chunk takes a byte of the ledger and a quarter of a microsecond; `pmap_ranges` is asked for any number.
CHUNKS_MAX = 1 << 20
# Per-item functions: enough chunks that a worker with dear items does not finish long after the others.
# Chunks of cheap items cost next to nothing, as those drawn together are joined; more of them take a byte of
# the ledger each, and for most items of a list a pickle.
ITEM_CHUNKS = 4096
# Chunks are made whole storage chunks, which are read and decompressed as one, up to this size. More:
# fewer bytes are read twice; less: a chunk and its results need less memory.
STORED_NBYTES = 1 << 26
# What one chunk of items may hold, so that results in flight stay bounded.
ITEM_CHUNK_NBYTES = 1 << 23


@dataclass(frozen=True, slots=True)
class Plan:
    """A frozen partition of ``range(n)`` into chunks of `chunksize` items."""

    n: int
    """Items in all, 0 or more."""
    chunksize: int
    """Items per chunk, 1 or more; the last chunk may be shorter."""
    schedule: str = "dynamic"
    """``"dynamic"``: workers draw chunks as they go. ``"static"``: one contiguous share each."""
    chunks: int = field(init=False)
    """Number of chunks."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "chunks", -(-self.n // self.chunksize))

    def limits(self, k: int) -> tuple[int, int]:
        """``start, stop`` of chunk `k`."""
        start = k * self.chunksize
        return start, min(start + self.chunksize, self.n)

    def ranges(self, chunks: Iterable[int]) -> tuple[tuple[int, int], ...]:
        """Index ranges of the given chunks, neighbours merged, in order."""
        return merge_ranges(self.limits(k) for k in sorted(chunks))


def share_of(chunks: int, rank: int, workers: int) -> tuple[int, int]:
    """A worker's contiguous share of so many chunks; sizes differ by at most one."""
    return chunks * rank // workers, chunks * (rank + 1) // workers


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join neighbouring half-open ranges; `ranges` come in order of their start."""
    merged: list[tuple[int, int]] = []
    for start, stop in ranges:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)


def auto_chunksize(n: int, item_nbytes: int, vectorised: bool) -> int:
    """Items per chunk for ``chunksize="auto"``; see the constants above for what each bounds.

    `item_nbytes` is 0 if nothing is known of the bytes that belong to an index.
    """
    chunks = CHUNKS_MIN
    if item_nbytes:  # else it is not known how many they are
        chunks = max(CHUNKS_OF_FEW, min(chunks, n * item_nbytes // FEW_NBYTES))
    item_nbytes = max(1, item_nbytes)
    if vectorised:
        size = min(CHUNK_NBYTES // item_nbytes, -(-n // chunks))
        return max(1, size, -(-n // CHUNKS_MAX))
    return max(1, min(ITEM_CHUNK_NBYTES // item_nbytes, -(-n // ITEM_CHUNKS)))


def align_chunksize(size: int, item_nbytes: int, reads: list[int], writes: list[int]) -> int:
    """Items per chunk where arrays are stored in chunks of their own, of these lengths along the axis.

    A multiple of all that are written as one, as two workers must not write the same; and of those that are
    read as one, unless that makes chunks too large.
    """
    must = math.lcm(*writes)
    wish = math.lcm(must, *reads)
    most = max(must, STORED_NBYTES // max(1, item_nbytes))
    if wish <= most:
        return -(-size // wish) * wish
    # Each border of chunks within a storage chunk has that read twice: as few chunks as are allowed.
    return -(-size // must) * must if wish == must or not reads else most // must * must


def parse_chunksize(
    chunksize: int | str, n: int, item_nbytes: int, vectorised: bool, least: int = 1
) -> int:
    """Items per chunk for any accepted ``chunksize=``; with ``"auto"`` not fewer than `least`.

    Raises TypeError or ValueError if it is not a positive int, a byte size such as ``"8MiB"``, or ``"auto"``.
    """
    if isinstance(chunksize, str) and chunksize == "auto":
        return max(auto_chunksize(n, item_nbytes, vectorised), min(least, n))
    if isinstance(chunksize, str):
        nbytes = parse_nbytes(chunksize)
        if nbytes is None:
            raise ValueError(
                f'chunksize={chunksize!r}: give a number of items, a byte size such as "8MiB", '
                'or "auto"'
            )
        return max(1, nbytes // max(1, item_nbytes))
    size = as_int(chunksize, "chunksize", 1, kinds="an int, a byte size or 'auto'")
    return min(size, max(1, n))
