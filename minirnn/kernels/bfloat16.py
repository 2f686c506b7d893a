"""bfloat16, the upper half of a float32: rounding, and the packing of pairs for products.

A processor's bfloat16 dot product multiplies *pairs* that follow one another along the depth, and adds both products to
a float32. A matrix [depth, columns] is therefore stored as 32-bit words [ceil(depth / 2), columns], each of which holds
the elements of depths 2k (lower half) and 2k + 1; after an odd depth follows zero. Words are packed and addressed
as float32 elements are, with half the depth.
"""

from __future__ import annotations

import numpy as np

from minirnn.kernels import memory, threads
from minirnn.kernels.jit import chunk_of, jit

HIGH = 0xFFFF0000


@jit(inline=True)
def round_bits(bits):
    """Bits of float32, uint32, to those whose upper half is the nearest bfloat16, ties to even; NaN stays NaN."""
    nan = np.uint32((bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000))
    up = np.uint32(np.uint32(0x7FFF) + (np.uint32(bits >> np.uint32(16)) & np.uint32(1)))
    return np.uint32(bits + np.uint32(up * np.uint32(np.uint32(1) - nan))) | np.uint32(nan << np.uint32(22))


@jit(inline=True)
def pair(low, high):
    """Two float32, given as their bits, as one word."""
    return np.uint32(round_bits(high) & np.uint32(HIGH)) | np.uint32(round_bits(low) >> np.uint32(16))


@jit(inline=True)
def pair_within_rows(bits, at, row, rows, depth, words, words_at):
    """Write float32 rows, given as their bits, ``row`` elements apart, as ceil(depth / 2) words each, without gaps."""
    pairs = (depth + 1) // 2
    for r in range(rows):
        start, target = np.uintp(at + r * row), np.uintp(words_at + r * pairs)
        for k in range(depth // 2):
            first = start + np.uintp(2 * k)
            words[target + np.uintp(k)] = pair(bits[first], bits[first + np.uintp(1)])
        if depth % 2:
            words[target + np.uintp(pairs - 1)] = pair(bits[start + np.uintp(depth - 1)], np.uint32(0))


@jit
def _pair_columns(thread_id, num_threads, bits, words):
    """words[r, k] = b[r, 2k], b[r, 2k + 1]."""
    rows, depth = bits.shape
    first, last = chunk_of(rows, thread_id, num_threads)
    flat, target = bits.reshape(bits.size), words.reshape(words.size)
    pair_within_rows(flat, first * depth, depth, last - first, depth, target, first * words.shape[1])


@jit
def _pair_rows(thread_id, num_threads, bits, words):
    """words[k, j] = b[2k, j], b[2k + 1, j]."""
    depth, columns = bits.shape
    first, last = chunk_of(words.shape[0], thread_id, num_threads)
    for k in range(first, last):
        if 2 * k + 1 < depth:
            for j in range(columns):
                words[k, j] = pair(bits[2 * k, j], bits[2 * k + 1, j])
        else:
            for j in range(columns):
                words[k, j] = pair(bits[2 * k, j], np.uint32(0))


def pairs(b: np.ndarray, transposed: bool) -> np.ndarray:
    """The words of ``b`` [depth, columns]; where it is ``transposed``, [columns, depth], those of its transpose."""
    rows, columns = b.shape
    shape = (rows, (columns + 1) // 2) if transposed else ((rows + 1) // 2, columns)
    words = memory.empty(shape, np.uint32)
    threads.run(_pair_columns if transposed else _pair_rows, 4.0 * b.size, len(words), b.view(np.uint32), words)
    return words


def unpack(words: np.ndarray) -> np.ndarray:
    """The float32 elements [n, 2 k, ...] of words [n, k, ...]."""
    halves = np.stack([words << np.uint32(16), words & np.uint32(HIGH)], axis=2)
    return halves.view(np.float32).reshape(words.shape[0], 2 * words.shape[1], *words.shape[2:])
