"""What workers made for results, as the caller sees it: pages of records, and segments of large results.

Owned by the team. A page is here from when it is announced, taken from record by record, and let go
with the worker it belongs to, or when it is large and has not been used for a while. Everything here is
done with the team's lock held, but for `take`, `skip` and `end_call`, which acquire it themselves.
"""

from __future__ import annotations

import errno
import math
import pickle
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from .._memory import discard_segment, get_segment
from .._system.interrupts import Uninterrupted
from .._wire import (
    Ask,
    Attach,
    Drop,
    Failed,
    Page,
    Ready,
    Record,
    RecordKind,
    ReleasePages,
    Unattended,
    dumps_message,
    unpack,
)
from .link import WorkerLink
from .workers import Workers

_PLAIN = int(RecordKind.PLAIN)
# A message that says nothing: it wakes a worker that waits for its records to be taken.
_LOOK_AGAIN = dumps_message(Attach(()))


class Inbox:
    """The pages and segments of a team's workers.

    =============================  ==========================================  ===========================
    field                          written by                                  read by
    =============================  ==========================================  ===========================
    `_pages`, `_announced`         the thread that reads a line, under the     all, under the lock; without
                                   lock: a caller's or the monitor             it `take` looks up a page, and
                                                                               `end_call` if there are
                                                                               announced ones
    `messages`                     the same                                    monitor, under the lock
    `_open`                        `begin_call`, under the lock; `end_call`,   the thread that reads a line
                                   in any thread
    `has_orphans`, `_orphans`      the monitor, and the thread that ends a     the same
                                   run, under the lock
    =============================  ==========================================  ===========================

    What must hold: `end_call` closes a call before it looks for announced segments, and these are noted
    before it is looked whether their call is open; so one of both discards them.
    """

    def __init__(self, lock: Any, workers: Workers) -> None:
        self._lock = lock
        self._workers = workers
        self.messages: deque[tuple[WorkerLink, Ready | Failed | Ask | Unattended]] = deque()
        """What workers have said that concerns others; the monitor takes it."""
        self._open: set[int] = set()
        """Calls whose results are still taken."""
        self._pages: dict[int, Page] = {}
        self._announced: dict[int, int] = {}
        """Segments that workers made for large results, and the calls that these belong to."""
        self.has_orphans = False
        """There may be pages of workers that are gone."""
        self._orphans: dict[int, int] = {}
        """Such pages, and the last call there was when they were first seen to be."""

    # ------------------------------------------------ what workers say

    def read_line(self, link: WorkerLink) -> None:
        """Take what a worker has said on its line. What is not about segments waits here for the monitor."""
        for message in link.receive():  # by which announced segments are attached
            if isinstance(message, Attach):
                if message.seq:
                    self._announce((id for id, _ in message.segments), message.seq)
                else:
                    self._add(id for id, _ in message.segments)
            elif isinstance(message, Drop):
                for id in message.segments:
                    self.forget(id)
                link.known.loses(message.segments)
            else:
                self.messages.append((link, message))
                self._workers.wake()

    # ------------------------------------------------ payloads

    def take(self, record: Record, inline: bytes = b"") -> Any:
        """Unpickle what a record carries, in its page or beside it."""
        if not record.page:
            return self._unpack(inline, record)
        page = self._pages.get(record.page) or self._page(record)
        data = page.bytes[record.offset : record.offset + record.nbytes]
        try:
            return self._unpack(data, record)
        finally:
            del data
            if page.take():
                self._tell_of_room(page, record.rank)

    def _unpack(self, data: bytes | memoryview, record: Record) -> Any:
        if record.kind == _PLAIN:
            return pickle.loads(data)
        try:
            return unpack(data)
        except KeyError:
            # It refers to a segment that was announced before, on the line, which the monitor may not have
            # read yet.
            with self._lock:
                self._read_line_of(record.rank)
            return unpack(data)

    def skip(self, record: Record) -> None:
        """Let go of what a record carries."""
        if record.page:
            try:
                page = self._page(record)
                if page.take():
                    self._tell_of_room(page, record.rank)
            except OSError:
                pass

    def _tell_of_room(self, page: Page, rank: int) -> None:
        self._workers.wake()  # the monitor sees once more, later, to what was asked for
        if page.is_awaited():
            with self._lock:
                link = self._workers.links.get(rank)
                if link is not None:
                    link.post(_LOOK_AGAIN)

    def _page(self, record: Record) -> Page:
        with self._lock:
            page = self._pages.get(record.page)
            if page is None:
                # Announced on the line before the record was written, so it has arrived.
                self._read_line_of(record.rank)
                page = self._pages.get(record.page)
                if page is None:
                    raise OSError(
                        errno.EMFILE,
                        f"no file descriptor, or no address space, left to receive what worker {record.rank} "
                        "made; drop arrays or raise the limits (ulimit -n, ulimit -v)",
                    )
            return page

    def _add(self, ids: Iterable[int]) -> None:
        """Workers announced these pages."""
        for id in ids:
            page = self._pages[id] = Page(get_segment(id))
            if page.segment.nbytes > Page.KEPT_NBYTES:
                self._workers.wake()  # the monitor sees to it that it does not stay

    def _read_line_of(self, rank: int) -> None:
        link = self._workers.links.get(rank)
        if link is not None:
            self.read_line(link)

    # ------------------------------------------------ segments of results

    def begin_call(self, seq: int) -> None:
        """Results of a call may come from now on."""
        self._open.add(seq)

    def _announce(self, ids: Iterable[int], seq: int) -> None:
        """A worker made these segments for results of a call."""
        self._announced.update((id, seq) for id in ids)
        if seq not in self._open:
            self._discard_announced(seq)

    def end_call(self, seq: int) -> None:
        """A call is over: what its workers made for results that were not taken goes."""
        self._open.discard(seq)
        if self._announced:  # not so for most calls
            with Uninterrupted(), self._lock:
                self._discard_announced(seq)

    def _discard_announced(self, seq: int) -> None:
        for id in [id for id, its_seq in self._announced.items() if its_seq == seq]:
            del self._announced[id]
            if discard_segment(id):
                for link in self._workers.links.values():
                    link.drop([id])

    # ------------------------------------------------ letting pages go

    def next_trim(self) -> float:
        """When `trim` will have something to do (``time.monotonic()``)."""
        if any(page.is_to_go() for page in self._pages.values()):
            return time.monotonic() + Page.KEPT_S / 2
        return math.inf

    def trim(self, now: float) -> None:
        """Ask for large pages that have not been used for a while."""
        for id, page in self._pages.items():
            if page.is_to_go() and page.is_idle(now):
                for link in self._workers.links.values():
                    if id in link.known.segments:
                        page.ask_for()
                        link.post(dumps_message(ReleasePages((id,))))

    def note_orphans(self) -> None:
        """A worker has died."""
        self.has_orphans = True

    def purge_orphans(self, last_seq: int, oldest_open: float) -> None:
        """Let go of the pages of workers that are gone, once nothing will be taken from them.

        A worker that was killed may have put something in its page that it never told anybody of. So a page
        goes at the latest when all calls are over that were open when it was first seen here.
        """
        alive = {id for link in self._workers.links.values() for id in link.known.segments}
        self.has_orphans = False
        for id, page in list(self._pages.items()):
            if id in alive:
                continue
            orphaned_at = self._orphans.setdefault(id, last_seq)
            if page.is_free() or oldest_open > orphaned_at:
                self.forget(id)
            else:
                self.has_orphans = True

    def forget(self, id: int) -> None:
        """Let go of a page."""
        page = self._pages.pop(id, None)
        self._orphans.pop(id, None)
        if page is not None:
            page.close()
            discard_segment(id)

    def clear(self) -> None:
        """Let go of everything: no worker is left."""
        for id in list(self._pages):
            self.forget(id)
        for id in self._announced:
            discard_segment(id)
        self._announced.clear()
        self._open.clear()
        self.messages.clear()
