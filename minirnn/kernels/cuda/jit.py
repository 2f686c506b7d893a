"""``numba.cuda`` as this package uses it; no other file imports it."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minirnn.errors import DeviceError
from minirnn.kernels.cache import KernelCache

try:
    from numba import cuda
except (ImportError, AttributeError) as error:  # versions of Numba and numba-cuda that do not fit one another
    raise DeviceError(f"device 'cuda': numba-cuda cannot be loaded ({error}); install minirnn[cuda12] again") from None

SIMULATOR: bool = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"
"""True under ``NUMBA_ENABLE_CUDASIM=1``: kernels run as plain Python, one CPU thread for each GPU thread."""

THREADS: int = 4 if SIMULATOR else 256
"""Threads of a block, a power of two; few in the simulator, where each is a thread of the CPU."""

Kernel: TypeAlias = Any
"""A compiled kernel or device function: Numba's dispatcher, which is not typed."""
Array: TypeAlias = Any
"""An array inside a kernel, whose type Numba infers."""
Number: TypeAlias = Any
"""A number inside a kernel, of the float type the kernel is compiled for."""


def _check_available() -> None:
    if SIMULATOR or cuda.is_available():
        return
    if importlib.util.find_spec("numba_cuda") is None:
        raise DeviceError(
            "device 'cuda' needs numba-cuda: pip install 'minirnn[cuda12]', or [cuda13] for a driver of CUDA 13"
        )
    raise DeviceError(
        "device 'cuda': no GPU, or no driver for it, was found; check that nvidia-smi lists one, and that the extra "
        "installed, cuda12 or cuda13, is not newer than the CUDA version it shows"
    )


_check_available()


class _SimulatedCuda:
    """The simulator's ``cuda``. Numba swaps a global of that name for the time a function of the module runs, which
    fails where threads wait inside a device function; here every name is looked up in the kernel that is running."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        running = self._module.simulator.kernel._get_kernel_context()
        return getattr(self._module if running is None else running, name)


if SIMULATOR:
    cuda = _SimulatedCuda(cuda)
else:  # Numba warns at every launch of a grid that does not fill the GPU, as those of small arrays cannot
    cuda.dispatcher.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0


def _stored_form() -> type | None:
    """How Numba stores a kernel on disk; None where this version has that elsewhere: every process compiles then."""
    numbas: Any = getattr(getattr(cuda, "dispatcher", None), "CUDACacheImpl", None)
    if SIMULATOR or numbas is None:
        return None

    class Stored(numbas):
        def rebuild(self, target_context: Any, payload: Any) -> Any:
            """Load the kernel onto the GPU now, under the compiler's lock: Numba fails where two threads do so."""
            target_context.refresh()
            kernel = super().rebuild(target_context, payload)
            kernel.bind()
            return kernel

    return Stored


_STORED = _stored_form()


@functools.cache
def _compiler() -> str:
    try:
        return importlib.metadata.version("numba-cuda")
    except importlib.metadata.PackageNotFoundError:
        return "of Numba"


def kernel(function: Callable, max_registers: int | None = None) -> Kernel:
    """``cuda.jit``: compiled at the first launch with each combination of argument types, and kept on disk.

    Args:
        max_registers: of a thread; what does not fit spills to memory.
    """
    if SIMULATOR:
        return cuda.jit(_without_warnings(function))
    compiled = cuda.jit(function, max_registers=max_registers)
    if _STORED is not None:
        compiled._cache = KernelCache(function, _STORED, _compiler())
    return compiled


def device_function(function: Callable) -> Kernel:
    """``cuda.jit(device=True)``: a function that kernels call."""
    return function if SIMULATOR else cuda.jit(device=True)(function)


def _without_warnings(function: Callable) -> Callable:
    """A GPU divides by zero without a warning; so must a simulated kernel, which computes with NumPy's numbers."""

    @functools.wraps(function)
    def quiet(*args: Any) -> None:
        with np.errstate(all="ignore"):
            function(*args)

    return quiet


log, log1p, sqrt = (np.log, np.log1p, np.sqrt) if SIMULATOR else (math.log, math.log1p, math.sqrt)
"""On a GPU ``math``'s functions give NaN where Python's raise; NumPy's do so in the simulator."""


@device_function
def add(a: Number, b: Number) -> Number:
    return a + b


@device_function
def larger(a: Number, b: Number) -> Number:
    """The larger of two numbers; NaN if either is NaN."""
    return a if a > b or a != a else b


@device_function
def smaller(a: Number, b: Number) -> Number:
    """The smaller of two numbers; NaN if either is NaN."""
    return a if a < b or a != a else b


def make_block_reduce(combine: Kernel) -> Kernel:
    """A device function that combines one value of every thread of a block, in pairs."""

    @device_function
    def block_reduce(value: Number, shared: Array) -> Number:
        """Returns the result to every thread. ``shared`` has :data:`THREADS` elements, as has the block."""
        thread = cuda.threadIdx.x
        shared[thread] = value
        half = THREADS // 2
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                shared[thread] = combine(shared[thread], shared[thread + half])
            half //= 2
        cuda.syncthreads()
        result = shared[0]
        cuda.syncthreads()  # before shared is written again
        return result

    return block_reduce


block_sum = make_block_reduce(add)


@intrinsic
def _copy_float4(typing_context: Any, to: Any, to_index: Any, source: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> None:
        float4 = ir.VectorType(context.get_data_type(to.dtype), 4).as_pointer()

        def pointer(kind: Any, array: Any, place: Any) -> Any:
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [place]), float4)

        value = builder.load(pointer(source, args[2], args[3]), align=16)
        builder.store(value, pointer(to, args[0], args[1]), align=16)

    return types.void(to, types.int64, source, types.int64), generate


def _copy_four(to: Array, to_index: int, source: Array, index: int) -> None:
    to.reshape(-1)[to_index : to_index + 4] = source.reshape(-1)[index : index + 4]


copy_float4 = _copy_four if SIMULATOR else device_function(lambda to, i, source, k: _copy_float4(to, i, source, k))
"""(to, i, source, k): copy four elements, from k on, to i and on, both multiples of 16 bytes, by one load and store.

In this package a ``float4`` is four elements, of float64 too.
"""
