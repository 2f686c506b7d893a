"""Device memory: a caching allocator, like PyTorch's. Freed blocks are kept for the next array of about their size.

All work runs in the order of one stream, so memory can be used again as soon as the last array in it is gone: whatever
still reads it was launched before whatever writes it next.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from minirnn.errors import DeviceError
from minirnn.kernels.cuda.jit import SIMULATOR, cuda
from minirnn.kernels.memory import size_class

ALIGNMENT = 512  # bytes

_free: defaultdict[int, list[Any]] = defaultdict(list)
_used: dict[int, Any] = {}
"""Memory of blocks in use. Without this reference, a block that Python's cycle collector frees would take its memory
along: the collector runs the finalizers of weak references, which is how Numba frees memory, before any ``__del__``."""


class Block:
    """Owner of device memory.

    Attributes:
        memory: Numba's one-dimensional array of bytes.
        address: on the GPU.
        owner: where the memory is another library's, the array that keeps it alive.
    """

    __slots__ = ("address", "memory", "owner")

    def __init__(self, memory: Any, owner: object = None) -> None:
        self.memory, self.owner = memory, owner
        self.address: int = 0 if SIMULATOR else memory.device_ctypes_pointer.value or 0


class _CachedBlock(Block):
    """Memory of this allocator, which goes back to its free list with the block."""

    __slots__ = ()

    def __init__(self, memory: Any) -> None:
        super().__init__(memory)
        _used[id(memory)] = memory

    def __del__(self, free: defaultdict[int, list[Any]] = _free, used: dict[int, Any] = _used) -> None:
        memory = used.pop(id(self.memory))
        free[memory.size].append(memory)  # atomic; may run on any thread, and during interpreter shutdown


def allocate(nbytes: int) -> Block:
    """A block of at least so many bytes, from the free list or else from the driver.

    Raises:
        DeviceError: the GPU is out of memory, even after all cached blocks were freed.
    """
    size = size_class(nbytes, ALIGNMENT)
    try:
        return _CachedBlock(_free[size].pop())
    except IndexError:
        pass
    for attempt in range(2):
        try:
            return _CachedBlock(cuda.device_array(size, np.uint8))
        except Exception as error:  # the class of driver errors moved between versions of numba-cuda
            if "OUT_OF_MEMORY" not in str(error):
                raise
        if attempt == 0:
            release()
    raise DeviceError(
        f"device 'cuda': out of memory allocating {nbytes / 2**20:,.0f} MB; lower the batch size, the sequence "
        "length or the hidden size, or end other programs that use the GPU"
    )


_page_locked = np.empty(0, np.uint8)


def page_locked(nbytes: int) -> np.ndarray:
    """Page-locked memory of the host, which the GPU copies from and to directly; every call gives the same."""
    global _page_locked
    if _page_locked.size < nbytes:
        _page_locked = cuda.pinned_array(size_class(nbytes), np.uint8)
    return _page_locked[:nbytes]


def cached_bytes() -> int:
    """Bytes on the free list."""
    return sum(size * len(blocks) for size, blocks in list(_free.items()))


def release() -> None:
    """Give all cached memory back to the driver."""
    _free.clear()
