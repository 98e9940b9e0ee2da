"""What crosses the process border: small named tuples, and what is too large to lie in them.

With the constants that both sides of a team go by: sizes, exit statuses, what the template says.

Messages are sent whole over an inherited socketpair that keeps message limits. What they carry is pickled by
`_wire.pickling` and lies in a `Payload`, in the message or in shared memory. Nothing here opens a connection.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, NamedTuple

import numpy as np

from .._memory import allocate_bytes, find_block, get_segment
from .rows import Profiled

# A payload larger than this lies in shared memory: a socket takes about 200 KB at once.
_INLINE_NBYTES = 1 << 16
# A message is received into this much: more than a socket takes.
RECEIVE_NBYTES = 1 << 18
# What a worker sends begins with so many random bytes that only it and its caller know. A function can write
# to its worker's sockets, by accident mostly: a number it closed once too often, a loop over all of them.
TOKEN_NBYTES = 16
# Functions pickled by reference that a worker keeps loaded; its caller counts along.
CACHED_FUNCTIONS = 64
# What stands for bytes that lie elsewhere begins with a byte that no pickle begins with.
_ELSEWHERE, _ELSEWHERE_MARK = struct.Struct("<c3q"), b"@"
EXIT_DESCRIPTORS = 87
"""Exit status of a worker whose descriptors were closed by the function it ran."""
EXIT_CHANGED = 88
"""Exit status of a worker that cannot undo what a function changed: a limit it lowered, a user it became."""


# ---------------------------------------------------------------- how a worker begins


REPLY = struct.Struct("<cqq")
"""What the template tells of workers: kind, pid, and the rank (forked) or the wait status (reaped)."""
HELLO, FORKED, REAPED = b"h", b"f", b"r"
"""Kinds of reply; a hello, which the template says first, has nothing else in it."""
BECOMES_TEMPLATE = "SHMMAP_BECOMES_TEMPLATE"
"""Environment variable of a process that was started to be a template, until it is one."""


class Descriptors(NamedTuple):
    """What a worker is given: by inheritance or over the template's socket."""

    wake: int
    """Read end of the pipe that wakes it."""
    line: int
    aside: int
    relay: int
    lifeline: int
    slots: int
    functions: int
    """Read end of the pipe from which all idle workers take submitted functions."""
    give_back: int
    """Write end of the same."""
    results: int
    """Write end of the pipe on which it says what came of them."""
    bell: int
    """Write end of the pipe that wakes the monitor."""


# ---------------------------------------------------------------- messages, caller to worker


class Attach(NamedTuple):
    """Map these segments; their descriptors come with the message. Also sent by workers."""

    segments: tuple[tuple[int, int], ...]
    """Identity and size in bytes of each."""
    seq: int = 0
    """From a worker: the call whose result they are; 0 for pages, which outlive calls."""


class Open(NamedTuple):
    """Open a control block; its descriptors come with the message."""

    control: int
    capacity: int
    ranks: int
    profiled: Profiled
    """See `rows`."""


class Close(NamedTuple):
    """Let go of a control block."""

    control: int


class Payload(NamedTuple):
    """Pickled bytes: inline, or in a block of shared memory."""

    inline: bytes
    segment: int = 0
    offset: int = 0
    nbytes: int = 0

    def segments(self) -> frozenset[int]:
        """What must be attached to read it."""
        return frozenset((self.segment,)) if self.segment else frozenset()


# What wakes a worker. The first byte of a call's record is none of the others.
_WAKE = struct.Struct("<BBBB16s4q")
_CALL_MARK = 0x41
WAKE_NBYTES = _WAKE.size
"""What wakes a worker are records of this size, written whole: a call, `SEE_LINE`, `LOOK` or `END_WORKER`."""
SEE_LINE = bytes(WAKE_NBYTES)
"""There is a message on the line."""
LOOK = b"\x4c" * WAKE_NBYTES
"""What a worker waits for may have come about, in shared memory."""
END_WORKER = b"\x45" * WAKE_NBYTES
"""Nothing will come any more: the worker is to end. Without this, it is the caller that has ended."""

DONE_WITH: object = object()
"""In the place of a message that a worker has dealt with while it waited for another."""


class News(NamedTuple):
    """What has changed in the user's modules since the worker was told last, for functions that follow."""

    modules: Payload


class Settings(NamedTuple):
    """Surroundings in which submitted functions are run that name this number."""

    number: int
    payload: Payload
    forget: tuple[int, ...]
    """Numbers that will not come again."""


class Call(NamedTuple):
    """Take part in a map.

    An engine makes it, the same for all workers. What depends on the worker is filled in as it is sent: what
    that one has already is left out, and what it lacks is added. A worker that lacks nothing, as most do in a
    loop, gets a `wake_record` instead, which is not pickled: nothing else comes before the first ticket.
    """

    control: int
    """Control block of the map."""
    job_id: int
    """Under which the worker keeps the job; 0: not at all."""
    job: Payload | None
    """None: the one kept under `job_id`."""
    func: Payload | None
    """None: the function loaded last, or the one cached under `digest`."""
    digest: bytes
    """Identity of the pickled function; empty if it must not be kept."""
    by_value: bool
    """Pickled by value: then only the one loaded last may be used again."""
    is_static: bool
    """Static schedule: each worker has its own share of the tickets. Else they are drawn."""
    team: int
    """Workers taking part."""
    chunks: Payload | None = None
    """Tickets are positions in this dict: chunk numbers, and how often each was begun before. None:
    tickets are chunk numbers."""
    seq: int = 0
    """Sequence number, growing with every call of a team; given as the call is sent."""
    redo: Payload | None = None
    """Chunks its predecessor on this rank had begun or drawn, to be done first; a dict like `chunks`."""
    surroundings: Payload | None = None
    """What changed around the caller since the worker was told last."""
    forget: tuple[int, ...] = ()
    """Jobs that will not come again."""
    modules: Payload | None = None
    """What has changed in the user's modules since the worker was told last, see `_code.recipient`."""

    @classmethod
    def from_wake_record(cls, data: bytes) -> Call:
        _, by_value, is_static, length, digest, seq, control, job_id, team = _WAKE.unpack(data)
        return cls(
            control=control,
            job_id=job_id,
            job=None,
            func=None,
            digest=digest[:length],
            by_value=bool(by_value),
            is_static=bool(is_static),
            team=team,
            seq=seq,
        )


def wake_record(key: tuple[Any, ...], seq: int, control: int, team: int) -> bytes:
    """A call for workers that lack nothing; `key` is that of its `Posting`."""
    job_id, digest, by_value, is_static, *_ = key
    return _WAKE.pack(
        _CALL_MARK, by_value, is_static, len(digest), digest, seq, control, job_id, team
    )


class Start(NamedTuple):
    """The first message of every worker."""

    rank: int
    initializer: Payload | None
    """Pickled ``(initializer, initargs)``."""
    blas_threads: int
    memory_limit: int | None
    surroundings: Payload
    token: bytes
    """What everything it sends on its sockets begins with."""
    modules: Payload | None
    """What the user's modules are like, see `_code.recipient`."""


class Drop(NamedTuple):
    """Unmap these segments: the sender has let go of them."""

    segments: tuple[int, ...]


class Lend(NamedTuple):
    """What the worker has asked for; a descriptor may come with the message."""

    data: bytes


class ReleasePages(NamedTuple):
    """Let go of these pages, if nothing has been put there since: they are large, and long unused."""

    pages: tuple[int, ...]
    lost: bool = False
    """Whatever has been put there: the caller had no descriptor left to receive them."""


# ---------------------------------------------------------------- messages, worker to caller


class Ready(NamedTuple):
    """The worker has started, its initializer run."""

    pid: int


class Ask(NamedTuple):
    """The worker needs something of its caller's; see `_wire.inheritance`."""

    what: str


class Unattended(NamedTuple):
    """Something waits to be taken, and nobody waits for the map."""

    seq: int


class Failed(NamedTuple):
    """The worker's initializer raised; a packed exception."""

    error: bytes


def dumps_message(message: tuple[object, ...]) -> bytes:
    return pickle.dumps(message, 5)


def make_payload(data: bytes, inline_nbytes: int = _INLINE_NBYTES) -> tuple[Payload, Any]:
    """Pickled bytes as they are put into a message, and what must stay alive until it is read."""
    if len(data) <= inline_nbytes:
        return Payload(data), None
    root = allocate_bytes(len(data))
    root[: len(data)] = np.frombuffer(data, np.uint8)
    block = find_block(root.__array_interface__["data"][0])
    assert block is not None
    return Payload(b"", block.segment.id, block.offset, len(data)), root


def read_payload(payload: Payload) -> bytes | memoryview:
    if not payload.segment:
        return payload.inline
    segment = get_segment(payload.segment)
    return memoryview(segment.map)[payload.offset : payload.offset + payload.nbytes]


def inline_payload(data: bytes) -> Payload | None:
    """Pickled bytes as they are put into a message, if they take no shared memory there."""
    return Payload(data) if len(data) <= _INLINE_NBYTES else None


def fit(data: bytes, most: int) -> tuple[bytes, frozenset[int], Any]:
    """Pickled bytes for an area of shared memory that holds `most`: as they are, or where they lie.

    Returns
    -------
    data, segments, root
        What to put there; segments that must be attached to read it; what must stay alive until then.
    """
    if len(data) <= most:
        return data, frozenset(), None
    payload, root = make_payload(data, most)
    return _ELSEWHERE.pack(_ELSEWHERE_MARK, *payload[1:]), payload.segments(), root


def read_fitted(data: bytes) -> bytes | memoryview:
    """What was put into an area by `fit`. Raises KeyError if its segment is not attached."""
    if data[:1] != _ELSEWHERE_MARK:
        return data
    return read_payload(Payload(b"", *_ELSEWHERE.unpack(data)[1:]))
