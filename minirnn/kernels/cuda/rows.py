"""Gathering and scattering of rows, sums of columns, and dropout."""

from __future__ import annotations

import numpy as np

from minirnn.kernels.cuda.array import DeviceArray, empty
from minirnn.kernels.cuda.creation import asarray
from minirnn.kernels.cuda.jit import THREADS, Array, cuda, kernel
from minirnn.kernels.cuda.launch import launch, launch_blocks
from minirnn.kernels.pointwise import cast, random_bits

_DROPOUT_BLOCK = 1024  # elements, as on the CPU
_ROW_BLOCK = 32  # rows added up first, as on the CPU


@kernel
def _take(out: Array, table: Array, rows: Array, width: int) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = table[rows[i // width] * width + i % width]


@kernel
def _scatter(out: Array, values: Array, rows: Array, width: int) -> None:
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        out[rows[i // width] * width + i % width] = values[i]


@kernel
def _scatter_add(out: Array, values: Array, rows: Array) -> None:
    """A block owns a row of the result, a thread one of its columns: it searches ``rows`` for it, THREADS at a time."""
    tokens = cuda.shared.array(THREADS, rows.dtype)
    found_at = cuda.shared.array(THREADS, np.int32)
    row, thread, width = cuda.blockIdx.x, cuda.threadIdx.x, out.shape[1]
    j = cuda.blockIdx.y * THREADS + thread
    total = out.dtype.type(0)
    for s0 in range(0, rows.size, THREADS):
        s = s0 + thread
        token = rows[s] if s < rows.size else -1
        tokens[thread] = token
        found = cuda.syncthreads_count(np.int32(token == row))
        if token == row:
            before = 0
            for k in range(thread):
                before += 1 if tokens[k] == row else 0
            found_at[before] = thread
        cuda.syncthreads()
        if j < width:
            for k in range(found):
                total += values[s0 + found_at[k], j]
        cuda.syncthreads()  # before the next tokens are written to shared memory
    if j < width:
        out[row, j] = total


@kernel
def _block_sums(out: Array, x: Array, columns: int) -> None:
    """Sums of x over blocks of rows: out [blocks, columns], x [S, columns], both flat."""
    rows = x.size // columns
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        first, j = i // columns * _ROW_BLOCK, i % columns
        total = out.dtype.type(0)
        for s in range(first, min(first + _ROW_BLOCK, rows)):
            total += x[s * columns + j]
        out[i] = total


@kernel
def _dropout(out: Array, x: Array, rows: Array, seed: np.uint64, threshold: np.uint64, scale: float) -> None:
    """Each hash gives four random numbers of 16 bits, for elements that lie a quarter of a block apart."""
    quarter = _DROPOUT_BLOCK // 4
    size = x.size // max(1, rows.size)
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        element = rows[i // size] * size + i % size if rows.size else i
        block, place = element // _DROPOUT_BLOCK, element % _DROPOUT_BLOCK
        bits = random_bits(seed, block * quarter + place % quarter)
        draw = (np.uint64(bits) >> np.uint64(16 * (place // quarter))) & np.uint64(0xFFFF)
        out[i] = x[i] * cast(scale, x[i]) if draw >= threshold else cast(0, x[i])


def take_rows(table: DeviceArray, rows: object) -> DeviceArray:
    indices = asarray(rows, np.int64)
    out = empty((indices.size, *table.shape[1:]), table.dtype)
    if out.size:
        launch(_take, out.size, out.flat, table.flat, indices, out.size // indices.size)
    return out


def scatter_rows(out: DeviceArray, rows: object, values: DeviceArray) -> None:
    """out[rows] = values for distinct rows [S], values [S, ...]."""
    indices = asarray(rows, np.int64)
    if values.size:
        launch(_scatter, values.size, out.flat, values.flat, indices, values.size // indices.size)


def scatter_add_rows(values: DeviceArray, rows: object, count: int, out: DeviceArray | None = None) -> DeviceArray:
    if out is None:
        out = empty((count, values.shape[1]), values.dtype)
    if out.size:
        launch_blocks(_scatter_add, (count, -(-out.shape[1] // THREADS)), out, values, asarray(rows, np.int64))
    return out


def column_sums(x: DeviceArray) -> DeviceArray:
    rows, columns = x.shape
    partial = empty((-(-rows // _ROW_BLOCK), columns), x.dtype)
    if partial.size:
        launch(_block_sums, partial.size, partial.flat, x.flat, columns)
    return partial.sum(axis=0)


def dropout(x: DeviceArray, probability: float, seed: int, rows: np.ndarray | None = None) -> DeviceArray:
    """Draws the CPU's mask for the same seed."""
    out = empty(x.shape, x.dtype)
    if x.size:
        threshold = min(65536, round(probability * 65536))
        scale = 0.0 if threshold == 65536 else 65536 / (65536 - threshold)
        numbers = asarray(np.zeros(0, np.int64) if rows is None else rows)
        launch(_dropout, x.size, out.flat, x.flat, numbers, np.uint64(seed), np.uint64(threshold), scale)
    return out
