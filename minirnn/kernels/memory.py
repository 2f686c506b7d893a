"""Large arrays without fresh pages: memory goes back to a free list when its last view dies.

A page the kernel hands out for the first time costs as much as the arithmetic done on it. Training asks for
the same sizes at every step, so after the first step nothing large is allocated. Safe by construction: a
block is reused only when no array refers to it any more.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

SMALLEST = 1 << 16
"""Arrays under this many bytes come from NumPy's own allocator."""

_ALIGNMENT = 64
_KEEP_BYTES = 256 << 20  # so much may always wait
_SPARE = 1.5  # and in use and waiting together so many times what was in use at most

_free: defaultdict[int, list[np.ndarray]] = defaultdict(list)


class _Bytes:
    """What is in use, and what was at most since memory was last given back; a guide, so no lock."""

    in_use = 0
    most = 0


class _Block:
    """Owner of one piece of memory; NumPy keeps it alive as the base of every view."""

    __slots__ = ("memory", "size", "__array_interface__")

    def __init__(self, size: int, memory: np.ndarray) -> None:
        self.size, self.memory = size, memory
        address = memory.__array_interface__["data"][0]
        aligned = -(-address // _ALIGNMENT) * _ALIGNMENT
        self.__array_interface__ = {
            "data": (aligned, False), "shape": (size,), "typestr": "|u1", "version": 3,
        }  # fmt: skip

    def __del__(self) -> None:
        _Bytes.in_use -= self.size
        _free[self.size].append(self.memory)  # atomic; may run on any thread


def size_class(nbytes: int, least: int = 4096) -> int:
    """The size of block that holds so many bytes, a multiple of ``least``, a power of two."""
    step = max(1 << max(nbytes.bit_length() - 4, 0), least)  # eight classes an octave: at most an eighth is wasted
    return -(-nbytes // step) * step


def empty(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An uninitialised C-contiguous array, 64-byte aligned when it is large."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < SMALLEST:
        return np.empty(shape, dtype)
    size = size_class(nbytes)
    try:
        memory = _free[size].pop()
    except IndexError:
        waiting = cached_bytes()
        if waiting > _KEEP_BYTES and _Bytes.in_use + waiting + size > _SPARE * _Bytes.most:
            release()
        memory = np.empty(size + _ALIGNMENT, np.uint8)
    _Bytes.in_use += size
    if _Bytes.in_use > _Bytes.most:
        _Bytes.most = _Bytes.in_use
    block = np.asarray(_Block(size, memory))
    return block[:nbytes].view(dtype).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """Like :func:`empty`, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def cached_bytes() -> int:
    """Bytes that wait on the free list."""
    return sum(size * len(blocks) for size, blocks in list(_free.items()))


def release() -> None:
    """Give all waiting memory back to the operating system."""
    _free.clear()
    _Bytes.most = _Bytes.in_use
