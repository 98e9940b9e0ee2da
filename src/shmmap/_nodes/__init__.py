"""Maps over many machines: `engine=` a client of dask.distributed, or `Nodes` of an executor.

`ranges` decides which node gets which chunks, and is pure. `engine` is the caller's side: ranges, marks and
the outcome, over two kinds of `cluster`, `client` and `executor`. `node` is what runs on a node, with `parts`
(what becomes of a range there), `carried` (how inputs get there) and `arrays` (those that stay there).
`public` is what a user writes.
"""

from .engine import NodesEngine, NodesWork
from .public import Nodes, engine_of, placed
