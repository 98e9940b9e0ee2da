"""What a user writes: `Nodes`, `placed`, and a client as ``engine=``."""

from __future__ import annotations

import sys
import weakref
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from .._errors.arguments import as_int, describe
from .._interop.numpy_types import Array
from .._memory import check_dtype
from .._system.imports import late_import
from .engine import NodesEngine
from .executor import ExecutorNodes, count_workers

_engines: weakref.WeakKeyDictionary[Any, NodesEngine] = weakref.WeakKeyDictionary()


def engine_of(client: Any) -> NodesEngine:
    """The engine of a client of dask.distributed."""
    engine = _engines.get(client)
    if engine is None:
        with late_import:
            from .client import ClientNodes

        engine = _engines[client] = NodesEngine(ClientNodes(client))
    return engine


class Nodes:
    """Several machines as ``engine=``, reached by an executor that has one worker on each.

    Each worker of the executor is a node: it keeps a team of processes for its machine, which runs a range of
    chunks at a time. For a cluster of dask, pass the client itself as ``engine=``.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        For example ``mpi4py.futures.MPIPoolExecutor()``, where there is one rank for each host.
    nodes : int, optional
        How many workers it has, where it does not say so itself.

    Raises
    ------
    TypeError
        For what is no executor, and for one that does not say how many workers it has.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as executor:  # stands for two machines
    ...     shmmap.pmap(np.sum, np.ones((4, 3)), engine=shmmap.Nodes(executor), workers=1)
    array([3., 3., 3., 3.])
    """

    __module__ = "shmmap"

    def __init__(self, executor: Executor, nodes: int | None = None) -> None:
        if not isinstance(executor, Executor):
            raise TypeError(
                f"Nodes takes an Executor, not {describe(executor)}; a client of dask.distributed is an "
                "engine itself"
            )
        count = count_workers(executor) if nodes is None else as_int(nodes, "nodes", 1)
        self._engine = NodesEngine(ExecutorNodes(executor, count))

    def __repr__(self) -> str:
        return f"<{self._engine.name}>"


def placed(client: Any, x: Any) -> AbstractContextManager[Array]:
    """Keep an array on the nodes of a cluster, for all maps inside that have it as an input.

    A map with an array in memory carries it to each node that takes part, once. In here it is carried by the
    first one, and is there for the others.

    Parameters
    ----------
    client : dask.distributed.Client
        The one that is passed as ``engine=`` inside.
    x : array-like
        What is written into it inside is not seen on the nodes; so it is read-only meanwhile.

    Returns
    -------
    context manager
        Of the array to pass as an input; it has to be this one, and no view of it.

    Raises
    ------
    TypeError
        For what is no client of dask.distributed, and for an array of Python objects.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.placed("tcp://10.0.0.1:8786", [1.0])
    Traceback (most recent call last):
    TypeError: placed takes a client of dask.distributed, not 'tcp://10.0.0.1:8786'
    """
    distributed = sys.modules.get("distributed")
    if distributed is None or not isinstance(client, distributed.Client):
        raise TypeError(f"placed takes a client of dask.distributed, not {describe(client)}")
    with late_import:
        from .client import keep
    a = np.asarray(x).view()
    check_dtype(a.dtype)
    a.flags.writeable = False
    return keep(client, a)
