"""The matrix micro-kernel, emitted as LLVM IR for the host's vector width, and the packing of its right operand.

``multiply_add`` computes C += A B for a few rows of A, any strides, against a *packed* B: column panels as wide as a
register tile, each ``[depth, panel_width]`` and contiguous, the last one padded with zeros. A tile keeps ROWS x VECTORS
vector accumulators in registers, broadcasts one element of A per row and multiplies it with VECTORS vectors of B; the
panel stays in the first- or second-level cache. Every element of C is one chain of multiply-adds in ascending order of
depth, whichever tile it is in, so results do not depend on how rows are divided among threads. (Structure: Goto & van
de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".)
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen, config
from numba.extending import intrinsic, overload

from minirnn.kernels import memory, threads
from minirnn.kernels.jit import DISABLED, chunk_of, jit
from minirnn.kernels.rounding import round_to_bfloat16

ROWS = 6
VECTORS = 2
WIDE = 4
"""Panels that a tile of one row takes at once: the accumulators of one panel would wait for each other's sums."""


@functools.cache
def vector_bytes() -> int:
    """Bytes of the widest vector register the compiler may use on this host: 64, 32 or 16."""
    features = config.CPU_FEATURES
    if features is None:
        features = codegen.get_host_cpu_features()
    enabled = set(features.split(","))
    if "+avx512f" in enabled:
        return 64
    return 32 if "+avx" in enabled else 16


def packed_width(dtype: np.dtype) -> int:
    """Columns of a packed panel of element type ``dtype``; those of 8 and 16 bits are multiplied as 32 bits."""
    return VECTORS * vector_bytes() // max(4, dtype.itemsize)


def panel_width(array):
    """Columns of a packed panel for the element type of ``array``, for compiled code too."""
    return packed_width(array.dtype)


@overload(panel_width, inline="always")
def _panel_width(array):
    width = VECTORS * vector_bytes() // max(4, array.dtype.bitwidth // 8)
    return lambda array: width


def emit_tile(rows: int, vectors: int, lanes: int | None = None, panels: int = 1) -> Any:
    """An intrinsic ``tile(a, a_at, a_row, a_column, panel, panel_at, panel_size, c, c_at, c_row, depth, columns)``.

    It adds A B to C for ``rows`` rows and the first ``columns`` of ``panels * vectors * lanes`` columns; the panels are
    ``panel_size`` apart. Positions and strides are in elements; ``lanes`` of a vector are the host's unless given.
    Panels of uint16 hold bfloat16, as :func:`pack_bfloat16` makes them, for A and C of float32.
    """

    @intrinsic
    def tile(typing_context, a, a_at, a_row, a_column, panel, panel_at, panel_size, c, c_at, c_row, depth, columns):
        size = types.intp
        signature = types.void(a, size, size, size, panel, size, size, c, size, size, size, size)

        def generate(context, builder, signature, args):
            _generate_tile(rows, vectors, lanes, panels, context, builder, signature, args)
            return context.get_dummy_value()

        return signature, generate

    return tile


def _generate_tile(rows, vectors, lanes, panels, context, builder, signature, args):
    a_type, panel_type, c_type = signature.args[0], signature.args[4], signature.args[7]
    width = a_type.dtype.bitwidth // 8
    lanes = lanes or vector_bytes() // width
    scalar = ir.FloatType() if width == 4 else ir.DoubleType()
    vector = ir.VectorType(scalar, lanes)
    mask_type = ir.VectorType(ir.IntType(1), lanes)
    word, index = ir.IntType(32), ir.IntType(64)
    suffix = f"v{lanes}f{8 * width}"

    def data(array_type, value):
        return context.make_array(array_type)(context, builder, value).data

    def declare(name, result, parameters):
        return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, parameters), name)

    def splat(value, kind):
        undefined = ir.Constant(kind, ir.Undefined)
        one = builder.insert_element(undefined, value, ir.Constant(word, 0))
        zeros = ir.Constant(ir.VectorType(word, lanes), [0] * lanes)
        return builder.shuffle_vector(one, undefined, zeros)

    def vector_at(base, offset):
        return builder.bitcast(builder.gep(base, [offset]), vector.as_pointer())

    def constant(value):
        return ir.Constant(index, value)

    def expanded(pointer):
        """Two vectors of float32 from as many words, each a bfloat16 in its upper half and one in its lower."""
        words = ir.VectorType(word, lanes)
        load = builder.load(builder.bitcast(pointer, words.as_pointer()))
        load.align = 2
        upper = builder.and_(load, ir.Constant(words, [0xFFFF0000] * lanes))
        lower = builder.shl(load, ir.Constant(words, [16] * lanes))
        return [builder.bitcast(half, vector) for half in (upper, lower)]

    fma = declare(f"llvm.fmuladd.{suffix}", vector, [vector] * 3)
    a, a_at, a_row, a_column, panel, panel_at, panel_size, c, c_at, c_row, depth, columns = args
    a = builder.gep(data(a_type, a), [a_at])
    panel = builder.gep(data(panel_type, panel), [panel_at])
    c = builder.gep(data(c_type, c), [c_at])
    zero = ir.Constant(vector, [0.0] * lanes)
    cells = [(row, v) for row in range(rows) for v in range(panels * vectors)]

    def target(row, v):
        return vector_at(c, builder.add(builder.mul(constant(row), c_row), constant(v * lanes)))

    # C is needed last but prefetched first: its lines arrive while the products are summed
    byte_pointer = ir.IntType(8).as_pointer()
    prefetch = declare("llvm.prefetch.p0", ir.VoidType(), [byte_pointer, word, word, word])
    for row, v in cells:
        for_write, keep, is_data = (ir.Constant(word, number) for number in (1, 3, 1))
        builder.call(prefetch, [builder.bitcast(target(row, v), byte_pointer), for_write, keep, is_data])

    entry = builder.block
    head, body, done = (builder.append_basic_block(f"tile.{name}") for name in ("head", "body", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    k = builder.phi(index)
    k.add_incoming(constant(0), entry)
    sums = {cell: builder.phi(vector) for cell in cells}
    for phi in sums.values():
        phi.add_incoming(zero, entry)
    builder.cbranch(builder.icmp_signed("<", k, depth), body, done)

    builder.position_at_end(body)
    panel_row = builder.mul(k, constant(vectors * lanes))
    right = []
    for number in range(panels):
        start = builder.add(panel_row, builder.mul(constant(number), panel_size))
        if panel_type.dtype == types.uint16:
            for v in range(0, vectors, 2):
                right += expanded(builder.gep(panel, [builder.add(start, constant(v * lanes))]))
            continue
        for v in range(vectors):
            load = builder.load(vector_at(panel, builder.add(start, constant(v * lanes))))
            load.align = width
            right.append(load)
    a_k = builder.mul(k, a_column)
    for row in range(rows):
        element = builder.load(builder.gep(a, [builder.add(a_k, builder.mul(constant(row), a_row))]))
        left = splat(element, vector)
        for v in range(panels * vectors):
            total = builder.call(fma, [left, right[v], sums[row, v]])
            sums[row, v].add_incoming(total, body)
    k.add_incoming(builder.add(k, constant(1)), body)
    builder.branch(head)

    builder.position_at_end(done)
    whole = builder.icmp_signed("==", columns, constant(panels * vectors * lanes))
    with builder.if_else(whole) as (full, edge):
        with full:
            for row, v in cells:
                pointer = target(row, v)
                load = builder.load(pointer)
                load.align = width
                builder.store(builder.fadd(load, sums[row, v]), pointer).align = width
        with edge:
            pointer_type = vector.as_pointer()
            pointer_suffix = f"{suffix}.p0" if ir.PointerType().is_opaque else f"{suffix}.p0{suffix}"
            masked_load = declare(f"llvm.masked.load.{pointer_suffix}", vector, [pointer_type, word, mask_type, vector])
            masked_store = declare(
                f"llvm.masked.store.{pointer_suffix}", ir.VoidType(), [vector, pointer_type, word, mask_type]
            )
            align = ir.Constant(word, width)
            count = splat(builder.trunc(columns, word), ir.VectorType(word, lanes))
            for v in range(panels * vectors):
                numbers = ir.Constant(ir.VectorType(word, lanes), [v * lanes + lane for lane in range(lanes)])
                mask = builder.icmp_signed("<", numbers, count)
                for row in range(rows):
                    pointer = target(row, v)
                    load = builder.call(masked_load, [pointer, align, mask, zero])
                    total = builder.fadd(load, sums[row, v])
                    builder.call(masked_store, [total, pointer, align, mask])


_tile1, _tile2, _tile3, _tile4, _tile5, _tile6 = (emit_tile(rows, VECTORS) for rows in range(1, ROWS + 1))
_wide_tile1 = emit_tile(1, VECTORS, panels=WIDE)


@jit(inline=True)
def _row_tiles(a, a_at, a_row, a_column, rows, panel, panel_at, c, c_at, c_row, depth, columns):
    """One panel against ``rows`` rows, in tiles of almost equal height (25 rows: five fives)."""
    left = rows
    while left > 0:
        tiles = (left + 5) // 6
        height = (left + tiles - 1) // tiles
        if height == 6:
            _tile6(a, a_at, a_row, a_column, panel, panel_at, 0, c, c_at, c_row, depth, columns)
        elif height == 5:
            _tile5(a, a_at, a_row, a_column, panel, panel_at, 0, c, c_at, c_row, depth, columns)
        elif height == 4:
            _tile4(a, a_at, a_row, a_column, panel, panel_at, 0, c, c_at, c_row, depth, columns)
        elif height == 3:
            _tile3(a, a_at, a_row, a_column, panel, panel_at, 0, c, c_at, c_row, depth, columns)
        elif height == 2:
            _tile2(a, a_at, a_row, a_column, panel, panel_at, 0, c, c_at, c_row, depth, columns)
        else:
            _tile1(a, a_at, a_row, a_column, panel, panel_at, 0, c, c_at, c_row, depth, columns)
        a_at += height * a_row
        c_at += height * c_row
        left -= height


@jit(inline=True)
def multiply_add(a, a_at, a_row, a_column, rows, panels, panels_at, panel_size, depth, c, c_at, c_row, columns):
    """C[rows, columns] += A[rows, depth] B[depth, columns], positions and strides in elements.

    Args:
        a: A[r, k] is its element ``a_at + r * a_row + k * a_column``.
        panels: packed B; panel p begins at ``panels_at + p * panel_size``.
        c: C[r, j] is its element ``c_at + r * c_row + j``.
    """
    width = panel_width(panels)
    column = 0
    while rows == 1 and column + (WIDE - 1) * width < columns:
        used = min(WIDE * width, columns - column)
        _wide_tile1(a, a_at, a_row, a_column, panels, panels_at, panel_size, c, c_at + column, c_row, depth, used)
        panels_at += WIDE * panel_size
        column += WIDE * width
    while column < columns:
        used = min(width, columns - column)
        _row_tiles(a, a_at, a_row, a_column, rows, panels, panels_at, c, c_at + column, c_row, depth, used)
        panels_at += panel_size
        column += width


def _multiply_add_plain(a, a_at, a_row, a_column, rows, panels, panels_at, panel_size, depth, c, c_at, c_row, columns):
    """:func:`multiply_add` in NumPy."""
    if not (rows and depth and columns):
        return
    width = panel_width(panels)
    count = -(-columns // width)
    left = _window(a, a_at, (rows, depth), (a_row, a_column))
    right = _window(panels, panels_at, (count, depth, width), (panel_size, width, 1))
    if panels.dtype == np.uint16:
        words = np.ascontiguousarray(right).view(np.uint32)
        right = np.concatenate([words & 0xFFFF0000, words << 16], axis=2).view(np.float32)
    target = _window(c, c_at, (rows, columns), (c_row, 1))
    target += np.concatenate([left @ panel for panel in right], axis=1)[:, :columns]


if DISABLED:
    multiply_add = _multiply_add_plain


def _window(array: np.ndarray, start: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    flat = array.reshape(-1)[start:]
    return np.lib.stride_tricks.as_strided(flat, shape, tuple(s * array.itemsize for s in strides))


# -------------------------------------------------------------------------------------------------- packing


def packed_panels(columns: int, dtype: np.dtype) -> int:
    """How many panels hold ``columns`` columns of element type ``dtype``."""
    return -(-columns // packed_width(dtype))


def empty_panels(depth: int, columns: int, dtype: np.dtype) -> np.ndarray:
    """A buffer for a packed [depth, columns] matrix: panels [count, depth, panel_width]."""
    return memory.empty((packed_panels(columns, dtype), depth, packed_width(dtype)), dtype)


@jit
def pack_rows(thread_id, num_threads, b, panels):
    """Pack b [depth, columns]: panels[p, k, j] = b[k, p * width + j]."""
    count, depth, width = panels.shape
    columns = b.shape[1]
    first, last = chunk_of(count, thread_id, num_threads)
    for p in range(first, last):
        start = p * width
        used = min(width, columns - start)
        for k in range(depth):
            for j in range(used):
                panels[p, k, j] = b[k, np.uintp(start + j)]  # uintp: a sign check would keep the loop scalar
            for j in range(used, width):
                panels[p, k, np.uintp(j)] = 0


@jit
def pack_columns(thread_id, num_threads, b, panels):
    """Pack the transpose of b [columns, depth]: panels[p, k, j] = b[p * width + j, k]."""
    count, depth, width = panels.shape
    columns = b.shape[0]
    block = 64
    first, last = chunk_of(count, thread_id, num_threads)
    for p in range(first, last):
        start = p * width
        used = min(width, columns - start)
        for k0 in range(0, depth, block):
            k1 = min(k0 + block, depth)
            fours = used - used % 4
            for j in range(0, fours, 4):  # four columns at a time, whose stores are consecutive, take half the time
                for k in range(k0, k1):
                    depth_k, row, column = np.uintp(k), np.uintp(start + j), np.uintp(j)
                    panels[p, depth_k, column] = b[row, depth_k]
                    panels[p, depth_k, column + np.uintp(1)] = b[row + np.uintp(1), depth_k]
                    panels[p, depth_k, column + np.uintp(2)] = b[row + np.uintp(2), depth_k]
                    panels[p, depth_k, column + np.uintp(3)] = b[row + np.uintp(3), depth_k]
            for j in range(fours, used):
                for k in range(k0, k1):
                    panels[p, np.uintp(k), j] = b[np.uintp(start + j), np.uintp(k)]
            for k in range(k0, k1):
                for j in range(used, width):
                    panels[p, k, j] = 0


def pack(b: np.ndarray, transposed: bool) -> np.ndarray:
    """Packed panels of ``b`` [depth, columns], or of its transpose when ``b`` is [columns, depth]."""
    columns, depth = b.shape if transposed else b.shape[::-1]
    panels = empty_panels(depth, columns, b.dtype)
    threads.run(pack_columns if transposed else pack_rows, 8.0 * b.size, len(panels), b, panels)
    return panels


@jit
def _round_panels(thread_id, num_threads, panels, words):
    half = words.shape[2]
    first, last = chunk_of(panels.shape[0], thread_id, num_threads)
    for p in range(first, last):
        for k in range(panels.shape[1]):
            for j in range(half):
                upper, lower = panels[p, k, np.uintp(j)], panels[p, k, np.uintp(half + j)]
                words[p, k, np.uintp(j)] = round_to_bfloat16(upper) << np.uint32(16) | round_to_bfloat16(lower)


def pack_bfloat16(weight: np.ndarray) -> np.ndarray:
    """Packed panels of the transpose of ``weight`` [columns, depth] in bfloat16, stored as uint16.

    A word of 32 bits holds two numbers whose columns are half a panel apart, the first in its upper half: one mask and
    one shift expand it.
    """
    panels = pack(weight, True).view(np.uint32)
    words = memory.empty((*panels.shape[:2], panels.shape[2] // 2), np.uint32)
    threads.run(_round_panels, 8.0 * panels.size, len(panels), panels, words)
    return words.view(np.uint16)
