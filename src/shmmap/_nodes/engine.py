"""The engine whose workers are on other machines: ranges of chunks go to nodes, and come back as pieces.

It is the caller's side, and one for all kinds of clusters. `ranges` says who gets what; `cluster` carries
it. A node runs a range on a team of its own, with the limits that the chunks have anyway, so that results are
the same bits as on one machine; here they are put together by the same collector, and failures by the same
outcome.
"""

from __future__ import annotations

import os
import time
from collections.abc import Hashable
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from typing import Any

from .._chunks import Form, Mark, Piece, dtypes_of, is_done, items_done, undone
from .._engines import GRACE_S, TICK_S, GivenEngine, Task
from .._errors.exceptions import WorkerDied, name_of
from .._results import DeadWorker
from .._team import resolve_workers
from .._wire import cannot_send, pack_by_value, restore_exception, thread_settings, unpack
from .carried import Division, cut_slices, divide
from .cluster import LOOK_S, NODES_TIMEOUT_S, Cluster, Connection, CutAt, Ended, Event
from .node import Order, Spec, Told, Whole, versions
from .parts import Answer, clipped
from .ranges import Given, Policy, Ranges, runs_of


class NodesEngine(GivenEngine):
    """Nodes of a cluster, with a team on each."""

    shares_memory = False
    in_process = False
    sees_caller = True
    can_replace_workers = True
    writes_stores = True

    def __init__(self, cluster: Cluster) -> None:
        self.name = cluster.name
        self._cluster = cluster

    def count(self, workers: int | None) -> int:
        """How many on each node; 0: as many as the node has."""
        return 0 if workers is None or workers == -1 else resolve_workers(workers)

    def warm_up(self, workers: int) -> None:
        """Nodes start what they need with their first range."""

    def start(self, task: Task) -> NodesWork:
        return NodesWork(self._cluster, task)


def _pack(task: Task, division: Division) -> Spec:
    """The map as nodes get it."""
    job = task.job
    out = None if job.store != "write" else job.out
    fold = getattr(task.collector, "fold", None)
    whole = Whole(
        func=task.func,
        settings=thread_settings(),
        job=job._replace(
            inputs=division.inputs,
            out=out,
            store=job.store if out is not None else "",
            template=None,
            out_seen=(),
        ),
        fold=None if fold is None else fold.told(),
    )
    try:
        return Spec(pack_by_value(whole))
    except Exception as exc:
        raise cannot_send(name_of(task.func), task.func, exc) from None


# | field       | written by             | read by        | what must hold
# | _events     | any thread             | waiting thread | an entry for each end, cut and cancel
# | _cancelled  | any thread, once       | waiting thread | set before the entry is made
# | ledger      | waiting thread         | any thread     | a mark follows what it tells of
# | all others  | waiting thread         | the same       |
class NodesWork:
    """A map on nodes, see `Work`."""

    in_steps: None = None

    def __init__(self, cluster: Cluster, task: Task) -> None:
        self._task = task
        job = task.job
        self._division = divide(job, can_place=cluster.can_place)
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._cancelled = False
        self.ledger = bytearray(task.begun or job.plan.chunks)
        policy = Policy(task_s=cluster.task_s, can_cut=cluster.can_cut)
        left = undone(self.ledger)
        self._ranges = Ranges(runs_of(left), policy)
        self._map_id = os.urandom(8).hex()
        self._orders: dict[int, tuple[Hashable, Order]] = {}
        """Ranges under way: where, and what was sent."""
        self._names: dict[Hashable, str] = {}
        self._tokens: dict[Hashable, str] = {}
        self._lowest_failed: int | None = None
        """The map is to end: this is the lowest chunk that has failed."""
        self._deadline: float | None = None
        self._alone_since: float | None = None
        self._ticked = 0.0
        self._patience_s = cluster.patience_s()
        spec = _pack(task, self._division)
        self._connection: Connection = cluster.connect(
            spec, self._division.placed, self._events.put
        )

    # ------------------------------------------------ any thread

    def done(self) -> int:
        return items_done(self.ledger, self._task.job.plan)

    def marks(self) -> bytes:
        return bytes(self.ledger)

    def cancel(self) -> None:
        self._cancelled = True
        self._events.put(None)

    # ------------------------------------------------ the thread that waits

    def wait(self) -> Any:
        task = self._task
        try:
            while self._is_under_way():
                self._look()
                self._give()
                if not self._is_under_way():
                    break
                self._take_event()
                if self._cancelled:
                    raise CancelledError
                if task.collector.failure is not None:
                    raise task.collector.failure
        finally:
            self._connection.stop(self._orders)
        if task.tick is not None:
            task.tick(self.done)
        left = undone(self.ledger)
        if task.log is not None:
            task.log.note_over(task.outcome.failed(left))
        return task.outcome.finish(left, bytes(self.ledger))

    def _is_under_way(self) -> bool:
        if self._lowest_failed is None:
            return bool(self._orders) or self._ranges.has_left
        # Those below may still fail, which would be the failure to raise.
        below = any(order.start < self._lowest_failed for _, order in self._orders.values())
        return below and self._deadline is not None and time.monotonic() < self._deadline

    def _take_event(self) -> None:
        try:
            event = self._events.get(timeout=TICK_S if self._task.tick is not None else LOOK_S)
        except Empty:
            event = None
        if isinstance(event, Ended):
            self._take_ended(event)
        elif isinstance(event, CutAt):
            self._take_cut(event)
        now = time.monotonic()
        if self._task.tick is not None and now - self._ticked > TICK_S:
            self._ticked = now
            self._task.tick(self.done)

    # ------------------------------------------------ nodes

    def _look(self) -> None:
        """See which nodes have come, and which are gone."""
        try:
            found = self._connection.nodes()
        except ConnectionError as exc:
            if self._lowest_failed is None:
                raise self._lost_all(str(exc)) from None
            found = {}
        now = time.monotonic()
        for node in [node for node in self._ranges.nodes() if node not in found]:
            self._lose(node, f"node {self._names[node]} was lost")
        for node, name in found.items():
            self._names[node] = name
            self._ranges.add(node)
        if found:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > (NODES_TIMEOUT_S if self._names else self._patience_s):
            waited = f"{now - self._alone_since:.0f} s"
            raise self._lost_all(
                f"there was no worker for {waited} at {self._connection.address()}"
            )

    def _lost_all(self, cause: str) -> Exception:
        """The error if nobody is left to run anything."""
        left = undone(self.ledger)
        name = name_of(self._task.func)
        if len(left) == len(self.ledger) and not self._names:
            return RuntimeError(f"{cause}: nothing of {name} was run")
        ranges = self._task.job.plan.ranges(left)
        return WorkerDied(f"{cause}; not all of {name} is done", ranges, None)

    def _lose(self, node: Hashable, cause: str) -> None:
        """A node is gone, and with it the ranges that it had."""
        for given in self._ranges.lose(node):
            self._orders.pop(given.number, None)
            self._connection.forget([given.number])
            self._note_lost(given.start, given.stop, cause)
        self._tokens.pop(node, None)

    def _note_lost(self, start: int, stop: int, cause: str) -> None:
        """Chunks were lost with their node: by the rule for a dead worker they are run again, or not."""
        if start >= stop:
            return
        chunks = range(start, stop)
        dead = DeadWorker(-1, -1, chunks, chunks, has_successor=True)
        told = self._task.outcome.note_death(
            dead, cause, cause, self.marks(), stopped_at=None, overdue=None
        )
        if told.stop_at is not None:
            self._fail(max(told.stop_at, 0))
        for first, last in runs_of(sorted(told.again)):
            self._ranges.put_back(first, last)

    # ------------------------------------------------ there

    def _give(self) -> None:
        if self._lowest_failed is not None or self._cancelled:
            return
        now = time.monotonic()
        has_given = True
        while has_given and self._ranges.has_left:  # one for each before any has two
            has_given = False
            for node in self._ranges.nodes():
                given = self._ranges.take(node, now)
                if given is not None:
                    self._send(given)
                    has_given = True
        if not self._ranges.has_left:
            busy = {given.node for given in self._ranges.given.values()}
            for _ in range(len(self._ranges.nodes()) - len(busy)):
                cut = self._ranges.choose_cut(now)
                if cut is None:
                    break
                node, order = self._orders[cut.given.number]
                self._connection.cut(node, order, cut.keep)

    def _send(self, given: Given) -> None:
        plan, sliced = self._task.job.plan, self._division.sliced
        slices = b""
        if sliced:
            start, stop = given.start * plan.chunksize, min(given.stop * plan.chunksize, plan.n)
            slices = pack_by_value(cut_slices(sliced, start, stop))
        order = Order(
            versions=versions(),
            map_id=self._map_id,
            number=given.number,
            start=given.start,
            stop=given.stop,
            workers=self._task.workers,
            slices=slices,
            token=self._tokens.get(given.node, ""),
            seconds=self._ranges.seconds(given.node),
        )
        self._orders[given.number] = given.node, order
        self._connection.send(given.node, order)

    def _take_cut(self, event: CutAt) -> None:
        if event.number in self._orders:
            self._ranges.cut(event.number, event.at, time.monotonic())

    # ------------------------------------------------ and back

    def _take_ended(self, event: Ended) -> None:
        given = self._ranges.given.get(event.number)
        if given is None or event.number not in self._orders:
            return  # it was lost, as its node was
        node, order = self._orders.pop(event.number)
        self._connection.forget([event.number])
        if event.error is not None:
            raise _explained(event.error, self._names.get(node, str(node)))
        told: Told | None = None if event.data is None else unpack(event.data)
        if told is None or told.answer is None:
            # The node's process is gone, and another one may have taken its place already.
            self._tokens.pop(node, None)
            self._ranges.done(event.number, given.start, time.monotonic())
            self._ranges.take_away(given.start, given.stop)
            self._note_lost(given.start, given.stop, f"node {self._names.get(node, '?')} was lost")
            return
        if isinstance(node, str):  # else it is whichever worker of an executor takes the range
            self._tokens[node] = told.token
        answer = told.answer
        if answer.fatal is not None:
            start, stop = answer.fatal.start, min(answer.fatal.stop, self._task.job.plan.n)
            where = self._task.outcome.describe(-1, start, stop)
            raise restore_exception(answer.fatal, name_of(self._task.func), where)
        # Whatever was cut meanwhile: a part of it may be somebody else's already.
        stop_at = min(answer.stop, given.stop)
        self._ranges.done(event.number, stop_at, time.monotonic())
        self._keep(order.start, stop_at, answer)

    def _keep(self, start: int, stop: int, answer: Answer) -> None:
        """Take what came of chunks ``[start, stop)``."""
        outcome, job = self._task.outcome, self._task.job
        outcome.note_lost_writes(answer.lost_writes)
        failures = [(chunk, report) for chunk, report in answer.failures if chunk < stop]
        failed: set[int] = set()
        for chunk, report in failures:
            outcome.note_report(chunk, report)
            failed.add(chunk)
        spans = [(report.start, report.stop) for _, report in failures]
        marks = bytearray(answer.marks[: stop - start])
        pieces = answer.pieces
        if job.out is not None and not job.gather:  # which takes no None
            none = [start + k for k, mark in enumerate(marks) if mark == Mark.NOTHING]
            pieces = [*pieces, *[(k, k + 1, (None, ())) for k in none[:1]]]
        for piece in pieces:
            if piece[0] < stop:
                self._add(clipped(piece, stop, job), spans, marks, start)
        self.ledger[start : start + len(marks)] = marks
        for chunk in failed:
            if not job.keep_going:
                self._fail(chunk)
        lost = [start + k for k, mark in enumerate(marks) if not is_done(mark)]
        lost = [chunk for chunk in lost if chunk not in failed]
        if lost and (job.keep_going or not failed):
            for cause in answer.causes or ["a node has ended a range without a word"]:
                outcome.note_loss(cause)
            if not job.keep_going:
                self._fail(lost[0])

    def _add(
        self, piece: Piece, spans: list[tuple[int, int]], marks: bytearray, start: int
    ) -> None:
        """Give a piece to the collector; but items that failed stay as they are in the output."""
        first, last, results = piece
        task, plan = self._task, self._task.job.plan
        collector = task.collector
        limits = first * plan.chunksize, min(last * plan.chunksize, plan.n)
        inside = [(a, b) for a, b in spans if a < limits[1] and limits[0] < b]
        try:
            if first == 0 and not task.job.gather and collector.columns is None:
                kind, columns = results
                forms = [(column.shape[1:], dtypes_of(column)[0]) for column in columns]
                collector.allocate_output(Form(kind, tuple(forms)))
            outs = () if task.job.store else collector.columns or ()
            parts = [column[a:b] for a, b in inside for column in outs]
            kept = [part.copy() for part in parts]
            collector.add([piece])
            for part, was in zip(parts, kept, strict=True):
                part[...] = was
        except (TypeError, ValueError) as exc:
            task.outcome.note_exception(first, exc, -1, *plan.limits(first), "the calling process")
            marks[first - start : last - start] = bytes([Mark.FAILED]) * (last - first)
            if not task.job.keep_going:
                self._fail(first)

    def _fail(self, chunk: int) -> None:
        """The map is to end: nothing more is given, and what is above is of no use."""
        if self._lowest_failed is None:
            self._deadline = time.monotonic() + GRACE_S
        elif chunk >= self._lowest_failed:
            return
        self._lowest_failed = chunk


def _explained(error: BaseException, node: str) -> BaseException:
    """What a node raised before it ran anything."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("shmmap"):
        return RuntimeError(f"shmmap is not installed on node {node}, or another version: {error}")
    if isinstance(error, ModuleNotFoundError):
        error.add_note(
            f"node {node} does not have this module: install it on all machines, send it there "
            "(client.upload_file of its file), or define the function in the script itself"
        )
    return error
