"""The OUTs that names mean, and how much of an OUT is stored as one."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from .._interop.numpy_types import DType
from .errors import Refused
from .kept_outputs import KeptNpyFile, KeptZarrArray, check_folder
from .output import NpyFile, Output
from .sources import HDF5_ENDINGS, is_zarr, nbytes_of
from .stored_outputs import make_stored_output

OTHER_FORMATS = frozenset(
    (
        ".bin .csv .dat .fits .gz .htm .html .jpg .json .mat .npz .parquet .pkl .png .tif .tiff .tsv .txt "
        ".zip"
    ).split()
)
"""Endings of names by which others would take OUT for what it is not."""

# Of IN and OUT together, this is stored as one where OUT is stored in chunks and IN is not; and there are to
# be so many of them at least, as workers share them out.
_STORED_NBYTES, _STORED_LEAST = 1 << 24, 64


def make_outputs(targets: Sequence[str], source: str, checkpoint: str | None) -> list[Output]:
    """The OUTs that the names mean; those that are kept until they are complete if there is a checkpoint."""
    if source == "-":
        raise Refused("IN must be a file, which can be memory-mapped; a file named - is ./-")
    if checkpoint is not None:
        check_folder(checkpoint, targets)
    outputs = [_make_output(target, source, checkpoint) for target in targets]
    _check_together(targets)
    return outputs


def _make_output(target: str, source: str, checkpoint: str | None) -> Output:
    """The OUT that a name means."""
    if target == "-":
        raise Refused("OUT must be a file, which can be memory-mapped; a file named - is ./-")
    stored = make_stored_output(target, source)
    if stored is not None:
        return stored if checkpoint is None else KeptZarrArray(target, source, checkpoint)
    ending = os.path.splitext(target)[1].lower()
    if ending in HDF5_ENDINGS:
        raise Refused(
            f"cannot write {target}: an HDF5 dataset is named as {target}::dataset, and an .npy file "
            "otherwise"
        )
    if ending in OTHER_FORMATS:
        raise Refused(
            f"cannot write {target}: OUT is an .npy file, a zarr array or file.h5::dataset, and this name "
            "says otherwise"
        )
    if checkpoint is not None:
        return KeptNpyFile(target, source, checkpoint)
    return NpyFile(target, source)


def _check_together(targets: Sequence[str]) -> None:
    places = [os.path.realpath(target) for target in targets]
    for place, target in zip(places, targets, strict=True):
        if places.count(place) > 1:
            raise Refused(f"OUT {target} is named twice")
    files = [place.partition("::")[0] for place in places if "::" in place]
    if len(files) > len(set(files)):
        raise Refused("of one HDF5 file, only one dataset can be OUT")
    kinds = {"hdf5" if "::" in target else is_zarr(target) for target in targets}
    if len(kinds) > 1:
        raise Refused("several OUT are all .npy files, all zarr arrays or all HDF5 datasets")


def stored_rows(source: Any, axis: int, shape: tuple[int, ...], dtype: DType) -> int:
    """How many items of OUT are to be stored as one: those that IN stores as one, or a few of many."""
    length = max(1, source.shape[axis])
    stored = getattr(source, "chunks", None)
    if stored is not None and stored[axis] < length:
        return int(stored[axis])
    item_nbytes = nbytes_of(source) // length + int(dtype.itemsize) * math.prod(shape)
    return int(max(1, min(-(-length // _STORED_LEAST), _STORED_NBYTES // max(1, item_nbytes))))
