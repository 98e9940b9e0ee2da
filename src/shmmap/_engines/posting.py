"""What is sent of a map: function and job, packed once, the call of each round, and where results go.

It belongs to the thread that waits for its map, and knows no worker: the team sends what is made here, also
to those that take the place of others later.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np

from .._chunks import Arguments, Form, make_template, told_kind
from .._code.watch import current_version
from .._memory import fresh_from, layout_of, locate
from .._results import Collector
from .._team import Posting
from .._wire import (
    ARGUMENTS_NBYTES,
    OUTPUT_NBYTES,
    VERB_FOLDING,
    VERBS,
    About,
    Call,
    Payload,
    fit,
    label_of,
    make_payload,
    pack_function,
    pack_plain,
    snapshot,
)
from .base import Task

_job_ids = itertools.count(1)
# Templates of one kind of call, by what its lists consist of: they would be endless for lists of all lengths.
_TEMPLATES_MOST = 8
# Larger outputs are not guessed: which of their pages are fresh is told once it is known what they are.
GUESS_NBYTES = 1 << 19
# What it costs to have one more worker begin. More: those that would have been of use come later; less: a map
# that is little work takes longer than that.
WAKE_S = 6e-5


class MapPosting(Posting):
    """What workers get of a map. `inherited`: under which key forked ones have function and job already."""

    def __init__(self, task: Task, inherited: bytes | None) -> None:
        self._task = task
        plan = task.job.plan
        self.team = self.first = min(task.workers, plan.chunks)
        self.segments = frozenset()
        self.modules = 0
        self.writes_main = False
        self._is_static = plan.schedule == "static"
        self._chunks: Payload | None = None
        """See `Call`; with what else is its own in a further round."""
        self._job_id = 0
        self._job: Payload | None = None
        self.arguments = self.output = b""
        """What goes into the control block: this map's own part of the job; where results go, if known."""
        self._guessed: object = None
        """The output, if it was made by what the last call's results were like."""
        self.keep: list[Any] = [task]
        """What all this refers to."""
        if inherited is None:
            func, self._digest, self._by_value, payload, label = pack_function(task.func)
            if func.reaches:
                self.modules = current_version(func.reaches)
            root = None
            if payload is None:
                payload, root = self._pay(func.data)
            self._func: Payload | None = payload
            if func.segments:
                self.segments |= func.segments
            self.keep += (root, func.keep)
            self._pack_job()
            self._guess_output()
            self._choose_first()
        else:
            self._digest, self._by_value, self._func = inherited, False, None
            label = label_of(task.func)
        job, folds = task.job, task.collector.folds
        plan, verb = job.plan, VERB_FOLDING if folds else VERBS[job.verb]
        self.about: About = plan.n, plan.chunksize, job.first, verb + label
        """What those see who look at the map from outside."""
        self.surroundings = surroundings = snapshot()
        self.key = None
        if self._job_id and self._digest and not self.writes_main:
            # In this order: see `wake_record`.
            self.key = (
                self._job_id,
                self._digest,
                self._by_value,
                self._is_static,
                surroundings,
                self.modules,
            )

    def _pay(self, data: bytes) -> tuple[Payload, Any]:
        """Bytes for the call, which needs the segment that they lie in, if any; and what is to be kept."""
        payload, root = make_payload(data)
        if root is not None:
            self.segments |= payload.segments()
        return payload, root

    def _pack_job(self) -> None:
        """Pack the arguments; and the template, unless one like it was packed before."""
        job = self._task.job
        arguments = Arguments(job)
        self.arguments, segments, root = fit(arguments.data, ARGUMENTS_NBYTES)
        self.segments = self.segments.union(arguments.segments, segments)
        if arguments.modules > self.modules:
            self.modules = arguments.modules
        self.writes_main = arguments.writes_main
        self.keep += (root, arguments.keep)
        known = {} if job.template is None else job.template.packed
        key = arguments.layouts, job.may_join  # which a window of an iterator has of its own
        found = known.get(key)  # in one step: another thread may throw out what is there
        if found is not None:
            self._job_id, self._job = found
            return
        packed = pack_plain(make_template(job, arguments.layouts).to_plain())
        self._job, root = self._pay(packed.data)
        self.keep.append(root)
        if job.template is not None and root is None:
            self._job_id = next(_job_ids)
            if len(known) >= _TEMPLATES_MOST:
                known.clear()
            known[key] = self._job_id, self._job

    def _guess_output(self) -> None:
        """Make the output before the workers begin, if a call like this one had results to go by.

        It may be there by now, if another run of the map has made it.
        """
        job, collector = self._task.job, self._task.collector
        form = None if job.template is None else job.template.forms.get(self._digest)
        if form is not None and self._digest:
            collector.guess_output(form)
            self._guessed = collector.columns
        if job.out is None and collector.columns:
            self.output, segments, root = pack_output(collector)
            self.segments |= segments
            self.keep.append(root)

    def _choose_first(self) -> None:
        """Have few begin, if a call like this one was little work: see docs/design/0052-few-first.md."""
        task = self._task
        job = task.job
        if not (task.is_awaited and job.timeout is None) or self._is_static:
            return
        seconds = None if job.template is None else job.template.works.get(self._digest)
        if seconds is not None and self._digest and not task.collector.is_listened_to:
            self.first = min(self.team, 1 + int((seconds / WAKE_S) ** 0.5))

    def note_work(self, seconds: float) -> None:
        """The map is over: take note of how much work it was, for calls like it."""
        template = self._task.job.template
        if template is not None and self._job_id and self._digest:
            works = template.works
            if len(works) >= _TEMPLATES_MOST and self._digest not in works:
                works.clear()
            works[self._digest] = seconds

    def note_form(self) -> None:
        """The map is over: take note of what its results are like, for calls like it."""
        job, collector = self._task.job, self._task.collector
        if job.template is None or not self._digest or job.out is not None or job.gather:
            return
        if collector.columns is self._guessed is not None:
            return  # they are like those of the last call again
        if job.keep_going or job.dtypes is not None:
            return  # what the output is like depends on more than the function
        form = _small_form(collector)
        forms = job.template.forms
        if form is None:
            forms.pop(self._digest, None)
        elif forms.get(self._digest) != form:
            if len(forms) >= _TEMPLATES_MOST:
                forms.clear()
            forms[self._digest] = form

    def again(self, workers: int, attempts: dict[int, int]) -> MapPosting:
        """What is sent in a further round: its chunks, and how often each of them was begun before."""
        other = copy.copy(self)
        other.team = other.first = max(1, min(workers, len(attempts)))
        other.key, other._is_static = None, False
        other._chunks, root = make_payload(pack_plain(attempts).data)
        other.segments |= other._chunks.segments()
        other.keep = [root]
        return other

    def call(self, control: int) -> Call:
        return Call(
            control=control,
            job_id=self._job_id,
            job=self._job,
            func=self._func,
            digest=self._digest,
            by_value=self._by_value,
            is_static=self._is_static,
            team=self.team,
            chunks=self._chunks,
        )


def _small_form(collector: Collector) -> Form | None:
    """The form of a map's results, if they are small arrays of numbers."""
    kind, columns, _ = collector.told_output()
    if not columns or (kind != "array" and kind is not tuple):
        return None
    if sum(column.nbytes for column in columns) > GUESS_NBYTES:
        return None
    if any(column.dtype.kind not in "biufc" for column in columns):
        return None
    # A dtype that was unpickled is not NumPy's own object: it is compared and sent more slowly.
    return Form(kind, tuple([(c.shape[1:], np.dtype(c.dtype.str)) for c in columns]))


def pack_output(collector: Collector) -> tuple[bytes, frozenset[int], Any]:
    """What is told of where results go, the segments it needs, and what is to be kept for it."""
    kind, columns, is_guess = collector.told_output()
    handles = []
    for a in columns:
        code, shape, strides, writeable = layout_of(a)
        place = locate(a)
        assert place is not None  # they were made here
        handles.append((*place, shape, strides, code, writeable))
    fresh = () if is_guess else tuple(map(fresh_from, columns))
    data = pickle.dumps((told_kind(kind), handles, fresh, is_guess), 5)
    told, segments, root = fit(data, OUTPUT_NBYTES)
    return told, segments.union([handle[0] for handle in handles]), root
