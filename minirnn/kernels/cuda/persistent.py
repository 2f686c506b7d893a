"""Persistent kernels: launched once for a whole sequence or text, with weights cached in shared memory.

See Diamos et al. 2016, "Persistent RNNs". A block caches as many of its weights as fit, and reads the others from
global memory in the same order. They are packed for it: every four elements it multiplies are one aligned float4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minirnn.kernels.cuda import block
from minirnn.kernels.cuda import launch as launching
from minirnn.kernels.cuda.array import DeviceArray, empty
from minirnn.kernels.cuda.jit import SIMULATOR, Array, Kernel, cuda, kernel
from minirnn.kernels.cuda.launch import launch
from minirnn.kernels.cuda.launch_plan import LaunchPlan, Limits, float4s

_DEFAULT_SHARED = 48 * 1024  # bytes of shared memory that a kernel has without an attribute set


def compile_kernel(function: Callable) -> Kernel:
    """A kernel whose registers allow as many threads as :class:`Limits` has."""
    return kernel(function, max_registers=128)


@kernel
def _probe(out: Array) -> None:
    shared = cuda.shared.array(0, np.float32)
    shared[0] = out[0]
    out[0] = shared[0]


def _allow_shared(kernel: Kernel, args: Sequence[Any], nbytes: int) -> None:
    """Compile a kernel, and set the driver's attribute that lets it have ``nbytes`` of shared memory."""
    function = launching.compiled(kernel, args)._codelibrary.get_cufunc()
    driver = cuda.cudadrv.driver
    attribute = driver.binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    if isinstance(function.handle, driver.binding.CUkernel):
        driver.driver.cuKernelSetAttribute(attribute, nbytes, function.handle, function.device.id)
    else:  # older versions of numba-cuda
        driver.driver.cuFuncSetAttribute(function.handle, attribute, nbytes)


@functools.cache
def limits() -> Limits:
    """Those of the current GPU; the simulator has two multiprocessors and no grid sync."""
    if SIMULATOR:
        return Limits(2, 16 * 1024, 4, False)
    gpu = cuda.get_current_device()
    shared = gpu.MAX_SHARED_MEMORY_PER_BLOCK
    try:
        _allow_shared(_probe, (empty((1,), np.float32),), gpu.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        shared = gpu.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    except Exception:  # a version of numba-cuda with other internals: the default amount must do
        pass
    return Limits(gpu.MULTIPROCESSOR_COUNT, shared, 512, bool(gpu.COOPERATIVE_LAUNCH))


_allowed: set[Kernel] = set()


def launch_kernel(kernel: Kernel, plan: LaunchPlan, *args: Any) -> None:
    """Launch a kernel, always with the same argument types, as planned."""
    if plan.shared_bytes > _DEFAULT_SHARED and not SIMULATOR and kernel not in _allowed:
        _allow_shared(kernel, args, limits().shared_bytes)
        _allowed.add(kernel)
    launching.launch_grid(kernel, plan.blocks, plan.threads, plan.shared_bytes, args)


@kernel
def _pack(weight: Array, sizes: tuple, transpose: bool, out: Array, offset: int) -> None:
    gates, units, depth, columns = sizes
    inputs, size = weight.shape[1], weight.shape[0] // gates
    for i in range(cuda.grid(1), out.shape[0] * depth * columns, cuda.gridsize(1)):
        row, column = block.divmod_u32(i, columns)
        part, k = block.divmod_u32(row, depth)
        unit, gate = block.divmod_u32(column, gates)
        unit += part * units
        value = weight.dtype.type(0)
        if transpose and column < units * gates and unit < size and k < inputs:
            value = weight[gate * size + unit, k]
        if not transpose and column < units and part * units + column < inputs and k < weight.shape[0]:
            value = weight[k, part * units + column]
        out[part, offset + k * columns + column] = value


def pack(
    weight: DeviceArray, gates: int, units: int, transpose: bool, out: DeviceArray | None = None, offset: int = 0
) -> DeviceArray:
    """The right-hand side of a product, for blocks of ``units`` outputs: [blocks, depth * columns], in whole float4s.

    With ``transpose`` the outputs are the units of ``weight`` [G H, P], each with its gates beside one another, and the
    sum runs over P; else the outputs are the P columns, ``gates`` is 1, and the sum runs over the rows.

    Args:
        out: [blocks, ...], written from index ``offset`` of each block on; a new array if None.
    """
    rows, inputs = weight.shape
    outputs, depth = (rows // gates, inputs) if transpose else (inputs, rows)
    depth, columns = 4 * float4s(depth), 4 * float4s(units * gates)
    if out is None:
        out = empty((-(-outputs // units), depth * columns), weight.dtype)
    launch(_pack, out.shape[0] * depth * columns, weight, (gates, units, depth, columns), transpose, out, offset)
    return out


def pack_inner(weights: Sequence[DeviceArray], size: int, dtype: np.dtype, transpose: bool) -> DeviceArray:
    """The weights [H, H] of all products inside the step, packed one after the other, as one row."""
    matrix = (4 * float4s(size)) ** 2
    packed = empty((1, len(weights) * matrix), dtype)
    for number, weight in enumerate(weights):
        pack(weight, 1, size, transpose, packed, number * matrix)
    return packed
