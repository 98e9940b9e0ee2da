"""Inputs that have rows without being arrays: frames of pandas and polars, Arrow tables, sparse matrices.

They are cut into chunks of rows, each of the same class, where the chunk runs; so they travel whole,
as handles. Only classes whose rows can be had at a cost that depends on their number are taken, and only of
libraries that the program itself has imported.
"""

from __future__ import annotations

import sys
from typing import Any


def _is_one(value: object, library: str, *names: str) -> bool:
    module = sys.modules.get(library)
    return module is not None and isinstance(value, tuple(getattr(module, name) for name in names))


def has_rows(value: Any) -> bool:
    """Whether chunks of rows can be taken from a value.

    Raises TypeError for one whose rows are dear to take, or that has none; the message says what to do
    instead.
    """
    if _is_one(value, "pandas", "DataFrame") or _is_one(value, "polars", "DataFrame"):
        return True
    if _is_one(value, "pyarrow", "Table", "RecordBatch"):
        return True
    if _is_one(value, "scipy.sparse", "sparray", "spmatrix"):
        if value.format != "csr":
            raise TypeError(
                f"rows of a sparse matrix in format {value.format!r} cannot be taken a few at a time; "
                "pass matrix.tocsr()"
            )
        return True
    if _is_one(value, "xarray", "Dataset"):
        raise TypeError(
            "an xarray.Dataset has no rows; map over one of its variables, or over index ranges: "
            "pmap_ranges(functools.partial(func, shmmap.share(dataset)), n) with func(dataset, start, stop)"
        )
    return False


def take_rows(value: Any, start: int, stop: int) -> Any:
    """The rows ``[start, stop)``, in an object of the same class."""
    if hasattr(value, "iloc"):
        return value.iloc[start:stop]
    if hasattr(value, "tocsr"):
        return value[start:stop]
    return value.slice(start, stop - start)


def count_rows(value: Any) -> tuple[int, int]:
    """Number of rows, and of the bytes in all of them."""
    n = int(value.shape[0])
    if hasattr(value, "memory_usage"):
        return n, int(value.memory_usage(index=True).sum())
    if hasattr(value, "tocsr"):
        return n, int(value.data.nbytes + value.indices.nbytes + value.indptr.nbytes)
    return n, int(value.nbytes if hasattr(value, "nbytes") else value.estimated_size())


def describe_items(value: object) -> str | None:
    """Why single rows are not to be had; None if iterating over the value gives them."""
    if hasattr(value, "tocsr"):
        return None
    rows = "itertuples(index=False)" if hasattr(value, "iloc") else "iter_rows()"
    if hasattr(value, "to_pylist"):
        rows = "to_pylist()"
    return (
        f"a {type(value).__name__} is a sequence of columns to some and of rows to others; for its rows in "
        f"chunks use pmap_chunks or preduce, for single ones pass frame.{rows}, or columns as arrays"
    )
