"""Products of a few rows with weights of 8 bits: integers with a factor per row, on processors with VNNI.

A panel holds, for every four steps of the depth, the four weights of each column side by side, as ``vpdpbusd`` takes
them: 32 bits of a vector register are four weights of one column. After these rows follow the sum of each column's
weights (int32) and its factor (float32).

The row that is multiplied is rounded to 16 bits, q = round(x / step) with step = max |x| / 32767, and divided into two
bytes, q + 32768 = 256 u + v, since the instruction takes bytes without sign. All sums are of integers, and exact:
``q . w = 256 (u . w - 128 sum w) + v . w``. So what is lost is lost by the rounding of the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minirnn.kernels.jit import DISABLED, jit
from minirnn.kernels.rounding import quantize_rows
from minirnn.kernels.tile import (
    VECTORS,
    WIDE,
    broadcast,
    cpu_features,
    packed_width,
    panel_width,
    sum_over,
    vector_bytes,
)

_FOUR = 4
_EXTRA = 2  # rows of a panel after the weights: sums, factors


def has_int8() -> bool:
    """Whether this processor has the instruction."""
    return DISABLED or not cpu_features().isdisjoint({"avx512vnni", "avxvnni"})


def pack_int8(weight: np.ndarray) -> np.ndarray:
    """Packed panels of the transpose of ``weight`` [columns, depth]: int8 [count, ceil(depth / 4) + 2, 4 width]."""
    (columns, depth), width = weight.shape, packed_width(np.dtype(np.float32))
    count, groups = -(-columns // width), -(-depth // _FOUR)
    panels = np.empty((count, groups + _EXTRA, _FOUR * width), np.int8)
    for start, panel in zip(range(0, columns, width), panels, strict=True):  # one at a time, in the cache
        integers, factors = np.zeros((width, groups * _FOUR), np.int8), np.zeros(width, np.float32)
        used = min(width, columns - start)
        integers[:used, :depth], factors[:used] = quantize_rows(weight[start : start + used])
        words = panel.view(np.int32)
        words[:groups] = integers.view(np.int32).T
        words[groups] = integers.sum(1, dtype=np.int32)
        words[groups + 1] = factors.view(np.int32)
    return panels


def _emit_dots(panels: int) -> Any:
    """An intrinsic ``dots(row, groups, panel, at, size, sums)``: of some panels, the sums u . w and v . w.

    Args:
        row: uint8 [2, 4 groups], u and v.
        panel, at, size: packed panels, the first element, and how far one is from the next.
        sums: int32 [2, panels * width], overwritten.
    """

    @intrinsic
    def dots(typing_context, row, groups, panel, at, size, sums):
        def generate(context, builder, signature, args):
            _generate_dots(panels, context, builder, signature, args)
            return context.get_dummy_value()

        return types.void(row, types.intp, panel, types.intp, types.intp, sums), generate

    return dots


def _generate_dots(panels: int, context: Any, builder: Any, signature: Any, args: Any) -> None:
    lanes = vector_bytes() // _FOUR
    word, index = ir.IntType(32), ir.IntType(64)
    vector = ir.VectorType(word, lanes)
    name = f"llvm.x86.avx512.vpdpbusd.{8 * vector_bytes()}"
    dot = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
    row, panel, sums = (context.make_array(signature.args[n])(context, builder, args[n]).data for n in (0, 2, 5))
    groups, at, size = args[1], args[3], args[4]
    cells = [(part, v) for part in range(2) for v in range(panels * VECTORS)]

    def constant(value: int) -> Any:
        return ir.Constant(index, value)

    def vector_at(base: Any, offset: Any, kind: Any) -> Any:
        return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())

    def add_products(k: Any, totals: dict[Any, Any]) -> dict[Any, Any]:
        left, found = [], {}
        for part in range(2):
            offset = builder.mul(builder.add(builder.mul(constant(part), groups), k), constant(_FOUR))
            four = builder.load(builder.bitcast(builder.gep(row, [offset]), word.as_pointer()))
            four.align = _FOUR
            left.append(broadcast(builder, four, vector))
        panel_row = builder.add(at, builder.mul(k, constant(VECTORS * vector_bytes())))
        for number in range(panels):
            start = builder.add(panel_row, builder.mul(constant(number), size))
            for v in range(VECTORS):
                load = builder.load(vector_at(panel, builder.add(start, constant(v * vector_bytes())), vector))
                load.align = 1
                for part in range(2):
                    cell = part, number * VECTORS + v
                    found[cell] = builder.call(dot, [totals[cell], left[part], load])
        return found

    totals = sum_over(builder, groups, cells, ir.Constant(vector, [0] * lanes), add_products)
    for part, v in cells:
        offset = constant((part * panels * VECTORS + v) * lanes)
        builder.store(totals[part, v], vector_at(sums, offset, vector)).align = _FOUR


_dots, _dots_wide = _emit_dots(1), _emit_dots(WIDE)


@jit(inline=True)
def _round_row(x, at, column, depth, row):
    """Write u and v of one row x [depth] to ``row`` [2, 4 groups]; returns the step, NaN where x is not finite."""
    largest, check = np.float32(0), np.float32(0)
    for k in range(depth):
        largest = max(largest, abs(x[at + k * column]))
        check += x[at + k * column] * np.float32(0)
    if not (largest > 0 and check == 0):
        return check  # zeros, or NaN
    inverse = np.float32(32767) / largest
    for k in range(depth):
        q = np.int32(x[at + k * column] * inverse + np.float32(32768.5))
        row[0, k] = q >> 8
        row[1, k] = q & 255
    return largest / np.float32(32767)


@jit
def multiply_int8(a, a_at, a_row, a_column, rows, panels, panels_at, panel_size, depth, c, c_at, c_row, columns):
    """C += A B as :func:`minirnn.kernels.tile.multiply_add`, with panels of :func:`pack_int8`."""
    width, groups = panel_width(panels), (depth + _FOUR - 1) // _FOUR
    x, out, flat = a.reshape(a.size), c.reshape(c.size), panels.reshape(panels.size)
    words, factors = flat.view(np.int32), flat.view(np.float32)
    row, sums = np.zeros((rows, 2, _FOUR * groups), np.uint8), np.empty(2 * WIDE * width, np.int32)
    steps = np.empty(rows, np.float32)
    for r in range(rows):
        steps[r] = _round_row(x, a_at + r * a_row, a_column, depth, row[r])
    column = 0
    while column < columns:
        taken = WIDE if column + (WIDE - 1) * width < columns else 1
        for r in range(rows):
            if taken == WIDE:
                _dots_wide(row[r], groups, flat, panels_at, panel_size, sums)
            else:
                _dots(row[r], groups, flat, panels_at, panel_size, sums)
            for p in range(taken):
                extra = (panels_at + p * panel_size) // _FOUR + groups * width
                first = column + p * width
                to, used = c_at + r * c_row + first, min(width, columns - first)
                for j in range(used):
                    u, v = sums[p * width + j], sums[(taken + p) * width + j]
                    total = np.float32(256) * np.float32(u - np.int32(128) * words[extra + j]) + np.float32(v)
                    out[to + j] += total * (steps[r] * factors[extra + width + j])
        panels_at += taken * panel_size
        column += taken * width


def _multiply_int8_plain(
    a, a_at, a_row, a_column, rows, panels, panels_at, panel_size, depth, c, c_at, c_row, columns
):  # fmt: skip
    """:func:`multiply_int8` in NumPy."""
    width, groups = panel_width(panels), -(-depth // _FOUR)
    part = panels.reshape(-1, *panels.shape[1:])[panels_at // panel_size :]
    weights = part[:, :groups].reshape(-1, groups, width, _FOUR).swapaxes(1, 2).reshape(-1, groups * _FOUR)[:columns]
    factors = np.ascontiguousarray(part[:, groups + 1]).view(np.float32).reshape(-1)[:columns]
    row = np.zeros((2, groups * _FOUR), np.uint8)
    for r in range(rows):
        step = _round_row(a.reshape(-1), a_at + r * a_row, a_column, depth, row)
        q = 256 * row[0].astype(np.int64) + row[1] - 32768
        c.reshape(-1)[c_at + r * c_row :][:columns] += (weights[:, :depth] @ q[:depth]) * (step * factors)


if DISABLED:
    multiply_int8 = _multiply_int8_plain
