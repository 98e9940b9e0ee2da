"""What a careful user writes by hand: SharedMemory, and Pool.starmap over index ranges."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from harness.peers.base import Peer
from harness.work import Array

Spec = tuple[str, tuple[int, ...], str]
"""Name, shape and dtype of an array in shared memory."""

# What a worker is attached to: its input, and the output it was last told of.
_x: Array
_y: Array | None = None
_y_name: str | None = None
_memories: list[SharedMemory] = []
_func: Callable[..., Any]


class Pool(Peer):
    """Workers attach by name, take ranges, write in place."""

    block_nbytes = 4 << 20

    def open(self) -> None:
        """Create, fill, and start a pool whose initializer attaches."""
        self._memory: dict[int, SharedMemory] = {}
        if self.work.verb == "load":
            return
        if self.work.verb == "place":
            self.x = np.empty(self.shape)
            self.work.fill(self.x)
            return
        self.place_data()
        self.pool = multiprocessing.Pool(
            self.workers,
            initializer=_attach,
            initargs=(self._spec(self.x), self.work.func),
        )

    def close(self) -> None:
        """End the pool and unlink everything."""
        super().close()
        if self.work.verb not in ("place", "load"):
            self.pool.close()
            self.pool.join()
        self.__dict__.pop("x", None)
        self.__dict__.pop("y", None)
        for memory in self._memory.values():
            memory.unlink()

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Fresh shared memory."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = SharedMemory(create=True, size=nbytes)
        array: Array = np.ndarray(shape, dtype, memory.buf)
        self._memory[array.ctypes.data] = memory
        return array

    def _spec(self, array: Array) -> Spec:
        return self._memory[array.ctypes.data].name, array.shape, array.dtype.str

    def touch(self) -> Array:
        """One range per worker."""
        self.pool.starmap(_touch, self.parts(), chunksize=1)
        return self.x

    def ranges(self) -> None:
        """One range per index."""
        pairs = [(start, start + 1) for start in range(self.n)]
        self.pool.starmap(self.work.func, pairs, chunksize=1)

    def rows(self) -> Array | None:
        """A loop over the rows of each range."""
        if self.work.result is None:
            self.pool.starmap(_rows, [(None, *pair) for pair in self.row_ranges()], chunksize=1)
            return None
        return self._fill(_rows, self.row_ranges())

    def blocks(self) -> Array:
        """A call per range."""
        return self._fill(_blocks_into if self.work.takes_out else _blocks, self.block_ranges())

    def _fill(self, func: Callable[..., None], pairs: list[tuple[int, int]]) -> Array:
        y = self.result_array()
        spec = self._spec(y)
        self.pool.starmap(func, [(spec, *pair) for pair in pairs], chunksize=1)
        if self.y is not None:
            return y
        return Owned.of(y, self._memory.pop(y.ctypes.data))

    def place(self) -> Array:
        """The recipe of the standard library's documentation."""
        y = self.allocate(self.shape, "f8")
        np.copyto(y, self.x)
        return Owned.of(y, self._memory.pop(y.ctypes.data))

    def load(self) -> Array:
        """Read a file straight into shared memory, by hand."""
        with self.path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            assert version == (1, 0)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            y = self.allocate(shape, dtype.str)
            file.readinto(y)  # type: ignore[attr-defined]
        return Owned.of(y, self._memory.pop(y.ctypes.data))


class Owned(np.ndarray[Any, Any]):
    """An array that unlinks its memory when it goes, so that a fresh output can be let go."""

    memory: SharedMemory | None = None

    @classmethod
    def of(cls, array: Array, memory: SharedMemory) -> Owned:
        """Hand the memory to the array."""
        owned = array.view(cls)
        owned.memory = memory
        return owned

    def __del__(self) -> None:
        if self.memory is not None:
            self.memory.unlink()


# ------------------------------------------------------------------------ in the workers


def _attach(spec: Spec, func: Callable[..., Any]) -> None:
    global _x, _func
    _x = _open(spec)
    _func = func


def _open(spec: Spec) -> Array:
    name, shape, dtype = spec
    memory = SharedMemory(name)
    _memories.append(memory)
    return np.ndarray(shape, dtype, memory.buf)


def _output(spec: Spec) -> Array:
    """Attach to an output once, and let the one before it go."""
    global _y, _y_name
    if _y is None or _y_name != spec[0]:
        if _y is not None:
            _y = None
            _memories.pop().close()
        _y, _y_name = _open(spec), spec[0]
    return _y


def _touch(start: int, stop: int) -> None:
    _func(_x[start:stop])


def _rows(spec: Spec | None, start: int, stop: int) -> None:
    if spec is None:
        for row in _x[start:stop]:
            _func(row)
        return
    y = _output(spec)
    if y.ndim == 1:
        y[start:stop] = [_func(row) for row in _x[start:stop]]
    else:
        for i in range(start, stop):
            y[i] = _func(_x[i])


def _blocks(spec: Spec, start: int, stop: int) -> None:
    _output(spec)[start:stop] = _func(_x[start:stop])


def _blocks_into(spec: Spec, start: int, stop: int) -> None:
    _func(_x[start:stop], out=_output(spec)[start:stop])


PEERS = {"pool": Pool}
