"""Gathering and scattering of rows, and dropout: what NumPy has no fast form of."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.kernels import memory, threads
from minirnn.kernels.jit import jit
from minirnn.kernels.pointwise import cast, random_bits

_DROPPED = 1024  # elements of a block of dropout


@jit
def _add_rows_at(share: int, shares: int, values: Any, rows: Any, out: Any) -> None:
    """Shares own columns: rows are added in order, so sums do not depend on the threads."""
    columns = out.shape[1]
    lo, hi = share * columns // shares, (share + 1) * columns // shares
    for n in range(out.shape[0]):
        for j in range(lo, hi):
            out[n, np.uintp(j)] = 0
    for s in range(rows.size):
        row = rows[s]
        for j in range(lo, hi):
            out[row, np.uintp(j)] += values[s, np.uintp(j)]


@jit
def _dropout(share: int, shares: int, x: Any, seed: int, threshold: int, scale: float, out: Any) -> None:
    """Each hash gives four 16-bit draws, for elements that lie a quarter of a block apart; x and out are flat."""
    factor, zero = cast(scale, x[0]), cast(0, x[0])
    blocks = (x.size + _DROPPED - 1) // _DROPPED
    limit = np.uint64(threshold)
    quarter = _DROPPED // 4
    for block in range(share * blocks // shares, (share + 1) * blocks // shares):
        first = block * _DROPPED
        for k in range(4):
            start = first + k * quarter
            for j in range(min(quarter, x.size - start)):
                bits = random_bits(seed, block * quarter + j)
                at = np.uintp(start + j)
                out[at] = x[at] * factor if (bits >> np.uint64(16 * k)) & np.uint64(0xFFFF) >= limit else zero


@jit
def _column_sums(share: int, shares: int, x: Any, out: Any) -> None:
    columns = out.size
    lo, hi = share * columns // shares, (share + 1) * columns // shares
    for j in range(lo, hi):
        out[j] = 0
    block = 32
    partial = np.empty(hi - lo, x.dtype)
    for s0 in range(0, x.shape[0], block):  # two levels, so that rounding grows with the root only
        for j in range(hi - lo):
            partial[j] = 0
        for s in range(s0, min(s0 + block, x.shape[0])):
            for j in range(hi - lo):
                partial[j] += x[s, np.uintp(lo + j)]
        for j in range(hi - lo):
            out[np.uintp(lo + j)] += partial[j]


def take_rows(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """table[rows]: [R, ...] by rows [S] to [S, ...]."""
    out = memory.empty((rows.size, *table.shape[1:]), table.dtype)
    return np.take(table, rows, axis=0, out=out, mode="clip")  # checked by the caller; "raise" would buffer


def scatter_add_rows(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """out [count, H] with out[rows[s]] += values[s], values [S, H]; deterministic."""
    out = memory.empty((count, values.shape[1]), values.dtype)
    threads.run(_add_rows_at, 4.0 * (values.size + out.size), max(1, out.shape[1] // 16), values, rows, out)
    return out


def column_sums(x: np.ndarray) -> np.ndarray:
    """Sums over the rows of x [S, H]."""
    out = np.empty(x.shape[1], x.dtype)
    threads.run(_column_sums, 1.0 * x.size, max(1, out.size // 16), x, out)
    return out


def dropout(x: np.ndarray, probability: float, seed: int) -> np.ndarray:
    """x times a random mask of zeros and 1 / (1 - p); the same seed gives the same mask, forward and back."""
    out = memory.empty(x.shape, x.dtype)
    if x.size:
        threshold = min(65536, round(probability * 65536))
        scale = 0.0 if threshold == 65536 else 65536 / (65536 - threshold)
        flat, target = x.reshape(-1), out.reshape(-1)
        threads.run(_dropout, 8.0 * x.size, x.size // _DROPPED + 1, flat, np.uint64(seed), threshold, scale, target)
    return out
