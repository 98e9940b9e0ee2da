"""What is done with one chunk: slice the inputs, call the function, put the result in its place.

The same code runs in worker processes, in threads and serially; a `Reporter` is what differs: how results,
the output's shape and the output itself travel between a worker and the collector. `make_kernel` chooses:
results that are objects (lists, partials) are handed over, by `gather`; results that are rows or blocks of
arrays are written in place, by `fill`, or into arrays that are not in memory, by `store`. What they share
is in `kernel`, the calls of the function, and in `inputs`, what it is called with.

Inner loops inline ``Plan.limits``; per item there is nothing but the function and one store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .fill import FillKernel
from .gather import GatherKernel
from .job import Job
from .kernel import Kernel, Reporter
from .store import StoreKernel


def make_kernel(job: Job, func: Callable[..., Any], port: Reporter, clock: Any = None) -> Kernel:
    """The kernel for a job."""
    if job.gather:
        return GatherKernel(job, func, port, clock)
    return (StoreKernel if job.store else FillKernel)(job, func, port, clock)
