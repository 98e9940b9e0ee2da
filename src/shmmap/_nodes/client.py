"""The workers of a cluster of dask, as nodes: a `dask.distributed.Client` leads to them.

What is common to a map is put into the cluster once, and dask carries it to a node with the first range
that needs it. A range is a task that is pinned to its node, so that nobody but the engine decides what is run
again. Cuts go beside the tasks, by `Client.run`.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import dask
from dask.utils import parse_timedelta

from .._interop.numpy_types import Array
from .arrays import Placed, register
from .cluster import LOOK_S, CutAt, Ended, Event
from .node import NodeTeams, Order, Spec, cut_range, run_range

register()

SLICES_NBYTES = 1 << 16
"""More than this does not go through the scheduler as a part of a task."""
TASK_NBYTES = 1 << 20
"""A map up to this size, without its inputs, is a task by itself."""
SILENT_S = 30.0
"""A scheduler that has not answered for so long is taken for lost."""

_GONE = ("cancelled", "lost", "error")
_teams: weakref.WeakKeyDictionary[Any, dict[Hashable, Any]] = weakref.WeakKeyDictionary()
"""By client and node: futures of the teams there, which go with the client."""
_kept: weakref.WeakKeyDictionary[Any, dict[int, tuple[Array, Any]]] = weakref.WeakKeyDictionary()
"""By client: arrays that `placed` keeps on the nodes, by identity, and their futures."""


class ClientNodes:
    """The workers of a client's cluster."""

    can_cut = True
    can_place = True
    task_s = 0.002

    def __init__(self, client: Any) -> None:
        self.name = "Client"
        self._client = weakref.ref(client)

    def patience_s(self) -> float:
        """As long as dask waits for a connection."""
        timeout: float = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
        return timeout

    def connect(
        self, spec: Spec, placed: dict[int, Array], tell: Callable[[Event], None]
    ) -> _ClientConnection:
        client = self._client()
        if client is None or client.status in ("closed", "closing"):
            raise RuntimeError("the client of dask.distributed is closed: make another one")
        if client.asynchronous:
            raise TypeError(
                "engine= takes a client that is not asynchronous: Client(address), beside the one that has "
                "asynchronous=True"
            )
        return _ClientConnection(client, spec, placed, tell)


def put(client: Any, a: Array) -> Any:
    """A future of the array in the cluster; workers get it when they first need it."""
    kept = _kept.get(client, {}).get(id(a))
    return client.scatter(Placed(a), hash=False) if kept is None else kept[1]


class _ClientConnection:
    """See `Connection`.

    The client's own threads tell what ends; threads of this object's make calls that block.
    """

    def __init__(
        self,
        client: Any,
        spec: Spec,
        placed: dict[int, Array],
        tell: Callable[[Event], None],
    ) -> None:
        self._client = client
        self._tell = tell
        self._to_put = spec, placed
        self._spec: Any = None
        self._put: dict[int, Any] = {}
        """Futures of what all nodes need; not until there is one."""
        self._futures: dict[int, Any] = {}
        self._found: dict[str, Any] = {}
        self._look: Future[Any] | None = None
        self._asked = self._heard = time.monotonic()
        self._calls = ThreadPoolExecutor(8, "shmmap-client")
        self._ask()

    # ------------------------------------------------ who is there

    def _ask(self) -> None:
        self._asked = time.monotonic()
        loop = self._client.loop.asyncio_loop
        self._look = asyncio.run_coroutine_threadsafe(self._identity(), loop)
        self._look.add_done_callback(lambda look: self._tell(None))

    async def _identity(self) -> Any:
        return await self._client.scheduler.identity(n_workers=-1)

    def nodes(self) -> dict[Hashable, str]:
        now = time.monotonic()
        if self._look is not None and self._look.done():
            look, self._look = self._look, None
            if look.exception() is None:
                self._heard = now
                self._found = look.result()["workers"]
                teams = _teams.get(self._client, {})
                for node in [node for node in teams if node not in self._found]:
                    del teams[node]
        elif self._look is None and now - self._asked > LOOK_S:
            self._ask()
        address = self.address()
        if self._client.status in ("closed", "closing"):
            raise ConnectionError(f"the client of the scheduler at {address} was closed")
        if now - self._heard > SILENT_S or self._client.status == "connecting":
            raise ConnectionError(f"the scheduler at {address} does not answer any more")
        return {address: f"{each['name']}" for address, each in self._found.items()}

    def address(self) -> str:
        """Where the scheduler is."""
        scheduler = self._client.scheduler
        return "?" if scheduler is None else str(scheduler.address)

    # ------------------------------------------------ ranges

    def _shared(self) -> tuple[Any, dict[int, Any]]:
        """Futures of what all nodes need; put into the cluster again if it went with the node that had it."""
        spec, placed = self._to_put
        if self._spec is None or self._spec.status in _GONE:
            if len(spec.data) <= TASK_NBYTES:  # as a task, which dask repeats if need be
                self._spec = self._client.submit(Spec, spec.data, pure=False)
            else:
                self._spec = self._client.scatter(spec, hash=False)
        for position, a in placed.items():
            if position not in self._put or self._put[position].status in _GONE:
                self._put[position] = put(self._client, a)
        return self._spec, self._put

    def _team(self, node: Hashable) -> Any:
        client = self._client
        teams = _teams.setdefault(client, {})
        future = teams.get(node)
        if future is None or future.status in _GONE:
            key = f"shmmap-team-{id(client):x}-{node}-{time.monotonic_ns():x}"
            future = client.submit(
                NodeTeams,
                None,
                key=key,
                workers=[node],
                allow_other_workers=False,
                pure=False,
            )
            teams[node] = future
        return future

    def send(self, node: Hashable, order: Order) -> None:
        number = order.number
        try:
            self._send(node, order)
        except (OSError, TimeoutError):  # the node that was to get the data died just now
            self._tell(Ended(number, None))

    def _send(self, node: Hashable, order: Order) -> None:
        spec, placed = self._shared()
        number = order.number
        slices: Any = b""
        if len(order.slices) > SLICES_NBYTES:
            slices = self._client.scatter(order.slices, workers=[node], hash=False)
            order = order._replace(slices=b"")
        threads = self._found[str(node)]["nthreads"] if str(node) in self._found else 0
        future = self._client.submit(
            run_range,
            order,
            spec,
            placed,
            self._team(node),
            threads,
            slices,
            key=f"shmmap-{order.map_id}-{number}",
            workers=[node],
            allow_other_workers=False,
            pure=False,
        )
        self._futures[number] = future
        future.add_done_callback(lambda ended: self._ended(number, ended))

    def _ended(self, number: int, future: Any) -> None:
        if number not in self._futures:
            return
        if future.status != "finished" and future.status != "error":
            self._tell(Ended(number, None))
            return
        with suppress(RuntimeError):  # the map is over
            self._calls.submit(self._gather, number, future)

    def _gather(self, number: int, future: Any) -> None:
        try:
            if future.status == "finished":
                self._tell(Ended(number, future.result()))
            else:
                error = future.exception()
                is_lost = type(error).__name__ in ("KilledWorker", "NoValidWorkerError")
                self._tell(Ended(number, None, None if is_lost else error))
        except BaseException:  # its result went with its node, or is not wanted any more
            self._tell(Ended(number, None))

    def cut(self, node: Hashable, order: Order, keep: float) -> None:
        self._calls.submit(self._cut, node, order, keep)

    def _cut(self, node: Hashable, order: Order, keep: float) -> None:
        at = None
        try:
            at = self._run_cut(node, order, keep)
        finally:
            self._tell(CutAt(order.number, at))

    def _run_cut(self, node: Hashable, order: Order, keep: float) -> int | None:
        args = order.map_id, order.number, order.start, order.stop, keep
        found = self._client.run(cut_range, *args, workers=[node], on_error="ignore")
        at: int | None = found.get(node)
        return at

    def forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            future = self._futures.pop(number, None)
            if future is not None:
                future.release()

    def stop(self, orders: dict[int, tuple[Hashable, Order]]) -> None:
        futures = list(self._futures.values())
        self._futures.clear()
        if orders and self._client.status == "running":
            for node, order in orders.values():
                self._calls.submit(self._run_cut, node, order, 0.0)
            # Now: dask calls back for each, which it cannot do any more once the program ends.
            self._client.cancel(futures)
        self._calls.shutdown(wait=False)
        self._spec = None
        self._put = {}


@contextmanager
def keep(client: Any, a: Array) -> Iterator[Array]:
    """Keep an array on the nodes; it is looked up by its identity."""
    arrays = _kept.setdefault(client, {})
    arrays[id(a)] = a, client.scatter(Placed(a), hash=False)
    try:
        yield a
    finally:
        arrays.pop(id(a))[1].release()
