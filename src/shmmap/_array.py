"""Shared arrays: plain ndarrays whose bytes lie in a segment, and the handles that stand for them.

A shared array has no class of its own: whether an array is shared, and where, is found by looking its
address up in the table of mapped blocks, so that any view counts and nothing leaks into users' results.
A *handle* is what crosses the process border instead of bytes: segment, offset, shape, strides, dtype,
and whether it may be written. Memory-mapped files have handles too: path and position in the file.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _segment
from ._masked import is_masked, mask_of
from ._memory import usable_cores

if TYPE_CHECKING:
    from multiprocessing.shared_memory import SharedMemory

    from _typeshed import StrPath

__all__ = [
    "adopt",
    "asshared",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "is_shared",
    "load",
    "ones",
    "ones_like",
    "zeros",
    "zeros_like",
]

Array = NDArray[Any]
# NumPy where the annotations of its releases differ in what they accept.
_numpy: Any = np
Order = str | None

# First touch of shared pages is the dearest thing here and scales with threads; below this size starting
# the threads costs more than it brings.
PARALLEL_NBYTES = 1 << 23
# More threads than this only contend for the memory bus.
COPY_THREADS = 8
# A file is read in pieces of this size where they go through a buffer: it is to stay in the cache, and the
# more system calls there are, the more they cost.
READ_NBYTES = 1 << 18
# With more threads, a file is better read into the pages themselves: writing through a descriptor goes
# through a lock that lets in one of them at a time.
READ_THREADS = 4


# ---------------------------------------------------------------- handles


class SegmentHandle(NamedTuple):
    """An array within a segment."""

    segment: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    writeable: bool


class FileHandle(NamedTuple):
    """An array within a memory-mapped file; device and inode make sure it is still the same file."""

    path: str
    device: int
    inode: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    writeable: bool


Handle = SegmentHandle | FileHandle


def byte_bounds(a: Array) -> tuple[int, int]:
    """Address of the first byte of `a`, and of the first one past it."""
    low = high = a.__array_interface__["data"][0]
    if a.size == 0:
        return low, low
    for length, stride in zip(a.shape, a.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + a.itemsize


def _dtype_code(dtype: np.dtype[Any]) -> Any:
    """What stands for a dtype in a handle: its string where that says all, for speed."""
    return dtype.str if dtype.isbuiltin == 1 and dtype.metadata is None else dtype


def find_memmap(a: Array) -> np.memmap[Any, Any] | None:
    """The memory-mapped array that owns the mapping `a` is a view of, if there is one."""
    base: Any = a
    while isinstance(base, np.ndarray):
        owner: Any = base.base
        if isinstance(base, np.memmap) and isinstance(owner, mmap.mmap):
            return base
        base = owner
    return None


def handle_of(a: Array) -> Handle | None:
    """The handle of a shared array or memory-mapped array; None for a private one."""
    address = a.__array_interface__["data"][0]
    low = byte_bounds(a)[0] if a.ndim and min(a.strides) < 0 else address
    block = _segment.find_block(low)
    segment = block.segment if block is not None else _segment.find_segment(low)
    if segment is not None:
        return SegmentHandle(
            segment.id,
            address - segment.address,
            a.shape,
            a.strides,
            _dtype_code(a.dtype),
            a.flags.writeable,
        )
    root = find_memmap(a)
    if root is None or root.filename is None:
        return None
    path = os.fspath(root.filename)
    if not _is_still_there(root, path):
        return None  # the file was replaced or removed: what is mapped can be had here only
    stat = os.stat(path)
    position = root.offset + address - root.__array_interface__["data"][0]
    _check_length(a, path, position, stat.st_size)
    if root.mode == "c":
        return None
    return FileHandle(
        path,
        stat.st_dev,
        stat.st_ino,
        position,
        a.shape,
        a.strides,
        _dtype_code(a.dtype),
        a.flags.writeable,
    )


def from_handle(handle: Handle) -> Array:
    """The array a handle stands for, over this process's own mapping.

    Raises
    ------
    KeyError
        If the segment is not attached here.
    ValueError, TypeError
        If the handle does not fit what it names.
    """
    if isinstance(handle, FileHandle):
        return _from_file(handle)
    segment = _segment.get_segment(handle.segment)
    touched[handle.segment] = touched.get(handle.segment, 0) + 1
    root: Any = segment.root
    offset = handle.offset
    block = _segment.find_block(segment.address + offset)
    if block is not None and block.root is not None:
        # This process owns the array: the new view must count towards the block's life.
        root = block.root()
        offset -= block.offset
        if root is None:
            raise ValueError("the array was dropped while a view of it was under way")
    elif segment.fd >= 0:
        root = _segment.own(segment)  # made by a worker, owned by whoever gets the result
    dtype = np.dtype(handle.dtype)
    if dtype.hasobject:
        raise ValueError("a handle of Python objects: their addresses mean nothing here")
    a: Array = np.ndarray(handle.shape, dtype, root, offset, handle.strides)
    if not handle.writeable:
        a.flags.writeable = False
    return a


def _check_length(a: Array, path: str, position: int, size: int) -> None:
    """Refuse an array that lies beyond the end of its file: reading there would be a bus error."""
    stop = position + byte_bounds(a)[1] - a.__array_interface__["data"][0]
    if a.size == 0 or stop <= size:
        return
    gone = ""
    if a.ndim and a.strides[0] > 0:
        row = stop - position - (a.shape[0] - 1) * a.strides[0]
        first = max(0, (size - position - row) // a.strides[0] + 1)
        gone = f": of indices [0, {a.shape[0]}) along axis 0, [{first}, {a.shape[0]}) are gone"
    raise ValueError(
        f"the file {path!r} was cut short after it was mapped; it holds {size:,} bytes, and the array "
        f"ends at byte {stop:,}{gone}"
    )


_there: dict[int, tuple[weakref.ref[Any], bool]] = {}


def _is_still_there(root: np.memmap[Any, Any], path: str) -> bool:
    """Whether the file a memory-mapped array maps is still the one its path names.

    Asked of the kernel, whose list of mappings follows renamed and removed files. Once per mapping and
    file: an answer stands as long as the file under that path stays the same.
    """
    try:
        stat = os.stat(path)
    except OSError:
        return False
    key = hash((id(root), stat.st_dev, stat.st_ino))
    known = _there.get(key)
    if known is not None and known[0]() is root:
        return known[1]
    answer = True
    try:
        address = root.__array_interface__["data"][0]
        with open("/proc/self/maps") as file:
            for line in file:
                limits, _, _, _, inode, *name = line.split(maxsplit=5)
                low, high = (int(limit, 16) for limit in limits.split("-"))
                if low <= address < high:
                    mapped = name[0].rstrip("\n") if name else ""
                    is_same = mapped == os.path.realpath(path) or int(inode) == stat.st_ino
                    answer = is_same and not mapped.endswith(" (deleted)")
                    break
    except OSError:
        pass  # no /proc: taken on trust
    for old in [old for old, (ref, _) in _there.items() if ref() is None]:
        del _there[old]
    _there[key] = (weakref.ref(root), answer)
    return answer


touched: dict[int, int] = {}
"""Number of arrays made from handles in each segment since a worker's call began; see `_worker`."""

_files: dict[tuple[str, int, int, bool], NDArray[np.uint8]] = {}


def _from_file(handle: FileHandle) -> Array:
    key = (handle.path, handle.device, handle.inode, handle.writeable)
    root = _files.get(key)
    if root is None:
        fd = os.open(handle.path, (os.O_RDWR if handle.writeable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            stat = os.fstat(fd)
            if (stat.st_dev, stat.st_ino) != (handle.device, handle.inode):
                raise ValueError(f"{handle.path} was replaced by another file during the map")
            if stat.st_size == 0:
                raise ValueError(f"the file {handle.path!r} was cut short after it was mapped")
            access = mmap.ACCESS_WRITE if handle.writeable else mmap.ACCESS_READ
            root = np.frombuffer(mmap.mmap(fd, stat.st_size, access=access), np.uint8)
        finally:
            os.close(fd)
        _files[key] = root
    try:
        return np.ndarray(handle.shape, np.dtype(handle.dtype), root, handle.offset, handle.strides)
    except (ValueError, TypeError) as exc:
        raise ValueError(
            f"the file {handle.path!r} was cut short after it was mapped; it holds {root.size:,} bytes"
        ) from exc


# Results from here on are written through a descriptor where pages are fresh, and elsewhere not before those
# they take are entered into the page table: less is not worth a call of the system.
POUR_NBYTES = 1 << 16
NOT_FRESH = 1 << 62
"""In the place of a position from which on pages are fresh, where there is none."""


class Way(NamedTuple):
    """How a worker writes into a large output.

    Whole pages that are fresh are poured: written through the descriptor, they are neither cleared nor
    entered into the page table of this process. Into others it is quicker to store, once they are entered.
    """

    segment: _segment.Segment
    offset: int
    """Position of the array in the segment."""
    stride: int
    """Bytes from one index to the next."""
    fresh: int
    """Position from which on pages are fresh."""

    def pour(self, part: Array, start: int) -> bool:
        """Write the part of the array that begins at index `start`, unless it is to be stored."""
        nbytes = part.nbytes
        if nbytes < POUR_NBYTES:
            return False
        at = self.offset + start * self.stride
        if at + nbytes <= self.fresh or not part.flags.c_contiguous:
            _segment.map_pages(self.segment, at, nbytes)
            return False
        data = memoryview(_numpy.asarray(part.reshape(-1).view(np.uint8)))
        done = 0
        while done < nbytes:
            done += os.pwrite(self.segment.pour_fd, data[done:], at + done)
        return True

    def make_ready(self, start: int, stop: int) -> None:
        """Have the indices ``[start, stop)`` entered, unless each of them is going to be poured."""
        at, nbytes = self.offset + start * self.stride, (stop - start) * self.stride
        if nbytes >= POUR_NBYTES and (self.stride < POUR_NBYTES or at + nbytes <= self.fresh):
            _segment.map_pages(self.segment, at, nbytes)


def fresh_from(a: Array) -> int:
    """Position in its segment from which on the pages under a new array are fresh."""
    block = _segment.find_block(a.__array_interface__["data"][0])
    if block is None or block.slab is not None or not a.flags.c_contiguous:
        return NOT_FRESH
    return block.segment.touched


def make_way(a: Array, fresh: int = NOT_FRESH) -> Way | None:
    """The way into an output, in a worker; None if it is small, or not contiguous."""
    segment = _segment.find_segment(a.__array_interface__["data"][0])
    if segment is None or segment.pour_fd < 0 or not a.flags.c_contiguous or not a.size:
        return None
    offset = a.__array_interface__["data"][0] - segment.address
    return Way(segment, offset, a.strides[0], fresh)


def forget_files() -> None:
    """Let go of the files mapped for the call that ends."""
    _files.clear()


# ---------------------------------------------------------------- allocating


def check_dtype(dtype: np.dtype[Any], what: str = "a shared array") -> None:
    """Refuse dtypes whose elements are not plain bytes."""
    if dtype.hasobject or dtype.kind == "T":
        raise TypeError(
            f"{what} cannot have dtype {dtype}: its elements are references to Python objects, which "
            "mean nothing in another process. Use a fixed-size dtype (astype('U16'), a structured "
            "dtype), or pass a list and get a list back"
        )


def _in_parallel(task: Callable[[int, int], object], n: int, nbytes: int, step: int = 1) -> None:
    """Call ``task(start, stop)`` over ``range(n)`` in several threads if it is worth it.

    The limits between are multiples of `step`: of a page, where whole pages are quicker to write.
    """
    threads = min(COPY_THREADS, usable_cores(), n)
    if nbytes < PARALLEL_NBYTES or threads < 2:
        task(0, n)
        return
    from concurrent.futures import ThreadPoolExecutor

    parts = threads * 4
    cuts = [*(n * i // parts // step * step for i in range(parts)), n]
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(task, cuts[:-1], cuts[1:]):
            pass


def copy_into(target: Array, source: Array) -> None:
    """``np.copyto(target, source, casting="unsafe")``, with several threads when that is faster."""
    if target.ndim == 0 or target.size == 0:
        np.copyto(target, source, casting="unsafe")
        return
    axis = int(np.argmax(np.abs(target.strides) * (np.array(target.shape) > 1)))
    t, s = np.moveaxis(target, axis, 0), np.moveaxis(source, axis, 0)

    def copy(start: int, stop: int) -> None:
        np.copyto(t[start:stop], s[start:stop], casting="unsafe")

    _in_parallel(copy, t.shape[0], target.nbytes)


def _fill(target: Array, value: Any) -> None:
    flat = target.reshape(-1, order="A") if target.flags.forc else target
    if flat.ndim == 0:
        np.copyto(flat, value, casting="unsafe")
        return

    def fill(start: int, stop: int) -> None:
        np.copyto(flat[start:stop], value, casting="unsafe")

    _in_parallel(fill, flat.shape[0], target.nbytes)


def _shape(shape: Any) -> tuple[int, ...]:
    try:
        dims = (shape.__index__(),)
    except (AttributeError, TypeError):
        dims = tuple(length.__index__() for length in shape)
    if any(length < 0 for length in dims):
        raise ValueError("negative dimensions are not allowed")
    return dims


def _allocate(shape: Any, dtype: DTypeLike, order: Order = "C", *, zero: bool = False) -> Array:
    """A shared array, of zeros if asked for."""
    dims = _shape(shape)
    dt = np.dtype(dtype)
    check_dtype(dt)
    if order not in ("C", "F", None):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    nbytes = dt.itemsize
    for length in dims:
        nbytes *= length
    root = _segment.allocate(nbytes)
    if zero and not _segment.is_fresh(root):
        _fill(root, 0)
    return cast(Array, _numpy.ndarray(dims, dt, root, order="F" if order == "F" else "C"))


def empty(shape: int | Sequence[int], dtype: DTypeLike = float, order: str = "C") -> Array:
    """Return a new shared array without initialising its entries, as :func:`numpy.empty` does.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the array.
    dtype : dtype-like, default float64
        Any dtype of plain bytes.
    order : {'C', 'F'}, default 'C'
        Memory layout.

    Returns
    -------
    numpy.ndarray
        An ordinary array in shared memory, reserved up front. It goes back with its last view.

    Raises
    ------
    SharedMemoryError
        If there is not enough shared memory; nothing is left allocated.
    TypeError
        For an object dtype.

    Examples
    --------
    >>> import shmmap
    >>> a = shmmap.empty((2, 3), dtype="f4")
    >>> a.shape, a.dtype, shmmap.is_shared(a)
    ((2, 3), dtype('float32'), True)
    """
    return _allocate(shape, dtype, order)


def zeros(shape: int | Sequence[int], dtype: DTypeLike = float, order: str = "C") -> Array:
    """Return a new shared array of zeros, as :func:`numpy.zeros` does; see :func:`empty`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.zeros(3)
    array([0., 0., 0.])
    """
    return _allocate(shape, dtype, order, zero=True)


def ones(shape: int | Sequence[int], dtype: DTypeLike = float, order: str = "C") -> Array:
    """Return a new shared array of ones, as :func:`numpy.ones` does; see :func:`empty`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.ones(2, dtype=int)
    array([1, 1])
    """
    return full(shape, 1, dtype, order)


def full(
    shape: int | Sequence[int],
    fill_value: ArrayLike,
    dtype: DTypeLike | None = None,
    order: str = "C",
) -> Array:
    """Return a new shared array filled with a value, as :func:`numpy.full` does; see :func:`empty`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.full(2, 7.5)
    array([7.5, 7.5])
    """
    if dtype is None:
        dtype = np.asarray(fill_value).dtype
    a = empty(shape, dtype, order)
    if np.ndim(fill_value):
        np.copyto(a, fill_value, casting="unsafe")
    else:
        _fill(a, fill_value)
    return a


def _allocate_like(
    prototype: ArrayLike, dtype: DTypeLike | None, order: Order, shape: Any, *, zero: bool = False
) -> Array:
    """`_allocate` with NumPy's rules for ``order="K"``: keep the order of the axes in memory."""
    like = np.asanyarray(prototype)
    dt = like.dtype if dtype is None else np.dtype(dtype)
    dims = like.shape if shape is None else _shape(shape)
    if order in ("C", "F"):
        return _allocate(dims, dt, order, zero=zero)
    if order == "A":
        return _allocate(dims, dt, "F" if like.flags.fnc else "C", zero=zero)
    if order not in ("K", None):
        raise ValueError(f"order must be one of 'C', 'F', 'A', 'K', not {order!r}")
    if len(dims) != like.ndim or like.flags.c_contiguous:
        return _allocate(dims, dt, "C", zero=zero)
    axes = sorted(range(like.ndim), key=lambda axis: -abs(like.strides[axis]))
    return _allocate([dims[axis] for axis in axes], dt, zero=zero).transpose(np.argsort(axes))


def empty_like(
    prototype: ArrayLike,
    dtype: DTypeLike | None = None,
    order: str = "K",
    shape: int | Sequence[int] | None = None,
) -> Array:
    """Return a new shared array with the shape and dtype of another; see :func:`empty`.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> shmmap.empty_like(np.zeros((2, 3), "f4")).dtype
    dtype('float32')
    """
    return _allocate_like(prototype, dtype, order, shape)


def zeros_like(
    prototype: ArrayLike,
    dtype: DTypeLike | None = None,
    order: str = "K",
    shape: int | Sequence[int] | None = None,
) -> Array:
    """Return a shared array of zeros with the shape and dtype of another; see :func:`zeros`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.zeros_like([1, 2])
    array([0, 0])
    """
    return _allocate_like(prototype, dtype, order, shape, zero=True)


def ones_like(
    prototype: ArrayLike,
    dtype: DTypeLike | None = None,
    order: str = "K",
    shape: int | Sequence[int] | None = None,
) -> Array:
    """Return a shared array of ones with the shape and dtype of another; see :func:`ones`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.ones_like([2.5, 3.5])
    array([1., 1.])
    """
    return full_like(prototype, 1, dtype, order, shape)


def full_like(
    prototype: ArrayLike,
    fill_value: ArrayLike,
    dtype: DTypeLike | None = None,
    order: str = "K",
    shape: int | Sequence[int] | None = None,
) -> Array:
    """Return a filled shared array with the shape and dtype of another; see :func:`full`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.full_like([1, 2], 9)
    array([9, 9])
    """
    a = empty_like(prototype, dtype, order, shape)
    if np.ndim(fill_value):
        np.copyto(a, fill_value, casting="unsafe")
    else:
        _fill(a, fill_value)
    return a


# ---------------------------------------------------------------- placing


def is_shared(a: object) -> bool:
    """Tell whether workers reach the bytes of `a` without a copy.

    Parameters
    ----------
    a : object
        Any object; only arrays can be shared.

    Returns
    -------
    bool
        True for arrays made by this library, any view of them, and memory-mapped arrays other than
        copy-on-write ones (``mode="c"``).

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> a = shmmap.zeros((4, 4))
    >>> shmmap.is_shared(a[::2].T), shmmap.is_shared(a.copy()), shmmap.is_shared(np.asarray(a))
    (True, False, True)
    """
    if not isinstance(a, np.ndarray) or handle_of(a) is None:
        return False
    mask = mask_of(a)
    return mask is None or handle_of(mask) is not None


def refuse_masked(a: object) -> None:
    """A masked array as a plain one would silently lose its mask."""
    if is_masked(a):
        raise TypeError(
            "a plain array would lose the mask of a masked one; shmmap.share keeps it, and "
            "a.filled(value) has none"
        )


def asshared(a: ArrayLike, dtype: DTypeLike | None = None, order: str | None = None) -> Array:
    """Return :func:`numpy.asarray` of `a` in shared memory.

    Parameters
    ----------
    a : array-like
        An array, or anything :func:`numpy.asarray` takes.
    dtype : dtype-like, optional
        By default that of `a`.
    order : {'C', 'F', 'A', 'K'}, optional
        By default the layout of `a` is kept.

    Returns
    -------
    numpy.ndarray
        Same shape and values. `a` itself if it is shared already and fits `dtype` and `order`;
        otherwise one copy, made by several threads when it is large.

    Raises
    ------
    SharedMemoryError
        If there is not enough shared memory.
    TypeError
        For an object dtype or a masked array.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> x = shmmap.asshared(np.arange(6).reshape(2, 3))
    >>> x
    array([[0, 1, 2],
           [3, 4, 5]])
    >>> shmmap.asshared(x) is x
    True
    """
    refuse_masked(a)
    if not isinstance(a, np.ndarray):
        a = np.asarray(a)
    check_dtype(a.dtype)
    if is_shared(a):
        same: Array = _numpy.asarray(a, dtype=dtype, order=order)
        if np.may_share_memory(same, a) or is_shared(same):
            return same
    target = _allocate_like(a, dtype, order or "K", None)
    if not _write_into(target, a):
        copy_into(target, np.asarray(a))
    return target


def _place_in_segment(a: Array) -> tuple[int, int] | None:
    """Descriptor of the segment that a new array lies in, and the position there; None if there is none."""
    address = a.__array_interface__["data"][0]
    block = _segment.find_block(address)
    if block is None or block.segment.fd < 0:
        return None
    return block.segment.fd, address - block.segment.address


def _write_into(target: Array, source: Array) -> bool:
    """Fill a large fresh array through its descriptor, if its bytes are those of `source`.

    Writing whole pages to a tmpfs neither clears nor faults them in first: half the time of a copy.
    """
    if target.nbytes < PARALLEL_NBYTES or target.dtype != source.dtype:
        return False
    if target.strides != source.strides or not (target.flags.forc and source.flags.forc):
        return False
    place = _place_in_segment(target)
    if place is None:
        return False
    fd, base = place
    data = memoryview(_numpy.asarray(source.reshape(-1, order="A").view(np.uint8)))

    def write(start: int, stop: int) -> None:
        while start < stop:
            start += os.pwrite(fd, data[start:stop], base + start)

    _in_parallel(write, target.nbytes, target.nbytes, mmap.PAGESIZE)
    return True


def packed_nbytes(a: Array) -> int:
    """Bytes that `pack_into` needs: less than ``a.nbytes`` where an array overlaps itself."""
    low, high = byte_bounds(a)
    return min(a.nbytes, high - low)


def pack_into(root: NDArray[np.uint8], offset: int, a: Array) -> Array:
    """Copy a plain array into part of a block, densely and in its order.

    One that overlaps itself (a broadcast, a sliding window) keeps its strides over a copy of the bytes it
    covers, and so takes no more memory than it did.
    """
    low, high = byte_bounds(a)
    if high - low < a.nbytes:
        np.copyto(root[offset : offset + high - low], np.asarray(_Covered(a, low, high)))
        offset += a.__array_interface__["data"][0] - low
        return cast(Array, _numpy.ndarray(a.shape, a.dtype, root, offset, a.strides))
    axes = sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))
    dims = [a.shape[axis] for axis in axes]
    target = _numpy.ndarray(dims, a.dtype, root, offset).transpose(np.argsort(axes))
    if not _write_into(target, a):
        copy_into(target, a)
    return cast(Array, target)


class _Covered:
    """Lends `numpy.asarray` the bytes an array covers, and keeps that array."""

    def __init__(self, a: Array, low: int, high: int) -> None:
        self.a = a
        self.__array_interface__ = {
            "data": (low, True),
            "shape": (high - low,),
            "typestr": "|u1",
            "version": 3,
        }


def place(a: Array) -> Array:
    """A read-only copy of a private plain array in shared memory, for one call."""
    placed = pack_into(_segment.allocate(packed_nbytes(a)), 0, a)
    placed.flags.writeable = False
    return placed


def load(path: StrPath, mmap_mode: str | None = None) -> Array:
    """Load a ``.npy`` file, by default straight into shared memory.

    Parameters
    ----------
    path : str or path-like
        The file, in NumPy's ``.npy`` format.
    mmap_mode : {None, 'r', 'r+', 'c'}, optional
        None reads the file into shared memory with no second copy. Otherwise the file is memory-mapped
        as by :func:`numpy.load`; workers then map the file themselves (``"c"`` counts as private).

    Returns
    -------
    numpy.ndarray or numpy.memmap
        The array.

    Raises
    ------
    SharedMemoryError
        If there is not enough shared memory; ``mmap_mode="r"`` needs none.
    ValueError
        If it is not a ``.npy`` file, or holds Python objects.

    Examples
    --------
    >>> import numpy as np, os, shmmap, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "a.npy")
    >>> np.save(path, np.arange(5))
    >>> a = shmmap.load(path)
    >>> a, shmmap.is_shared(a)
    (array([0, 1, 2, 3, 4]), True)
    >>> folder.cleanup()
    """
    if mmap_mode not in (None, "r", "r+", "c"):
        raise ValueError(f"mmap_mode must be None, 'r', 'r+' or 'c', not {mmap_mode!r}")
    with open(path, "rb") as file:
        if file.read(6) != np.lib.format.MAGIC_PREFIX:
            raise ValueError(f"{os.fspath(path)!r} is not a .npy file")
        file.seek(0)
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:  # 3.0, field names in utf-8; it has no public header reader
            mapped: Array = _numpy.load(path, mmap_mode=mmap_mode or "r")
            return mapped if mmap_mode else asshared(mapped)
        check_dtype(dtype, os.fspath(path))
        offset = file.tell()
        nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
        if os.fstat(file.fileno()).st_size < offset + nbytes:
            raise ValueError(f"{os.fspath(path)!r} is cut short: {nbytes} bytes of data expected")
        if mmap_mode is not None and nbytes:
            return cast(Array, _numpy.load(path, mmap_mode=mmap_mode))
        a = empty(shape, dtype, "F" if fortran else "C")
        if nbytes == 0:
            return a
        _read_into(a, file.fileno(), offset, os.fspath(path))
        return a


def _read_into(target: Array, fd: int, offset: int, path: Any) -> None:
    """Fill a new array with a file's bytes from `offset` on.

    A large one through its descriptor: reading into a fresh mapping clears each page, faults it in, and
    only then overwrites it, which takes nearly twice as long as a detour over a buffer in the cache.
    """
    nbytes = target.nbytes
    flat = memoryview(_numpy.asarray(target.reshape(-1, order="A").view(np.uint8)))
    place = _place_in_segment(target) if nbytes >= PARALLEL_NBYTES else None

    def check(got: int) -> int:
        if got == 0:
            raise ValueError(f"{path!r} became shorter while it was read")
        return got

    def read(start: int, stop: int) -> None:
        while start < stop:
            start += check(os.preadv(fd, [flat[start:stop]], offset + start))

    def pour(start: int, stop: int) -> None:
        assert place is not None
        buffer = memoryview(bytearray(READ_NBYTES))
        while start < stop:
            got = check(os.preadv(fd, [buffer[: stop - start]], offset + start))
            done = 0
            while done < got:
                done += os.pwrite(place[0], buffer[done:got], place[1] + start + done)
            start += got

    threads = min(COPY_THREADS, usable_cores())
    through = pour if place and threads <= READ_THREADS else read
    _in_parallel(through, nbytes, nbytes, mmap.PAGESIZE)


def adopt(
    shm: SharedMemory | str,
    shape: int | Sequence[int],
    dtype: DTypeLike,
    offset: int = 0,
    order: str = "C",
) -> Array:
    """Return a shared array over an existing ``SharedMemory`` that other code made.

    Parameters
    ----------
    shm : multiprocessing.shared_memory.SharedMemory or str
        The object, or its name. It must not be unlinked yet.
    shape, dtype, order
        As for :func:`empty`.
    offset : int, default 0
        Byte at which the array starts.

    Returns
    -------
    numpy.ndarray
        It stays valid after the other code closes or unlinks its object, and never destroys it.

    Raises
    ------
    FileNotFoundError
        If the name is unlinked or was never there.
    ValueError
        If the array does not fit into the memory.

    Examples
    --------
    >>> from multiprocessing.shared_memory import SharedMemory
    >>> import shmmap
    >>> shm = SharedMemory(create=True, size=64)
    >>> a = shmmap.adopt(shm, (8,), "f8")
    >>> shm.close(); shm.unlink()
    >>> a[:] = 1
    >>> a.sum()
    np.float64(8.0)
    """
    name = (shm if isinstance(shm, str) else shm.name).lstrip("/")
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not the name of shared memory")
    dt = np.dtype(dtype)
    check_dtype(dt)
    dims = _shape(shape)
    nbytes = dt.itemsize * int(np.prod(dims, dtype=object))
    try:
        # The file itself: SharedMemory(name) would have this process's tracker destroy it at exit.
        fd = os.open(f"/dev/shm/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no shared memory is named {name!r} (any more); adopt it before it is unlinked"
        ) from None
    size = os.fstat(fd).st_size
    if offset < 0 or offset + nbytes > size:
        os.close(fd)
        raise ValueError(
            f"an array of {nbytes} bytes at offset {offset} does not fit into the {size} bytes of "
            f"{name!r}"
        )
    root = _segment.adopt(fd, size)
    return cast(Array, _numpy.ndarray(dims, dt, root, offset, order=order))
