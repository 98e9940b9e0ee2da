"""How all workers of a team end, once nothing is wanted of them any more; the team's lock is held."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable

from .._wire import Ask, has_data, lend, parse
from .link import WorkerLink

# How long workers may take: they call what functions have registered for the end of their process. Those that
# are still in a call, whose result is not wanted, have less. Others end by themselves, most of them at once.
CALM_S, BUSY_S = 2.0, 1.0

Said = list[tuple[bytes, bytes, object]]
"""What workers print, log or warn, as `relay.emit` takes it."""


def end_calmly(links: Iterable[WorkerLink], is_busy: Callable[[int], bool]) -> Said:
    """Wait until workers that were told to end have done so; what they say until then.

    `is_busy` tells of a rank whether its worker is in a call.
    """
    began = time.monotonic()
    said: Said = []
    present = [link for link in links if link.pidfd >= 0]
    while present := [link for link in present if not _has_ended(link, said)]:
        late = time.monotonic() - began
        for link in present:
            if late >= (BUSY_S if is_busy(link.rank) else CALM_S):
                link.kill()
        poll = select.poll()
        for link in present:
            for fd in (link.pidfd, link.line.fileno(), link.relay.fileno()):
                poll.register(fd, select.POLLIN)
        limit = next((each for each in (BUSY_S, CALM_S) if each > late), None)
        poll.poll(None if limit is None else (limit - late) * 1000 + 1)
    return said


def _has_ended(link: WorkerLink, said: Said) -> bool:
    """Whether a worker has ended; what it has needed and said until now is dealt with."""
    has_ended = link.gone or has_data(link.pidfd)
    for message in link.receive():
        if isinstance(message, Ask):
            link.lend(*lend(message.what))
    said += ((*parse(frame)[::2], link.decoders) for frame in link.receive_relay())
    return has_ended
