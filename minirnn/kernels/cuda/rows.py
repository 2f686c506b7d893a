"""Gathering and scattering of rows, sums of columns, and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.kernels.cuda.device import DeviceArray, asarray, empty, launch, launch_blocks
from minirnn.kernels.cuda.jit import THREADS, cuda, kernel
from minirnn.kernels.pointwise import cast, random_bits

_DROPPED = 1024  # elements of a block of dropout, as on the CPU
_BLOCK = 32  # rows added up first, as on the CPU


@kernel
def _take(out: Any, table: Any, rows: Any, width: int) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = table[rows[i // width] * width + i % width]


@kernel
def _put(out: Any, values: Any, rows: Any, width: int) -> None:
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        out[rows[i // width] * width + i % width] = values[i]


@kernel
def _add_rows_at(out: Any, values: Any, rows: Any) -> None:
    """A block owns columns of a row of the result, a thread one, and looks for its tokens, THREADS at a time."""
    tokens = cuda.shared.array(THREADS, rows.dtype)
    places = cuda.shared.array(THREADS, np.int32)
    mine, thread, width = cuda.blockIdx.x, cuda.threadIdx.x, out.shape[1]
    j = cuda.blockIdx.y * THREADS + thread
    total = out.dtype.type(0)
    for s0 in range(0, rows.size, THREADS):
        s = s0 + thread
        token = rows[s] if s < rows.size else -1
        tokens[thread] = token
        found = cuda.syncthreads_count(np.int32(token == mine))
        if token == mine:
            before = 0
            for k in range(thread):
                before += 1 if tokens[k] == mine else 0
            places[before] = thread
        cuda.syncthreads()
        if j < width:
            for k in range(found):
                total += values[s0 + places[k], j]
        cuda.syncthreads()  # before the next tokens take the place of these
    if j < width:
        out[mine, j] = total


@kernel
def _block_sums(out: Any, x: Any, columns: int) -> None:
    """Sums of x over blocks of rows: out [blocks, columns], x [S, columns], both flat."""
    rows = x.size // columns
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        first, j = i // columns * _BLOCK, i % columns
        total = out.dtype.type(0)
        for s in range(first, min(first + _BLOCK, rows)):
            total += x[s * columns + j]
        out[i] = total


@kernel
def _dropout(out: Any, x: Any, seed: Any, threshold: Any, scale: float) -> None:
    """Each hash gives four 16-bit draws, for elements that lie a quarter of a block apart."""
    quarter = _DROPPED // 4
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        block, place = i // _DROPPED, i % _DROPPED
        bits = random_bits(seed, block * quarter + place % quarter)
        draw = (np.uint64(bits) >> np.uint64(16 * (place // quarter))) & np.uint64(0xFFFF)
        out[i] = x[i] * cast(scale, x[i]) if draw >= threshold else cast(0, x[i])


def take_rows(table: DeviceArray, rows: Any) -> DeviceArray:
    """table[rows]: [R, ...] by rows [S] to [S, ...]."""
    at = asarray(rows, np.int64)
    out = empty((at.size, *table.shape[1:]), table.dtype)
    if out.size:
        launch(_take, out.size, out.flat, table.flat, at, out.size // at.size)
    return out


def scatter_rows(out: DeviceArray, rows: Any, values: DeviceArray) -> None:
    """out[rows] = values for distinct rows [S], values [S, ...]."""
    at = asarray(rows, np.int64)
    if values.size:
        launch(_put, values.size, out.flat, values.flat, at, values.size // at.size)


def scatter_add_rows(values: DeviceArray, rows: Any, count: int) -> DeviceArray:
    """out [count, H] with out[rows[s]] += values[s] in their order, values [S, H]."""
    out = empty((count, values.shape[1]), values.dtype)
    if out.size:
        launch_blocks(_add_rows_at, (count, -(-out.shape[1] // THREADS)), out, values, asarray(rows, np.int64))
    return out


def column_sums(x: DeviceArray) -> DeviceArray:
    """Sums over the rows of x [S, H]: of blocks of rows first, so that rounding grows with the root only."""
    rows, columns = x.shape
    partial = empty((-(-rows // _BLOCK), columns), x.dtype)
    if partial.size:
        launch(_block_sums, partial.size, partial.flat, x.flat, columns)
    return partial.sum(axis=0)


def dropout(x: DeviceArray, probability: float, seed: int) -> DeviceArray:
    """x times a random mask of zeros and 1 / (1 - p); the CPU's mask for the same seed."""
    out = empty(x.shape, x.dtype)
    if x.size:
        threshold = min(65536, round(probability * 65536))
        scale = 0.0 if threshold == 65536 else 65536 / (65536 - threshold)
        launch(_dropout, x.size, out.flat, x.flat, np.uint64(seed), np.uint64(threshold), scale)
    return out
