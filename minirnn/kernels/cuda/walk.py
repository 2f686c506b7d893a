"""The recurrent loop on the card: one launch walks a whole layer in one direction, forward or back.

A block owns ``units`` outputs of ``rows`` sequences, and keeps as much of those outputs' weights in shared memory as
fits, for all steps; the rest is read from global memory in the same order. On the path "block" it owns all outputs,
so that nothing but the block itself has to wait for a step. On the path "grid" outputs are spread over the
multiprocessors, what they feed to one another goes through global memory, and the whole grid meets once a step.

The product of a step is cut in three: ``parts`` of the depth, tiles of ``tile`` rows, ``lanes`` of four columns. A
thread adds up a part of a tile of a lane in registers; the parts are added in order, so numbers are the same in
every run. Offsets into shared memory and into packed weights are in quads, four elements: those, aligned, are what
a thread reads at once. Shapes: S packed rows, N sequences, G gates, H hidden, P projected (else P = H).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype

from minirnn.kernels.cuda import device
from minirnn.kernels.cuda.device import (
    SIMULATOR,
    DeviceArray,
    asarray,
    copy_quad,
    cuda,
    device_function,
    empty,
    kernel,
    launch,
)
from minirnn.kernels.cuda.planning import WARP, Limits, Plan, plan, quads
from minirnn.kernels.cuda.strided import overwrite
from minirnn.kernels.pointwise import lstm_h
from minirnn.kernels.steps import Steps

_ALWAYS_SHARED = 48 * 1024  # bytes of shared memory that a kernel need not ask for


# ----------------------------------------------------------------------------------------------------- starting


def resident_kernel(function: Callable) -> Any:
    """A kernel of which as many threads as :class:`Limits` names find room for their registers."""
    return kernel(function, max_registers=128)


@kernel
def _probe(out: Any) -> None:
    room = cuda.shared.array(0, np.float32)
    room[0] = out[0]
    out[0] = room[0]


def _ask_for_shared(started: Any, args: tuple, nbytes: int) -> None:
    """Have the driver allow ``nbytes`` of shared memory to a kernel, which is compiled for that."""
    compiled = started.compile(tuple(started.typeof_pyval(arg) for arg in args))
    function = compiled._codelibrary.get_cufunc()
    driver = cuda.cudadrv.driver
    attribute = driver.binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    if isinstance(function.handle, driver.binding.CUkernel):
        driver.driver.cuKernelSetAttribute(attribute, nbytes, function.handle, function.device.id)
    else:  # older versions of numba-cuda, whose handles must not go where a CUkernel belongs
        driver.driver.cuFuncSetAttribute(function.handle, attribute, nbytes)


@functools.cache
def limits() -> Limits:
    """Those of the current card; the simulator is a card of two multiprocessors whose grid cannot wait for itself."""
    if SIMULATOR:
        return Limits(2, 16 * 1024, 4, False)
    card = cuda.get_current_device()
    shared = card.MAX_SHARED_MEMORY_PER_BLOCK
    try:
        _ask_for_shared(_probe, (empty((1,), np.float32).raw,), card.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        shared = card.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    except Exception:  # another version of numba-cuda, which hides its kernels' handles otherwise: less has to do
        pass
    return Limits(card.MULTIPROCESSOR_COUNT, shared, 512, bool(card.COOPERATIVE_LAUNCH))


_asked: set[Any] = set()


def start(started: Any, planned: Plan, *args: Any) -> None:
    """Start a kernel of one signature, as planned; arrays are kept until it has been started."""
    if planned.shared_bytes > _ALWAYS_SHARED and not SIMULATOR and started not in _asked:
        raw = tuple(arg.raw if isinstance(arg, DeviceArray) else arg for arg in args)
        _ask_for_shared(started, raw, limits().shared_bytes)
        _asked.add(started)
    device.start(started, planned.blocks, planned.threads, planned.shared_bytes, args)


_layouts: dict[int, tuple[DeviceArray, DeviceArray]] = {}


def layout(steps: Steps) -> tuple[DeviceArray, DeviceArray]:
    """``starts`` and ``previous`` on the card, brought there once."""
    found = _layouts.get(id(steps))
    if found is None:
        found = _layouts[id(steps)] = asarray(steps.starts), asarray(steps.previous)
        weakref.finalize(steps, _layouts.pop, id(steps), None)
    return found


@device_function
def parted(i: int, n: int) -> Any:
    """i // n and i % n of numbers from 0 to 2^32 - 1: larger or negative ones take a card far longer.

    For the same reason loops of a step count with ``while``: ``range`` divides to know how often it goes round.
    """
    a, b = np.uint32(i), np.uint32(n)
    return np.int64(a // b), np.int64(a % b)


@kernel
def _pack(weight: Any, gates: int, units: int, transpose: bool, depth: int, columns: int, out: Any, at: int) -> None:
    inputs, size = weight.shape[1], weight.shape[0] // gates
    for i in range(cuda.grid(1), out.shape[0] * depth * columns, cuda.gridsize(1)):
        row, column = parted(i, columns)
        block, k = parted(row, depth)
        unit, gate = parted(column, gates)
        unit += block * units
        value = weight.dtype.type(0)
        if transpose and column < units * gates and unit < size and k < inputs:
            value = weight[gate * size + unit, k]
        if not transpose and column < units and block * units + column < inputs and k < weight.shape[0]:
            value = weight[k, block * units + column]
        out[block, at + k * columns + column] = value


def pack(
    weight: DeviceArray, gates: int, units: int, transpose: bool, out: DeviceArray | None = None, at: int = 0
) -> DeviceArray:
    """The right-hand side of a product, by blocks of ``units`` outputs: [blocks, depth * columns], in whole quads.

    With ``transpose`` outputs are the units of ``weight`` [G H, P], each with its gates beside one another, and the
    sum runs over P; else outputs are the P columns, ``gates`` is 1, and the sum runs over the rows.

    Args:
        out: [blocks, ...], filled from place ``at`` of each block; a new array where there is none.
    """
    rows, inputs = weight.shape
    outputs, depth = (rows // gates, inputs) if transpose else (inputs, rows)
    depth, columns = 4 * quads(depth), 4 * quads(units * gates)
    if out is None:
        out = empty((-(-outputs // units), depth * columns), weight.dtype)
    launch(_pack, out.shape[0] * depth * columns, weight, gates, units, transpose, depth, columns, out, at)
    return out


# ----------------------------------------------------------------------------------------------- in the kernels


@device_function
def rows_of_step(starts: Any, step: int, backwards: bool, first: int, last: int) -> Any:
    """First packed row of this block, and how many of its sequences are there, at the ``step``-th step of the walk."""
    t = starts.size - 2 - step if backwards else step
    begin = starts[t]
    return begin + first, max(0, min(last, starts[t + 1] - begin) - first)


@device_function
def clear(thread: int, threads: int, room: Any, first: int, last: int) -> None:
    """Zeros in the quads ``first`` to ``last - 1``."""
    for i in range(4 * first + thread, 4 * last, threads):
        room[i] = 0


@device_function
def hold(thread: int, threads: int, room: Any, at: int, weights: Any, weights_at: int, count: int) -> None:
    """``count`` quads of the packed weights, kept from ``at`` on."""
    i = thread
    while i < count:
        for k in range(8):  # all eight on their way at the same time
            if i + k * threads < count:
                copy_quad(room, 4 * (at + i + k * threads), weights, 4 * (weights_at + i + k * threads))
        i += 8 * threads


@device_function
def bring(thread: int, room: Any, to: int, source: Any, row: int, first: int, last: int) -> None:
    """The quads ``first`` to ``last - 1`` of a row of ``source``, to the quad ``to`` and on, by a warp's threads."""
    width = source.shape[1]
    if width % 4 == 0:  # rows begin with a quad
        k = first + thread % WARP
        while k < last:
            copy_quad(room, 4 * (to + k - first), source, row * width + 4 * k)
            k += WARP
    else:
        k = 4 * first + thread % WARP
        while k < min(4 * last, width):
            room[np.uintp(4 * (to - first) + k)] = source[row, np.uintp(k)]
            k += WARP


@functools.cache
def make_multiply(tile: int) -> Any:
    """The product of all threads of a block, tiles of ``tile`` rows."""

    @device_function
    def add_quad(sums: Any, x: Any, x_at: int, stride: int, weights: Any, at: int, lanes: int) -> None:
        """sums [tile, 4] += x [tile, 4] times weights [4, 4], which pass through the last rows of ``sums``."""
        one, two, three = np.uintp(1), np.uintp(2), np.uintp(3)  # unsigned: no check for indices from the end
        for i in range(4):
            copy_quad(sums, 4 * (tile + i), weights, 4 * (at + i * lanes))
        for r in range(tile):
            k = np.uintp(4 * (x_at + r * stride))
            x0, x1, x2, x3 = x[k], x[k + one], x[k + two], x[k + three]
            for column in range(4):
                total = sums[r, column]
                total += x0 * sums[tile, column]
                total += x1 * sums[tile + 1, column]
                total += x2 * sums[tile + 2, column]
                total += x3 * sums[tile + 3, column]
                sums[r, column] = total

    @device_function
    def multiply(
        thread: int, threads: int, sums: Any, room: Any, x_at: int, stride: int, active: int, held_at: int, held: int,
        weights: Any, weights_at: int, first: int, last: int, lanes: int, rows: int, parts: int, out_at: int,
    ) -> None:  # fmt: skip
        """room[out_at]: [parts, rows, lanes] quads, sums over the depth's quads ``first`` to ``last - 1``.

        Those up to ``held`` have their weights in ``room``, too. Sums go on from what is there, unless ``first`` is 0.
        """
        tiles = lanes * (rows // tile)
        item = thread
        while item < tiles * parts:
            part, place = parted(item, tiles)
            row, lane = parted(place, lanes)
            row *= tile
            item += threads
            if row < active:
                out = out_at + (part * rows + row) * lanes + lane
                for r in range(tile):
                    for c in range(4):
                        if first == 0:
                            sums[r, c] = 0
                        else:
                            sums[r, c] = room[np.uintp(4 * (out + r * lanes) + c)]
                x = x_at + row * stride - first
                k = first + part
                while k < min(held, last):
                    add_quad(sums, room, x + k, stride, room, held_at + 4 * k * lanes + lane, lanes)
                    k += parts
                while k < last:
                    add_quad(sums, room, x + k, stride, weights, weights_at + 4 * k * lanes + lane, lanes)
                    k += parts
                for r in range(tile):
                    for c in range(4):
                        room[np.uintp(4 * (out + r * lanes) + c)] = sums[r, c]

    return multiply


@device_function
def totals(values: Any, room: Any, at: int, lanes: int, rows: int, parts: int, row: int, column: int) -> None:
    """Neighbouring numbers of a product, as many as ``values`` has room for: their parts, added in order."""
    place, step = np.uintp(4 * (at + row * lanes) + column), np.uintp(4 * rows * lanes)
    for i in range(values.size):
        values[i] = room[place + np.uintp(i)]
    for _ in range(1, parts):
        place += step
        for i in range(values.size):
            values[i] += room[place + np.uintp(i)]


@device_function
def total(room: Any, at: int, lanes: int, rows: int, parts: int, row: int, column: int) -> Any:
    """One number of a product."""
    place, step = np.uintp(4 * (at + row * lanes) + column), np.uintp(4 * rows * lanes)
    value = room[place]
    for _ in range(1, parts):
        place += step
        value += room[place]
    return value


@functools.cache
def make_forward(cell: Callable, gate_count: int, dtype: Any, tile: int, spread: bool, projected: bool) -> Any:
    """The walk forward of a cell.

    ``cell(x, u, bias_n, gates, extra, h, s, p, n, j)`` is one unit of one step: from the input part x [G] and the
    recurrent part u [G] of its pre-activations to its h; it leaves in ``gates`` and ``extra`` what the way back needs.
    s is the packed row, p and n are the state's rows before and after, j is the unit.
    """
    multiply, height = make_multiply(tile), tile + 4

    @device_function
    def take(x: Any, gates: Any, table: Any, tokens: Any, s: Any, j: Any) -> None:
        for g in range(gate_count):
            x[g] = table[tokens[s], g, j] if tokens.size > 0 else gates[s, g, j]

    @resident_kernel
    def forward(
        gates: Any, table: Any, tokens: Any, weights: Any, projection: Any, bias_n: Any, starts: Any, previous: Any,
        reverse: bool, h: Any, extra: Any, units: int, rows: int, parts: int, chunk: int, held: int,
    ) -> None:  # fmt: skip
        room = cuda.shared.array(0, dtype) if SIMULATOR else cuda.shared.array(0, dtype, alignment=16)
        sums = cuda.local.array((height, 4), dtype)
        x, u = cuda.local.array(gate_count, dtype), cuda.local.array(gate_count, dtype)
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        size, width, batch = gates.shape[2], h.shape[1], h.shape[0] - gates.shape[0]
        unit = cuda.blockIdx.x * units
        own = min(units, size - unit)
        first = cuda.blockIdx.y * rows
        last = min(first + rows, batch)
        depth, lanes, stride = (width + 3) // 4, (units * gate_count + 3) // 4, chunk + 1
        p_depth, p_lanes = (size + 3) // 4, (width + 3) // 4  # of the projection
        sums_at = rows * stride
        hidden_at = sums_at + parts * rows * (max(lanes, p_lanes) if projected else lanes)
        hidden_stride = p_depth + 1
        held_at = hidden_at + (rows * hidden_stride if projected else 0)
        weights_at = cuda.blockIdx.x * 4 * depth * lanes

        clear(thread, threads, room, 0, sums_at)
        clear(thread, threads, room, hidden_at, held_at)
        hold(thread, threads, room, held_at, weights, weights_at, 4 * held * lanes)
        cuda.syncthreads()
        if not spread:
            for r in range(last - first):
                for j in range(thread, width, threads):
                    room[4 * r * stride + j] = h[first + r, j]
        cuda.syncthreads()
        for step in range(starts.size - 1):
            begin, active = rows_of_step(starts, step, reverse, first, last)
            if thread < active * own:  # on its way while the product is made
                r, j = parted(thread, own)
                take(x, gates, table, tokens, np.uintp(begin + r), np.uintp(unit + j))
            at = 0
            while at < depth:
                end = min(at + chunk, depth)
                if spread:
                    r = thread // WARP
                    while r < active:
                        bring(thread, room, r * stride, h, previous[begin + r], at, end)
                        r += threads // WARP
                    cuda.syncthreads()
                multiply(
                    thread, threads, sums, room, 0, stride, active, held_at, held, weights, weights_at, at, end, lanes,
                    rows, parts, sums_at,
                )  # fmt: skip
                cuda.syncthreads()
                at = end
            i = thread
            while i < active * own:
                r, j = parted(i, own)
                s, n, mine = np.uintp(begin + r), np.uintp(batch + begin + r), np.uintp(unit + j)
                if i >= threads:
                    take(x, gates, table, tokens, s, mine)
                totals(u, room, sums_at, lanes, rows, parts, r, j * gate_count)
                value = cell(x, u, bias_n, gates, extra, h, s, np.uintp(previous[s]), n, mine)
                if projected:
                    room[np.uintp(4 * (hidden_at + r * hidden_stride) + j)] = value
                else:
                    h[n, mine] = value
                    if not spread:
                        room[np.uintp(4 * r * stride + j)] = value
                i += threads
            if projected:
                cuda.syncthreads()
                multiply(
                    thread, threads, sums, room, hidden_at, hidden_stride, active, 0, 0, projection, 0, 0, p_depth,
                    p_lanes, rows, parts, sums_at,
                )  # fmt: skip
                cuda.syncthreads()
                for i in range(thread, active * width, threads):
                    r, j = i // width, i % width
                    value = total(room, sums_at, p_lanes, rows, parts, r, j)
                    h[batch + begin + r, j] = value
                    room[4 * r * stride + j] = value
            if spread:
                cuda.cg.this_grid().sync()
            else:
                cuda.syncthreads()

    return forward


@functools.cache
def make_backward(cell: Callable, gate_count: int, dtype: Any, tile: int, spread: bool, projected: bool) -> Any:
    """The walk back of a cell.

    ``cell(dh, fed, gates, extra, dc, h, s, r, p, n, j)`` is one unit of one step: it turns ``gates`` (and the GRU's
    ``extra``) into gradients, writes to fed [G] the gradients of the recurrent products, and returns the part of dh
    that goes to the step before past them. r is the sequence; the other numbers are as in :func:`make_forward`.
    """
    multiply, height = make_multiply(tile), tile + 4

    @resident_kernel
    def backward(
        gates: Any, weights: Any, projection: Any, starts: Any, previous: Any, reverse: bool, h: Any, extra: Any,
        dy: Any, dh: Any, dc: Any, exchange: Any, dprojected: Any, hidden: Any, units: int, rows: int, parts: int,
        chunk: int, held: int,
    ) -> None:  # fmt: skip
        room = cuda.shared.array(0, dtype) if SIMULATOR else cuda.shared.array(0, dtype, alignment=16)
        sums = cuda.local.array((height, 4), dtype)
        fed = cuda.local.array(gate_count, dtype)
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        size, width, batch = gates.shape[2], dh.shape[1], dh.shape[0]
        unit = cuda.blockIdx.x * units
        own = min(units, size - unit)
        outputs = width if projected else own
        first = cuda.blockIdx.y * rows
        last = min(first + rows, batch)
        depth, stride = (gate_count * size + 3) // 4, chunk + 1
        lanes = ((width if projected else units) + 3) // 4
        p_depth, p_lanes = (width + 3) // 4, (size + 3) // 4  # of the projection
        sums_at = rows * stride
        dh_at = sums_at + parts * rows * (max(lanes, p_lanes) if projected else lanes)
        dh_stride = lanes + 1
        held_at = dh_at + rows * dh_stride
        weights_at = cuda.blockIdx.x * 4 * depth * lanes

        clear(thread, threads, room, 0, sums_at)
        clear(thread, threads, room, dh_at, held_at)
        hold(thread, threads, room, held_at, weights, weights_at, 4 * held * lanes)
        cuda.syncthreads()
        for i in range(thread, max(0, last - first) * outputs, threads):
            r, j = i // outputs, i % outputs
            room[4 * (dh_at + r * dh_stride) + j] = dh[first + r, unit + j]
        for step in range(starts.size - 1):
            begin, active = rows_of_step(starts, step, not reverse, first, last)
            if dy.size > 0:
                i = thread
                while i < active * outputs:
                    r, j = parted(i, outputs)
                    room[np.uintp(4 * (dh_at + r * dh_stride) + j)] += dy[np.uintp(begin + r), np.uintp(unit + j)]
                    i += threads
            if projected:
                cuda.syncthreads()
                for i in range(thread, active * width, threads):
                    r, j = parted(i, width)
                    dprojected[begin + r, j] = room[4 * (dh_at + r * dh_stride) + j]
                multiply(
                    thread, threads, sums, room, dh_at, dh_stride, active, 0, 0, projection, 0, 0, p_depth, p_lanes,
                    rows, parts, sums_at,
                )  # fmt: skip
                cuda.syncthreads()
            i = thread
            while i < active * own:
                r, j = parted(i, own)
                s, n, mine = np.uintp(begin + r), np.uintp(batch + begin + r), np.uintp(unit + j)
                place = np.uintp(4 * (dh_at + r * dh_stride) + j)
                if projected:
                    value = total(room, sums_at, p_lanes, rows, parts, r, j)
                    hidden[s, mine] = lstm_h(gates[s, 3, mine], extra[n, mine])
                else:
                    value = room[place]
                kept = cell(value, fed, gates, extra, dc, h, s, np.uintp(first + r), np.uintp(previous[s]), n, mine)
                if not projected:
                    room[place] = kept
                for g in range(gate_count):
                    if spread:
                        exchange[np.uintp(step % 2 * batch + first + r), np.uintp(g * size + unit + j)] = fed[g]
                    else:
                        room[np.uintp(4 * r * stride + g * size + j)] = fed[g]
                i += threads
            if spread:
                cuda.cg.this_grid().sync()
            else:
                cuda.syncthreads()
            at = 0
            while at < depth:
                end = min(at + chunk, depth)
                if spread:
                    r = thread // WARP
                    while r < active:
                        bring(thread, room, r * stride, exchange, step % 2 * batch + first + r, at, end)
                        r += threads // WARP
                    cuda.syncthreads()
                multiply(
                    thread, threads, sums, room, 0, stride, active, held_at, held, weights, weights_at, at, end, lanes,
                    rows, parts, sums_at,
                )  # fmt: skip
                cuda.syncthreads()
                at = end
            i = thread
            while i < active * outputs:
                r, j = parted(i, outputs)
                place = np.uintp(4 * (dh_at + r * dh_stride) + j)
                value = total(room, sums_at, lanes, rows, parts, r, j)
                room[place] = value if projected else room[place] + value
                i += threads
        for i in range(thread, max(0, last - first) * outputs, threads):
            r, j = i // outputs, i % outputs
            dh[first + r, unit + j] = room[4 * (dh_at + r * dh_stride) + j]

    return backward


# ----------------------------------------------------------------------------------------------- from the host


def with_initial(initial: DeviceArray, rows: int) -> DeviceArray:
    """States [N + S, H] of which the first N are filled."""
    batch, size = initial.shape
    states = empty((batch + rows, size), initial.dtype)
    overwrite(states.view(0, initial.shape), initial)
    return states


def _by_gate(x: DeviceArray, size: int) -> DeviceArray:
    """[S, G H] as [S, G, H]."""
    return x.reshape(x.shape[0], x.shape[1] // size, size)


def forward(
    cell: Callable, gates: DeviceArray, table: DeviceArray | None, tokens: Any, weight_hh: DeviceArray,
    weight_hr: DeviceArray | None, bias_n: DeviceArray | None, h_0: DeviceArray, extra: DeviceArray | None,
    steps: Steps,
) -> DeviceArray:  # fmt: skip
    """Run a layer of any cell; returns h [N + S, P]. Arguments as the cells' own functions have them."""
    dtype, (batch, width) = gates.dtype, h_0.shape
    h = with_initial(h_0, gates.shape[0])
    if not gates.size:
        return h
    extra = h if extra is None else extra
    size = extra.shape[1]
    count = gates.shape[1] // size
    if table is None or tokens is None:
        table, tokens = empty((0, count * size), dtype), empty((0,), np.int64)
    planned = plan(size, batch, count, dtype.itemsize, limits(), projected=0 if weight_hr is None else width)
    weights = pack(weight_hh, count, planned.units, True)
    projection = empty((0,), dtype) if weight_hr is None else pack(weight_hr, 1, width, True)
    bias_n = empty((0,), dtype) if bias_n is None else bias_n
    starts, previous = layout(steps)
    started = make_forward(cell, count, from_dtype(dtype), planned.tile, planned.path == "grid", weight_hr is not None)
    start(
        started, planned, _by_gate(gates, size), _by_gate(table, size), asarray(tokens), weights.flat,
        projection.flat, bias_n, starts, previous, steps.reverse, h, extra, planned.units,
        planned.rows, planned.parts, planned.chunk, planned.held,
    )  # fmt: skip
    return h


def backward(
    cell: Callable, gates: DeviceArray, weight_hh: DeviceArray, projection: tuple[DeviceArray, ...] | None,
    h: DeviceArray, extra: DeviceArray | None, dy: DeviceArray | None, dh: DeviceArray, dc: DeviceArray | None,
    steps: Steps,
) -> None:  # fmt: skip
    """Walk a layer of any cell back: ``gates``, ``extra``, ``dh`` and ``dc`` become gradients.

    Args:
        projection: weight_hr [P, H], and room for the gradients of its results [S, P] and for what it takes [S, H].
    """
    if not gates.size:
        return
    dtype, (batch, width) = gates.dtype, dh.shape
    extra = h if extra is None else extra
    size = extra.shape[1]
    count = gates.shape[1] // size
    planned = plan(size, batch, count, dtype.itemsize, limits(), True, width if projection else 0)
    spread = planned.path == "grid"
    weights = pack(weight_hh, 1, width if projection else planned.units, False)
    exchange = empty((2 * batch, count * size) if spread else (0, 0), dtype)
    none = empty((0, 0), dtype)
    weight_hr, dprojected, hidden = projection or (none, none, none)
    packed = pack(weight_hr, 1, size, False) if projection else none
    starts, previous = layout(steps)
    started = make_backward(cell, count, from_dtype(dtype), planned.tile, spread, projection is not None)
    start(
        started, planned, _by_gate(gates, size), weights.flat, packed.flat, starts, previous, steps.reverse,
        h, extra, (none if dy is None else dy), dh, (none if dc is None else dc), exchange,
        dprojected, hidden, planned.units, planned.rows, planned.parts, planned.chunk, planned.held,
    )  # fmt: skip
