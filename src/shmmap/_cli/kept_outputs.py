"""The OUTs of ``shmmap map --checkpoint``: they stay until they are complete, and the same command goes on.

What must hold:

- An OUT is made under one and the same hidden name beside its own, which goes by FOLDER, so that the same
  command finds it again. What it holds counts only as far as FOLDER says: the library looks.
- An OUT that is complete, or was given up with ``--on-error continue``, is made again under the hidden name
  by the same command. If nothing is missing, that takes no longer than to find out.
- A command that is refused leaves all as it was.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._interop.numpy_types import Array, DType
from .errors import Refused
from .output import NpyFile
from .stored_outputs import ZarrArray


class _Place:
    """Where an OUT is made, and what was there before."""

    def __init__(self, target: str, folder: str) -> None:
        self._target = target
        self._is_begun = os.path.exists(os.path.join(folder, "ledger"))
        key = hashlib.sha256(os.fsencode(f"{os.path.realpath(folder)}\0{target}")).hexdigest()
        self.path = os.path.join(os.path.dirname(target), f".shmmap-{key[:16]}.partial")
        self.was_there = os.path.lexists(self.path)
        """There is an OUT that is not complete, or one that may be."""
        self.is_target = False
        """It has its name already."""
        if not self.was_there and self._is_begun:
            self.was_there = self.is_target = os.path.exists(target)

    def take(self) -> None:
        """Have what was there under the hidden name. As late as possible: a kill may come at any time."""
        if self.is_target:
            os.rename(self._target, self.path)

    def refuse_other_form(self, name: str, form: str, found: str) -> None:
        """What is there is not what FUNC gives: it is of another map, or of one that was given up."""
        if self._is_begun:
            raise Refused(
                f"--checkpoint is of another map: FUNC now gives {form} for {name}, and {found} before; give "
                "another folder, or remove it to begin anew"
            )

    def restore(self) -> bool:
        """Undo what `take` has done; whether what is there was there before."""
        if self.is_target and os.path.exists(self.path):
            os.rename(self.path, self._target)
        return self.was_there


class KeptNpyFile(NpyFile):
    """An OUT that is an ``.npy`` file."""

    def __init__(self, target: str, source: str, folder: str) -> None:
        super().__init__(target, source)
        self._place = _Place(self._target, folder)
        self._temporary = self._place.path
        self._is_begun = False

    def open(self) -> None:
        if not self._place.was_there:
            super().open()

    def _open_again(self) -> None:
        try:
            self._place.take()
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._temporary, flags)
        except OSError as error:
            raise Refused(f"cannot write {self.name}: {error.strerror}") from error
        if self._place.is_target:
            self._mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        else:  # nobody else may read it, as it was made
            umask = os.umask(0o077)
            os.umask(umask)
            self._mode = 0o666 & ~umask

    def allocate(self, shape: tuple[int, ...], dtype: DType, along: int, rows: int) -> Any:
        """Give an array that lies in the file by its name: what was there before, if it is such a one."""
        if self._fd < 0:
            self._open_again()
        found: Array | None = None
        if os.fstat(self._fd).st_size:
            try:
                found = np.lib.format.open_memmap(self._temporary, "r+")
            except ValueError as error:
                self._place.refuse_other_form(self.name, f"{shape}, {dtype}", str(error))
        if found is not None and (found.shape, found.dtype) != (shape, dtype):
            self._place.refuse_other_form(
                self.name, f"{shape}, {dtype}", f"{found.shape}, {found.dtype}"
            )
            found = None
        if found is None:
            os.truncate(self._fd, 0)
            out = super().allocate(shape, dtype, along, rows)
            # Workers, and who comes after this program, find it by its name.
            found = np.lib.format.open_memmap(self._temporary, "r+") if out.nbytes else out
        self._is_begun = True
        return found

    def discard(self, is_refused: bool) -> None:
        if self._fd < 0:
            return
        if not self._is_begun or is_refused:
            if not self._place.restore():
                super().drop()
        os.close(self._fd)
        self._fd = -1

    def drop(self) -> None:
        """It stays."""


class KeptZarrArray(ZarrArray):
    """An OUT that is a zarr array."""

    def __init__(self, target: str, source: str, folder: str) -> None:
        super().__init__(target, source)
        self._place = _Place(self._target, folder)
        self._temporary = self._place.path
        self._is_begun = self._is_over = False

    def open(self) -> None:
        if not self._place.was_there:
            super().open()

    def allocate(self, shape: tuple[int, ...], dtype: DType, along: int, rows: int) -> Any:
        try:
            self._place.take()
        except OSError as error:
            raise Refused(f"cannot write {self.name}: {error.strerror}") from error
        out = None
        if self._place.was_there and os.listdir(self._temporary):
            try:
                found = self._zarr.open_array(self._temporary, mode="r+")
                if (found.shape, found.dtype) == (shape, dtype):
                    out = found
                else:
                    said = f"{found.shape}, {found.dtype}"
                    self._place.refuse_other_form(self.name, f"{shape}, {dtype}", said)
            except (OSError, ValueError) as error:
                self._place.refuse_other_form(self.name, f"{shape}, {dtype}", str(error))
        if out is None:
            out = super().allocate(shape, dtype, along, rows)
        self._is_begun = True
        return out

    def commit(self) -> None:
        super().commit()
        self._is_over = True

    def discard(self, is_refused: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        if (not self._is_begun or is_refused) and not self._place.restore():
            shutil.rmtree(self._temporary, ignore_errors=True)


def check_folder(folder: str, targets: Sequence[str]) -> None:
    """Refuse what cannot be the folder of a checkpoint, before anything is looked at."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise Refused(f"--checkpoint {folder}: this is a file, and a folder is needed")
    place = os.path.realpath(folder)
    for target in targets:
        if "::" in target:
            raise Refused(
                f"--checkpoint: an HDF5 file does not survive a crash in the middle of a write; let OUT "
                f"{target} be a zarr array or an .npy file"
            )
        its = os.path.realpath(target)
        if its == place or its.startswith(place + os.sep):
            raise Refused(f"OUT {target} lies in the folder of --checkpoint; name a place outside")
