"""Matrix products on the project's own micro-kernel and thread pool."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.kernels import memory, threads, tile
from minirnn.kernels.jit import jit
from minirnn.kernels.tile import multiply_add, panel_width

_DEPTH = 2048  # a panel of this depth still fits the second cache beside the rows
_ROW_BLOCK_BYTES = 1 << 17
_CHUNK = 256
_GROUP = 192


@jit
def _rows_times_panels(share: int, shares: int, a: Any, panels: Any, bias: Any, out: Any, block: int) -> None:
    """out[rows of this share] = A B + bias, A [rows, depth] by rows, B packed."""
    rows, depth = a.shape
    width, columns = panels.shape[2], out.shape[1]
    first, last = share * rows // shares, (share + 1) * rows // shares
    for r0 in range(first, last, block):
        height = min(block, last - r0)
        for r in range(r0, r0 + height):
            if bias.size > 0:
                for j in range(columns):
                    out[r, j] = bias[j]
            else:
                for j in range(columns):
                    out[r, j] = 0
        for k0 in range(0, depth, _DEPTH):
            multiply_add(
                a, r0 * depth + k0, depth, 1, height, panels, k0 * width, depth * width,
                min(_DEPTH, depth - k0), out, r0 * columns, columns, columns,
            )  # fmt: skip


@jit
def _transposed_times_rows(
    share: int, shares: int, a: Any, column: int, b: Any, rows: Any, out: Any, panels: Any, groups: Any
) -> None:
    """out[m, :] = sum_k a[k, column + m] b[rows[k], :] for this share of the output rows m.

    Depth is walked in chunks; of each, B is packed into panels and A into groups of tiles, both by plain
    copies, since either lies by rows.
    """
    depth = a.shape[0]
    count, columns = out.shape
    width = panel_width(b)
    _, chunk, group = groups.shape
    one = groups.strides[2] // groups.itemsize
    panel_count = panels.shape[1]
    # shares begin on tile borders
    tiles = (count + 5) // 6
    first, last = share * tiles // shares * 6, min(count, (share + 1) * tiles // shares * 6)
    for m in range(first, last):
        for j in range(columns):
            out[m, j] = 0
    for k0 in range(0, depth, chunk):
        size = min(chunk, depth - k0)
        for p in range(panel_count):
            start = p * width
            used = min(width, columns - start)
            for k in range(size):
                source = rows[k0 + k] if rows.size > 0 else k0 + k
                for j in range(used):
                    panels[share, p, k, j] = b[source, np.uintp(start + j)]
                for j in range(used, width):
                    panels[share, p, k, j] = 0
        for m0 in range(first, last, group):
            height = min(group, last - m0)
            for k in range(size):
                for i in range(height):
                    groups[share, k, i] = a[k0 + k, np.uintp(column + m0 + i)]
            multiply_add(
                groups, share * chunk * group, one, group, height,
                panels, share * panel_count * chunk * width, chunk * width,
                size, out, m0 * columns, columns, columns,
            )  # fmt: skip


_NO_ROWS = np.empty(0, np.int64)


def gemm(
    a: np.ndarray,
    b: np.ndarray,
    bias: np.ndarray | None = None,
    out: np.ndarray | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    rows: np.ndarray | None = None,
    column: int = 0,
) -> np.ndarray:
    """A B + bias, where A is ``a`` or its transpose and B is ``b`` or its transpose; all C-contiguous.

    Args:
        a: [M, K], or [K, M] with ``transpose_a``.
        b: [K, N], or [N, K] with ``transpose_b``. Not both may be transposed.
        bias: [N], added to every row; not with ``transpose_a``.
        out: [M, N], written to; a new array where there is none. With ``transpose_a`` it may have fewer rows than
            ``a`` has columns, and takes those from ``column`` on.
        rows: [K] integers, with ``transpose_a``: row k of B is ``b[rows[k]]``.
    """
    if transpose_a:
        return _transposed_product(a, b, out, rows, column)
    depth = a.shape[1]
    columns = b.shape[0] if transpose_b else b.shape[1]
    if out is None:
        out = memory.empty((a.shape[0], columns), a.dtype)
    panels = tile.pack(b, transpose_b)
    if bias is None:
        bias = np.empty(0, a.dtype)
    block = max(tile.ROWS * 4, _ROW_BLOCK_BYTES // max(1, depth * a.itemsize) // tile.ROWS * tile.ROWS)
    work = float(a.shape[0]) * depth * columns
    threads.run(_rows_times_panels, work, a.shape[0], a, panels, bias, out, block)
    return out


def _transposed_product(
    a: np.ndarray, b: np.ndarray, out: np.ndarray | None, rows: np.ndarray | None, column: int
) -> np.ndarray:
    depth, columns = a.shape[0], b.shape[1]
    if out is None:
        out = memory.empty((a.shape[1], columns), a.dtype)
    count = len(out)
    panel_count = tile.packed_panels(columns, a.dtype)
    width = tile.VECTORS * tile.vector_bytes() // a.itemsize
    # by shape alone, so that sums have one order whatever the threads
    chunk = max(1, min(depth, _CHUNK))
    shares = threads.get_num_threads()
    panels = memory.empty((shares, panel_count, chunk, width), a.dtype)
    groups = memory.empty((shares, chunk, _GROUP), a.dtype)
    work = float(depth) * count * columns
    threads.run(
        _transposed_times_rows, work, min(shares, -(-count // 6)), a, column, b,
        _NO_ROWS if rows is None else rows, out,        panels, groups,
    )  # fmt: skip
    return out
