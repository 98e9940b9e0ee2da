"""Any executor whose workers are nodes: one for each machine, as mpi4py's are where a rank is a host."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import BrokenExecutor, Executor, Future

from .._interop.numpy_types import Array
from .cluster import Ended, Event
from .node import Order, Spec, run_range


class ExecutorNodes:
    """The workers of an executor, none of which can be told from another."""

    can_cut = False
    can_place = False
    task_s = 0.0005

    def __init__(self, executor: Executor, count: int) -> None:
        self.name = f"Nodes({type(executor).__name__})"
        self.executor = executor
        self.count = count

    def patience_s(self) -> float:
        """They are there."""
        return 0.0

    def connect(
        self, spec: Spec, placed: dict[int, Array], tell: Callable[[Event], None]
    ) -> _ExecutorConnection:
        return _ExecutorConnection(self, spec, tell)


class _ExecutorConnection:
    def __init__(self, nodes: ExecutorNodes, spec: Spec, tell: Callable[[Event], None]) -> None:
        self._executor = nodes.executor
        self._nodes: dict[Hashable, str] = {k: nodes.name for k in range(nodes.count)}
        self._spec = spec
        self._tell = tell
        self._futures: dict[int, Future[bytes]] = {}
        self._is_broken = False

    def nodes(self) -> dict[Hashable, str]:
        if self._is_broken:
            raise ConnectionError("the executor is broken: one of its workers has died")
        return self._nodes

    def address(self) -> str:
        return "this executor"

    def send(self, node: Hashable, order: Order) -> None:
        number = order.number
        try:
            future = self._executor.submit(run_range, order, self._spec, {}, None)
        except BrokenExecutor:
            self._is_broken = True
            self._tell(Ended(number, None))
            return
        self._futures[number] = future
        future.add_done_callback(lambda ended: self._ended(number, ended))

    def _ended(self, number: int, future: Future[bytes]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if isinstance(error, BrokenExecutor):
            self._is_broken = True
            self._tell(Ended(number, None))
        elif error is not None:
            self._tell(Ended(number, None, error))
        else:
            self._tell(Ended(number, future.result()))

    def cut(self, node: Hashable, order: Order, keep: float) -> None:
        raise NotImplementedError

    def forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._futures.pop(number, None)

    def stop(self, orders: dict[int, tuple[Hashable, Order]]) -> None:
        for future in self._futures.values():
            future.cancel()
        self._futures.clear()


def count_workers(executor: Executor) -> int:
    """How many workers an executor has, as it tells itself.

    Raises TypeError if it does not.
    """
    for name in ("num_workers", "_max_workers"):
        count = getattr(executor, name, None)
        if isinstance(count, int) and count > 0:
            return count
    raise TypeError(
        f"a {type(executor).__name__} does not say how many workers it has: give Nodes(executor, nodes=...)"
    )
