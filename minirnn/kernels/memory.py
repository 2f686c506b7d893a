"""Large arrays in reused memory: a block returns to a free list when the last view of it dies.

The operating system clears each page it hands out, which costs as much as the arithmetic done on it. Training asks for
the same sizes at every step, so after the first step nothing large is allocated. A block is reused when no array
refers to it any more, for one that needs at least two thirds of it.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from minirnn.kernels.recording import allocated

MIN_BYTES = 1 << 16
"""Smaller arrays come from NumPy's own allocator."""

_ALIGNMENT = 64
_MAX_CACHED = 256 << 20  # bytes the free list may always hold
_MAX_FIT = 1.5  # size of a block that is reused, as a multiple of what is needed
_MAX_RATIO = 1.5  # and all blocks together, as a multiple of the most that was in use

_free: defaultdict[int, list[np.ndarray]] = defaultdict(list)


class _Bytes:
    """Bytes in use, and the most since the last release; an estimate, so without a lock."""

    in_use = 0
    peak = 0


class _Block:
    """Owner of one piece of memory; NumPy keeps it alive as the base of every view."""

    __slots__ = ("memory", "size", "__array_interface__")

    def __init__(self, size: int, memory: np.ndarray) -> None:
        self.size, self.memory = size, memory
        address = memory.__array_interface__["data"][0]
        aligned = -(-address // _ALIGNMENT) * _ALIGNMENT
        self.__array_interface__ = {"data": (aligned, False), "shape": (size,), "typestr": "|u1", "version": 3}

    def __del__(self) -> None:
        _Bytes.in_use -= self.size
        _free[self.size].append(self.memory)  # atomic; may run on any thread


def size_class(nbytes: int, minimum: int = 4096) -> int:
    """The size of block for so many bytes: at most an eighth larger, a multiple of ``minimum``, a power of two."""
    step = max(1 << max(nbytes.bit_length() - 4, 0), minimum)  # eight classes per power of two
    return -(-nbytes // step) * step


def _pop_free(size: int) -> tuple[int, np.ndarray] | None:
    """A free block of this size, or the smallest that is not much larger, after its size."""
    try:
        return size, _free[size].pop()
    except IndexError:
        for larger in sorted(s for s, blocks in list(_free.items()) if blocks and size < s <= _MAX_FIT * size):
            try:
                return larger, _free[larger].pop()
            except IndexError:  # another thread was faster
                continue
    return None


def empty(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An uninitialised C-contiguous array, 64-byte aligned if it is large."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < MIN_BYTES:
        return allocated(np.empty(shape, dtype))
    size = size_class(nbytes)
    found = _pop_free(size)
    if found is not None:
        size, memory = found
    else:
        cached = cached_bytes()
        if cached > _MAX_CACHED and _Bytes.in_use + cached + size > _MAX_RATIO * _Bytes.peak:
            release()
        memory = np.empty(size + _ALIGNMENT, np.uint8)
    _Bytes.in_use += size
    _Bytes.peak = max(_Bytes.peak, _Bytes.in_use)
    block = np.asarray(_Block(size, memory))
    return allocated(block[:nbytes].view(dtype).reshape(shape))


def zeros(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """Like :func:`empty`, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def cached_bytes() -> int:
    """Bytes on the free list."""
    return sum(size * len(blocks) for size, blocks in list(_free.items()))


def release() -> None:
    """Return the memory on the free list to the operating system."""
    _free.clear()
    _Bytes.peak = _Bytes.in_use
