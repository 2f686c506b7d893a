"""The recurrent loop on the card: one launch walks a whole layer in one direction, forward or back.

A block owns ``units`` outputs of ``rows`` sequences for all steps. On the path "block" it owns all outputs, so that
nothing but the block itself has to wait for a step. On the path "grid" outputs are spread over the multiprocessors,
what they feed to one another goes through global memory, and the whole grid meets once a step. What a block keeps and
how it multiplies is in :mod:`minirnn.kernels.cuda.resident`.

Shapes: S packed rows, N sequences, G gates, H hidden, P projected (else P = H).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype

from minirnn.kernels.cuda.device import DeviceArray, asarray, empty
from minirnn.kernels.cuda.jit import SIMULATOR, cuda, device_function
from minirnn.kernels.cuda.planning import WARP, plan
from minirnn.kernels.cuda.resident import (
    bring,
    clear,
    hold,
    limits,
    make_multiply,
    pack,
    parted,
    resident_kernel,
    start,
    total,
    totals,
)
from minirnn.kernels.cuda.strided import overwrite
from minirnn.kernels.pointwise import lstm_h
from minirnn.kernels.steps import Steps

_layouts: dict[int, tuple[DeviceArray, DeviceArray]] = {}


def layout(steps: Steps) -> tuple[DeviceArray, DeviceArray]:
    """``starts`` and ``previous`` on the card, brought there once."""
    found = _layouts.get(id(steps))
    if found is None:
        found = _layouts[id(steps)] = asarray(steps.starts), asarray(steps.previous)
        weakref.finalize(steps, _layouts.pop, id(steps), None)
    return found


@device_function
def rows_of_step(starts: Any, step: int, backwards: bool, first: int, last: int) -> Any:
    """First packed row of this block, and how many of its sequences are there, at the ``step``-th step of the walk."""
    t = starts.size - 2 - step if backwards else step
    begin = starts[t]
    return begin + first, max(0, min(last, starts[t + 1] - begin) - first)


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
        sums = cuda.local.array((height, 4), dtype) if SIMULATOR else cuda.local.array((height, 4), dtype, alignment=16)
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
                    r, j = parted(i, width)
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
        sums = cuda.local.array((height, 4), dtype) if SIMULATOR else cuda.local.array((height, 4), dtype, alignment=16)
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
