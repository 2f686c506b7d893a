"""Kernels that stay on the GPU for a whole sequence or text: how they are launched, and what a block's threads share.

A block keeps what it multiplies, and as much of its weights as fits, in shared memory; the rest of the weights is read
from global memory in the same order. Its product is cut in three: ``parts`` of the depth, tiles of ``tile`` rows,
``lanes`` of four columns. A thread adds up a part of a tile of a lane in registers; the parts are added in order, so
numbers are the same in every run. Offsets into shared memory and into packed weights are in quads, four elements:
those, aligned, are what a thread reads at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minirnn.kernels.cuda import device
from minirnn.kernels.cuda.device import DeviceArray, empty, launch
from minirnn.kernels.cuda.jit import SIMULATOR, copy_quad, cuda, device_function, kernel
from minirnn.kernels.cuda.planning import WARP, Limits, Plan, quads

_ALWAYS_SHARED = 48 * 1024  # bytes of shared memory that a kernel need not ask for


# ---------------------------------------------------------------------------------------------------- launching


def resident_kernel(function: Callable) -> Any:
    """A kernel whose registers allow as many threads as :class:`Limits` names."""
    return kernel(function, max_registers=128)


@kernel
def _probe(out: Any) -> None:
    shared = cuda.shared.array(0, np.float32)
    shared[0] = out[0]
    out[0] = shared[0]


def _ask_for_shared(function: Any, args: tuple, nbytes: int) -> None:
    """Have the driver allow ``nbytes`` of shared memory to a kernel, which is compiled for that."""
    compiled = device.compiled(function, args)._codelibrary.get_cufunc()
    driver = cuda.cudadrv.driver
    attribute = driver.binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    if isinstance(compiled.handle, driver.binding.CUkernel):
        driver.driver.cuKernelSetAttribute(attribute, nbytes, compiled.handle, compiled.device.id)
    else:  # older versions of numba-cuda, whose handles must not go where a CUkernel belongs
        driver.driver.cuFuncSetAttribute(compiled.handle, attribute, nbytes)


@functools.cache
def limits() -> Limits:
    """Those of the current GPU; the simulator is one of two multiprocessors whose grid cannot wait for itself."""
    if SIMULATOR:
        return Limits(2, 16 * 1024, 4, False)
    gpu = cuda.get_current_device()
    shared = gpu.MAX_SHARED_MEMORY_PER_BLOCK
    try:
        _ask_for_shared(_probe, (empty((1,), np.float32),), gpu.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        shared = gpu.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    except Exception:  # another version of numba-cuda, which hides its kernels' handles otherwise: less has to do
        pass
    return Limits(gpu.MULTIPROCESSOR_COUNT, shared, 512, bool(gpu.COOPERATIVE_LAUNCH))


_asked: set[Any] = set()


def launch_planned(function: Any, planned: Plan, *args: Any) -> None:
    """Launch a kernel of one signature, as planned; arrays are kept until it has been launched."""
    if planned.shared_bytes > _ALWAYS_SHARED and not SIMULATOR and function not in _asked:
        _ask_for_shared(function, args, limits().shared_bytes)
        _asked.add(function)
    device.start(function, planned.blocks, planned.threads, planned.shared_bytes, args)


@kernel
def _pack(weight: Any, gates: int, units: int, transpose: bool, depth: int, columns: int, out: Any, at: int) -> None:
    inputs, size = weight.shape[1], weight.shape[0] // gates
    for i in range(cuda.grid(1), out.shape[0] * depth * columns, cuda.gridsize(1)):
        row, column = divmod_u32(i, columns)
        block, k = divmod_u32(row, depth)
        unit, gate = divmod_u32(column, gates)
        unit += block * units
        value = weight.dtype.type(0)
        if transpose and column < units * gates and unit < size and k < inputs:
            value = weight[gate * size + unit, k]
        if not transpose and column < units and block * units + column < inputs and k < weight.shape[0]:
            value = weight[k, block * units + column]
        out[block, at + k * columns + column] = value


def pack(
    weight: DeviceArray, gates: int, units: int, transpose: bool, out: DeviceArray | None = None, at: int = 0
) -> DeviceArray:
    """The right-hand side of a product, by blocks of ``units`` outputs: [blocks, depth * columns], in whole quads.

    With ``transpose`` outputs are the units of ``weight`` [G H, P], each with its gates beside one another, and the
    sum runs over P; else outputs are the P columns, ``gates`` is 1, and the sum runs over the rows.

    Args:
        out: [blocks, ...], filled from place ``at`` of each block; a new array where there is none.
    """
    rows, inputs = weight.shape
    outputs, depth = (rows // gates, inputs) if transpose else (inputs, rows)
    depth, columns = 4 * quads(depth), 4 * quads(units * gates)
    if out is None:
        out = empty((-(-outputs // units), depth * columns), weight.dtype)
    launch(_pack, out.shape[0] * depth * columns, weight, gates, units, transpose, depth, columns, out, at)
    return out


# ----------------------------------------------------------------------------------------------- in the kernels


@device_function
def divmod_u32(i: int, n: int) -> Any:
    """i // n and i % n of numbers from 0 to 2^32 - 1: larger or negative ones take a GPU far longer.

    For the same reason loops of a step count with ``while``: ``range`` divides to know how often it goes round.
    """
    a, b = np.uint32(i), np.uint32(n)
    return np.int64(a // b), np.int64(a % b)


@device_function
def clear(thread: int, threads: int, shared: Any, first: int, last: int) -> None:
    """Zeros in the quads ``first`` to ``last - 1``."""
    for i in range(4 * first + thread, 4 * last, threads):
        shared[i] = 0


@device_function
def cache_weights(thread: int, threads: int, shared: Any, at: int, weights: Any, weights_at: int, count: int) -> None:
    """``count`` quads of the packed weights, kept from ``at`` on."""
    i = thread
    while i < count:
        for k in range(8):  # all eight on their way at the same time
            if i + k * threads < count:
                copy_quad(shared, 4 * (at + i + k * threads), weights, 4 * (weights_at + i + k * threads))
        i += 8 * threads


@device_function
def load_row(thread: int, shared: Any, to: int, source: Any, row: int, first: int, last: int) -> None:
    """The quads ``first`` to ``last - 1`` of a row of ``source``, to the quad ``to`` and on, by a warp's threads."""
    width = source.shape[1]
    if width % 4 == 0:  # rows begin with a quad
        k = first + thread % WARP
        while k < last:
            copy_quad(shared, 4 * (to + k - first), source, row * width + 4 * k)
            k += WARP
    else:
        k = 4 * first + thread % WARP
        while k < min(4 * last, width):
            shared[np.uintp(4 * (to - first) + k)] = source[row, np.uintp(k)]
            k += WARP


@functools.cache
def make_multiply(tile: int) -> Any:
    """The product of all threads of a block, tiles of ``tile`` rows."""

    @device_function
    def add_quad(sums: Any, x: Any, x_at: int, stride: int, weights: Any, at: int, lanes: int) -> None:
        """sums [tile, 4] += x [tile, 4] times weights [4, 4], which pass through the last rows of ``sums``."""
        one, two, three = np.uintp(1), np.uintp(2), np.uintp(3)  # unsigned: no check for indices from the end
        for i in range(4):
            copy_quad(sums, 4 * (tile + i), weights, 4 * (at + i * lanes))
        for r in range(tile):
            k = np.uintp(4 * (x_at + r * stride))
            x0, x1, x2, x3 = x[k], x[k + one], x[k + two], x[k + three]
            for column in range(4):
                total = sums[r, column]
                total += x0 * sums[tile, column]
                total += x1 * sums[tile + 1, column]
                total += x2 * sums[tile + 2, column]
                total += x3 * sums[tile + 3, column]
                sums[r, column] = total

    @device_function
    def multiply(
        thread: int, threads: int, sums: Any, shared: Any, x_at: int, stride: int, active: int, held_at: int, held: int,
        weights: Any, weights_at: int, first: int, last: int, lanes: int, rows: int, parts: int, out_at: int,
    ) -> None:  # fmt: skip
        """shared[out_at]: [parts, rows, lanes] quads, sums over the depth's quads ``first`` to ``last - 1``.

        Up to ``held`` the weights are in ``shared``, too. Sums go on from what is there, but for a ``first`` of 0.
        """
        tiles = lanes * (rows // tile)
        item = thread
        while item < tiles * parts:
            part, place = divmod_u32(item, tiles)
            row, lane = divmod_u32(place, lanes)
            row *= tile
            item += threads
            if row < active:
                out = out_at + (part * rows + row) * lanes + lane
                for r in range(tile):
                    for c in range(4):
                        if first == 0:
                            sums[r, c] = 0
                        else:
                            sums[r, c] = shared[np.uintp(4 * (out + r * lanes) + c)]
                x = x_at + row * stride - first
                k = first + part
                while k < min(held, last):
                    add_quad(sums, shared, x + k, stride, shared, held_at + 4 * k * lanes + lane, lanes)
                    k += parts
                while k < last:
                    add_quad(sums, shared, x + k, stride, weights, weights_at + 4 * k * lanes + lane, lanes)
                    k += parts
                for r in range(tile):
                    for c in range(4):
                        shared[np.uintp(4 * (out + r * lanes) + c)] = sums[r, c]

    return multiply


@device_function
def totals(values: Any, shared: Any, at: int, lanes: int, rows: int, parts: int, row: int, column: int) -> None:
    """Neighbouring numbers of a product, as many as ``values`` holds: their parts, added in order."""
    place, step = np.uintp(4 * (at + row * lanes) + column), np.uintp(4 * rows * lanes)
    for i in range(values.size):
        values[i] = shared[place + np.uintp(i)]
    for _ in range(1, parts):
        place += step
        for i in range(values.size):
            values[i] += shared[place + np.uintp(i)]


@device_function
def total(shared: Any, at: int, lanes: int, rows: int, parts: int, row: int, column: int) -> Any:
    """One number of a product."""
    place, step = np.uintp(4 * (at + row * lanes) + column), np.uintp(4 * rows * lanes)
    value = shared[place]
    for _ in range(1, parts):
        place += step
        value += shared[place]
    return value
