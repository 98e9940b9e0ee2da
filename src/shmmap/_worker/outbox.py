"""A worker's pages: the bulk of its records, which its caller takes from shared memory.

A payload outlives the worker that put it, and no worker waits for its caller to read. The caller's side of
the pages is `_team.inbox`; what both sides see of a page is `_wire.Page`.
"""

from __future__ import annotations

from collections.abc import Callable

from .._memory import Segment, attach_segment, detach_segment, new_segment_id, open_scratch
from .._wire import Page

# No page is made larger than this to have room for payloads to come.
PAGE_NBYTES_MAX = 1 << 24


class Outbox:
    """The pages of this worker.

    *Requires*: used by one thread. *Guarantees*: a payload stays in place until the caller took it.
    """

    def __init__(self, announce: Callable[[Segment], None]) -> None:
        self._announce = announce
        self._pages: list[Page] = []

    def put(self, payload: bytes) -> tuple[int, int, int]:
        """Put a payload in place: ``page id, offset, nbytes`` for its record."""
        nbytes = len(payload)
        for page in self._pages:
            if page.is_free():
                page.filled = Page.HEADER
            if page.filled + nbytes <= page.segment.nbytes:
                break
        else:
            page = self._add_page(nbytes)
        offset = page.filled
        page.bytes[offset : offset + nbytes] = payload
        page.filled = -(-(offset + nbytes) // 8) * 8
        page.counts[0] += 1
        return page.segment.id, offset, nbytes

    def _add_page(self, nbytes: int) -> Page:
        """A page more, which has room for a payload of so many bytes."""
        least = 2 * self._pages[-1].segment.nbytes if self._pages else Page.LEAST_NBYTES
        size = max(min(least, PAGE_NBYTES_MAX), nbytes + Page.HEADER)
        fd = open_scratch(size)
        segment = attach_segment(new_segment_id(), fd, size, keep_fd=True)
        self._announce(segment)
        page = Page(segment)
        self._pages.append(page)
        return page

    def await_taken(self, is_awaited: bool) -> None:
        """Have the caller wake this worker whenever it takes something, or not any more."""
        for page in self._pages:
            page.await_taken(is_awaited)

    def waiting_nbytes(self) -> int:
        """Bytes in pages of which something has not been taken."""
        return sum(page.filled for page in self._pages if not page.is_free())

    def release(self, ids: tuple[int, ...], lost: bool) -> tuple[int, ...]:
        """Let go of those of these pages that are free, or `lost` to the caller; their ids."""
        gone = [p for p in self._pages if p.segment.id in ids and (lost or p.is_free())]
        for page in gone:
            self._pages.remove(page)
            page.close()
            detach_segment(page.segment.id)
        return tuple(page.segment.id for page in gone)
