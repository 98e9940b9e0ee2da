"""What is done with a chunk, on every engine.

In reading order: `plan` (which index ranges), `ledger` (what has become of each), `stencil` (their
neighbours), `job` (a map as kernels get it), `part` (who runs which chunks), `recorder`
(what they note of it), `kernel`, `inputs` and `streams`
(calls of the function), `gather`, `held`, `placing`, `rows`, `fill`, `told` and `store` (where results go),
`columns` and `tuples` (what a function returned), `current` (where a function is), `freeze` and `lost_writes`
(what a function must not change).
"""

from .arguments import Arguments, is_small, make_template, put_together
from .columns import (
    NUMBERS,
    Column,
    Kind,
    as_array,
    as_column,
    check_cast,
    check_declared,
    check_kind,
    declared_dtype,
    dtypes_of,
    promote,
    put_column,
    split_result,
    told_kind,
)
from .current import Context, current, enter_map, leave_map, running
from .fill import FillKernel
from .freeze import freeze_for_good, frozen, private_arrays
from .gather import GatherKernel
from .inputs import make_slicer
from .job import Form, Input, InputKind, Job, Pickles, Piece, Place, Store, Template, Verb
from .kernel import Destination, Function, Kernel, Reporter
from .ledger import Mark, is_done, is_left, items_done, undone
from .lost_writes import Watch, describe, warn_of
from .part import Part, next_draw
from .plan import Plan, align_chunksize, merge_ranges, parse_chunksize, share_of
from .recorder import Recorder, Stacks
from .stencil import Stencil, Trim, choose_trim, make_stencils
from .store import StoreKernel
from .streams import make_key
from .tuples import make_tuple, parts_of


def make_kernel(
    job: Job, func: Function, reporter: Reporter, clock: memoryview | None = None
) -> Kernel:
    """The kernel for a job: results are handed over, written in place, or stored elsewhere."""
    kind = GatherKernel if job.gather else StoreKernel if job.store else FillKernel
    kernel = kind(job, func, reporter, clock)
    kernel.bind(job)
    return kernel
