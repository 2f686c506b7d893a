"""Matrix products: by cuBLAS where it is installed, else tiles in shared memory, small ones in a thread's registers."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import from_dtype

from minirnn.kernels.cuda import cublas
from minirnn.kernels.cuda.device import DeviceArray, asarray, empty, launch, launch_blocks
from minirnn.kernels.cuda.jit import SIMULATOR, THREADS, copy_quad, cuda, device_function, kernel
from minirnn.kernels.cuda.rows import take_rows

_SIDE = math.isqrt(THREADS)
_DEPTH = 4 if SIMULATOR else 16

_WANTED_BLOCKS, _ENOUGH_BLOCKS = 256, 2 if SIMULATOR else 128
_LEAST_DEPTH = 2 * _DEPTH if SIMULATOR else 256
"""Products of few tiles and great depth are made in so many pieces of that depth or more, and added up."""


@functools.cache
def _make_part(tile: int, along_k: bool) -> tuple[Any, Any]:
    """How a block's threads fetch their elements of ``tile`` rows, of depth _DEPTH, and put them in shared memory.

    Neighbouring threads fetch neighbouring elements: with ``along_k`` those of a row, else those of a column.
    """
    width = _DEPTH if along_k else min(tile, THREADS)  # elements that lie beside one another
    count, rounds, others = tile * _DEPTH // THREADS, 1 if along_k else tile // width, THREADS // width

    @device_function
    def fetch(
        thread: int, values: Any, x: Any, at: int, lead: int, rows: Any, m0: int, end: int, k0: int, last: int
    ) -> None:
        """values = x[m, k], which lies at ``at`` + m lead + k or, not along k, at ``at`` + m + rows[k] lead."""
        near, far = thread % width, thread // width
        m_first, k_first = (m0 + far, k0 + near) if along_k else (m0 + near, k0 + far)
        at += m_first * lead + k_first if along_k else m_first + k_first * lead
        for q in range(count):
            m = m_first + (q * others if along_k else q % rounds * width)
            k = k_first + (0 if along_k else q // rounds * others)
            values[q] = 0
            if m < end and k < last:
                if along_k:
                    values[q] = x[np.uintp(at + q * (others * lead))]
                elif rows.size > 0:
                    values[q] = x[np.uintp(at + m - m_first + (rows[np.uintp(k)] - k_first) * lead)]
                else:
                    values[q] = x[np.uintp(at + m - m_first + q // rounds * (others * lead))]

    @device_function
    def put(thread: int, part: Any, values: Any) -> None:
        near, far = thread % width, thread // width
        for q in range(count):
            if along_k:
                part[np.uintp(near), np.uintp(far + q * others)] = values[q]
            else:
                part[np.uintp(far + q // rounds * others), np.uintp(near + q % rounds * width)] = values[q]

    return fetch, put


@functools.cache
def _make_product(each: int, dtype: Any, a_along_k: bool, b_along_k: bool) -> Any:
    """The kernel of products whose threads make ``each`` x ``each`` elements, and a block of threads a tile."""
    tile, quads = _SIDE * each, each // 4
    padded = tile + 4  # so that few of the threads that put a column meet in one bank, and rows begin with a quad
    shape, count = (_DEPTH, padded), tile * _DEPTH // THREADS
    fetch_a, put_a = _make_part(tile, a_along_k)
    fetch_b, put_b = _make_part(tile, b_along_k)

    def gemm(
        out: Any, a: Any, b: Any, bias: Any, rows: Any, M: int, N: int, K: int, a_step: int, b_step: int, k_step: int,
        a_lead: int, b_lead: int,
    ) -> None:  # fmt: skip
        """out[z] = A[z] B[z] + bias; or, with k_step > 0, the piece of the sum over k from z k_step on.

        A[z] and B[z] begin at z a_step and z b_step, their rows, or those of their transposes, are a_lead and b_lead
        apart; all arrays are flat.
        """
        part_a = cuda.shared.array(shape, dtype) if SIMULATOR else cuda.shared.array(shape, dtype, 16)
        part_b = cuda.shared.array(shape, dtype) if SIMULATOR else cuda.shared.array(shape, dtype, 16)
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
        fetch_a(thread, next_a, a, z * a_step, a_lead, rows[:0], m0, M, first, last)
        fetch_b(thread, next_b, b, z * b_step, b_lead, rows, n0, N, first, last)
        k0 = first
        while k0 < last:
            put_a(thread, part_a, next_a)
            put_b(thread, part_b, next_b)
            cuda.syncthreads()
            k0 += _DEPTH
            fetch_a(thread, next_a, a, z * a_step, a_lead, rows[:0], m0, M, k0, last)  # on their way meanwhile
            fetch_b(thread, next_b, b, z * b_step, b_lead, rows, n0, N, k0, last)
            k = 0
            while k < _DEPTH:
                for q in range(quads):
                    copy_quad(column_a, 4 * q, part_a, k * padded + 4 * (my_m + q * _SIDE))
                    copy_quad(row_b, 4 * q, part_b, k * padded + 4 * (my_n + q * _SIDE))
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

    return kernel(gemm, max_registers=128 if each == 8 else None)  # two blocks, or more, at a time


@kernel
def _add_pieces(out: Any, pieces: Any, count: int) -> None:
    """out = the sum over the pieces [count, size of out], in their order."""
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        total = pieces[i]
        for z in range(1, count):
            total += pieces[z * out.size + i]
        out[i] = total


def _tiles(rows: int, columns: int, each: int) -> tuple[int, int]:
    return -(-columns // (_SIDE * each)), -(-rows // (_SIDE * each))


def _start(
    out: DeviceArray, a: DeviceArray, b: DeviceArray, along_k: tuple[bool, bool], *args: Any, column: int = 0
) -> None:
    rows, columns = out.shape[-2:]
    count = out.size // (rows * columns)
    large = math.prod(_tiles(rows, columns, 8)) * count >= _ENOUGH_BLOCKS and out.dtype.itemsize == 4
    started = _make_product(8 if large else 4, from_dtype(out.dtype), *along_k)
    grid = *_tiles(rows, columns, 8 if large else 4), count
    taken = a.flat if column == 0 else a.view(column, (max(0, a.size - column),))
    launch_blocks(started, grid, out.flat, taken, b.flat, *args, a.shape[-1], b.shape[-1])


def _by_cublas(out: DeviceArray, depth: int) -> bool:
    return out.size > 0 and depth > 0 and out.dtype.kind == "f" and cublas.available()


def gemm(
    a: DeviceArray,
    b: DeviceArray,
    bias: DeviceArray | None = None,
    out: DeviceArray | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    rows: Any = None,
    column: int = 0,
) -> DeviceArray:
    """A B + bias, where A is ``a`` or its transpose and B is ``b`` or its transpose.

    Args:
        a: [M, K], or [K, M] with ``transpose_a``.
        b: [K, N], or [N, K] with ``transpose_b``. Not both may be transposed.
        bias: [N], added to every row; not with ``transpose_a``.
        out: [M, N], written to; a new array where there is none. With ``transpose_a`` it may have fewer rows than
            ``a`` has columns, and takes those from ``column`` on.
        rows: [K] integers, with ``transpose_a``: row k of B is ``b[rows[k]]``.
    """
    K, M = a.shape if transpose_a else a.shape[::-1]
    N = b.shape[0] if transpose_b else b.shape[1]
    if out is None:
        out = empty((M, N), a.dtype)
    M = out.shape[0]
    if _by_cublas(out, K):
        if bias is not None:
            out[...] = bias
        b = b if rows is None else take_rows(b, rows)
        cublas.multiply(out, a, b, transpose_a, transpose_b, bias is not None, column)
        return out
    if not out.size:
        return out
    chosen = empty((0,), np.int64) if rows is None else asarray(rows, np.int64)
    added = empty((0,), a.dtype) if bias is None else bias
    tiles = math.prod(_tiles(M, N, 4))
    pieces = max(1, min(_WANTED_BLOCKS // tiles, K // _LEAST_DEPTH))  # by shape alone: sums have one order
    step = -(-K // pieces)
    step = -(-step // _DEPTH) * _DEPTH if pieces > 1 else 0
    pieces = -(-K // step) if step else 1
    parts = out if pieces == 1 else empty((pieces, M, N), a.dtype)
    _start(parts, a, b, (not transpose_a, transpose_b), added, chosen, M, N, K, 0, 0, step, column=column)
    if pieces > 1:
        launch(_add_pieces, out.size, out.flat, parts.flat, pieces)
    return out


def stacked_product(a: DeviceArray, b: DeviceArray) -> DeviceArray:
    """A[z] B[z] for each z: a [Z, M, K], b [Z, K, N], to [Z, M, N]."""
    Z, M, K = a.shape
    N = b.shape[2]
    out = empty((Z, M, N), a.dtype)
    if _by_cublas(out, K):
        cublas.multiply(out, a, b)
    elif out.size:
        none = empty((0,), a.dtype), empty((0,), np.int64)
        _start(out, a, b, (True, False), *none, M, N, K, M * K, K * N, 0)
    return out
