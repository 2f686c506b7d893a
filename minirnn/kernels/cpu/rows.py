"""Gathering and scattering of rows, column sums, and dropout: what NumPy has no fast form of."""

from __future__ import annotations

import numpy as np

from minirnn.kernels import memory, recording, threads
from minirnn.kernels.jit import chunk_of, jit
from minirnn.kernels.pointwise import cast, random_bits

_DROPOUT_BLOCK = 1024  # elements
_SUM_BLOCK = 32  # rows


@jit
def all_below(index, count):
    largest = np.uint64(0)
    for s in range(index.size):
        largest = max(largest, np.uint64(index[s]))  # a negative one is large
    return index.size == 0 or largest < np.uint64(count)


@jit
def _scatter_add_rows(thread_id, num_threads, values, rows, out):
    """Each thread has its own columns and adds the rows in order, so sums do not depend on the threads."""
    first, last = chunk_of(out.shape[1], thread_id, num_threads)
    for n in range(out.shape[0]):
        for j in range(first, last):
            out[n, np.uintp(j)] = 0
    for s in range(rows.size):
        row = rows[s]
        for j in range(first, last):
            out[row, np.uintp(j)] += values[s, np.uintp(j)]


@jit
def _dropout(thread_id, num_threads, x, seed, threshold, scale, out):
    """Each hash gives four 16-bit draws, for elements a quarter of a block apart; x and out are flat."""
    factor, zero = cast(scale, x[0]), cast(0, x[0])
    limit = np.uint64(threshold)
    quarter = _DROPOUT_BLOCK // 4
    first, last = chunk_of((x.size + _DROPOUT_BLOCK - 1) // _DROPOUT_BLOCK, thread_id, num_threads)
    for block in range(first, last):
        for k in range(4):
            start = block * _DROPOUT_BLOCK + k * quarter
            for j in range(min(quarter, x.size - start)):
                bits = random_bits(seed, block * quarter + j)
                at = np.uintp(start + j)
                out[at] = x[at] * factor if (bits >> np.uint64(16 * k)) & np.uint64(0xFFFF) >= limit else zero


@jit
def _dropout_rows(thread_id, num_threads, x, rows, seed, threshold, scale, out):
    """As _dropout; row s of x [S, H] gets row ``rows[s]`` of the mask."""
    factor, zero = cast(scale, x[0, 0]), cast(0, x[0, 0])
    limit, size = np.uint64(threshold), x.shape[1]
    quarter = _DROPOUT_BLOCK // 4
    first, last = chunk_of(x.shape[0], thread_id, num_threads)
    for s in range(first, last):
        for j in range(size):
            place = rows[s] * size + j
            block, at = place // _DROPOUT_BLOCK, place % _DROPOUT_BLOCK
            bits = random_bits(seed, block * quarter + at % quarter) >> np.uint64(16 * (at // quarter))
            out[s, np.uintp(j)] = x[s, np.uintp(j)] * factor if bits & np.uint64(0xFFFF) >= limit else zero


@jit
def _column_sums(thread_id, num_threads, x, out):
    first, last = chunk_of(out.size, thread_id, num_threads)
    for j in range(first, last):
        out[j] = 0
    partial = np.empty(last - first, x.dtype)
    for s0 in range(0, x.shape[0], _SUM_BLOCK):  # in two levels, so that rounding errors grow slowly
        for j in range(last - first):
            partial[j] = 0
        for s in range(s0, min(s0 + _SUM_BLOCK, x.shape[0])):
            for j in range(last - first):
                partial[j] += x[s, np.uintp(first + j)]
        for j in range(last - first):
            out[np.uintp(first + j)] += partial[j]


def take_rows(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    out = memory.empty((rows.size, *table.shape[1:]), table.dtype)
    # indices are valid; "raise" would copy
    return recording.call(np.ndarray.take, table, rows, axis=0, out=out, mode="clip")


def scatter_add_rows(values: np.ndarray, rows: np.ndarray, count: int, out: np.ndarray | None = None) -> np.ndarray:
    if out is None:
        out = memory.empty((count, values.shape[1]), values.dtype)
    threads.run(_scatter_add_rows, 4.0 * (values.size + out.size), max(1, out.shape[1] // 16), values, rows, out)
    return out


def column_sums(x: np.ndarray) -> np.ndarray:
    out = memory.empty((x.shape[1],), x.dtype)
    threads.run(_column_sums, 1.0 * x.size, max(1, out.size // 16), x, out)
    return out


def dropout(x: np.ndarray, probability: float, seed: int, rows: np.ndarray | None = None) -> np.ndarray:
    out = memory.empty(x.shape, x.dtype)
    if x.size:
        threshold = min(65536, round(probability * 65536))
        scale = 0.0 if threshold == 65536 else 65536 / (65536 - threshold)
        mask = np.uint64(seed), threshold, scale
        if rows is None:
            threads.run(_dropout, 8.0 * x.size, x.size // _DROPOUT_BLOCK + 1, x.reshape(-1), *mask, out.reshape(-1))
        else:
            recording.constant(rows)
            shape = rows.size, -1
            threads.run(_dropout_rows, 16.0 * x.size, rows.size, x.reshape(shape), rows, *mask, out.reshape(shape))
    return out
