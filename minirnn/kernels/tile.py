"""The matrix micro-kernel, emitted as LLVM IR for the host's vector width, and the packing of its right operand.

``multiply_add`` computes C += A B, and ``multiply`` C = A B, for a few rows of A, any strides, against a *packed* B:
column panels as wide as a register tile, each ``[depth, panel_width]`` and contiguous, the last one padded with zeros.
A tile keeps ROWS x VECTORS vector accumulators in registers, broadcasts one element of A per row and multiplies it
with VECTORS vectors of B; the panel stays in the first- or second-level cache. Every element of C is one chain of
multiply-adds in ascending order of depth, whichever tile it is in, so results do not depend on how rows are divided
among threads. (Structure: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".)

The tiles are compiled once for a type of elements, as a function that kernels call by its symbol; as a part of every
kernel that multiplies they would take most of the time in which kernels are compiled.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen, config
from numba.extending import intrinsic, overload

from minirnn.kernels import bfloat16, memory, threads
from minirnn.kernels.bfloat16 import pair, pair_within_rows
from minirnn.kernels.jit import DISABLED, chunk_of, jit

ROWS = 6
VECTORS = 2
WIDE = 4
"""Panels that a tile of one row takes at once: the accumulators of one panel would wait for each other's sums."""


@functools.cache
def cpu_features() -> frozenset[str]:
    """The features of this host that the compiler may use, by LLVM's names: "avx512f"."""
    features = config.CPU_FEATURES
    if features is None:
        features = codegen.get_host_cpu_features()
    return frozenset(feature[1:] for feature in features.split(",") if feature.startswith("+"))


def vector_bytes() -> int:
    """Bytes of the widest vector register the compiler may use on this host: 64, 32 or 16."""
    if "avx512f" in cpu_features():
        return 64
    return 32 if "avx" in cpu_features() else 16


def packed_width(dtype: np.dtype) -> int:
    """Columns of a packed panel of element type ``dtype``; those of 8 and 16 bits are multiplied as 32 bits."""
    return VECTORS * vector_bytes() // max(4, dtype.itemsize)


def panel_width(array):
    """Columns of a packed panel for the element type of ``array``, for compiled code too."""
    return packed_width(array.dtype)


@overload(panel_width, jit_options={"forceinline": True})
def _panel_width(array):
    width = VECTORS * vector_bytes() // max(4, array.dtype.bitwidth // 8)
    return lambda array: width


def emit_tile(rows: int, vectors: int, lanes: int | None = None, panel_vectors: int | None = None) -> Any:
    """An intrinsic for a tile: C = A B, or with ``add`` C += A B.

    Its arguments: ``a, a_at, a_row, a_column, panel, panel_at, panel_size, c, c_at, c_row, depth, columns, add``. It
    has ``rows`` rows and computes the first ``columns`` of ``vectors * lanes`` columns. A row of a panel is
    ``panel_vectors`` wide, ``vectors`` if None; where the tile is wider it takes the next panels too, ``panel_size``
    apart. Positions and strides are in elements; a vector has the host's ``lanes`` unless they are given. Elements of
    A and B that are uint32 are pairs of bfloat16 (:mod:`minirnn.kernels.bfloat16`); C is float32 then.
    Panels of uint16 hold bfloat16, as :func:`pack_bfloat16` makes them, for A and C of float32.
    """

    @intrinsic
    def tile(
        typing_context, a, a_at, a_row, a_column, panel, panel_at, panel_size, c, c_at, c_row, depth, columns, add
    ):
        size = types.intp
        signature = types.void(a, size, size, size, panel, size, size, c, size, size, size, size, types.boolean)

        def generate(context, builder, signature, args):
            _generate_tile(rows, vectors, lanes, panel_vectors or vectors, context, builder, signature, args)
            return context.get_dummy_value()

        return signature, generate

    return tile


def broadcast(builder: Any, value: Any, vector: Any) -> Any:
    """``value`` in all elements of a vector of type ``vector``."""
    word, undefined = ir.IntType(32), ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(word, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(word, vector.count), [0] * vector.count))


def sum_over(builder: Any, count: Any, cells: Any, zero: Any, add: Any) -> dict[Any, Any]:
    """Emit a loop over k from 0 to ``count`` - 1 that adds to a vector for each of ``cells``; returns the sums.

    Args:
        zero: what they begin with.
        add: emits the body: from k and the sums so far, by cell, to the sums with what k adds.
    """
    entry = builder.block
    head, body, done = (builder.append_basic_block(f"sum.{name}") for name in ("head", "body", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    k = builder.phi(count.type)
    k.add_incoming(ir.Constant(count.type, 0), entry)
    sums = {cell: builder.phi(zero.type) for cell in cells}
    for phi in sums.values():
        phi.add_incoming(zero, entry)
    builder.cbranch(builder.icmp_signed("<", k, count), body, done)

    builder.position_at_end(body)
    for cell, total in add(k, sums).items():
        sums[cell].add_incoming(total, body)
    k.add_incoming(builder.add(k, ir.Constant(count.type, 1)), body)
    builder.branch(head)
    builder.position_at_end(done)
    return sums


def _generate_tile(rows, vectors, lanes, panel_vectors, context, builder, signature, args):
    a_type, panel_type, c_type = signature.args[0], signature.args[4], signature.args[7]
    width = a_type.dtype.bitwidth // 8
    lanes = lanes or vector_bytes() // width
    scalar = ir.FloatType() if width == 4 else ir.DoubleType()
    vector = ir.VectorType(scalar, lanes)
    pairs = panel_type.dtype == types.uint32
    operand = ir.VectorType(ir.IntType(32), lanes) if pairs else vector
    mask_type = ir.VectorType(ir.IntType(1), lanes)
    word, index = ir.IntType(32), ir.IntType(64)
    suffix = f"v{lanes}f{8 * width}"

    def data(kind, value):
        return value if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, value).data

    def declare(name, result, parameters):
        return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, parameters), name)

    def vector_at(base, offset, kind=vector):
        return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())

    def constant(value):
        return ir.Constant(index, value)

    def expanded(pointer):
        """Two vectors of float32 from as many words, each a bfloat16 in its upper half and one in its lower."""
        words = ir.VectorType(word, lanes)
        load = builder.load(builder.bitcast(pointer, words.as_pointer()))
        load.align = 2
        upper = builder.and_(load, ir.Constant(words, [bfloat16.HIGH] * lanes))
        lower = builder.shl(load, ir.Constant(words, [16] * lanes))
        return [builder.bitcast(half, vector) for half in (upper, lower)]

    if pairs:
        dot = declare("llvm.x86.avx512bf16.dpbf16ps.512", vector, [vector, operand, operand])
    else:
        fma = declare(f"llvm.fmuladd.{suffix}", vector, [vector] * 3)
    a, a_at, a_row, a_column, panel, panel_at, panel_size, c, c_at, c_row, depth, columns, add = args
    a = builder.gep(data(a_type, a), [a_at])
    panel = builder.gep(data(panel_type, panel), [panel_at])
    c = builder.gep(data(c_type, c), [c_at])
    zero = ir.Constant(vector, [0.0] * lanes)
    cells = [(row, v) for row in range(rows) for v in range(vectors)]

    def target(row, v):
        return vector_at(c, builder.add(builder.mul(constant(row), c_row), constant(v * lanes)))

    # C is needed last but prefetched first: its lines arrive while the products are summed
    byte_pointer = ir.IntType(8).as_pointer()
    prefetch = declare("llvm.prefetch.p0", ir.VoidType(), [byte_pointer, word, word, word])
    for row, v in cells:
        for_write, keep, is_data = (ir.Constant(word, number) for number in (1, 3, 1))
        builder.call(prefetch, [builder.bitcast(target(row, v), byte_pointer), for_write, keep, is_data])

    def add_products(k, sums):
        panel_row = builder.mul(k, constant(panel_vectors * lanes))
        right, found = [], {}
        for v in range(vectors):
            number, within = divmod(v, panel_vectors)
            start = builder.add(panel_row, builder.mul(constant(number), panel_size))
            at = builder.add(start, constant(within * lanes))
            if panel_type.dtype != types.uint16:
                load = builder.load(vector_at(panel, at, operand))
                load.align = width
                right.append(load)
            elif within % 2 == 0:
                right += expanded(builder.gep(panel, [at]))
        a_k = builder.mul(k, a_column)
        for row in range(rows):
            element = builder.load(builder.gep(a, [builder.add(a_k, builder.mul(constant(row), a_row))]))
            left = broadcast(builder, element, operand)
            for v in range(vectors):
                if pairs:
                    found[row, v] = builder.call(dot, [sums[row, v], left, right[v]])
                else:
                    found[row, v] = builder.call(fma, [left, right[v], sums[row, v]])
        return found

    sums = sum_over(builder, depth, cells, zero, add_products)
    pointer_type = vector.as_pointer()
    pointer_suffix = f"{suffix}.p0" if ir.PointerType().is_opaque else f"{suffix}.p0{suffix}"
    masked_load = declare(f"llvm.masked.load.{pointer_suffix}", vector, [pointer_type, word, mask_type, vector])
    masked_store = declare(
        f"llvm.masked.store.{pointer_suffix}", ir.VoidType(), [vector, pointer_type, word, mask_type]
    )
    align = ir.Constant(word, width)
    whole = builder.icmp_signed("==", columns, constant(vectors * lanes))
    with builder.if_else(whole) as (full, edge):
        with full, builder.if_else(add) as (more, first):
            with more:
                for row, v in cells:
                    pointer = target(row, v)
                    load = builder.load(pointer)
                    load.align = width
                    builder.store(builder.fadd(load, sums[row, v]), pointer).align = width
            with first:
                for row, v in cells:
                    builder.store(sums[row, v], target(row, v)).align = width
        with edge:
            count = broadcast(builder, builder.trunc(columns, word), ir.VectorType(word, lanes))
            old = builder.select(add, count, ir.Constant(count.type, [0] * lanes))
            for v in range(vectors):
                numbers = ir.Constant(ir.VectorType(word, lanes), [v * lanes + lane for lane in range(lanes)])
                mask, old_mask = (builder.icmp_signed("<", numbers, limit) for limit in (count, old))
                for row in range(rows):
                    pointer = target(row, v)
                    load = builder.call(masked_load, [pointer, align, old_mask, zero])
                    total = builder.fadd(load, sums[row, v])
                    builder.call(masked_store, [total, pointer, align, mask])


_tile1, _tile2, _tile3, _tile4, _tile5, _tile6 = (emit_tile(rows, VECTORS) for rows in range(1, ROWS + 1))
_half_tile1, _half_tile5, _half_tile6 = (emit_tile(rows, VECTORS // 2, panel_vectors=VECTORS) for rows in (1, 5, 6))
_wide_tile1, _wide_tile1_less = (emit_tile(1, n, panel_vectors=VECTORS) for n in (WIDE * VECTORS, WIDE * VECTORS - 1))


@jit(from_python=False)
def _product(a, a_row, a_column, rows, panels, panel_size, depth, c, c_row, columns, add):
    """:func:`multiply`, or with ``add`` :func:`multiply_add`, of pointers; one panel after the other."""
    width = panel_width(panels)
    panel, column = 0, 0
    while rows == 1 and column + (WIDE - 1) * width < columns:
        used = min(WIDE * width, columns - column)
        if VECTORS * used <= (WIDE * VECTORS - 1) * width:  # the last vector would be padding
            _wide_tile1_less(a, 0, a_row, a_column, panels, panel, panel_size, c, column, c_row, depth, used, add)
        else:
            _wide_tile1(a, 0, a_row, a_column, panels, panel, panel_size, c, column, c_row, depth, used, add)
        panel += WIDE * panel_size
        column += WIDE * width
    while column < columns:
        used = min(width, columns - column)
        a_at, c_at, left = 0, column, rows
        while left > 0:  # tiles of almost equal height (25 rows: five fives)
            tiles = (left + 5) // 6
            height = (left + tiles - 1) // tiles
            if height == 6 and 2 * used <= width:
                _half_tile6(a, a_at, a_row, a_column, panels, panel, 0, c, c_at, c_row, depth, used, add)
            elif height == 6:
                _tile6(a, a_at, a_row, a_column, panels, panel, 0, c, c_at, c_row, depth, used, add)
            elif height == 5 and 2 * used <= width:
                _half_tile5(a, a_at, a_row, a_column, panels, panel, 0, c, c_at, c_row, depth, used, add)
            elif height == 5:
                _tile5(a, a_at, a_row, a_column, panels, panel, 0, c, c_at, c_row, depth, used, add)
            elif height == 4:
                _tile4(a, a_at, a_row, a_column, panels, panel, 0, c, c_at, c_row, depth, used, add)
            elif height == 3:
                _tile3(a, a_at, a_row, a_column, panels, panel, 0, c, c_at, c_row, depth, used, add)
            elif height == 2:
                _tile2(a, a_at, a_row, a_column, panels, panel, 0, c, c_at, c_row, depth, used, add)
            elif 2 * used <= width:
                _half_tile1(a, a_at, a_row, a_column, panels, panel, 0, c, c_at, c_row, depth, used, add)
            else:
                _tile1(a, a_at, a_row, a_column, panels, panel, 0, c, c_at, c_row, depth, used, add)
            a_at += height * a_row
            c_at += height * c_row
            left -= height
        panel += panel_size
        column += width


@functools.cache
def _link_product(a: types.Type, panels: types.Type, c: types.Type) -> tuple[str, tuple[types.Type, ...]]:
    """Compile ``_product`` for three types of elements, or load it: the symbol of its code, and its arguments."""
    size = types.intp
    arguments = (
        *(types.CPointer(a), size, size, size),
        *(types.CPointer(panels), size, size),
        *(types.CPointer(c), size, size, types.boolean),
    )
    _product.compile(arguments)
    compiled, name = _product.overloads[arguments], f"minirnn_product_{a}_{panels}_{c}"
    llvm.add_symbol(name, compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))
    return name, arguments


def _make_multiply(name: str, doc: str, add: bool) -> Any:
    def multiply(
        typing_context, a, a_at, a_row, a_column, rows, panels, panels_at, panel_size, depth, c, c_at, c_row, columns
    ):
        elements, size = (a.dtype, panels.dtype, c.dtype), types.intp
        symbol, arguments = _link_product(*elements)

        def generate(context, builder, signature, args):
            def pointer(number):
                array = context.make_array(signature.args[number])(context, builder, args[number])
                return builder.gep(array.data, [args[number + 1]])

            function_type = context.call_conv.get_function_type(types.none, arguments)
            function = cgutils.get_or_insert_function(builder.module, function_type, symbol)
            values = [pointer(0), *args[2:5], pointer(5), *args[7:9], pointer(9), *args[11:], cgutils.bool_t(add)]
            context.call_conv.call_function(builder, function, types.none, arguments, values)
            # a kernel from the cache needs the symbol before it is loaded
            context.active_code_library._reload_init.add(functools.partial(_link_product, *elements))
            return context.get_dummy_value()

        return types.void(a, size, size, size, size, panels, size, size, size, c, size, size, size), generate

    multiply.__name__, multiply.__doc__ = name, doc  # the cache tells intrinsics by their names
    return intrinsic(multiply)


multiply_add = _make_multiply(
    "multiply_add",
    """C[rows, columns] += A[rows, depth] B[depth, columns], positions and strides in elements.

    Args:
        a: A[r, k] is its element ``a_at + r * a_row + k * a_column``.
        panels: packed B; panel p begins at ``panels_at + p * panel_size``.
        c: C[r, j] is its element ``c_at + r * c_row + j``.
    """,
    add=True,
)
multiply = _make_multiply("multiply", "C = A B, else as :func:`multiply_add`.", add=False)


def _multiply_add_plain(a, a_at, a_row, a_column, rows, panels, panels_at, panel_size, depth, c, c_at, c_row, columns):
    """:func:`multiply_add` in NumPy."""
    if not (rows and depth and columns):
        return
    width = panel_width(panels)
    count = -(-columns // width)
    left = _window(a, a_at, (rows, depth), (a_row, a_column))
    right = _window(panels, panels_at, (count, depth, width), (panel_size, width, 1))
    if panels.dtype == np.uint32:
        left, right = bfloat16.unpack(left), bfloat16.unpack(right)
    elif panels.dtype == np.uint16:
        words = np.ascontiguousarray(right).view(np.uint32)
        right = np.concatenate([words & bfloat16.HIGH, words << 16], axis=2).view(np.float32)
    target = _window(c, c_at, (rows, columns), (c_row, 1))
    target += np.concatenate([left @ panel for panel in right], axis=1)[:, :columns]


def _multiply_plain(a, a_at, a_row, a_column, rows, panels, panels_at, panel_size, depth, c, c_at, c_row, columns):
    """:func:`multiply` in NumPy."""
    if rows and columns:
        _window(c, c_at, (rows, columns), (c_row, 1))[:] = 0
    _multiply_add_plain(a, a_at, a_row, a_column, rows, panels, panels_at, panel_size, depth, c, c_at, c_row, columns)


if DISABLED:
    multiply, multiply_add = _multiply_plain, _multiply_add_plain


def _make_multiply_bfloat16(multiply: Any) -> Any:
    @jit(inline=True)
    def multiply_bfloat16(
        a, a_at, a_row, a_column, rows, panels, panels_at, panel_size, depth, c, c_at, c_row, columns
    ):
        """``multiply`` of float32 rows, which are rounded to bfloat16 first, and packed pairs.

        Positions and ``depth`` count elements, not pairs; ``a_column`` is 1, ``panel_size`` is not used, and
        ``panels_at`` even.
        """
        pairs, panel_size = (depth + 1) // 2, panels.shape[1] * panels.shape[2]
        words = np.empty(rows * pairs, np.uint32)
        pair_within_rows(a.reshape(a.size).view(np.uint32), a_at, a_row, rows, depth, words, 0)
        multiply(words, 0, pairs, 1, rows, panels, panels_at // 2, panel_size, pairs, c, c_at, c_row, columns)

    return multiply_bfloat16


multiply_bfloat16, multiply_add_bfloat16 = _make_multiply_bfloat16(multiply), _make_multiply_bfloat16(multiply_add)


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
    block = 16  # rows of b, read along their length
    first, last = chunk_of(count, thread_id, num_threads)
    for k0 in range(0, depth, block):
        for p in range(first, last):
            start = p * width
            used = min(width, columns - start)
            for k in range(k0, min(k0 + block, depth)):
                for j in range(used):
                    panels[p, k, j] = b[k, np.uintp(start + j)]  # uintp: a sign check would keep the loop scalar
                for j in range(used, width):
                    panels[p, k, np.uintp(j)] = 0


@intrinsic
def _transpose(typing_context, source, at, row, target, to, width):
    """target[to + k * width + j] = source[at + j * row + k], for as many j and k as a vector has lanes."""
    size = types.intp

    def generate(context, builder, signature, args):
        kind = signature.args[0].dtype
        lanes, scalar = vector_bytes() // (kind.bitwidth // 8), context.get_data_type(kind)
        vector, index = ir.VectorType(scalar, lanes), ir.IntType(64)
        source, at, row, target, to, width = args

        def vector_at(array_type, array, start, step, number):
            data = context.make_array(array_type)(context, builder, array).data
            offset = builder.add(start, builder.mul(ir.Constant(index, number), step))
            return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())

        rows = [builder.load(vector_at(signature.args[0], source, at, row, j)) for j in range(lanes)]
        for load in rows:
            load.align = kind.bitwidth // 8
        numbers = [number for pair in range(lanes) for number in (pair, lanes + pair)]
        mixes = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), numbers[k : k + lanes]) for k in (0, lanes)]
        for _ in range(lanes.bit_length() - 1):  # both halves interleaved log2(lanes) times
            pairs = list(zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True))
            rows = [builder.shuffle_vector(*pair, mix) for pair in pairs for mix in mixes]
        for k, column in enumerate(rows):
            builder.store(column, vector_at(signature.args[3], target, to, width, k)).align = kind.bitwidth // 8
        return context.get_dummy_value()

    return types.void(source, size, size, target, size, size), generate


def _transpose_plain(source, at, row, target, to, width):
    """:func:`_transpose` in NumPy."""
    lanes = vector_bytes() // source.itemsize
    _window(target, to, (lanes, lanes), (width, 1))[:] = _window(source, at, (lanes, lanes), (row, 1)).T


if DISABLED:
    _transpose = _transpose_plain


@jit
def pack_columns(thread_id, num_threads, b, panels):
    """Pack the transpose of b [columns, depth]: panels[p, k, j] = b[p * width + j, k]."""
    count, depth, width = panels.shape
    lanes = width // VECTORS
    first, last = chunk_of(count, thread_id, num_threads)
    for p in range(first, last):
        start = p * width
        used = min(width, b.shape[0] - start)
        if used < width:
            panels[p] = 0
        if min(used, depth) < lanes:
            for k in range(depth):
                for j in range(used):
                    panels[p, k, np.uintp(j)] = b[np.uintp(start + j), k]
            continue
        for k0 in range(0, depth, lanes):
            k = min(k0, depth - lanes)  # the last square overlaps the one before
            for j0 in range(0, used, lanes):
                j = min(j0, used - lanes)
                _transpose(b, (start + j) * depth + k, depth, panels, (p * depth + k) * width + j, width)


def pack(b: np.ndarray, transposed: bool, to_bfloat16: bool = False) -> np.ndarray:
    """Packed panels of ``b`` [depth, columns], or of its transpose when ``b`` is [columns, depth].

    ``to_bfloat16``: of pairs of bfloat16, for float32 ``b``.
    """
    if to_bfloat16:
        b = bfloat16.pairs(b, transposed)
    columns, depth = b.shape if transposed else b.shape[::-1]
    panels, b = empty_panels(depth, columns, b.dtype), np.ascontiguousarray(b)
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
                words[p, k, np.uintp(j)] = pair(lower, upper)


def pack_bfloat16(weight: np.ndarray) -> np.ndarray:
    """Packed panels of the transpose of ``weight`` [columns, depth] in bfloat16, stored as uint16.

    A word of 32 bits holds two numbers whose columns are half a panel apart, the first in its upper half: one mask and
    one shift expand it.
    """
    panels = pack(weight, True).view(np.uint32)
    words = memory.empty((*panels.shape[:2], panels.shape[2] // 2), np.uint32)
    threads.run(_round_panels, 8.0 * panels.size, len(panels), panels, words)
    return words.view(np.uint16)
