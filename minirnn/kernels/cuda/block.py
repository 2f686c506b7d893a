"""Device functions that the persistent kernels are made of: what the threads of a block do together.

A product of ``rows`` sequences with the weights is divided into tiles of ``tile`` rows by one float4 of columns, and
each sum split among ``splits`` threads; these partial sums are added in order, so results are the same in every run.
Offsets into shared memory and packed weights count float4s: four elements, aligned, that a thread reads at once.
"""

from __future__ import annotations

import functools

import numpy as np

from minirnn.kernels.cuda.jit import Array, Kernel, Number, copy_float4, cuda, device_function
from minirnn.kernels.cuda.launch_plan import WARP


@device_function
def divmod_u32(i: int, n: int) -> tuple[int, int]:
    """i // n and i % n for numbers from 0 to 2^32 - 1, much faster than with signed or 64-bit ones.

    For the same reason, loops in a step count with ``while``: ``range`` divides to find the number of iterations.
    """
    a, b = np.uint32(i), np.uint32(n)
    return np.int64(a // b), np.int64(a % b)  # type: ignore[return-value]


@device_function
def owned_range(units: int, size: int, rows: int, batch: int) -> tuple[int, int, int, int]:
    """This block's first unit and their number, its first sequence and the one after its last."""
    unit, first = cuda.blockIdx.x * units, cuda.blockIdx.y * rows
    return unit, min(units, size - unit), first, min(first + rows, batch)


@device_function
def clear(shared: Array, first: int, last: int) -> None:
    """Zero the float4s ``first`` to ``last - 1``."""
    for i in range(4 * first + cuda.threadIdx.x, 4 * last, cuda.blockDim.x):
        shared[i] = 0


@device_function
def cache_weights(shared: Array, to: int, weights: Array, weights_at: int, count: int) -> None:
    """Copy ``count`` float4s of the packed weights to shared memory."""
    i, threads = cuda.threadIdx.x, cuda.blockDim.x
    while i < count:
        for k in range(8):  # eight loads at the same time
            if i + k * threads < count:
                copy_float4(shared, 4 * (to + i + k * threads), weights, 4 * (weights_at + i + k * threads))
        i += 8 * threads


@device_function
def load_row(shared: Array, to: int, source: Array, row: int, first: int, last: int) -> None:
    """Copy the float4s ``first`` to ``last - 1`` of a row of ``source`` to shared memory, by the threads of a warp."""
    width, lane = source.shape[1], cuda.threadIdx.x % WARP
    if width % 4 == 0:  # rows begin at a float4
        k = first + lane
        while k < last:
            copy_float4(shared, 4 * (to + k - first), source, row * width + 4 * k)
            k += WARP
    else:
        k = 4 * first + lane
        while k < min(4 * last, width):
            shared[np.uintp(4 * (to - first) + k)] = source[row, np.uintp(k)]
            k += WARP


@functools.cache
def make_multiply(tile: int) -> Kernel:
    """The matrix product by all threads of a block, in tiles of ``tile`` rows."""

    @device_function
    def multiply_float4(sums: Array, x: Array, x_at: int, stride: int, weights: Array, at: int, columns: int) -> None:
        """sums [tile, 4] += x [tile, 4] times weights [4, 4], which are loaded to the last rows of ``sums``."""
        one, two, three = np.uintp(1), np.uintp(2), np.uintp(3)  # unsigned: no check for negative indices
        for i in range(4):
            copy_float4(sums, 4 * (tile + i), weights, 4 * (at + i * columns))
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
        sums: Array, shared: Array, left: tuple, right: tuple, depth_range: tuple, shape: tuple, out_at: int
    ) -> None:
        """Compute shared[out_at]: partial sums over ``depth_range``, [splits, rows, columns] with columns in float4s.

        Unless the range begins at 0, they are added to what is there.

        Args:
            sums: [tile + 4, 4], local.
            left: where its first row lies in ``shared``, the stride of its rows, and how many of them are computed.
            right: packed weights, the index of the first, and of the depth cached in ``shared``, where that begins and
                how much it is.
            shape: columns, rows and splits.
        """
        x_at, stride, active = left
        weights, weights_at, cached_at, cached = right
        first, last = depth_range
        columns, rows, splits = shape
        tiles = columns * (rows // tile)
        item = cuda.threadIdx.x
        while item < tiles * splits:
            part, place = divmod_u32(item, tiles)
            row, column = divmod_u32(place, columns)
            row *= tile
            item += cuda.blockDim.x
            if row < active:
                out = out_at + (part * rows + row) * columns + column
                for r in range(tile):
                    for c in range(4):
                        if first == 0:
                            sums[r, c] = 0
                        else:
                            sums[r, c] = shared[np.uintp(4 * (out + r * columns) + c)]
                x = x_at + row * stride - first
                k = first + part
                while k < min(cached, last):
                    multiply_float4(sums, shared, x + k, stride, shared, cached_at + 4 * k * columns + column, columns)
                    k += splits
                while k < last:
                    multiply_float4(
                        sums, shared, x + k, stride, weights, weights_at + 4 * k * columns + column, columns
                    )
                    k += splits
                for r in range(tile):
                    for c in range(4):
                        shared[np.uintp(4 * (out + r * columns) + c)] = sums[r, c]

    return multiply


@functools.cache
def make_recurrent_multiply(tile: int, load: bool, gather: bool) -> Kernel:
    """The recurrent product of one step, whose left-hand side begins at 0 in shared memory.

    Args:
        load: rows are loaded there first, one chunk of the depth after the other, from where all blocks write them.
        gather: rows of that array are taken from a list.
    """
    multiply = make_multiply(tile)

    @device_function
    def recurrent_multiply(
        sums: Array, shared: Array, left: tuple, right: tuple, depth_chunk: tuple, shape: tuple, out_at: int
    ) -> None:
        source, list_of_rows, first_row, active = left
        depth, chunk = depth_chunk
        stride, first = chunk + 1, 0
        while first < depth:
            last = min(first + chunk, depth)
            if load:
                r = cuda.threadIdx.x // WARP
                while r < active:
                    row = list_of_rows[first_row + r] if gather else first_row + r
                    load_row(shared, r * stride, source, row, first, last)
                    r += cuda.blockDim.x // WARP
                cuda.syncthreads()
            multiply(sums, shared, (0, stride, active), right, (first, last), shape, out_at)
            cuda.syncthreads()
            first = last

    return recurrent_multiply


@device_function
def totals(values: Array, shared: Array, at: int, shape: tuple, row: int, column: int) -> None:
    """Elements of a product from a column on, as many as ``values`` holds: their partial sums, added in order."""
    columns, rows, splits = shape
    place, step = np.uintp(4 * (at + row * columns) + column), np.uintp(4 * rows * columns)
    for i in range(values.size):
        values[i] = shared[place + np.uintp(i)]
    for _ in range(1, splits):
        place += step
        for i in range(values.size):
            values[i] += shared[place + np.uintp(i)]


@device_function
def total(shared: Array, at: int, shape: tuple, row: int, column: int) -> Number:
    """One element of a product."""
    columns, rows, splits = shape
    place, step = np.uintp(4 * (at + row * columns) + column), np.uintp(4 * rows * columns)
    value = shared[place]
    for _ in range(1, splits):
        place += step
        value += shared[place]
    return value
