"""Matrix products: by cuBLAS where it is installed, else by a tiled kernel in shared memory and registers.

A block of threads computes a square tile of the result, a thread 4 x 4 or 8 x 8 of its elements. While a tile of A and
one of B are multiplied out of shared memory, the next ones are on their way from global memory to registers.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import from_dtype

from minirnn.kernels.cuda import cublas
from minirnn.kernels.cuda.array import DeviceArray, empty
from minirnn.kernels.cuda.creation import asarray
from minirnn.kernels.cuda.jit import SIMULATOR, THREADS, Array, Kernel, copy_float4, cuda, device_function, kernel
from minirnn.kernels.cuda.launch import launch, launch_blocks
from minirnn.kernels.cuda.rows import take_rows
from minirnn.kernels.cuda.strided import broadcast_to

_SIDE = math.isqrt(THREADS)  # of a block of threads
_DEPTH = 4 if SIMULATOR else 16  # of a tile

_TARGET_BLOCKS, _ENOUGH_BLOCKS = 256, 2 if SIMULATOR else 128
_MIN_SPLIT_DEPTH = 2 * _DEPTH if SIMULATOR else 256
"""Products of few tiles and great depth are split along k into pieces of this depth or more, which are then added."""


@functools.cache
def _make_tile_copies(tile: int, k_contiguous: bool) -> tuple[Kernel, Kernel]:
    """How a block copies ``tile`` rows, _DEPTH deep, by registers to shared memory. Neighbouring threads read
    neighbouring elements: of a row where k is contiguous in memory, else of a column.
    """
    width = _DEPTH if k_contiguous else min(tile, THREADS)  # elements beside one another
    count, rounds, stride = tile * _DEPTH // THREADS, 1 if k_contiguous else tile // width, THREADS // width

    @device_function
    def load_tile(values: Array, x: Array, at: int, lead: int, rows: Array, m_range: tuple, k_range: tuple) -> None:
        """values = x[m, k], at index ``at`` + m lead + k or, where k is not contiguous, ``at`` + m + rows[k] lead."""
        (m0, m_end), (k0, k_end) = m_range, k_range
        near, far = cuda.threadIdx.x % width, cuda.threadIdx.x // width
        m_first, k_first = (m0 + far, k0 + near) if k_contiguous else (m0 + near, k0 + far)
        at += m_first * lead + k_first if k_contiguous else m_first + k_first * lead
        for q in range(count):
            m = m_first + (q * stride if k_contiguous else q % rounds * width)
            k = k_first + (0 if k_contiguous else q // rounds * stride)
            values[q] = 0
            if m < m_end and k < k_end:
                if k_contiguous:
                    values[q] = x[np.uintp(at + q * (stride * lead))]
                elif rows.size > 0:
                    values[q] = x[np.uintp(at + m - m_first + (rows[np.uintp(k)] - k_first) * lead)]
                else:
                    values[q] = x[np.uintp(at + m - m_first + q // rounds * (stride * lead))]

    @device_function
    def store_tile(shared: Array, values: Array) -> None:
        near, far = cuda.threadIdx.x % width, cuda.threadIdx.x // width
        for q in range(count):
            if k_contiguous:
                shared[np.uintp(near), np.uintp(far + q * stride)] = values[q]
            else:
                shared[np.uintp(far + q // rounds * stride), np.uintp(near + q % rounds * width)] = values[q]

    return load_tile, store_tile


@functools.cache
def _make_gemm(each: int, dtype: Any, a_k_contiguous: bool, b_k_contiguous: bool) -> Kernel:
    """The kernel whose threads compute ``each`` x ``each`` elements."""
    tile, vectors = _SIDE * each, each // 4
    padded = tile + 4  # so that few threads storing a column hit one bank, and rows start at a float4
    shape, count = (_DEPTH, padded), tile * _DEPTH // THREADS
    load_a, store_a = _make_tile_copies(tile, a_k_contiguous)
    load_b, store_b = _make_tile_copies(tile, b_k_contiguous)

    def gemm(
        out: Array, a: Array, b: Array, bias: Array, rows: Array, sizes: tuple, steps: tuple, leads: tuple
    ) -> None:
        """out[z] = A[z] B[z] + bias; or, with k_step > 0, the piece of the sum over k from z k_step on.

        A[z] and B[z] begin at z a_step and z b_step, their rows, or those of their transposes, are a_lead and b_lead
        apart; all arrays are flat.
        """
        (M, N, K), (a_step, b_step, k_step), (a_lead, b_lead) = sizes, steps, leads
        shared_a = cuda.shared.array(shape, dtype) if SIMULATOR else cuda.shared.array(shape, dtype, 16)
        shared_b = cuda.shared.array(shape, dtype) if SIMULATOR else cuda.shared.array(shape, dtype, 16)
        total = cuda.local.array((each, each), dtype)
        column_a = cuda.local.array(each, dtype) if SIMULATOR else cuda.local.array(each, dtype, 16)
        row_b = cuda.local.array(each, dtype) if SIMULATOR else cuda.local.array(each, dtype, 16)
        next_a, next_b = cuda.local.array(count, dtype), cuda.local.array(count, dtype)
        thread, z, m0, n0 = cuda.threadIdx.x, cuda.blockIdx.z, cuda.blockIdx.y * tile, cuda.blockIdx.x * tile
        my_m, my_n = thread // _SIDE, thread % _SIDE
        for i in range(each):
            for j in range(each):
                total[i, j] = 0
        first = z * k_step
        last = min(K, first + k_step) if k_step > 0 else K
        load_a(next_a, a, z * a_step, a_lead, rows[:0], (m0, M), (first, last))
        load_b(next_b, b, z * b_step, b_lead, rows, (n0, N), (first, last))
        k0 = first
        while k0 < last:
            store_a(shared_a, next_a)
            store_b(shared_b, next_b)
            cuda.syncthreads()
            k0 += _DEPTH
            load_a(next_a, a, z * a_step, a_lead, rows[:0], (m0, M), (k0, last))  # overlaps with the product
            load_b(next_b, b, z * b_step, b_lead, rows, (n0, N), (k0, last))
            k = 0
            while k < _DEPTH:
                for q in range(vectors):
                    copy_float4(column_a, 4 * q, shared_a, k * padded + 4 * (my_m + q * _SIDE))
                    copy_float4(row_b, 4 * q, shared_b, k * padded + 4 * (my_n + q * _SIDE))
                for i in range(each):
                    for j in range(each):
                        total[i, j] += column_a[i] * row_b[j]
                k += 1
            cuda.syncthreads()
        for i in range(each):
            m = m0 + 4 * (my_m + i // 4 * _SIDE) + i % 4
            for j in range(each):
                n = n0 + 4 * (my_n + j // 4 * _SIDE) + j % 4
                if m < M and n < N:
                    value = total[i, j]
                    if bias.size > 0 and first == 0:
                        value += bias[np.uintp(n)]
                    out[np.uintp((z * M + m) * N + n)] = value

    return kernel(gemm, max_registers=128 if each == 8 else None)  # at least two blocks on a multiprocessor


@kernel
def _add_splits(out: Array, splits: Array, count: int) -> None:
    """out = the sum of ``splits`` [count, size of out] over the first dimension, in order."""
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        total = splits[i]
        for z in range(1, count):
            total += splits[z * out.size + i]
        out[i] = total


def _tiles(rows: int, columns: int, each: int) -> tuple[int, int]:
    return -(-columns // (_SIDE * each)), -(-rows // (_SIDE * each))


def _launch(
    out: DeviceArray, a: DeviceArray, b: DeviceArray, k_contiguous: tuple[bool, bool], *args: Any, column: int = 0
) -> None:
    rows, columns = out.shape[-2:]
    count = out.size // (rows * columns)
    large = math.prod(_tiles(rows, columns, 8)) * count >= _ENOUGH_BLOCKS and out.dtype.itemsize == 4
    each = 8 if large else 4
    from_column = a.flat if column == 0 else a.view(column, (max(0, a.size - column),))
    leads = a.shape[-1], b.shape[-1]
    grid = *_tiles(rows, columns, each), count
    launch_blocks(
        _make_gemm(each, from_dtype(out.dtype), *k_contiguous), grid, out.flat, from_column, b.flat, *args, leads
    )


def _use_cublas(out: DeviceArray, depth: int) -> bool:
    return out.size > 0 and depth > 0 and out.dtype.kind == "f" and cublas.available()


def gemm(
    a: DeviceArray,
    b: DeviceArray,
    bias: DeviceArray | None = None,
    out: DeviceArray | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    rows: object = None,
    column: int = 0,
    accumulate: bool = False,
) -> DeviceArray:
    if accumulate:
        assert out is not None
        out += gemm(a, b, None, None, transpose_a, transpose_b, rows, column)
        return out
    K, M = a.shape if transpose_a else a.shape[::-1]
    N = b.shape[0] if transpose_b else b.shape[1]
    if out is None:
        out = empty((M, N), a.dtype)
    M = out.shape[0]
    if _use_cublas(out, K):
        if bias is not None:
            out[...] = bias
        b = b if rows is None else take_rows(b, rows)
        cublas.gemm(out, a, b, transpose_a, transpose_b, bias is not None, column)
        return out
    if not out.size:
        return out
    chosen = empty((0,), np.int64) if rows is None else asarray(rows, np.int64)
    added = empty((0,), a.dtype) if bias is None else bias
    tiles = math.prod(_tiles(M, N, 4))
    splits = max(1, min(_TARGET_BLOCKS // tiles, K // _MIN_SPLIT_DEPTH))  # by shape alone: sums have one order
    step = -(-K // splits)
    step = -(-step // _DEPTH) * _DEPTH if splits > 1 else 0
    splits = -(-K // step) if step else 1
    partial = out if splits == 1 else empty((splits, M, N), a.dtype)
    _launch(partial, a, b, (not transpose_a, transpose_b), added, chosen, (M, N, K), (0, 0, step), column=column)
    if splits > 1:
        launch(_add_splits, out.size, out.flat, partial.flat, splits)
    return out


def batched_gemm(a: DeviceArray, b: DeviceArray) -> DeviceArray:
    """A[z] B[z] for each z: a [Z, M, K], b [Z, K, N], result [Z, M, N]."""
    Z, M, K = a.shape
    N = b.shape[2]
    out = empty((Z, M, N), a.dtype)
    if _use_cublas(out, K):
        cublas.gemm(out, a, b)
    elif out.size:
        no_bias, no_rows = empty((0,), a.dtype), empty((0,), np.int64)
        _launch(out, a, b, (True, False), no_bias, no_rows, (M, N, K), (M * K, K * N, 0))
    return out


def matmul(a: DeviceArray, b: DeviceArray) -> DeviceArray:
    dtype = np.result_type(a.dtype, b.dtype)
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    left = a if a.ndim > 1 else a.reshape(1, a.size)
    right = b if b.ndim > 1 else b.reshape(b.size, 1)
    rows, depth, columns = left.shape[-2], left.shape[-1], right.shape[-1]
    if right.ndim == 2:  # one product over all leading dimensions
        outer = left.shape[:-2]
        out = gemm(left.reshape(math.prod(outer) * rows, depth), right)
    else:
        outer = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        left, right = (
            broadcast_to(m, (*outer, *m.shape[-2:])).reshape(math.prod(outer), *m.shape[-2:]) for m in (left, right)
        )
        out = batched_gemm(left, right)
    return out.reshape(*outer, *(rows,) * (a.ndim > 1), *(columns,) * (b.ndim > 1))
