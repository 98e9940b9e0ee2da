"""What is sent of a map: function and job, packed once, the call of each round, and where results go.

A `Posting` belongs to the thread that waits for its map, and changes only while it is made. It knows no
worker: the team sends what is made here, also to those that take the place of others later.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from .._chunks import told_kind
from .._code.watch import current_version
from .._memory import fresh_from, handle_of
from .._results import Collector
from .._team import Needs
from .._wire import (
    OUTPUT_NBYTES,
    Call,
    ControlBlock,
    Payload,
    cannot_send,
    fit,
    is_sendable,
    make_payload,
    pack,
    pack_function,
    pack_plain,
    snapshot,
)
from .base import Task


class Posting:
    """What workers get of a map. `inherited`: under which key forked ones have function and job already."""

    def __init__(self, task: Task, inherited: bytes | None) -> None:
        self._task = task
        self._segments: frozenset[int] = frozenset()
        """Those that job and function need."""
        self._modules = 0
        """The version of the user's modules that they need."""
        self._job_id = 0
        self._job = Payload(b"")
        self._writes_main = False
        """Unpickling them writes into ``__main__`` there."""
        self.keep: list[Any] = [task]
        """What all this refers to."""
        if inherited is None:
            func, self._digest, self._by_value = pack_function(task.func)
            if func.reaches:
                self._modules = current_version(func.reaches)
            payload, root = make_payload(func.data)
            self._func: Payload | None = payload
            self._pack_job()
            if func.segments or root is not None:
                self._segments |= func.segments | payload.segments()
            self.keep += (root, func.keep)
        else:
            self._digest, self._by_value, self._func = inherited, False, None
        self._surroundings = snapshot()

    def _pack_job(self) -> None:
        """Pack the job, unless it has come before."""
        memo, inputs = self._task.job.memo, self._task.job.inputs
        if memo is not None and memo.packed is not None:
            self._job_id = memo.job_id
            self._job, self._segments, self._writes_main = memo.packed
            return
        is_plain = all(
            entry.kind in ("stored", "items") or type(entry.data) in (range, np.ndarray, np.memmap)
            for entry in inputs
        )
        try:
            packed = (pack_plain if is_plain else pack)(self._task.job.to_plain())
        except Exception as exc:
            for position, entry in enumerate(inputs):
                if entry.kind == "whole" and not is_sendable(entry.data):
                    raise cannot_send(f"input {position}", entry.data, exc) from None
            raise
        versions = [entry.modules for entry in inputs]
        self._modules = max(self._modules, current_version(packed.reaches), *versions)
        self._job, root = make_payload(packed.data)
        segments = packed.segments | self._job.segments()
        self._segments = segments.union(*(entry.segments for entry in inputs))
        self._writes_main = packed.by_value or any(entry.by_value for entry in inputs)
        if memo is not None and root is None:
            memo.packed = self._job, self._segments, self._writes_main
            self._job_id = memo.job_id
        else:
            self.keep += (root, packed.keep)

    def call(
        self, control: ControlBlock, workers: int, attempts: dict[int, int] | None
    ) -> tuple[Call, Needs, Any]:
        """The call of a round, what it takes to send it, and what is to be kept for it.

        `attempts`: in a further round, its chunks, and how often each of them was begun before.
        """
        segments, chunks, root, key = self._segments, None, None, None
        if attempts is not None:
            chunks, root = make_payload(pack_plain(attempts).data)
            segments |= chunks.segments()
        elif self._job_id and self._digest and not self._writes_main:
            key = (
                control.id,
                self._job_id,
                self._digest,
                self._by_value,
                self._surroundings,
                self._modules,
            )
        call = Call(
            control=control.id,
            job_id=self._job_id,
            job=self._job,
            func=self._func,
            digest=self._digest,
            by_value=self._by_value,
            is_static=self._task.job.plan.schedule == "static" and attempts is None,
            team=workers,
            chunks=chunks,
        )
        needs = Needs(
            control=control,
            segments=segments,
            surroundings=self._surroundings,
            modules=self._modules,
            writes_main=self._writes_main,
            key=key,
        )
        return call, needs, root


def pack_output(collector: Collector) -> tuple[bytes, frozenset[int], Any]:
    """What is told of where results go, the segments it needs, and what is to be kept for it."""
    columns = collector.columns or ()
    handles = tuple([tuple(handle_of(a) or ()) for a in columns])
    fresh = tuple(map(fresh_from, columns))
    data = pickle.dumps((told_kind(collector.kind), handles, fresh), 5)
    told, segments, root = fit(data, OUTPUT_NBYTES)
    return told, segments.union([handle[0] for handle in handles]), root
