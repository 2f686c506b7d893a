"""Matrix products on the micro-kernel of :mod:`minirnn.kernels.tile` and the thread pool."""

from __future__ import annotations

import numpy as np

from minirnn.kernels import memory, threads, tile
from minirnn.kernels.bfloat16 import pair
from minirnn.kernels.jit import chunk_of, jit
from minirnn.kernels.precision import uses_bfloat16
from minirnn.kernels.tile import multiply, multiply_add, multiply_add_bfloat16, multiply_bfloat16, panel_width

_DEPTH = 2048  # a panel of this depth fits the second-level cache beside the rows
_ROW_BLOCK_BYTES = 1 << 19  # and these rows: each panel is loaded once for a block of them
_PACKED_BYTES = 1 << 22  # of a packed B at a time, which stay in the third-level cache
_CHUNK = 768  # largest depth of a packed chunk of a transposed product
_GROUP = 96  # its rows of A
_NO_ROWS = np.empty(0, np.int64)


def _make_rows_times_panels(multiply, multiply_add):
    @jit
    def rows_times_panels(thread_id, num_threads, a, k0, depth, panels, bias, out, c0, block):
        """out = A B + bias for this thread's rows and a packed part of B, from column c0 or from row k0 on.

        It has as many columns as the panels, and ``depth`` rows; where k0 > 0, the product is added to what there is.
        """
        (rows, lead), columns = a.shape, out.shape[1]
        count, width = panels.shape[0], panels.shape[2]
        used = min(count * width, columns - c0)
        first, last = chunk_of(rows, thread_id, num_threads)
        for r0 in range(first, last, block):
            height = min(block, last - r0)
            for r in range(r0, r0 + height if k0 == 0 and bias.size > 0 else r0):
                for j in range(c0, c0 + used):
                    out[r, np.uintp(j)] = bias[np.uintp(j)]
            left, to = r0 * lead + k0, r0 * columns + c0
            for k in range(0, max(1, depth), _DEPTH):
                rows_of_a, size = (a, left + k, lead, 1, height), min(_DEPTH, depth - k)
                if k0 + k == 0 and bias.size == 0:
                    multiply(*rows_of_a, panels, k * width, depth * width, size, out, to, columns, used)
                else:
                    multiply_add(*rows_of_a, panels, k * width, depth * width, size, out, to, columns, used)

    return rows_times_panels


_rows_times_panels = _make_rows_times_panels(multiply, multiply_add)
_rows_times_panels_bfloat16 = _make_rows_times_panels(multiply_bfloat16, multiply_add_bfloat16)


@jit(inline=True)
def _copy_row(b, rows, k, start, count, target):
    """target[j] = b[rows[k], start + j]; without ``rows``, b[k, start + j]."""
    source = rows[k] if rows.size > 0 else k
    for j in range(count):
        target[j] = b[source, np.uintp(start + j)]


@jit(inline=True)
def _pair_rows(b, rows, k, start, count, target):
    """The same of the rows 2k and 2k + 1 as pairs, for the bits of b."""
    low = rows[2 * k] if rows.size > 0 else 2 * k
    if 2 * k + 1 < (rows.size if rows.size > 0 else b.shape[0]):
        high = rows[2 * k + 1] if rows.size > 0 else 2 * k + 1
        for j in range(count):
            target[j] = pair(b[low, np.uintp(start + j)], b[high, np.uintp(start + j)])
    else:
        for j in range(count):
            target[j] = pair(b[low, np.uintp(start + j)], np.uint32(0))


def _make_transposed_times_rows(copy_row):
    @jit
    def transposed_times_rows(thread_id, num_threads, a, column, b, rows, depth, out, accumulate, panels, groups):
        """out[m, :] (+)= sum_k a[k, column + m] b[rows[k], :] for this thread's rows m.

        The depth, in pairs if these are multiplied, is divided into chunks; of each, B is packed into panels and A into
        groups of tiles, both by plain copies, since both are stored row by row.
        """
        count, columns = out.shape
        width = panel_width(panels)
        _, chunk, group = groups.shape
        one = groups.strides[2] // groups.itemsize
        panel_count = panels.shape[1]
        panels_at, groups_at = thread_id * panel_count * chunk * width, thread_id * chunk * group
        first, last = chunk_of((count + 5) // 6, thread_id, num_threads)  # in tiles
        first, last = first * 6, min(count, last * 6)
        for k0 in range(0, max(depth, 1), chunk):
            size = min(chunk, depth - k0)
            for p in range(panel_count):
                start = p * width
                used = min(width, columns - start)
                for k in range(size):
                    copy_row(b, rows, k0 + k, start, used, panels[thread_id, p, k])
                    for j in range(used, width):
                        panels[thread_id, p, k, j] = 0
            for m0 in range(first, last, group):
                height = min(group, last - m0)
                for k in range(size):
                    copy_row(a, rows[:0], k0 + k, column + m0, height, groups[thread_id, k])
                left, right, to = (groups, groups_at, one, group), (panels, panels_at, chunk * width), m0 * columns
                if k0 == 0 and not accumulate:
                    multiply(*left, height, *right, size, out, to, columns, columns)
                else:
                    multiply_add(*left, height, *right, size, out, to, columns, columns)

    return transposed_times_rows


_transposed_times_rows = _make_transposed_times_rows(_copy_row)
_transposed_times_rows_bfloat16 = _make_transposed_times_rows(_pair_rows)


def gemm(
    a: np.ndarray,
    b: np.ndarray,
    bias: np.ndarray | None = None,
    out: np.ndarray | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    rows: np.ndarray | None = None,
    column: int = 0,
    accumulate: bool = False,
) -> np.ndarray:
    if transpose_a:
        return _transposed_gemm(a, b, out, rows, column, accumulate)
    depth = a.shape[1]
    columns = b.shape[0] if transpose_b else b.shape[1]
    if out is None:
        out = memory.empty((a.shape[0], columns), a.dtype)
    if bias is None:
        bias = np.empty(0, a.dtype)
    bfloat16 = uses_bfloat16(a.dtype)
    kernel = _rows_times_panels_bfloat16 if bfloat16 else _rows_times_panels
    block = max(tile.ROWS * 4, _ROW_BLOCK_BYTES // (min(max(1, depth), _DEPTH) * a.itemsize) // tile.ROWS * tile.ROWS)
    width, step = tile.packed_width(a.dtype), _DEPTH
    if transpose_b:
        step = max(1, _PACKED_BYTES // max(1, depth * width * a.itemsize)) * width
    for start in range(0, max(1, len(b)), step):
        k0, c0 = (0, start) if transpose_b else (start, 0)
        part = b[start : start + step]
        panels = tile.pack(part, transpose_b, bfloat16)
        work, count = float(a.shape[0]) * part.size, depth if transpose_b else len(part)
        threads.run(kernel, work, a.shape[0], a, k0, count, panels, bias, out, c0, block)
        del panels  # before the next ones are made, which take its memory
    return out


def _transposed_gemm(
    a: np.ndarray, b: np.ndarray, out: np.ndarray | None, rows: np.ndarray | None, column: int, accumulate: bool
) -> np.ndarray:
    depth, columns = a.shape[0], b.shape[1]
    if out is None:
        out = memory.empty((a.shape[1], columns), a.dtype)
    work, kernel, dtype = float(depth) * len(out) * columns, _transposed_times_rows, a.dtype
    if uses_bfloat16(dtype):
        kernel, depth, a, b = _transposed_times_rows_bfloat16, (depth + 1) // 2, a.view(np.uint32), b.view(np.uint32)
    chunks = max(1, -(-depth // _CHUNK))  # by the shape alone, so that sums have one order on any number of threads
    chunk = max(1, -(-depth // chunks))
    count, dtype = threads.get_num_threads(), a.dtype
    panels = memory.empty((count, tile.packed_panels(columns, dtype), chunk, tile.packed_width(dtype)), dtype)
    groups = memory.empty((count, chunk, _GROUP), dtype)
    max_threads, rows = min(count, -(-len(out) // tile.ROWS)), _NO_ROWS if rows is None else rows
    threads.run(kernel, work, max_threads, a, column, b, rows, depth, out, accumulate, panels, groups)
    return out
