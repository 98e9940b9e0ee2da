"""What the engine asks of those that run ranges on nodes: a client of dask, or an executor."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, Protocol

from .._interop.numpy_types import Array
from .node import Order, Spec

LOOK_S = 0.5
"""How often it is asked which nodes there are."""
NODES_TIMEOUT_S = 60.0
"""Without any node for so long, a map that has work left ends."""


class Ended(NamedTuple):
    """A range has come back."""

    number: int
    data: bytes | None
    """See `node.run_range`; None if it was lost with its node, or never reached it."""
    error: BaseException | None = None
    """What the node raised instead: it could not run the range at all."""


class CutAt(NamedTuple):
    """A node has answered where a range ends now."""

    number: int
    at: int | None


Event = Ended | CutAt | None
"""None: something else is to be looked at."""


class Connection(Protocol):
    """A map's way to the nodes. All but events is done in the thread that waits for the map."""

    def nodes(self) -> dict[Hashable, str]:
        """The nodes that are there, and how to call each; asked again and again.

        Raises ConnectionError if whoever manages them is gone.
        """

    def address(self) -> str:
        """Who manages the nodes, for errors."""

    def send(self, node: Hashable, order: Order) -> None:
        """Have a node run a range; an `Ended` tells its end."""

    def cut(self, node: Hashable, order: Order, keep: float) -> None:
        """Have a node keep a part of a range only; a `CutAt` tells how it went."""

    def forget(self, numbers: Iterable[int]) -> None:
        """These ranges are not wanted any more."""

    def stop(self, orders: dict[int, tuple[Hashable, Order]]) -> None:
        """The map is over; these ranges are still under way, and of no use."""


class Cluster(Protocol):
    """Nodes."""

    name: str
    can_cut: bool
    can_place: bool
    """An array can be carried to each node once."""
    task_s: float
    """What a task costs whoever hands them out."""

    def patience_s(self) -> float:
        """How long a map waits for its first node."""

    def connect(
        self, spec: Spec, placed: dict[int, Array], tell: Callable[[Event], None]
    ) -> Connection:
        """For one map. `tell` may be called by any thread."""
