"""Matrix products: by cuBLAS where it is installed, else tiles in shared memory, small ones in a thread's registers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minirnn.kernels.cuda import cublas
from minirnn.kernels.cuda.device import (
    SIMULATOR,
    THREADS,
    DeviceArray,
    asarray,
    cuda,
    empty,
    kernel,
    launch,
    launch_blocks,
)
from minirnn.kernels.cuda.rows import take_rows

_SIDE = math.isqrt(THREADS)
_EACH = 4
"""A thread makes _EACH x _EACH elements of the result, a block of _SIDE x _SIDE threads a tile."""
_TILE = _SIDE * _EACH
_DEPTH = 4 if SIMULATOR else 16
_PADDED = _TILE + 1
"""A row of a tile in shared memory, one longer, so that the threads that fill a column do not meet in one bank."""

_WANTED_BLOCKS = 256
_LEAST_DEPTH = 2 * _DEPTH if SIMULATOR else 256
"""Products of few tiles and great depth are made in so many pieces of that depth or more, and added up."""


@kernel
def _product(
    out: Any, a: Any, b: Any, bias: Any, rows: Any, M: int, N: int, K: int, a_step: int, b_step: int, k_step: int,
    a_m: int, a_k: int, b_k: int, b_n: int,
) -> None:  # fmt: skip
    """out[z] = A[z] B[z] + bias; or, with k_step > 0, the piece of the sum over k from z k_step on.

    A[z, m, k] = a[z a_step + m a_m + k a_k], and B likewise; all arrays are flat.
    """
    tile_a = cuda.shared.array((_DEPTH, _PADDED), out.dtype)
    tile_b = cuda.shared.array((_DEPTH, _PADDED), out.dtype)
    total = cuda.local.array((_EACH, _EACH), out.dtype)
    column_a = cuda.local.array(_EACH, out.dtype)
    row_b = cuda.local.array(_EACH, out.dtype)
    thread, z = cuda.threadIdx.x, cuda.blockIdx.z
    m0, n0 = cuda.blockIdx.y * _TILE, cuda.blockIdx.x * _TILE
    my_m, my_n = thread // _SIDE, thread % _SIDE
    zero = out.dtype.type(0)
    for i in range(_EACH):
        for j in range(_EACH):
            total[i, j] = zero
    first = z * k_step
    last = min(K, first + k_step) if k_step > 0 else K
    for k0 in range(first, last, _DEPTH):
        for e in range(thread, _TILE * _DEPTH, THREADS):
            # neighbouring threads read neighbouring elements, whichever way the matrix lies
            if a_k == 1:
                m, k = e // _DEPTH, e % _DEPTH
            else:
                m, k = e % _TILE, e // _TILE
            inside = m0 + m < M and k0 + k < last
            tile_a[k, m] = a[z * a_step + (m0 + m) * a_m + (k0 + k) * a_k] if inside else zero
            if b_k == 1:
                n, k = e // _DEPTH, e % _DEPTH
            else:
                n, k = e % _TILE, e // _TILE
            value = zero
            if n0 + n < N and k0 + k < last:
                row = rows[k0 + k] if rows.size > 0 else k0 + k
                value = b[z * b_step + row * b_k + (n0 + n) * b_n]
            tile_b[k, n] = value
        cuda.syncthreads()
        for k in range(_DEPTH):
            for i in range(_EACH):
                column_a[i] = tile_a[k, my_m + i * _SIDE]
                row_b[i] = tile_b[k, my_n + i * _SIDE]
            for i in range(_EACH):
                for j in range(_EACH):
                    total[i, j] += column_a[i] * row_b[j]
        cuda.syncthreads()
    for i in range(_EACH):
        m = m0 + my_m + i * _SIDE
        for j in range(_EACH):
            n = n0 + my_n + j * _SIDE
            if m < M and n < N:
                added = bias[n] if bias.size > 0 and first == 0 else zero
                out[(z * M + m) * N + n] = total[i, j] + added


@kernel
def _add_pieces(out: Any, pieces: Any, count: int) -> None:
    """out = the sum over the pieces [count, size of out], in their order."""
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        total = pieces[i]
        for z in range(1, count):
            total += pieces[z * out.size + i]
        out[i] = total


def _start(out: DeviceArray, *args: Any) -> None:
    rows, columns = out.shape[-2:]
    grid = (-(-columns // _TILE), -(-rows // _TILE), out.size // (rows * columns))
    launch_blocks(_product, grid, out.flat, *args)


def _by_cublas(out: DeviceArray, depth: int) -> bool:
    return out.size > 0 and depth > 0 and out.dtype.kind == "f" and cublas.available()


def product(
    a: DeviceArray,
    b: DeviceArray,
    bias: DeviceArray | None = None,
    out: DeviceArray | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    rows: Any = None,
) -> DeviceArray:
    """A B + bias, where A is ``a`` or its transpose and B is ``b`` or its transpose.

    Args:
        a: [M, K], or [K, M] with ``transpose_a``.
        b: [K, N], or [N, K] with ``transpose_b``. Not both may be transposed.
        bias: [N], added to every row; not with ``transpose_a``.
        out: [M, N], written to; a new array where there is none. With ``transpose_a`` it may have fewer rows than
            ``a`` has columns, and takes the first of them.
        rows: [K] integers, with ``transpose_a``: row k of B is ``b[rows[k]]``.
    """
    K, M = a.shape if transpose_a else a.shape[::-1]
    N = b.shape[0] if transpose_b else b.shape[1]
    a_m, a_k = (1, M) if transpose_a else (K, 1)
    if out is None:
        out = empty((M, N), a.dtype)
    M = out.shape[0]
    if _by_cublas(out, K):
        if bias is not None:
            out[...] = bias
        cublas.multiply(out, a, b if rows is None else take_rows(b, rows), transpose_a, transpose_b, bias is not None)
        return out
    if not out.size:
        return out
    b_k, b_n = (1, K) if transpose_b else (N, 1)
    chosen = empty((0,), np.int64) if rows is None else asarray(rows, np.int64)
    added = empty((0,), a.dtype) if bias is None else bias
    tiles = -(-M // _TILE) * -(-N // _TILE)
    pieces = max(1, min(_WANTED_BLOCKS // tiles, K // _LEAST_DEPTH))  # by shape alone: sums have one order
    step = -(-K // pieces)
    step = -(-step // _DEPTH) * _DEPTH if pieces > 1 else 0
    pieces = -(-K // step) if step else 1
    parts = out if pieces == 1 else empty((pieces, M, N), a.dtype)
    _start(parts, a.flat, b.flat, added, chosen, M, N, K, 0, 0, step, a_m, a_k, b_k, b_n)
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
        _start(out, a.flat, b.flat, *none, M, N, K, M * K, K * N, 0, K, 1, N, 1)
    return out
